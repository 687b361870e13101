"""Everything that a run holds besides the training itself: figures, predictions, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from trainer.data.dataset import Dataset
from trainer.data.partial_labels import PartialLabels
from trainer.data.split import Split
from trainer.evaluation.decision_rule import HeldOut, fit_decision_rule
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.examples import Examples, choose_examples, pool_examples, take_examples
from trainer.evaluation.importance import FILE as IMPORTANCE
from trainer.evaluation.importance import Importance, measure_importance, pool_importance
from trainer.evaluation.partial_labels import (
    call_partial,
    partial_figures,
    read_calls,
    write_calls,
)
from trainer.evaluation.predictions import (
    Predictions,
    figures,
    pool,
    read_predictions,
    short_figures,
)
from trainer.evaluation.saliency import method_of
from trainer.evaluation.selective import Targets, refusals, tumour_free_of
from trainer.models.trained import TrainedModel, kind_of
from trainer.report.html import ReportData, write_report
from trainer.run import Run, dump_json

CALIBRATION_IMAGES = 1024
PARTIAL_TABLE = "partial.csv"


def finalize_run(
    run: Run,
    trained: TrainedModel,
    data: Dataset,
    split: Split,
    partial: PartialLabels | None = None,
) -> None:
    """Complete a run that holds its model. The test side is looked at here only.

    Args:
        trained: the run's model.
        partial: partially labelled slices that were not learned from, or None.
    """
    held = data.take(split.validation)
    chosen = np.random.default_rng(run.settings["seed"]).permutation(split.train)
    calibration = data.take(np.sort(chosen[:CALIBRATION_IMAGES]))
    run.save_images("validation", held)
    run.save_images("calibration", calibration)

    look, classical = trained.look, trained.classical
    if classical is None:
        features, held_seen = None, look(held.images)
    else:
        features = classical.extractor(held.images)
        held_seen = classical.model.observe(features)
    targets = Targets.from_settings(run.settings)
    decision_rule = fit_decision_rule(
        look,
        run.calibration(),
        HeldOut(held_seen, held.labels, held.groups),
        data.class_names,
        run.preprocess,
        targets,
        tumour_free_of(run.settings),
    )
    run.settings |= decision_rule.to_settings() | {
        "targets": targets.to_json(),  # a run of an older version has none
        "heatmap": method_of(trained.network),
        "not_answered": refusals(decision_rule.chosen),
        "version": run.version,
    }
    measure = Evaluator(look, decision_rule, split.protocol, trained.network)
    beside = None if split.test.size else data.take(split.train)  # controls where it is reported
    validation, gallery = measure.side(held, "validation", beside, held_seen)
    outcome = validation
    if split.test.size:
        outcome, gallery = measure.side(
            data.take(split.test), "test", data.take(split.train_and_validation)
        )
    metrics = figures(outcome)
    metrics["selective"] |= {key: run.settings[key] for key in ("target_error", "confidence")}
    metrics["partial"] = None
    if partial is not None and len(partial):
        calls = call_partial(partial, look, decision_rule, data.class_names)
        write_calls(run.folder / PARTIAL_TABLE, calls)
        metrics["partial"] = partial_figures(calls)
    if outcome is not validation:
        metrics["validation"] = short_figures(validation)
    importance = None
    if classical is not None and features is not None:
        importance = measure_importance(
            classical.model, classical.extractor.names, features, held, run.settings["seed"]
        )
    run.settings["data"] |= {
        "test_with_twin": int((outcome.numbers("twin") == 1).sum()) if split.test.size else None,
        "classes": count_classes(data, split),
    }
    _write(run, outcome, metrics, gallery, [run.history()], importance)


def unanswered(run: Run) -> list[str]:
    """A line for each class that a finished run's model never answers; those of a
    cross-validation's folds begin with the fold."""
    folds = range(1, (run.settings.get("folds") or 0) + 1)
    parts = [(f"fold-{n}: ", Run.open(run.folder / f"fold-{n}")) for n in folds] or [("", run)]
    return [
        f"{before}{line}"
        for before, part in parts
        for line in part.settings.get("not_answered") or ()
    ]


def count_classes(data: Dataset, split: Split) -> dict[str, dict[str, int]]:
    """Class -> how many of its slices are on each side of a split."""
    sides = {"training": split.train, "validation": split.validation, "test": split.test}
    return {
        name: {side: int((data.labels[rows] == c).sum()) for side, rows in sides.items()}
        for c, name in enumerate(data.class_names)
    }


def finalize_folds(run: Run, parts: Sequence[Run]) -> None:
    """Pool the out-of-fold predictions of a cross-validation into one run's figures.

    Raises:
        DataError: a fold of other classes or settings.
    """
    kinds = {(part.labels, kind_of(part.settings), part.settings["network"]) for part in parts}
    if len(kinds) != 1:
        raise DataError(f"{run.folder}: its folds do not belong together")
    first = parts[0]
    run.settings["labels"] = list(first.labels)
    run.settings["heatmap"] = first.settings["heatmap"]
    run.settings["features"] = first.settings.get("features")
    run.settings["seconds"] = round(sum(part.seconds for part in parts), 1)
    tested = [{n: c["test"] for n, c in p.settings["data"]["classes"].items()} for p in parts]
    run.settings["data"] |= {
        "test_with_twin": sum(part.settings["data"]["test_with_twin"] for part in parts),
        "classes": {
            name: {"training": None, "validation": None, "test": sum(t[name] for t in tested)}
            for name in first.labels
        },
    }
    outcomes = [
        read_predictions(part.folder / "predictions.csv", part.labels, "grouped", "test")
        for part in parts
    ]
    galleries = [Examples.read(part.folder / "gallery.npz") for part in parts]
    outcome = pool(outcomes)
    gallery = pool_examples(galleries, [len(o.table) for o in outcomes])
    confidence, groups = outcome.numbers("confidence"), outcome.texts("group")
    among = np.sort(gallery.rows)  # heatmaps exist only for the cases that the folds chose
    picked = choose_examples(
        outcome.labels[among], outcome.predicted[among], confidence[among],
        [groups[i] for i in among],
    )  # fmt: skip
    metrics = figures(outcome)
    asked = [{key: p.settings.get(key) for key in ("target_error", "confidence")} for p in parts]
    if all(each == asked[0] for each in asked):  # the lowest that is supported may differ
        metrics["selective"] |= asked[0]
    tables = [part.folder / PARTIAL_TABLE for part in parts]
    metrics["partial"] = None
    if all(table.is_file() for table in tables):
        calls = read_calls(tables)
        write_calls(run.folder / PARTIAL_TABLE, calls)
        metrics["partial"] = partial_figures(calls)
    each = [short_figures(part) for part in outcomes]
    metrics["folds"] = [{key: m[key] for key in ("n", "groups", "accuracy")} for m in each]
    measured = [part.folder / IMPORTANCE for part in parts]
    importance = None
    if all(path.is_file() for path in measured):
        importance = pool_importance([Importance.read(path) for path in measured])
    histories = [part.history() for part in parts]
    _write(run, outcome, metrics, take_examples(gallery, among[picked]), histories, importance)


def _write(
    run: Run,
    outcome: Predictions,
    metrics: dict[str, Any],
    gallery: Examples,
    histories: list[list[dict[str, float]]],
    importance: Importance | None,
) -> None:
    metrics["importance"] = None if importance is None else importance.figures()
    if importance is not None:
        importance.save(run.folder / IMPORTANCE)
    outcome.write(run.folder / "predictions.csv")
    write_text(run.folder / "metrics.json", dump_json(metrics))
    gallery.save(run.folder / "gallery.npz")
    write_report(
        ReportData(run.folder, run.settings, histories, outcome, metrics, gallery, importance)
    )
    run.save_settings()

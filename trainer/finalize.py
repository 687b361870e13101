"""Everything that a run holds besides the training itself: figures, predictions, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from trainer.data.archive import open_archive
from trainer.data.dataset import Dataset
from trainer.data.heads import Heads, persons_of, read_heads
from trainer.data.partial_labels import PartialLabels
from trainer.data.split import Split
from trainer.evaluation.decision_rule import DecisionRule, SideOutputs, fit_decision_rule
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.examples import FILE as EXAMPLES
from trainer.evaluation.examples import Examples, choose_examples, pool_examples, take_examples
from trainer.evaluation.importance import FILE as IMPORTANCE
from trainer.evaluation.importance import Importance, measure_importance, pool_importance
from trainer.evaluation.partial_predictions import (
    partial_metrics,
    predict_partial,
    read_partial_predictions,
    write_partial_predictions,
)
from trainer.evaluation.predictions import (
    Predictions,
    metrics_of,
    pool,
    read_predictions,
    short_metrics,
)
from trainer.evaluation.saliency import method_of
from trainer.evaluation.selective import Targets, tumour_free_of
from trainer.evaluation.study import FILE as HEADS
from trainer.evaluation.study import (
    TooFewHeads,
    collect_heads,
    fit_study_rule,
    known_series,
    patients_of,
    seen_planes,
    tumours_of,
)
from trainer.models.outputs import ModelOutputs, TrainedModel
from trainer.report.html import ReportData, write_report
from trainer.run import Run, dump_json

CALIBRATION_IMAGES = 1024
EACH_VIEW = 64  # of each known plane and sequence at least, where there are so many
PARTIAL_TABLE = "partial.csv"


def finalize_run(
    run: Run,
    trained: TrainedModel,
    data: Dataset,
    split: Split,
    partial: PartialLabels | None = None,
    heads: Heads | None = None,
) -> None:
    """Complete a run that holds its model. The test side is looked at here only.

    Args:
        trained: the run's model.
        partial: partially labelled slices that were not learned from, or None.
        heads: whole heads to fit the rule for studies on, or None; of a person on the training or
            the test side none is used.

    Raises:
        DataError: heads that cannot be read.
    """
    side = data.take(split.validation)
    _keep_slices(run, data, split)
    classical = trained.classical
    if classical is None:
        features, outputs = None, trained.predict(side.images)
    else:
        features = classical.extractor(side.images)
        outputs = classical.predict_features(features)
    rule = _fit_rule(run, trained, side, outputs)
    if heads is not None:
        _fit_studies(run, trained, rule, data, split, heads)
    evaluator = Evaluator(trained.predict, rule, split.protocol, trained.network)
    # Baselines are measured on the side that is reported on.
    beside = None if split.test.size else data.take(split.train)
    validation, examples = evaluator.evaluate(side, "validation", beside, outputs)
    predictions = validation
    if split.test.size:
        trained_on = data.take(split.train_and_validation)
        predictions, examples = evaluator.evaluate(data.take(split.test), "test", trained_on)
    metrics = metrics_of(predictions)
    metrics["selective"] |= {key: run.settings[key] for key in ("target_error", "confidence")}
    metrics["partial"] = None
    if partial is not None and len(partial):
        table = predict_partial(partial, trained.predict, rule, data.class_names)
        write_partial_predictions(run.folder / PARTIAL_TABLE, table)
        metrics["partial"] = partial_metrics(table)
    if predictions is not validation:
        metrics["validation"] = short_metrics(validation)
    importance = None
    if classical is not None and features is not None:
        importance = measure_importance(
            classical.model, classical.extractor.names, features, side, run.settings["seed"]
        )
    near = int((predictions.numbers("near_duplicate") == 1).sum()) if split.test.size else None
    run.settings["data"] |= {
        "test_with_near_duplicate": near,
        "classes": count_classes(data, split),
    }
    _write(run, predictions, metrics, examples, [run.history()], importance)


def _keep_slices(run: Run, data: Dataset, split: Split) -> None:
    """Keep what an export needs: the validation side, and some of the training side."""
    shuffled = np.random.default_rng(run.settings["seed"]).permutation(split.train)
    run.save_images("validation", data.take(split.validation))
    run.save_images("calibration", data.take(np.sort(_for_calibration(data, shuffled))))


def _for_calibration(data: Dataset, shuffled: npt.NDArray[np.int64]) -> list[int]:
    """The first CALIBRATION_IMAGES of some slices, and more of each known view of which these hold
    few: a head that tells the views must have seen them."""
    views = [(data.planes[i], data.sequences[i]) for i in shuffled]
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for place, (i, view) in enumerate(zip(shuffled.tolist(), views, strict=True)):
        few = any(view) and counts[view] < EACH_VIEW
        if place < CALIBRATION_IMAGES or few:
            chosen.append(i)
            counts[view] += 1
    return chosen


def _fit_rule(
    run: Run, trained: TrainedModel, side: Dataset, outputs: ModelOutputs
) -> DecisionRule:
    """The decision rule, fitted on the validation side, which run.json then holds."""
    targets = Targets.from_settings(run.settings)
    rule = fit_decision_rule(
        trained.predict,
        run.calibration_images(),
        SideOutputs(outputs, side.labels, side.groups, side.planes, side.sequences),
        side.class_names,
        run.preprocess,
        targets,
        tumour_free_of(run.settings),
    )
    run.settings |= rule.to_settings() | {
        "targets": targets.to_json(),  # a run of an older version has none
        "heatmap": method_of(trained.network),
        "not_answered": rule.refusals(),
        "version": run.version,
    }
    return rule


def _fit_studies(
    run: Run,
    trained: TrainedModel,
    rule: DecisionRule,
    data: Dataset,
    split: Split,
    heads: Heads,
) -> None:
    """The rule for studies, and the slices that it is fitted on, for the export; a line of
    `not_answered` where there are too few."""
    others = np.concatenate([split.train, split.test])
    known = persons_of(name for i in others for name in (data.groups[i], data.patients[i]))
    chosen = [
        head
        for head in read_heads(heads.table)
        if head.subject not in known and head.label in data.class_names
    ]
    side = data.take(split.validation)
    planes = list(seen_planes(trained.predict, rule, side))
    try:
        slices = collect_heads(
            open_archive(heads.place), chosen, tumours_of(side, planes), data.tumour_free,
            run.preprocess, run.settings["seed"],
        ).joined(patients_of(side, planes))  # fmt: skip
        slices.save(run.folder / HEADS)
        known_heads = known_series(slices, trained.predict, rule, data.class_names)
        found = fit_study_rule(known_heads, data.class_names, data.tumour_free, rule.view)
        run.settings["study"] = found.to_json()
    except TooFewHeads as error:
        run.settings["not_answered"] = [*run.settings["not_answered"], f"studies: {error}"]


def unanswered(run: Run) -> list[str]:
    """A line for each class that a finished run's model never answers; those of a
    cross-validation's folds begin with the fold."""
    lines = []
    for folder in run.model_folders:
        before = "" if folder == run.folder else f"{folder.name}: "
        lines += [before + line for line in Run.open(folder).settings.get("not_answered") or ()]
    return lines


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
    kinds = {(part.labels, part.kind, part.settings["network"]) for part in parts}
    if len(kinds) != 1:
        raise DataError(f"{run.folder}: its folds do not belong together")
    first = parts[0]
    run.settings["labels"] = list(first.labels)
    run.settings["heatmap"] = first.settings["heatmap"]
    run.settings["features"] = first.settings.get("features")
    run.settings["seconds"] = round(sum(part.seconds for part in parts), 1)
    tested = [{n: c["test"] for n, c in p.settings["data"]["classes"].items()} for p in parts]
    run.settings["data"] |= {
        "test_with_near_duplicate": sum(
            part.settings["data"]["test_with_near_duplicate"] for part in parts
        ),
        "classes": {
            name: {"training": None, "validation": None, "test": sum(t[name] for t in tested)}
            for name in first.labels
        },
    }
    each = [
        read_predictions(part.folder / "predictions.csv", part.labels, "grouped", "test")
        for part in parts
    ]
    examples = pool_examples(
        [Examples.read(part.folder / EXAMPLES) for part in parts], [len(p.table) for p in each]
    )
    predictions = pool(each)
    confidence, groups = predictions.numbers("confidence"), predictions.texts("group")
    among = np.sort(examples.rows)  # heatmaps exist only for the examples that the folds chose
    picked = choose_examples(
        predictions.labels[among], predictions.predicted[among], confidence[among],
        [groups[i] for i in among],
    )  # fmt: skip
    metrics = metrics_of(predictions)
    asked = [{key: p.settings.get(key) for key in ("target_error", "confidence")} for p in parts]
    if all(each == asked[0] for each in asked):  # the lowest that is supported may differ
        metrics["selective"] |= asked[0]
    tables = [part.folder / PARTIAL_TABLE for part in parts]
    metrics["partial"] = None
    if all(table.is_file() for table in tables):
        table = read_partial_predictions(tables)
        write_partial_predictions(run.folder / PARTIAL_TABLE, table)
        metrics["partial"] = partial_metrics(table)
    short = [short_metrics(part) for part in each]
    metrics["folds"] = [{key: m[key] for key in ("n", "groups", "accuracy")} for m in short]
    measured = [part.folder / IMPORTANCE for part in parts]
    importance = None
    if all(path.is_file() for path in measured):
        importance = pool_importance([Importance.read(path) for path in measured])
    histories = [part.history() for part in parts]
    shown = take_examples(examples, among[picked])
    _write(run, predictions, metrics, shown, histories, importance)


def _write(
    run: Run,
    predictions: Predictions,
    metrics: dict[str, Any],
    examples: Examples,
    histories: list[list[dict[str, float]]],
    importance: Importance | None,
) -> None:
    metrics["importance"] = None if importance is None else importance.summary()
    if importance is not None:
        importance.save(run.folder / IMPORTANCE)
    predictions.write(run.folder / "predictions.csv")
    write_text(run.folder / "metrics.json", dump_json(metrics))
    examples.save(run.folder / EXAMPLES)
    write_report(
        ReportData(run.folder, run.settings, histories, predictions, metrics, examples, importance)
    )
    run.save_settings()

"""The same figures for a Keras run and for any model file, on any labelled data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.load import read_model
from trainer.data.collection import Data, names_of
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.reading import Progress
from trainer.data.split import SOURCE
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictions import metrics_of
from trainer.evaluation.saliency import method_of
from trainer.models.outputs import Predict, open_trained, predict_file
from trainer.report.html import ReportData, write_report
from trainer.run import CNN, Run, dump_json

if TYPE_CHECKING:
    import keras

PROTOCOL = "as given"
CLASSICAL = "classical model"  # of a kind that its file does not tell


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        split: `testing`, `training`, `all`, or `auto` (testing where there is such a folder).
        groups_csv, boxes_csv: tables beside the data, in place of the collections' own, or None.
        backend, threads: of the interpreter of a model file.
        out: folder for metrics.json, predictions.csv, report.html and pictures, or None.
        allow_unsigned: also take a model file without digest, after a trial.
    """

    split: str = "auto"
    groups_csv: Path | None = None
    boxes_csv: Path | None = None
    backend: str = "auto"
    threads: int = 1
    out: Path | None = None
    allow_unsigned: bool = False


@dataclass(frozen=True)
class _Subject:
    """A model that can be evaluated, whatever it came from."""

    tag: str
    model: str  # `cnn` or the kind of a classical model
    features: Mapping[str, Any] | None  # of a classical model, where they are known
    labels: tuple[str, ...]
    preprocess: Preprocess
    decision_rule: DecisionRule
    predict: Predict
    network: keras.Model | None
    data: dict[str, Any]  # what it was trained on
    protocol: str | None  # of its own figures
    targets: dict[str, Any]  # as run.json and model.json hold them
    heatmap: str | None


def evaluate(
    model: Path,
    data: Data,
    options: Options | None = None,
    *,
    reading: Progress | None = None,
    predicting: Progress | None = None,
    on_problem: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Measure a run folder, a .tflite or an .onnx file.

    Where the data has a Training folder too, the baselines learn from it (see `_learned`), and
    figures are given with and without test slices that have a near-duplicate in it.

    Args:
        reading, predicting: called with (done, total).
        on_problem: called with (path, reason) for each unreadable image.

    Returns:
        The shape of metrics.json, with `model` and `warnings`. Probabilities are at the model's
        own temperature.

    Raises:
        DataError: unusable data, or no image in the split.
        ModelError: a model that cannot be used.
    """
    options = options or Options()
    subject = _open(model, options, predicting)
    everything = read_dataset(
        data,
        subject.preprocess,
        class_names=subject.labels,
        groups_csv=options.groups_csv,
        boxes_csv=options.boxes_csv,
        progress=reading,
    )
    passed_over = [(each.words, each.reason) for each in everything.passed_over]
    for path, reason in (*everything.problems, *passed_over):
        if on_problem is not None:
            on_problem(path, reason)
    rows, split = _side(everything, options.split)
    side = everything.take(rows)
    learned = _learned(everything) if split == "testing" else ()
    trained_on = everything.take(learned) if len(learned) else None
    evaluator = Evaluator(subject.predict, subject.decision_rule, PROTOCOL, subject.network)
    predictions, examples = evaluator.evaluate(side, split, trained_on)
    warnings = _warnings(subject, everything)
    if everything.of_several:
        warnings += _left_out(everything, split)
    about = {"model": subject.tag, "warnings": warnings}
    metrics = about | metrics_of(predictions)
    metrics["selective"] |= {key: subject.targets[key] for key in ("target_error", "confidence")}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        predictions.write(options.out / "predictions.csv")
        write_text(options.out / "metrics.json", dump_json(metrics))
        settings = _settings(subject, everything, side, predictions.numbers("near_duplicate"))
        write_report(ReportData(options.out, settings, [], predictions, metrics, examples))
    return metrics


def _open(path: Path, options: Options, predicting: Progress | None) -> _Subject:
    if path.is_dir():
        run = Run.open(path)
        trained = open_trained(run, progress=predicting)
        return _Subject(
            tag=f"{run.settings['name']} {'keras' if run.kind == CNN else run.kind}",
            model=run.kind,
            features=run.settings.get("features"),
            labels=run.labels,
            preprocess=run.preprocess,
            decision_rule=DecisionRule.from_settings(run.settings),
            predict=trained.predict,
            network=trained.network,
            data=run.settings["data"] or {},
            protocol=run.settings["protocol"],
            targets=_targets(run.settings),
            heatmap=method_of(trained.network),
        )
    file = read_model(path, allow_unsigned=options.allow_unsigned)
    info = file.info
    return _Subject(
        tag=file.tag,
        model=CLASSICAL if info.features else CNN,
        features=info.features,
        labels=info.labels,
        preprocess=info.preprocess,
        decision_rule=DecisionRule.from_settings(vars(info)),
        predict=lambda images: predict_file(
            file, images, backend=options.backend, threads=options.threads, progress=predicting
        ),
        network=None,
        data=dict(info.data),
        protocol=next((m.get("protocol") for m in info.metrics), None),
        targets=_targets(vars(info)),
        heatmap="class_maps" if "class_maps" in info.outputs else None,
    )


def _targets(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings.get(key) for key in ("target_error", "confidence", "max_error")}


def _side(data: Dataset, split: str) -> tuple[npt.NDArray[np.int64], str]:
    if split == "auto":
        split = "testing" if "testing" in data.splits else "all"
    chosen = np.arange(len(data)) if split == "all" else data.where(split)
    if chosen.size == 0:
        raise DataError(f"no image on the {split} side of the data")
    return chosen, split


def _learned(data: Dataset) -> npt.NDArray[np.int64]:
    """The slices that a training would learn from to be tested on the Testing folders: those of
    Training folders, and of several DATA those that stand in neither; none without the former."""
    training = data.where("training")
    if not (training.size and data.of_several):
        return training
    return np.sort(np.concatenate([training, data.where("")]))


def _warnings(subject: _Subject, data: Dataset) -> list[str]:
    """What would make the figures look other than they are."""
    warnings = list(data.warnings)
    each = subject.data.get("each_sha256")  # a file may say anything there
    learned = [subject.data.get("sha256"), *(each if isinstance(each, list) else [])]
    known = any(digest in learned for digest in (data.sha256, *data.each_sha256))
    # A model that left a source out has learned nothing from slices of that source alone.
    left_out = {f"{SOURCE}{source}" for source in _sources(data, bool(each))} == {subject.protocol}
    if known and subject.protocol != "official" and not left_out:
        warnings.append(
            f"the model was trained on slices of this very data set (protocol "
            f"{subject.protocol}): most of the slices measured here are no news to it"
        )
    return warnings


def _sources(data: Dataset, of_several: bool) -> set[str]:
    """The sources of all slices, as the training called them: one on several DATA calls slices of
    which no table says the source after their DATA."""
    alone = ""
    if of_several and isinstance(data.origin, Path):
        alone = names_of([data.origin])[0]
    return {source or alone for source in data.sources}


def _left_out(data: Dataset, split: str) -> list[str]:
    """A sentence on slices that no Testing or Training folder holds, beside others that stand in
    them."""
    count = 0 if split == "all" else len(data.where(""))
    if not count:
        return []
    return [f"{count:,} images are in no {split.title()} folder and not measured: see --split all"]


def _settings(
    subject: _Subject, data: Dataset, side: Dataset, near_duplicates: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """What the report says of the model and the data."""
    counts = np.bincount(side.labels, minlength=len(side.class_names)).tolist()
    return {
        "name": subject.tag,
        "model": subject.model,
        "network": "evaluated",
        "features": subject.features,
        "protocol": PROTOCOL,
        "preprocess": subject.preprocess.to_json(),
        "temperature": subject.decision_rule.temperature,
        "thresholds": dict(subject.decision_rule.thresholds),
        **subject.targets,
        "heatmap": subject.heatmap,
        "data": {
            "sha256": data.sha256,
            "images": len(data),
            "groups": len(set(data.groups)),
            "unreadable": len(data.problems),
            "test": len(side),
            "test_with_near_duplicate": _count_known(near_duplicates),
            "left_out": 0,
            "doubtful": int(data.doubtful.sum()),
            "classes": {
                name: {"training": None, "validation": None, "test": n}
                for name, n in zip(side.class_names, counts, strict=True)
            },
        },
    }


def _count_known(flags: npt.NDArray[np.float64]) -> int | None:
    """How many are 1; None where none is known."""
    return None if np.isnan(flags).all() else int((flags == 1).sum())

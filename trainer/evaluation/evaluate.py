"""The same figures for a Keras run and for any model file, on any labelled data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from edge_runtime.model_file import read_model
from trainer.data.dataset import Dataset, Progress, read_dataset
from trainer.evaluation.metrics import compute_metrics
from trainer.evaluation.predict import file_logits, logits_of, softmax, write_predictions
from trainer.evaluation.report import confusion_figure, save_figure
from trainer.run import Run, dump_json


def evaluate(
    model: Path,
    data: Path,
    *,
    split: str = "auto",
    groups_csv: Path | None = None,
    backend: str = "auto",
    threads: int = 1,
    out: Path | None = None,
    reading: Progress | None = None,
    predicting: Progress | None = None,
    on_problem: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Measure a run folder, a .tflite or an .onnx file.

    Args:
        split: `testing`, `training`, `all`, or `auto` (testing where there is such a folder).
        out: folder for metrics.json, predictions.csv and confusion.png, or None.
        reading, predicting: called with (done, total).
        on_problem: called with (path, reason) for each unreadable image.

    Returns:
        The shape of metrics.json. Probabilities are at the model's own temperature.

    Raises:
        DataError: unusable data, or no image in the split.
        ModelError: a model that cannot be used.
    """
    if model.is_dir():
        run = Run.open(model)
        options, names = run.preprocess, run.labels
        temperature, tag = (
            float(run.settings["temperature"] or 1.0),
            f"{run.settings['name']} keras",
        )
        network = run.load_model()
    else:
        file = read_model(model)
        options, names = file.info.preprocess, file.info.labels
        temperature, tag, network = file.info.temperature, file.tag, None
    everything = read_dataset(
        data, options, class_names=names, groups_csv=groups_csv, progress=reading
    )
    for path, reason in everything.problems:
        if on_problem is not None:
            on_problem(path, reason)
    side, split = _side(everything, split)
    if network is not None:
        logits = logits_of(network, side.images)
    else:
        logits = file_logits(
            file, side.images, backend=backend, threads=threads, progress=predicting
        )
    probabilities = softmax(logits, temperature)
    metrics = {"model": tag} | compute_metrics(
        probabilities,
        side.labels,
        names,
        side.groups,
        protocol="as given",
        split=split,
        sources=side.sources,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_predictions(out / "predictions.csv", side, probabilities)
        save_figure(confusion_figure(metrics["confusion"], names), out / "confusion.png")
        write_text(out / "metrics.json", dump_json(metrics))
    return metrics


def _side(data: Dataset, split: str) -> tuple[Dataset, str]:
    if split == "auto":
        split = "testing" if "testing" in data.splits else "all"
    chosen = np.arange(len(data)) if split == "all" else data.where(split)
    if chosen.size == 0:
        raise DataError(f"no image on the {split} side of the data")
    return data.take(chosen), split

"""Everything that a run holds besides the training itself: figures, predictions, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.files import write_text
from trainer.data.dataset import Dataset
from trainer.data.split import Split
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.metrics import compute_metrics
from trainer.evaluation.predict import logits_of, softmax, write_predictions
from trainer.evaluation.report import write_report
from trainer.run import Run, dump_json

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 1024


def complete_run(run: Run, model: keras.Model, data: Dataset, split: Split) -> None:
    """Everything a run holds besides the training itself. The test side is looked at here only."""
    run.save_model(model)
    held = data.take(split.validation)
    run.save_images("validation", held)
    chosen = np.random.default_rng(run.settings["seed"]).permutation(split.train)
    run.save_images("calibration", data.take(np.sort(chosen[:CALIBRATION_IMAGES])))
    held_logits = logits_of(model, held.images)
    temperature = fit_temperature(held_logits, held.labels)
    run.settings["temperature"] = temperature
    measured = {"validation": (held, held_logits)}
    if split.test.size:
        test = data.take(split.test)
        measured["test"] = (test, logits_of(model, test.images))
    figures = {}
    for name, (side, logits) in measured.items():
        probabilities = softmax(logits, temperature)
        figures[name] = compute_metrics(
            probabilities,
            side.labels,
            data.class_names,
            side.groups,
            protocol=split.protocol,
            split=name,
            sources=side.sources,
        )
    main = "test" if "test" in measured else "validation"
    metrics = figures[main]
    if main == "test":
        metrics["validation"] = figures["validation"]
        metrics["without_shared_groups"] = _unseen(data, split, measured["test"][1], temperature)
    side, logits = measured[main]
    write_predictions(run.folder / "predictions.csv", side, softmax(logits, temperature))
    write_text(run.folder / "metrics.json", dump_json(metrics))
    write_report(run, metrics)


def _unseen(
    data: Dataset, split: Split, logits: np.ndarray, temperature: float
) -> dict[str, Any] | None:
    """The test side without images whose group is also on the training or validation side."""
    seen = {data.groups[i] for i in (*split.train, *split.validation)}
    fresh = np.array([data.groups[i] not in seen for i in split.test])
    if fresh.all() or not fresh.any():
        return None
    side = data.take(split.test[fresh])
    return compute_metrics(
        softmax(logits[fresh], temperature),
        side.labels,
        data.class_names,
        side.groups,
        protocol=f"{split.protocol}, only groups not in training",
        split="test",
        sources=side.sources,
    )


def complete_folds(run: Run, parts: list[Run]) -> None:
    """Pool the out-of-fold predictions of a cross-validation."""

"""The gate: an exported file is run as a device would run it, and compared with Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.model_file import ModelFile
from export.formats import Tolerance
from trainer.evaluation.metrics import group_interval
from trainer.evaluation.predict import observe_file, softmax
from trainer.run import Images


@dataclass(frozen=True)
class GateResult:
    """What the gate measured on `n` held-out images.

    Attributes:
        agreement: share of images with the same top class as Keras.
        accuracy, accuracy_float: of the file and of Keras.
        difference: accuracy minus accuracy_float.
        interval95: of the paired difference, bootstrapped over groups, or over images where
            the group is unknown.
        max_abs_probability, mean_abs_probability: differences of probabilities.
        per_class: label -> recall of the file and of Keras.
        failures: what lies outside the tolerance, in words; empty means passed.
    """

    n: int
    agreement: float
    accuracy: float
    accuracy_float: float
    difference: float
    interval95: list[float]
    max_abs_probability: float
    mean_abs_probability: float
    per_class: dict[str, dict[str, float]]
    tolerance: Tolerance
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the file may be used."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The fields of export.json."""
        return asdict(self) | {"passed": self.passed, "failures": list(self.failures)}


def run_gate(
    file: ModelFile,
    held: Images,
    keras_logits: npt.NDArray[np.float32],
    keras_temperature: float,
    tolerance: Tolerance,
    progress: Callable[[int, int], None] | None = None,
) -> GateResult:
    """Compare a model file with Keras on the run's held-out images.

    Args:
        file: the packed, checked file.
        held: images of the validation side.
        keras_logits, keras_temperature: of the Keras model, N×C on the same images.
    """
    labels = file.info.labels
    logits = observe_file(file, held.pixels, progress=progress).logits
    shares = softmax(logits, file.info.temperature)
    reference = softmax(keras_logits, keras_temperature)
    called, expected = shares.argmax(axis=1), reference.argmax(axis=1)
    right = (called == held.labels).astype(np.float64)
    right_float = (expected == held.labels).astype(np.float64)
    gap = np.abs(shares - reference)
    per_class = {
        name: {"recall": float(right[here].mean()), "recall_float": float(right_float[here].mean())}
        for c, name in enumerate(labels)
        if (here := held.labels == c).any()
    }
    agreement, difference = float((called == expected).mean()), float((right - right_float).mean())
    n, largest = len(held.labels), float(gap.max())
    # An image of unknown group stands for itself; one group of all would have no spread.
    groups = [group or f"image {i}" for i, group in enumerate(held.groups)]
    checks = (
        (agreement >= tolerance.needed_agreement(n),
         f"agrees with Keras on {agreement:.2%} of {n} images, "
         f"below {tolerance.needed_agreement(n):.2%}"),
        (difference >= -tolerance.allowed_drop(n),
         f"loses {-100 * difference:.2f} points of accuracy, "
         f"over {100 * tolerance.allowed_drop(n):.2f}"),
        (largest <= tolerance.probability,
         f"a probability differs by {largest:.3f}, over {tolerance.probability}"),
    )  # fmt: skip
    return GateResult(
        n=n,
        agreement=agreement,
        accuracy=float(right.mean()),
        accuracy_float=float(right_float.mean()),
        difference=difference,
        interval95=group_interval(right - right_float, groups),
        max_abs_probability=largest,
        mean_abs_probability=float(gap.mean()),
        per_class=per_class,
        tolerance=tolerance,
        failures=tuple(words for fine, words in checks if not fine),
    )

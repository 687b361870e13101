"""The gate: an exported file is run as a device would run it, and compared with the model as it
was trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.benchmark.statistics import paired_ratio
from edge_runtime.decision.prediction import probabilities
from edge_runtime.model.backends import Graph, open_graph
from edge_runtime.model.file_format import ModelFile
from export.formats import Tolerance
from export.onnx.saturation import differs_by_processor
from export.runtimes import AUTO, Runtime
from trainer.evaluation.intervals import difference_interval, own_groups
from trainer.evaluation.temperature import expected_calibration_error
from trainer.run import Images

LATENCY_IMAGES = 100


@dataclass(frozen=True)
class Reference:
    """What a file is compared with.

    Attributes:
        labels: the run's, in the order of its logits.
        logits: of the trained model (Keras, scikit-learn) on the held-out images, N×C.
        temperature: of the trained model.
        float32: the run as a float32 TFLite file, which latencies are compared with; None where
            there is none.
    """

    labels: Sequence[str]
    logits: npt.NDArray[np.float32]
    temperature: float
    float32: ModelFile | None = None


class Comparison(NamedTuple):
    """A file's answers beside the trained model's, slice by slice.

    Attributes:
        same: N, whether the top class is the same.
        right, right_float: N, 1.0 where the file's and the trained model's top class is right.
        gap: N×C, absolute differences of probabilities.
    """

    same: npt.NDArray[np.bool_]
    right: npt.NDArray[np.float64]
    right_float: npt.NDArray[np.float64]
    gap: npt.NDArray[np.float64]

    @property
    def gain(self) -> npt.NDArray[np.float64]:
        """N, the paired difference of hits: the file's minus the trained model's."""
        return self.right - self.right_float


def compare(
    answers: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
) -> Comparison:
    """Compare probabilities of a file with those of the trained model (N×C), labels N."""
    top, top_float = answers.argmax(axis=1), expected.argmax(axis=1)
    right, right_float = (
        (predicted == labels).astype(np.float64) for predicted in (top, top_float)
    )
    return Comparison(top == top_float, right, right_float, np.abs(answers - expected))


@dataclass(frozen=True)
class GateResult:
    """What the gate measured on `n` held-out images.

    Attributes:
        agreement: share of images with the same top class as the trained model.
        accuracy, accuracy_float: of the file and of the trained model.
        difference: accuracy minus accuracy_float.
        interval95: of the paired difference, over groups, or over images where the group is
            unknown; None where it cannot be told.
        max_abs_probability, mean_abs_probability: differences of probabilities.
        per_class: label -> recall of the file and of the trained model, their paired difference and
            its interval, number of images.
        ece: expected calibration error of the file with temperature 1 (before), with its own
            (after), and of the trained model (float). The temperatures were fitted on the same
            images.
        latency: median of the paired ratio of the bare interpreter call to that of the float32
            file, with its interval, and both medians in ms; None where there is no such file.
        failures: what lies outside the tolerance, in words; empty means passed.
    """

    n: int
    agreement: float
    accuracy: float
    accuracy_float: float
    difference: float
    interval95: list[float] | None
    max_abs_probability: float
    mean_abs_probability: float
    per_class: dict[str, dict[str, Any]]
    ece: dict[str, float]
    latency: dict[str, Any] | None
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
    validation: Images,
    reference: Reference,
    tolerance: Tolerance,
    progress: Callable[[int, int], None] | None = None,
    runtime: Runtime = AUTO,
) -> GateResult:
    """Compare a model file with the trained model on the run's held-out images.

    Classes are compared by name: a file whose labels stand in another order than its logits is
    wrong, however well its numbers agree. What is measured here must hold on every processor:
    a graph whose weights allow other answers elsewhere is rejected, see `export.onnx.saturation`.

    Args:
        file: the packed, checked file.
        validation: images of that side, which the run held out.
        runtime: what runs it; the decision rule that is judged is the one for that. The latency is
            measured where none is named.
    """
    logits = runtime.predict(file, validation.pixels, progress).logits
    names = list(file.info.labels)
    unknown = set(names) ^ set(reference.labels)
    if not unknown:
        logits = logits[:, [names.index(label) for label in reference.labels]]
    answers = probabilities(logits, file.info.for_runtime(runtime.name).temperature)
    expected = probabilities(reference.logits, reference.temperature)
    compared = compare(answers, expected, validation.labels)
    groups = own_groups(validation.groups)
    measured: dict[str, Any] = {
        "n": len(validation.labels),
        "agreement": float(compared.same.mean()),
        "accuracy": float(compared.right.mean()),
        "accuracy_float": float(compared.right_float.mean()),
        "difference": float(compared.gain.mean()),
        "interval95": difference_interval(compared.gain, groups),
        "max_abs_probability": float(compared.gap.max()),
        "mean_abs_probability": float(compared.gap.mean()),
        "per_class": _per_class(compared, validation.labels, groups, reference.labels),
        "ece": {
            "before": expected_calibration_error(probabilities(logits), validation.labels),
            "after": expected_calibration_error(answers, validation.labels),
            "float": expected_calibration_error(expected, validation.labels),
        },
        "latency": _latency(file, reference.float32, validation.pixels)
        if runtime == AUTO
        else None,
    }
    failures = [f"labels that are not the run's: {', '.join(sorted(unknown))}"] * bool(unknown)
    failures += _failures(measured, tolerance)
    if file.format == "onnx" and (doubt := differs_by_processor(file.graph)) is not None:
        failures.append(doubt)
    return GateResult(**measured, tolerance=tolerance, failures=tuple(failures))


def _failures(measured: dict[str, Any], tolerance: Tolerance) -> list[str]:
    """What lies outside the tolerance, in words."""
    n, agreement, difference = measured["n"], measured["agreement"], measured["difference"]
    largest = measured["max_abs_probability"]
    failures = []
    # Each the other way round than it reads: what is no number lies outside too.
    if not agreement >= tolerance.needed_agreement(n):
        failures.append(f"agrees with the trained model on {agreement:.2%} of {n} images, "
                        f"below {tolerance.needed_agreement(n):.2%}")  # fmt: skip
    if not difference >= -tolerance.allowed_drop(n):
        failures.append(f"loses {-100 * difference:.2f} points of accuracy, "
                        f"over {100 * tolerance.allowed_drop(n):.2f}")  # fmt: skip
    if not largest <= tolerance.probability:
        failures.append(f"a probability differs by {largest:.3f}, over {tolerance.probability}")
    for label, row in measured["per_class"].items():
        allowed = tolerance.allowed_class_drop(row["n"])
        if not row["difference"] >= -allowed:
            failures.append(f"loses {-100 * row['difference']:.2f} points of {label}'s recall, "
                            f"over {100 * allowed:.2f}")  # fmt: skip
    return failures


def _per_class(
    compared: Comparison,
    truth: npt.NDArray[np.int64],
    groups: Sequence[str],
    labels: Sequence[str],
) -> dict[str, dict[str, Any]]:
    rows = {}
    for c, label in enumerate(labels):
        here = np.flatnonzero(truth == c)
        if here.size:
            gain = compared.gain[here]
            rows[label] = {
                "n": int(here.size),
                "recall": float(compared.right[here].mean()),
                "recall_float": float(compared.right_float[here].mean()),
                "difference": float(gain.mean()),
                "interval95": difference_interval(gain, [groups[int(i)] for i in here]),
            }
    return rows


def _latency(
    file: ModelFile, float32: ModelFile | None, pixels: npt.NDArray[np.uint8]
) -> dict[str, Any] | None:
    """Both files on the same images in turns, one thread each."""
    if float32 is None:
        return None
    graphs = [open_graph(float32), open_graph(file)]
    times: list[list[float]] = [[], []]
    for i, image in enumerate(pixels[:LATENCY_IMAGES]):
        for which in (0, 1) if i % 2 else (1, 0):
            times[which].append(_span_ms(graphs[which], image))
    ratio, interval = paired_ratio(times[0][5:] or times[0], times[1][5:] or times[1])
    middle = [float(np.median(spans)) for spans in times]
    return {"ratio": ratio, "interval95": interval, "ms": middle[1], "float32_ms": middle[0]}


def _span_ms(graph: Graph, image: npt.NDArray[np.uint8]) -> float:
    begun = time.perf_counter()
    graph.run(image)
    return (time.perf_counter() - begun) * 1e3

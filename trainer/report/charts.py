"""Charts of a run, drawn with matplotlib."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import replacing
from trainer.evaluation.selective import risk_coverage
from trainer.evaluation.temperature import reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
History = list[dict[str, float]]
BARS = 15  # parts in the chart of importance


def curves_chart(histories: Sequence[History]) -> Figure:
    """Loss and accuracy of both sides by epoch; several trainings in the same two colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, history in enumerate(histories):
            epochs = [row["epoch"] for row in history]
            for key, side, colour in (
                (name, "training", "C0"),
                (f"val_{name}", "validation", "C1"),
            ):
                label = side if number == 0 else None
                axes.plot(epochs, [row[key] for row in history], colour, label=label, lw=1.2)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_chart(confusion: list[list[int]], labels: Sequence[str]) -> Figure:
    """Counts, shaded by the share of each true class."""
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    recall = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(
        figsize=(1.2 * len(labels) + 1.4, 1.0 * len(labels) + 1.0), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(recall, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    names = [plain(name) for name in labels]
    axes.set_xticks(ticks, names, rotation=20)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="is")
    for i in ticks:
        for j in ticks:
            ink = "white" if recall[i, j] > 0.5 else "black"
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=ink)
    return figure


def ranking_chart(probabilities: Floats, labels: Labels, names: Sequence[str]) -> Figure:
    """ROC and precision-recall curve of each class against the rest."""
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = Figure(figsize=(9, 4), layout="constrained")
    roc, recall = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], "k:", lw=0.8)
    for c, name in enumerate(names):
        is_class = labels == c
        if is_class.all() or not is_class.any():
            continue
        false, true, _ = roc_curve(is_class, probabilities[:, c])
        roc.plot(false, true, lw=1.4, label=plain(name))
        precision, found, _ = precision_recall_curve(is_class, probabilities[:, c])
        recall.plot(found, precision, lw=1.4, label=plain(name))
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    recall.set(xlabel="recall", ylabel="precision", title="precision and recall")
    for axes in (roc, recall):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left" if axes is recall else "lower right")
    return figure


def reliability_chart(probabilities: Floats, labels: Labels) -> Figure:
    """Accuracy against confidence, and how many slices stand behind each point."""
    from matplotlib.figure import Figure

    confidence, accuracy, share = reliability(probabilities, labels)
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(confidence, share, width=0.04, color="0.85", label="share of slices")
    axes.plot([0, 1], [0, 1], "k:", lw=0.8)
    axes.plot(confidence, accuracy, "o-", ms=4, lw=1.4, label="accuracy")
    axes.set(xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02), title="reliability")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def coverage_chart(
    probabilities: Floats, labels: Labels, chosen: tuple[float, float] | None
) -> Figure:
    """Error rate by share of slices answered; a cross where the thresholds stand."""
    from matplotlib.figure import Figure

    coverage, risk = risk_coverage(probabilities, labels)
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(coverage, 100 * risk, lw=1.4)
    if chosen is not None:
        axes.plot(chosen[0], 100 * chosen[1], "x", color="C3", ms=9, mew=2, label="thresholds")
        axes.legend(loc="upper left")
    axes.set(
        xlabel="share of slices answered", ylabel="errors among answers, %", xlim=(0, 1.02),
        title="risk and coverage",
    )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure


def importance_chart(sets: dict[str, dict[str, float]], parts: list[dict[str, Any]]) -> Figure:
    """Balanced accuracy lost by shuffling feature sets and the weightiest parts, with its spread.

    Args:
        sets, parts: as metrics.json holds them.
    """
    from matplotlib.figure import Figure

    by_set = sorted(sets.items(), key=lambda item: -item[1]["drop"])
    sides = (
        ("whole sets", by_set),
        ("parts, on their own scale", [(part["part"], part) for part in parts[:BARS]]),
    )
    most = max(len(rows) for _, rows in sides)
    figure = Figure(figsize=(9, 1.1 + 0.24 * max(most, 4)), layout="constrained")
    # A scale each: one part of a large set loses little, since its neighbours stand in for it.
    both = figure.subplots(1, 2)
    for axes, (title, rows) in zip(both, sides, strict=True):
        axes.barh(
            range(len(rows)), [100 * row["drop"] for _, row in rows],
            xerr=[100 * row["spread"] for _, row in rows], height=0.7, color="C0", ecolor="0.4",
        )  # fmt: skip
        axes.set_yticks(range(len(rows)), [plain(name) for name, _ in rows])
        # As many places as the other side has, so that all bars are of one height.
        axes.set_ylim(most - 0.5, -0.5)
        axes.axvline(0, color="0.2", lw=0.8)
        axes.set(title=title, xlabel="balanced accuracy lost, points")
        axes.grid(axis="x", alpha=0.3)
    return figure


def save_chart(figure: Figure, path: Path) -> None:
    """Write a chart as its suffix says (.png, .svg), whole or not at all; the same chart gives
    the same bytes."""
    import matplotlib

    dated: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix.lower() == ".svg" else {}
    with replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it is drawn as a box
        with matplotlib.rc_context({"svg.hashsalt": "btc-edge"}):
            figure.savefig(part, dpi=110, **dated)


def inline_chart(figure: Figure) -> str:
    """A chart as a data URL (SVG, text as shapes, so that every browser shows the same)."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "btc-edge"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def plain(text: str) -> str:
    """A name that matplotlib takes as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")

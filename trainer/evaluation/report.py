"""Pictures and the HTML page of a run."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.files import replacing, write_text
from edge_runtime.model_info import INTENDED_USE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.run import Run

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ccc;
text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}
.use{background:#fff3cd;padding:.5rem 1rem}</style>
<h1>$title</h1><p class="use"><strong>$use</strong></p>
<p>$summary</p>$table<h2>Confusion</h2><img alt="Confusion matrix" src="$confusion">
<h2>Training</h2><img alt="Loss and accuracy by epoch" src="$curves">
<h2>Settings</h2><pre>$settings</pre></html>
""")


def percent(value: float | None) -> str:
    """A share as text with one decimal; a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.1f}"


def summary_line(metrics: dict[str, Any]) -> str:
    """Protocol, size, accuracy and interval in one sentence."""
    low, high = metrics["interval95"]["accuracy"]
    return (
        f"{metrics['split'].capitalize()} side, protocol '{metrics['protocol']}': "
        f"{metrics['n']} slices in {metrics['groups']} groups, "
        f"accuracy {percent(metrics['accuracy'])} % (95 % interval over groups "
        f"{percent(low)}–{percent(high)}), balanced {percent(metrics['balanced_accuracy'])} %."
    )


def curves_figure(history: list[dict[str, float]]) -> Figure:
    """Loss and accuracy of both sides by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_figure(confusion: list[list[int]], labels: tuple[str, ...]) -> Figure:
    """Counts, shaded by the share of each true class."""
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(
        figsize=(1.2 * len(labels) + 1.4, 1.0 * len(labels) + 1.0), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=20)
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="called", ylabel="is")
    for i in ticks:
        for j in ticks:
            ink = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=ink)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as part:
        figure.savefig(part, dpi=110)


def write_report(run: Run, metrics: dict[str, Any]) -> None:
    """curves.png, confusion.png and report.html of a run."""
    save_figure(curves_figure(run.history()), run.folder / "curves.png")
    save_figure(confusion_figure(metrics["confusion"], run.labels), run.folder / "confusion.png")
    head = "".join(f"<th>{h}</th>" for h in ("class", *METRIC_NAMES, "n"))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{percent(c[m])}</td>" for m in METRIC_NAMES)
        + f"<td>{c['n']}</td></tr>"
        for name, c in metrics["per_class"].items()
    )
    settings = "\n".join(f"{key}: {value}" for key, value in run.settings.items())
    page = _PAGE.substitute(
        title=escape(f"{run.settings['name']} ({run.settings['network']})"),
        use=escape(INTENDED_USE),
        summary=escape(summary_line(metrics)),
        table=f"<table><tr>{head}</tr>{rows}</table>",
        confusion=_inline(run.folder / "confusion.png"),
        curves=_inline(run.folder / "curves.png"),
        settings=escape(settings),
    )
    write_text(run.folder / "report.html", page)


METRIC_NAMES = ("precision", "recall", "specificity", "f1", "auc")


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")

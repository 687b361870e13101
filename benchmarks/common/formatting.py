"""Figures as the tables of benchmarks show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.processor import features_in_words
from trainer.evaluation.intervals import in_words
from trainer.report.html import percent

NOTHING = "–"
MIB = 1 << 20  # bytes


def share_in_words(
    share: float | None, interval: Sequence[float] | None, unit: str = "", *, signed: bool = False
) -> str:
    """A share in per cent with its interval, as `91.2 (89.0–93.1)`; NOTHING where there is none.

    Args:
        unit: behind the share, as ` %`.
        signed: whether it is a difference, in points.
    """
    if share is None:
        return NOTHING
    if signed:
        spread = in_words(interval, lambda end: f"{100 * end:+.1f}", " to ")
        return f"{100 * share:+.1f}{unit} ({spread})"
    return f"{percent(share)}{unit} ({in_words(interval, percent)})"


def rate_in_words(rate: dict[str, Any] | None, unit: str = "", *, signed: bool = False) -> str:
    """Likewise, of a rate: `share` and `interval95`."""
    if rate is None:
        return NOTHING
    return share_in_words(rate["share"], rate["interval95"], unit, signed=signed)


def area_in_words(area: dict[str, Any] | None) -> str:
    """An area under a ROC curve (see `auc_of`) with its interval, as `0.961 (0.940–0.975)`."""
    if area is None:
        return NOTHING
    return f"{area['auc']:.3f} ({in_words(area['interval95'], lambda end: f'{end:.3f}')})"


def metric_in_words(metrics: dict[str, Any] | None, key: str, unit: str = "") -> str:
    """Likewise, of one entry of metrics.json, whose intervals stand beside it by its name."""
    if not metrics or metrics.get(key) is None:
        return NOTHING
    return share_in_words(metrics[key], metrics["interval95"][key], unit)


def accuracy_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of metrics.json as a rate, and beside it the balanced one."""
    return {
        "n": metrics["n"],
        "share": metrics["accuracy"],
        "interval95": metrics["interval95"]["accuracy"],
        "balanced": metrics["balanced_accuracy"],
    }


def what_was_measured(rows: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of a table of questions, each with what was measured."""
    return ["| what | measured |", "|---|---|", *(f"| {what} | {words} |" for what, words in rows)]


def machine_in_words(machine: dict[str, Any]) -> str:
    """The processor of `machine_facts`, with the features that its speed depends on."""
    return f"{machine['cpu']} ({features_in_words(machine)}), {machine['cores']} cores"

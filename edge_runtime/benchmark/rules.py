"""What a benchmark can decide: `--fail-if` for continuous integration, `--pick` for a device."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import ge, gt, le, lt
from typing import Any

from edge_runtime.benchmark.statistics import PERCENTILES, STEPS
from edge_runtime.errors import UsageError, printable
from edge_runtime.model.picked import Picked
from edge_runtime.processor import machine_digest
from edge_runtime.version import __version__

SIGNS = {"<": lt, "<=": le, ">": gt, ">=": ge}
SHARES = ("accuracy", "agreement")
PLAIN = ("load_ms", "peak_mib", "bytes", *SHARES)
TIMES = {f"p{p}_ms": ("total_ms", f"p{p}") for p in PERCENTILES} | {
    f"{step}_p{p}_ms": (f"{step}_ms", f"p{p}") for step in STEPS for p in PERCENTILES
}
_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """One `--fail-if`: times in milliseconds, shares (accuracy, agreement) from 0 to 1."""

    metric: str
    sign: str
    limit: float

    def broken_by(self, row: dict[str, Any]) -> str | None:
        """Why a row of the result fails, or None. What is not known fails too."""
        if self.metric in TIMES:
            step, percentile = TIMES[self.metric]
            value = row[step][percentile]
        else:
            value = row[self.metric]
        condition = f"{self.sign} {self.limit:g} was to fail"
        if value is None:
            return f"{self.metric} is not known, and {condition}"
        if SIGNS[self.sign](value, self.limit):
            return f"{self.metric} is {value:.6g}, and {condition}"
        return None


def parse_rule(text: str) -> Rule:
    """Read `METRIC OP NUMBER`, as `p90_ms > 5`.

    Raises:
        UsageError: anything else; it says what is possible.
    """
    match = _RULE.fullmatch(text)
    try:
        limit = float(match[3]) if match else math.nan
    except ValueError:
        limit = math.nan
    if match is None or not math.isfinite(limit):
        raise UsageError(
            f"--fail-if takes METRIC OP NUMBER with an OP of {' '.join(SIGNS)}, "
            f"as 'p90_ms>5'; got {text!r}"
        )
    if match[1] not in TIMES and match[1] not in PLAIN:
        metrics = [*(f"p{p}_ms" for p in PERCENTILES), *PLAIN]
        raise UsageError(
            f"--fail-if has no metric {match[1]!r}; there are {', '.join(metrics)}, and the "
            f"percentiles of a step, as {', '.join(f'{s}_p50_ms' for s in STEPS)}"
        )
    if match[1] in SHARES and not 0 <= limit <= 1:
        raise UsageError(f"--fail-if: {match[1]} lies between 0 and 1, not at {limit:g}")
    return Rule(match[1], match[2], limit)


def violations(rules: Sequence[Rule], result: dict[str, Any]) -> list[str]:
    """A line for each rule that a model breaks."""
    return [
        f"model {printable(row['name'])}: {broken}"
        for row in result["models"]
        for rule in rules
        if (broken := rule.broken_by(row)) is not None
    ]


def pick(result: dict[str, Any], min_relative_accuracy: float) -> tuple[dict[str, Any], list[str]]:
    """The fastest model (p50 of the whole query) of those that are accurate enough.

    Args:
        result: of `measure`, on images with labels.
        min_relative_accuracy: accuracy, as a share of the reference's, that suffices, 0-1.

    Returns:
        The field `pick` of the result, and warnings on what it is worth.
    """
    rules, rows = result["rules"], result["models"]
    reference = next(row for row in rows if row["name"] == rules["reference"])
    floor = min_relative_accuracy * reference["accuracy"]
    fitting = [row for row in rows if row["accuracy"] >= floor]  # the reference at least
    best = min(fitting, key=lambda row: float(row["total_ms"]["p50"]))
    warnings = []
    if reference["scheme"] != "float32":
        warnings.append(
            "the pick has no float32 model to compare with; "
            f"{printable(reference['file'])} stands in for it"
        )
    if 0 < rules["labelled"] * (1 - min_relative_accuracy) < 1:
        warnings.append(
            f"the pick rests on {rules['labelled']} labelled images: "
            "one of them is more than the accuracy that may be lost"
        )
    chosen = {key: best[key] for key in ("name", "file", "model", "threads")} | {
        "p50_ms": best["total_ms"]["p50"],
        "accuracy": best["accuracy"],
        "min_relative_accuracy": min_relative_accuracy,
        "floor": floor,
    }
    return chosen, warnings


def record_of(result: dict[str, Any]) -> Picked:
    """The pick of a result, made here and now, as `btc-edge classify --model FOLDER` reads it."""
    chosen, rules, rows = result["pick"], result["rules"], result["models"]
    best = next(
        row for row in rows if (row["name"], row["file"]) == (chosen["name"], chosen["file"])
    )
    reference = next(row for row in rows if row["name"] == rules["reference"])
    return Picked(
        machine=machine_digest(best["backend"], best["backend_version"]),
        file=best["file"],
        sha256=best["sha256"],
        backend=best["backend"],
        threads=best["threads"],
        measured={
            "p50_ms": best["total_ms"]["p50"],
            "accuracy": best["accuracy"],
            "images": rules["labelled"],
            "min_relative_accuracy": chosen["min_relative_accuracy"],
            "reference": {
                "file": reference["file"],
                "sha256": reference["sha256"],
                "p50_ms": reference["total_ms"]["p50"],
                "accuracy": reference["accuracy"],
            },
            "created": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "btc-edge": __version__,
        },
    )

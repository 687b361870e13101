"""The result of a benchmark for people: a table, or Markdown for a report.

Names come out of model files and of file systems: they are cut to a length, and cleared of what
could steer a terminal or change the Markdown around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edge_runtime.errors import printable
from edge_runtime.processor import features_in_words

MAX_NAME = 64
CUT = "..."
TIMES = "times in ms (p50 where not said); load and peak memory in a process of its own"

Clean = Callable[[str], str]


def short(name: object, limit: int = MAX_NAME) -> str:
    """A name as one printable text of at most `limit` characters; its end tells most."""
    text = printable(str(name))
    if len(text) <= limit:
        return text
    tail = limit // 2
    return text[: limit - tail - len(CUT)] + CUT + text[-tail:]


def as_table(result: dict[str, Any]) -> str:
    """The result as columns of plain text."""
    rows = result["models"]
    width = max(len(short(row["name"])) for row in rows)
    lines = [
        _machine(result["machine"], printable),
        _rules(result["rules"], printable),
        f"{'model':<{width}} {'KiB':>6} {'load':>7} {'MiB':>5} {'decode':>7} {'prep':>6} "
        f"{'invoke':>7} {'total':>7} {'p90':>7} {'p95':>7} {'p99':>7} {'acc %':>6} {'same %':>6}",
    ]
    for row in rows:
        total = row["total_ms"]
        lines.append(
            f"{short(row['name']):<{width}} {row['bytes'] / 1024:>6.0f} {row['load_ms']:>7.1f} "
            f"{_number(row['peak_mib'], '.0f'):>5} {row['decode_ms']['p50']:>7.2f} "
            f"{row['preprocess_ms']['p50']:>6.2f} {row['invoke_ms']['p50']:>7.2f} "
            f"{total['p50']:>7.2f} {total['p90']:>7.2f} {total['p95']:>7.2f} {total['p99']:>7.2f} "
            f"{_percent(row['accuracy']):>6} {_percent(row['agreement']):>6}"
        )
    return "\n".join([*lines, TIMES, *_sentences(result, printable)])


def as_markdown(result: dict[str, Any]) -> str:
    """The result as a table in Markdown, with what belongs to it below."""
    lines = [
        "| model | size KiB | load ms | peak MiB | decode ms | preprocess ms | invoke ms "
        "| total p50 ms | p90 ms | p95 ms | p99 ms | accuracy % (95 % interval) | agreement % |",
        "|---" + "|--:" * 12 + "|",
    ]
    for row in result["models"]:
        accuracy = _percent(row["accuracy"])
        if row["interval95"] is not None:
            accuracy += f" ({'–'.join(map(_percent, row['interval95']))})"
        steps = (f"{row[f'{step}_ms']['p50']:.2f}" for step in ("decode", "preprocess", "invoke"))
        cells = [
            *(_escaped(short(row["name"])), f"{row['bytes'] / 1024:.0f}", f"{row['load_ms']:.1f}"),
            *(_number(row["peak_mib"], ".0f"), *steps),
            *(f"{row['total_ms'][p]:.2f}" for p in ("p50", "p90", "p95", "p99")),
            *(accuracy, _percent(row["agreement"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        _machine(result["machine"], _escaped),
        _rules(result["rules"], _escaped),
        TIMES,
        *_sentences(result, _escaped),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def _machine(machine: dict[str, Any], clean: Clean) -> str:
    """The machine in one line; what it does not tell is left out."""
    cores = "cores not known" if machine["cores"] is None else f"{machine['cores']} cores"
    parts = [f"{machine['cpu']} ({features_in_words(machine)})", cores]
    if machine["memory_mib"] is not None:
        parts.append(f"{machine['memory_mib'] / 1024:.1f} GiB")
    parts.append(machine["system"])
    if machine["governor"] is not None:
        hint = "" if machine["governor"] == "performance" else " (performance would be steadier)"
        parts.append(f"governor {machine['governor']}{hint}")
    before, after = machine["temperature_c"]["before"], machine["temperature_c"]["after"]
    if before is not None and after is not None:
        parts.append(f"{before:.0f} to {after:.0f} °C")
    return ", ".join(map(clean, parts))


def _rules(rules: dict[str, Any], clean: Clean) -> str:
    images = f"images: {rules['images']}"
    if rules["labelled"]:
        images += f" ({rules['labelled']} with a label)"
    reference = clean(short(rules["reference"]))
    return f"at least {rules['queries']} queries each, {images}, reference: {reference}"


def _sentences(result: dict[str, Any], clean: Clean) -> list[str]:
    """What stands below the figures: pairs, warnings and the pick."""

    def name(text: str) -> str:
        return clean(short(text))

    lines = []
    for pair in result["pairs"]:
        ends = pair["interval95"]
        spread = "interval not estimable" if ends is None else f"{ends[0]:.2f}-{ends[1]:.2f}"
        lines.append(
            f"{name(pair['b'])} takes {pair['ratio']:.2f} ({spread}) of the time of "
            f"{name(pair['a'])}"
        )
    lines += [f"warning: {clean(warning)}" for warning in result["warnings"]]
    if "pick" in result:
        best = result["pick"]
        lines.append(
            f"pick: {name(best['file'])} ({name(best['name'])}), p50 {best['p50_ms']:.2f} ms, "
            f"accuracy {_percent(best['accuracy'])} %, and {_percent(best['floor'])} % was asked"
        )
    return lines


def _escaped(text: str) -> str:
    """Text whose characters mean themselves in Markdown, in a cell of a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", printable(text))


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, ".1f")

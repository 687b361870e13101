"""The comparison of models as a chart, and as a page with what the models look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.files import write_text
from edge_runtime.model.metadata import INTENDED_USE
from trainer.report.charts import inline_chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Models compared</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem;
  color: #1d2733; }
img { max-width: 100%; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #dfe4ea; text-align: left; }
.use { background: #fff6dd; border-left: 4px solid #d9a514; padding: .5rem .75rem; }
</style></head><body>
<h1>Models compared</h1>
<p class="use"><strong>{{ use }}</strong></p>
<img alt="Accuracy of each model under two protocols" src="{{ chart }}">
<div class="scroll"><table>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p>{{ note }}</p>
<h2>What the models look at</h2>
<p>Accuracy that is lost on the validation slices when a set of features is shuffled among them.
The report of each run shows more, with the slices on which its weightiest features are low and
high.</p>
{% for name, sets, link in importance %}
<h3><a href="{{ link }}">{{ name }}</a></h3>
<ul>{% for set, drop in sets %}<li>{{ set }}: {{ drop }} points</li>{% endfor %}</ul>
{% endfor %}
</body></html>
"""


def chart(result: dict[str, Any]) -> Figure:
    """Accuracy with its interval under both protocols, a model a line."""
    from matplotlib.figure import Figure

    rows = result["rows"]
    figure = Figure(figsize=(8.5, 0.34 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for key, colour, shift, words in (
        ("grouped", "C0", 0.14, "5 folds of groups"),
        ("shift", "C1", -0.14, "a source that training never saw"),
    ):
        shares = np.array([100 * row[key]["share"] for row in rows])
        unknown = [np.nan, np.nan]  # draws no bar
        ends = np.array([row[key]["interval95"] or unknown for row in rows]).T * 100
        axes.errorbar(
            shares, places + shift, xerr=np.abs(ends - shares), fmt="o", color=colour, ms=4,
            capsize=2, lw=1.2, label=words,
        )  # fmt: skip
    axes.set_yticks(places, [label_of(row) for row in rows])
    axes.set(xlabel="accuracy per slice, % (95 % interval over groups)", xlim=(0, 100))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    return figure


def label_of(row: dict[str, Any]) -> str:
    """A row's model and features in few words."""
    if not row["features"]:
        return "the network"
    sets = row["features"].split(",")
    words = "deep features" if sets == ["deep"] else sets[0] if len(sets) == 1 else (
        f"{len(sets)} sets"
    )  # fmt: skip
    return f"{row['model']}, {words}"


def write_page(
    path: Path, result: dict[str, Any], table: str, figure: Figure, firsts: Sequence[Path]
) -> None:
    """The comparison as one HTML page, whole in itself but for links to the runs' reports.

    Args:
        path: of the page.
        table: the comparison as Markdown.
        firsts: the first fold of each row.
    """
    import jinja2

    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    note = next(line for line in table.splitlines() if line and not line.startswith("|"))
    importance = [
        (
            label_of(row),
            [
                (name, f"{100 * entry['drop']:.1f}")
                for name, entry in row["importance"]["sets"].items()
            ],
            (first.parent / "report.html").relative_to(path.parent).as_posix(),
        )
        for row, first in zip(result["rows"], firsts, strict=True)
        if row["importance"] and len(row["importance"]["sets"]) > 1
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.from_string(PAGE).render(
        use=INTENDED_USE, chart=inline_chart(figure), head=cells[0], rows=cells[2:], note=note,
        importance=importance,
    )  # fmt: skip
    write_text(path, page)

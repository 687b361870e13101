"""The result of a benchmark as a picture: a bar for each subject, as SVG or PNG.

`draw` makes a list of rectangles, lines and texts; two short painters put it on paper. A plotting
library would be many times the size of everything else on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from edge_runtime.benchmark.tables import short
from edge_runtime.errors import printable
from edge_runtime.files import write_bytes, write_text

SUFFIXES = (".svg", ".png")
WIDTH, MARGIN, HEAD, ROW, BAR, FOOT = 900, 28, 96, 64, 20, 58
RIGHT = 220  # space behind the axis for the figures of the longest bar
# Told apart by the colour-blind too (Okabe and Ito).
COLOURS = {"decode": "#e69f00", "preprocess": "#56b4e9", "invoke": "#0072b2"}
INK, FAINT, GRID, PAPER = "#1a1a1a", "#595959", "#dddddd", "#ffffff"


@dataclass(frozen=True)
class Rect:
    """A filled rectangle; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float = 1.0


@dataclass(frozen=True)
class Text:
    """One line of text; x and y are the `anchor` (start, middle or end) of its base line."""

    x: float
    y: float
    text: str
    size: float
    colour: str = INK
    anchor: str = "start"
    bold: bool = False


Shape = Rect | Line | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes on white paper, the first below the others; all lengths in pixels."""

    width: int
    height: int
    shapes: list[Shape]


def write_plot(path: Path, result: dict[str, Any]) -> None:
    """Draw the result of `measure` into a file whose suffix is one of SUFFIXES."""
    drawing = draw(result)
    if path.suffix.lower() == ".svg":
        write_text(path, to_svg(drawing))
    else:
        write_bytes(path, to_png(drawing))


def draw(result: dict[str, Any]) -> Drawing:
    """A bar for each subject: the p50 of the whole query, split as its steps' p50 are; a whisker
    to p90 and p99; the figures beside it and the name above."""
    rows = result["models"]
    longest = max(row["total_ms"]["p90"] for row in rows)
    # One stray sample must not press all bars together: a whisker may run out of the axis.
    limit = min(max(row["total_ms"]["p99"] for row in rows), 1.5 * longest)
    step = _tick(limit)
    scale = (WIDTH - 2 * MARGIN - RIGHT) / limit
    bottom = HEAD + ROW * len(rows)
    shapes = _head(result)
    for i in range(math.floor(limit / step + 1e-9) + 1):
        x = MARGIN + i * step * scale
        for top in range(HEAD, bottom, ROW):  # beside the bars, not through the names
            shapes.append(Line(x, top + 27, x, top + 35 + BAR, GRID))
        shapes.append(Text(x, bottom + 18, f"{i * step:g}", 12, FAINT, "middle"))
    shapes.append(Text(MARGIN, bottom + 40, "ms per image; warnings: " + _count(result), 12, FAINT))
    for i, row in enumerate(rows):
        shapes += _bar(row, HEAD + ROW * i, scale, limit)
    return Drawing(WIDTH, bottom + FOOT, shapes)


def _head(result: dict[str, Any]) -> list[Shape]:
    """Title, rules and legend."""
    machine, rules = result["machine"], result["rules"]
    title = f"Time for one image on {short(machine['cpu'], 60)}"
    below = f"{rules['queries']} queries each, images: {rules['images']}"
    shapes: list[Shape] = [
        Text(MARGIN, 34, title, 18, bold=True),
        Text(MARGIN, 56, below, 13, FAINT),
    ]
    x = float(MARGIN)
    for name, colour in COLOURS.items():
        shapes += [Rect(x, 68, 12, 12, colour), Text(x + 18, 79, name, 12)]
        x += 40 + 7 * len(name)
    shapes += [*_whisker(x, x + 14, x + 30, 74), Text(x + 38, 79, "p50 to p90, p99", 12)]
    return shapes


def _bar(row: dict[str, Any], top: float, scale: float, limit: float) -> list[Shape]:
    total = row["total_ms"]
    facts = [f"{row['bytes'] / 1024:.0f} KiB"]
    if row["peak_mib"] is not None:
        facts.append(f"{row['peak_mib']:.0f} MiB")
    if row["accuracy"] is not None:
        facts.insert(0, f"accuracy {100 * row['accuracy']:.1f} %")
    shapes: list[Shape] = [
        Text(MARGIN, top + 22, short(row["name"], 60), 14, bold=True),
        Text(WIDTH - MARGIN, top + 22, ", ".join(facts), 13, FAINT, "end"),
    ]
    parts = {name: row[f"{name}_ms"]["p50"] for name in COLOURS}
    whole = sum(parts.values()) or 1.0  # medians of parts do not add up to that of the whole
    x = float(MARGIN)
    for name, part in parts.items():
        width = part / whole * total["p50"] * scale
        shapes.append(Rect(x, top + 31, width, BAR, COLOURS[name]))
        x += width
    p90, p99 = (MARGIN + min(total[p], limit) * scale for p in ("p90", "p99"))
    shapes += _whisker(x, p90, p99, top + 31 + BAR / 2, open_end=total["p99"] > limit)
    p50, p90_text, p99_text = (_digits(total[p]) for p in ("p50", "p90", "p99"))
    figures = f"{p50} ms (p90 {p90_text}, p99 {p99_text})"
    shapes.append(Text(p99 + 10, top + 46, figures, 12))
    return shapes


def _whisker(
    p50: float, p90: float, p99: float, y: float, *, open_end: bool = False
) -> list[Shape]:
    """A line from p50 to p99, a mark at p90 and, unless p99 is off the axis, one at its end."""
    shapes: list[Shape] = [
        Line(p50, y, p99, y, INK, 1.5),
        Line(p90, y - 6, p90, y + 6, INK, 1.5),
    ]
    if open_end:
        return [*shapes, *(Line(p99 - 5, y + d, p99, y, INK, 1.5) for d in (-4, 4))]
    return [*shapes, Line(p99, y - 4, p99, y + 4, INK, 1.5)]


def _digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _count(result: dict[str, Any]) -> str:
    return str(len(result["warnings"]) or "none")


def _tick(limit: float) -> float:
    """A round step (1, 2 or 5 times a power of ten) that makes four to ten of `limit`."""
    power = 10.0 ** math.floor(math.log10(limit))
    return next(m * power for m in (0.1, 0.2, 0.5, 1.0, 2.0) if limit / (m * power) <= 10)


def to_svg(drawing: Drawing) -> str:
    """The drawing as the text of an SVG file."""
    width, height = drawing.width, drawing.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for s in drawing.shapes:
        if isinstance(s, Rect):
            size = f'width="{s.width:.1f}" height="{s.height:.1f}"'
            lines.append(f'<rect x="{s.x:.1f}" y="{s.y:.1f}" {size} fill="{s.colour}"/>')
        elif isinstance(s, Line):
            ends = f'x1="{s.x1:.1f}" y1="{s.y1:.1f}" x2="{s.x2:.1f}" y2="{s.y2:.1f}"'
            lines.append(f'<line {ends} stroke="{s.colour}" stroke-width="{s.width:g}"/>')
        else:
            bold = ' font-weight="bold"' if s.bold else ""
            lines.append(
                f'<text x="{s.x:.1f}" y="{s.y:.1f}" font-size="{s.size:g}" fill="{s.colour}" '
                f'text-anchor="{s.anchor}"{bold}>{escape(printable(s.text))}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def to_png(drawing: Drawing, zoom: int = 2) -> bytes:
    """The drawing as a PNG of `zoom` times its size."""
    import cv2
    import numpy as np

    paper = np.full((drawing.height * zoom, drawing.width * zoom, 3), 255, np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * zoom), round(y * zoom)

    for s in drawing.shapes:
        colour = _bgr(s.colour)
        if isinstance(s, Rect):
            (x1, y1), (x2, y2) = at(s.x, s.y), at(s.x + s.width, s.y + s.height)
            paper[y1:y2, x1:x2] = colour
        elif isinstance(s, Line):
            thick = max(1, round(s.width * zoom))
            cv2.line(paper, at(s.x1, s.y1), at(s.x2, s.y2), colour, thick, cv2.LINE_AA)
        else:
            # OpenCV's own letters are plain ASCII; at scale 1 they fill a line of about 30 pixels.
            text = s.text.encode("ascii", "replace").decode("ascii")
            font, thick = cv2.FONT_HERSHEY_SIMPLEX, zoom if s.bold else max(1, zoom - 1)
            height = s.size * zoom / 30
            wide = cv2.getTextSize(text, font, height, thick)[0][0]
            x, y = at(s.x, s.y)
            x -= {"start": 0, "middle": wide // 2, "end": wide}[s.anchor]
            cv2.putText(paper, text, (x, y), font, height, colour, thick, cv2.LINE_AA)
    return bytes(cv2.imencode(".png", paper)[1])


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red

"""What `btc-edge benchmark --format json` measured, read and drawn: a bar for each model.

The file may come from any device: everything in it is checked before it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.benchmark.tables import short
from edge_runtime.errors import DataError, one_line
from edge_runtime.json_text import parse_json
from edge_runtime.processor import features_in_words
from trainer.report.charts import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BYTES = 16 << 20  # a result of a hundred models takes 0.2 MB
MAX_MODELS = 100  # in one picture: one bar more would be no picture any more
# Told apart by the colour-blind too (Okabe and Ito).
COLOURS = {"decode": "#e69f00", "preprocess": "#56b4e9", "invoke": "#0072b2"}
INK, FAINT = "#1a1a1a", "#595959"
BAR = 0.36  # of a model's line; the rest is for its name


@dataclass(frozen=True)
class ModelTimes:
    """One model on one device; times in ms.

    Attributes:
        bytes: size of its file.
        peak_mib, accuracy: None where the benchmark does not know them.
        steps: the median of each step, in the order of COLOURS. They need not add up to `p50`.
        p50, p90, p99: of a whole query.
    """

    name: str
    bytes: int
    peak_mib: float | None
    accuracy: float | None
    steps: tuple[float, ...]
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class DeviceTimes:
    """One result: the processor and its features, what was asked of it, its models, and how many
    warnings."""

    cpu: str
    features: str
    queries: int
    images: str
    models: tuple[ModelTimes, ...]
    warnings: int


class _OtherShape(Exception):
    """A field that is not what the benchmark writes there."""


def read_device_times(path: Path) -> DeviceTimes:
    """Read the result of one benchmark.

    Raises:
        DataError: damaged, or not what `btc-edge benchmark --format json` writes.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: over {MAX_BYTES >> 20} MiB is no result of a benchmark")
    try:
        result = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path}: damaged, no JSON: {one_line(error)}") from None
    try:
        return _device_times(_Field("the file", result))
    except _OtherShape as error:
        raise DataError(
            f"{path}: no result of `btc-edge benchmark --format json`: {error}"
        ) from None


def _device_times(result: _Field) -> DeviceTimes:
    models = result["models"].entries()
    if not models:
        raise _OtherShape("it measured no model")
    rules = result["rules"]
    return DeviceTimes(
        cpu=result["machine"]["cpu"].text(),
        features=_features(result["machine"]),
        queries=int(rules["queries"].number()),
        images=rules["images"].text(),
        models=tuple(map(_model_times, models)),
        warnings=len(result["warnings"].entries()),
    )


def _features(machine: _Field) -> str:
    """The processor's features in words; the results of older versions have none."""
    flags = machine.get("flags")
    return features_in_words({"flags": flags and [flag.text() for flag in flags.entries()]})


def _model_times(row: _Field) -> ModelTimes:
    total = row["total_ms"]
    p50, p90, p99 = (total[key].number() for key in ("p50", "p90", "p99"))
    if not 0 < p50 <= p90 <= p99:
        raise _OtherShape(f"{total.name} are no percentiles")
    return ModelTimes(
        name=row["name"].text(),
        bytes=int(row["bytes"].number()),
        peak_mib=row["peak_mib"].number_or_none(),
        accuracy=row["accuracy"].number_or_none(),
        steps=tuple(row[f"{step}_ms"]["p50"].number() for step in COLOURS),
        p50=p50,
        p90=p90,
        p99=p99,
    )


class _Field:
    """A value of the file and its name in words; asked for what it is not, it says so."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self._value = name, value

    def __getitem__(self, key: str) -> _Field:
        if not isinstance(self._value, dict) or key not in self._value:
            raise _OtherShape(f"{self.name} has no {key!r}")
        name = key if self.name == "the file" else f"{self.name}.{key}"
        return _Field(name, self._value[key])

    def get(self, key: str) -> _Field | None:
        """A value that may be missing, or null."""
        if isinstance(self._value, dict) and self._value.get(key) is None:
            return None
        return self[key]

    def entries(self) -> list[_Field]:
        if not isinstance(self._value, list):
            raise _OtherShape(f"{self.name} is no list")
        return [_Field(f"{self.name}[{i}]", value) for i, value in enumerate(self._value)]

    def text(self) -> str:
        """Text, or a number as text: some rules are told as either."""
        if isinstance(self._value, bool) or not isinstance(self._value, (str, int)):
            raise _OtherShape(f"{self.name} is no text")
        return str(self._value)

    def number(self) -> float:
        """Finite, at least 0, and below what a picture can tell apart from too large."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise _OtherShape(f"{self.name} is no number that was measured")
        return float(value)

    def number_or_none(self) -> float | None:
        return None if self._value is None else self.number()


def device_times_chart(results: Sequence[DeviceTimes]) -> Figure:
    """A bar for each model: the median of a whole query, split as the medians of its steps are; a
    whisker to p90 and p99; the figures beside it and the name above. Each device has a part of the
    picture, all with one scale.

    Raises:
        DataError: more models than one picture holds.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = [len(result.models) for result in results]
    if sum(counts) > MAX_MODELS:
        raise DataError(f"{sum(counts)} models are too many for one picture; at most {MAX_MODELS}")
    # One stray sample must not press all bars together: a whisker may run out of the axis.
    models = [model for result in results for model in result.models]
    limit = min(max(m.p99 for m in models), 1.5 * max(m.p90 for m in models))
    figure = Figure(figsize=(9, 0.9 + 0.62 * sum(counts) + 1.0 * len(counts)), layout="constrained")
    parts = figure.subplots(len(counts), height_ratios=counts, sharex=True, squeeze=False)[:, 0]
    for axes, result in zip(parts, results, strict=True):
        _draw_device(axes, result, limit)
    parts[-1].set_xlim(0, 1.4 * limit)  # beyond the bars, the figures of the longest
    handles = [Patch(color=colour, label=step) for step, colour in COLOURS.items()]
    handles.append(_whisker_sample())
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), fontsize=9, frameon=False
    )
    return figure


def _draw_device(axes: Axes, result: DeviceTimes, limit: float) -> None:
    title = f"Time for one image on {plain(short(result.cpu, 60))}"
    below = f"at least {result.queries} queries each, images: {plain(short(result.images, 60))}"
    features = plain(short(result.features, 90))
    axes.set_title(f"{title}\n{features}\n{below}", loc="left", fontsize=10, color=INK)
    axes.set_xlabel(f"ms per image; warnings: {result.warnings or 'none'}", color=FAINT, loc="left")
    axes.xaxis.set_tick_params(labelbottom=True)
    axes.set_ylim(len(result.models) - 0.5, -0.75)
    axes.set_yticks([])
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for place, model in enumerate(result.models):
        _draw_model(axes, model, place, limit)


def _draw_model(axes: Axes, model: ModelTimes, place: float, limit: float) -> None:
    whole = math.fsum(model.steps) or 1.0  # medians of steps do not add up to that of the whole
    start = 0.0
    for part, (step, colour) in zip(model.steps, COLOURS.items(), strict=True):
        width = part / whole * model.p50
        axes.barh(place, width, BAR, left=start, color=colour, label=step)
        start += width
    end = min(model.p99, limit)
    axes.plot([model.p50, end], [place, place], color=INK, lw=1.2)
    axes.plot([min(model.p90, limit)], [place], "|", color=INK, ms=10)
    axes.plot([end], [place], ">" if model.p99 > limit else "|", color=INK, ms=5)
    times = f"{_ms(model.p50)} ms (p90 {_ms(model.p90)}, p99 {_ms(model.p99)})"
    axes.annotate(times, (end, place), (6, 0), textcoords="offset points", va="center", size=8)
    above: dict[str, Any] = {"y": place - 0.36, "va": "center", "size": 9}
    axes.text(0, s=plain(short(model.name, 60)), weight="bold", **above)
    facts = [f"{model.bytes / 1024:.0f} KiB"]
    if model.peak_mib is not None:
        facts.append(f"{model.peak_mib:.0f} MiB")
    if model.accuracy is not None:
        facts.insert(0, f"accuracy {100 * model.accuracy:.1f} %")
    right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "color": FAINT}
    axes.text(1, s=", ".join(facts), **right, **above)


def _whisker_sample() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, marker="|", label="to p90 and p99")


def _ms(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"

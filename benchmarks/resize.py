"""What each way to scale a slice costs, changes, and is worth on validation slices.

    python -m benchmarks.resize IMAGES --run RUNS/area --run RUNS/pyramid \\
        --elsewhere "aarch64 (QEMU)=qemu-aarch64 -L ROOT -E PYTHONPATH=SITE ROOT/usr/bin/python3" \\
        --elsewhere "SSE4.2 (QEMU)=qemu-x86_64 -cpu Nehalem python"

IMAGES, a zip or folder of slices, are brought to several sizes and preprocessed for the bundled
model each way, in turns, each time after a call of its interpreter and a decode, as in use: caches
are cold then, and a call costs several times what it costs in a tight loop. --elsewhere names
another Python and how to start it, with numpy and OpenCV for it. Runs of one seed that
differ in --resize are compared on the validation slices that each keeps; no test side is looked
at. Writes resize.json and resize.md.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, FOLDER, out_option, publish
from benchmarks.common.formatting import NOTHING, machine_in_words, rate_in_words
from benchmarks.common.inputs import digests, digests_elsewhere
from benchmarks.common.runners import read_slices
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.statistics import paired_ratio
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.prediction import Prediction, probabilities
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.head import head_box
from edge_runtime.imaging.preprocess import RESIZE, Preprocess, preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile
from trainer.evaluation.intervals import difference_interval, in_words, mean_interval, own_groups
from trainer.evaluation.metrics import share_of
from trainer.models.outputs import open_trained
from trainer.report.html import percent
from trainer.run import Run

Gray = npt.NDArray[np.uint8]
Way = Callable[[Gray], Gray]
Seeds = dict[int, dict[str, Run]]  # by seed and way to scale
SHAPES = ((224, 224), (256, 256), (400, 400), (512, 512), (1024, 1024), (512, 384), (640, 480))
WARM_UP = 20
LAST = 5
OLD = "area"
TRIED = "linear, then area"


def linear_then_area(gray: Gray, options: Preprocess) -> Gray:
    """A way that was tried: bilinear to a whole multiple of the size, and whole areas from there.
    Of the preprocessing up to the size only, without the window."""
    gray = gray[head_box(gray)]
    longer, size = max(gray.shape), options.size
    height, width = gray.shape
    top, left = (longer - height) // 2, (longer - width) // 2
    square = cv2.copyMakeBorder(
        gray, top, longer - height - top, left, longer - width - left, cv2.BORDER_CONSTANT, value=0
    )
    multiple = size * max(1, longer // size)
    near = cv2.resize(square, (multiple, multiple), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(cv2.resize(near, (size, size), interpolation=cv2.INTER_AREA))


def ways(options: Preprocess) -> dict[str, Way]:
    """By name, up to the model's size and without the window, which is the same in each."""
    known: dict[str, Way] = {
        name: partial(preprocess, options=replace(options, window=None, resize=name))
        for name in RESIZE
    }
    return known | {TRIED: partial(linear_then_area, options=options)}


def at_shape(gray: Gray, shape: tuple[int, int]) -> Gray:
    """A slice at another size, as from a finer or coarser scanner."""
    how = cv2.INTER_AREA if shape[0] < gray.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(gray, shape[::-1], interpolation=how))


def latency(classifier: Classifier, grays: Sequence[Gray], rounds: int) -> list[dict[str, Any]]:
    """Each way at each size, each call after one of the interpreter and one of the decoder."""
    graph, options = open_graph(classifier.model), classifier.info.preprocess
    graph.run(preprocess(grays[0], options))
    rows = []
    for shape in SHAPES:
        sized = [at_shape(gray, shape) for gray in grays]
        files = [cv2.imencode(".jpg", g, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
                 for g in sized]  # fmt: skip
        calls = ways(options)
        spans: dict[str, list[float]] = {name: [] for name in calls}
        for number, data in enumerate(islice(cycle(files), rounds + WARM_UP)):
            for name in list(calls)[:: 1 if number % 2 else -1]:
                graph.invoke()
                gray = decode(data)
                begun = time.perf_counter()
                calls[name](gray)
                if number >= WARM_UP:
                    spans[name].append((time.perf_counter() - begun) * 1e6)
        inputs = {name: np.stack([call(g) for g in sized]).astype(np.int16)
                  for name, call in calls.items()}  # fmt: skip
        for name in calls:
            ratio, interval = paired_ratio(spans[OLD], spans[name])
            gaps = np.abs(inputs[name] - inputs[OLD]).mean(axis=(1, 2))
            rows.append({
                "shape": list(shape), "way": name, "us": float(np.median(spans[name])),
                "us_p10": float(np.percentile(spans[name], 10)), "ratio": ratio,
                "interval95": interval, "levels": float(gaps.mean()), "worst": float(gaps.max()),
            })  # fmt: skip
    return rows


def changed_answers(model: ModelFile, grays: Sequence[Gray]) -> list[dict[str, Any]]:
    """How many answers of a model that learned one way change under the others."""
    learned = model.info.preprocess
    answers = {}
    for name in (learned.resize, *(name for name in RESIZE if name != learned.resize)):
        info = replace(model.info, preprocess=replace(learned, resize=name))
        classifier = Classifier(replace(model, info=info))
        answers[name] = [classifier.classify(gray) for gray in grays]
    known = answers.pop(learned.resize)
    rows = []
    for name, each in answers.items():
        pairs = list(zip(known, each, strict=True))
        moved = np.abs(_probabilities(each) - _probabilities(known)).max(axis=1)
        rows.append({"way": name, "n": len(pairs),
                     "labels": sum(a.raw_label != b.raw_label for a, b in pairs),
                     "statuses": sum(a.status != b.status for a, b in pairs),
                     "probability": float(moved.mean())})  # fmt: skip
    return rows


def _probabilities(answers: Sequence[Prediction]) -> npt.NDArray[np.float64]:
    return np.array([list((one.probabilities or {}).values()) for one in answers])


def elsewhere(places: dict[str, list[str]], grays: Sequence[Gray], options: Preprocess) -> Any:
    """Whether each way gives the same bytes on another processor: the slices at random sizes,
    cut to the head and whole, before the window."""
    rng = np.random.default_rng(0)
    sized = []
    for gray in grays:
        height = int(rng.integers(60, 1100))
        sized.append(at_shape(gray, (height, int(height * rng.uniform(0.5, 2)))))
    asked = {
        name: [replace(options, window=None, crop=crop, resize=name) for crop in ("head", "none")]
        for name in RESIZE
    }
    flat = [one for each in asked.values() for one in each]
    here = [digests(sized, one) for one in flat]
    rows = []
    for place, words in places.items():
        click.echo(f"{place} …", err=True)
        there = digests_elsewhere(words, sized, flat)
        for i, name in enumerate(asked):
            pairs = [pair for k in (2 * i, 2 * i + 1)
                     for pair in zip(here[k], there["digests"][k], strict=True)]  # fmt: skip
            rows.append({"place": place, "machine": there["machine"], "opencv": there["opencv"],
                         "way": name, "n": len(pairs),
                         "differ": sum(a != b for a, b in pairs)})  # fmt: skip
    return rows


class _Measured(NamedTuple):
    """A run on the validation slices it keeps."""

    run: Run
    labels: npt.NDArray[np.int64]
    groups: list[str]
    hits: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float64]

    @property
    def late(self) -> float:
        """Validation accuracy as the mean of the last epochs, where the rate is low: one epoch's
        wanders by a point."""
        return float(np.mean([row["val_accuracy"] for row in self.run.history()[-LAST:]]))


def by_seed(runs: Sequence[Run]) -> Seeds:
    """Runs that may be compared: those of one seed differ in the way to scale, and one has `area`.

    Raises:
        UsageError: two runs of one seed with one resize, or none with `area` beside one.
        DataError: runs of one seed with other validation slices, or other settings.
    """
    found: Seeds = {}
    for run in runs:
        seed, way = int(run.settings["seed"]), run.preprocess.resize
        if way in found.setdefault(seed, {}):
            raise UsageError(f"two runs of seed {seed} with resize {way}")
        found[seed][way] = run
    for seed, by_way in found.items():
        if OLD not in by_way:
            raise UsageError(f"no run of seed {seed} with resize {OLD} to compare with")
        for run in by_way.values():
            _check_pair(by_way[OLD], run)
    return found


def validation(seeds: Seeds) -> list[dict[str, Any]]:
    """Runs on the validation slices they keep; those of one seed beside the one with `area`, and
    all seeds together."""
    rows = []
    pairs: dict[str, list[tuple[_Measured, _Measured]]] = {}
    for seed, by_way in sorted(seeds.items()):
        measured = {way: _measure(run) for way, run in by_way.items()}
        for way, one in sorted(measured.items()):
            pairs.setdefault(way, []).append((measured[OLD], one))
            rows.append({"seed": seed, "way": way} | _compared([(measured[OLD], one)], way))
    several = len(seeds) > 1
    together = [{"seed": None, "way": way} | _compared(of_way, way)
                for way, of_way in pairs.items() if several and way != OLD]  # fmt: skip
    return rows + together


def _measure(run: Run) -> _Measured:
    side = run.validation_images()
    logits = open_trained(run).predict(side.pixels).logits
    by_class = probabilities(logits, float(run.settings["temperature"]))
    right = by_class[np.arange(len(side.labels)), side.labels]
    return _Measured(
        run, side.labels, own_groups(side.groups), by_class.argmax(axis=1) == side.labels,
        -np.log(np.maximum(right, 1e-7)).astype(np.float64),
    )  # fmt: skip


def _compared(pairs: Sequence[tuple[_Measured, _Measured]], way: str) -> dict[str, Any]:
    """The second of each pair beside the first, slice by slice; a group that several seeds hold
    out is one."""
    groups = [group for _, one in pairs for group in one.groups]
    hits = np.concatenate([one.hits for _, one in pairs])
    losses = np.concatenate([one.losses for _, one in pairs])
    row = {
        "accuracy": share_of(hits, groups),
        "loss": float(losses.mean()),
        "late": float(np.mean([one.late for _, one in pairs])),
        "gain": None,
        "loss_change": None,
        "late_gain": None,
    }
    if way == OLD:
        return row
    gain = hits.astype(int) - np.concatenate([base.hits for base, _ in pairs])
    more = losses - np.concatenate([base.losses for base, _ in pairs])
    return row | {
        "gain": {"share": float(gain.mean()), "interval95": difference_interval(gain, groups)},
        "loss_change": {"mean": float(more.mean()), "interval95": mean_interval(more, groups)},
        "late_gain": float(np.mean([one.late - base.late for base, one in pairs])),
    }


def _check_pair(base: Run, one: Run) -> None:
    folders = f"{base.folder}, {one.folder}"
    sides = [run.validation_images() for run in (base, one)]
    if sides[0].groups != sides[1].groups or not np.array_equal(sides[0].labels, sides[1].labels):
        raise DataError(f"{folders}: not the same validation slices")
    steps = [replace(run.preprocess, resize=OLD) for run in (base, one)]
    training = [run.settings["training"] for run in (base, one)]
    if steps[0] != steps[1] or training[0] != training[1]:
        raise DataError(f"{folders}: they differ in more than --resize")


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    others = [name for name in (*RESIZE, TRIED) if name != OLD]
    lines = [
        f"| slice | `{OLD}` µs | " + " | ".join(f"{name} µs, of it" for name in others)
        + f" | gray levels that `{others[0]}` is off it (worst slice) |",
        "|---|--:|" + "--:|" * (len(others) + 1),
    ]  # fmt: skip
    by_shape: dict[str, dict[str, Any]] = {}
    for row in result["latency"]:
        by_shape.setdefault(f"{row['shape'][1]}×{row['shape'][0]}", {})[row["way"]] = row
    for shape, row in by_shape.items():
        cells = [f"{row[OLD]['us']:.0f}", *(_against(row[name]) for name in others)]
        new = row[others[0]]
        cells.append(f"{new['levels']:.1f} ({new['worst']:.1f})")
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    lines += [
        "",
        f"From a decoded slice to its place in an input of {result['size']}×{result['size']}, "
        "without the window, each call after one of the interpreter and one of the decoder; "
        f"medians, in turns; {machine_in_words(result['machine'])}.",
    ]
    if result["elsewhere"]:
        lines += ["", "| processor | OpenCV | way | inputs | other bytes than here |",
                  "|---|---|---|--:|--:|"]  # fmt: skip
        lines += [
            f"| {row['place']} | {row['opencv']} | {row['way']} | {row['n']} | {row['differ']} |"
            for row in result["elsewhere"]
        ]
    if result["validation"]:
        lines += [
            "",
            "| seed | way | validation accuracy % | against `area`, points | log loss | change "
            f"| accuracy % of the last {LAST} epochs | against `area`, points |",
            "|--:|---|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_validation_row(row) for row in result["validation"]]
    lines += ["", "| answers of the bundled model with | slices | another label | another status "
              "| change of the probability that changes most, on average |",
              "|---|--:|--:|--:|--:|"]  # fmt: skip
    lines += [
        f"| {row['way']} | {row['n']} | {row['labels']} | {row['statuses']} "
        f"| {row['probability']:.3f} |"
        for row in result["answers"]
    ]
    lines += ["", f"{result['model']} learned with `{result['learned']}`."]
    return "\n".join([*lines, ""])


def _validation_row(row: dict[str, Any]) -> str:
    change, late_gain = NOTHING, NOTHING
    if row["loss_change"] is not None:
        ends = in_words(row["loss_change"]["interval95"], lambda end: f"{end:+.3f}", " to ")
        change = f"{row['loss_change']['mean']:+.3f} ({ends})"
        late_gain = f"{100 * row['late_gain']:+.1f}"
    cells = [
        "all" if row["seed"] is None else str(row["seed"]),
        row["way"],
        rate_in_words(row["accuracy"]),
        rate_in_words(row["gain"], signed=True),
        f"{row['loss']:.3f}",
        change,
        percent(row["late"]),
        late_gain,
    ]
    return f"| {' | '.join(cells)} |"


def _against(row: dict[str, Any]) -> str:
    spread = in_words(row["interval95"], lambda end: f"{end:.2f}")
    return f"{row['us']:.0f}, **{row['ratio']:.2f}** ({spread})"


def _places(texts: Sequence[str]) -> dict[str, list[str]]:
    """Raises UsageError for a text that is no NAME=COMMAND."""
    places = {}
    for text in texts:
        name, _, command = text.partition("=")
        if not name or not command.strip():
            raise UsageError(f"--elsewhere {text!r}: NAME=COMMAND")
        try:
            places[name] = shlex.split(command)
        except ValueError as error:  # a quotation that does not end
            raise UsageError(f"--elsewhere {text!r}: {error}") from None
    return places


@click.command()
@click.argument("images", type=EXISTING)
@click.option("--run", "folders", type=FOLDER, multiple=True, help="Repeatable.")
@click.option("--elsewhere", "texts", multiple=True, metavar="NAME=COMMAND", help="Repeatable.")
@click.option("--rounds", type=click.IntRange(1), default=400, show_default=True)
@click.option("--slices", type=click.IntRange(1), default=32, show_default=True)
@click.option("--answers", type=click.IntRange(1), default=1000, show_default=True)
@out_option
def main(images: Path, folders: tuple[Path, ...], texts: tuple[str, ...], rounds: int,
         slices: int, answers: int, out: Path) -> None:  # fmt: skip
    """Measure the ways to scale a slice, on IMAGES and on the validation slices of runs."""
    places, seeds = _places(texts), by_seed([Run.open(folder) for folder in folders])
    classifier = Classifier(None)
    options = classifier.info.preprocess
    grays = read_slices(images, answers)
    result = {
        "machine": machine_facts(),
        "model": classifier.model.tag,
        "learned": options.resize,
        "size": options.size,
        "latency": latency(classifier, grays[:: -(-len(grays) // slices)], rounds),
        "answers": changed_answers(classifier.model, grays),
        "elsewhere": elsewhere(places, grays[::4], options) if places else [],
        "validation": validation(seeds),
    }
    publish(out, "resize", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.resize", extra="train")

"""What a user would otherwise pick, beside btc-edge, in one run on the same pictures.

    python -m benchmarks.peers RUN --keep FOLDER --out benchmarks/results

RUN is a trained network (`btc-train`); what it lacks in RUN/export is exported first, so that all
run the same weights. Each peer is a small script (benchmarks/peers/scripts) in a fresh environment
of its own: LiteRT, ONNX Runtime and OpenCV DNN with nothing around them but a plain resize,
MediaPipe Tasks with the network wrapped for it, and Ultralytics with an untrained network of its
own, for speed only. Gigabytes are downloaded. Measured: from a JPEG in memory to probabilities, in
turns on the same pictures, one thread each; a folder, with a thread for each core; the first
answer of a new process; memory; installed size. Writes peers.json and peers.md.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, FOLDER, out_option, publish
from benchmarks.common.environments import (
    VERSION,
    Environment,
    build_wheel,
    find_python,
    install,
    installed_bytes,
    packages,
    run,
)
from benchmarks.common.formatting import MIB, NOTHING, machine_in_words
from benchmarks.common.memory import PeakMemory, launch_tree
from benchmarks.common.pictures import draw_pictures, write_jpegs
from benchmarks.common.process import clean_environment, kill_group, run_tool
from benchmarks.peers.wrap import colour_network
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.statistics import paired_ratio, percentiles
from edge_runtime.errors import BtcError
from edge_runtime.model.load import read_model
from export.formats import FORMATS
from trainer.evaluation.intervals import in_words
from trainer.quiet import import_tensorflow
from trainer.run import Run

SCRIPTS = Path(__file__).with_name("scripts")
SIDES = (224, 512)
PICTURES = 64
WARM_UP = 20
SETTLING, TURN = 2, 8  # pictures
FOLDER_ROUNDS = 3
INSTALL_SECONDS, ANSWER_SECONDS, FILE_SECONDS = 600.0, 120.0, 0.2
END_SECONDS = 10.0  # that a process may take to end once it is asked no more
OPENCV = "opencv-python-headless"
OURS = "btc-edge"
PLAIN = "LiteRT"
PLAIN_BAR, PLAIN_SIDE = 1.15, 512  # it does less: checks nothing, cuts no head out
MEDIAPIPE = "mediapipe"
EXPORTS = ("int8", "float32", "onnx", "onnx-int8")
UNTRAINED = "yolo11n-cls.yaml"
STRIDE = 32  # the sides of its pictures are multiples


@dataclass(frozen=True)
class Peer:
    """One library and how it is used.

    Attributes:
        script: name of its module in the folder of scripts.
        installs: for pip; ours is the wheel of this checkout.
        shown: the distribution whose version the table names.
        files: what it runs, by kind; each is a row.
    """

    name: str
    script: str
    installs: tuple[str, ...]
    shown: str
    files: tuple[str, ...]


PEERS = (
    Peer(OURS, "btc_edge", (), "btc-edge", ("int8", "float32")),
    Peer(PLAIN, "plain_litert", ("ai-edge-litert", "numpy", OPENCV), "ai-edge-litert",
         ("int8", "float32")),
    Peer("ONNX Runtime", "plain_onnxruntime", ("onnxruntime", "numpy", OPENCV), "onnxruntime",
         ("onnx-int8", "onnx")),
    Peer("OpenCV DNN", "plain_opencv", ("numpy", OPENCV), OPENCV, ("onnx",)),
    Peer("MediaPipe ImageClassifier", "mediapipe_tasks", ("mediapipe",), "mediapipe", (MEDIAPIPE,)),
    Peer("Ultralytics classify", "ultralytics_classify", ("ultralytics",), "ultralytics",
         (UNTRAINED,)),
)  # fmt: skip
# What of ours runs the same numbers: it is compared with that.
SAME = {"int8": "int8", "onnx-int8": "int8", "float32": "float32", "onnx": "float32",
        MEDIAPIPE: "float32"}  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A peer in its environment with one file."""

    peer: Peer
    environment: Environment
    kind: str
    model: str
    size: int
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a line on stderr calls it."""
        return f"{self.peer.name} ({self.kind})"

    def command(self, *pictures: str) -> list[str]:
        """What runs its script; see scripts/serve.py."""
        words = [str(SCRIPTS / "serve.py"), self.peer.script, self.model, str(self.size)]
        return [str(self.environment.python), *words, ",".join(self.labels), *pictures]

    def first_answer(self, picture: str) -> list[str]:
        """What classifies one picture and ends; ours is the command that a user types."""
        if self.peer.name != OURS:
            return self.command(picture)
        tool = self.environment.folder / "bin" / "btc-edge"
        return [str(tool), "classify", "--model", self.model, "--format", "json", picture]


class PeerError(BtcError):
    """A contender that cannot be measured to the end, and what it did."""

    def __init__(self, contender: Contender, what: str) -> None:
        super().__init__(f"{contender.name} {what}")
        self.contender, self.what = contender, what


class Serving:
    """A contender's process, which waits for requests."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender = contender
        self._late = False
        self._log = folder / f"{contender.peer.script}-{contender.kind}.log"
        with self._log.open("wb") as problems:
            self._process = subprocess.Popen(
                contender.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=problems, text=True, cwd=folder, env=clean_environment(),
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def ask(self, seconds: float = ANSWER_SECONDS, /, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerError: it ended, with the last line that it left on stderr; or it took longer than
                `seconds`, and was killed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(seconds, self._too_late)  # a request too may find a full pipe
        limit.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            limit.cancel()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self.close()
            if self._late:
                raise PeerError(self.contender, f"gave no answer in {seconds:g} s") from None
            last = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise PeerError(self.contender, f"ended: {' '.join(last)}") from None
        return answer

    def _too_late(self) -> None:
        self._late = True
        kill_group(self.pid)

    def close(self, seconds: float = END_SECONDS) -> None:
        """End it, and wait for that; kill it after so long."""
        assert self._process.stdin is not None
        with self._process:
            with suppress(OSError):  # it has ended before
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            if self._process.returncode is None:
                kill_group(self.pid)


def exported(trained: Run) -> dict[str, Path]:
    """The run's files by kind; what is not there yet is exported."""
    folder = trained.folder / "export"
    for missing in (True, False):
        found = {
            kind: next(iter(sorted(folder.glob(FORMATS[kind].file_name("*")))), None)
            for kind in EXPORTS
        }
        absent = [f"--{kind}" for kind, path in found.items() if path is None]
        if absent and missing:
            run_tool(["btc-export", trained.folder, *absent])
    if absent:
        raise BtcError(f"{folder}: btc-export left no file for {', '.join(absent)}")
    return {kind: path.resolve() for kind, path in found.items() if path is not None}


def wrapped(trained: Run, environment: Environment, folder: Path) -> Path:
    """The network with MediaPipe's metadata, which its own environment adds."""
    bare, whole = folder / "colour.tflite", folder / "mediapipe.tflite"
    import_tensorflow()
    with redirect_stdout(io.StringIO()):  # the converter prints there
        bare.write_bytes(colour_network(trained.load_model()))
    metadata = SCRIPTS / "mediapipe_metadata.py"
    run(environment.python, metadata, bare, whole, *trained.labels, seconds=ANSWER_SECONDS)
    return whole


def contenders(
    trained: Run, keep: Path, work: Path, python: str
) -> tuple[list[Contender], list[str]]:
    """All that can be had here and answers, and a line for each that does not."""
    files = {kind: str(path) for kind, path in exported(trained).items()} | {UNTRAINED: UNTRAINED}
    size = trained.preprocess.size
    (picture,) = write_jpegs(work / "picture", draw_pictures(1, None), SIDES[0], 1)
    found, left_out = [], []
    for peer in PEERS:
        environment = Environment(keep / peer.script)
        click.echo(f"{peer.name}: installing", err=True)
        try:
            wheel = None if peer.installs else build_wheel(work)
            choices = [peer.installs] if peer.installs else []
            install(environment, python, choices, wheel, INSTALL_SECONDS)
            if MEDIAPIPE in peer.files:
                files[MEDIAPIPE] = str(wrapped(trained, environment, work))
            mine = []
            for kind in peer.files:
                side = size if kind in SAME else max(STRIDE, round(size / STRIDE) * STRIDE)
                each = Contender(peer, environment, kind, files[kind], side, trained.labels)
                run(*each.command(str(picture)), seconds=ANSWER_SECONDS)
                mine.append(each)
            found += mine
        except BtcError as error:
            if peer.name == OURS:
                raise
            left_out.append(f"{peer.name} was left out: {error}")
            click.echo(left_out[-1], err=True)
    return found, left_out


def latency(serving: Sequence[Serving], side: Path, rounds: int) -> tuple[Any, list[list[str]]]:
    """Milliseconds (contenders × rounds) on the pictures of a folder, and the labels of their
    answers.

    They take turns of several pictures, the same for all. The first of a turn is asked about
    before, uncounted: what another left in the caches says nothing of this one.
    """
    paths = sorted(map(str, side.iterdir()))
    for each in serving:
        each.ask(read=paths)
        for i in range(WARM_UP):
            each.ask(classify=i % len(paths))
    spans: list[list[float]] = [[] for _ in serving]
    labels: list[list[str]] = [[] for _ in serving]
    for number, begin in enumerate(range(0, rounds, TURN)):
        for i in range(len(serving)):
            who = (i + number) % len(serving)  # none is always the one behind another
            for _ in range(SETTLING):
                serving[who].ask(classify=begin % len(paths))
            for picture in range(begin, min(begin + TURN, rounds)):
                answer = serving[who].ask(classify=picture % len(paths))
                spans[who].append(answer["ms"])
                shares = answer["probabilities"]
                labels[who].append(max(shares, key=shares.__getitem__))
    return np.array(spans), labels


def folder_rate(serving: Serving, paths: Sequence[str], workers: int) -> float:
    """Pictures a second."""
    seconds = ANSWER_SECONDS + FILE_SECONDS * len(paths)
    answer = serving.ask(seconds, folder=paths, workers=workers)
    if answer["done"] != len(paths):
        what = f"classified only {answer['done']} of {len(paths)} files"
        raise PeerError(serving.contender, what)
    return float(answer["done"] / answer["seconds"])


def folder_memory(contender: Contender, folder: Path, paths: Sequence[str], workers: int) -> float:
    """Peak in MiB of all processes of a contender that does nothing but classify a folder."""
    alone = Serving(contender, folder)
    with closing(alone), PeakMemory(alone.pid) as memory:
        folder_rate(alone, paths, workers)
    return memory.peak


def counterpart(rows: Sequence[Contender], of: Contender) -> int | None:
    """Where ours with the same numbers stands; None for ours itself and for another network."""
    if of.peer.name == OURS or of.kind not in SAME:
        return None
    return next(
        i for i, row in enumerate(rows)
        if row.peer.name == OURS and row.kind == SAME[of.kind]
    )  # fmt: skip


def bar_of(contender: Contender, side: int) -> float | None:
    """The most that ours may take of a peer's time."""
    if contender.peer.name == OURS or contender.kind not in SAME:
        return None
    if contender.peer.name == PLAIN:
        return PLAIN_BAR if side == PLAIN_SIDE else None
    return 1.0


def first_answer(contender: Contender, picture: str, folder: Path) -> tuple[float, float]:
    """Milliseconds and MiB of a new process that classifies one file and ends."""
    try:
        return launch_tree(contender.first_answer(picture), folder, seconds=ANSWER_SECONDS)
    except BtcError as error:
        raise PeerError(contender, f"has no first answer: {error}") from None


def measure_all(
    rows: Sequence[Contender], images: Path | None, rounds: int, files: int, repeats: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """What `measure` tells of those that can be measured to the end, and a line for each other: one
    that fails is left out, and the rest, which took turns with it, begin again.

    Raises:
        PeerError: ours is the one that fails.
    """
    left = list(rows)
    left_out: list[str] = []
    while True:
        try:
            return measure(left, images, rounds, files, repeats), left_out
        except PeerError as error:
            if error.contender.peer.name == OURS:
                raise
            left.remove(error.contender)
            left_out.append(f"{error.contender.name} was left out: it {error.what}")
            click.echo(f"{left_out[-1]}; measuring the others again", err=True)


def measure(
    rows: Sequence[Contender], images: Path | None, rounds: int, files: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for each contender; see the module's text.

    Raises:
        PeerError: one ended, or did not answer in time.
    """
    workers = os.cpu_count() or 1
    pictures = draw_pictures(PICTURES, images)
    results: list[dict[str, Any]] = [
        {
            "peer": each.peer.name,
            "kind": each.kind,
            "version": packages(each.environment.site).get(each.peer.shown),
            "size": each.size,
            "workers": workers,
            "installed_mib": installed_bytes(each.environment.site) / MIB,
            "latency_ms": {},
            "ours_over": {},
            "same_label": {},
        }
        for each in rows
    ]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        one = str(write_jpegs(folder / "one", pictures[:1], SIDES[0], 1)[0])
        starts = [[first_answer(each, one, folder) for each in rows] for _ in range(repeats + 1)][
            1:
        ]  # the first warmed the disk cache
        for i, row in enumerate(results):
            row["first_ms"] = float(np.median([start[i][0] for start in starts]))
            row["first_mib"] = max(start[i][1] for start in starts)
        serving = [Serving(each, folder) for each in rows]
        for each in serving:
            stack.callback(each.close)
        for side in SIDES:
            write_jpegs(folder / str(side), pictures, side, len(pictures))
            spans, labels = latency(serving, folder / str(side), rounds)
            for i, row in enumerate(results):
                row["latency_ms"][str(side)] = percentiles(spans[i])
                ours = counterpart(rows, rows[i])
                if ours is None:
                    continue
                ratio, interval = paired_ratio(spans[i], spans[ours])
                bar = bar_of(rows[i], side)
                row["ours_over"][str(side)] = {
                    "ratio": ratio, "interval95": interval, "bar": bar,
                    "holds": None if bar is None else ratio <= bar,
                }  # fmt: skip
                row["same_label"][str(side)] = float(
                    np.mean([a == b for a, b in zip(labels[i], labels[ours], strict=True)])
                )
        many = list(map(str, write_jpegs(folder / "many", pictures, SIDES[0], files)))
        rates: list[list[float]] = [[] for _ in rows]
        for number in range(FOLDER_ROUNDS + 1):
            for each, seen in zip(serving, rates, strict=True):
                # The first opens models and threads.
                some = many if number else many[: 4 * workers]
                seen.append(folder_rate(each, some, workers))
        stack.close()
        for i, row in enumerate(results):
            row["folder_rate"] = float(np.median(rates[i][1:]))
            row["folder_mib"] = folder_memory(rows[i], folder, many, workers)
    return results


def _ratio_in_words(over: dict[str, Any] | None) -> str:
    if over is None:
        return NOTHING
    words = f"{over['ratio']:.2f} ({in_words(over['interval95'], lambda end: f'{end:.2f}')})"
    if over["bar"] is None:
        return words
    return f"{words}; at most {over['bar']:.2f}: {'yes' if over['holds'] else '**no**'}"


def speed_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Times of one JPEG, and how ours stands to each."""
    sides = [f"{side}×{side}" for side in SIDES]
    times = " | ".join(f"{side}, p50 ms | p99 ms" for side in sides)
    yield f"| what | file | {times} | {' | '.join(f'btc-edge over it, {s}' for s in sides)} |"
    yield "|---|---|" + "--:|" * (2 * len(sides)) + "---|" * len(sides)
    for row in rows:
        cells = [row["peer"], row["kind"]]
        for side in SIDES:
            found = row["latency_ms"][str(side)]
            cells += [f"{found['p50']:.2f}", f"{found['p99']:.2f}"]
        cells += [_ratio_in_words(row["ours_over"].get(str(side))) for side in SIDES]
        yield f"| {' | '.join(cells)} |"


def cost_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Folders, starts, memory and size."""
    yield (
        "| what | file | version | folder, slices a second | its peak MiB | first answer ms "
        "| its peak MiB | installed MiB | same label as btc-edge % |"
    )
    yield "|---|---|---|" + "--:|" * 6
    for row in rows:
        same = list(row["same_label"].values())
        cells = [
            *(row["peer"], row["kind"], row["version"] or NOTHING),
            *(f"{row[name]:.0f}" for name in (
                "folder_rate", "folder_mib", "first_ms", "first_mib", "installed_mib"
            )),
            f"{100 * sum(same) / len(same):.0f}" if same else NOTHING,
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    rows = result["rows"]
    lines = [
        *speed_table(rows),
        "",
        f"From a JPEG in memory to probabilities, one thread each, {result['rounds']} times in "
        f"turns of {TURN} (pictures: {result['pictures']}); ratios are medians of pairs with "
        "the file of btc-edge that holds the same weights in the same precision, their 95 % "
        f"intervals tell the spread within this run. {machine_in_words(result['machine'])}; "
        f"network: {result['network']}.",
        "",
        *cost_table(rows),
        "",
        f"Folder: {result['files']} JPEGs of {SIDES[0]}×{SIDES[0]}, {rows[0]['workers']} "
        "threads or workers, each with a model of its own (Ultralytics: batches of 16 on as many "
        f"threads of PyTorch); median of {FOLDER_ROUNDS} in turns. First answer: a new process "
        f"that classifies one file and ends, for btc-edge the whole command; median of "
        f"{result['repeats']}. Memory: of a process and all that it starts. Installed: all of "
        f"site-packages besides pip and setuptools, as PyPI gives it. Python {result['python']}.",
        "",
        "None of the others checks a file before it is decoded, refuses a picture that is unlike "
        "the training slices, or has thresholds; they squeeze the picture to the network's size, "
        "where btc-edge first cuts out the head and evens the brightness, as the network was "
        "trained, and so their labels may differ. MediaPipe gets the network behind a layer that "
        "makes gray of colour, and asks for no number of threads. Ultralytics runs its "
        f"untrained {UNTRAINED.removesuffix('.yaml')} at the nearest size it takes: another "
        "network, for speed only.",
        *(f"\n{line}." for line in result["left_out"]),
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("trained", metavar="RUN", type=FOLDER)
@click.option("--images", type=EXISTING, help="Default: drawn.")
@click.option("--python", help=f"Python {VERSION} for the environments; default: one found here.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to keep them in, for reuse.")
@click.option("--rounds", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--files", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@out_option
def main(trained: Path, images: Path | None, python: str | None, keep: Path | None, rounds: int,
         files: int, repeats: int, out: Path) -> None:  # fmt: skip
    """Measure what else could run the network of RUN; gigabytes are downloaded."""
    opened = Run.open(trained)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        place = keep.resolve() if keep else work / "environments"
        found, left_out = contenders(opened, place, work, python or find_python())
        rows, failed = measure_all(found, images, rounds, files, repeats)
        result = {
            "machine": machine_facts(),
            "python": run(found[0].environment.python, "--version").split()[-1],
            "network": read_model(found[0].model).tag,
            "pictures": images.name if images else "drawn",
            "rounds": rounds,
            "files": files,
            "repeats": repeats,
            "left_out": left_out + failed,
            "rows": rows,
        }
    publish(out, "peers", result, as_markdown(result))

"""Every model on the same folds and protocols: the network and the classical ones.

    python -m benchmarks.models DATA RUNS --groups CSV --boxes CSV --partial ZIP \\
        --partial-groups CSV

Trains what RUNS lacks (RUNS/NAME/folds and RUNS/NAME/source for each contender, with `btc-train`;
what was stopped goes on), exports the first fold for a device where that is possible and times it,
and compares: accuracy over 5 folds of groups and on a source that training never saw, each with its
interval and its paired difference from the network. With --ray [ADDRESS] the trainings are tasks of
Ray, those of the network first; RUNS and the data must then lie where all nodes see them. Writes
models.json, models.md and models.png, and RUNS/models.html, which also shows what the models look
at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.common.command import EXISTING, out_option, publish, ray_options
from benchmarks.common.formatting import accuracy_of, rate_in_words
from benchmarks.common.process import run_tool
from benchmarks.common.sides import predictions_of, side_figures
from benchmarks.models.page import chart, write_page
from benchmarks.models.timing import device_file, latencies
from edge_runtime.cluster import Task, open_cluster
from edge_runtime.errors import DataError
from trainer.commands.options import LOCAL
from trainer.commands.terminal import say
from trainer.commands.train import planned_by
from trainer.data.archive import open_archive
from trainer.data.collection import collections_of
from trainer.evaluation.intervals import difference_interval
from trainer.evaluation.predictions import Predictions
from trainer.provenance import installed_versions
from trainer.report.charts import save_chart
from trainer.run import CNN, Run
from trainer.spread import (
    THREADS,
    check_ray,
    memory_of,
    raise_first,
    train_all,
    travelling,
)
from trainer.train_job import run_job, start_run

DEVICE_SETS = "histogram,glcm,lbp,hog"
ALL_SETS = "histogram,glcm,lbp,hog,gabor,region"
SOURCE = "other"
FOLDS = 5
PARTS = ("folds", "source")
HEAD = (
    "| model | features | 5 folds of groups % | minus the network, points | per study % "
    f"| trained without `{SOURCE}`, tested on it % | minus the network, points "
    "| its tumours predicted notumor % | untyped tumours of unseen groups predicted notumor % "
    "| training s | file KiB | p50 ms |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


class Contender(NamedTuple):
    """A model with its features; `deep` stands for those of the network of the same fold."""

    model: str
    features: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        few = {"": "", ALL_SETS: "-all", DEVICE_SETS: "-device"}
        return self.model + few.get(self.features, f"-{self.features}")


NETWORK = Contender("cnn", "")
CONTENDERS = (
    NETWORK,
    *(Contender(model, "deep") for model in ("svm", "logistic", "random-forest", "knn")),
    *(Contender(model, ALL_SETS) for model in ("svm", "logistic", "random-forest", "knn")),
    Contender("svm", DEVICE_SETS),
    *(Contender("svm", name) for name in ALL_SETS.split(",")),
)


def missing(
    contender: Contender, runs: Path, data: Path, tables: Sequence[str | Path], seed: int
) -> dict[Path, list[str | Path]]:
    """The command of each of a contender's two runs that is not finished, by the run's folder."""
    found: dict[Path, list[str | Path]] = {}
    for part, protocol in (
        ("folds", ["grouped", "--folds", str(FOLDS)]),
        ("source", [f"source:{SOURCE}"]),
    ):
        out = runs / contender.name / part
        started = (out / "run.json").is_file()
        if started and Run.open(out).settings["status"] == "finished":
            continue
        words: list[str | Path] = ["btc-train", data, *tables, "--out", out, "--seed", str(seed)]
        words += ["--protocol", *protocol, "--no-card"]  # with these tables alone
        if contender.features:
            deep = f"deep:{runs / NETWORK.name / part}"
            words += ["--model", contender.model]
            words += ["--features", contender.features.replace("deep", deep)]
        found[out] = [*words, *(["--resume"] if started else [])]
    return found


def train_in_series(commands: Mapping[Path, Sequence[str | Path]], threads: int | None) -> None:
    """Run commands of `missing` one after the other."""
    for out, words in commands.items():
        say(f"training {out.parent.name}, {out.name}")
        run_tool([*words, *([] if threads is None else ["--threads", str(threads)])])


def train_over_ray(
    commands: Mapping[Path, Sequence[str | Path]], address: str, threads: int
) -> None:
    """Run commands of `missing` as tasks of Ray: a network's cross-validation as one a fold, any
    other run, which takes seconds, as one.

    Raises:
        BtcError: what a training failed with, after the others have ended.
    """
    tasks, pooled, memory = [], [], 0
    for words in commands.values():
        run, job = planned_by(words[1:])
        job = replace(job, threads=job.threads or threads)
        run = run or start_run(job)
        name = f"{job.out.parent.name}, {job.out.name}"
        folds: list[int | None] = [None]
        if job.folds and run.kind == CNN:
            folds = [*range(1, job.folds + 1)]
            pooled.append((job, run))
        for fold in folds:
            key = name if fold is None else f"{name}, fold {fold}"
            tasks.append(Task(key, (travelling(job), str(run.settings["created"]), fold)))
        slices = sum(len(open_archive(each.path).names()) for each in collections_of(job.data))
        memory = max(memory, memory_of(job, slices))
    if not tasks:
        return
    with open_cluster(
        None if address == LOCAL else address, None, cpus=threads, memory=memory, tell=say
    ) as cluster:
        failed = train_all(cluster, tasks, say, installed_versions())
    if failed:
        raise_first(failed)
    for job, run in pooled:  # its folds are finished
        run_job(job, run)


def check_alike(runs: Sequence[Run]) -> None:
    """Runs that are compared may differ in the size of their input, which goes with the model.

    Raises:
        DataError: runs whose slices became inputs in different ways.
    """
    first = runs[0]
    for run in runs[1:]:
        if replace(run.preprocess, size=first.preprocess.size) != first.preprocess:
            raise DataError(
                f"{first.folder}, {run.folder}: not the same preprocessing (such as --resize); "
                "train one of them again"
            )


def results_of(folds: Run, source: Run, network: dict[str, Predictions]) -> dict[str, Any]:
    """What a contender reaches, beside the network's predictions on the same slices."""
    pooled, moved = predictions_of(folds), predictions_of(source)
    metrics, shifted = folds.metrics(), source.metrics()
    parts = [Run.open(folds.folder / f"fold-{n + 1}") for n in range(FOLDS)]
    studies = metrics["per_study"]
    return {
        "grouped": accuracy_of(metrics),
        "grouped_gap": gap(pooled, network["folds"]),
        "studies": None if studies is None else accuracy_of(studies),
        "shift": accuracy_of(shifted),
        "shift_gap": gap(moved, network["source"]),
        "missed": side_figures(moved)["tumors_predicted_tumour_free"],
        "partial": (metrics["partial"] or {}).get("outside"),
        "seconds": float(np.median([part.seconds for part in parts])),
        "values": (parts[0].settings.get("features") or {}).get("length"),
        "importance": metrics.get("importance"),
    }


def gap(mine: Predictions, other: Predictions) -> dict[str, Any]:
    """Accuracy of `mine` minus that of `other` on the same slices, its interval over groups."""
    right = {
        path: float(a == b)
        for path, a, b in zip(other.texts("path"), other.labels, other.predicted, strict=True)
    }
    theirs = np.array([right[path] for path in mine.texts("path")])
    difference = (mine.labels == mine.predicted) - theirs
    return {
        "n": len(difference),
        "share": float(difference.mean()),
        "interval95": difference_interval(difference, mine.texts("group")),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [HEAD]
    for row in result["rows"]:
        first = row["model"] == NETWORK.model
        size, speed = row["kib"], row["p50_ms"]
        lines.append(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1f} | {} | {} |".format(
                "the network" if first else row["model"],
                _words(row),
                rate_in_words(row["grouped"]),
                "" if first else rate_in_words(row["grouped_gap"], signed=True),
                rate_in_words(row["studies"]),
                rate_in_words(row["shift"]),
                "" if first else rate_in_words(row["shift_gap"], signed=True),
                rate_in_words(row["missed"]),
                rate_in_words(row["partial"]),
                row["seconds"],
                "–" if size is None else f"{size:.0f}",
                f"{speed:.1f}" if row["on_device"] else f"({speed:.1f})",
            )
        )
    first = result["rows"][0]
    lines += [
        "",
        f"{first['grouped']['n']} slices over unseen groups, {first['shift']['n']} of the unseen "
        "source; 95 % intervals over groups, differences paired by slice. Training: "
        "median seconds a fold, without computing features; deep features need the network's as "
        "well. p50: from JPEG bytes to the answer of the "
        f"exported file, one thread, the models in turn over {result['timed']} slices; in brackets "
        "where the features need the workstation: there the run itself. "
        f"{result['processor']}.",
        "",
    ]
    return "\n".join(lines)


def _words(row: dict[str, Any]) -> str:
    if not row["features"]:
        return "its own head"
    names = {ALL_SETS: "all six sets", DEVICE_SETS: "histogram, GLCM, LBP, HOG"}
    name = names.get(row["features"], row["features"])
    return f"{'deep features' if name == 'deep' else name} ({row['values']})"


@click.command()
@click.argument("data", type=EXISTING)
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--groups", type=EXISTING, required=True)
@click.option("--boxes", type=EXISTING)
@click.option("--partial", type=EXISTING)
@click.option("--partial-groups", type=EXISTING)
@click.option(
    "--only", multiple=True, help="These alone (RUNS/NAME); compared if cnn is among them."
)
@click.option("--timed", type=click.IntRange(10), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@ray_options
@out_option
def main(
    data: Path, runs: Path, groups: Path, boxes: Path | None, partial: Path | None,
    partial_groups: Path | None, only: tuple[str, ...], timed: int, seed: int, out: Path,
    ray: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Train every model that RUNS lacks on DATA, and compare them."""
    tables: list[str | Path] = ["--groups", groups]
    for name, path in (
        ("--boxes", boxes), ("--partial", partial), ("--partial-groups", partial_groups)
    ):  # fmt: skip
        tables += [name, path] if path is not None else []
    unknown = set(only) - {c.name for c in CONTENDERS}
    if unknown:
        raise click.BadParameter(f"--only {unknown.pop()}: none of the contenders")
    chosen = [c for c in CONTENDERS if not only or c.name in only]
    folders = [runs / c.name / part for c in chosen for part in PARTS]
    if ray is not None:
        check_ray()
    # The network comes first: others learn from its features.
    turns = [[c] for c in chosen] if ray is None else [chosen[:1], chosen[1:]]
    for turn in turns:
        commands: dict[Path, list[str | Path]] = {}
        for contender in turn:
            commands |= missing(contender, runs, data, tables, seed)
        if ray is None:
            train_in_series(commands, threads)
        else:
            train_over_ray(commands, ray, threads or THREADS)
        check_alike([Run.open(f) for f in folders if (f / "run.json").is_file()])
    if NETWORK not in chosen:
        return
    opened = {c: {part: Run.open(runs / c.name / part) for part in PARTS} for c in chosen}
    network = {part: predictions_of(run) for part, run in opened[NETWORK].items()}
    rows = [
        {**c._asdict(), **results_of(both["folds"], both["source"], network)}
        for c, both in opened.items()
    ]
    firsts = [runs / c.name / "folds" / "fold-1" for c in chosen]
    files = [device_file(first) for first in firsts]
    spans, processor = latencies(firsts, files, data, timed)
    for row, file, span in zip(rows, files, spans, strict=True):
        row |= {"on_device": file is not None, "p50_ms": span}
        row["kib"] = None if file is None else file.stat().st_size / 1024
    result = {"rows": rows, "timed": timed, "processor": processor, "seed": seed}
    publish(out, "models", result, as_markdown(result))
    figure = chart(result)
    write_page(runs / "models.html", result, as_markdown(result), figure, firsts)
    save_chart(figure, out / "models.png")

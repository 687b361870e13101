"""`btc-edge archive`."""

from __future__ import annotations

import json
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.archive.manifest import SHARD_SIZE
from edge_runtime.commands.click_types import Choice, FiniteRange
from edge_runtime.commands.daemon import say
from edge_runtime.commands.entry import loading
from edge_runtime.commands.options import (
    EXIT_CODES,
    allow_unsigned_option,
    backend_option,
    is_given,
    limits_of,
    limits_options,
    min_confidence_option,
    model_option,
    open_classifier,
    plane_option,
    volume_option,
)
from edge_runtime.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from edge_runtime.archive.manifest import Manifest
    from edge_runtime.archive.rows import ClassifierSettings, Counts
    from edge_runtime.archive.sources import Source

MIB = 1 << 20
MOST_LINES = 20  # on what zips hold besides images, and on damaged shards


@click.command(epilog=EXIT_CODES)
@click.argument("source", metavar="SOURCE")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder, or address such as s3://bucket/prefix, of the answers; a further run with it "
    "does what is missing.",
)
@click.option("--dry-run", is_flag=True, help="Tell what there is to do, and do nothing.")
@click.option(
    "--rate",
    type=FiniteRange(1e-6),
    metavar="N",
    help="With --dry-run: tell the hours, at N files a second of each worker.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    help="Shards worked on at once; default: as many as there are processors and memory for.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Ray cluster to work on, or auto; default: one on this machine, for this run.",
)
@click.option(
    "--memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="Memory that each worker asks for; default: what the limits allow it to need.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 100_000),
    default=SHARD_SIZE,
    show_default=True,
    metavar="N",
    help="Files whose answers are one Parquet file, at most.",
)
@click.option(
    "--format",
    "style",
    type=Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the summary on stdout.",
)
@min_confidence_option
@plane_option
@volume_option
@model_option
@allow_unsigned_option
@backend_option
@limits_options
def archive(source: str, **options: Any) -> None:
    """Classify an archive into Parquet files, over processors or a cluster (Ray).

    SOURCE is a folder, a prefix such as s3://bucket/prefix or gs://bucket/prefix, a text file with
    one path or address a line, or - for such lines on stdin. Zips are opened.
    """
    _check_packages(options["dry_run"])
    if options["out"] is None and not options["dry_run"]:
        raise UsageError("give --out DIR for the answers, or --dry-run")
    if options["rate"] is not None and not options["dry_run"]:
        raise UsageError("--rate goes with --dry-run")
    with loading():
        classifier = open_classifier(
            options,
            limits=limits_of(options),
            min_confidence=options["min_confidence"],
            plane=options["plane"],
            volume=options["volume"],
        )
        from edge_runtime.archive.places import absolute
        from edge_runtime.archive.rows import ClassifierSettings
        from edge_runtime.archive.sources import open_source
    settings = ClassifierSettings.of(classifier)
    opened = open_source(source)
    if options["out"] is not None:
        if not options["out"]:
            raise UsageError("--out is empty: name a folder or an address")
        options["out"] = absolute(options["out"])  # workers may be in another folder
    if options["dry_run"]:
        _tell_plan(opened, settings, options)
        return
    _check_apart(source, options["out"])
    manifest, opened = _begun(opened, settings, options)
    failed = _run(manifest, opened, settings, options)
    if failed:
        raise SystemExit(ExitCode.FAILED)


def _check_packages(dry: bool) -> None:
    """Before anything is read: what lists and writes, and what the work runs on."""
    for name in ("pyarrow",) if dry else ("pyarrow", "ray"):
        if find_spec(name) is None:
            raise UsageError(f"needs the package {name}: pip install 'btc-edge[ray]'")


def _check_apart(source: str, out: str) -> None:
    """Answers among the files that are answered would be files of the next archive."""
    import os

    from edge_runtime.archive.places import Folder, place_of

    (place, root), (there, path) = place_of(source), place_of(out)
    if not (isinstance(place, Folder) and isinstance(there, Folder) and place.what(root)):
        return
    inner, outer = os.path.realpath(path), os.path.realpath(root)
    if inner == outer or inner.startswith(os.path.join(outer, "")):  # noqa: PTH118 - real paths
        raise UsageError(f"--out {out} lies within SOURCE: name a folder beside it")


def _begun(
    source: Source, settings: ClassifierSettings, options: dict[str, Any]
) -> tuple[Manifest, Source]:
    """The manifest of an earlier run, if it was one of the same, and its source; else a new one.
    Either is told of."""
    from edge_runtime.archive.manifest import Manifest, Tally, exists
    from edge_runtime.model.metadata import INTENDED_USE

    out = options["out"]
    if exists(out):
        manifest = Manifest.open(out)
        source = manifest.go_on(source, settings.to_json(), _shard_size(options))
        say(f"goes on with the {manifest.head['entries']:,} files of the manifest, and no others")
        return manifest, source
    tally = Tally()
    manifest = Manifest.make(
        source, out, settings.to_json(), shard_size=options["shard_size"], tally=tally
    )
    for line in tally.passed_over.told(MOST_LINES):
        say(line)
    say(f"{tally.entries:,} files in {tally.shards:,} shards; {INTENDED_USE}")
    return manifest, source


def _shard_size(options: dict[str, Any]) -> int | None:
    """What the user asked for."""
    given = is_given(click.get_current_context(), "shard_size")
    return options["shard_size"] if given else None


def _run(
    manifest: Manifest, source: Source, settings: ClassifierSettings, options: dict[str, Any]
) -> bool:
    """Do what is missing, and tell what there is; whether anything is wrong with it."""
    from edge_runtime.archive.engine import run
    from edge_runtime.archive.manifest import Lines
    from edge_runtime.archive.progress import Reporter
    from edge_runtime.archive.rows import count

    memory = options["memory"] and options["memory"] * MIB
    with closing(Reporter("btc-edge")) as reporter:
        done = run(
            manifest, source, settings, address=options["address"], workers=options["workers"],
            memory=memory, tell=reporter.tell, progress=reporter.progress,
        )  # fmt: skip
    missing = set(manifest.missing())
    counts = count(manifest, (n for n in range(manifest.shards) if n not in missing))
    foreign = [f"{path}: no shard of this archive" for path in manifest.foreign()]
    counts = counts._replace(damaged=counts.damaged.plus(Lines.of(*foreign)))
    for line in [*counts.passed_over.told(MOST_LINES), *counts.damaged.told(MOST_LINES)]:
        say(line)
    manifest.check_kept()
    if counts.damaged.total:
        say(f"{counts.damaged.total:,} shards are damaged: remove them, and run this again")
    _print(options["style"], _summary(manifest, counts, len(missing), done.shards, done.seconds))
    return bool(counts.errors or counts.damaged.total or missing)


def _summary(
    manifest: Manifest, counts: Counts, missing: int, made: int, seconds: float
) -> dict[str, Any]:
    return {
        "out": manifest.out, "files": manifest.head["entries"], "shards": manifest.shards,
        "made": made, "missing": missing, "damaged": counts.damaged.total, "rows": counts.rows,
        "errors": counts.errors, "seconds": round(seconds, 1),
    }  # fmt: skip


def _tell_plan(source: Source, settings: ClassifierSettings, options: dict[str, Any]) -> None:
    """What a run would do."""
    from edge_runtime.archive.manifest import Manifest, Tally, cut, exists

    out = options["out"]
    if out is not None and exists(out):
        manifest = Manifest.open(out)
        manifest.go_on(source, settings.to_json(), _shard_size(options))
        plan, missing = dict(manifest.head), len(manifest.missing())
    else:
        tally = Tally()
        for shard in cut(source.entries(tally.note), options["shard_size"]):
            tally.add(shard)
        plan, missing = tally.to_json(), tally.shards
    memory = options["memory"] * MIB if options["memory"] else settings.memory()
    shape = {
        "files": plan["entries"], "bytes": plan["bytes"], "largest": plan["largest"],
        "kinds": plan["kinds"], "passed_over": plan["passed_over"], "shards": plan["shards"],
        "missing": missing, "worker_memory": memory, "hours": None,
    }  # fmt: skip
    if options["rate"] is not None:
        workers = options["workers"] or 1
        files = plan["entries"] * missing / plan["shards"]
        shape["hours"] = round(files / options["rate"] / workers / 3600, 2)
    _print(options["style"], shape)


def _print(style: str, shape: dict[str, Any]) -> None:
    """A summary; a line each for people."""
    if style == "json":
        click.echo(json.dumps(shape))
        return
    from edge_runtime.errors import printable

    for name, value in shape.items():
        if value is None:
            continue
        text = f"{value:,}" if isinstance(value, (int, float)) else str(value)
        if name in ("bytes", "largest", "worker_memory"):
            text = f"{value / MIB:,.1f} MiB"
        elif isinstance(value, dict):
            text = ", ".join(f"{number:,} {kind}" for kind, number in value.items())
        elif isinstance(value, list):
            text = "; ".join(value) or "nothing"
        click.echo(f"{name.replace('_', ' '):<14} {printable(text)}")

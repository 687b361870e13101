"""`btc-edge classify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import loading
from edge_runtime.commands.options import (
    EXIT_CODES,
    allow_unsigned_option,
    backend_option,
    heatmap_option,
    limits_of,
    limits_options,
    min_confidence_option,
    model_option,
    open_classifier,
    plane_option,
    threads_option,
    volume_option,
    workers_of,
    workers_option,
)
from edge_runtime.errors import ExitCode, InputError, UsageError, printable
from edge_runtime.imaging.kinds import kinds_in_words

if TYPE_CHECKING:
    from edge_runtime.batch import Unusable
    from edge_runtime.classifier import Classifier
    from edge_runtime.decision.prediction import Prediction
    from edge_runtime.studies.drop import DropFile


ABOUT = f"""Classify images: files, patterns, folders (-r), or - for a list of paths on stdin.

Reads {kinds_in_words()}. Of a TIFF file the first page is read. Answers go to stdout; a file that
cannot be read gets a line on stderr, and the rest goes on.
"""


@click.command(help=ABOUT, epilog=EXIT_CODES)
@click.argument("paths", nargs=-1, type=click.Path(), metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Classify the images inside folders.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Classify the one file on stdin.")
@click.option(
    "--study",
    is_flag=True,
    help="Answer once for each study in the PATHs: folders, zips, DICOMDIR, volumes or files.",
)
@click.option(
    "--format",
    "style",
    type=Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
)
@click.option("--top", type=click.IntRange(1), help="Tell only the N most probable labels.")
@min_confidence_option
@heatmap_option
@plane_option
@volume_option
@model_option
@allow_unsigned_option
@backend_option
@workers_option("Files", " Several workers may start processes after 2,000 files.")
@threads_option
@limits_options
def classify(paths: tuple[str, ...], **options: Any) -> None:
    """Print an answer for each input as soon as it is known."""
    if options["from_stdin"] == bool(paths):
        raise UsageError("give PATHs (or - for a list of them), or --stdin for one file's bytes")
    with loading():
        classifier = open_classifier(
            options,
            limits=limits_of(options),
            min_confidence=options["min_confidence"],
            plane=options["plane"],
            volume=options["volume"],
        )
        from edge_runtime.commands.writers import open_writer
    writer = open_writer(
        options["style"], sys.stdout, classifier.info.labels,
        top=options["top"], studies=options["study"],
    )  # fmt: skip
    failed = False
    try:
        with _progress(_answers(classifier, paths, options)) as answers:
            for answer in answers:
                failed |= _report(answer)
                writer.write(answer)
    except BaseException:
        writer.close()  # what was answered before Ctrl-C is whole
        raise
    writer.close()
    if options["style"] == "table":
        from edge_runtime.model.metadata import INTENDED_USE

        click.echo(INTENDED_USE, err=True)
    if failed:
        raise SystemExit(ExitCode.FAILED)


def _answers(
    classifier: Classifier, paths: tuple[str, ...], options: dict[str, Any]
) -> Iterator[Prediction]:
    from dataclasses import replace

    from edge_runtime.commands.inputs import expand

    how = {"workers": workers_of(options), "heatmaps": options["heatmap"]}
    if options["from_stdin"]:
        how["workers"] = 1  # in another thread a read would outlive Ctrl-C
        if options["study"]:
            yield from _studies(classifier, _from_stdin(classifier), how)
        else:
            for answer in classifier.classify_many([sys.stdin.buffer], **how):
                yield replace(answer, input="stdin")
    elif options["study"]:
        yield from _studies(classifier, _from_words(paths), how)
    else:
        words = expand(paths, options["recursive"], sys.stdin, _say)
        yield from classifier.classify_many(words, **how, processes=True)


def _studies(
    classifier: Classifier, files: Iterable[DropFile | Unusable], how: dict[str, Any]
) -> Iterator[Prediction]:
    from edge_runtime.studies.drop import classify_drop

    return classify_drop(classifier, files, tell=lambda note: _say(str(note)), **how)


def _from_stdin(classifier: Classifier) -> Iterator[DropFile | Unusable]:
    """The one file, or zip, whose bytes are on stdin."""
    from edge_runtime.batch import Unusable
    from edge_runtime.imaging.limits import read_source
    from edge_runtime.studies.drop import DropFile

    try:
        yield DropFile("stdin", read_source(sys.stdin.buffer, classifier.limits), "stdin")
    except InputError as error:
        yield Unusable("stdin", error)


def _from_words(paths: Iterable[str]) -> Iterator[DropFile | Unusable]:
    """The files that the words mean, each of its word."""
    from edge_runtime.batch import Unusable
    from edge_runtime.commands.inputs import expand
    from edge_runtime.studies.drop import DropFile

    for word in _words(paths):
        for path in expand([word], True, sys.stdin, _say, studies=True):
            if isinstance(path, Unusable):
                yield path
            elif path is not None:
                yield DropFile(path, path, word)


def _words(paths: Iterable[str]) -> Iterator[str]:
    """The words; `-` stands for a list of them."""
    from edge_runtime.commands.inputs import lines_of

    for path in paths:
        if path == "-":
            yield from filter(None, lines_of(sys.stdin))
        else:
            yield path


def _report(answer: Prediction) -> bool:
    """Say on stderr what could not be read; whether there was anything."""
    parts = [answer, *(answer.slices or ())]
    errors = [part for part in parts if part.error is not None]
    for part in errors:
        _say(f"{part.input or '(no name)'}: {part.error}")
    return bool(errors)


def _say(line: str) -> None:
    clear = "\r\x1b[K" if _shows_progress() else ""
    click.echo(f"{clear}btc-edge: {printable(line)}", err=True)


def _shows_progress() -> bool:
    """Whether a bar on stderr is seen and does not run into the answers."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


@contextmanager
def _progress(answers: Iterator[Prediction]) -> Iterator[Iterable[Prediction]]:
    if not _shows_progress():
        yield answers
        return
    with click.progressbar(answers, file=sys.stderr, label="btc-edge", show_pos=True) as bar:
        yield bar

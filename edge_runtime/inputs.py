"""From the words on the command line to the files they mean."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from glob import has_magic, iglob
from typing import IO, NamedTuple

from edge_runtime.errors import InputError
from edge_runtime.headers import volume_format
from edge_runtime.slices import FILE_SUFFIXES


class Unusable(NamedTuple):
    """A word that means no file, and why."""

    name: str
    error: InputError


def expand(
    words: Iterable[str], recursive: bool, listing: IO[str]
) -> Iterator[str | Unusable | None]:
    """Each file that the words mean, in order.

    Args:
        words: files, patterns such as `*.jpg` that no shell has expanded, folders (with
            `recursive`), or `-` for a list of paths, one a line.
        listing: where that list is read from. A None is yielded when its next line has yet to
            come, so that nobody waits for answers behind it.
    """
    for word in words:
        if word == "-":
            for name in lines_of(listing):
                if name is None:
                    yield None
                elif name and name != "-":
                    yield from _word(name, recursive)
        else:
            yield from _word(word, recursive)


def _word(word: str, recursive: bool) -> Iterator[str | Unusable]:
    if os.path.isdir(word):  # noqa: PTH112 - paths stay as the user wrote them
        yield from _folder(word, recursive)
    elif has_magic(word) and not os.path.lexists(word):
        names = sorted(iglob(word, recursive=True))  # noqa: PTH207 - as above
        if not names:
            yield Unusable(word, InputError("no file fits this pattern"))
        for name in names:
            yield from _word(name, recursive) if os.path.isdir(name) else [name]  # noqa: PTH112
    else:
        yield word


def _folder(word: str, recursive: bool) -> Iterator[str | Unusable]:
    if not recursive:
        yield Unusable(word, InputError("a folder: add -r to classify the images in it"))
        return
    found = False
    closed: list[OSError] = []
    for folder, below, files in os.walk(word, onerror=closed.append):
        below.sort()
        names = set(files)
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118 - as above
            if name[-4:].lower() == ".hdr" and not names.isdisjoint(
                name[:-4] + end for end in (".img", ".IMG")
            ):
                continue  # a NIfTI pair is one input, told by its .img
            if name.lower().endswith(FILE_SUFFIXES) or _is_bare_dicom(path):
                found = True
                yield path
    for error in closed:
        yield Unusable(str(error.filename), InputError(f"cannot be read: {error.strerror}"))
    if not found and not closed:
        yield Unusable(word, InputError("no image in this folder"))


def _is_bare_dicom(path: str) -> bool:
    """Scanners name the files of a series without a suffix; DICOMDIR is its table of contents."""
    name = os.path.basename(path)  # noqa: PTH119 - as above
    if "." in name.strip("0123456789.") or name == "DICOMDIR" or not os.path.isfile(path):  # noqa: PTH113
        return False
    try:
        with open(path, "rb") as stream:
            return volume_format(stream.read(1024)) == "dicom"
    except OSError:
        return False


def lines_of(listing: IO[str]) -> Iterator[str | None]:
    """The lines of a stream, with a None before each wait."""
    try:
        descriptor = listing.fileno()
    except (OSError, ValueError, AttributeError):  # no real stream
        for line in listing:
            yield line.rstrip("\r\n")
        return
    rest = b""
    while True:
        if not _is_ready(descriptor):
            yield None
        block = os.read(descriptor, 1 << 16)
        *whole, rest = (rest + block).split(b"\n")
        for name in whole:
            yield os.fsdecode(name.rstrip(b"\r"))
        if not block:
            if rest:
                yield os.fsdecode(rest.rstrip(b"\r"))
            return


def _is_ready(descriptor: int) -> bool:
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # Windows asks sockets only
        return False

"""From the words on the command line to the files they mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO

from edge_runtime.errors import InputError
from edge_runtime.images import SUFFIXES


def expand(
    words: Iterable[str], recursive: bool, listing: IO[str]
) -> Iterator[tuple[str, InputError | None]]:
    """Each file that the words mean, in order; an error stands beside a word that means none.

    Args:
        words: files, folders (with `recursive`), or `-` for a list of paths, one a line.
        listing: where that list is read from.
    """
    for word in words:
        if word == "-":
            names = (line.rstrip("\r\n") for line in listing)
            yield from expand((n for n in names if n and n != "-"), recursive, listing)
        elif os.path.isdir(word):  # noqa: PTH112 - paths stay as the user wrote them
            yield from _folder(word, recursive)
        else:
            yield word, None


def _folder(word: str, recursive: bool) -> Iterator[tuple[str, InputError | None]]:
    if not recursive:
        yield word, InputError("a folder: add -r to classify the images in it")
        return
    found = False
    closed: list[OSError] = []
    for folder, below, files in os.walk(word, onerror=closed.append):
        below.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                found = True
                yield os.path.join(folder, name), None  # noqa: PTH118 - as above
    for error in closed:
        yield str(error.filename), InputError(f"cannot be read: {error.strerror}")
    if not found and not closed:
        yield word, InputError("no image in this folder")

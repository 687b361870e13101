"""From the words on the command line to the files they mean."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from glob import has_magic, iglob
from typing import IO

from edge_runtime.batch import Unusable
from edge_runtime.errors import InputError
from edge_runtime.files import PassedOver, is_hidden, is_index
from edge_runtime.imaging.kinds import SUFFIXES, ZIP, is_header_of_pair, kind_of
from edge_runtime.imaging.limits import first_bytes

Tell = Callable[[str], None]


def expand(
    words: Iterable[str],
    recursive: bool,
    listing: IO[str],
    tell: Tell = lambda line: None,
    studies: bool = False,
) -> Iterator[str | Unusable | None]:
    """Each file that the words mean, in order.

    A word may be a link to a folder. A link to a folder inside a folder is not followed: it may
    lead anywhere, or round in a circle. It is `Unusable`, so that nobody takes it for read.

    Args:
        words: files, patterns such as `*.jpg` that no shell has expanded, folders (with
            `recursive`; hidden files and folders are none of it), or `-` for a list of paths, one
            a line.
        listing: where that list is read from. A None is yielded when its next line has yet to
            come, so that nobody waits for answers behind it.
        tell: called with a line on what a folder holds besides images.
        studies: a DICOMDIR means its folder, and zips and a DICOMDIR in a folder are files, too.
    """
    for word in words:
        if word == "-":
            for name in lines_of(listing):
                if name is None:
                    yield None
                elif name and name != "-":
                    yield from _word(name, recursive, tell, studies)
        else:
            yield from _word(word, recursive, tell, studies)


def _word(word: str, recursive: bool, tell: Tell, studies: bool) -> Iterator[str | Unusable]:
    if os.path.isdir(word):  # noqa: PTH112 - paths stay as the user wrote them
        yield from _folder(word, recursive, tell, studies)
    elif studies and is_index(os.path.basename(word)) and os.path.isfile(word):  # noqa: PTH113, PTH119 - as above
        yield from _folder(os.path.dirname(word) or os.curdir, recursive, tell, studies)  # noqa: PTH120 - as above
    elif has_magic(word) and not os.path.lexists(word):
        names = sorted(iglob(word, recursive=True))  # noqa: PTH207 - as above
        if not names:
            yield Unusable(word, InputError("no file fits this pattern"))
        for name in names:
            yield from _word(name, recursive, tell, studies) if os.path.isdir(name) else [name]  # noqa: PTH112
    else:
        yield word


def _folder(word: str, recursive: bool, tell: Tell, studies: bool) -> Iterator[str | Unusable]:
    if not recursive:
        yield Unusable(word, InputError("a folder: add -r to classify the images in it"))
        return
    found = False
    closed: list[OSError] = []
    links: list[str] = []
    others = PassedOver()
    for folder, below, files in os.walk(word, onerror=closed.append):
        below[:] = sorted(name for name in below if not is_hidden(name))
        paths = [os.path.join(folder, name) for name in below]  # noqa: PTH118 - as above
        links += filter(_is_link, paths)
        names = {name for name in files if not is_hidden(name)}
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 - as above
            if is_header_of_pair(name, names):
                continue
            if name.lower().endswith(SUFFIXES) or _is_image(path, studies):
                found = True
                yield path
            else:
                others.add(path)
    if others.count:
        tell(str(others.note(word)))
    for error in closed:
        yield Unusable(str(error.filename), InputError(f"cannot be read: {error.strerror}"))
    for path in links:
        yield Unusable(path, InputError("a link to a folder: name the folder itself"))
    if not (found or closed or links):
        yield Unusable(word, InputError("no image in this folder"))


def _is_link(path: str) -> bool:
    """Whether a folder is one that `os.walk` does not enter."""
    junction = getattr(os.path, "isjunction", os.path.islink)  # of Windows, from Python 3.12 on
    return os.path.islink(path) or junction(path)  # noqa: PTH114 - as above


def _is_image(path: str, studies: bool) -> bool:
    """Whether a file whose name does not say so is one by its content: scanners name the files of a
    series without a suffix. What cannot be read may be one, as on a scratched disc: reading it will
    tell. DICOMDIR is their table of contents; studies want it, and zips."""
    if is_index(os.path.basename(path)) and not studies:  # noqa: PTH119 - as above
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - as above
            return False
        head = first_bytes(path)
    except FileNotFoundError:  # a link that leads nowhere
        return False
    except (OSError, InputError):
        return True
    return kind_of(head) is not None or (studies and head.startswith(ZIP))


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
    import select

    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # Windows asks sockets only
        return False

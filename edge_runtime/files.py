"""Files that appear whole or not at all, those that are none of the user's own, and words for those
that are passed over."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_OF_SYSTEMS = {
    *("@eadir", "#recycle", "__macosx", "__pycache__"),
    *("$recycle.bin", "system volume information", "lost+found"),
}
MOST_KINDS = 5  # of files that are passed over, in one line
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR)


def fsync_folder(folder: Path) -> None:
    """Have what was moved into a folder on the disk."""
    if os.name == "posix":  # Windows cannot open a folder; the rename is still atomic there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(
    path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    When the body raises (Ctrl-C included), `path` is as it was and the temporary file is gone.
    An `OSError` of a full disk, or of a folder that takes no files, names `path`.
    The temporary name keeps the suffix, since writers such as Keras choose the format by it.

    Args:
        within: a folder of the same file system for the temporary file, where readers take all
            that lies beside `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent if within is None else Path(within)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        part = _new_in(folder, target)
    except OSError as error:
        error.filename = str(target)
        raise
    try:
        yield part
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
        fsync_folder(target.parent)
    except OSError as error:
        # Neither a write nor fsync says which file, and nobody knows the temporary one.
        if error.filename in (None, str(part)) and error.errno in _OF_WRITING:
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        part.unlink(missing_ok=True)


def _new_in(folder: Path, target: Path) -> Path:
    """A new, empty file in a folder, for `target`, with the permissions of an ordinary one.

    The system applies the umask, which a process cannot read without changing it for all threads;
    `tempfile` makes private files.
    """
    while True:
        part = folder / f".part-{os.urandom(6).hex()}{target.suffix}"
        with suppress(FileExistsError):
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            return part


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's own: a leading dot, or what file servers and
    desktops leave behind."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def is_index(name: str) -> bool:
    """Whether a file is a DICOMDIR, the table of contents of a disc, by its name: Linux shows that
    of a disc in small letters."""
    return name.upper() == "DICOMDIR"


class Note(NamedTuple):
    """A line on what is left out or guessed.

    Attributes:
        name: of the file, folder or study that it is about.
        text: what is to be said of it; holds no name.
        more: how the line goes on, with names of files; where no name may leave, it ends before.
    """

    name: str
    text: str
    more: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}{self.more}"


class PassedOver:
    """How many files of a folder or zip are no images, by their suffixes, with an example of each.

    Attributes:
        count: of all.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kinds: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Count a file."""
        kind = os.path.splitext(path)[1].lower() or "no suffix"  # noqa: PTH122 - of any system
        self.count += 1
        self._kinds[kind] += 1
        self._first.setdefault(kind, path)

    def note(self, word: str) -> Note:
        """What is to be said of them, of whom `word` names the folder or zip."""
        kinds = sorted(self._kinds, key=lambda kind: (-self._kinds[kind], kind))
        listed = ", ".join(f"{self._kinds[kind]} {kind}" for kind in kinds[:MOST_KINDS])
        more = ", …" * (len(kinds) > MOST_KINDS)
        files = f"{self.count} files that are no images"
        if self.count == 1:
            files = "1 file that is no image"
        # Suffixes are of names: of "Doe.Jane" it is a name itself.
        example = f": {listed}{more}, such as {self._first[kinds[0]]}"
        return Note(word, f"passed over {files}", example)

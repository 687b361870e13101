"""From a folder that others write to, to work that is whole.

Nobody says when a file is whole, so it is when its size and times have stood still for a while; and
the files of a study, when no further one of it has come for a longer while. Waits go by a clock
that only goes forward, never by the times of files, so that a clock that is set does no harm.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from errno import ENOTDIR
from itertools import islice
from pathlib import Path

from edge_runtime.errors import InputError, one_line
from edge_runtime.files import is_hidden, is_index
from edge_runtime.imaging.kinds import SUFFIXES, gzipped_kind, halves_of, kind_of
from edge_runtime.imaging.limits import ImageLimits, first_bytes
from edge_runtime.services.journal import Stamp
from edge_runtime.studies.drop import DropFile, study_uid

ANSWER = ".btc.json"  # what names of answers end with: they are no input
UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".tmp", "~")  # of programs that copy
NAMED = (*SUFFIXES, ".zip")  # what names of inputs end with, whatever is in them
ZIP = b"PK\x03\x04"
AT_ONCE = 64  # settled files that are opened before work goes on


@dataclass
class Work:
    """Files that get one answer.

    Attributes:
        subject: whose answer it is: `study:` and its UID, or `file:` and a path below the folder,
            for a pair of files that of the image.
        uid: StudyInstanceUID; None for a file.
        paths: below the folder, with their stamps when they had settled.
        last: when the last one of them came.
        light: whether it is a small picture, which may go together with others.
    """

    subject: str
    uid: str | None = None
    paths: dict[str, Stamp] = field(default_factory=dict)
    last: float = 0.0
    light: bool = False

    @property
    def path(self) -> str:
        """Of a file, below the folder."""
        return self.subject.removeprefix("file:")


class Arrivals:
    """What came into a folder and is not answered yet.

    Args:
        folder: with its subfolders; links are not followed.
        knows: whether a file as it is needs no answer.
        pass_over: called with what is no image.
        tell: called with a path and what is wrong with it, once for each wrong.
        settle: seconds for which a file must not change.
        quiet: seconds for which no further file of a study must come.
        limits: of what is read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        knows: Callable[[str, Stamp], bool],
        pass_over: Callable[[str, Stamp], None],
        tell: Callable[[str, str], None],
        settle: float,
        quiet: float,
        limits: ImageLimits,
    ) -> None:
        self.folder = folder
        self._knows, self._pass_over, self._tell = knows, pass_over, tell
        self._settle, self._quiet, self._limits = settle, quiet, limits
        # Both in the order of time, so that only their first ones need to be looked at.
        self._unsettled: dict[str, tuple[Stamp, float]] = {}
        self._waiting: dict[str, Work] = {}
        self._held: set[str] = set()  # paths that wait for others, or are worked on
        self._refused: dict[str, tuple[Stamp | None, str]] = {}  # what was told of
        self.is_there = True
        self.unread = False  # whether any file or folder could not be read

    def scan(self, now: float, below: str = "") -> None:
        """Look at every file of the folder, or of a folder in it."""
        folders = [below]
        while folders:
            place = folders.pop()
            try:
                with os.scandir(self.folder / place) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self._closed(place, error)
                continue
            if not place:
                self._is_back()
            self._refused.pop(place, None)
            for entry in found:
                path = os.path.join(place, entry.name)  # noqa: PTH118 - a Path for each is slow
                if entry.is_dir(follow_symlinks=False):
                    if not is_hidden(entry.name):
                        folders.append(path)
                elif not is_skipped(entry.name):
                    self._look(path, now)

    def look(self, path: str, now: float) -> None:
        """Look at a path below the folder of which something was heard."""
        *above, name = Path(path).parts
        place = self.folder
        for part in above:
            place /= part
            if is_hidden(part) or os.path.islink(place):  # noqa: PTH114 - a Path's own raises
                return
        whole = self.folder / path
        if os.path.isdir(whole) and not os.path.islink(whole):  # noqa: PTH112, PTH114 - as above
            if not is_hidden(name):
                self.scan(now, path)
        elif not is_skipped(name):
            self._look(path, now)

    def ready(self, now: float) -> Iterator[Work]:
        """What is whole by now; its paths are held until they are released. A call opens so many
        files at most: ask again while `until` says that more is due."""
        if not self.is_there:
            return
        for path, (stamp, since) in list(islice(self._unsettled.items(), AT_ONCE)):
            if now - since < self._settle:
                break
            changed = self._look(path, now)
            if not self.is_there:
                return
            if changed or path not in self._unsettled:
                continue
            del self._unsettled[path]
            yield from self._sort(path, stamp, now)
        for key, work in list(self._waiting.items()):
            if now - work.last < self._quiet:
                break
            yield self._waiting.pop(key)

    def until(self, now: float) -> float | None:
        """Seconds until something may be whole; None while nothing waits."""
        if not self.is_there:
            return None
        firsts = [since + self._settle for _, since in islice(self._unsettled.values(), 1)]
        firsts += [work.last + self._quiet for work in islice(self._waiting.values(), 1)]
        return max(0.0, min(firsts) - now) if firsts else None

    def release(self, work: Work) -> None:
        """Its paths may come again."""
        self._held.difference_update(work.paths)

    def stamp(self, path: str) -> Stamp | None:
        """The stamp of a regular file; None where there is none, or a link leads to it."""
        try:
            status = self._status(path)
        except OSError:
            return None
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def refuse(self, path: str, stamp: Stamp | None, reason: str) -> None:
        """Tell what is wrong with a file, and pass it over until it changes."""
        if self._refused.get(path) != (stamp, reason):
            self.leave(path, stamp, reason)
            self._tell(path, reason)

    def cannot_read(self, path: str, stamp: Stamp | None, reason: str) -> None:
        """The same of what may not be read: it is an input without an answer."""
        self.unread = True
        self.refuse(path, stamp, reason)

    def leave(self, path: str, stamp: Stamp | None, reason: str) -> None:
        """Pass a file over until it changes, or the process is another."""
        self._refused[path] = (stamp, reason)

    def _status(self, path: str) -> os.stat_result:
        """The status of what a path names itself, no link.

        Raises:
            OSError: there is nothing, or a folder on the way has become a link.
        """
        place, above = os.fspath(self.folder), os.path.dirname(path)  # noqa: PTH120 - as above
        for part in above.split(os.sep) if above else ():  # noqa: PTH206 - as above
            place = os.path.join(place, part)  # noqa: PTH118 - as above
            if os.path.islink(place):  # noqa: PTH114 - as above
                raise NotADirectoryError(ENOTDIR, "a folder above it is a link")
        return os.lstat(self.folder / path)

    def _look(self, path: str, now: float) -> bool:
        """Whether a path is a file that changed since it was looked at last."""
        try:
            status = self._status(path)
        except OSError as error:
            self._missing(path, error)
            return False
        stamp = Stamp.of(status)
        if not stat.S_ISREG(status.st_mode):
            self._unsettled.pop(path, None)
            link = stat.S_ISLNK(status.st_mode)
            self.refuse(path, None, "a link: not followed" if link else "not a regular file")
            return False
        waiting = self._unsettled.get(path)
        if path in self._held or (waiting is not None and waiting[0] == stamp):
            return False
        self._unsettled.pop(path, None)  # what changed goes to the end of the line
        if self._refused.get(path, (None, ""))[0] != stamp:
            self._refused.pop(path, None)
            if not self._knows(path, stamp):
                self._unsettled[path] = (stamp, now)
        return True

    def _sort(self, path: str, stamp: Stamp, now: float) -> Iterator[Work]:
        """What a file that has settled belongs to; alone it is ready at once."""
        whole, name = self.folder / path, os.path.basename(path)  # noqa: PTH119 - as above
        try:
            head = first_bytes(whole)
        except InputError as error:
            self.cannot_read(path, stamp, one_line(error))
            return
        kind = kind_of(head) or gzipped_kind(head)
        if kind is not None and kind.name == "dicom" and not is_index(name):
            uid = self._study(whole)
            if uid:
                self._join(f"study:{uid}", f"study:{uid}", path, stamp, now).uid = uid
                return
        elif halves_of(path):
            stem = os.path.splitext(path)[0]  # noqa: PTH122 - as above
            self._join(f"pair:{stem}", f"file:{_of_pair(self.folder, path)}", path, stamp, now)
            return
        elif not head and name.lower().endswith(NAMED):
            self._join(
                f"file:{path}", f"file:{path}", path, stamp, now
            )  # somebody may yet write to it
            return
        elif is_index(name) or not (
            kind is not None or head.startswith(ZIP) or name.lower().endswith(NAMED)
        ):
            self._pass_over(path, stamp)
            return
        light = kind is not None and kind.is_picture and stamp.size <= self._limits.max_memory // 16
        self._held.add(path)
        yield Work(f"file:{path}", None, {path: stamp}, now, light)

    def _study(self, whole: Path) -> str:
        """The StudyInstanceUID of a DICOM file; empty where it does not tell."""
        try:
            return study_uid(DropFile("", whole), self._limits)
        except (InputError, ModuleNotFoundError):
            return ""  # its own answer says what is wrong

    def _join(self, key: str, subject: str, path: str, stamp: Stamp, now: float) -> Work:
        """Have a path wait for others of its key; what the last one says is the subject."""
        work = self._waiting.pop(key, None) or Work(subject)
        work.subject, work.last = subject, now
        work.paths[path] = stamp
        self._waiting[key] = work
        self._held.add(path)
        return work

    def _missing(self, path: str, error: OSError) -> None:
        self._refused.pop(path, None)
        if path not in self._unsettled:
            return
        try:
            self.folder.stat()
        except OSError as closed:  # then all are missing: they are there again when it is
            self._closed("", closed)
            return
        del self._unsettled[path]
        if isinstance(error, FileNotFoundError):
            self._tell(path, "gone before its turn")
        else:
            self.cannot_read(path, None, f"cannot be read: {error.strerror}")

    def _closed(self, place: str, error: OSError) -> None:
        """A folder that cannot be read."""
        if place:
            if not isinstance(error, FileNotFoundError):
                reason = f"a folder that cannot be read: {error.strerror}"
                self.cannot_read(place, None, reason)
        elif self.is_there:
            self.is_there = False
            self._tell("", f"the folder cannot be read: {error.strerror}: waiting for it")

    def _is_back(self) -> None:
        if not self.is_there:
            self.is_there = True
            self._tell("", "the folder is there again")


def is_skipped(name: str) -> bool:
    """Whether a file is none to be answered, by its name: hidden, unfinished, or an answer."""
    return is_hidden(name) or name.lower().endswith((ANSWER, *UNFINISHED))


def _of_pair(folder: Path, path: str) -> str:
    """The half of a pair that stands for both: the image, where it is there."""
    from edge_runtime.imaging.nifti_pair import other_half

    first, _ = halves_of(path)
    other = other_half(os.fspath(folder / path))
    if path.lower().endswith(first) and other is not None:
        return os.path.relpath(other, folder)
    return path

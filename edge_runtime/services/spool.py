"""The folder that received files wait in until they are answered.

    STUDY/INSTANCE.dcm      a received file; both names are digests of UIDs
    .incoming/              files that are still coming; emptied at every start
    .results/               results that are still to be delivered, see `delivery`

A file stands in a study's folder only once all of it is on the disk.
"""

from __future__ import annotations

import errno
import filecmp
import os
import re
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple

from edge_runtime.errors import InputError, UsageError
from edge_runtime.files import fsync_folder
from edge_runtime.imaging.dicom_head import DAMAGED, read_elements
from edge_runtime.imaging.limits import MIB, ImageLimits, read_file

# C-STORE's answers (PS3.4, B.2.3; PS3.7, C.5).
SUCCESS, DUPLICATE, NO_ROOM, OTHER_CLASS, NOT_UNDERSTOOD = 0x0000, 0x0111, 0xA700, 0xA900, 0xC000

CLAIM = ".lock"  # the file by which a spool is known
UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # of at most 64 characters (PS3.5, 9.1)
NAMES = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]


class Refused(Exception):
    """A file that is not taken.

    Attributes:
        status: what C-STORE answers.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Uids(NamedTuple):
    """What a file says that it is."""

    study: str
    series: str
    instance: str
    sop_class: str


def digest(uid: str) -> str:
    """The name that stands for a UID in a path."""
    return sha256(uid.encode()).hexdigest()[:32]


class Spool:
    """Takes files in, and lets them go.

    Args:
        folder: made where it is missing, for this user alone; of one process at a time, and of
            nothing else.
        max_bytes: of a received file.
        max_files: of a study.
        min_free: bytes that must stay free on its disk.

    Raises:
        UsageError: another process works in this folder, or it holds other files.
        OSError: it cannot be made or written.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_files: int, min_free: int) -> None:
        self.folder, self._incoming = folder, folder / ".incoming"
        self.max_bytes, self._max_files, self._min_free = max_bytes, max_files, min_free
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / CLAIM).exists():  # a mistake, as `--spool .`
            raise UsageError(f"{folder}: holds other files; name a folder for this alone")
        folder.chmod(0o700)
        self._claim = _claimed(folder)
        if self._incoming.exists():  # of a process that was killed; nobody was told of these
            shutil.rmtree(self._incoming)
        self._incoming.mkdir(mode=0o700)
        self._moving = threading.Lock()  # what is moved in must not meet what is moved out
        self._looking = threading.Lock()  # a file that is looked at is in memory as a whole

    def begin(self, header: bytes) -> Incoming:
        """A new file that begins with these bytes; it may be refused already, see `Incoming`."""
        return Incoming(self._incoming / os.urandom(16).hex(), self, header)

    def incoming(self, name: str) -> Path:
        """Where a file that has come lies until it is kept."""
        return self._incoming / name

    def check_room(self) -> None:
        """Refuse where the disk is too full.

        Raises:
            Refused: it is.
        """
        if shutil.disk_usage(self.folder).free < self._min_free:
            raise Refused(NO_ROOM, "out of resources: the disk is nearly full")

    def check_size(self, size: int) -> None:
        """Refuse so many bytes in one file.

        Raises:
            Refused: they are too many.
        """
        if size > self.max_bytes:
            raise Refused(NO_ROOM, f"larger than {self.max_bytes // MIB} MiB")

    def look(self, path: Path) -> Uids:
        """What a file says that it is.

        Raises:
            Refused: it is damaged, or does not say it.
        """
        limits = ImageLimits(max_bytes=2 * self.max_bytes)
        with self._looking:
            try:
                head, _ = read_elements(read_file(path, limits), limits, NAMES)
                uids = Uids(*(str(head.get(name) or "") for name in NAMES))
            except InputError as error:
                raise Refused(NOT_UNDERSTOOD, str(error)) from None
            except Exception:  # pydicom raises many kinds on a damaged file
                raise Refused(NOT_UNDERSTOOD, DAMAGED) from None
        if not all(UID.fullmatch(uid) and len(uid) <= 64 for uid in uids):
            raise Refused(NOT_UNDERSTOOD, "a UID of study, series or instance is missing or none")
        return uids

    def keep(self, incoming: Path, uids: Uids) -> Path | None:
        """Move a file, which is on the disk, to its study.

        Returns:
            Where it stands now; None where these very bytes stood there.

        Raises:
            Refused: other bytes of the same instance wait for an answer, the study has too many
                files, or the disk takes none.
        """
        folder = self.folder / digest(uids.study)
        path = folder / f"{digest(uids.instance)}.dcm"
        with self._moving:
            if path.exists():
                if filecmp.cmp(incoming, path, shallow=False):
                    return None
                raise Refused(DUPLICATE, "another file of this instance is in the spool")
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                if len(os.listdir(folder)) >= self._max_files:  # noqa: PTH208 - names are enough
                    raise Refused(NO_ROOM, f"a study of more than {self._max_files} files")
                os.replace(incoming, path)
                fsync_folder(folder)
                fsync_folder(self.folder)
            except OSError as error:
                raise Refused(NO_ROOM, f"out of resources: {error.strerror}") from None
        return path

    def forget(self, paths: Iterable[Path], others: Iterable[Path] = ()) -> None:
        """Delete files that are answered. Those of a study of which more have come since stay: the
        answer that is due is for all of them.

        Args:
            others: files that were there when these were answered, and stay.
        """
        by_folder, known = _by_folder(paths), _by_folder(others)
        with self._moving:
            for folder, names in by_folder.items():
                with suppress(FileNotFoundError):
                    there = set(os.listdir(folder))  # noqa: PTH208 - names are enough
                    if there <= names:
                        shutil.rmtree(folder)
                    elif there <= names | known.get(folder, set()):
                        for name in there & names:
                            (folder / name).unlink()


class Incoming:
    """A file that is coming, of which nobody knows yet how long it will be.

    Attributes:
        path: where it lies.
        size: bytes that have come, those that were thrown away with them.
        refused: why it is not taken; what still comes is thrown away. None while all is well.
    """

    def __init__(self, path: Path, spool: Spool, header: bytes) -> None:
        self.path, self.size = path, 0
        self.refused: Refused | None = None
        self._spool = spool
        self._stream: IO[bytes] | None = None
        try:
            self._stream = os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            )
        except OSError as error:
            self._refuse(error)
        self.write(header)
        self.size = 0

    def write(self, part: bytes) -> None:
        """Take what has come."""
        self.size += len(part)
        if self._stream is None:
            return
        try:
            self._spool.check_size(self.size)
            self._spool.check_room()
            self._stream.write(part)
        except (OSError, Refused) as error:
            self._refuse(error)

    def finish(self) -> None:
        """All of it has come; it is on the disk, or refused."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            with stream:
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._refuse(error)

    def drop(self) -> None:
        """It will not be needed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()
        self.path.unlink(missing_ok=True)

    def _refuse(self, error: OSError | Refused) -> None:
        if isinstance(error, OSError):
            error = Refused(NO_ROOM, f"out of resources: {error.strerror}")
        self.refused = error
        self.drop()


def _by_folder(paths: Iterable[Path]) -> dict[Path, set[str]]:
    """The names of files by their folders."""
    found: dict[Path, set[str]] = {}
    for path in paths:
        found.setdefault(path.parent, set()).add(path.name)
    return found


def _claimed(folder: Path) -> IO[bytes] | None:
    """An open file that says that this process works in the folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        (folder / CLAIM).touch()
        return None
    claim = open(folder / CLAIM, "ab")  # noqa: SIM115 - open until the process ends
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        claim.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UsageError(f"{folder}: another btc-edge listen works in this folder") from None
        raise
    return claim

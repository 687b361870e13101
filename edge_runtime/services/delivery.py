"""Results on their way, and received files until their results have arrived: a queue of folders
that survives any end of the process.

    .results/KEY/INSTANCE.dcm    a result that is still to be delivered
    .results/KEY/files.json      the received files that may go once all are; written last
    .results/KEY/others.json     received files of its study that it is not for, if there are any
    .results/KEY/refused/        results that the archive does not want

KEY is of one answer. A folder without `files.json` was never whole and is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge_runtime.errors import one_line
from edge_runtime.files import fsync_folder, write_bytes, write_text
from edge_runtime.json_text import parse_json
from edge_runtime.services.spool import DUPLICATE, Spool

FILES, OTHERS, REFUSED = "files.json", "others.json", "refused"
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between tries while an archive is away


class NotNow(Exception):
    """A result could not be delivered; it may be later."""


class NotWanted(Exception):
    """A result will not be taken, however often it is sent."""


class Sender(Protocol):
    """Where results go."""

    def send(
        self, paths: Sequence[Path], arrived: Callable[[Path, NotWanted | None], None]
    ) -> None:
        """Deliver files.

        Args:
            arrived: called for each that was taken, or with why it is not wanted.

        Raises:
            NotNow: the others may be sent later.
        """
        ...


class ToFolder:
    """Writes results to a folder, one below it for each study, named by UIDs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(
        self, paths: Sequence[Path], arrived: Callable[[Path, NotWanted | None], None]
    ) -> None:
        """As `Sender`."""
        for path in paths:
            data = path.read_bytes()
            study, instance = _names(path)
            try:
                write_bytes(self._folder / study / f"{instance}.dcm", data)
            except OSError as error:
                raise NotNow(f"{self._folder}: {error.strerror}") from None
            arrived(path, None)


class ToArchive:
    """Sends results to a Storage SCP.

    Args:
        aet, called: AE titles of this side and of the archive.
        patience: seconds for an answer.
        tls: to speak TLS.
    """

    def __init__(
        self,
        host: str,
        port: int,
        called: str,
        aet: str,
        *,
        patience: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port, self._called, self._aet = host, port, called, aet
        self._patience, self._tls = patience, tls

    def send(
        self, paths: Sequence[Path], arrived: Callable[[Path, NotWanted | None], None]
    ) -> None:
        """As `Sender`, over one association."""
        association = self._associate()
        try:
            for path in paths:
                arrived(path, self._store(association, path))
        finally:
            if association.is_established:
                association.release()

    def _associate(self) -> Any:
        from pynetdicom import AE
        from pynetdicom.sop_class import (
            ComprehensiveSRStorage,
            SecondaryCaptureImageStorage,
        )

        entity = AE(self._aet)
        for name in ("acse_timeout", "dimse_timeout", "network_timeout", "connection_timeout"):
            setattr(entity, name, self._patience)
        for sop_class in (SecondaryCaptureImageStorage, ComprehensiveSRStorage):
            entity.add_requested_context(sop_class)
        secured = {} if self._tls is None else {"tls_args": (self._tls, self._host)}
        association = entity.associate(self._host, self._port, ae_title=self._called, **secured)
        if association.is_rejected:
            raise NotNow("it refused the association; does it know this AE title?")
        if not association.is_established:
            raise NotNow("no association")
        return association

    def _store(self, association: Any, path: Path) -> NotWanted | None:
        import pydicom

        try:
            status = association.send_c_store(pydicom.dcmread(path)).get("Status")
        except ValueError:  # no presentation context was accepted for it
            return NotWanted("it takes no such objects")
        except RuntimeError:  # the association is over
            raise NotNow("the association broke") from None
        if status is None:
            raise NotNow("no answer")
        if status == 0 or status & 0xF000 == 0xB000:  # success, or taken with a warning
            return None
        if status == DUPLICATE:  # it has this instance: the answer to it was lost
            return None
        if status & 0xFF00 == 0xA700:
            raise NotNow("it is out of resources")
        return NotWanted(f"status 0x{status:04X}")


class Entry(NamedTuple):
    """An answer's results that wait.

    Attributes:
        results: files that are to be delivered.
        files: received ones that may go then.
        others: received ones that were there, too, and stay.
    """

    folder: Path
    results: list[Path]
    files: list[Path]
    others: list[Path]


class Outbox:
    """The queue.

    Args:
        sender: None where no results are asked for; then received files go at once.
        keep: whether received files stay.
        tell: called with a line on what happened.
    """

    def __init__(
        self, spool: Spool, sender: Sender | None, *, keep: bool, tell: Callable[[str], None]
    ) -> None:
        self._spool, self._sender, self._keep, self._tell = spool, sender, keep, tell
        self._folder = spool.folder / ".results"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._changed = threading.Event()
        self._is_away = False
        for folder in self._folder.iterdir():
            if not (folder / FILES).exists():
                shutil.rmtree(folder)
        for entry in self._entries():  # files of which some were deleted are not answered again
            self._let_go(entry)

    def has(self, key: str) -> bool:
        """Whether an answer's results wait already."""
        return (self._folder / key / FILES).exists()

    def waits_for(self, files: Iterable[Path]) -> bool:
        """Whether results wait of an answer for some of these files."""
        wanted = set(files)
        return any(wanted & set(entry.files) for entry in self._entries())

    def put(
        self,
        key: str,
        results: Iterable[tuple[str, bytes]],
        files: Iterable[Path],
        held: bool = False,
        others: Sequence[Path] = (),
    ) -> None:
        """Keep results for delivery, on the disk when this returns.

        Args:
            key: of the answer, a file's name.
            results: instances and their bytes.
            files: received ones that may go once all are delivered.
            held: whether these files stay, since results are missing.
            others: files of the study that other answers are for, as of another patient.
        """
        folder = self._folder / key
        (folder / REFUSED if held else folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for instance, data in results:
            write_bytes(folder / f"{instance}.dcm", data)
        if others:
            self._list(folder / OTHERS, others)
        self._list(folder / FILES, files)
        fsync_folder(self._folder)
        self._changed.set()

    def _list(self, at: Path, files: Iterable[Path]) -> None:
        names = [os.fspath(path.relative_to(self._spool.folder)) for path in files]
        write_text(at, json.dumps(names))

    def _listed(self, at: Path) -> list[Path]:
        names = parse_json(at.read_text(encoding="utf-8")) if at.exists() else []
        return [self._spool.folder / name for name in names]

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set, and `wake` is called."""
        pause = FIRST_PAUSE
        while not stop.is_set():
            self._changed.clear()
            try:
                done = self.deliver()
            except Exception as error:  # no fault may end the thread that delivers
                self._away(f"unexpected {type(error).__name__}")
                done = False
            if done:
                pause = FIRST_PAUSE
                self._changed.wait()
            else:  # new results do not call an archive that is away more often
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def wake(self) -> None:
        """Have `run` see that it is to stop."""
        self._changed.set()

    def deliver(self) -> bool:
        """Deliver what waits; whether all of it was, or is not wanted."""
        odd = False
        for entry in self._entries():
            try:
                if entry.results and self._sender is not None:
                    self._sender.send(entry.results, self._arrived)
                    if not odd:
                        self._back()
            except (NotNow, OSError) as error:
                self._away(one_line(error))
                return False
            except Exception as error:  # one odd result must not keep all others from going
                self._away(f"unexpected {type(error).__name__}")
                odd = True
                continue
            self._let_go(self._entry(entry.folder))
        return not odd

    def _arrived(self, path: Path, problem: NotWanted | None) -> None:
        if problem is None:
            path.unlink()
            return
        kept = path.parent / REFUSED
        kept.mkdir(mode=0o700, exist_ok=True)
        os.replace(path, kept / path.name)
        self._tell(f"a result is not wanted: {one_line(problem)}; it stays in {kept}")

    def _let_go(self, entry: Entry) -> None:
        """Let received files go whose results were all delivered."""
        if entry.results or (entry.folder / REFUSED).exists():
            return
        if not self._keep:
            self._spool.forget(entry.files, entry.others)
        (entry.folder / FILES).unlink()
        (entry.folder / OTHERS).unlink(missing_ok=True)
        with suppress(OSError):
            entry.folder.rmdir()

    def _away(self, why: str) -> None:
        if not self._is_away:
            self._tell(f"results cannot be delivered: {why}: tried again until they are")
        self._is_away = True

    def _back(self) -> None:
        if self._is_away:
            self._tell("results are delivered again")
        self._is_away = False

    def _entries(self) -> list[Entry]:
        """The oldest first."""
        folders = [folder for folder in self._folder.iterdir() if (folder / FILES).exists()]
        folders.sort(key=lambda folder: (folder / FILES).stat().st_mtime_ns)
        return [self._entry(folder) for folder in folders]

    def _entry(self, folder: Path) -> Entry:
        files, others = (self._listed(folder / name) for name in (FILES, OTHERS))
        return Entry(folder, sorted(folder.glob("*.dcm")), files, others)


def _names(path: Path) -> tuple[str, str]:
    """The UIDs of a result's study and its own."""
    import pydicom

    head = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
    return str(head.StudyInstanceUID), path.stem

"""A watched folder, and a watcher whose clock is the test's; what it classifies is bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from benchmarks.hostile.files import dicom_bytes
from edge_runtime.classifier import Classifier
from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.files import Note
from edge_runtime.services.journal import Journal
from edge_runtime.services.watcher import Watcher
from edge_runtime.studies.drop import DropFile

SETTLE, QUIET, RESCAN = 2.0, 30.0, 60.0
PNG = b"\x89PNG\r\n\x1a\n"


class Killed(BaseException):
    """The process ends here."""


def ok(name: str, digest: str | None = None, **more: Any) -> Prediction:
    """An answer."""
    return Prediction(name, Status.OK, "a", "a", 1.0, {"a": 1.0}, None, digest, "m", **more)


def classify_bytes(
    _classifier: object,
    files: list[DropFile],
    *,
    workers: int,
    heatmaps: Path | None,
    tell: Callable[[Note], None],
) -> Iterator[Prediction]:
    """In the place of `classify_drop`: an answer tells what its files held."""
    assert workers >= 1
    assert heatmaps is None
    parts = [ok(f.name, sha256(Path(cast(Path, f.source)).read_bytes()).hexdigest()) for f in files]
    if len(files) == 1:
        yield parts[0]
    else:
        yield ok("study", None, slices=tuple(parts))


def picture(content: int | str) -> bytes:
    """What begins as a picture does."""
    return PNG + str(content).encode()


def scan_file(uid: str | None, number: int = 0) -> bytes:
    """A DICOM file of a study."""
    return dicom_bytes(np.full((4, 4), number, np.uint8), StudyInstanceUID=uid)


class Ward:
    """A folder `in`, a folder `out` for the answers, and whoever works there.

    Args:
        place: an empty folder.
        settings: of `Watcher`; `out` None puts the answers beside the files.
    """

    def __init__(self, place: Path, **settings: Any) -> None:
        self.folder, self.out = place / "in", place / "out"
        self.folder.mkdir()
        self.settings: dict[str, Any] = {
            "out": self.out, "settle": SETTLE, "quiet": QUIET, "rescan": RESCAN, **settings
        }  # fmt: skip
        self.place, self.now = place, 0.0
        self.lines: list[str] = []
        self.open()

    def open(self, model: str = "model 1", watcher: type[Watcher] = Watcher, **more: Any) -> None:
        """Start a process."""
        self.journal = Journal(self.place / "journal", self.folder)
        settings = {**self.settings, **more}
        out = settings.pop("out")
        classifier = cast(Classifier, SimpleNamespace(model=SimpleNamespace(tag=model)))
        self.watcher = watcher(
            classifier, self.folder, out, self.journal, tell=self.lines.append, **settings
        )

    def reopen(self, *words: Any, **more: Any) -> None:
        """End the process and start another."""
        self.journal.close()
        self.open(*words, **more)

    def put(self, name: str, data: bytes) -> Path:
        """A file comes, and the system tells of it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.watcher.notify(path)
        return path

    def wait(self, seconds: float = 0.0) -> None:
        """Time goes by: the watcher does what is due then."""
        self.now += seconds
        while self.watcher.step(self.now) <= 0:
            pass

    def pass_time(self, seconds: float = RESCAN + QUIET + 2 * SETTLE) -> None:
        """Time goes by in steps; by default so much that all is done."""
        end = self.now + seconds
        while self.now < end:
            self.wait(1.0)

    def answers(self, place: Path | None = None) -> dict[str, list[dict[str, Any]]]:
        """What each answer's file holds."""
        root = place or self.settings["out"] or self.folder
        return {
            path.relative_to(root).as_posix(): json.loads(path.read_text("utf-8"))
            for path in sorted(root.rglob("*.btc.json"))
        }

    def states(self) -> dict[str, list[tuple[int, str, str | None]]]:
        """Number, state and status of the answers of each subject, by the journal."""
        found: dict[str, list[tuple[int, str, str | None]]] = {}
        for record, state, status in self.journal.records():
            found.setdefault(record.subject, []).append((record.number, state, status))
        return found

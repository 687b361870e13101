"""What an answer is for, and what it and its file are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import needs_package
from edge_runtime.files import Note
from edge_runtime.services.arrivals import ANSWER, Work
from edge_runtime.studies.drop import DropFile

if TYPE_CHECKING:
    from edge_runtime.decision.prediction import Prediction
    from edge_runtime.services.journal import Record, Seen

LONGEST = 200  # bytes of a file's name in that of its answer
ID, SHORT = 32, 12  # digits of an id in names of files, and in lines
_QUOTED = re.compile(r"""(?<!\w)(?:b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*")""")  # as `repr` quotes
_UID = re.compile(r"[0-9.]{1,64}")  # DICOM PS3.5, section 9.1; anything else may be a path


@dataclass
class Job:
    """A subject as it was read, whose answer is due.

    Attributes:
        work: the subject.
        files: all that the answer is for, in the order of their paths.
        by_path: whether files are called by their paths.
        record: of the journal; set once it is promised.
        answers: once it is classified; a zip file may have several.
        changed: whether a file changed while it was worked on.
        problem: why the answer could not be delivered.
        missing: what is to be installed before there can be an answer.
        notes: on what is left out or guessed.
    """

    work: Work
    files: tuple[Seen, ...]
    by_path: bool
    record: Record = field(init=False)
    answers: tuple[Prediction, ...] = ()
    changed: bool = False
    problem: str | None = None
    missing: str | None = None
    notes: list[Note] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether nothing has come between."""
        return not self.changed and self.problem is None and self.missing is None

    @property
    def handed_over(self) -> Sequence[Prediction]:
        """The answers that are handed over: of a study those for its patients. What says of a file
        that it cannot be used stands beside them in the file of the answers, and for the study only
        where nothing else does."""
        if self.work.uid is None:
            return self.answers
        return [each for each in self.answers if each.study is not None] or self.answers[:1]

    @cached_property
    def content(self) -> str:
        """Digest of all files: copies of a study's file change nothing."""
        digests = sorted({file.sha256 for file in self.files})
        return digests[0] if len(digests) == 1 else _digest(" ".join(digests).encode())

    @cached_property
    def id(self) -> str:
        """Of a study by its UID; of a file by path and content, so that it cannot be found by
        trying paths."""
        if self.work.uid is not None:
            return study_id(self.work.uid)
        return _digest(os.fsencode(self.work.path) + b"\0" + self.content.encode())

    @property
    def name(self) -> str:
        """What the answer calls its subject, its `input`."""
        if self.work.uid is not None:
            return self._uid or self.id[:ID]
        return self.work.path if self.by_path else self.id[:ID]

    @property
    def _uid(self) -> str | None:
        uid = self.work.uid
        return uid if uid is not None and _UID.fullmatch(uid) and uid.strip(".") else None

    def answer_names(self) -> Iterator[str]:
        """What the answer's file may be called, below the folder of the answers, the first one
        first."""
        place, stem = "", self._uid or self.id[:ID]
        if self.by_path and self.work.uid is not None:
            place = os.path.commonpath([f"/{os.path.dirname(f.path)}" for f in self.files])[1:]  # noqa: PTH120
        elif self.by_path:
            place, name = os.path.split(self.work.path)
            stem = name if len(os.fsencode(name)) <= LONGEST else stem
        for number in count(1):
            middle = "" if number == 1 else f".{number}"
            yield os.path.join(place, f"{stem}{middle}{ANSWER}")  # noqa: PTH118 - text in the journal

    def drop(self, folder: Path) -> list[DropFile]:
        """The files to be classified; of a pair the half that stands for both."""
        if self.work.uid is None:
            return [DropFile(self.name, folder / self.work.path)]
        return [
            DropFile(f.path if self.by_path else f.sha256[:ID], folder / f.path) for f in self.files
        ]


class Naming:
    """Answers that call files as a job does. What came from a path is called by its name in
    the drop; a member of a zip file, whose name can name a patient too, by a number."""

    def __init__(self, job: Job, folder: Path) -> None:
        drop = job.drop(folder)
        paths = [(f.source, f.name) for f in drop if isinstance(f.source, os.PathLike)]
        self._names = {os.fspath(path): name for path, name in paths}
        self._names |= {file.name: file.name for file in drop}
        self._by_path = job.by_path
        self._members: dict[str, int] = {}

    def answer(self, answer: Prediction) -> Prediction:
        """An answer, and those behind it."""
        parts = answer.slices and tuple(map(self.answer, answer.slices))
        study = answer.study and self._study(answer.study)
        error = answer.error and self._error(answer.error)
        return replace(
            answer, input=self._name(answer.input), slices=parts, study=study, error=error
        )

    def _error(self, error: str) -> str:
        """An error without the names that it quotes, such as that of a damaged member of a zip."""
        if self._by_path or needs_package(error):
            return error
        return _QUOTED.sub("…", error)

    def _study(self, study: Mapping[str, Any]) -> dict[str, Any]:
        series = [{**each, "name": self._name(each["name"])} for each in study.get("series", ())]
        passed = [
            {**each, "input": self._name(each["input"])} for each in study.get("passed_over", ())
        ]
        return {**study, "series": series, "passed_over": passed}

    def _name(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        for known, called in self._names.items():
            if name.startswith(f"{known}/"):
                if self._by_path:
                    return called + name[len(known) :]
                return f"{called}/{self._members.setdefault(name, len(self._members) + 1)}"
        return name


def study_id(uid: str) -> str:
    """What stands for a study where nothing is to be named."""
    return _digest(uid.encode("utf-8", "surrogateescape"))


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()

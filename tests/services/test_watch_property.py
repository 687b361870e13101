"""Whatever comes, goes and ends: every file is answered, and none twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_runtime.services import watcher as watcher_module
from edge_runtime.services.journal import ANSWERED, WORKING
from edge_runtime.services.watcher import Watcher
from tests.services.watched import Killed, Ward, classify_bytes, picture, scan_file

NAMES = st.sampled_from(["a.png", "b.png", "below/a.png", "x", "y", "below/z"])
CONTENTS = [*map(picture, range(3)), *(scan_file(u, n) for u in ("1.2", "1.3") for n in range(3))]


@pytest.fixture(autouse=True, scope="module")
def _bytes_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watcher_module, "classify_drop", classify_bytes)
        yield


class Ends(Watcher):
    """A watcher whose process ends at a step that is a number of steps ahead."""

    ahead = 0

    def _count(self) -> None:
        type(self).ahead -= 1
        if type(self).ahead == 0:
            raise Killed


def _ending(name: str) -> Any:
    def step(self: Ends, *words: Any) -> Any:
        self._count()
        result = getattr(Watcher, name)(self, *words)
        self._count()
        return result

    return step


for _name in ("_begin", "_classify", "_write", "_write_answers", "_hand_over", "_finish"):
    setattr(Ends, _name, _ending(_name))


class Life(RuleBasedStateMachine):
    """Others write to a folder while its watcher works, and ends, and starts."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        Ends.ahead = 0
        self.ward = Ward(Path(self._place.name), settle=1.0, quiet=3.0, rescan=5.0, out=None)
        self.ward.reopen(watcher=Ends)

    @rule(name=NAMES, content=st.sampled_from(CONTENTS))
    def comes(self, name: str, content: bytes) -> None:
        self.ward.put(name, content)

    @rule(name=NAMES, other=NAMES)
    def is_renamed(self, name: str, other: str) -> None:
        path, to = self.ward.folder / name, self.ward.folder / other
        if path.exists():
            to.parent.mkdir(exist_ok=True)
            path.rename(to)

    @rule(name=NAMES)
    def goes(self, name: str) -> None:
        (self.ward.folder / name).unlink(missing_ok=True)

    @rule(seconds=st.integers(1, 6))
    def time_goes_by(self, seconds: int) -> None:
        try:
            self.ward.pass_time(seconds)
        except Killed:
            self.ward.reopen(watcher=Ends)

    @rule(ahead=st.integers(1, 30))
    def will_end(self, ahead: int) -> None:
        Ends.ahead = ahead

    @rule()
    def is_restarted(self) -> None:
        self.ward.reopen(watcher=Ends)

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        rows = [(r.subject, r.content) for r, s, _ in self.ward.journal.records() if s == ANSWERED]
        assert len(set(rows)) == len(rows)

    def teardown(self) -> None:
        Ends.ahead = 0
        self.ward.pass_time(30)
        answers, rows = self.ward.answers(), self.ward.journal.records()
        assert answers.keys() <= {record.name for record, _, _ in rows}
        assert answers.keys() >= {record.name for record, s, _ in rows if s == ANSWERED}
        for record, state, _ in rows:
            path = self.ward.folder / record.subject.removeprefix("file:")
            if state == WORKING and path.is_file():  # its file went while no process ran
                assert sha256(path.read_bytes()).hexdigest() != record.content
        told = {part["sha256"] for answer in answers.values()
                for part in (answer[0], *answer[0].get("slices", ()))}  # fmt: skip
        for path in self.ward.folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".btc.json"):
                assert sha256(path.read_bytes()).hexdigest() in told, path
        self.ward.journal.close()
        self._place.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)

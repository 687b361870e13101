"""An archive over Ray: each slice has one answer, whatever dies on the way."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from edge_runtime.archive import engine
from edge_runtime.archive.engine import Progress, Summary
from edge_runtime.archive.manifest import Manifest
from edge_runtime.archive.progress import Reporter, duration
from edge_runtime.archive.rows import ClassifierSettings
from edge_runtime.archive.sources import TREE, Source
from edge_runtime.classifier import Classifier
from edge_runtime.cluster import Cluster, open_cluster
from edge_runtime.errors import DataError
from edge_runtime.processes import cores
from tests.archive.sources import Eventful
from tests.test_cluster import _with_variable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with open_cluster(None, min(2, cores()), memory=64 << 20, tell=print) as opened:
        yield opened


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


class Archive:
    """A folder of drawn pictures, and a run over it on the cluster that the tests share."""

    def __init__(self, folder: Path, classifier: Classifier) -> None:
        self.folder, self.out = folder / "in", folder / "out"
        self.settings = ClassifierSettings.of(classifier)
        self.lines: list[str] = []
        self.folder.mkdir()

    def draw(self, *names: str) -> None:
        for number, name in enumerate(names):
            picture = np.zeros((64, 64), np.uint8)
            cv2.circle(picture, (32, 32), 10 + number % 20, 40 + 7 * number % 200, -1)
            assert cv2.imwrite(str(self.folder / name), picture)

    def manifest(self, shard_size: int) -> Manifest:
        source = Source(str(self.folder), TREE)
        return Manifest.make(source, str(self.out), self.settings.to_json(), shard_size=shard_size)

    def run(self, manifest: Manifest, progress: Callable[[Progress], None] = print) -> Summary:
        source = Eventful(str(self.folder), TREE)
        return engine.run(
            manifest, source, self.settings, tell=self.lines.append, progress=progress
        )

    def rows(self) -> list[dict[str, Any]]:
        shards = sorted((self.out / "shards").glob("*.parquet"))
        return [row for shard in shards for row in pq.read_table(shard).to_pylist()]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def errors(self) -> dict[str, str]:
        return {row["path"]: row["error"] for row in self.rows() if row["status"] == "error"}


@pytest.fixture
def archive(
    tmp_path: Path, cluster: Cluster, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> Archive:
    monkeypatch.setattr(engine, "open_cluster", lambda *_, **__: nullcontext(cluster))
    return Archive(tmp_path, classifier)


def names(count: int) -> list[str]:
    return [f"{number:03}.png" for number in range(count)]


def test_answers_are_those_of_the_classifier(
    archive: Archive, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.draw(*names(11))
    (archive.folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    manifest = archive.manifest(shard_size=3)
    steps: list[Progress] = []
    summary = archive.run(manifest, steps.append)
    assert summary[:3] == (4, 12, 1)
    assert [step.shards for step in steps] == [0, 1, 2, 3, 4]
    assert (steps[-1].of_shards, steps[-1].rows, steps[-1].errors) == (4, 12, 1)

    paths = sorted(archive.folder.iterdir())
    answers = {Path(a.input).name: a for a in classifier.classify_many(paths)}
    rows = archive.rows()
    assert [row["path"] for row in rows] == [path.name for path in paths]
    for row in rows:
        answer = answers[row["path"]]
        assert (row["status"], row["label"], row["confidence"], row["sha256"]) == (
            answer.status.value, answer.label, answer.confidence, answer.sha256,
        )  # fmt: skip

    def no_cluster(*_: object, **__: object) -> None:
        raise AssertionError("a second run has nothing to do")

    monkeypatch.setattr(engine, "open_cluster", no_cluster)
    assert archive.run(manifest) == Summary(0, 0, 0, 0.0)


def test_worker_that_is_killed_loses_nothing(archive: Archive) -> None:
    archive.draw(*names(6), "004-waits.png", "007.png")
    manifest = archive.manifest(shard_size=2)
    beside = archive.folder.parent
    killed: list[int] = []

    def kill() -> None:
        while not (beside / "reading").exists() or not (beside / "reading").read_text():
            time.sleep(0.05)
        killed.append(int((beside / "reading").read_text()))
        os.kill(killed[0], signal.SIGKILL)
        (beside / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    summary = archive.run(manifest)
    killer.join()
    assert killed
    assert summary[:3] == (4, 8, 0)
    assert [row["path"] for row in archive.rows()] == archive.names()
    assert archive.lines == []


def test_files_that_end_their_process_are_told_and_the_rest_is_answered(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TRIES", 0)  # each takes as long as a worker takes to start
    archive.draw(*names(4), "005-kills.png", "006-fills.png", "007-confuses.png", "008.png")
    summary = archive.run(archive.manifest(shard_size=4))
    assert summary[:3] == (2, 8, 3)
    errors = archive.errors()
    assert [row["path"] for row in archive.rows()] == archive.names()
    assert errors.keys() == {"005-kills.png", "006-fills.png", "007-confuses.png"}
    assert "ended the process that read it" in errors["005-kills.png"]
    assert "not enough memory" in errors["006-fills.png"]
    assert "unexpected KeyError" in errors["007-confuses.png"]
    assert {line.partition(":")[0] for line in archive.lines} == errors.keys()


def test_model_that_reads_nothing_is_no_fault_of_the_files(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.draw(*(f"{number}-confuses.png" for number in range(8)))
    monkeypatch.setattr(engine, "SUSPICIOUS", 4)
    with pytest.raises(engine.ClusterError, match="so it is not their files: unexpected KeyError"):
        archive.run(archive.manifest(shard_size=4))


def test_store_that_does_not_answer_once_is_asked_again(archive: Archive) -> None:
    archive.draw("000-away.png", *names(4))
    summary = archive.run(archive.manifest(shard_size=1))
    assert summary[:3] == (5, 5, 0)
    assert archive.lines == [
        "shard 0 is put off: the folder is gone", "1 shards that were put off are tried again",
    ]  # fmt: skip


def test_store_that_is_gone_ends_the_run_and_the_next_goes_on(archive: Archive) -> None:
    archive.draw(*names(3), "002-lost.png")
    manifest = archive.manifest(shard_size=1)
    with pytest.raises(DataError, match="the folder is gone"):
        archive.run(manifest)
    assert manifest.missing() == [2]


def test_place_that_takes_no_answers(archive: Archive) -> None:
    archive.draw(*names(2))
    manifest = archive.manifest(shard_size=1)
    (archive.out / "shards").write_text("in the way")
    with pytest.raises((DataError, OSError), match="shards"):
        archive.run(manifest)


DRIVER = """
import sys
from edge_runtime.archive import engine
from edge_runtime.archive.manifest import Manifest
from edge_runtime.archive.rows import ClassifierSettings
from edge_runtime.archive.sources import TREE
from edge_runtime.classifier import Classifier
from tests.archive.sources import Eventful
word, out = sys.argv[1:]
engine.run(Manifest.open(out), Eventful(word, TREE), ClassifierSettings.of(Classifier()),
           workers=1, memory=1 << 26, tell=print)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes by their environment")
def test_next_run_goes_on_where_a_killed_one_ended(
    archive: Archive, request: pytest.FixtureRequest
) -> None:
    archive.draw(*names(2), "002-waits.png", "003.png")
    manifest = archive.manifest(shard_size=1)
    beside = archive.folder.parent
    # What a killed run leaves goes with it; its name must be short, as sockets stand in it.
    short = tempfile.mkdtemp()
    request.addfinalizer(lambda: shutil.rmtree(short))
    job = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(archive.folder), str(archive.out)],
        cwd=ROOT,
        env={**os.environ, "BTC_TEST": str(beside), "TMPDIR": short},
    )
    while not (beside / "reading").exists():
        assert job.poll() is None
        time.sleep(0.1)
    job.kill()
    job.wait()
    while _with_variable("BTC_TEST", str(beside)):  # nothing of it stays; the file's time ends this
        time.sleep(0.1)
    assert manifest.missing() == [2, 3]
    (beside / "go").touch()
    assert archive.run(manifest)[:3] == (2, 2, 0)
    assert [row["path"] for row in archive.rows()] == archive.names()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_and_elsewhere() -> None:
    now = [0.0]
    half, whole = Progress(5, 10, 1000, 1, 10.0), Progress(10, 10, 2000, 1, 20.0)
    words = "5 of 10 shards, 1,000 slices (1 errors), 100 a second, 0:00:10 left"

    lines = io.StringIO()
    reporter = Reporter("btc-edge", lines, lambda: now[0])
    for at, progress in ((0.0, half), (59.0, half), (60.0, half), (61.0, whole)):
        now[0] = at
        reporter.progress(progress)
    reporter.tell("a line")
    assert lines.getvalue().splitlines() == [
        f"btc-edge: {words}", f"btc-edge: {words}",
        "btc-edge: 10 of 10 shards, 2,000 slices (1 errors), 100 a second", "btc-edge: a line",
    ]  # fmt: skip

    terminal = Terminal()
    reporter = Reporter("btc-edge", terminal, lambda: now[0])
    reporter.progress(half)
    reporter.tell("a line")
    assert terminal.getvalue().startswith("\r\x1b[K[##########----------] 5 of 10 shards")
    assert "\r\x1b[Kbtc-edge: a line\n[####" in terminal.getvalue()
    reporter.close()
    assert terminal.getvalue().endswith("\n")


def test_time_left() -> None:
    assert [duration(s) for s in (42.4, 3723, 273906)] == ["0:00:42", "1:02:03", "3 d 4:05:06"]

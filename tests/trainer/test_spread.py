"""Folds as tasks of Ray: the same figures as one after the other, whatever happens on the way."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result

from edge_runtime.cluster import Done, Needs, Task
from edge_runtime.errors import BtcError, DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from trainer import spread
from trainer.commands.train import train_command
from trainer.data.collection import Collection
from trainer.data.heads import Heads
from trainer.features.cache import FeatureCache
from trainer.models.classical import ClassicalSettings
from trainer.models.training import Diverged, TrainSettings
from trainer.run import Run
from trainer.spread import memory_of, train_part, travelling
from trainer.train_job import Job, start_run

KNN = ("--model", "knn", "--features", "histogram", "--no-cache", "--size", 32, "--seed", 5)
FOLDS = ("--protocol", "grouped", "--folds", 2)
CNN = (*FOLDS, "--epochs", 3, "--batch-size", 16, "--size", 32, "--seed", 5, "--threads", 1,
       "--network", "classic")  # fmt: skip
BIN = Path(sys.executable).parent


def train(*words: object) -> Result:
    return CliRunner().invoke(train_command, [str(word) for word in words])


def refused(*words: object) -> str:
    done = train(*words)
    assert isinstance(done.exception, (DataError, UsageError)), done.output
    return str(done.exception)


class Here:
    """A cluster that is this process: what a task needs travels, and comes back, as a pickle."""

    workers, needs = 2, Needs(2, 1 << 30)

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    @contextmanager
    def open(self, address: str | None, workers: int | None, **options: Any) -> Iterator[Here]:
        self.asked = {"address": address, **options}
        yield self

    def run(
        self, function: Callable[..., Any], tasks: list[Task], **options: Any
    ) -> Iterator[Done]:
        for task in tasks:
            arguments = pickle.loads(pickle.dumps(task.arguments))
            try:
                value, error = function(*arguments), None
            except BtcError as raised:
                value, error = None, raised
            yield Done(task.key, *pickle.loads(pickle.dumps((value, error))))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    cluster = Here()
    monkeypatch.setattr(spread, "open_cluster", cluster.open)
    monkeypatch.setattr(spread, "prepare_process", lambda job: job)
    return cluster


@pytest.fixture(scope="module")
def serial(phantom_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of two folds, one after the other."""
    folder = tmp_path_factory.mktemp("serial") / "run"
    done = train(phantom_zip, *FOLDS, *KNN, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


def check_alike(one: Path, two: Path) -> None:
    """Figures and predictions are equal, of each fold and of both."""
    for name in ("", "fold-1", "fold-2"):
        for file in ("metrics.json", "predictions.csv"):
            assert (one / name / file).read_bytes() == (two / name / file).read_bytes(), file


def test_folds_elsewhere_equal_folds_in_series(
    serial: Path, phantom_zip: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = train(os.path.relpath(phantom_zip), *FOLDS, *KNN, "--out", "run", "--ray")
    assert done.exit_code == 0, done.output
    check_alike(serial, tmp_path / "run")
    assert done.output.count("finished on") == 2
    assert "fold 2: finished on" in done.output
    assert here.asked["address"] is None
    assert here.asked["cpus"] == spread.THREADS
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (settings["status"], settings["threads"]) == ("finished", spread.THREADS)


def test_what_failed_is_told_and_the_others_go_on(
    serial: Path, phantom_zip: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (phantom_zip, *FOLDS, *KNN, "--out", tmp_path / "run", "--ray=auto", "--threads", 3)
    real = spread.train_fold

    def train_fold(job: Job, number: int) -> Run:
        if number == 1:
            raise Diverged("training diverged in epoch 2")
        return real(job, number)

    monkeypatch.setattr(spread, "train_fold", train_fold)
    done = train(*words)
    assert isinstance(done.exception, Diverged)
    assert str(done.exception).startswith("fold 1: training diverged in epoch 2; ")
    assert "every fold as far as it came" in str(done.exception)
    assert "fold 1: training diverged" in done.output
    assert "fold 2: finished on" in done.output
    assert here.asked == {**here.asked, "address": "auto", "cpus": 3}
    monkeypatch.setattr(spread, "train_fold", real)
    made = (tmp_path / "run" / "fold-2" / "model.skops").stat().st_mtime_ns
    done = train(phantom_zip, "--out", tmp_path / "run", "--resume", "--no-cache", "--ray")
    assert done.exit_code == 0, done.output
    assert "fold 2" not in done.output
    assert (tmp_path / "run" / "fold-2" / "model.skops").stat().st_mtime_ns == made
    check_alike(serial, tmp_path / "run")


def test_the_error_that_is_raised_says_of_all() -> None:
    failed = {
        "fold 1": Diverged("diverged"),
        "fold 3": UsageError("no such option"),
        "fold 4": OSError("disk full"),
    }
    with pytest.raises(UsageError, match=r"^fold 3: no such option; fold 1, fold 4 failed too$"):
        spread.raise_first(failed)
    with pytest.raises(DataError, match=r"^fold 4: disk full$"):
        spread.raise_first({"fold 4": failed["fold 4"]})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--ray",), "add --protocol grouped --folds N"),
        (("--protocol", "grouped", "--ray", "auto"), "add --protocol grouped --folds N"),
        ((*FOLDS, "--ray", "--strategy", "mirrored"), "--strategy does not go with --ray"),
        ((*FOLDS, "--ray", "--feed-workers", 2), "--feed-workers does not go with --ray"),
        ((*FOLDS, "--ray", "--track", "mlflow"), "--track does not go with --ray"),
    ],
)
def test_what_ray_does_not_train(
    phantom_zip: Path, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    out = tmp_path / "run"
    assert says in refused(phantom_zip, "--out", out, *words)
    assert not out.exists()


def test_ray_does_not_take_the_data_for_its_address(phantom_zip: Path, tmp_path: Path) -> None:
    for others in ((), (phantom_zip,)):
        done = train("--ray", phantom_zip, *others, *FOLDS, *KNN, "--out", tmp_path / "run")
        assert done.exit_code == 2
        assert "is neither HOST:PORT nor auto" in done.output
    assert not (tmp_path / "run").exists()


def test_the_missing_extra_is_named_before_anything_is_read(
    phantom_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread, "find_spec", lambda name: None)
    out = tmp_path / "run"
    said = refused(phantom_zip, *FOLDS, *KNN, "--out", out, "--ray")
    assert "the package ray is missing: pip install 'btc-edge[train,ray]'" in said
    assert not out.exists()


def test_a_job_travels_with_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ClassicalSettings("knn", ("histogram",))
    one, two = Path("a.zip"), Path("b")
    job = Job(
        (Collection(one, "a", groups_csv=Path("a.csv")), Collection(two, "b")),
        Path("run"),
        partial=Path("p.zip"),
        partial_groups_csv=Path("p.csv"),
        heads=Heads(Path("h.zip"), Path("h.csv")),
        deep=Path("deep"),
        settings=settings,
        cache=FeatureCache(tmp_path),
    )
    sent = pickle.loads(pickle.dumps(travelling(job)))
    paths = [sent.out, *spread._inputs(sent)]
    assert len(paths) == 1 + 3 + 1 + 1 + 1 + 2
    assert all(path.is_absolute() for path in paths)
    assert [each.name for each in sent.data] == ["a", "b"], "names are kept: paths begin with them"
    assert sent.threads == spread.THREADS
    assert sent.settings == settings


def test_a_worker_that_sees_other_files_says_so(phantom_zip: Path, tmp_path: Path) -> None:
    settings = ClassicalSettings("knn", ("histogram",))
    job = Job(phantom_zip, tmp_path / "run", "grouped", folds=2, settings=settings)
    with pytest.raises(DataError, match=r"does not see the .*run .*all nodes share"):
        train_part(job, "2026", 1)
    run = start_run(job)
    with pytest.raises(DataError, match=r"does not see the .*run .*all nodes share"):
        train_part(job, "another's", 1)
    mark = run.settings["created"]
    job = Job(tmp_path / "no.zip", tmp_path / "run", "grouped", folds=2, settings=settings)
    with pytest.raises(DataError, match=r"does not see the .*no\.zip .*all nodes share"):
        train_part(job, mark, 1)


def test_other_data_on_a_worker_are_refused(
    serial: Path, phantom_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    """They lie at the same path of another machine."""
    from trainer.synthetic.phantoms import write_phantoms

    other = tmp_path / "other.zip"
    write_phantoms(other, per_class=12, testing=0, seed=9)
    real = spread.travelling

    def travel(job: Job) -> Job:
        from dataclasses import replace

        return replace(real(job), data=other)

    monkeypatch.setattr(spread, "travelling", travel)
    said = refused(phantom_zip, *FOLDS, *KNN, "--out", tmp_path / "run", "--ray")
    assert re.match("fold 1: DATA is not the .* started with; fold 2 failed too", said), said


def test_a_training_goes_on_with_its_threads(
    phantom_zip: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(spread, "train_all", lambda *_: exec("raise KeyboardInterrupt"))
    done = train(phantom_zip, *FOLDS, *KNN, "--out", out, "--ray", "--threads", 1)
    assert done.exit_code == 130
    assert "nothing is kept" in done.output
    assert not out.exists()
    job = Job(phantom_zip, out, "grouped", folds=2, threads=1,
              settings=ClassicalSettings("knn", ("histogram",)))  # fmt: skip
    start_run(job)
    said = refused(phantom_zip, "--out", out, "--resume", "--no-cache", "--threads", 2)
    assert "--threads is not what the run was started with, which was 1" in said
    assert here.asked["cpus"] == 1


def test_memory_grows_with_slices_and_batches(tmp_path: Path) -> None:
    """Peaks that were seen: 1.10 GiB (96 slices of 64), 1.57 (7,446 of 96), 3.17 (lite0, 12,000 of
    128); a request is above its peak, and not by half."""
    for slices, size, batch, peak in ((96, 64, 16, 1.10), (7446, 96, 32, 1.57),
                                      (12000, 128, 32, 3.17)):  # fmt: skip
        job = Job(tmp_path, tmp_path, preprocess=Preprocess(size),
                  settings=TrainSettings(batch_size=batch))  # fmt: skip
        assert peak < memory_of(job, slices) / 2**30 < 1.5 * peak
    classical = Job(tmp_path, tmp_path, settings=ClassicalSettings("knn", ("histogram",)))
    assert memory_of(classical, 100) < 2**30


def test_every_epoch_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "LOOK", 0.001)
    runs = {n: Run(tmp_path / f"fold-{n}", {}) for n in (1, 2)}
    rows = [{"epoch": float(n), "val_loss": 1 / n} for n in (1, 2, 3)]
    runs[1].save_history(rows[:1])
    told: list[tuple[int, float]] = []
    with spread._watched(
        {n: run.folder for n, run in runs.items()},
        lambda fold, rows: told.append((fold, rows[-1]["epoch"])),
    ):
        runs[1].save_history(rows[:2])
        runs[2].save_history(rows[:1])
        (tmp_path / "fold-2" / "history.csv").write_text("epoch\nhalf")
        runs[2].save_history(rows)
    assert sorted(told) == [(1, 2.0), (2, 1.0), (2, 2.0), (2, 3.0)]


def test_folds_by_ray_equal_folds_in_series(
    serial: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    done = start(phantom_zip, *FOLDS, *KNN, "--out", tmp_path / "run", "--ray", "--threads", 1)
    errors = done.communicate(timeout=600)[1]
    assert done.returncode == 0, errors
    check_alike(serial, tmp_path / "run")
    assert "2 folds" in errors
    assert "Traceback" not in errors


def start(*words: object) -> subprocess.Popen[str]:
    """btc-train in a group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [str(BIN / "btc-train"), *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's workers that have a task."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        words = child.cmdline()
        if words and words[0].startswith("ray::train_part"):
            found.append(child)
    return found


def wait_for(process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if what():
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"it did not come so far: {process.communicate()[1]}")


def epochs_of(folder: Path) -> int:
    path = folder / "history.csv"
    if not path.is_file():
        return 0
    with path.open(newline="") as stream:
        return len(list(csv.DictReader(stream)))


@pytest.fixture(scope="module")
def network(phantom_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of two folds, trained one after the other."""
    folder = tmp_path_factory.mktemp("network") / "run"
    done = start(phantom_zip, *CNN, "--out", folder)
    errors = done.communicate(timeout=900)[1]
    assert done.returncode == 0, errors
    return folder


def check_same_weights(one: Path, two: Path) -> None:
    check_alike(one, two)
    for fold in ("fold-1", "fold-2"):
        mine, other = (Run.open(folder / fold).load_model().get_weights() for folder in (one, two))
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(
    network: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(phantom_zip, *CNN, "--out", out, "--ray")
    wait_for(process, lambda: epochs_of(out / "fold-1") > 0 and bool(workers_of(process)))
    workers_of(process)[0].send_signal(signal.SIGKILL)
    errors = process.communicate(timeout=900)[1]
    assert process.returncode == 0, errors
    assert "fold 2, epoch 3/3: loss" in errors
    check_same_weights(network, out)


@pytest.mark.slow
def test_ctrl_c_ends_all_and_either_command_goes_on(
    network: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(phantom_zip, *CNN, "--out", out, "--ray")
    wait_for(process, lambda: epochs_of(out / "fold-1") > 0)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert "every fold as far as it came" in errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    done = start(phantom_zip, "--out", out, "--resume")
    errors = done.communicate(timeout=900)[1]
    assert done.returncode == 0, errors
    check_same_weights(network, out)

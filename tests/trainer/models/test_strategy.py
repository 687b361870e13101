"""One training over several devices: the weights of one, and no harm where a worker ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.errors import UsageError
from tests.trainer.models.small_training import SETTINGS, trained
from trainer.commands.train import train_command
from trainer.commands.train_options import RESUMED_WITH
from trainer.models.classical import ClassicalSettings
from trainer.models.strategy import Cluster, meet, read_cluster
from trainer.train_job import Job, start_run

ROOT = Path(__file__).parents[3]
MODULE = "tests.trainer.models.small_training"


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(way: str, folder: Path, *words: str, config: str = "") -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    environment = os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, way, str(folder), *words],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment,
    )  # fmt: skip


def configs(number: int) -> list[str]:
    """TF_CONFIG of each of so many workers on this machine."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(number)]
    return [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        for index in range(number)
    ]


def start_two(folder: Path, *words: str, second: str = "") -> list[subprocess.Popen[str]]:
    """Two workers; `second` is a word for worker 1 alone."""
    return [
        start("multi-worker", folder, *words, *[second] * bool(index and second), config=config)
        for index, config in enumerate(configs(2))
    ]


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def weights(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


def furthest(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The largest difference."""
    pairs = zip(ones, others, strict=True)
    return max(float(np.abs(one.astype(float) - other).max(initial=0)) for one, other in pairs)


def check_equal(folder: Path, history: list[dict[str, float]]) -> None:
    """The weights and the optimiser of several devices are those of one, which have moved far."""
    several, one = weights(folder / "0.npz"), weights(folder / "plain.npz")
    np.testing.assert_equal(len(several), len(one))
    assert furthest(several, one) < 1e-4
    with np.load(folder / "start.npz") as file:
        begun = [file[name] for name in file.files]
    assert furthest(begun, one[: len(begun)]) > 1e-2
    alone = json.loads((folder / "plain.json").read_text())
    for row, other in zip(history, alone, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_and_only_the_chief_saves(tmp_path: Path) -> None:
    results = [result_of(process) for process in start_two(tmp_path, "plain=1")]
    assert results[0] == results[1]
    assert results[0]["replicas"] == 2
    check_equal(tmp_path, results[0]["history"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("0.npz", "1.npz", "start.npz", "plain.npz", "plain.json", "checkpoint", "plain"),
    }
    assert weights(tmp_path / "1.npz") == [], "worker 1 has no checkpoint"


@pytest.mark.slow
def test_two_devices_of_a_process_give_the_weights_of_one(tmp_path: Path) -> None:
    elsewhere = configs(2)[0]  # which is not asked for
    words = (
        "plain=1",
        "network=edge",
    )  # a second output, layers that keep their weights
    result = result_of(start("mirrored", tmp_path, *words, config=elsewhere))
    assert result["replicas"] == 2
    check_equal(tmp_path, result["history"])


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_one_goes_on(tmp_path: Path) -> None:
    chief, other = start_two(tmp_path, "epochs=3", "pause=1")
    assert other.stdout is not None
    while not other.stdout.readline().startswith("epoch 1"):
        assert other.poll() is None
    other.send_signal(signal.SIGKILL)
    result = result_of(chief)
    other.communicate()
    assert result["error"].startswith("WorkerLost: ")
    assert result["error"].endswith("has ended or cannot be reached any more")
    state = json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_text())["state"]
    assert state["epoch"] in (1, 2)
    # Another number of workers goes on from there: to what one alone would have come to.
    (config,) = configs(1)
    result = result_of(start("multi-worker", tmp_path, "epochs=3", "plain=1", config=config))
    assert [row["epoch"] for row in result["history"]] == [1, 2, 3]
    check_equal(tmp_path, result["history"])


@pytest.mark.slow
def test_workers_that_were_started_otherwise_all_say_so(tmp_path: Path) -> None:
    results = [result_of(process) for process in start_two(tmp_path, second="seed=9")]
    assert results[0]["error"] == results[1]["error"]
    assert results[0]["error"].startswith("UsageError: worker 1 (127.0.0.1:")
    assert "was not started with the same options as worker 0" in results[0]["error"]
    assert list((tmp_path).glob("checkpoint/*")) == []


def test_workers_wait_until_all_are_there() -> None:
    ports = free_ports(3)
    places, all_met = tuple(f"127.0.0.1:{port}" for port in ports), Barrier(3)

    def work(rank: int) -> None:
        meet(Cluster(places, rank), 60)
        with socket.create_server(("127.0.0.1", ports[rank])):  # as TensorFlow does next
            all_met.wait(60)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (1, 2, 0)))


def test_a_worker_does_not_wait_for_ever() -> None:
    one, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    line = f"--strategy multi-worker: {other} did not come within 0 s: start the same command"
    with pytest.raises(UsageError, match=line):
        meet(Cluster((one, other), 0), 0)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"cannot listen at {place}: "):
            meet(Cluster((place,), 0))


def test_networks_have_no_batch_normalisation() -> None:
    """Its statistics would be those of a replica's share."""
    from trainer.models.networks import NETWORKS, build_network

    for name in NETWORKS:
        layers = build_network(name, 32, 4, pretrained=False).layers
        assert not [each for each in layers if "Normalization" in type(each).__name__]


def test_the_plain_training_takes_keras_own_steps(tmp_path: Path) -> None:
    """To the last bit: of a network with dropout, against a loop written out."""
    from dataclasses import replace

    from benchmarks.training import drawn_samples
    from trainer.models import training
    from trainer.models.feed import as_batch
    from trainer.models.sampler import Feed

    settings = replace(SETTINGS, epochs=1)
    _, learned = trained(settings, tmp_path / "checkpoint", None)
    samples, _ = drawn_samples(46, 32)
    training._make_repeatable(settings.seed)
    feed = Feed(samples, 4, settings.recipe, settings.seed)
    model = training._new_model(settings, samples, 4)
    training._seed_dropout(model, settings.seed, 0)
    order = feed.order(0)
    for step, first in enumerate(range(0, len(order), 11)):
        numbers = range(first, min(first + 11, len(order)))
        batch = as_batch([feed.example(0, n, int(order[n])) for n in numbers], None)
        model.optimizer.learning_rate = training.learning_rate(settings, step, 4)
        model.train_on_batch(batch.images[..., None].astype(np.float32), batch.targets)
    for one, other in zip(model.get_weights(), learned, strict=False):
        np.testing.assert_array_equal(one, other)


# TF_CONFIG


def config(cluster: Any, kind: str = "worker", index: Any = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_workers_are_numbered_from_the_chief() -> None:
    workers = ["a:1", "b.c-d:2", "[::1]:3"]
    assert read_cluster(config({"worker": workers}, index=2)) == Cluster(tuple(workers), 2)
    both = {"worker": workers, "chief": ["z:9"]}
    assert read_cluster(config(both, "chief")) == Cluster(("z:9", *workers), 0)
    assert read_cluster(config(both, "worker", "1")) == Cluster(("z:9", *workers), 2)
    assert read_cluster(config(both, "chief")).is_chief
    assert not read_cluster(config(both)).is_chief


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, "is not set; each worker needs its own, such as"),
        ({"TF_CONFIG": " "}, "is not set"),
        ({"TF_CONFIG": "{"}, "is not of the form"),
        ({"TF_CONFIG": "[]"}, "is not of the form"),
        ({"TF_CONFIG": "[" * 100_000}, "is not of the form"),
        (
            {"TF_CONFIG": '{"cluster": {}, "task": {"type": "worker", "index": Infinity}}'},
            "is not of the form",
        ),
        ({"TF_CONFIG": '{"cluster": {"worker": 1}, "task": {}}'}, "is not of the form"),
        ({"TF_CONFIG": '{"cluster": []}'}, "is not of the form"),
        (config({"worker": ["a:1"], "ps": ["b:1"]}), "names ps; a training has worker"),
        (config({"worker": ["a:1"], "chief": ["b:1", "c:1"]}), "names several chiefs"),
        (config({"worker": ["a"]}), "names 'a', which is not HOST:PORT"),
        (config({"worker": ["a:0"]}), "names 'a:0', which is not HOST:PORT"),
        (config({"worker": ["a:99999"]}), "which is not HOST:PORT"),
        (config({"worker": ["http://a:1"]}), "which is not HOST:PORT"),
        (config({"worker": ["a:1", "a:1"]}), "names a worker twice"),
        (config({"worker": ["a:1"]}, index=1), "says that this is worker 1, which its cluster"),
        (config({"worker": ["a:1"]}, index=-1), "says that this is worker -1"),
        (config({"worker": ["a:1"]}, "chief"), "says that this is chief 0"),
        (config({}), "says that this is worker 0"),
    ],
)
def test_a_wrong_tf_config_is_said(environment: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_cluster(environment)
    assert str(caught.value).startswith(
        "--strategy multi-worker: the environment variable TF_CONFIG "
    )
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


# The command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--strategy", "multi-worker"), "TF_CONFIG is not set"),
        (
            ("--strategy", "multi-worker", "--protocol", "grouped", "--folds", "2"),
            "--strategy multi-worker spreads one training, --folds are several: leave one out",
        ),
        (("--strategy", "mirrored", "--model", "svm"), "--strategy does not go with --model svm"),
        (("--feed-workers", "2", "--model", "svm"), "--feed-workers does not go with --model svm"),
    ],
)
def test_what_does_not_go_together_is_refused(
    phantom_zip: Path, tmp_path: Path, words: tuple[str, ...], line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("TF_CONFIG", raising=False)
    done = CliRunner().invoke(
        train_command, [str(phantom_zip), "--out", str(tmp_path / "run"), *words]
    )
    assert isinstance(done.exception, UsageError), done.output
    assert line in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_how_a_run_is_computed_is_no_setting_of_it(phantom_zip: Path, tmp_path: Path) -> None:
    """A run goes on with other devices; a classical one has none."""
    words = [str(phantom_zip), "--out", str(tmp_path / "run"), "--resume", "--feed-workers", "2"]
    start_run(
        Job(phantom_zip, tmp_path / "run", settings=ClassicalSettings("knn", ("hog",), False, 5))
    )
    done = CliRunner().invoke(train_command, words)
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == "--feed-workers does not go with --model knn, the run's"
    assert "strategy" in RESUMED_WITH
    assert "feed_workers" in RESUMED_WITH


@pytest.mark.slow
def test_two_commands_make_one_run(phantom_zip: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    words = (
        *("--epochs", "1", "--size", "32", "--network", "classic", "--batch-size", "16"),
        *("--strategy", "multi-worker", "--feed-workers", "1"),
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [str(Path(sys.executable).parent / "btc-train"), str(phantom_zip), "--out", str(run)]
            + list(words),
            stdout=pipe, stderr=pipe, text=True,
            env=os.environ | {"TF_CONFIG": config} | ({"TMPDIR": str(other)} if index else {}),
        )
        for index, config in enumerate(configs(2))
    ]  # fmt: skip
    (said, notes), (nothing, own) = (process.communicate(timeout=400) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], notes + own
    assert "precision" in said
    assert nothing == ""
    assert own.splitlines()[-1] == "btc-train: this worker is done; worker 0 completes the run"
    assert "Traceback" not in notes + own
    settings = json.loads((run / "run.json").read_text())
    assert settings["status"] == "finished"
    kind = settings["devices"].pop("kind")
    assert settings["devices"] == {"strategy": "multi-worker", "workers": 2, "replicas": 2}
    assert kind in ("CPU", "GPU")
    schema = json.loads((ROOT / "docs" / "schemas" / "run.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads((run / "run.json").read_text()), schema)
    assert (run / "model.keras").is_file()
    assert not (run / "checkpoint").exists()
    assert list(other.iterdir()) == [], "worker 1 leaves nothing"

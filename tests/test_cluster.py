"""Tasks over Ray: all end once, whatever happens to workers, and nothing waits in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_runtime import cluster as clusters
from edge_runtime.cluster import (
    Cluster,
    ClusterError,
    Needs,
    Task,
    TaskError,
    WorkerDiedError,
    open_cluster,
)
from edge_runtime.errors import InputError, UsageError
from edge_runtime.processes import cores
from tests import cluster_tasks

pytest.importorskip("ray")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with open_cluster(None, min(2, cores()), memory=64 << 20, tell=print) as opened:
        yield opened


def silent(line: str) -> None:
    raise AssertionError(line)


def test_each_task_ends_once_with_its_value(cluster: Cluster) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Task]:
        for number in range(20):
            taken.append(number)
            yield Task(str(number), (number,))

    ended: dict[str, int] = {}
    for done in cluster.run(cluster_tasks.double, tasks(), tell=silent):
        assert done.error is None
        assert done.key not in ended
        ended[done.key] = done.value
        assert len(taken) <= len(ended) + cluster.workers  # never a million of them in flight
    assert ended == {str(number): 2 * number for number in range(20)}


def test_what_is_opened_once_is_kept(cluster: Cluster) -> None:
    run = cluster.run(
        cluster_tasks.count, [Task("", ())] * 6, once=cluster_tasks.opened, tell=silent
    )
    calls: dict[int, list[int]] = {}
    for done in run:
        process, number = done.value
        calls.setdefault(process, []).append(number)
    assert all(sorted(numbers) == [*range(1, len(numbers) + 1)] for numbers in calls.values())


def test_errors_are_values(cluster: Cluster) -> None:
    tasks = [Task(how, (how,)) for how in ("input", "disk", "bug")]
    errors = {done.key: done.error for done in cluster.run(cluster_tasks.fail, tasks, tell=silent)}
    assert isinstance(errors["input"], InputError)
    assert str(errors["input"]) == "damaged"
    assert isinstance(errors["disk"], OSError)
    assert (errors["disk"].errno, errors["disk"].filename) == (28, "/full")
    assert isinstance(errors["bug"], TaskError)
    assert "KeyError" in str(errors["bug"])


def test_task_of_killed_worker_is_done_again(cluster: Cluster, tmp_path: Path) -> None:
    tasks = [Task("a", (str(tmp_path / "marker"),))]
    (done,) = cluster.run(cluster_tasks.die_unless, tasks, tell=silent)
    assert done == ("a", "done", None)


def test_task_that_kills_its_worker_each_time(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    (done,) = cluster.run(cluster_tasks.die, [Task("poison", ())], retries=1, tell=silent)
    assert isinstance(done.error, WorkerDiedError)
    assert "poison" in str(done.error)
    assert capfd.readouterr().out == ""  # where answers go, Ray prints nothing


def test_watchdog_speaks(cluster: Cluster, tmp_path: Path) -> None:
    marker, lines = tmp_path / "marker", []

    def tell(line: str) -> None:
        lines.append(line)
        marker.touch()

    tasks = [Task("slow", (str(tmp_path / "started"), str(marker)))]
    run = cluster.run(cluster_tasks.wait_for, tasks, stalled_after=0.01, tell=tell)
    assert [done.value for done in run] == ["seen"]
    assert "no task has ended" in lines[0]
    assert "asks for 1 CPU" in lines[0]
    assert "CPUs are free" in lines[0]


def test_watchdog_ends_what_does_not_go_on(cluster: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    tasks = [Task("never", (str(started), str(tmp_path / "never")))]
    run = cluster.run(
        cluster_tasks.wait_for, tasks, stalled_after=1e9, give_up_after=0.01, tell=silent
    )
    with pytest.raises(ClusterError, match="no task ended for"):
        list(run)


def test_lost_cluster_is_told(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would end this process itself, and say nothing."""
    gone = {**cluster._where, "raylet_socket_name": str(tmp_path / "gone")}
    monkeypatch.setattr(cluster, "_where", gone)
    tasks = [Task("slow", (str(tmp_path / "started"), str(tmp_path / "never")))]
    with pytest.raises(ClusterError, match="the cluster was lost"):
        list(cluster.run(cluster_tasks.wait_for, tasks, tell=silent))


def test_other_code_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "code_digest", lambda package: "another")
    with pytest.raises(UsageError, match=r"another edge_runtime, tests .*install the same there"):
        list(cluster.run(cluster_tasks.double, [Task("a", (1,))], tell=silent))


@pytest.mark.skipif(sys.platform != "linux", reason="sockets of other processes")
def test_nothing_listens_beyond_this_machine(cluster: Cluster) -> None:
    me = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 2
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


JOINS = """
import sys
from edge_runtime.cluster import Task, open_cluster
from edge_runtime.errors import UsageError
from tests.cluster_tasks import double
address = sys.argv[1]
try:
    with open_cluster(address, 1, memory=1 << 60, tell=print):
        pass
except UsageError as error:
    print(error)
with open_cluster(address, 99, tell=print) as cluster:
    print([done.value for done in cluster.run(double, [Task("a", (21,))], tell=print)])
"""


def test_joined_cluster_goes_on(cluster: Cluster) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert os.environ["RAY_AUTH_TOKEN"]  # without which nobody joins
    command = [sys.executable, "-c", JOINS, address]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    refused, room, values = ended.stdout.splitlines() or [ended.stderr, "", ""]
    assert "no node of the cluster has 1 CPU and 1073741824.0 GiB" in refused
    assert "of 99 workers" in room
    assert values == "[42]"
    (done,) = cluster.run(cluster_tasks.double, [Task("b", (1,))], tell=silent)
    assert done.value == 2


def test_more_than_this_machine_has_is_refused() -> None:
    with (
        pytest.raises(UsageError, match=rf"this machine has {cores()} CPUs.*ask for {cores()}"),
        open_cluster(None, 10_000, tell=silent),
    ):
        pass
    with (
        pytest.raises(UsageError, match="ask for less"),
        open_cluster(None, 1, memory=1 << 60, tell=silent),
    ):
        pass
    with pytest.raises(UsageError, match="0 workers"), open_cluster(None, 0, tell=silent):
        pass


def test_addresses_that_are_none() -> None:
    for address in ("nothing", "ray://127.0.0.1:10001", "127.0.0.1:99999"):
        with (
            pytest.raises(UsageError, match="give HOST:PORT or auto"),
            open_cluster(address, 1, tell=silent),
        ):
            pass
    with (
        pytest.raises(ClusterError, match="cannot be reached"),
        open_cluster("127.0.0.1:1", 1, tell=silent),
    ):
        pass


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"package ray is missing: pip install 'btc-edge\[ray\]'"),
        open_cluster(None, 1, tell=silent),
    ):
        pass


def test_needs_count_cpus_and_memory() -> None:
    needs = Needs(2, 100)
    assert str(Needs()) == "1 CPU"
    assert needs.fit({"CPU": 9, "memory": 1000}) == 4
    assert needs.fit({"CPU": 9, "memory": 350}) == 3
    assert needs.fit({"memory": 350}) == 0


ENDS = """
import click
from edge_runtime.cluster import Task, open_cluster
from edge_runtime.commands.entry import run_command
from tests.cluster_tasks import wait_for

@click.command()
@click.argument("words", nargs=-1)
def main(words):
    with open_cluster(None, 1, tell=print) as cluster:
        list(cluster.run(wait_for, [Task("a", words)], tell=print))

run_command(main, "main")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes by their environment")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ended_job_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    started = tmp_path / "started"
    job = subprocess.Popen(
        [sys.executable, "-c", ENDS, str(started), str(tmp_path / "never")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "BTC_TEST": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has Ctrl-C passed over.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (started.exists() and started.read_text()):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.1)
    job.send_signal(number)
    said = job.communicate()[1]
    assert job.returncode == 130, said
    while _with_variable("BTC_TEST", str(tmp_path)):  # the test's own limit of time ends it
        time.sleep(0.1)


def _with_variable(name: str, value: str) -> list[psutil.Process]:
    """The processes that were started by one with this environment variable, however far below."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found

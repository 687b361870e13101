"""Work spread by Ray: over this machine's cores, or over the nodes of a cluster that runs already.

Tasks, not actors: a task gives its CPU back when it ends, one whose worker or node dies is sent
again by Ray, and nothing waits for a pool that no node has room for. What costs time to open, a
task's module keeps for the next one in the same worker.

A cluster that is started here is this process's own: it listens on 127.0.0.1 alone, asks for a
token that nobody else knows, writes into a folder of its own, and is gone when the `with` ends.
One that is joined is its owner's: Ray runs whatever a peer sends, so it must not be reachable from
outside (docs/archive.md).
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from edge_runtime.errors import BtcError, UsageError, one_line
from edge_runtime.processes import cores
from edge_runtime.version import __version__, code_digest

GIB, MIB = 1 << 30, 1 << 20
# CPUs of a local cluster beyond those of its workers: Ray counts them, no core stands behind them.
# Whatever else may ask for one finds it free, and never takes a worker's.
SPARE = 1
STORE = 100 * MIB  # bytes of the object store: values here are small; Ray refuses less than 75
LONGEST_FOLDER = 40  # characters, so that Ray's sockets in it stay below the 107 of sockaddr_un
REACHED_WITHIN = 10  # seconds, to connect to a cluster
_TURN = 1.0  # seconds between looks at what stands still

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would send what it counts to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about GPUs that no task here asks for
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0, Ray is for this machine alone: 127.0.0.1
_LOCAL = {
    _LOOPBACK: "0",
    "RAY_AUTH_MODE": "token",
    "RAY_prestart_worker_first_driver": "0",  # workers come with the tasks that need them
    "RAY_worker_niceness": "0",  # at Ray's 15 they starve wherever anything else runs
}

Tell = Callable[[str], None]


class Task(NamedTuple):
    """One piece of work: `function(*arguments)`; `key` names it in what is said of it."""

    key: str
    arguments: tuple[Any, ...]


class Done(NamedTuple):
    """How a task ended: with its value, or with the error that it raised; `WorkerDiedError` where
    it ended its worker each time."""

    key: str
    value: Any
    error: Exception | None


class ClusterError(BtcError):
    """A cluster cannot be reached, was lost, or does not do what it was asked for."""


class WorkerDiedError(BtcError):
    """A task's worker ended before the task did, as often as it was tried."""


class TaskError(BtcError):
    """A task ended with an error that no code of ours foresees."""


class Needs(NamedTuple):
    """What one task asks for.

    Attributes:
        cpus: logical CPUs; Ray runs no more tasks on a node than it has CPUs for.
        memory: bytes; likewise. Ray counts them, and does not hold a task to them.
    """

    cpus: float = 1
    memory: int = 0

    def __str__(self) -> str:
        memory = f" and {self.memory / GIB:.1f} GiB of memory" if self.memory else ""
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}{memory}"

    def fit(self, resources: Mapping[str, float]) -> int:
        """How many such tasks a node with these resources has room for at once."""
        room = resources.get("CPU", 0) / self.cpus
        if self.memory:
            room = min(room, resources.get("memory", 0) / self.memory)
        return int(room)


class Cluster:
    """An open cluster, see `open_cluster`.

    Attributes:
        workers: tasks that run at once, at most.
        needs: what each of them asks for.
    """

    def __init__(self, ray: Any, workers: int, needs: Needs, where: Mapping[str, Any]) -> None:
        self._ray, self.workers, self.needs, self._where = ray, workers, needs, where

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Task],
        *,
        once: Callable[[], Any] | None = None,
        retries: int = 3,
        stalled_after: float = 300,
        give_up_after: float = 3600,
        tell: Tell,
    ) -> Iterator[Done]:
        """Run a function once for each task, as many at once as there are workers.

        The function stands in a module that every node can import; it and its arguments travel as
        pickles. A node whose code is not this process's refuses the task. A task may be run again
        after it was done in part, or even done, so it must do no harm twice.

        Args:
            tasks: taken one at a time, when there is a worker for it.
            once: is called once in each worker, such as to open a model; its value is then the
                function's first argument. It travels once, so it may be large.
            retries: how often a task is sent again whose worker or node died.
            stalled_after: seconds without the end of a task, after which `tell` is given a line on
                what is waited for, and again after as many.
            give_up_after: seconds without the end of a task, after which it is an error.

        Returns:
            How each ended, in the order in which they end.

        Raises:
            UsageError: a node runs other code than this process.
            ClusterError: the cluster was lost, or no task ended for `give_up_after` seconds.
        """
        ray = self._ray
        remote = ray.remote(_call).options(
            num_cpus=self.needs.cpus,
            memory=self.needs.memory or None,
            max_retries=retries,
            name=getattr(function, "__name__", "task"),
        )
        codes = _codes(function)
        opener = ray.put(b"" if once is None else pickle.dumps(once))
        waiting = iter(tasks)
        running: dict[Any, str] = {}  # keys of tasks, by what Ray calls them
        watch = _Watch(stalled_after, give_up_after)
        try:
            while True:
                for task in islice(waiting, self.workers - len(running)):
                    payload = pickle.dumps((function, task.arguments))
                    running[remote.remote(codes, opener, payload)] = task.key
                if not running:
                    return
                ended, _ = ray.wait(list(running), num_returns=1, timeout=_TURN)
                if not ended:
                    self._check_lives()
                    watch.look(lambda: self._stands_still(len(running)), tell)
                for reference in ended:
                    watch.go_on()
                    yield self._done(running.pop(reference), reference)
        finally:
            for reference in running:
                with suppress(Exception):  # nobody waits for it any more
                    ray.cancel(reference, force=True)

    def _done(self, key: str, reference: Any) -> Done:
        """How a task ended that has ended."""
        errors = self._ray.exceptions
        try:
            value, error = self._ray.get(reference)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as died:
            reason = "the node had no memory left" if _is_memory(died) else "its process ended"
            return Done(key, None, WorkerDiedError(f"{key}: {reason} each time"))
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError):
            return Done(key, None, WorkerDiedError(f"{key}: its node ended each time"))
        except errors.RayTaskError as failed:  # before any code of ours ran, which catches all
            problem = f"a node of the cluster cannot run it: {_last_line(failed)}"
            raise UsageError(f"{key}: {problem}; install btc-edge[ray] there, as here") from None
        except errors.RayError as lost:
            raise ClusterError(f"{key}: Ray gave up: {_last_line(lost)}") from None
        if isinstance(error, _OtherCodeError):
            raise UsageError(one_line(error))
        return Done(key, value, error)

    def _check_lives(self) -> None:
        """Look whether Ray's own processes are there. Where one is not, Ray ends this process
        half a minute later, without a word that reaches its user.

        Raises:
            ClusterError: one has ended.
        """
        try:
            _connect(self._where["gcs_address"])
            if hasattr(socket, "AF_UNIX"):
                with socket.socket(socket.AF_UNIX) as raylet:
                    raylet.connect(self._where["raylet_socket_name"])
        except (ConnectionError, FileNotFoundError) as error:
            raise ClusterError(
                f"the cluster was lost ({one_line(error)}): what is done stays, run it again"
            ) from None
        except OSError:  # slow, or no more files may be opened: that is not its end
            return

    def _stands_still(self, running: int) -> str:
        """What is waited for: what is there, against what is asked for."""
        free = self._ray.available_resources()
        total = self._ray.cluster_resources()
        each = f"of {running} sent each asks for {self.needs}"
        has = f"{free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs are free"
        if self.needs.memory:
            has += f", {free.get('memory', 0) / GIB:.1f} of {total.get('memory', 0) / GIB:.1f} GiB"
        return f"{each}; {has}; {_nodes(self._ray)}"


class _Watch:
    """Looks at how long no task has ended."""

    def __init__(self, stalled_after: float, give_up_after: float) -> None:
        self._stalled_after, self._give_up_after = stalled_after, give_up_after
        self.go_on()

    def go_on(self) -> None:
        """A task has ended."""
        self._since = self._told = monotonic()

    def look(self, what: Callable[[], str], tell: Tell) -> None:
        """Tell what is waited for, when it is time to.

        Raises:
            ClusterError: it has been too long.
        """
        now = monotonic()
        if now - self._since >= self._give_up_after:
            raise ClusterError(f"no task ended for {now - self._since:.0f} s: {what()}")
        if now - self._told >= self._stalled_after:
            self._told = now
            tell(f"no task has ended for {now - self._since:.0f} s: {what()}")


@contextmanager
def open_cluster(
    address: str | None,
    workers: int | None,
    *,
    cpus: float = 1,
    memory: int = 0,
    tell: Tell,
) -> Iterator[Cluster]:
    """Start a Ray of this process's own, or join a cluster, for as long as the `with` lasts.

    Args:
        address: of a cluster whose node this machine is, as `ray.init` has it: HOST:PORT or `auto`;
            None: a local one is started, and ended on every way out, Ctrl-C and SIGTERM (which
            interrupts as that does) included.
        workers: tasks that run at once; None: as many as there is room for.
        cpus: logical CPUs that each task asks for.
        memory: bytes that each task asks for.

    Raises:
        UsageError: the extra `ray` is missing; this machine, or the cluster, has no such CPUs or
            memory; an address of another kind.
        ClusterError: Ray cannot be started, or the cluster not be reached.
    """
    needs = Needs(cpus, memory)
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers: give 1 or more")
    if address is None:
        with _local(workers, needs) as cluster:
            yield cluster
    else:
        with _joined(address, workers, needs, tell) as cluster:
            yield cluster


@contextmanager
def _local(workers: int | None, needs: Needs) -> Iterator[Cluster]:
    """A cluster of this process's own."""
    available = available_memory()
    here = {"CPU": float(cores()), "memory": float(available or 2**62)}
    most = needs.fit(here)
    if workers is None:
        workers = max(most, 1)
    if workers > most:
        memory = f" and {available / GIB:.1f} GiB of memory free" if available else ""
        raise UsageError(
            f"{workers} workers with {needs} each: this machine has {cores()} CPUs{memory}; "
            + (f"ask for {most} workers" if most else "ask for less")
        )
    folder = Path(_short_folder())
    terminate = _InterruptOnTerm()
    token = secrets.token_hex(32)
    try:
        with _environment({**_QUIET, **_LOCAL, "RAY_AUTH_TOKEN": token}):
            ray = _import_ray()
            store = max(min(STORE, _shared_memory() * 8 // 10), 75 * MIB)
            started = _start(
                ray,
                num_cpus=ceil(workers * needs.cpus) + SPARE,
                num_gpus=None,
                _memory=workers * needs.memory or None,
                include_dashboard=False,
                object_store_memory=store,
                # A container's /dev/shm may have 64 MiB: then files of our own folder.
                _plasma_directory=None if store <= _shared_memory() else str(folder),
                _temp_dir=str(folder),
            )
            terminate.watch()
            try:
                if not str(started.address_info["gcs_address"]).startswith("127.0.0.1:"):
                    raise ClusterError("this Ray would listen beyond this machine: update it")
                yield Cluster(ray, workers, needs, started.address_info)
            finally:
                with _uninterrupted():
                    ray.shutdown()
    finally:
        with _uninterrupted():
            _end_all(token)
            terminate.restore()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joined(address: str, workers: int | None, needs: Needs, tell: Tell) -> Iterator[Cluster]:
    """A cluster of somebody else's."""
    with _environment(_QUIET):
        ray = _import_ray()
        _reach(address)
        joined = _init(ray, f"the cluster {address} cannot be joined", address=address)
        try:
            room = sum(needs.fit(node["Resources"]) for node in _alive(ray))
            if not room:
                raise UsageError(
                    f"no node of the cluster has {needs}, which one task asks for; "
                    f"it has {_nodes(ray)}"
                )
            if workers is not None and workers > room:
                tell(f"the cluster has room for {room} of {workers} workers as yet")
            yield Cluster(ray, workers or room, needs, joined.address_info)
        finally:
            with _uninterrupted():
                ray.shutdown()


def _start(ray: Any, **options: Any) -> Any:
    """Start a local cluster; once more where it did not come within the 30 seconds that Ray gives
    it, as on a machine that has just begun to work on something else."""
    failure = "a local Ray cannot be started"
    try:
        return _init(ray, failure, address="local", **options)
    except ClusterError as error:
        if "timed out" not in str(error):
            raise
        return _init(ray, failure, address="local", **options)


def _init(ray: Any, failure: str, **options: Any) -> Any:
    """`ray.init`, whose errors are a line each."""
    if ray.is_initialized():
        raise ClusterError("a cluster is open in this process already")
    try:
        return ray.init(
            configure_logging=False, log_to_driver=False, logging_level=logging.CRITICAL, **options
        )
    except (Exception, SystemExit) as error:  # Ray raises many kinds, and exits for some
        with suppress(Exception):
            ray.shutdown()
        reason = "Ray ended it" if isinstance(error, SystemExit) else one_line(error)
        raise ClusterError(f"{failure}: {reason}") from None


def _reach(address: str) -> None:
    """Connect to a cluster's port, for which Ray itself would wait two minutes.

    Raises:
        UsageError: it is no address.
        ClusterError: nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not (colon and host and "/" not in host and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(f"{address}: give HOST:PORT or auto, on a node of the cluster")
    try:
        _connect(address)
    except OSError as error:
        raise ClusterError(f"the cluster {address} cannot be reached: {one_line(error)}") from None


def _connect(address: str) -> None:
    """Connect to a port, and leave.

    Raises:
        OSError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()


def _import_ray() -> Any:
    """Ray, whose logger says nothing of its own accord.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package {error.name} is missing: pip install 'btc-edge[ray]'"
        ) from None
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # Ray prints what its nodes report on stdout, where answers go, and has no setting for it; what
    # matters of it comes as the error of a task.
    ray._private.worker._worker_logs_enabled = False
    _read_environment(ray)
    return ray


def _read_environment(ray: Any) -> None:
    """Have Ray read what it read of the environment when it was imported, or a cluster was opened
    before. Its own names for that; an older Ray has not all of them, and no tokens."""
    with suppress(AttributeError):
        constants = ray._private.ray_constants
        constants.ENABLE_RAY_CLUSTER = constants.env_bool(_LOOPBACK, sys.platform == "linux")
        ray._raylet.Config.initialize("")
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


class _OtherCodeError(BtcError):
    """A node's code is not the one that asks."""


def _call(codes: Mapping[str, str], opener: bytes, payload: bytes) -> tuple[Any, Exception | None]:
    """In a worker: the value of a task, or its error. What it is asked for is only unpickled where
    the code is the same; it comes from the process that opened the cluster."""
    own = {package: code_digest(package) for package in codes}
    if own != codes:
        packages = ", ".join(name for name in codes if own[name] != codes[name])
        where = f"a node of the cluster ({os.uname().nodename})" if os.name == "posix" else "a node"
        return None, _OtherCodeError(
            f"{where} has another {packages} than this machine, which is {__version__}: "
            "install the same there"
        )
    try:
        function, arguments = pickle.loads(payload)
        return function(*_opened(opener), *arguments), None
    except (BtcError, OSError, MemoryError) as error:
        return None, error
    except Exception as error:
        return None, TaskError(f"unexpected {type(error).__name__}: {one_line(error)}")


@lru_cache(maxsize=1)
def _opened(opener: bytes) -> tuple[Any, ...]:
    """In a worker: what `once` gave, kept for the tasks to come."""
    return (pickle.loads(opener)(),) if opener else ()


def _codes(function: Callable[..., Any]) -> dict[str, str]:
    """The digests of the packages that a function needs."""
    packages = {__package__ or "edge_runtime", function.__module__.partition(".")[0]}
    return {name: code_digest(name) for name in sorted(packages) if name != "__main__"}


def available_memory() -> int:
    """Bytes that programs may still take on this machine, or in this container; 0 where the system
    does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 0
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        root = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError):  # no control group, or "max"
            free = min(free, int((root / limit).read_text()) - int((root / used).read_text()))
    return max(free, 0)


def _shared_memory() -> int:
    """Bytes free in /dev/shm; 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def _short_folder() -> str:
    """A new folder, for this user alone, whose name leaves room for those of sockets in it."""
    usual = tempfile.gettempdir()
    where = "/tmp" if os.name == "posix" and len(usual) > LONGEST_FOLDER else usual
    return tempfile.mkdtemp(prefix="btc-edge-ray-", dir=where)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for as long as it lasts, which started processes inherit."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_all(token: str) -> None:
    """Kill what is left of a local cluster. Ray ends it all itself, but not where it is interrupted
    while it starts: its agents then stay for ever. They are known by the token in their
    environment (proc_pid_environ(5)); without /proc they have to be trusted to end."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            is_ray = b"ray" in (process / "cmdline").read_bytes()
            if is_ray and token.encode("ascii") in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


class _InterruptOnTerm:
    """SIGTERM is as Ctrl-C, which Ray passes on out of whatever it waits for; the SystemExit of its
    own handler it swallows."""

    def __init__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        self._before = signal.getsignal(signal.SIGTERM)

    def watch(self) -> None:
        """From now on."""
        if self._main:
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def restore(self) -> None:
        """No longer."""
        if self._main and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: what is half shut down stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _alive(ray: Any) -> list[dict[str, Any]]:
    """The nodes of a cluster that live."""
    return [node for node in ray.nodes() if node["Alive"]]


def _nodes(ray: Any) -> str:
    """What the nodes of a cluster have."""
    each = [
        f"{node['Resources'].get('CPU', 0):g} CPUs with "
        f"{node['Resources'].get('memory', 0) / GIB:.1f} GiB"
        for node in _alive(ray)
    ]
    nodes = f"{len(each)} node{'s' * (len(each) != 1)}"
    return f"{nodes}: {', '.join(each[:5])}{', …' * (len(each) > 5)}"


def _is_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def _last_line(error: Exception) -> str:
    """The last line of an error of Ray's, which come with their traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(BtcError(lines[-1])) if lines else type(error).__name__

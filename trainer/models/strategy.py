"""The devices of one training: this one, those of this machine, or those of several machines.

tf.distribute does the work. `mirrored` takes every GPU of this machine, `multi-worker` those of
every machine that TF_CONFIG names, each of which runs the same command; where there is no GPU the
processor is the device. Worker 0 is the chief: it alone reads and writes the run folder.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError, one_line
from edge_runtime.json_text import parse_json

if TYPE_CHECKING:
    import tensorflow as tf

MIRRORED, MULTI_WORKER = "mirrored", "multi-worker"
TF_CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
JOIN = 600  # seconds for all workers to come
LOOK = 0.2  # seconds between looks


class WorkerLost(DataError):
    """Another worker of the training has ended."""


class Cluster(NamedTuple):
    """What TF_CONFIG says.

    Attributes:
        workers: host:port of each, the chief first.
        rank: which of them this process is.
    """

    workers: tuple[str, ...]
    rank: int

    @property
    def is_chief(self) -> bool:
        return self.rank == 0


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster:
    """The workers of `--strategy multi-worker`, by TF_CONFIG.

    Raises:
        UsageError: it is not set, or wrong.
    """
    text = environment.get(TF_CONFIG, "")
    if not text.strip():
        _refuse("is not set; each worker needs its own, such as " + EXAMPLE)
    try:
        config = parse_json(text)
        cluster, task = config["cluster"], config["task"]
        jobs = {str(name): [str(each) for each in places] for name, places in cluster.items()}
        job, index = str(task["type"]), int(task["index"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        _refuse("is not of the form " + EXAMPLE)
    if unknown := set(jobs) - {"chief", "worker"}:
        _refuse(f"names {', '.join(sorted(unknown))}; a training has worker, and may have chief")
    if len(jobs.get("chief", [])) > 1:
        _refuse("names several chiefs")
    workers = (*jobs.get("chief", []), *jobs.get("worker", []))
    for place in workers:
        port = re.fullmatch(r"[^\s:/]+:(\d{1,5})|\[[0-9a-fA-F:]+\]:(\d{1,5})", place)
        if port is None or not 0 < int(port[1] or port[2]) < 1 << 16:
            _refuse(f"names {place!r}, which is not HOST:PORT")
    if len(set(workers)) < len(workers):
        _refuse("names a worker twice")
    if not 0 <= index < len(jobs.get(job, [])):
        _refuse(f"says that this is {job} {index}, which its cluster does not have")
    return Cluster(workers, index + (len(jobs.get("chief", [])) if job == "worker" else 0))


def _refuse(why: str) -> NoReturn:
    raise UsageError(f"--strategy {MULTI_WORKER}: the environment variable {TF_CONFIG} {why}")


@dataclass(frozen=True)
class Devices:
    """Devices that hold one model together; see `open_devices`.

    Attributes:
        strategy: of tf.distribute.
        cluster: the workers, this one among them; one without an address for `mirrored`.
    """

    strategy: tf.distribute.Strategy
    cluster: Cluster

    @property
    def is_chief(self) -> bool:
        """Whether this process reads and writes the run folder."""
        return self.cluster.is_chief

    @property
    def replicas(self) -> int:
        """Copies of the model, on all workers together."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def own_replicas(self) -> range:
        """Those of this process, which are numbered one after the other."""
        each = self.replicas // len(self.cluster.workers)
        return range(self.cluster.rank * each, (self.cluster.rank + 1) * each)

    def to_json(self) -> dict[str, Any]:
        """What run.json tells."""
        import tensorflow as tf

        return {
            "strategy": MULTI_WORKER if self.cluster.workers[0] else MIRRORED,
            "workers": len(self.cluster.workers),
            "replicas": self.replicas,
            "kind": "GPU" if tf.config.list_logical_devices("GPU") else "CPU",
        }

    def from_chief(self, content: bytes) -> bytes:
        """What the chief calls this with; all workers call it at once."""
        high, low = self._sum(np.array(divmod(len(content), 1 << 16), np.float32) * self.is_chief)
        size = (int(high) << 16) + int(low)
        words = np.zeros(-(-size // 2), "<u2")
        if self.is_chief:
            words[:] = np.frombuffer(content.ljust(2 * len(words), b"\0"), "<u2")
        return self._sum(words.astype(np.float32)).astype("<u2").tobytes()[:size]

    def check_same(self, parts: Mapping[str, bytes]) -> None:
        """Compare what the workers were started with; all call it at once.

        Args:
            parts: digests of one length, by the words of the message.

        Raises:
            UsageError: some differ from the chief's; on every worker alike.
        """
        own = np.frombuffer(b"".join(parts.values()), np.uint8)
        table = np.zeros((len(self.cluster.workers), len(own)), np.float32)
        table[self.cluster.rank] = own
        rows = self._sum(table).reshape(len(table), len(parts), -1)
        for rank, row in enumerate(rows):
            names = [
                name for name, one, other in zip(parts, row, rows[0], strict=True)
                if not np.array_equal(one, other)
            ]  # fmt: skip
            if names:
                raise UsageError(
                    f"worker {rank} ({self.cluster.workers[rank]}) was not started with the same "
                    f"{' and '.join(names)} as worker 0: give every worker the same command, data "
                    f"and packages; only {TF_CONFIG} differs"
                )

    def _sum(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The sum over the workers: whole numbers below 2^24 come out as they are. (Not every
        device sums integers.)"""
        import tensorflow as tf

        first = self.own_replicas[0]

        def of_replica(context: tf.distribute.ValueContext) -> tf.Tensor:
            counts = context.replica_id_in_sync_group == first
            return tf.constant(values if counts else np.zeros_like(values))

        spread = self.strategy.experimental_distribute_values_from_function(of_replica)
        summed: npt.NDArray[np.float32] = self.strategy.reduce("SUM", spread, axis=None).numpy()
        return summed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what TensorFlow raises when another worker is gone into a `WorkerLost`: at once
        where a connection breaks, else ten seconds after its last sign of life."""
        import tensorflow as tf

        errors = tf.errors
        gone = (
            errors.UnavailableError, errors.AbortedError, errors.CancelledError,
            errors.DeadlineExceededError, errors.FailedPreconditionError,
        )  # fmt: skip
        try:
            yield
        except gone as error:
            if len(self.cluster.workers) == 1:
                raise
            raise WorkerLost(self._lost(str(error))) from None

    def _lost(self, message: str) -> str:
        numbers = re.findall(r"/job:(chief|worker)/(?:replica:0/)?task:(\d+)", message)
        chiefs = any(job == "chief" for job, _ in numbers)
        ranks = {int(number) + (chiefs and job == "worker") for job, number in numbers}
        ranks -= {self.cluster.rank}
        named = [f"worker {rank} ({self.cluster.workers[rank]})" for rank in sorted(ranks)]
        return f"{' and '.join(named) or 'another worker'} has ended or cannot be reached any more"


def open_devices(name: str, say: Callable[[str], None]) -> Devices | None:
    """The devices of a strategy; TensorFlow is imported and has computed nothing yet.

    Args:
        name: MIRRORED, MULTI_WORKER or `none`.
        say: called with a line.

    Returns:
        None for `none`.

    Raises:
        UsageError: TF_CONFIG is missing or wrong, not all workers came, or TensorFlow cannot open
            the devices.
    """
    import tensorflow as tf

    if name == MIRRORED:
        if os.environ.pop(TF_CONFIG, ""):  # TensorFlow would go by it
            say(f"--strategy {MIRRORED}: {TF_CONFIG} is passed over")
        gpus = tf.config.list_logical_devices("GPU")
        found = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        return Devices(tf.distribute.MirroredStrategy(found), Cluster(("",), 0))
    if name != MULTI_WORKER:
        return None
    cluster = read_cluster()
    if len(cluster.workers) > 1:
        say(f"worker {cluster.rank} of {len(cluster.workers)} waits for the others")
    meet(cluster)
    try:
        with _own_signals():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--strategy {MULTI_WORKER}: worker {cluster.rank} cannot join the others as "
            f"{cluster.workers[cluster.rank]}: {one_line(error)[:200]}"
        ) from None
    return Devices(strategy, cluster)


def meet(cluster: Cluster, seconds: float = JOIN) -> None:
    """Wait until all workers are there: each listens at its own address until it has seen the
    others. (TensorFlow would wait for ever, and hold the interpreter meanwhile.)

    Raises:
        UsageError: the port is taken, or some did not come within so many seconds.
    """
    place = cluster.workers[cluster.rank]
    unseen = {*cluster.workers} - {place}
    deadline = time.monotonic() + seconds
    try:
        listener = _listener(_host_and_port(place)[1])
    except OSError as error:
        raise UsageError(
            f"--strategy {MULTI_WORKER}: this worker cannot listen at {place}: {error.strerror}"
        ) from None
    with listener:
        while unseen := {each for each in unseen if not _listens(each)}:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"--strategy {MULTI_WORKER}: {', '.join(sorted(unseen))} did not come within "
                    f"{seconds:g} s: start the same command on every worker that {TF_CONFIG} names"
                )
            time.sleep(LOOK)


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _listens(place: str) -> bool:
    try:
        socket.create_connection(_host_and_port(place), timeout=2).close()
    except OSError:  # not yet
        return False
    return True


def _host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ctrl-C ends the process while TensorFlow holds the interpreter; and what else ended it
    before ends it after."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
    ended = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, ended)  # TensorFlow has taken it, and does not end by it

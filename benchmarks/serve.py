"""btc-edge serve under load, and while it is killed again and again.

    python -m benchmarks.serve --out benchmarks/results

Load: clients that each send requests one after the other over one connection; each answer is
compared with that of `btc-edge classify`, memory is that of the server's process. The rate stands
beside that of `Classifier.classify_many` with as many workers on the same bytes, before and after.
Kills: clients send files and ask again wherever no answer came, while the server gets SIGKILL and
is started again. A server keeps nothing, so what it answered as it was killed is answered once
more when it is asked for again: the servers' logs tell how often, but for lines that a kill took.
Files are drawn. Writes serve.json and serve.md.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import out_option, publish
from benchmarks.common.formatting import machine_in_words, what_was_measured
from benchmarks.common.memory import tree_memory
from benchmarks.common.pictures import as_jpeg, draw_pictures
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError

BTC_EDGE = str(Path(sys.executable).parent / "btc-edge")
KINDS = 40  # different files
SIDE = 224
WARM_UP = 5  # requests of each client that do not count
PATIENCE = 60  # seconds: a request without an answer has failed
PAUSE = 0.05  # seconds before a client asks again
OCTETS = {"Content-Type": "application/octet-stream"}
ANSWERED = "POST /v1/classify 200 "  # in the log
MEMORY_BAR = 1.1  # of the end over the start


@contextmanager
def started(
    port: int, workers: int, log: list[str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server and its port, killed at the end.

    Args:
        log: gets its lines.

    Raises:
        DataError: it does not start.
    """
    words = [BTC_EDGE, "serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        found = re.search(r":(\d+)/$", line)
        if found is None:
            raise DataError(f"btc-edge serve did not start: {line}")
        lines = process.stderr
        reader = threading.Thread(
            target=lambda: ([] if log is None else log).extend(map(bytes.decode, lines)),
            daemon=True,
        )
        reader.start()
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
    reader.join(PATIENCE)


def expected_answers(files: Sequence[bytes]) -> list[Any]:
    """What `btc-edge classify` answers for each file, called as the server calls it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:04d}" for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        words = [BTC_EDGE, "classify", "--format", "json", *map(str, paths)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [[{**answer, "input": "upload"}] for answer in json.loads(done.stdout)]


def ask(connection: http.client.HTTPConnection, data: bytes) -> Any:
    """The answers for a file; None where the server is too busy.

    Raises:
        OSError, http.client.HTTPException: no whole answer.
        DataError: a refusal.
    """
    connection.request("POST", "/v1/classify", data, OCTETS)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status == 503:
        return None
    if answer.status != 200:
        raise DataError(f"status {answer.status}: {body[:200]!r}")
    return json.loads(body)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run work(number) in so many threads; the first error of any is raised."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def measure_load(files: Sequence[bytes], clients: int, requests: int, workers: int) -> Any:
    """Many requests of several clients: their times, their answers, the server's memory."""
    wanted = expected_answers(files)
    spans: list[list[float]] = [[] for _ in range(clients)]
    wrong, busy = [0] * clients, [0] * clients
    memory: dict[str, float] = {}
    with started(0, workers) as (process, port):

        def work(number: int, count: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            done = 0
            while done < count:
                which = (number * 7 + done) % len(files)
                begun = time.perf_counter()
                answer = ask(connection, files[which])
                if answer is None:
                    busy[number] += 1
                    time.sleep(PAUSE)
                    continue
                spans[number].append(time.perf_counter() - begun)
                wrong[number] += answer != wanted[which]
                done += 1
            connection.close()

        in_threads(clients, lambda number: work(number, WARM_UP))
        memory["start"] = tree_memory(process.pid, True)
        for each in spans:
            each.clear()
        seconds = 0.0
        for moment, count in (("middle", requests // 2), ("end", requests - requests // 2)):
            begun = time.perf_counter()
            in_threads(clients, lambda number, count=count: work(number, count))  # type: ignore[misc]
            seconds += time.perf_counter() - begun
            memory[moment] = tree_memory(process.pid, True)
    every = np.concatenate(spans)
    return {
        "clients": clients,
        "requests": len(every),
        "workers": workers,
        "wrong": sum(wrong),
        "busy": sum(busy),
        "rate": len(every) / seconds,
        "ms": {f"p{q}": float(np.percentile(every, q)) * 1000 for q in (50, 90, 99)},
        "memory_mib": memory,
    }


def rate_of_many(files: Sequence[bytes], count: int, workers: int) -> float:
    """Slices a second of `classify_many`, in this process."""
    classifier = Classifier()
    list(classifier.classify_many(files, workers=workers))
    begun = time.perf_counter()
    answers = list(classifier.classify_many(islice(cycle(files), count), workers=workers))
    return len(answers) / (time.perf_counter() - begun)


def measure_kills(
    files: Sequence[bytes], count: int, clients: int, kills: int, workers: int, seed: int
) -> Any:
    """Files, each sent until it has an answer, while the server is killed at random moments (when
    so many files are answered) and started again."""
    wanted = expected_answers(files)
    moments = sorted(random.Random(seed).sample(range(1, count), kills))
    answers: list[list[Any]] = [[] for _ in range(count)]
    changed = threading.Condition()
    done, again = [0], [0] * clients
    port = [0]
    log: list[str] = []

    def keep() -> None:
        """Start the server, and kill it at each of its moments."""
        for moment in [*moments, count]:
            with started(port[0], workers, log) as (_, used), changed:
                port[0] = used
                changed.notify_all()
                changed.wait_for(lambda moment=moment: done[0] >= moment)  # type: ignore[misc]

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    with changed:
        if not changed.wait_for(lambda: port[0], PATIENCE):
            raise DataError("btc-edge serve did not start")

    def work(number: int) -> None:
        for which in range(number, count, clients):
            while not answers[which]:
                connection = http.client.HTTPConnection("127.0.0.1", port[0], timeout=PATIENCE)
                try:
                    answer = ask(connection, files[which % len(files)])
                except (OSError, http.client.HTTPException):
                    answer = None
                finally:
                    connection.close()
                if answer is None:
                    again[number] += 1
                    time.sleep(PAUSE)
                else:
                    answers[which].append(answer)
            with changed:
                done[0] += 1
                changed.notify_all()

    in_threads(clients, work)
    keeper.join(PATIENCE)
    return {
        "files": count,
        "kills": kills,
        "asked_again": sum(again),
        "lost": sum(not each for each in answers),
        "answered_again": max(0, sum(ANSWERED in line for line in log) - count),
        "wrong": sum(
            each != [wanted[which % len(files)]] for which, each in enumerate(answers)
        ),
    }  # fmt: skip


def measure(clients: int, requests: int, workers: int, count: int, kills: int, seed: int) -> Any:
    """All of it."""
    pictures = draw_pictures(KINDS, None)
    files = [as_jpeg(picture, SIDE) for picture in pictures]
    total = clients * requests
    before = rate_of_many(files, total, workers)
    load = measure_load(files, clients, requests, workers)
    after = rate_of_many(files, total, workers)
    return {
        "machine": machine_facts(),
        "model": Classifier().model.tag,
        "load": load,
        "many": {"before": before, "after": after, "ratio": 2 * load["rate"] / (before + after)},
        "killed": measure_kills(files, count, clients, kills, workers, seed),
    }


def as_markdown(result: Any) -> str:
    """The table of a result."""
    load, many, killed = result["load"], result["many"], result["killed"]
    memory, times = load["memory_mib"], load["ms"]
    growth = memory["end"] / memory["start"]
    rows = [
        ("answers that differ from those of `btc-edge classify`",
         f"**{load['wrong']}** of {load['requests']}"),
        ("requests asked again, since all slots were taken", f"{load['busy']}"),
        ("time of a request, ms", f"p50 {times['p50']:.1f}, p90 {times['p90']:.1f}, "
                                  f"p99 **{times['p99']:.1f}**"),
        ("rate, over that of `classify_many`",
         f"**{many['ratio']:.2f}** ({load['rate']:.0f} against {many['before']:.0f} before and "
         f"{many['after']:.0f} after, slices a second)"),
        ("memory of the server, MiB",
         f"{memory['start']:.0f} at the start, {memory['middle']:.0f} in the middle, "
         f"{memory['end']:.0f} at the end: **{growth:.2f}** (at most {MEMORY_BAR}: "
         f"{'holds' if growth <= MEMORY_BAR else 'does not hold'})"),
        (f"{killed['files']} files, {killed['kills']} kills: lost, wrong",
         f"**{killed['lost']}, {killed['wrong']}** ({killed['asked_again']} requests asked again; "
         f"{killed['answered_again']} answers sent that a kill took, and so sent again)"),
    ]  # fmt: skip
    words = (
        f"{load['clients']} clients, {load['requests'] // load['clients']} requests each, "
        f"{load['workers']} workers; {KINDS} drawn JPEGs of {SIDE}×{SIDE}. Clients and server "
        f"share the processor. {result['model']}; {machine_in_words(result['machine'])}."
    )
    return "\n".join([*what_was_measured(rows), "", words, ""])


@click.command()
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True)
@click.option("--requests", type=click.IntRange(2), default=500, show_default=True,
              help="Of each client.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--files", "count", type=click.IntRange(2), default=1000, show_default=True,
              help="Sent while the server is killed.")  # fmt: skip
@click.option("--kills", type=click.IntRange(0), default=10, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments of kills.")
@out_option
def main(clients: int, requests: int, workers: int, count: int, kills: int, seed: int,
         out: Path) -> None:  # fmt: skip
    """Measure btc-edge serve under load and while it is killed."""
    result = measure(clients, requests, workers, count, kills, seed)
    publish(out, "serve", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.serve", extra="dev")

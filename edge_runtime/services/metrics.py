"""What a server counts, in Prometheus' text format (version 0.0.4). Of the event loop only."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)  # seconds
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters of one process. Labels are routes, statuses and what the model says of itself:
    nothing that a request could make up.

    Args:
        model: labels of the model.
    """

    def __init__(self, model: Mapping[str, str]) -> None:
        self._model: Labels = tuple(model.items())
        self._started = time.time()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._answers: Counter[str] = Counter()
        self.in_flight = 0
        self.body_bytes = 0

    def request(self, route: str, status: str, seconds: float) -> None:
        """A request has ended."""
        self._requests[route, status] += 1
        counts = self._buckets.setdefault(route, [0] * (len(BUCKETS) + 1))
        counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def answers(self, statuses: Mapping[str, int]) -> None:
        """Slices were answered."""
        self._answers.update(statuses)

    def text(self, slots_taken: int, bytes_held: int) -> str:
        """All of it.

        Args:
            slots_taken: requests that are worked on or wait for it.
            bytes_held: of the bodies in memory.
        """
        lines = [
            *_family("requests_total", "counter", "Requests that have ended.", (
                ((("route", route), ("status", status)), count)
                for (route, status), count in sorted(self._requests.items()))),
            *_family("request_seconds", "histogram", "Seconds from a request's head to its end."),
            *self._histogram(),
            *_family("requests_in_flight", "gauge", "Requests that have not ended.",
                     [((), self.in_flight)]),
            *_family("slots_taken", "gauge", "Bodies that are worked on or wait for it.",
                     [((), slots_taken)]),
            *_family("bodies_held_bytes", "gauge", "Bytes of the bodies in memory.",
                     [((), bytes_held)]),
            *_family("body_bytes_total", "counter", "Bytes of bodies that were read.",
                     [((), self.body_bytes)]),
            *_family("answers_total", "counter", "Slices answered, by the status of the answer.", (
                ((("status", status),), count) for status, count in sorted(self._answers.items()))),
            *_family("model_info", "gauge", "The model that answers.", [(self._model, 1)]),
            "# HELP process_start_time_seconds Start of the process, in seconds since 1970.",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started:.3f}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterator[str]:
        for route, counts in sorted(self._buckets.items()):
            below = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                below += count
                yield _sample("request_seconds_bucket", (("route", route), ("le", bound)), below)
            labels = (("route", route),)
            yield _sample("request_seconds_sum", labels, self._seconds[route])
            yield _sample("request_seconds_count", labels, below)


def _family(
    name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]] = ()
) -> Iterator[str]:
    yield f"# HELP btc_edge_{name} {about}"
    yield f"# TYPE btc_edge_{name} {kind}"
    for labels, value in samples:
        yield _sample(name, labels, value)


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"btc_edge_{name}{{{inside}}} {value}" if inside else f"btc_edge_{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""How many threads the work on a data set takes."""

from __future__ import annotations

MOST = 4  # past that the interpreter's lock leaves little to gain


def workers() -> int:
    """Threads for the cores that this process may use, at most MOST."""
    from joblib import cpu_count

    return min(MOST, int(cpu_count()))

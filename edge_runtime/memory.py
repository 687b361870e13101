"""What the C library keeps of freed memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache


def give_back() -> None:
    """Return freed memory to the system, where the C library can.

    The GNU C library keeps what a thread has freed, in blocks of up to 32 MiB, for that thread's
    next use; what four threads keep adds up to hundreds of MiB. `malloc_trim` (its manual,
    "Returning memory") gives all of it back and takes about a millisecond.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    try:
        library = ctypes.CDLL(None)
        return library.malloc_trim if hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):  # Windows
        return None

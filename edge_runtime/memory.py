"""What the C library keeps of freed memory."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

# Parameters of mallopt (malloc.h of the GNU C library).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD = 64 << 20  # bytes that the heap grows by at a time


def give_back() -> None:
    """Return freed memory to the system, where the C library can.

    The GNU C library keeps what a thread has freed, in blocks of up to 32 MiB, for that thread's
    next use; what four threads keep adds up to hundreds of MiB. `malloc_trim` (its manual,
    "Returning memory") gives all of it back and takes about a millisecond.
    """
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed() -> bool:
    """Have the C library keep freed memory for the next use, from now on; whether it does.

    For a job that asks for the same large blocks over and over, as a training does: the GNU C
    library would map each anew, and the system fill it with zeros page by page ("Malloc Tunable
    Parameters" of its manual). Nothing is changed where the user has settings of his own
    (`MALLOC_*`, `GLIBC_TUNABLES`), or the C library knows none.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    set_parameter = getattr(_library(), "mallopt", None)
    if set_parameter is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD))
    return min([int(set_parameter(*setting)) for setting in settings]) == 1


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The C library, where it can be asked."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None

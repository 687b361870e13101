"""Keep native code from writing to stderr, in two ways.

`quiet_c_stderr` is for decoding, which several threads do at once: libpng and libjpeg inside OpenCV
tell their warnings by `fprintf(stderr, ...)`, and no setting of OpenCV reaches that. In the GNU C
library (manual, "Standard Streams") and in Apple's, `stderr` is a variable that may be set: for as
long as something is decoded it leads to /dev/null. What Python or another thread writes to
descriptor 2 meanwhile arrives.

`quiet_descriptor` is for what happens once, such as loading an interpreter: it exchanges the
process's descriptor 2, so that it silences code that knows no C stream too, and everybody else.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _QuietCStderr:
    """A context in which C code that writes to its `stderr` is not heard; it may be entered by
    several threads at once, and costs a microsecond. Where the C library has no such variable it
    does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: int | None = None
        self._variable, self._nowhere = _streams()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and self._variable is not None:
                self._kept, self._variable.value = self._variable.value, self._nowhere

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._variable is not None:
                self._variable.value = self._kept


def _streams() -> tuple[Any, int | None]:
    """The C library's variable `stderr`, and a stream to nowhere; None for both where there is
    no such variable."""
    try:
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):  # in others it may be a constant
            variable = ctypes.c_void_p.in_dll(library, "stderr")
        else:
            variable = ctypes.c_void_p.in_dll(library, "__stderrp")
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(b"/dev/null", b"we")
    except (OSError, TypeError, ValueError, AttributeError):
        return None, None
    return (variable, nowhere) if nowhere else (None, None)


quiet_c_stderr = _QuietCStderr()
_exchanging = threading.Lock()


@contextmanager
def quiet_descriptor() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment: native code logs there, past Python."""
    with _exchanging:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, ValueError, AttributeError):  # stderr is closed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)

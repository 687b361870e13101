"""Python processes that a job starts for what must not happen in its own."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_HOME = str(Path(__file__).parents[1])
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What tells Python where to look for code, and how to read it and names (sys.flags).
_OPTIONS = {
    "isolated": "-I",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "no_site": "-S",
    "safe_path": "-P",  # new in Python 3.11
    "dont_write_bytecode": "-B",
}
READY = b"ready\n"  # the first line of a process that goes on to answer


def python_command(code: str) -> list[str]:
    """The command line that runs `code` in a fresh Python with the options of this one, to which
    arguments may be added.

    `python -c` looks for modules in the current folder first, where somebody else's files may lie
    beside a model: that is taken out before anything is imported. (`-I` would take PYTHONPATH and
    the packages in the user's home too: that is for whoever starts this one to ask for.) Where this
    package comes from is looked at last.
    """
    path = f"[p for p in sys.path if p] + [{_HOME!r}]"
    return [sys.executable, *_options(), "-c", f"import sys; sys.path[:] = {path}\n{code}"]


def _options() -> list[str]:
    """Those that this Python was started with."""
    flags = sys.flags
    options = [option for name, option in _OPTIONS.items() if getattr(flags, name, 0)]
    options += ["-O"] * flags.optimize + [f"-W{warning}" for warning in sys.warnoptions]
    return [*options, "-X", f"utf8={flags.utf8_mode}"]  # the locale need not say so again


def end_with_parent() -> None:
    """In a child: be killed when the thread that started it ends, however that ends. Linux only;
    elsewhere `limit_child`, or the end of its stdin, has to do."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def limit_child(memory: int, seconds: int) -> None:
    """In a child: bytes of address space, and seconds of all its threads' computing together, at
    which the system ends it; Windows has no such limits."""
    try:
        import resource
    except ImportError:
        return
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        with suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(what, (most, most))

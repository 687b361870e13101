"""What the system tells of a folder, by the package watchfiles."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from edge_runtime.errors import one_line

LOOK = 1.0  # seconds between looks at the folder while the system tells nothing
CHECK = 5_000  # milliseconds after which it is asked whether the folder is still the same
RETRY = 30  # looks after which the system is asked again


def can_tell() -> bool:
    """Whether the package is there."""
    return find_spec("watchfiles") is not None


@contextmanager
def telling(
    folder: Path, notify: Callable[[str], None], tell: Callable[[str], None]
) -> Iterator[None]:
    """Within, `notify` is called with each path below the folder of which something is heard, and
    with the folder's own where anything may have happened. From another thread.

    Args:
        tell: called with a line where the system tells nothing, as where it has too many watches.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_tell_until, args=(stop, folder, notify, tell), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * CHECK / 1000)


def _tell_until(
    stop: threading.Event,
    folder: Path,
    notify: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    told = ""
    while not stop.is_set():
        looks = 1
        if os.path.isdir(folder):  # noqa: PTH112 - a Path's own raises where it may not look
            try:
                _listen(stop, folder, notify)
                continue  # the folder is another now
            except Exception as error:  # of the system, or of the package's own kinds
                if os.path.isdir(folder):  # noqa: PTH112 - else a look tells that it is gone
                    looks = RETRY
                    if told != (told := one_line(error)):
                        tell(f"the system tells of no changes ({told}): looking every second")
        for _ in range(looks):
            if stop.wait(LOOK):
                return
            notify(os.fspath(folder))


def _listen(stop: threading.Event, folder: Path, notify: Callable[[str], None]) -> None:
    """Hand on what is told until `stop` is set or the folder is another."""
    from watchfiles import watch

    same, before = _identity(folder), [os.fspath(folder)]
    for changes in watch(
        folder, stop_event=stop, watch_filter=None, rust_timeout=CHECK, yield_on_timeout=True,
        raise_interrupt=False, ignore_permission_denied=True,
    ):  # fmt: skip
        for path in [path for _, path in changes] + before:
            notify(path)
        before = []  # what happened before the system was asked to tell
        if _identity(folder) != same:
            return


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino

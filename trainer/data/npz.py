"""NPZ files that a run keeps, read without pickle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import DataError

# What NumPy raises on files of all sorts; TypeError: one array, which is no file of several.
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


@contextmanager
def opened_npz(path: Path, problem: str) -> Iterator[Any]:
    """An NPZ file's arrays by name, for as long as they are read.

    Args:
        problem: what a user is told.

    Raises:
        DataError: missing or damaged, or an array that is asked for is not there.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except _DAMAGED:
        raise DataError(problem) from None

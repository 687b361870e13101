"""How the slices of a file of several are called, and which of them show a head."""

from __future__ import annotations

import re
from collections.abc import Container

import numpy as np
import numpy.typing as npt

MARK = "#"
# As `slice_name` writes it: no zeros before it, and no more digits than a slice may need.
_SLICE = re.compile(rf"(.+){MARK}(0|[1-9][0-9]{{0,8}})", re.DOTALL)

# Of the pixels, above an eighth of white. The slices of one file share their gray levels, so air is
# darker; what shows less is air, or the last of the scalp.
HEAD_SHARE = 0.02
HEAD_LEVEL = 255 // 8


def slice_name(file: str, number: int | None) -> str:
    """What a slice is called in tables: `FILE#12` for slice 12, counted from 0 as on the device.

    Args:
        number: None for the only slice of a file, which is called as the file is.
    """
    return file if number is None else f"{file}{MARK}{number}"


def file_and_number(name: str, files: Container[str]) -> tuple[str, int | None]:
    """The file and the number that `slice_name` made a name of.

    Args:
        files: names of the files that there are. A name that is a file's is that file: no slice
            is called like another file, see `reading.read_pictures`.
    """
    parts = None if name in files else _SLICE.fullmatch(name)
    return (name, None) if parts is None else (parts[1], int(parts[2]))


def shows_head(gray: npt.NDArray[np.uint8]) -> bool:
    """Whether a slice of a volume (uint8 H×W) shows a head, rather than the air beyond it."""
    return int(np.count_nonzero(gray > HEAD_LEVEL)) >= HEAD_SHARE * gray.size

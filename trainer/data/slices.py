"""How the slices of a file of several are called."""

from __future__ import annotations

import re
from collections.abc import Container

MARK = "#"
# As `slice_name` writes it: no zeros before it, and no more digits than a slice may need.
_SLICE = re.compile(rf"(.+){MARK}(0|[1-9][0-9]{{0,8}})", re.DOTALL)


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

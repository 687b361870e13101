"""What every reader of a kind of file gives: its gray slices, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]


class Slice(NamedTuple):
    """A gray slice (uint8, H×W) and its number in the file, from 0; None where it is the only
    one."""

    number: int | None
    gray: Gray


class Stack(NamedTuple):
    """The slices of one file, not yet decoded.

    `length` is how many the file says there are, `memory` the bytes that decoding one of them and
    what follows takes beyond the file itself (from the headers), `grays` yields them (uint8, H×W)
    one at a time and may raise InputError after any of them. `distance` is how many mm lie between
    two of them where all lie in parallel; None where the file does not tell. `rising` is False
    where it tells and they go to the left, the back or the feet.
    """

    length: int
    memory: int
    grays: Iterator[Gray]
    distance: float | None = None
    rising: bool = True

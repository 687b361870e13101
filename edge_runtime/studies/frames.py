"""The frames of a DICOM series as they are shown: through the windows of their files, or where
these have none, in one range of values for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import InputError, one_line
from edge_runtime.imaging.dicom import SAMPLED, Frames
from edge_runtime.imaging.gray import SAMPLE, robust_range
from edge_runtime.imaging.limits import MIB, ImageLimits
from edge_runtime.studies.study import StudySlice

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.studies.series import Place

    Gray = npt.NDArray[np.uint8]

HELD = 32 * MIB  # gray levels of a file's frames that are kept so that they come in order
NOTHING = "no slice of it can be read"


class SeriesFrames:
    """The frames at some places, from files that are read one at a time.

    Args:
        read: gives a file's bytes by its name; raises InputError.
        places: in their order in space.

    Attributes:
        damaged: why files could not be read, by name.
        digests: SHA-256 of the files that were read, by name.
    """

    def __init__(
        self, read: Callable[[str], bytes], places: Sequence[Place], limits: ImageLimits
    ) -> None:
        self._read, self._places, self._limits = read, places, limits
        self._wanted = Counter(place.file for place in places)
        self.damaged: dict[str, str] = {}
        self.digests: dict[str, str] = {}

    def open(self, file: str) -> Frames:
        """A file's frames, to be shown in the range of all files where it has no window.

        Raises:
            InputError: damaged or over the limits.
        """
        data = self._read(file)
        self.digests[file] = sha256(data).hexdigest()
        value_range = (lambda: self._range) if len(self._wanted) > 1 else None
        frames = Frames(data, self._limits, value_range)
        if frames.memory > self._limits.max_memory:
            raise InputError(f"needs {frames.memory // MIB} MiB of memory to decode")
        return frames

    def slices(self) -> Iterator[StudySlice]:
        """The slices in the order of the places; an error stands for one that cannot be shown.

        One file is read at a time, and of one that holds many frames so many are decoded together
        as HELD allows: they may lie in another order in the file than in space.
        """
        for file, run in groupby(self._places, lambda place: place.file):
            yield from self._slices_of(file, list(run))

    def _slices_of(self, file: str, places: Sequence[Place]) -> Iterator[StudySlice]:
        """Slices of one file."""
        try:
            frames = self.open(file)
        except InputError as error:
            problem = InputError(one_line(error))  # whose traceback would hold the file's bytes
            for place in places:
                number = place.frame if len(places) > 1 else None
                yield StudySlice(file, number, self.digests.get(file), problem)
            return
        several = frames.count > 1
        most = max(1, HELD // frames.pixels)
        for first in range(0, len(places), most):
            some = places[first : first + most]
            grays = self._grays(frames, sorted(place.frame for place in some))
            for place in some:
                number = place.frame if several else None
                yield StudySlice(file, number, self.digests[file], grays[place.frame])

    def _grays(self, frames: Frames, numbers: Sequence[int]) -> dict[int, Gray | InputError]:
        """Frames by their numbers; none behind a damaged one is told apart from it."""
        grays: dict[int, Gray | InputError] = {}
        try:
            for number, gray in zip(numbers, frames.grays(numbers), strict=False):
                grays[number] = gray  # noqa: PERF403 - those before an error stay
        except InputError as error:
            problem = InputError(one_line(error))
            grays |= {number: problem for number in numbers if number not in grays}
        return grays

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The values that become black and white, of some of the slices.

        Raises:
            InputError: none of them can be read.
        """
        places = self._places
        wanted = np.linspace(0, len(places) - 1, SAMPLED).round().astype(int)
        some = sorted({*wanted.tolist()})
        samples = []
        for number in some:
            file = places[number].file
            try:
                (values,) = self.open(file).values([places[number].frame])
            except InputError as error:  # told when its turn comes
                self.damaged.setdefault(file, str(error))
                continue
            step = int(np.ceil(np.sqrt(values.size * len(some) / SAMPLE)))
            samples.append(values[::step, ::step].ravel())
        if not samples:
            raise InputError(NOTHING)
        return robust_range(np.concatenate(samples))

"""The frames of a DICOM series as they are shown: through the windows of their files, or where
these have none, in one range of values for all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import groupby, islice
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
        self._closed: dict[str, InputError] = {}

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

        One file is read at a time. Where files hold several frames, which may lie in another order
        than in space, so many are decoded ahead as HELD allows.
        """
        for several, run in groupby(self._places, lambda place: self._wanted[place.file] > 1):
            places, at = list(run), 0
            while at < len(places):
                shown = self._shown(places[at:] if several else places[at : at + 1])
                yield from shown
                at += len(shown)

    def _shown(self, places: Sequence[Place]) -> list[StudySlice]:
        """The slices of the first places, one at least."""
        shown: list[StudySlice] = []
        grays: dict[Place, Gray | InputError] = {}
        pixels = 0
        wanted: dict[str, list[Place]] = defaultdict(list)
        frames: Frames | InputError | None = self._tried(places[0].file)
        if isinstance(frames, Frames):
            pixels = frames.pixels
            places = places[: max(1, HELD // pixels)]
        for place in places:
            wanted[place.file].append(place)
        counts: dict[str, int] = {}
        for file, of_it in wanted.items():
            if file != places[0].file:  # the first is open already
                frames = None  # only then the next: one is held at a time
                frames = self._tried(file)
            assert frames is not None
            if isinstance(frames, InputError):
                grays |= dict.fromkeys(of_it, frames)
            elif frames.pixels > pixels and file != places[0].file:
                break  # these would be more than HELD: they come next
            else:
                counts[file] = frames.count
                numbers = {place.frame: place for place in of_it}
                for number, gray in self._grays(frames, sorted(numbers)).items():
                    grays[numbers[number]] = gray
        for place in places:
            if place not in grays:
                break
            several = counts.get(place.file, self._wanted[place.file]) > 1
            digest = self.digests.get(place.file)
            frame = place.frame if several else None
            shown.append(StudySlice(place.file, frame, digest, grays[place]))
        return shown

    def _tried(self, file: str) -> Frames | InputError:
        """A file's frames, or why there are none; it is not read again to say so."""
        if file in self._closed:
            return self._closed[file]
        try:
            return self.open(file)
        except InputError as error:  # whose traceback would hold the file's bytes
            self._closed[file] = InputError(one_line(error))
            return self._closed[file]

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
        """The values that become black and white, of some of the slices; of the first that can be
        read where these cannot.

        Raises:
            InputError: none can.
        """
        wanted = np.linspace(0, len(self._places) - 1, SAMPLED).round().astype(int)
        some = sorted({*wanted.tolist()})
        samples = list(self._samples(some, len(some)))
        samples = samples or list(islice(self._samples(range(len(self._places)), 1), 1))
        if not samples:
            raise InputError(NOTHING)
        return robust_range(np.concatenate(samples))

    def _samples(self, numbers: Sequence[int], of: int) -> Iterator[npt.NDArray[np.float32]]:
        """Some values of each of these slices that can be read."""
        for number in numbers:
            place = self._places[number]
            try:
                (values,) = self.open(place.file).values([place.frame])
            except InputError as error:  # told when its turn comes
                self.damaged.setdefault(place.file, str(error))
                continue
            step = int(np.ceil(np.sqrt(values.size * of / SAMPLE)))
            yield values[::step, ::step].ravel()

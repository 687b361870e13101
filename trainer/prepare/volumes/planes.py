"""A volume's slices in a plane, as the device shows them.

A NIfTI volume is cut by the device's own code. A DICOM series is shown in the plane that it was
acquired in, file by file, by the device's own code too: through its window, or where it has none,
in one range of values for all files. For other planes its values are stacked and cut as a NIfTI
volume is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.geometry import own_plane
from edge_runtime.imaging.limits import MIB, ImageLimits
from edge_runtime.imaging.nifti import Cut, Volume, upright
from edge_runtime.studies.frames import NOTHING, SeriesFrames
from edge_runtime.studies.volumes import (
    UNEVEN,
    places_by_file,
    read_values,
    stack_refusal,
    volume_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.studies.series import Place, Stack
    from trainer.data.archive import ImageArchive
    from trainer.prepare.volumes.head_slices import Grays

    Array = npt.NDArray[Any]
    Gray = npt.NDArray[np.uint8]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shown:
    """The slices of a volume in one plane, to the right, the front or the head.

    Attributes:
        plane: one of PLANES.
        grays: by number; each may be made when it is asked for.
        distance: mm between two of them; 0 where it is not known.
        marked: the tumour's mask (N×H×W) in voxels, before these are made square; None without.
        numbers: what users call the slices; None in planes in which they do not count them.
    """

    plane: str
    grays: Grays
    distance: float
    marked: Mask | None = None
    numbers: Sequence[int] | None = None


class _Cuts:
    """The slices of a cut volume, from the left, the back or the feet on."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def __len__(self) -> int:
        return len(self._cut)

    def __getitem__(self, number: int) -> Gray:
        return self._cut.gray(number if self._cut.rising else len(self._cut) - 1 - number)


def cut_volume(volume: Volume, plane: str, mask: Mask | None) -> Shown:
    """A volume's slices in a plane.

    Args:
        mask: in the volume's voxels.

    Raises:
        InputError: no finite value.
    """
    cut = Cut(volume.voxels, volume.view, plane)
    marked = None
    if mask is not None:
        marked = upright(mask, volume.view, plane)[0][:: 1 if cut.rising else -1]
    numbers = None
    if plane == own_plane(volume.view.spacing):
        numbers = range(len(cut))[:: 1 if cut.rising else -1]
    return Shown(plane, _Cuts(cut), cut.distance, marked, numbers)


class DicomVolume:
    """A stack of DICOM slices.

    Files that turn out damaged are left out.

    Attributes:
        stack: what is left.
        mask: the tumour's (column, row, slice), or None.
        damaged: why files were left out, by name.
    """

    def __init__(self, archive: ImageArchive, stack: Stack, limits: ImageLimits) -> None:
        self._limits = limits
        self._frames = SeriesFrames(archive.read, stack.places, limits)
        self.stack = stack
        self.mask: Mask | None = None
        self.damaged = self._frames.damaged

    def shown(self) -> Shown:
        """The slices as they were acquired.

        Raises:
            InputError: none can be read, or too many pixels.
        """
        grays: dict[Place, Gray] = {}
        pixels = 0
        for place, gray in self._read():
            pixels += gray.size
            if pixels > self._limits.max_bytes:
                raise InputError(f"slices of more than {self._limits.max_bytes // MIB} MiB")
            grays[place] = gray
        places = self._keep(grays)
        marked = None if self.mask is None else self.mask.transpose(2, 1, 0)
        shown = [grays[place] for place in places]
        frames = len(places) > len(places_by_file(self.stack))
        numbers = [place.frame + 1 if frames else place.instance for place in places]
        return Shown(self.stack.plane, shown, self.stack.distance, marked, numbers)

    def refusal(self) -> tuple[str, str]:
        """Why no volume can be made of the stack, and more of it in words; empty where it can."""
        return stack_refusal(self.stack, self._limits)

    def volume(self) -> Volume:
        """The values as one volume (column, row, slice), padding as NaN.

        Raises:
            InputError: a file is damaged, so that one is missing.
        """
        count = len(self.stack.places)
        values, read = read_values(self._frames, self.stack)
        if len(self._keep(read)) < count:
            raise InputError(UNEVEN)
        return volume_of(values, self.stack)

    def _keep(self, read: Any) -> list[Place]:
        """Take the stack for the places that could be read.

        Raises:
            InputError: there is none.
        """
        kept = [place in read for place in self.stack.places]
        places = [place for place in self.stack.places if place in read]
        if self.mask is not None:
            self.mask = self.mask[:, :, kept]
        if not places:
            raise InputError(NOTHING)
        self.stack = replace(self.stack, places=places)
        return places

    def _read(self) -> Iterator[tuple[Place, Gray]]:
        """Gray slices, file by file."""
        for file, wanted in places_by_file(self.stack).items():
            with self._noting(file):
                frames = self._frames.open(file)
                by_frame = {place.frame: place for place in wanted}
                for number, gray in enumerate(frames.grays()):
                    if number in by_frame:
                        yield by_frame.pop(number), gray
                    if not by_frame:
                        break

    @contextmanager
    def _noting(self, file: str) -> Iterator[None]:
        """Keeps why a file cannot be read, and goes on."""
        try:
            yield
        except InputError as error:
            self.damaged.setdefault(file, str(error))

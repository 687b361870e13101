"""Tumour masks beside volumes: which one belongs to which, and whether it lies as it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.kinds import kind_named
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.nifti import read_volume
from edge_runtime.studies.sequences import sequence_in

if TYPE_CHECKING:
    import numpy.typing as npt

    from trainer.data.archive import ImageArchive

    Mask = npt.NDArray[np.bool_]

SUFFIXES = ("_mask", "-mask", "_seg", "-seg", "_label", "-label")
ELSEWHERE = "a mask that does not lie as the volume does"
SEVERAL = "several masks of its name"
NEAR = 0.5  # of a voxel: how far a mask's corners may lie from the volume's


class Masks:
    """NIfTI masks by their names.

    Args:
        archive: lists every file; None where there are none.
        beside: the volumes lie among them, so that only a suffix tells a mask.
    """

    def __init__(
        self, archive: ImageArchive | None, limits: ImageLimits, beside: bool = False
    ) -> None:
        self._archive, self._limits = archive, limits
        self._paths: dict[str, list[str]] = defaultdict(list)
        for path in archive.names() if archive else ():
            kind = kind_named(path)
            if kind is not None and kind.name == "nifti" and (is_mask(path) or not beside):
                stem = stem_of(path)
                for key in {stem, PurePosixPath(stem).name}:
                    self._paths[key].append(path)
        self._used: set[str] = set()

    def find(self, volume: Iterable[str]) -> str | None:
        """The mask of a volume; None where there is none.

        Args:
            volume: what the volume is called: its path, then its name.

        Raises:
            InputError: there are several.
        """
        for name in _names(volume):
            if found := self._paths.get(name):
                if len(found) > 1:
                    raise InputError(SEVERAL)
                self._used.add(found[0])
                return found[0]
        return None

    def unused(self) -> list[str]:
        """Masks that belong to no volume that was cut."""
        return sorted({path for paths in self._paths.values() for path in paths} - self._used)

    def read(self, name: str, shape: Sequence[int], affine: npt.NDArray[Any]) -> Mask:
        """Where a mask marks the tumour, in the voxels of the volume.

        Args:
            shape, affine: of the volume; the mask's axes may go other ways.

        Raises:
            InputError: it cannot be read, or lies elsewhere.
        """
        assert self._archive is not None
        mask = read_volume(self._archive.read(name), self._limits)
        if mask.volumes > 1:
            raise InputError(f"a mask of {mask.volumes:,} volumes")
        with np.errstate(all="ignore"):
            values = mask.voxels * np.float64(mask.view.slope) + mask.view.intercept
        marked = np.nan_to_num(values) != 0
        ways = nibabel.io_orientation(mask.affine), nibabel.io_orientation(affine)
        turn = nibabel.orientations.ornt_transform(*ways)
        turned: Mask = nibabel.apply_orientation(marked, turn)
        placed = mask.affine @ nibabel.orientations.inv_ornt_aff(turn, marked.shape)
        if turned.shape != tuple(shape) or not _is_near(placed, affine, shape):
            raise InputError(ELSEWHERE)
        return turned


def is_mask(name: str) -> bool:
    """Whether a file is a mask by its name."""
    return stem_of(name).lower().endswith(SUFFIXES)


def stem_of(name: str) -> str:
    """A volume's name without its suffix."""
    lower = name.lower()
    suffixes = (".nii.gz", ".nii", ".hdr", ".img")
    return next((name[: -len(each)] for each in suffixes if lower.endswith(each)), name)


def without_sequence(name: str) -> str:
    """A volume's name without its suffix and without a last part that names the sequence."""
    stem = stem_of(name)
    base, _, last = stem.rpartition(max("_-", key=stem.rfind))
    return base if base and sequence_in(last) else stem


def _names(volume: Iterable[str]) -> Iterator[str]:
    """What the mask of a volume may be called: as the volume is, with a suffix, or with the suffix
    in place of what names the sequence (x_t1.nii and x_seg.nii)."""
    for name in map(stem_of, volume):
        yield name
        yield from (name + suffix for suffix in SUFFIXES)
        shorter = without_sequence(name)
        if shorter != name:
            yield from (shorter + suffix for suffix in SUFFIXES)


def _is_near(one: npt.NDArray[Any], other: npt.NDArray[Any], shape: Sequence[int]) -> bool:
    """Whether the corners of a volume lie in nearly the same places."""
    ends = [(0, length - 1) for length in shape]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    apart = (one[:3, :3] - other[:3, :3]) @ corners + (one[:3, 3] - other[:3, 3])[:, None]
    voxel = np.linalg.norm(other[:3, :3], axis=0).min()
    return bool(np.linalg.norm(apart, axis=0).max() <= NEAR * voxel)

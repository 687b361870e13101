"""Slices of a NIfTI volume, as a radiologist sees them.

nibabel reads the header; the voxels are a view of the file's bytes, cut where the plane wants it.
Orientation: NIfTI-1, section "3D image (volume) orientation and location in space"; a slice is
shown in the radiological convention (the patient's right on the left, anterior or superior at the
top, anterior on the left in a sagittal one). Of the header nothing but the geometry is used.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel
import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.geometry import PLANES, square_pixels
from edge_runtime.imaging.gray import in_bands, robust_range, shown_memory, within
from edge_runtime.imaging.kinds import GZIP
from edge_runtime.imaging.limits import MIB, ImageLimits
from edge_runtime.imaging.nifti_pair import DAMAGED
from edge_runtime.imaging.stack import Stack

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Gray = npt.NDArray[np.uint8]

LONGEST_HEADER = 540  # bytes: NIfTI-2
BLOCK = 1 << 20  # bytes unpacked at a time
PACKED = 1 << 14  # bytes packed that are looked at at a time
MAX_MEMBERS = 1 << 16  # of a gzip file; bgzip writes one for each 64 KiB
NOT_PADDING = re.compile(rb"[^\0]")
DAMAGED_GZIP = "truncated or damaged gzip file"

# What nibabel and NumPy have to say of odd headers is of no use on stderr.
logging.getLogger("nibabel.global").disabled = True
warnings.filterwarnings("ignore", module=r"nibabel\b")


class _Voxels(NamedTuple):
    """Where a volume stands in the file, once unpacked."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class View(NamedTuple):
    """How a volume is shown."""

    order: list[int]  # the axes of the file that go right, anterior and superior
    turned: list[bool]  # of these, whether they must be turned around
    spacing: list[float]  # of voxels along them, in mm
    slope: float = 1.0
    intercept: float = 0.0


class Volume(NamedTuple):
    """A volume as it stands in a file.

    Attributes:
        voxels: X×Y×Z, before slope and intercept.
        view: how it is shown.
        affine: 4×4, from voxels to mm to the right, anterior and superior.
        volumes: how many the file holds.
    """

    voxels: Array
    view: View
    affine: Array
    volumes: int = 1


def read(data: bytes, limits: ImageLimits, plane: str, volume: int | None) -> Stack:
    """The slices of one volume in the file's order, gray levels alike over all of them.

    Args:
        plane: one of PLANES.
        volume: which one of several, from 0.

    Raises:
        InputError: no volume of real numbers, several where none is chosen, over the limits,
            truncated or damaged.
    """
    voxels, view, _ = _opened(data, limits, volume)
    packed = data[:2] == GZIP
    axes = [voxels.shape[axis] for axis in view.order]
    through = _axes(plane)[0]
    pixels = math.prod(axes) // axes[through]
    memory = shown_memory(pixels, math.prod(axes)) + (voxels.size + 2 * BLOCK if packed else 0)
    cut = _cut(data, limits, voxels, view, plane)
    return Stack(axes[through], memory, cut, view.spacing[through], view.turned[through])


def read_volume(data: bytes, limits: ImageLimits) -> Volume:
    """The voxels of a file's first volume.

    Raises:
        InputError: as `read`.
    """
    voxels, view, header = _opened(data, limits, 0)
    count = math.prod(map(int, header.get_data_shape()[3:]))
    return Volume(_stack(data, limits, voxels), view, header.get_best_affine(), count)


def _opened(data: bytes, limits: ImageLimits, volume: int | None) -> tuple[_Voxels, View, Any]:
    """Where the volume that is meant stands, how it is shown, and the header."""
    packed = data[:2] == GZIP
    start = _start(data) if packed else data[: 2 * LONGEST_HEADER]
    try:
        header = _header(start)
        voxels = _voxels(header, limits, volume)
        view = _view(header)
    except InputError:
        raise
    except Exception:  # nibabel raises many kinds on a damaged header
        raise InputError(DAMAGED) from None
    if not packed and voxels.offset + voxels.size > len(data):
        raise InputError(DAMAGED)
    if packed and voxels.offset + voxels.size > limits.max_bytes:
        raise InputError(f"unpacks to more than the limit of {limits.max_bytes // MIB} MiB")
    return voxels, view, header


def _header(start: bytes) -> Any:
    if start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        raise InputError(
            "the header of a NIfTI pair: give the path of its .hdr or .img file, with the other "
            "half beside it, or save both as one .nii file"
        )
    kind = nibabel.Nifti2Header if start[4:8] == b"n+2\0" else nibabel.Nifti1Header
    return kind(start[: kind.sizeof_hdr], check=False)  # its extensions are not read


def _voxels(header: Any, limits: ImageLimits, volume: int | None) -> _Voxels:
    """The volume that is meant."""
    shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    if len(shape) < 2 or min(shape) < 1:
        raise InputError("a NIfTI file without a volume")
    if dtype.kind not in "buif":
        kind = "complex numbers" if dtype.kind == "c" else "colours"
        raise InputError(f"not supported: a NIfTI file of {kind}; save it as real numbers")
    count = math.prod(shape[3:])
    if volume is None and count > 1:
        raise InputError(
            f"a NIfTI file of {count} volumes: choose one with --volume 0 to {count - 1}"
        )
    if not 0 <= (volume or 0) < count:
        choice = "1 volume: --volume can only be 0"
        choice = choice if count == 1 else f"{count} volumes: --volume must be 0 to {count - 1}"
        raise InputError(f"a NIfTI file of {choice}")
    x, y, z = (*shape, 1)[:3]
    if max(x, y, z) > limits.max_slices or sorted((x, y, z))[1] * max(x, y, z) > limits.max_pixels:
        raise InputError(f"{x}x{y}x{z} voxels: over the limit")
    voxels = _Voxels((x, y, z), dtype, int(header.get_data_offset()))
    if voxels.offset < header.sizeof_hdr:  # nibabel would show the header as voxels
        raise InputError(DAMAGED)
    return voxels._replace(offset=voxels.offset + (volume or 0) * voxels.size)


def _view(header: Any) -> View:
    slope, intercept = header.get_slope_inter()
    view = view_of(header.get_best_affine(), [*header.get_zooms()[:3], 1.0][:3])
    return view._replace(
        slope=1.0 if slope is None else slope, intercept=0.0 if intercept is None else intercept
    )


def view_of(affine: Array, zooms: Sequence[float]) -> View:
    """How voxels that lie so are shown.

    Args:
        affine: 4×4, from voxels to mm to the right, anterior and superior.
        zooms: mm of a voxel along the axes of the array.

    Raises:
        InputError: it does not tell.
    """
    places = nibabel.io_orientation(affine)
    if np.isnan(places).any() or len(places) != 3:
        raise InputError("a NIfTI file whose orientation cannot be told")
    order = [int(np.flatnonzero(places[:, 0] == axis)[0]) for axis in range(3)]
    return View(
        order,
        [bool(places[axis, 1] > 0) for axis in order],
        [abs(float(zooms[axis])) for axis in order],
    )


def upright(voxels: Array, view: View, plane: str) -> tuple[Array, bool]:
    """The slices of a plane as they are shown, but for the spacing of their pixels.

    Args:
        voxels: X×Y×Z, as they stand in the file.
        plane: one of PLANES.

    Returns:
        A view of N×H×W, in the file's order, and whether that goes to the right, anterior or
        superior.
    """
    through, down, across = _axes(plane)
    stack = np.moveaxis(voxels.transpose(view.order), (through, down, across), (0, 1, 2))
    # Right, anterior and superior rise in the array; on the screen they begin at the left, the top.
    rows, columns = (slice(None, None, -1 if view.turned[axis] else 1) for axis in (down, across))
    return stack[:, rows, columns], view.turned[through]


class Cut:
    """A volume cut along one axis, its gray levels alike over all slices.

    Args:
        voxels, plane: as of `upright`.

    Attributes:
        rising: whether the slices go to the right, anterior or superior.
        distance: mm between two of them.
    """

    def __init__(self, voxels: Array, view: View, plane: str) -> None:
        through, down, across = _axes(plane)
        self._raw, self.rising = upright(voxels, view, plane)
        self.distance = view.spacing[through]
        self._view, self._spacing = view, (view.spacing[down], view.spacing[across])
        with np.errstate(all="ignore"):  # a hostile slope
            low, high = sorted(end * view.slope + view.intercept for end in robust_range(self._raw))
        self._range = low, high

    def __len__(self) -> int:
        return len(self._raw)

    def gray(self, number: int) -> Gray:
        """A slice as it is shown."""
        gray = in_bands(self._raw[number], lambda part: _levels(part, self._view, self._range))
        return square_pixels(gray, *self._spacing)


def _axes(plane: str) -> tuple[int, int, int]:
    """The axes of the patient (0 to 2: right, anterior, superior) through the slices, down and
    across."""
    through = len(PLANES) - 1 - PLANES.index(plane)
    across, down = (axis for axis in range(3) if axis != through)
    return through, down, across


def _cut(
    data: bytes, limits: ImageLimits, voxels: _Voxels, view: View, plane: str
) -> Iterator[Gray]:
    cut = Cut(_stack(data, limits, voxels), view, plane)
    for number in range(len(cut)):
        yield cut.gray(number)


@np.errstate(all="ignore")  # a hostile slope: what overflows becomes white or black
def _levels(raw: Array, view: View, value_range: tuple[float, float]) -> Gray:
    values = raw * np.float64(view.slope) + view.intercept
    return within(np.nan_to_num(values, nan=value_range[0]), value_range)


def _stack(data: bytes, limits: ImageLimits, voxels: _Voxels) -> Array:
    """The voxels as they stand in the file (X×Y×Z)."""
    packed = data[:2] == GZIP
    whole = _unpack(data, limits, voxels) if packed else data
    count, offset = math.prod(voxels.shape), 0 if packed else voxels.offset
    flat = np.frombuffer(whole, voxels.dtype, count, offset)
    return flat.reshape(voxels.shape, order="F")


def _start(data: bytes) -> bytes:
    """The header inside a gzip file."""
    start = b""
    for block in _unpacked(data, 2 * LONGEST_HEADER):
        start += block
        if len(start) >= 2 * LONGEST_HEADER:
            break
    if start[344:348] not in (b"n+1\0", b"ni1\0") and start[4:8] not in (b"n+2\0", b"ni2\0"):
        raise InputError("not supported: a gzip file that holds no NIfTI volume")
    return start


def _unpack(data: bytes, limits: ImageLimits, voxels: _Voxels) -> bytearray:
    """The bytes of one volume of a gzip file, which is read to its end for its check sums.

    The others are passed over; a small file may unpack to anything.
    """
    volume, filled, at = bytearray(voxels.size), 0, 0
    for block in _unpacked(data, BLOCK):
        wanted = block[max(0, voxels.offset - at) :][: voxels.size - filled]
        volume[filled : filled + len(wanted)] = wanted
        filled, at = filled + len(wanted), at + len(block)
        if at > limits.max_bytes:
            raise InputError(f"unpacks to more than the limit of {limits.max_bytes // MIB} MiB")
    if filled < voxels.size:
        raise InputError(DAMAGED)
    return volume


def _unpacked(data: bytes, most: int) -> Iterator[bytes]:
    """What the members of a gzip file (RFC 1952) hold, at most so many bytes at a time; zeros
    between and behind them are padding.

    Not by Python's own module: that walks names and padding byte by byte, and any number of
    members.

    Raises:
        InputError: truncated or damaged, or too many members.
    """
    begin = 0
    for _ in range(MAX_MEMBERS):
        member, at = zlib.decompressobj(wbits=31), begin
        while not member.eof:
            packed = member.unconsumed_tail
            if not packed:
                packed, at = data[at : at + PACKED], at + PACKED
            try:
                block = member.decompress(packed, most)
            except zlib.error:
                raise InputError(DAMAGED_GZIP) from None
            if block:
                yield block
            elif not packed:
                raise InputError(DAMAGED_GZIP)
        following = NOT_PADDING.search(data, min(at, len(data)) - len(member.unused_data))
        if following is None:
            return
        begin = following.start()
    raise InputError(f"a gzip file of more than {MAX_MEMBERS:,} members")

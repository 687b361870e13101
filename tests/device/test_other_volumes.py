"""The test files that come with pydicom and nibabel, and drawn volumes, against what these packages
themselves make of them. Nothing is downloaded: only files of the installed packages are read."""

from __future__ import annotations

import gzip
import io
import itertools
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.imaging.readers import slices_of

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

from pydicom.pixels import (  # noqa: E402
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    apply_windowing,
)

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIFTI = Path(nibabel.__file__).parent / "tests" / "data"
LUMA = (0.299, 0.587, 0.114)

# What is refused although it may hold a picture: our words, and why.
REFUSED = {
    "JPEG-lossy.dcm": ("no decoder is", "12-bit JPEG: Pillow and GDCM do not decode it"),
    "JPGExtended.dcm": ("no decoder is", "12-bit JPEG: Pillow and GDCM do not decode it"),
    "JPEG2000-embedded-sequence-delimiter.dcm": ("damaged", "no decoder takes its codestream"),
    "MR_truncated.dcm": ("damaged", "62 bytes are missing"),
    "rtplan_truncated.dcm": ("damaged", "cut within an element, before any Rows"),
    "badVR.dcm": ("damaged", "its number of frames is no number"),
    "image_dfl.dcm": ("not supported: a deflated", "may unpack to any size"),
    "nested_priv_SQ.dcm": ("without an image", "no Rows and Columns"),
    "meta_missing_tsyntax.dcm": ("without an image", "no Rows and Columns"),
    "no_meta.dcm": ("not an image", "begins with a byte that belongs to nothing"),
    "zipMR.gz": ("not supported: a gzip file", "a DICOM file inside gzip"),
    "README": ("not an image", "text"),
}  # fmt: skip


def own_files() -> list[Path]:
    other = {".py", ".json", ".txt", ".dump", ".icc", ".pyc"}
    return sorted(p for p in DICOM.rglob("*") if p.is_file() and p.suffix not in other)


def by_pydicom(data: bytes) -> list[np.ndarray]:
    """Each frame (H×W, levels 0 to 255, not rounded) by pydicom's own functions."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    stored = ds.pixel_array
    frames = list(stored) if int(ds.get("NumberOfFrames") or 1) > 1 else [stored]
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        deep = ds.RedPaletteColorLookupTableDescriptor[2] > 8
        return [apply_color_lut(f, ds) @ LUMA / (257 if deep else 1) for f in frames]
    if ds.SamplesPerPixel == 3:
        return [f @ LUMA * (255 / (2.0**ds.BitsStored - 1)) for f in frames]
    values = [apply_modality_lut(f, ds).astype(float) for f in frames]
    mark = ds.get("PixelPaddingValue")
    padded = [np.zeros(f.shape, bool) if mark is None else f == mark for f in frames]
    if "WindowWidth" in ds or "VOILUTSequence" in ds:
        ends = apply_windowing(np.array([-1e12, 1e12]), ds)
        shown = [(apply_voi_lut(v, ds) - ends[0]) / (ends[1] - ends[0]) * 255 for v in values]
    else:
        known = np.concatenate([v[~p] for v, p in zip(values, padded, strict=True)])
        low, high = np.percentile(known, (0.1, 99.9))
        shown = [np.clip((v - low) / (high - low) * 255, 0, 255) for v in values]
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shown = [255 - s for s in shown]
    return [np.where(p, 0, s) for s, p in zip(shown, padded, strict=True)]


def squared(frame: np.ndarray, data: bytes) -> np.ndarray:
    """A frame with square pixels."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
    tall, wide = map(float, ds.get("PixelSpacing") or ds.get("PixelAspectRatio") or (1, 1))
    height, width = frame.shape
    size = (
        (width, round(height * tall / wide))
        if tall > wide
        else (round(width * wide / tall), height)
    )
    return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("path", own_files(), ids=lambda path: path.relative_to(DICOM).as_posix())
def test_pydicoms_own_files_are_shown_as_pydicom_shows_them(path: Path) -> None:
    for decoder in ("gdcm", "jpeg_ls"):
        pytest.importorskip(decoder)
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name in REFUSED:
            words, _ = REFUSED[path.name]
            with pytest.raises(InputError, match=words):
                list(slices_of(data))
            return
        if "PixelData" not in pydicom.dcmread(io.BytesIO(data), force=True):
            with pytest.raises(InputError, match="without an image"):
                list(slices_of(data))
            return
        wanted = [squared(frame, data) for frame in by_pydicom(data)]
        parts = list(slices_of(data))
    assert len(parts) == len(wanted)
    for part, frame in zip(parts, wanted, strict=True):
        assert part.gray.shape == frame.shape
        assert np.abs(part.gray - frame).max() <= 1.0


def test_each_exception_is_a_file() -> None:
    assert set(REFUSED) <= {path.name for path in own_files()}


# What of nibabel's files is refused: our words, and why.
NOT_SHOWN = {
    "example4d.nii.gz": ("of 2 volumes", "--volume chooses one; see below"),
    "functional.nii": ("of 20 volumes", "--volume chooses one; see below"),
    "row_major.dconn.nii": ("volumes", "CIFTI: a matrix, no volume"),
    "analyze.hdr": ("not an image", "Analyze 7.5, without voxels"),
    "nifti1.hdr": ("half beside it", "the voxels are not there"),
    "nifti2.hdr": ("half beside it", "the voxels are not there"),
}


def by_nibabel(image: object, plane: str, volume: int = 0) -> list[np.ndarray]:
    """The slices (H×W, levels 0 to 255, not rounded) as `as_closest_canonical` orders them: its
    axes point right, anterior and superior."""
    values = nibabel.as_closest_canonical(image).get_fdata()
    values = values.reshape(*values.shape[:3], -1, order="F")[..., volume]
    low, high = np.nanpercentile(values, (0.1, 99.9))
    shown = np.nan_to_num(np.clip((values - low) / (high - low) * 255, 0, 255))
    through = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    # Radiological: the patient's right on the left, and up or to the left what is anterior.
    slices = [part.T[::-1, ::-1] for part in np.moveaxis(shown, through, 0)]
    axis = int(np.flatnonzero(nibabel.io_orientation(image.affine)[:, 0] == through)[0])
    falls = nibabel.io_orientation(image.affine)[axis, 1] < 0
    return slices[::-1] if falls else slices  # in the file's order


@pytest.mark.parametrize(
    "path", sorted({*NIFTI.glob("*.nii*"), *NIFTI.glob("*.hdr")}), ids=lambda path: path.name
)
def test_nibabels_own_files_are_shown_as_nibabel_orders_them(path: Path) -> None:
    data = path.read_bytes()
    if path.name in NOT_SHOWN:
        words, _ = NOT_SHOWN[path.name]
        with pytest.raises(InputError, match=words):
            list(slices_of(data))
        if "below" not in NOT_SHOWN[path.name][1]:
            return
    image = nibabel.load(path)
    volume = image.shape[3] - 1 if len(image.shape) > 3 else None
    for plane in ("axial", "coronal", "sagittal"):
        grays = [part.gray for part in slices_of(data, plane=plane, volume=volume)]
        compare(grays, by_nibabel(image, plane, volume or 0), 2)


def compare(grays: list[np.ndarray], wanted: list[np.ndarray], levels: float) -> None:
    assert len(grays) == len(wanted)
    for gray, frame in zip(grays, wanted, strict=True):
        if gray.shape != frame.shape:  # voxels that are not square
            frame = cv2.resize(frame, gray.shape[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.abs(gray - frame).max() <= levels


AXES = [(order, flips) for order in itertools.permutations(range(3))
        for flips in itertools.product((1, -1), repeat=3)]  # fmt: skip
KINDS = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"]


@pytest.mark.parametrize("number", range(len(AXES)))
def test_drawn_volumes_are_shown_as_nibabel_orders_them(number: int) -> None:
    """All 48 orientations, and with them by turns every type, scaling, version, byte order and
    packing."""
    order, flips = AXES[number]
    rng = np.random.default_rng(number)
    kind = np.dtype(KINDS[number % len(KINDS)]).newbyteorder("<>"[number % 2])
    values = rng.integers(0, 120, (7, 8, 9)).astype(kind)
    values[3:5, 2:6, 4:8] = 125
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)] * np.array(flips) + rng.normal(0, 0.002, (3, 3))
    kind_of_file = (nibabel.Nifti1Image, nibabel.Nifti2Image)[number % 5 % 2]
    header = kind_of_file.header_class(endianness="<>"[number % 2])
    header.set_data_dtype(kind)
    image = kind_of_file(values, affine, header)
    if number % 3 == 1:
        image.header.set_slope_inter(-0.25 * (1 - 2 * (number % 4 == 1)), 30)
    stored = bytearray(image.to_bytes())
    if number % 3 == 1:  # nibabel scales again what it writes: the header alone is changed
        image = kind_of_file.from_bytes(bytes(stored))
    data = gzip.compress(bytes(stored)) if number % 4 == 0 else bytes(stored)
    image = kind_of_file.from_bytes(bytes(stored))
    for plane in ("axial", "coronal", "sagittal"):
        compare([p.gray for p in slices_of(data, plane=plane)], by_nibabel(image, plane), 1)

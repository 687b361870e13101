"""Small valid files of every format that the classifier reads, drawn and encoded in memory.

They are what `benchmarks.hostile` alters; tests take single ones.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from benchmarks.hostile.pictures import draw_slice, encode, exif_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SIZE = 96  # pixels: small files are altered where it matters more often
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def draw(seed: int, height: int = SIZE, width: int = SIZE) -> npt.NDArray[np.uint8]:
    """A drawn slice, small as a rule."""
    return draw_slice(seed, height, width)


def dicom_bytes(frames: Array, **elements: Any) -> bytes:
    """A DICOM file of one frame (H×W) or several (N×H×W); colour frames have RGB last.

    Args:
        frames: the stored values; uint8, int8, uint16 or int16.
        elements: DICOM elements by keyword, instead of or beside those that the frames tell. The
            transfer syntax is `TransferSyntaxUID`: uncompressed (the default: explicit VR, little
            endian), deflated, RLE, JPEG baseline or JPEG 2000 lossless. None leaves an element
            out.
    """
    colour = elements.get("SamplesPerPixel", 1) == 3
    stack = frames if frames.ndim == 3 + colour else frames[None]
    bits = stack.dtype.itemsize * 8
    shown: dict[str, Any] = {
        "SOPClassUID": MR_IMAGE,
        "SOPInstanceUID": generate_uid(entropy_srcs=["btc-edge"]),
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "Rows": stack.shape[1],
        "Columns": stack.shape[2],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stack.dtype.kind == "i"),
    }
    if colour:
        shown["PlanarConfiguration"] = 0
    if len(stack) > 1:
        shown["NumberOfFrames"] = len(stack)
    shown |= elements
    syntax = shown.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    data = pydicom.Dataset()
    for keyword, value in shown.items():
        if value is not None:
            setattr(data, keyword, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = shown["SOPClassUID"]
    data.file_meta.MediaStorageSOPInstanceUID = shown["SOPInstanceUID"]
    if "PixelData" not in shown:
        data.PixelData = _pixel_data(stack, pydicom.uid.UID(syntax))
        data["PixelData"].VR = "OW" if bits > 8 else "OB"
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _pixel_data(stack: Array, syntax: pydicom.uid.UID) -> bytes:
    """The value of the element Pixel Data in a transfer syntax."""
    if not syntax.is_encapsulated:
        raw = stack.astype(stack.dtype.newbyteorder("<")).tobytes()
        return raw + b"\0" * (len(raw) % 2)
    if syntax == RLELossless:
        encoded = [_rle_frame(frame) for frame in stack]
    else:
        how = {JPEGBaseline8Bit: "JPEG", JPEG2000Lossless: "JPEG2000"}[syntax]
        encoded = [pillow_bytes(frame, how) for frame in stack]
    value: bytes = encapsulate(encoded)
    return value


def _rle_frame(frame: Array) -> bytes:
    """One frame in PS3.5, annex G: a run-length coded segment for each byte of each sample."""
    planes = frame.reshape(*frame.shape[:2], -1).transpose(2, 0, 1)
    segments = []
    for plane in planes:
        stored = plane.astype(plane.dtype.newbyteorder(">")).tobytes()
        size = plane.dtype.itemsize
        segments += [_runs(stored[byte::size]) for byte in range(size)]
    at, starts = 64, []
    for segment in segments:
        starts.append(at)
        at += len(segment)
    numbers = [len(segments), *starts, *[0] * (15 - len(starts))]
    return np.array(numbers, "<u4").tobytes() + b"".join(segments)


def _runs(values: bytes) -> bytes:
    """PackBits: literals of up to 128 bytes and runs of one value, padded to an even length."""
    out, at = bytearray(), 0
    while at < len(values):
        run = 1
        while run < 128 and values[at : at + run + 1] == values[at : at + 1] * (run + 1):
            run += 1
        if run > 1:
            out += bytes([257 - run, values[at]])
        else:
            while run < 128 and at + run < len(values) and values[at + run] != values[at + run - 1]:
                run += 1
            out += bytes([run - 1]) + values[at : at + run]
        at += run
    return bytes(out) + b"\0" * (len(out) % 2)


def nifti_bytes(volume: Array, affine: Array | None = None, kind: int = 1) -> bytes:
    """A NIfTI file (`.nii`, one file, not compressed) of a volume.

    Args:
        affine: from voxels to millimetres (4×4); default: the axes of the array point right,
            anterior and superior, 1 mm a voxel.
        kind: 1 for NIfTI-1, 2 for NIfTI-2.
    """
    import nibabel

    image = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[kind]
    placed = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    data: bytes = image(volume, placed, dtype=volume.dtype).to_bytes()
    return data


def pillow_bytes(picture: Array, format: str, **options: Any) -> bytes:
    """A picture encoded by Pillow, which writes kinds that OpenCV does not."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format, **options)
    return out.getvalue()


def _palette_png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw(seed)).convert("P").save(out, "PNG")
    return out.getvalue()


def _rgb(seed: int) -> Array:
    return np.dstack([draw(seed), draw(seed + 1), draw(seed + 2)])


def _deep(seed: int) -> Array:
    """Twelve bits in sixteen, as scanners store them."""
    return draw(seed).astype(np.uint16) * 16


def _stack(seed: int, count: int = 4) -> Array:
    return np.stack([draw(seed + i, 48, 40) for i in range(count)])


def _windowed(seed: int) -> bytes:
    return dicom_bytes(
        _deep(seed).astype(np.int16), WindowCenter=900, WindowWidth=1800, RescaleSlope=2,
        RescaleIntercept=-1024, PixelSpacing=[0.9, 0.6],
    )  # fmt: skip


def _palette_dicom(seed: int) -> bytes:
    levels = (np.arange(256, dtype="<u2") * 257).tobytes()
    tables: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{colour}PaletteColorLookupTableData"] = levels
    return dicom_bytes(draw(seed), PhotometricInterpretation="PALETTE COLOR", **tables)


def _enhanced(seed: int) -> bytes:
    """A multi-frame image whose window stands in functional groups."""
    window, group = pydicom.Dataset(), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth = 100, 200
    group.FrameVOILUTSequence = [window]
    return dicom_bytes(_stack(seed), SharedFunctionalGroupsSequence=[group])


def _volume(seed: int) -> Array:
    return _stack(seed, 6).transpose(2, 1, 0)


# Every kind of file, by suffix and a word; each takes a seed.
MAKERS: dict[str, Callable[[int], bytes]] = {
    "jpg gray": lambda s: pillow_bytes(draw(s), "JPEG"),
    "jpg rgb": lambda s: pillow_bytes(_rgb(s), "JPEG"),
    "jpg progressive": lambda s: pillow_bytes(_rgb(s), "JPEG", progressive=True),
    "png gray": lambda s: encode(draw(s), ".png"),
    "png 16": lambda s: encode(_deep(s), ".png"),
    "png rgb": lambda s: encode(_rgb(s), ".png"),
    "png rgba": lambda s: pillow_bytes(np.dstack([_rgb(s), draw(s)]), "PNG"),
    "png palette": _palette_png,
    "bmp gray": lambda s: encode(draw(s), ".bmp"),
    "bmp rgb": lambda s: pillow_bytes(_rgb(s), "BMP"),
    "tiff lzw": lambda s: pillow_bytes(draw(s), "TIFF", compression="tiff_lzw"),
    "tiff 16 deflate": lambda s: pillow_bytes(_deep(s), "TIFF", compression="tiff_adobe_deflate"),
    "tiff float": lambda s: encode(draw(s).astype(np.float32) / 7, ".tiff"),
    "tiff rgb": lambda s: pillow_bytes(_rgb(s), "TIFF"),
    "tiff big": lambda s: pillow_bytes(draw(s), "TIFF", big_tiff=True),
    "tiff jpeg": lambda s: pillow_bytes(_rgb(s), "TIFF", compression="jpeg"),
    "tiff packbits": lambda s: pillow_bytes(_rgb(s), "TIFF", compression="packbits"),
    "gif": lambda s: pillow_bytes(draw(s), "GIF"),
    "webp turned": lambda s: pillow_bytes(_rgb(s), "WEBP", exif=b"Exif\0\0" + exif_of(6)),
    "webp": lambda s: encode(draw(s), ".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "webp lossless": lambda s: encode(_rgb(s), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "dcm": _windowed,
    "dcm inverted": lambda s: dicom_bytes(_deep(s), PhotometricInterpretation="MONOCHROME1"),
    "dcm rgb": lambda s: dicom_bytes(_rgb(s), SamplesPerPixel=3),
    "dcm palette": _palette_dicom,
    "dcm enhanced": _enhanced,
    "dcm rle": lambda s: dicom_bytes(_deep(s), TransferSyntaxUID=RLELossless),
    "dcm jpeg": lambda s: dicom_bytes(_stack(s), TransferSyntaxUID=JPEGBaseline8Bit),
    "dcm jpeg 2000": lambda s: dicom_bytes(_deep(s), TransferSyntaxUID=JPEG2000Lossless),
    "nii": lambda s: nifti_bytes(_volume(s)),
    "nii float": lambda s: nifti_bytes(_volume(s).astype(np.float32), np.diag([1, 0.5, 2, 1])),
    "nii 2": lambda s: nifti_bytes(_volume(s).astype(np.int16) * 9, kind=2),
    "nii.gz": lambda s: gzip.compress(nifti_bytes(_volume(s)), mtime=0),
}

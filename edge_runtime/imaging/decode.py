"""From an encoded picture to one gray slice, safely.

Images are untrusted: the format is decided by content, size and cost are read from the header and
capped before a decoder runs, and whatever a decoder refuses becomes an `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.geometry import turned
from edge_runtime.imaging.gray import BAND, SAMPLE, as_gray
from edge_runtime.imaging.headers import MAX_SCANS, TOO_SHORT, Header
from edge_runtime.imaging.kinds import Kind, picture_kind, refusal
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits, read_source
from edge_runtime.imaging.preprocess import NARROW
from edge_runtime.imaging.stack import Stack
from edge_runtime.quiet import quiet_c_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.imaging.limits import ImageSource

    Gray = npt.NDArray[np.uint8]

MAX_SCANNED = 500_000_000  # pixels times scans of a JPEG
_END_OF_JPEG = b"\xff\xd9"  # never within a scan
_UINT8 = np.dtype(np.uint8).num


def read_header(data: bytes) -> Header | None:
    """The header of a picture; None where the bytes are something else.

    A known signature with a damaged header gives a size of 0×0.
    """
    kind = picture_kind(data)
    return None if kind is None else _header(data, kind)


def _header(data: bytes, kind: Kind) -> Header:
    try:
        header: Header | None = _function(kind.header)(data)
    except TOO_SHORT:
        header = None
    return header or Header(kind.name, 0, 0)


@cache
def _function(place: str) -> Callable[[bytes], Any]:
    """What a row of the table of kinds names as `module.function`; imported when it is needed."""
    module, _, name = place.partition(".")
    function: Callable[[bytes], Any] = getattr(
        import_module(f"edge_runtime.imaging.{module}"), name
    )
    return function


def decode_memory(header: Header) -> int:
    """Bytes that a picture takes at most, beside its file, to become a slice and then a model's
    input: the larger of what the decoder needs and what follows.

    Args:
        header: from `read_header`.
    """
    pixels = header.width * header.height
    # What has a depth of its own: the sample that its range is taken from, then the gray slice.
    each = 0 if header.bits <= 8 and not header.ranged else 12 if header.depth <= 2 else 26
    ranged = pixels * header.depth + each * min(pixels, 9 * SAMPLE // 4)
    scaled = pixels * (header.depth + 1) + 16 * BAND if each else 0
    # The slice, the mask of the head, and the square that it is padded to.
    follows = 2 * pixels + min(max(header.width, header.height), NARROW) ** 2
    return max(header.memory, ranged, scaled, follows)


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Gray:
    """Decode an encoded picture (JPEG, PNG, BMP, TIFF, WebP, GIF) to a gray slice.

    Colour becomes luma (0.299 R + 0.587 G + 0.114 B of the stored values, whatever colour space
    the file claims), EXIF turns are applied, transparency is ignored. Unsigned samples of 8 bits
    or fewer are gray levels as they stand; every other depth is mapped linearly so that
    `robust_range` becomes 0-255 (a 12-bit range in a 16-bit file would otherwise collapse to a
    few levels). Of a TIFF of several pages the first is read, of an animated PNG the still
    picture; other animations are refused.

    Returns:
        uint8 array of H×W, gray levels 0-255.

    Raises:
        InputError: not a supported format or kind of it, too many pixels, too much memory,
            truncated or damaged.
    """
    return decode_kind(data, _known(data), limits)


def decode_kind(data: bytes, kind: Kind, limits: ImageLimits) -> Gray:
    """As `decode`, of a picture whose kind is known.

    Raises:
        InputError: as `decode`.
    """
    header, _ = _checked(data, kind, limits)
    return _gray(data, kind, header)


def read(data: bytes, limits: ImageLimits, plane: str, volume: int | None) -> Stack:
    """A picture as the one slice of its file, of which the header has been read.

    Args:
        plane, volume: of volumes; they tell a picture nothing.

    Raises:
        InputError: as `decode`, what the header tells at once.
    """
    kind = _known(data)
    header, memory = _checked(data, kind, limits)
    return Stack(1, memory, (_gray(data, kind, header) for _ in range(1)))


def _known(data: bytes) -> Kind:
    kind = picture_kind(data)
    if kind is None:
        raise InputError(refusal(data))
    return kind


def _checked(data: bytes, kind: Kind, limits: ImageLimits) -> tuple[Header, int]:
    """The header of a picture that may be decoded, and the bytes that it takes; what is damaged,
    not supported or too costly is refused before a decoder runs."""
    header = _header(data, kind)
    if header.width <= 0 or header.height <= 0:
        raise InputError(f"truncated or damaged {header.format} image")
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise InputError(
            f"{header.width}x{header.height} pixels: over the limit of {limits.max_pixels:,} pixels"
        )
    if header.unsupported:
        raise InputError(f"not supported: {header.unsupported}")
    need = decode_memory(header)
    if need > limits.max_memory:
        raise InputError(
            f"{header.width}x{header.height} pixels of this kind need {-(-need // MIB)} MiB to "
            f"decode: over the limit of {limits.max_memory // MIB} MiB"
        )
    if header.scans > 1 and (header.scans > MAX_SCANS or header.scans * pixels > MAX_SCANNED):
        raise InputError(f"a JPEG of {header.scans} scans: more than are decoded at this size")
    return header, need


def _gray(data: bytes, kind: Kind, header: Header) -> Gray:
    cv2 = _opencv()
    if kind.name == "jpeg" and _fills_up() and data.find(_END_OF_JPEG, header.scan) < 0:
        raise InputError(f"truncated or damaged {header.format} image")
    try:
        with quiet_c_stderr:
            pixels = _decoded(data, kind, cv2)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(_undecoded(header, cv2))
    if pixels.dtype.num == _UINT8 and pixels.flags.c_contiguous:
        gray: Gray = pixels
        return gray
    return as_gray(pixels)


def _decoded(data: bytes, kind: Kind, cv2: Any) -> Any:
    """The values of a picture in their own depth, or None."""
    if kind.pixels:
        return _function(kind.pixels)(data)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if not kind.repair:  # OpenCV turns it by itself
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    plain, turn = _function(kind.repair)(data)
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), flags)
    if turn == 1 or pixels is None:
        return pixels
    return turned(pixels, turn)


def _undecoded(header: Header, cv2: Any) -> str:
    """Why OpenCV gave nothing for a picture with a sound header."""
    if header.format == "gif":
        one = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
        if cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_GRAYSCALE) is None:
            return (
                "a GIF needs a newer package opencv-python-headless than this one "
                f"({cv2.__version__}): 5.0 reads it"
            )
    if header.rare:
        return f"damaged, or not supported by OpenCV {cv2.__version__}: {header.rare}"
    return f"truncated or damaged {header.format} image"


def load_gray(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Gray:
    """A path, the bytes of an encoded picture or a binary stream of it, or an array, as a uint8
    gray slice of H×W.

    Raises:
        InputError: see `limits.read_source`, `decode` and `gray.as_gray`.
    """
    if isinstance(source, np.ndarray):
        return as_gray(source)
    return decode(read_source(source, limits), limits)


@cache
def _fills_up() -> bool:
    """Whether this OpenCV gives a picture for a JPEG that ends too early, its missing rows as they
    come: 4.6 and 4.8 do, 4.11 does not."""
    cv2 = _opencv()
    whole = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1]
    with quiet_c_stderr:
        return cv2.imdecode(whole[: -len(_END_OF_JPEG)], cv2.IMREAD_GRAYSCALE) is not None


@cache
def _opencv() -> Any:
    """OpenCV, whose decoders do not write about bad files to stderr."""
    import cv2

    logging = getattr(getattr(cv2, "utils", None), "logging", cv2)  # cv2 itself: OpenCV 4
    if hasattr(logging, "setLogLevel"):
        logging.setLogLevel(0)
    return cv2

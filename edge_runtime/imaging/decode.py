"""From a path, bytes or an array to one gray slice, safely.

Images are untrusted: the format is decided by content, size and cost are read from the header and
capped before a decoder runs, and whatever a decoder refuses becomes an `InputError`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.headers import FORMATS, Header, read_header, volume_format
from edge_runtime.imaging.preprocess import NARROW
from edge_runtime.imaging.repairs import mended
from edge_runtime.quiet import quiet

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
    ImageSource = Encoded | npt.NDArray[Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MIB = 1 << 20
SAMPLE = 1_000_000  # values that a value range is taken from
RANGE = (0.1, 99.9)  # percentiles of the values that become black and white
MAX_SCANS = 100  # a progressive JPEG has about ten; each costs a pass over the whole picture
MAX_SCANNED = 500_000_000  # pixels times scans
AT_ONCE = 1 << 18  # values that are converted together
PIECE = 1 << 16  # bytes that are read at once where a size is not known


@dataclass(frozen=True)
class ImageLimits:
    """What is refused unread: files over `max_bytes` (as stored, and unpacked where a volume is
    compressed), pictures over `max_pixels`, volumes over `max_slices`, and what would take more
    than `max_memory` bytes, beside the file itself, to decode one picture and make it a model's
    input. With the defaults one file at a time needs at most 512 MiB for the whole process."""

    max_bytes: int = 256 * MIB
    max_pixels: int = 50_000_000
    max_slices: int = 4096
    max_memory: int = 128 * MIB


DEFAULT_LIMITS = ImageLimits()


def read_file(path: str | os.PathLike[str], limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a regular file of at most `limits.max_bytes`.

    Raises:
        InputError: missing, unreadable, not a regular file, empty or too large.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError("not a regular file")
            _check_size(status.st_size, limits)
            data = _read_all(stream.read, status.st_size + 1, limits)
    except FileNotFoundError:
        raise InputError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}") from None
    if not data:
        raise InputError("empty file")
    return data


def read_source(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a file's path, of bytes in memory (bytes, bytearray, memoryview), or of a
    binary stream from where it stands, of at most `limits.max_bytes`.

    Raises:
        InputError: as `read_file`; a stream that fails or gives text; another kind of object.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        try:
            _check_size(memoryview(source).nbytes, limits)
            data = bytes(source)
        except (ValueError, BufferError) as error:  # a memoryview that was released
            raise InputError(f"cannot be read: {error}") from None
    elif isinstance(source, (str, os.PathLike)):
        return read_file(source, limits)
    elif callable(getattr(source, "read", None)):
        try:
            data = _read_all(source.read, PIECE, limits)
        except InputError:
            raise
        except Exception as error:  # whatever a stream of the caller's raises where it fails
            raise InputError(f"cannot be read: {str(error) or type(error).__name__}") from None
    else:
        raise InputError(f"{type(source).__name__} is no path, bytes, array or binary stream")
    if not data:
        raise InputError("empty file")
    return data


def _check_size(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        raise InputError(f"larger than the limit of {limits.max_bytes // MIB} MiB")


def _read_all(read: Callable[[int], Any], first: int, limits: ImageLimits) -> bytes:
    """All that a stream gives, asked for in pieces: a read makes room for what it asks for.

    Args:
        first: bytes to ask for first; a file may have grown since its size was looked up.
    """
    whole, buffer, wanted = b"", None, first
    while True:
        size = len(whole) if buffer is None else buffer.tell()
        piece = read(min(wanted, limits.max_bytes + 1 - size))
        if not isinstance(piece, bytes):
            raise InputError("a stream that gives no bytes: open it in binary mode")
        if not piece:
            return whole if buffer is None else buffer.getvalue()
        _check_size(size + len(piece), limits)
        if not whole:  # all of a file, as a rule
            whole = piece
        else:
            if buffer is None:
                buffer = io.BytesIO()
                buffer.write(whole)
            buffer.write(piece)
        wanted = PIECE


def decode_memory(header: Header) -> int:
    """Bytes that a picture takes at most, beside its file, to become a slice and then a model's
    input: the larger of what the decoder needs and what follows.

    Args:
        header: from `read_header`.
    """
    pixels = header.width * header.height
    # What has a depth of its own: the sample that its range is taken from, then the gray slice.
    each = 0 if header.bits <= 8 and header.format != "tiff" else 12 if header.depth <= 2 else 26
    ranged = pixels * header.depth + each * min(pixels, 9 * SAMPLE // 4)
    scaled = pixels * (header.depth + 1) + 16 * AT_ONCE if each else 0
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
    header = read_header(data)
    if header is None:
        raise InputError(_foreign(data))
    _check(header, limits)
    import cv2

    _silence(cv2)
    try:
        with quiet:
            pixels = _decoded(data, header.format, cv2)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(_undecoded(header, cv2))
    if pixels.dtype == np.uint8 and pixels.flags.c_contiguous:
        gray: Gray = pixels
        return gray
    return _to_uint8(pixels)


def _decoded(data: bytes, format: str, cv2: Any) -> Any:
    """The values of a picture in their own depth, or None."""
    if format == "tiff":
        from edge_runtime.imaging.tiff import read_tiff

        return read_tiff(data)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if format == "webp":  # some versions of OpenCV turn it, and only some files
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    plain, turn = mended(data, format)
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), flags)
    if turn == 1 or pixels is None:
        return pixels
    from edge_runtime.imaging.tiff import turned

    return turned(pixels, turn)


def _check(header: Header, limits: ImageLimits) -> None:
    """Refuse what is damaged, not supported or too costly, before a decoder runs."""
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


def _foreign(data: bytes) -> str:
    """The reason to refuse what no reader knows."""
    from edge_runtime.imaging.kinds import foreign_format

    kind = volume_format(data)
    if kind is not None and not data.startswith(b"\x1f\x8b"):
        return f"not supported here: a {kind.upper()} file; btc-edge and Classifier read it"
    name = foreign_format(data)
    if name is not None:
        return f"not supported: {name}"
    return f"not an image in a supported format ({', '.join(FORMATS)})"


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


def as_gray(array: npt.NDArray[Any], value_range: tuple[float, float] | None = None) -> Gray:
    """An array as a gray slice.

    Args:
        array: H×W, H×W×1, or H×W×3 in RGB order, of any real dtype.
        value_range: the values that become black and white; what lies outside is clipped.
            Without it uint8 is taken as gray levels 0-255, and any other dtype is mapped so that
            `robust_range` becomes black and white.

    Raises:
        InputError: another shape, an empty array, a dtype that is no number, masked values, NaN
            or infinity, or a range that is not two rising numbers.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"{type(array).__name__} is no array")
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("a masked array is not a slice: fill it first")
    if array.dtype.kind not in "buif":
        raise InputError(f"an array of {array.dtype} is not a slice; need real numbers")
    array = np.asarray(array)  # np.matrix has rules of its own
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3 and array.shape[2] == 3
    if (array.ndim != 2 and not colour) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is not a slice; need HxW or HxWx3")
    gray = _to_uint8(array, value_range)
    if colour:
        import cv2

        gray = cv2.cvtColor(gray, cv2.COLOR_RGB2GRAY)
    return gray


def load_gray(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Gray:
    """A path, the bytes of an encoded picture or a binary stream of it, or an array, as a uint8
    gray slice of H×W.

    Raises:
        InputError: see `read_source`, `decode` and `as_gray`.
    """
    if isinstance(source, np.ndarray):
        return as_gray(source)
    return decode(read_source(source, limits), limits)


@np.errstate(all="ignore")
def robust_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white where nothing says which: two percentiles of a
    sample (RANGE), so that one bright pixel does not darken all others; the smallest and the
    largest value where the two are the same, as in a mostly empty picture.

    Args:
        values: a picture (H×W) or a whole volume (N×H×W), of any real dtype; what is not finite
            does not count.

    Raises:
        InputError: no finite value.
    """
    step = max(1, round((values.size / SAMPLE) ** (1 / values.ndim)))
    sample = values[(slice(None, None, step),) * values.ndim].ravel()
    if values.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise InputError("pixels that are not finite numbers")
    low, high = _percentiles(sample)
    if low < high:
        return low, high
    ends = [_ends(values[i : i + n]) for i, n in _pieces(values)]
    return min(end[0] for end in ends), max(end[1] for end in ends)


def _percentiles(sample: npt.NDArray[Any]) -> tuple[float, float]:
    """The percentiles RANGE of N values, linear between two neighbours as `np.percentile` has it;
    whole numbers of 16 bits are counted, which is ten times as fast."""
    if sample.dtype.kind == "f" or sample.dtype.itemsize > 2:
        low, high = np.percentile(sample.astype(np.float64), RANGE)
        return float(low), float(high)
    least = int(sample.min())
    reached = np.cumsum(np.bincount(sample.astype(np.intp) - least))
    places = np.array(RANGE) / 100 * (sample.size - 1)
    below, above = (reached.searchsorted(f(places), side="right") for f in (np.floor, np.ceil))
    low, high = least + below + (above - below) * (places % 1)
    return float(low), float(high)


def _ends(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest finite value; inf and -inf where there is none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite, wide = np.isfinite(values), values.dtype.type
    return (
        float(values.min(where=finite, initial=wide(np.inf))),
        float(values.max(where=finite, initial=wide(-np.inf))),
    )


def _wide(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """A float type that holds the values of `dtype` as well as gray levels need it."""
    return np.float64 if dtype.itemsize > 2 else np.float32


def _pieces(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """First row and rows of pieces of some AT_ONCE values, that are converted one by one."""
    rows = max(1, AT_ONCE // max(1, values[0].size))
    return [(first, rows) for first in range(0, len(values), rows)]


@np.errstate(all="ignore")  # odd floats; what is no number is refused below
def _to_uint8(pixels: npt.NDArray[Any], value_range: tuple[float, float] | None = None) -> Gray:
    if pixels.dtype == np.uint8 and value_range is None:
        return np.ascontiguousarray(pixels)
    if value_range is None:
        parts = [pixels] if pixels.ndim == 2 else [pixels[:, :, i] for i in range(3)]
        ranges = [robust_range(part) for part in parts]
        low, high = min(one[0] for one in ranges), max(one[1] for one in ranges)
    else:
        try:
            low, high = (float(limit) for limit in value_range)
        except (TypeError, ValueError, OverflowError):
            low = high = np.nan
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputError(f"the value range {value_range} is not two rising numbers")
    gray: Gray = np.empty(pixels.shape, np.uint8)
    for first, rows in _pieces(pixels):
        values = pixels[first : first + rows].astype(_wide(pixels.dtype))
        if pixels.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError("pixels that are not finite numbers")
        if high <= low:
            gray[first : first + rows] = 0
            continue
        np.clip(values, low, high, out=values)
        # The half first: the span of large floats is not a float itself.
        levels = np.rint((values / 2 - low / 2) / (high / 2 - low / 2) * 255.0)
        # Its ends, as rounded to float32, may lie outside.
        gray[first : first + rows] = np.clip(levels, 0, 255, out=levels)
    return gray


def _silence(cv2: Any) -> None:
    """Keep OpenCV's decoders from writing about bad files to stderr."""
    if not getattr(_silence, "done", False):
        logging = getattr(getattr(cv2, "utils", None), "logging", cv2)  # cv2 itself: OpenCV 4
        if hasattr(logging, "setLogLevel"):
            logging.setLogLevel(0)
        _silence.done = True  # type: ignore[attr-defined]

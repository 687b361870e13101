"""From a path, bytes or an array to one gray slice, safely.

Images are untrusted: the format is decided by content, the size is read from the header and
capped before a decoder runs, and whatever a decoder refuses becomes an `InputError`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.headers import FORMATS, read_header

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    ImageSource = str | os.PathLike[str] | bytes | npt.NDArray[Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MIB = 1 << 20
SAMPLE = 1_000_000  # values that a value range is taken from
RANGE = (0.1, 99.9)  # percentiles of the values that become black and white
MAX_SCANS = 100  # a progressive JPEG has about ten; each costs a pass over the whole picture


@dataclass(frozen=True)
class ImageLimits:
    """What is refused unread: files over `max_bytes` (as stored, and unpacked where a volume is
    compressed), pictures over `max_pixels`, volumes over `max_slices`."""

    max_bytes: int = 256 * MIB
    max_pixels: int = 50_000_000
    max_slices: int = 4096


DEFAULT_LIMITS = ImageLimits()


def read_file(path: str | os.PathLike[str], limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a regular file of at most `limits.max_bytes`.

    Raises:
        InputError: missing, unreadable, not a regular file, empty or too large.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError("not a regular file")
            data = stream.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise InputError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}") from None
    if not data:
        raise InputError("empty file")
    if len(data) > limits.max_bytes:
        raise InputError(f"larger than the limit of {limits.max_bytes // MIB} MiB")
    return data


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Gray:
    """Decode an encoded image to a gray slice.

    Colour becomes luma, EXIF turns are applied, transparency is ignored, and depths other than
    8 bits are mapped linearly from the picture's own minimum and maximum to 0-255 (a 12-bit
    range in a 16-bit file would otherwise collapse to a few levels).

    Returns:
        uint8 array of H×W, gray levels 0-255.

    Raises:
        InputError: not a supported format, too many pixels, truncated or damaged.
    """
    header = read_header(data)
    if header is None:
        raise InputError(f"not an image in a supported format ({', '.join(FORMATS)})")
    if header.width <= 0 or header.height <= 0:
        raise InputError(f"truncated or damaged {header.format} image")
    if header.width * header.height > limits.max_pixels:
        raise InputError(
            f"{header.width}x{header.height} pixels: over the limit of {limits.max_pixels:,} pixels"
        )
    if header.format == "jpeg" and data.count(b"\xff\xda") > MAX_SCANS:
        raise InputError(f"a JPEG of more than {MAX_SCANS} scans")
    import cv2

    _silence(cv2)
    try:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"truncated or damaged {header.format} image")
    return _to_uint8(pixels)


def as_gray(array: npt.NDArray[Any], value_range: tuple[float, float] | None = None) -> Gray:
    """An array as a gray slice.

    Args:
        array: H×W, H×W×1, or H×W×3 in RGB order, of any real dtype.
        value_range: the values that become black and white; what lies outside is clipped.
            Without it uint8 is taken as gray levels 0-255, and any other dtype is mapped from its
            own minimum and maximum.

    Raises:
        InputError: another shape, an empty array, a dtype that is no number, NaN or infinity, or
            a range that is not two rising numbers.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3 and array.shape[2] == 3
    if (array.ndim != 2 and not colour) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is not a slice; need HxW or HxWx3")
    if array.dtype.kind not in "buif":
        raise InputError(f"an array of {array.dtype} is not a slice; need real numbers")
    gray = _to_uint8(array, value_range)
    if colour:
        import cv2

        gray = cv2.cvtColor(gray, cv2.COLOR_RGB2GRAY)
    return gray


def load_gray(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Gray:
    """A path, the bytes of an encoded image, or an array, as a uint8 gray slice of H×W.

    Raises:
        InputError: see `read_file`, `decode` and `as_gray`.
    """
    if isinstance(source, np.ndarray):
        return as_gray(source)
    data = source if isinstance(source, bytes) else read_file(source, limits)
    return decode(data, limits)


@np.errstate(all="ignore")
def robust_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white where nothing says which: two percentiles of a
    sample (RANGE), so that one bright pixel does not darken all others.

    Args:
        values: a picture (H×W) or a whole volume (N×H×W), of any real dtype; what is not finite
            does not count.

    Raises:
        InputError: no finite value.
    """
    step = max(1, round((values.size / SAMPLE) ** (1 / values.ndim)))
    sample = values[(slice(None, None, step),) * values.ndim].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise InputError("pixels that are not finite numbers")
    low, high = np.percentile(sample, RANGE)
    return float(low), float(high)


@np.errstate(all="ignore")  # odd floats; what is no number is refused below
def _to_uint8(pixels: npt.NDArray[Any], value_range: tuple[float, float] | None = None) -> Gray:
    if pixels.dtype == np.uint8 and value_range is None:
        return np.ascontiguousarray(pixels)
    wide = np.float64 if pixels.dtype.itemsize > 2 else np.float32
    values: npt.NDArray[Any] = pixels.astype(wide)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("pixels that are not finite numbers")
    if value_range is not None:
        low, high = (float(limit) for limit in value_range)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputError(f"the value range {value_range} is not two rising numbers")
        np.clip(values, low, high, out=values)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    # The half first: the span of large floats is not a float itself.
    levels = np.rint((values / 2 - low / 2) / (high / 2 - low / 2) * 255.0)
    if value_range is not None:  # its ends, as rounded to float32, may lie outside it
        np.clip(levels, 0, 255, out=levels)
    scaled: Gray = levels.astype(np.uint8)
    return scaled


def _silence(cv2: Any) -> None:
    """Keep OpenCV's decoders from writing about bad files to stderr."""
    if not getattr(_silence, "done", False):
        logging = getattr(getattr(cv2, "utils", None), "logging", cv2)  # cv2 itself: OpenCV 4
        if hasattr(logging, "setLogLevel"):
            logging.setLogLevel(0)
        _silence.done = True  # type: ignore[attr-defined]

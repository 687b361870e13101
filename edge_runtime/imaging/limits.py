"""How much of what comes from outside is read: limits, and the bytes of a file, of memory or of a
stream within them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from edge_runtime.errors import InputError
from edge_runtime.imaging.kinds import HEAD

if TYPE_CHECKING:
    import numpy.typing as npt

    Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
    ImageSource = Encoded | npt.NDArray[Any]

MIB = 1 << 20
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
        with _opened(path) as stream:
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


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """The first HEAD bytes of a file, by which `kinds.kind_of` tells what it is; none where it is
    no regular one.

    Raises:
        InputError: it may not be read.
    """
    try:
        with _opened(path) as stream:
            return stream.read(HEAD) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from None


def _opened(path: str | os.PathLike[str]) -> io.FileIO:
    # O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
    return open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0)


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
        most = limits.max_bytes
        words = f"{most // MIB} MiB" if most >= MIB else f"{most >> 10} KiB"
        raise InputError(f"larger than the limit of {words}")


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

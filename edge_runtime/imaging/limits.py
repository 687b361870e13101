"""How much of what comes from outside is read: limits, and the bytes of a file, of memory or of a
stream within them."""

from __future__ import annotations

import errno
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
# O_NONBLOCK: opening a FIFO that nobody writes to must not hang. O_BINARY is of Windows.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _irregular(status.st_mode)
            size = status.st_size
            check_size(size, limits)
            # One more than there should be. A stream's layers would cost more than a small file.
            data = os.read(descriptor, size + 1)
            if len(data) != size:
                data = _read_all(lambda most: os.read(descriptor, most), limits, data)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unreadable(error) from None
    if not data:
        raise InputError("empty file")
    return data


def first_bytes(path: str | os.PathLike[str], most: int = HEAD) -> bytes:
    """The first bytes of a file, HEAD of them so that `kinds.kind_of` tells what it is; none where
    it is no regular one.

    Raises:
        InputError: it may not be read.
    """
    try:
        descriptor = os.open(path, _READ)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return os.read(descriptor, most) if regular else b""
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unreadable(error) from None


def _unreadable(error: OSError | ValueError) -> InputError:
    """What is told of a file that cannot be opened or read."""
    return InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _irregular(mode: int) -> Exception:
    """Why what is no regular file is not read."""
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return InputError("not a regular file")


def read_source(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a file's path, of bytes in memory (bytes, bytearray, memoryview), or of a
    binary stream from where it stands, of at most `limits.max_bytes`.

    Raises:
        InputError: as `read_file`; a stream that fails or gives text; another kind of object.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        try:
            check_size(memoryview(source).nbytes, limits)
            data = bytes(source)
        except (ValueError, BufferError) as error:  # a memoryview that was released
            raise InputError(f"cannot be read: {error}") from None
    elif isinstance(source, (str, os.PathLike)):
        return read_file(source, limits)
    elif callable(getattr(source, "read", None)):
        try:
            data = _read_all(source.read, limits)
        except InputError:
            raise
        except Exception as error:  # whatever a stream of the caller's raises where it fails
            raise InputError(f"cannot be read: {str(error) or type(error).__name__}") from None
    else:
        raise InputError(f"{type(source).__name__} is no path, bytes, array or binary stream")
    if not data:
        raise InputError("empty file")
    return data


def check_size(size: int, limits: ImageLimits) -> None:
    """
    Raises:
        InputError: more bytes than `limits.max_bytes`.
    """
    if size > limits.max_bytes:
        most = limits.max_bytes
        words = f"{most // MIB} MiB" if most >= MIB else f"{most >> 10} KiB"
        raise InputError(f"larger than the limit of {words}")


def _read_all(read: Callable[[int], Any], limits: ImageLimits, first: bytes = b"") -> bytes:
    """All that a stream gives, asked for in pieces: a read makes room for what it asks for.

    Args:
        first: what it gave already; a file may be longer than its size says, or come in parts.
    """
    check_size(len(first), limits)
    whole, buffer = first, None
    while True:
        size = len(whole) if buffer is None else buffer.tell()
        piece = read(min(PIECE, limits.max_bytes + 1 - size))
        if not isinstance(piece, bytes):
            raise InputError("a stream that gives no bytes: open it in binary mode")
        if not piece:
            return whole if buffer is None else buffer.getvalue()
        check_size(size + len(piece), limits)
        if not whole:
            whole = piece
        else:
            if buffer is None:
                buffer = io.BytesIO()
                buffer.write(whole)
            buffer.write(piece)

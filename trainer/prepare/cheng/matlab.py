"""Arrays of MATLAB 7.3 files, which are HDF5, read in a process of their own.

The HDF5 library trusts its files: a B-tree that leads back to itself ends the process that reads
it, and two megabytes of a deflated chunk unpack to two gigabytes, whatever the array's shape says.
So another process reads them, within limits of memory and time: one for many files, and a new one
where a file ended it. What it answers is checked as what comes from outside is.

Nothing outside the file is read: no links, no virtual arrays, no external storage, no filters that
HDF5 would load from elsewhere; references lead nowhere.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import TracebackType
from typing import IO, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from edge_runtime.child import READY, end_with_parent, limit_child, python_command
from edge_runtime.errors import DataError, InputError
from edge_runtime.imaging.limits import MIB
from edge_runtime.json_text import parse_json

Array = npt.NDArray[Any]

MAX_BYTES = 16 * MIB  # of a file
MAX_VALUES = 1 << 22  # of an array: 2048 x 2048
MAX_DIMENSIONS = 4
MAX_LINE = 1 << 16  # bytes of an answer before its arrays
MEMORY = 1 << 30  # bytes of the other process
SECONDS = 20  # for one file
CPU_SECONDS = 24 * 3600  # for all files
ATTEMPTS = 2  # the first process may have been ended by something else than the file

_MATLAB_5 = b"MATLAB 5.0 MAT-file"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMBERS = re.compile("[<|][buif][1248]")  # dtypes, as numpy writes them
_CHILD = "from trainer.prepare.cheng.matlab import child; child()"


class MatStruct(NamedTuple):
    """What was found of a struct's fields.

    Attributes:
        arrays: by field, as MATLAB shows them (rows first), of numbers; texts as the numbers of
            their letters. What MATLAB calls empty has no values.
        problems: by field, what keeps it from being read, as "label is missing".
    """

    arrays: Mapping[str, Array]
    problems: Mapping[str, str]


class MatReader:
    """Reads MATLAB 7.3 files, one after another; for one thread, to use in a `with`.

    Raises:
        ModuleNotFoundError: h5py is missing.
    """

    def __init__(self) -> None:
        if find_spec("h5py") is None:
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MatReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def read(self, data: bytes, struct: str, fields: Sequence[str]) -> MatStruct:
        """Fields of a struct.

        Args:
            data: the file.

        Raises:
            InputError: no MATLAB 7.3 file, a damaged one, or one without the struct.
            DataError: there can be no other process.
        """
        _check_kind(data)
        request = json.dumps({"size": len(data), "struct": struct, "fields": list(fields)})
        for _ in range(ATTEMPTS):
            process = self._process or self._start()
            try:
                with _watched(process):
                    return _ask(process, request.encode() + b"\n" + data, fields)
            except (OSError, ValueError, TypeError):  # it died, or talks nonsense
                self._end()
        raise InputError("damaged: the process that read it died of it, or took too long")

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            python_command(_CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each takes address space
        )
        self._process = process
        with _watched(process):
            ready = _pipes(process)[1].readline(MAX_LINE) == READY
        if not ready:
            self._end()
            raise DataError("the process that reads MATLAB files does not start: is h5py broken?")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in _pipes(process):
                with suppress(OSError):  # what it did not take
                    stream.close()
            process.wait()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """To a process, and from it."""
    return cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)


@contextmanager
def _watched(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process that takes over SECONDS for what is done in the `with`."""
    watch = threading.Timer(SECONDS, process.kill)
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def too_large() -> InputError:
    """What is wrong with a file over MAX_BYTES."""
    return InputError(f"larger than the limit of {MAX_BYTES // MIB} MiB")


def _check_kind(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise too_large()
    if data.startswith(_MATLAB_5):
        raise InputError("a MATLAB 5 file is not supported: save it with -v7.3")
    places = (0, *(512 << i for i in range(8)))  # HDF5 File Format Specification 3.0, II.A
    if not any(data.startswith(_HDF5, place) for place in places):
        raise InputError("damaged: no MATLAB 7.3 file (HDF5)")


def _ask(process: subprocess.Popen[bytes], request: bytes, fields: Sequence[str]) -> MatStruct:
    """Send a request and read the answer.

    Raises:
        InputError: what is wrong with the file.
        OSError, ValueError, TypeError: no such answer.
    """
    requests, answers = _pipes(process)
    requests.write(request)
    requests.flush()
    report = parse_json(answers.readline(MAX_LINE))
    if not isinstance(report, dict):
        raise ValueError("no answer")
    if "error" in report:
        raise InputError(str(report["error"]))
    arrays: dict[str, Array] = {}
    problems: dict[str, str] = {}
    for field in fields:
        found: Any = report.get(field)
        if isinstance(found, str):
            problems[field] = found
        else:
            arrays[field] = _received(answers, *found)
    return MatStruct(arrays, problems)


def _received(answers: IO[bytes], kind: str, shape: list[int]) -> Array:
    """An array as MATLAB shows it: HDF5 has its dimensions in reverse order."""
    if not _NUMBERS.fullmatch(kind):
        raise ValueError("no numbers")
    if _is_large(shape):
        raise ValueError("more than was asked for")
    dtype = np.dtype(kind)
    size = math.prod(shape) * dtype.itemsize
    data = answers.read(size)
    if len(data) != size:
        raise ValueError("cut off")
    return np.frombuffer(data, dtype).reshape(shape).T


def _is_large(shape: Sequence[int]) -> bool:
    """Whether an array is larger than one that is read, or none at all."""
    odd = len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0
    return odd or math.prod(shape) > MAX_VALUES


def child() -> None:
    """In the other process: answer one request after another until there is no more."""
    import signal

    import h5py

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent gets Ctrl-C too, and ends it
    limit_child(MEMORY, CPU_SECONDS)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for whatever else may write there
    answers.write(READY)
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["size"])
        report: dict[str, Any] = {}
        pieces: list[bytes] = []
        try:
            with h5py.File(io.BytesIO(data), "r") as file:
                group = _hard(file, request["struct"])
                if not isinstance(group, h5py.Group):
                    raise InputError(f"not supported: no struct {request['struct']}")
                for field in request["fields"]:
                    try:
                        values = _values(group, field)
                    except InputError as error:
                        report[field] = str(error)
                    else:
                        report[field] = [values.dtype.str, values.shape]
                        pieces.append(values.tobytes())
        except InputError as error:
            report, pieces = {"error": str(error)}, []
        except Exception:  # h5py has an exception for every error of HDF5, of all sorts
            report, pieces = {"error": "damaged: HDF5 cannot read it"}, []
        answers.write(json.dumps(report).encode() + b"\n" + b"".join(pieces))
        answers.flush()


def _hard(group: Any, name: str) -> Any:
    """A member of a group that is in the file itself; None where there is none.

    Raises:
        InputError: a link to elsewhere.
    """
    import h5py

    links = group.id.links
    if not links.exists(name.encode()):
        return None
    if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{name} is a link, which is not followed")
    return group[name]


def _values(group: Any, name: str) -> Array:
    """The numbers of a field, little-endian, in the order of HDF5.

    Raises:
        InputError: what is wrong with it.
    """
    import h5py

    found = _hard(group, name)
    if found is None:
        raise InputError(f"{name} is missing")
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise InputError(f"{name} is no array")
    little = found.dtype.newbyteorder("<")
    if not _NUMBERS.fullmatch(little.str):
        raise InputError(f"{name} holds no numbers")
    if _is_large(found.shape) or (found.chunks is not None and _is_large(found.chunks)):
        raise InputError(f"{name} is too large ({'x'.join(map(str, found.shape))})")
    made = found.id.get_create_plist()
    if found.is_virtual or made.get_external_count():
        raise InputError(f"{name} lies in other files, which are not read")
    known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if any(made.get_filter(i)[0] not in known for i in range(made.get_nfilters())):
        raise InputError(f"{name} is packed in a way that is not supported")
    if "MATLAB_empty" in found.attrs:  # its values are its shape
        return np.empty(0, little)
    values: Array = found[()]
    return np.asarray(values).astype(little)

"""Of several model files in a folder the one that is fastest on this machine, by the record that
`btc-edge benchmark --pick` leaves beside them.

The record is no more trusted than what it lies beside: it may name a file of its own folder only,
and that file is checked as any other is, and by the digest that it had when it was picked. Nothing
is guessed where it does not hold: the speed of another machine, interpreter or file says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.errors import BackendError, InputError, ModelError
from edge_runtime.files import is_hidden, write_text
from edge_runtime.imaging.limits import ImageLimits, read_file
from edge_runtime.json_text import parse_json
from edge_runtime.model.backends import BACKENDS, interpreter_version
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model, shown

RECORD = "picked.json"
SCHEMA = 1
SUFFIXES = (".tflite", ".onnx")
MAX_BYTES = 64 << 10
MAX_THREADS = 256


class Chosen(NamedTuple):
    """A checked model, and how it is to be run where nobody says otherwise.

    Attributes:
        backend: interpreter, one of BACKENDS or `auto`.
        threads: of the interpreter.
    """

    file: ModelFile
    backend: str = "auto"
    threads: int = 1


class Picked(NamedTuple):
    """The record: which file, run how, is fastest on which machine.

    Attributes:
        machine: see `processor.machine_digest`.
        file, sha256: name and digest of the model file.
        backend, threads: the interpreter and its threads.
        measured: what else is told to people: the figures, what they were compared with, when.
    """

    machine: str
    file: str
    sha256: str
    backend: str
    threads: int
    measured: dict[str, Any]

    def to_json(self) -> str:
        """The text of `picked.json`."""
        shape = {"schema": SCHEMA} | self._asdict()
        return json.dumps(shape, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes) -> Picked:
        """Read and check what `to_json` wrote; `measured` is not looked at.

        Raises:
            ModelError: damaged, of another schema, or a value that no record has.
        """
        try:
            shape = parse_json(data)
        except ValueError:
            raise ModelError(f"{RECORD} is damaged, no JSON") from None
        if not isinstance(shape, dict):
            raise ModelError(f"{RECORD} is damaged, no JSON object")
        schema = shape.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise ModelError(f"{RECORD} has a schema that this version does not read")
        checks: dict[str, Callable[[object], bool]] = {
            "machine": _is_digest,
            "file": _is_name,
            "sha256": _is_digest,
            "backend": lambda value: isinstance(value, str) and value in BACKENDS,
            "threads": lambda value: type(value) is int and 1 <= value <= MAX_THREADS,
        }
        wrong = [name for name, is_fine in checks.items() if not is_fine(shape.get(name))]
        if wrong:
            raise ModelError(f"{RECORD} is damaged: {', '.join(wrong)}")
        return cls(**{name: shape[name] for name in checks}, measured={})

    def write(self, folder: Path) -> Path:
        """Write it into the folder of the files, whole or not at all.

        Raises:
            ModelError: the file has a name that nobody would read back.
            OSError: the folder takes no file.
        """
        if not _is_name(self.file):
            raise ModelError(f"a record cannot name {self.file}: rename it")
        path = folder / RECORD
        write_text(path, self.to_json())
        return path


def read_chosen(
    path: str | os.PathLike[str] | None = None, *, allow_unsigned: bool = False
) -> Chosen:
    """Read the model at a path and check it, see `read_model`.

    Args:
        path: a model file, or what `model_path` takes for one; or a folder of them, which stands
            for the one that was picked there on this machine, or for its only one where none was.

    Raises:
        ModelError: as `read_model`; a folder of several files of which none was picked, or where
            the record does not hold: it is damaged, of another machine or interpreter, or the
            file has changed.
        BackendError: the interpreter that it was picked for is not installed.
    """
    if path is None or not os.path.isdir(path):  # noqa: PTH112 - no Path for every start
        return Chosen(read_model(path, allow_unsigned=allow_unsigned))
    folder = Path(path)
    if not os.path.lexists(folder / RECORD):
        return Chosen(read_model(_only_file(folder), allow_unsigned=allow_unsigned))
    try:
        picked = _record(folder)
        source = folder / picked.file
        if not source.is_file():
            raise ModelError(f"{picked.file}, which was picked, is not there")
    except ModelError as error:
        raise type(error)(f"model {shown(folder)}: {error}; {_again(folder)}") from None
    file = read_model(source, allow_unsigned=allow_unsigned)
    if file.sha256 != picked.sha256:
        raise ModelError(
            f"model {shown(folder)}: {picked.file} is not what it was when it was picked; "
            f"{_again(folder)}"
        )
    return Chosen(file, picked.backend, picked.threads)


def model_files(folder: Path) -> list[Path]:
    """The model files of a folder, by their names; hidden ones apart.

    Raises:
        ModelError: none, or the folder cannot be read.
    """
    try:
        found = sorted(
            path for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and path.is_file()
        )  # fmt: skip
    except OSError as error:
        raise ModelError(f"model {shown(folder)}: cannot be read: {error.strerror}") from None
    if not found:
        kinds = " or ".join(SUFFIXES)
        raise ModelError(f"model {shown(folder)}: no {kinds} file in this folder")
    return found


def _record(folder: Path) -> Picked:
    """The record of a folder, if it is one of this machine.

    Raises:
        ModelError: see `read_chosen`.
    """
    from edge_runtime.processor import machine_digest

    try:
        data = read_file(folder / RECORD, ImageLimits(max_bytes=MAX_BYTES))
    except InputError as error:
        raise ModelError(f"{RECORD}: {error}") from None
    picked = Picked.from_json(data)
    try:
        version = interpreter_version(picked.backend)
    except BackendError as error:
        raise BackendError(f"{RECORD}: {error}") from None
    if machine_digest(picked.backend, version) != picked.machine:
        raise ModelError(
            f"{RECORD} was made on another machine, or with another version of {picked.backend}"
        )
    return picked


def _only_file(folder: Path) -> Path:
    """The model file of a folder that has one."""
    files = model_files(folder)
    if len(files) > 1:
        raise ModelError(
            f"model {shown(folder)}: {len(files)} model files, of which none was picked; "
            f"{_again(folder)}, or name one of them"
        )
    return files[0]


def _again(folder: Path) -> str:
    """What to do; to end a message with."""
    from shlex import quote  # only for a message

    name = quote(str(folder))
    return f"pick on this machine: btc-edge benchmark --model {name} --images LABELLED --pick"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_name(value: object) -> bool:
    """Whether it is the plain name of a model file, on whichever system."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value.isprintable()
        and not set(value) & set("/\\:")
        and value.lower().endswith(SUFFIXES)
    )

"""From a path to a checked model."""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.errors import InputError, ModelError, UnsignedModelError
from edge_runtime.imaging.limits import ImageLimits, read_file
from edge_runtime.model.file_format import ModelFile, parse_model

MAX_MODEL_BYTES = 256 << 20
# The models that come with the package, by name: the faster first, which is the default.
BUNDLED = {"small": "brain-mri-int8.tflite", "large": "brain-mri-large-int8.tflite"}


def bundled_model(name: str = "small") -> Path:
    """Path of a model that comes with the package, one of BUNDLED."""
    return Path(__file__).parents[1] / "models" / BUNDLED[name]


def model_path(path: str | os.PathLike[str] | None = None) -> Path:
    """Where a model is, that was asked for by path or by name.

    Args:
        path: a path; a name out of BUNDLED, where nothing here is called so; None: the default.
    """
    if path is None:
        return bundled_model()
    if os.fspath(path) in BUNDLED and not os.path.lexists(path):
        return bundled_model(os.fspath(path))
    return Path(path)


def read_model(
    path: str | os.PathLike[str] | None = None, *, allow_unsigned: bool = False
) -> ModelFile:
    """Read a model file and check it.

    Args:
        path: see `model_path`.
        allow_unsigned: take a file without digests too, if it survives a trial in a process of
            its own, see `edge_runtime.model.untrusted`.

    Raises:
        UnsignedModelError: no digest, and `allow_unsigned` is off.
        ModelError: missing, unreadable, truncated, altered, without metadata, or unknown.
    """
    source = model_path(path)
    data = read_bytes(source)
    try:
        return parse_model(data)
    except UnsignedModelError as error:
        if not allow_unsigned:
            raise UnsignedModelError(f"model {shown(source)}: {error}") from None
    except ModelError as error:
        raise ModelError(f"model {shown(source)}: {error}") from None
    from edge_runtime.model.untrusted import try_unsigned

    try:
        return try_unsigned(data)
    except ModelError as error:
        raise ModelError(f"model {shown(source)}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file, unchecked.

    Raises:
        ModelError: missing, unreadable, no regular file, empty or larger than any model.
    """
    try:
        return read_file(path, ImageLimits(max_bytes=MAX_MODEL_BYTES))
    except InputError as error:
        raise ModelError(f"model {shown(path)}: {error}") from None


def shown(path: Path) -> str:
    """What messages call a file; `.` has no name."""
    return path.name or str(path)

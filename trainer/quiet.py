"""TensorFlow without its greeting."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

from edge_runtime.errors import UsageError
from edge_runtime.quiet import quiet_descriptor

T = TypeVar("T")


def find_tensorflow() -> None:
    """Look for TensorFlow and Keras without the seconds of importing them.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    for name in ("keras", "tensorflow"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def import_tensorflow(first: Callable[[], T] | None = None, threads: int | None = None) -> T | None:
    """Import TensorFlow and Keras while native stderr is muted: they log before any log level
    of theirs applies. Commands call this once, before the work.

    Args:
        first: what must come before TensorFlow's first computation; it is not muted.
        threads: that it computes with; None: its own choice, which is one for each core.

    Returns:
        What `first` gives.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        UsageError: it computes with another number of threads already.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_descriptor():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # advice on tracing is for whoever writes the code
        if threads is not None:
            try:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
            except RuntimeError:  # it has begun
                raise UsageError(
                    f"{threads} threads: this process computes with another number already"
                ) from None
    result = None if first is None else first()
    with quiet_descriptor():
        tf.config.list_physical_devices()
        tf.constant(0)  # the first op initialises, and logs about, the devices
    return result

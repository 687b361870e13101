"""What the preprocessing makes of slices, as digests, also in a process on another processor.

The process's own part imports nothing but numpy, OpenCV and edge_runtime, which is all that a
device has.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BtcError
from edge_runtime.imaging.preprocess import Preprocess, preprocess

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.common.inputs import child
child()
"""


def digests(slices: Sequence[npt.NDArray[np.uint8]], options: Preprocess) -> list[str]:
    """One of the input that each slice becomes."""
    return [hashlib.sha256(preprocess(gray, options).tobytes()).hexdigest() for gray in slices]


def digests_elsewhere(
    python: Sequence[str], slices: Sequence[npt.NDArray[np.uint8]], options: Sequence[Preprocess]
) -> dict[str, Any]:
    """`digests` from another Python, with what it runs on.

    Args:
        python: the words that start it, which may be an emulator's and its options.

    Returns:
        `machine`, `opencv`, and `digests`: a list for each of `options`.

    Raises:
        BtcError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "slices.npz")
        np.savez(given, **{str(i): gray for i, gray in enumerate(slices)})  # type: ignore[arg-type]
        asked = json.dumps([one.to_json() for one in options])
        words = [*python, "-c", CHILD, str(ROOT), str(given), asked]
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except OSError as error:
            raise BtcError(f"{python[0]} cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        raise BtcError(f"{python[0]} ended with code {done.returncode}: {done.stderr[-300:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def child() -> None:
    """In the other process: `sys.argv` names the file with the slices and the options."""
    import cv2

    with np.load(sys.argv[2]) as file:
        slices = [file[str(i)] for i in range(len(file.files))]
    options = [Preprocess.from_json(one) for one in json.loads(sys.argv[3])]
    told = {"machine": platform.machine(), "opencv": cv2.__version__}
    print(json.dumps(told | {"digests": [digests(slices, one) for one in options]}))

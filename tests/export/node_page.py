"""The page's modules in Node.js, a process that answers call by call."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import InputError, ModelError
from tests.documents import ROOT

NODE = shutil.which("node")
RUNNER = Path(__file__).with_name("page_in_node.mjs")
FOLDERS = ("edge_runtime/services/page", "export/web/page")  # the latter has an app.js, too
ERRORS = {"InputError": InputError, "ModelError": ModelError}


class NodePage:
    """Calls functions of the page."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, name: str, **given: Any) -> Any:
        """The value that a call gives; its InputError or ModelError is raised as Python's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": name, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ERRORS.get(answer["kind"], AssertionError)(answer["error"])
        return answer["value"]

    def decode(self, data: bytes) -> np.ndarray:
        """As `edge_runtime.imaging.decode.decode`."""
        slice_ = self.call("decode", data=text(data))
        return array(slice_["pixels"]).reshape(slice_["height"], slice_["width"])


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def array(data: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data), np.uint8)


@contextmanager
def node_page(folder: Path, wasm: Path | None) -> Iterator[NodePage]:
    """The page's modules, copied to a folder where Node.js takes them for what they are.

    Args:
        wasm: of libjpeg-turbo, packed; without it no JPEG is decoded.
    """
    assert NODE is not None
    for place in FOLDERS:
        for path in (ROOT / place).glob("*.js"):
            shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    command = [NODE, str(RUNNER), str(folder), *([str(wasm)] if wasm else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield NodePage(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)

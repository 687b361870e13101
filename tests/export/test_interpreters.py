"""The same file says the same on every interpreter that reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import BACKENDS, open_graph
from edge_runtime.model.load import bundled_model, read_model
from trainer.synthetic.phantoms import CLASSES, draw_phantom

TFLITE = ("litert", "tensorflow")
TOOL = Path(sys.executable).parent / "btc-edge"


def logits_of(path: Path, backend: str, threads: int = 1) -> tuple[np.ndarray, float]:
    """Logits of twenty drawn slices, and the step of their quantisation (0 for floats)."""
    file = read_model(path)
    graph = open_graph(file, backend, threads)
    assert graph.backend == backend
    assert graph.backend_version
    pictures = [draw_phantom(CLASSES[i % 4], np.random.default_rng([5, i])) for i in range(20)]
    rows = [graph.run(preprocess(p, file.info.preprocess)) for p in pictures]
    outputs = getattr(graph, "_outputs")  # noqa: B009 - no part of the protocol
    entry = outputs["logits"]
    return np.array(rows), float(entry["quantization"][0]) if isinstance(entry, dict) else 0.0


def test_every_interpreter_is_tried() -> None:
    """tflite-runtime has a test of its own, since it cannot live beside numpy 2."""
    assert set(BACKENDS) == {*TFLITE, "onnxruntime", "tflite-runtime"}


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_tflite_interpreters_agree(files: dict[str, Path], name: str) -> None:
    (one, step), (two, _) = (logits_of(files[name], backend) for backend in TFLITE)
    assert np.abs(one - two).max() <= max(1.01 * step, 1e-3)
    assert (one.argmax(axis=1) == two.argmax(axis=1)).mean() >= (0.9 if step else 1)
    several, _ = logits_of(files[name], "litert", threads=2)
    assert np.abs(one - several).max() <= max(1.01 * step, 1e-3)


def test_onnx_runtime_says_what_litert_says(files: dict[str, Path]) -> None:
    one, _ = logits_of(files["float32"], "litert")
    two, _ = logits_of(files["onnx"], "onnxruntime")
    np.testing.assert_allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("backend", TFLITE)
def test_interpreters_are_silent(backend: str, tmp_path: Path) -> None:
    """What native code writes to descriptor 2 would mix with the lines meant for people."""
    import cv2

    picture = tmp_path / "slice.png"
    cv2.imwrite(str(picture), draw_phantom("glioma", np.random.default_rng(0)))
    done = subprocess.run(
        [TOOL, "classify", picture, "--format", "json", "--backend", backend,
         "--model", bundled_model()],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

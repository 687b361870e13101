"""The oldest runtimes that are promised a format load it, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS, formats_of
from tests.device.test_environments import (
    ROOT,
    find_python,
    install,
    outside,
    pip,
    wheel,  # noqa: F401
)
from tests.export.onnx.test_classical import make_run
from trainer.models.kinds import KINDS
from trainer.run import Run
from trainer.synthetic.phantoms import CLASSES, draw_phantom

TOOL = Path(sys.executable).parent / "btc-edge"
BACKENDS = ("tflite-runtime", "onnxruntime")


def answers(tool: Path, pictures: Path, model: Path, *words: str) -> list[dict]:
    words = ("classify", "-r", pictures, "--format", "json", "--model", model, *words)
    done = subprocess.run(
        [tool, *words], capture_output=True, text=True, env=outside(), cwd=pictures
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()  # the interpreters' noise is not among them
    assert len(lines) <= 1, done.stderr
    assert all("may not hold in tflite-runtime" in line for line in lines), done.stderr
    found: list[dict] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_oldest_runtimes_load_what_is_promised_to_them(
    files: dict[str, Path], tiny_run: Run, wheel: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    python = find_python("3.11")
    if python is None:
        pytest.skip("no Python 3.11 on this machine")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        picture = draw_phantom(CLASSES[i % 4], np.random.default_rng([6, i]))
        cv2.imwrite(str(pictures / f"{i:02d}.png"), picture)
    minimal = ROOT / "requirements-device-minimal.txt"
    inside = install(python, tmp_path / "env", "-r", minimal, "onnxruntime==1.17.0")
    pip(inside, "--no-deps", wheel)
    tried = []
    for name, form in FORMATS.items():
        for backend in set(form.runtimes) & set(BACKENDS):
            old = answers(inside / "btc-edge", pictures, files[name], "--backend", backend)
            new = answers(TOOL, pictures, files[name])
            for one, two in zip(old, new, strict=True):
                assert one["confidence"] == pytest.approx(two["confidence"], abs=0.1), name
            assert (
                sum(a["raw_label"] == b["raw_label"] for a, b in zip(old, new, strict=True)) >= 11
            )
            tried.append((name, backend))
    assert {name for name, _ in tried} >= {"float32", "float16", "int8", "onnx", "onnx-int8"}
    for kind in KINDS:
        trained = make_run(tmp_path / kind, tiny_run, kind)
        form = formats_of(kind)["onnx"]
        path = Exporter(trained, ExportSettings(tmp_path / kind, kind)).export(form).path
        old = answers(inside / "btc-edge", pictures, path)
        new = answers(TOOL, pictures, path)
        assert [a["raw_label"] for a in old] == [a["raw_label"] for a in new], kind
    refused = subprocess.run(
        [inside / "btc-edge", "classify", pictures / "00.png", "--model", files["int16x8"]],
        capture_output=True, text=True, env=outside(), cwd=tmp_path,
    )  # fmt: skip
    # What is not promised may load or not; either way it ends in one line or in an answer.
    assert refused.returncode in (0, 3)
    assert "Traceback" not in refused.stderr

"""A TensorFlow without tf.lite still writes ONNX, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.errors import UsageError
from export.exporter import Exporter, ExportSettings
from export.formats import AI_EDGE, FORMATS
from trainer.run import Run


@pytest.fixture
def without_lite(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf, "lite", SimpleNamespace(), raising=False)
    monkeypatch.setattr(tf, "__version__", "2.99.0")


@pytest.mark.usefixtures("without_lite")
def test_it_says_what_to_install(tiny_run: Run, tmp_path: Path) -> None:
    exporter = Exporter(tiny_run, ExportSettings(tmp_path, "tiny", quantizer=AI_EDGE))
    for name in ("float32", "int8"):
        with pytest.raises(UsageError, match=r"^TensorFlow 2\.99\.0 has no tf\.lite, .* 'tensorf"):
            exporter.export(FORMATS[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_lite")
def test_onnx_is_written_and_proved(tiny_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
    done = Exporter(tiny_run, ExportSettings(tmp_path, "tiny")).export(FORMATS["onnx"])
    assert done.gate.passed
    assert done.gate.latency is None
    assert done.size_ratio is None

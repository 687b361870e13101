"""`btc-edge verify`: a device checks what it got, without TensorFlow and the package onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model import untrusted
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.signature import check_signature
from edge_runtime.verify import verify_file
from export.signing import sign_file
from tests.device.conftest import write_keys
from tests.device.test_cli import edge

FINDINGS = ["file", "graph", "metadata", "labels", "runs", "signature"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    """A copy of the bundled model with our signature beside it."""
    path = tmp_path / "model.tflite"
    path.write_bytes(bundled_model().read_bytes())
    sign_file(path, keys / "our.pem")
    return path


def test_the_bundled_model_is_in_order() -> None:
    file = read_model()
    done = edge("verify", bundled_model())
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == FINDINGS
    assert file.sha256 in done.stdout
    shape = json.loads(edge("verify", bundled_model(), "--format", "json").stdout)
    assert shape["input"] == str(bundled_model())
    assert list(shape["findings"]) == FINDINGS
    assert shape["findings"]["runs"].endswith("4 logits")
    assert shape["findings"]["signature"] == "none"


def test_what_is_not_in_order(tmp_path: Path) -> None:
    data = bundled_model().read_bytes()
    flipped = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    file = read_model()
    foreign = dict(file.info.ood or {}) | {"features": 3}
    for name, content, words in (
        ("altered.tflite", flipped, "altered"),
        ("half.tflite", data[: len(data) // 2], "has no digest"),
        ("text.onnx", b"hello", "has no digest"),
        ("labels.tflite", repacked(labels=("a", "b"), thresholds=None, target_error=None,
                                   error_bound=None), "outputs are not what"),
        ("check.tflite", repacked(ood=foreign), "out-of-distribution inputs is damaged"),
    ):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match=words) as caught:
            verify_file(path)
        assert name in str(caught.value)
    for name in ("altered.tflite", "missing.tflite"):
        done = edge("verify", tmp_path / name, "--format", "json")
        assert (done.returncode, done.stdout) == (3, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"btc-edge: model {name}: ")


def repacked(**changes: object) -> bytes:
    """The bundled graph with right digests and other metadata."""
    file = read_model()
    return pack_model(file.graph, replace(file.info, **changes), "tflite")


def test_a_signature_through_the_command(signed: Path, keys: Path, tmp_path: Path) -> None:
    assert "not checked: --public-key PEM" in edge("verify", signed).stdout
    moved = tmp_path / "moved.tflite"
    signed.rename(moved)
    signature = f"{signed}.sig"
    done = edge("verify", moved, "--public-key", keys / "our.pub.pem", "--signature", signature)
    assert done.returncode == 0, done.stderr
    assert "valid, by our.pub.pem" in done.stdout
    other = keys / "other.pub.pem"
    for words, code, message in (
        ((moved, "--public-key", other, "--signature", signature), 3, "another key"),
        ((moved, "--public-key", keys / "our.pub.pem"), 3, "has no signature"),
        ((moved, "--signature", signature), 2, "--public-key"),
        ((moved, "--public-key", tmp_path / "no.pem"), 2, "no.pem"),
    ):
        done = edge("verify", *words)
        assert (done.returncode, done.stdout) == (code, ""), words
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr


def test_nothing_runs_before_the_signature(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.verify.try_apart", lambda data: pytest.fail("was run"))
    with pytest.raises(ModelError, match="another key"):
        verify_file(signed, None, keys / "other.pub.pem")


def test_a_graph_that_kills_its_interpreter_kills_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "_CHILD", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ModelError, match=r"tflite: a trial in another process ended with code -11"):
        verify_file(bundled_model())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"pip install 'btc-edge\[signing\]'"):
        check_signature(bundled_model(), tmp_path, tmp_path)
    assert dict(verify_file(bundled_model()))["signature"] == "none", "not needed without one"


def test_neither_tensorflow_nor_onnx_is_needed() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'keras', 'onnx', 'export'))\n"
        "from pathlib import Path; from edge_runtime.verify import verify_file\n"
        "print(dict(verify_file(Path(sys.argv[1])))['runs'])"
    )
    line = [sys.executable, "-c", code, bundled_model()]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.stdout.endswith("4 logits\n"), done.stderr

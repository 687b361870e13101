"""`btc-edge verify`: a device checks what it got, without TensorFlow and the package onnx."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.child import python_command
from edge_runtime.commands.info import info
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model import signature as signature_module
from edge_runtime.model import untrusted
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.signature import check_signature
from edge_runtime.verify import _trial, verify_file
from export.signing import sign_file
from tests.device.conftest import write_keys
from tests.device.test_cli import TOOL, edge

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
    assert (shape["signed"], shape["sha256"]) == (False, file.sha256)


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
                                   error_bound=None, rules=None), "outputs are not what"),
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
    monkeypatch.setattr("edge_runtime.verify.try_apart", lambda *_: pytest.fail("was run"))
    with pytest.raises(ModelError, match="another key"):
        verify_file(signed, None, keys / "other.pub.pem")


def test_a_graph_that_kills_its_interpreter_kills_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.verify._CHILD", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ModelError, match=r"tflite: a trial in another process ended with code -11"):
        verify_file(bundled_model())


def test_a_child_that_prints_nonsense_is_a_hostile_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.verify._CHILD", "print('[' * 100_000)")
    with pytest.raises(ModelError, match="damaged or hostile"):
        verify_file(bundled_model())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"pip install 'btc-edge\[signing\]'"):
        check_signature(b"", tmp_path, tmp_path)
    assert dict(verify_file(bundled_model()).findings)["signature"] == "none", (
        "not needed without one"
    )


def test_neither_tensorflow_nor_onnx_is_needed() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'keras', 'onnx', 'export'))\n"
        "from pathlib import Path; from edge_runtime.verify import verify_file\n"
        "print(dict(verify_file(Path(sys.argv[1])).findings)['runs'])"
    )
    line = [sys.executable, "-c", code, bundled_model()]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.stdout.endswith("4 logits\n"), done.stderr


BENCHMARK = ["benchmark", "--seconds", "0", "--queries", "10", "--model"]


@pytest.mark.parametrize(
    "words", [["verify"], ["info", "--allow-unsigned", "--model"], BENCHMARK], ids=lambda w: w[0]
)
def test_files_beside_a_model_are_not_run(words: list[str], tmp_path: Path) -> None:
    """`python -c` would find them before Python's own modules."""
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n"
    here = tmp_path / "here"
    (here / "edge_runtime").mkdir(parents=True)
    for name in ("numpy", "ctypes", "json", "subprocess", "edge_runtime/__init__"):
        (here / f"{name}.py").write_text(trap)
    data = bundled_model().read_bytes()
    (here / "model.tflite").write_bytes(read_model().graph if words[0] == "info" else data)
    done = subprocess.run([TOOL, *words, "model.tflite"], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "sprung").exists()


def test_this_process_opens_no_graph(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("verify", "classifier", "model.untrusted", "model.backends"):
        monkeypatch.setattr(f"edge_runtime.{place}.open_graph", lambda *_: pytest.fail("opened"))
    found = verify_file(signed)
    assert found.signed is None
    assert dict(found.findings)["runs"].endswith("4 logits")


def test_a_graph_that_hangs_is_given_up(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.verify._CHILD", "while True: pass")
    monkeypatch.setattr(untrusted, "SECONDS", 1)
    with pytest.raises(ModelError, match="took over 1 s"):
        verify_file(signed)


def test_the_trial_asks_all_that_a_device_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Recorded:
        backend, backend_version = "litert", ""

        def run(self, pixels: np.ndarray) -> np.ndarray:
            asked.append(pixels)
            return np.zeros(4, np.float32)

    graph = Recorded()
    monkeypatch.setattr("edge_runtime.verify.open_graph", lambda _file: graph)
    assert _trial(bundled_model().read_bytes()) == {"runs": "in litert: 4 logits"}
    assert {int(pixels.max()) for pixels in asked if np.ptp(pixels) == 0} == {0, 128}
    assert any(np.ptp(pixels) > 200 for pixels in asked)


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells a child of its parent's end")
def test_the_trial_ends_with_the_process_that_wants_it() -> None:
    """However that ends."""
    child = (
        "from edge_runtime.model.untrusted import answer_trial\n"
        "def spin(data):\n"
        "    print('ready', flush=True)\n"
        "    while True: pass\n"
        "answer_trial(spin)"
    )
    parent = (
        "import os, subprocess, sys\n"
        "from edge_runtime.child import python_command\n"
        "line = python_command(sys.argv[1])\n"
        "child = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", parent, child], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    status = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(1000):
        try:
            state = status.read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            break
        if state in "ZX":
            break
        os.sched_yield()
    else:
        os.kill(int(done.stdout), 9)
        pytest.fail("it goes on alone")


def test_the_trial_has_a_limit_of_computing() -> None:
    code = (
        "import resource\n"
        "from edge_runtime.child import limit_child\n"
        "limit_child(1 << 40, 77)\n"
        "print(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS))"
    )
    done = subprocess.run(python_command(code), capture_output=True, text=True)
    assert done.stdout == f"(77, 77) ({1 << 40}, {1 << 40})\n", done.stderr


def test_what_is_signed_is_what_is_tried(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is put in another's place while the signature is checked is not run."""
    honest = signed.read_bytes()
    other = repacked(name="other")
    checked = signature_module.check_signature

    def swap(data: bytes, *rest: Path) -> str:
        signed.write_bytes(other)
        return checked(data, *rest)

    monkeypatch.setattr("edge_runtime.verify.check_signature", swap)
    tried: list[bytes] = []

    def keep(data: bytes, code: str) -> dict[str, str]:
        tried.append(data)
        return {"runs": "so"}

    monkeypatch.setattr("edge_runtime.verify.try_apart", keep)
    found = verify_file(signed, None, keys / "our.pub.pem")
    assert tried == [honest]
    assert found.signed is True
    assert found.sha256 == hashlib.sha256(honest).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_keys_and_signatures_that_are_no_files(signed: Path, keys: Path, tmp_path: Path) -> None:
    our, fifo, endless = keys / "our.pub.pem", tmp_path / "fifo", tmp_path / "endless"
    os.mkfifo(fifo)
    endless.symlink_to("/dev/zero")
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 21))
    for words, code, told in (
        (("--public-key", fifo), 2, "--public-key fifo: not a regular file"),
        (("--public-key", endless), 2, "--public-key endless: not a regular file"),
        (("--public-key", large), 2, "--public-key large: larger than"),
        (("--public-key", our, "--signature", fifo), 3, "signature fifo: not a regular file"),
        (("--public-key", our, "--signature", endless), 3, "signature endless: not a regular"),
        (("--public-key", our, "--signature", large), 3, "signature large: larger than"),
    ):
        done = edge("verify", signed, *words)
        assert (done.returncode, done.stdout) == (code, ""), words
        (line,) = done.stderr.splitlines()
        assert told in line


def test_a_missing_interpreter_is_a_missing_package(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "gone = ('ai_edge_litert', 'tflite_runtime', 'tensorflow')\n"
        "util.find_spec = lambda name, *more: None if name in gone else find(name, *more)\n"
        "from edge_runtime.verify import child; child()"
    )
    monkeypatch.setattr("edge_runtime.verify._CHILD", code)
    with pytest.raises(UsageError, match=r"no interpreter .*pip install ai-edge-litert"):
        verify_file(signed)


def test_what_has_no_name_is_named(tmp_path: Path) -> None:
    for word in (".", ""):
        done = edge("verify", word)
        assert done.returncode == 3
        assert done.stderr.startswith("btc-edge: model .: ")


def test_verify_is_not_the_next_command_of_a_model_that_it_refuses(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw.tflite"
    raw.write_bytes(read_model().graph)
    told: list[list[object]] = []
    monkeypatch.setattr("edge_runtime.commands.info.next_command", told.append)
    for words in (["--model", raw, "--allow-unsigned"], ["--model", signed]):
        done = CliRunner().invoke(info, list(map(str, words)))
        assert done.exit_code == 0, done.output
    assert told == [["btc-edge", "verify", signed]]

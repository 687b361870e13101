"""A file is the same wherever it is made, is found out when it is altered or mislabelled, and is
by whom it says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime.errors import ExitCode, ModelError, UsageError
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.signature import check_signature, signature_path
from edge_runtime.verify import verify_file as verify_on_device
from export.commands.export import command
from export.formats import FORMATS
from export.signing import sign_file
from export.verify import verify_file
from tests.device.conftest import write_keys
from trainer.run import Run

EXPORT = """
import sys
from pathlib import Path
from export.formats import FORMATS
from export.exporter import Exporter, ExportSettings
from trainer.run import Run
exporter = Exporter(Run.open(Path(sys.argv[1])), ExportSettings(Path(sys.argv[2]), "tiny"))
for form in FORMATS.values():
    exporter.export(form)
"""


@pytest.mark.slow
def test_processes_give_the_same_bytes(
    files: dict[str, Path], tiny_run: Run, tmp_path: Path
) -> None:
    """Each with another order of sets, another folder and another time."""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, tiny_run.folder, tmp_path / seed],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for name, path in files.items():
            assert (tmp_path / seed / path.name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_good_file_is_verified(files: dict[str, Path], name: str) -> None:
    found = dict(verify_file(files[name]).findings)
    file = read_model(files[name])
    assert found.keys() == {
        "file", "graph", "metadata", "labels", "scheme", "ops", "runs", "signature"
    }  # fmt: skip
    assert file.sha256 in found["file"]
    assert file.info.graph_sha256 in found["graph"]
    assert found["scheme"].startswith(FORMATS[name].scheme)
    assert found["runs"].endswith("4 logits")
    assert found["signature"] == "none"
    device = verify_on_device(files[name]).findings
    assert dict(device).items() <= found.items(), "the device says the same, of what it looks at"
    assert found.keys() - dict(device).keys() == {"scheme", "ops"}
    if FORMATS[name].kind == "onnx":
        assert "opset 17, IR version 8, passes onnx.checker in full" in found["scheme"]
    if name == "int8":
        assert "uint8 in, int8 out" in found["scheme"]
        assert "float" not in found["scheme"]


def test_the_bundled_model_is_verified_without_tensorflow(files: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'keras', 'tf2onnx'))\n"
        "from pathlib import Path; from export.verify import verify_file\n"
        "for path in sys.argv[1:]: print(dict(verify_file(Path(path)).findings)['runs'])"
    )
    line = [sys.executable, "-c", code, bundled_model(), files["onnx"], files["float16"]]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def wrong(path: Path, *more: Path) -> str:
    """What `verify_file` says against a file, in one line with its name."""
    with pytest.raises(ModelError) as caught:
        verify_file(path, *more)
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.MODEL
    assert "\n" not in text
    assert path.name in text
    return text


@pytest.mark.parametrize("name", ["int8", "onnx"])
def test_altered_and_truncated_files(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    length = len(data)
    graph = len(read_model(files[name]).graph)
    # In the graph, at its end, in the metadata, in the digest.
    for at in (length // 7, graph - 1, graph + 40, (graph + length) // 2, length - 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        wrong(path)
    for keep in (0, 7, length // 2, graph, length - 1):
        path.write_bytes(data[:keep])
        wrong(path)
    path.write_bytes(data + b"\0")
    wrong(path)
    assert "missing" in wrong(tmp_path / "missing.tflite")


def packed(path: Path, graph: bytes, like: Path, scheme: str, dtype: str) -> Path:
    """A file with right digests, `graph`, and metadata that claim a scheme."""
    file = read_model(like)
    info = replace(
        file.info,
        quantization=dict(file.info.quantization) | {"scheme": scheme},
        input=dict(file.info.input) | {"dtype": dtype},
    )
    path.write_bytes(pack_model(graph, info, file.format))
    return path


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_graph_under_another_schemes_name(
    files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    graph = read_model(files[name]).graph
    claims = {(f.scheme, f.dtype) for f in FORMATS.values() if f.kind == FORMATS[name].kind}
    for scheme, dtype in claims - {(FORMATS[name].scheme, FORMATS[name].dtype)}:
        path = packed(tmp_path / "model.bin", graph, files[name], scheme, dtype)
        text = wrong(path)
        assert f"its metadata say {scheme}" in text
        assert "mislabelled" in text


def test_unknown_schemes_and_wrong_inputs(files: dict[str, Path], tmp_path: Path) -> None:
    graph, like = read_model(files["int8"]).graph, files["int8"]
    path = tmp_path / "model.tflite"
    assert "'int4'" in wrong(packed(path, graph, like, "int4", "uint8"))
    assert "takes uint8" in wrong(packed(path, graph, like, "int8-full", "float32"))
    assert "'qdq-int8'" in wrong(packed(path, graph, like, "qdq-int8", "float32"))


def test_file_names_tell_the_truth(files: dict[str, Path], tmp_path: Path) -> None:
    for name, file_name, right in (
        ("int8", "tiny-float16.tflite", False),
        ("float16", "tiny-int8.tflite", False),
        ("int8", "tiny-int8.onnx", False),
        ("onnx", "tiny.tflite", False),
        ("onnx", "tiny-onnx-int8.onnx", False),
        ("onnx-int8", "tiny-onnx.onnx", False),
        ("onnx-int8", "my-onnx-int8.onnx", True),
        ("int8", "model.tflite", True),
        ("int8", "dynamic-int8.tflite", True),
        ("float32", "download", True),
    ):
        path = tmp_path / file_name
        path.write_bytes(files[name].read_bytes())
        if right:
            verify_file(path)
        else:
            assert "it is called" in wrong(path)


def test_graphs_that_do_not_run_or_cannot_be_read(files: dict[str, Path], tmp_path: Path) -> None:
    path, file = tmp_path / "model.tflite", read_model(files["int8"])
    cut = file.graph[:8] + b"\xff" * 64
    assert "cannot be read" in wrong(packed(path, cut, files["int8"], "int8-full", "uint8"))
    untold = dict.fromkeys(("thresholds", "target_error", "error_bound", "ood", "rules"))
    two = replace(file.info, labels=("a", "b"), **untold)
    path.write_bytes(pack_model(file.graph, two, "tflite"))
    assert "outputs are not what its metadata says" in wrong(path)


def test_onnx_of_other_versions(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    graph, path = read_model(files["onnx"]).graph, tmp_path / "model.onnx"
    for change, words in (
        (lambda proto: setattr(proto, "ir_version", 10), "IR version 10"),
        (lambda proto: setattr(proto.opset_import[0], "version", 18), "opset 17 or older"),
        (lambda proto: setattr(proto.graph.node[0], "op_type", "Nonsense"), "checker refuses"),
    ):
        proto = onnx.load_from_string(graph)
        change(proto)
        packed(path, proto.SerializeToString(), files["onnx"], "float32", "float32")
        assert words in wrong(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(files: dict[str, Path], keys: Path, tmp_path: Path) -> Path:
    """A copy of the int8 file with our signature beside it."""
    path = tmp_path / files["int8"].name
    path.write_bytes(files["int8"].read_bytes())
    assert sign_file(path, keys / "our.pem") == signature_path(path) == Path(f"{path}.sig")
    return path


def test_a_signature_round_trip(signed: Path, keys: Path, tmp_path: Path) -> None:
    our = keys / "our.pub.pem"
    before = signed.read_bytes()
    assert dict(verify_file(signed, public_key=our).findings)["signature"].startswith(
        "valid, by our.pub.pem"
    )
    assert "not checked" in dict(verify_file(signed).findings)["signature"]
    # Neither the name nor the folder matters, nor a link; the signature may lie elsewhere.
    moved = tmp_path / "moved.tflite"
    moved.write_bytes(before)
    (tmp_path / "link.tflite").symlink_to(moved)
    for path in (moved, tmp_path / "link.tflite"):
        verify_file(path, signature_path(signed), our)
        assert "no signature" in wrong(path, None, our)
    assert signed.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {
        signed.name, f"{signed.name}.sig", "moved.tflite", "link.tflite"
    }  # fmt: skip


def test_the_packages_own_command_agrees(signed: Path, keys: Path) -> None:
    tool = Path(sys.executable).parent / "model_signing"
    line = [tool, "verify", "key", signed, "--signature", f"{signed}.sig", "--public_key"]
    for name, code in (("our", 0), ("other", 1)):
        done = subprocess.run([*line, keys / f"{name}.pub.pem"], capture_output=True, timeout=300)
        assert min(done.returncode, 1) == code, done.stderr


def test_wrong_keys_and_wrong_files(
    signed: Path, files: dict[str, Path], keys: Path, tmp_path: Path
) -> None:
    our, signature = keys / "our.pub.pem", signature_path(signed)
    assert "another key" in wrong(signed, None, keys / "other.pub.pem")
    # A whole, honest file of ours, but not the one that was signed.
    other = tmp_path / "other.tflite"
    other.write_bytes(files["float32"].read_bytes())
    assert "not the one that was signed" in wrong(other, signature, our)
    data = bytearray(signed.read_bytes())
    data[1000] ^= 1
    other.write_bytes(data)
    with pytest.raises(ModelError, match="not the one that was signed"):
        check_signature(bytes(data), signature, our)
    text = signature.read_text()
    at = text.index('"payload":"') + 400
    forged = {
        "altered": text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :],
        "empty": "", "no-json": "hello", "no-bundle": "{}", "list": "[]", "huge": " " * (2 << 20),
    }  # fmt: skip
    for name, content in forged.items():
        (tmp_path / name).write_text(content)
        wrong(signed, tmp_path / name, our)


def test_keys_and_files_that_cannot_be_used(signed: Path, keys: Path, tmp_path: Path) -> None:
    before = signature_path(signed).read_bytes()
    for name in ("our-locked", "rsa", "bitcoin", "our.pub", "nowhere"):
        with pytest.raises(UsageError) as caught:
            sign_file(signed, keys / f"{name}.pem")
        assert f"{name}.pem" in str(caught.value)
    assert signature_path(signed).read_bytes() == before, "an old signature stays"
    for key, signature in (("rsa.pub", None), ("our", None), ("our.pub", tmp_path / "none.sig")):
        with pytest.raises(UsageError):
            verify_file(signed, signature, keys / f"{key}.pem")
    with pytest.raises(UsageError, match="--public-key"):
        verify_file(signed, signature_path(signed))


def test_a_missing_package_is_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"pip install 'btc-edge\[signing\]'"):
        sign_file(files["int8"], tmp_path)
    assert dict(verify_file(files["int8"]).findings)["signature"] == "none", (
        "not needed without one"
    )


def exported(run: Run, out: Path, *words: object) -> Result:
    line = [run.folder, "--float32", "--out", out, *words]
    return CliRunner().invoke(command, list(map(str, line)))


def test_a_signature_is_of_the_file_beside_it(tiny_run: Run, keys: Path, tmp_path: Path) -> None:
    assert exported(tiny_run, tmp_path, "--sign", keys / "our.pem").exit_code == 0
    (path,) = tmp_path.glob("*.tflite")
    signature, of_others = signature_path(path), tmp_path / "others.sig"
    of_others.write_text("")
    content = signature.read_bytes()
    # The same bytes again: it still is of them.
    assert ".tflite.sig" not in exported(tiny_run, tmp_path).stderr
    assert signature.read_bytes() == content
    again = exported(tiny_run, tmp_path, "--model-version", "9")
    assert f"{signature.name} was of the former file and is removed" in again.stderr
    assert not signature.exists()
    assert of_others.exists()


def test_a_wrong_key_is_told_before_anything_is_made(
    tiny_run: Run, keys: Path, tmp_path: Path
) -> None:
    result = exported(tiny_run, tmp_path / "out", "--sign", keys / "rsa.pem")
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "out").exists()

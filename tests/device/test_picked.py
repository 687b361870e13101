"""A folder as a model: the pick of `btc-edge benchmark --pick`, its record, and who takes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime import Classifier, classifier, processor
from edge_runtime.commands.classify import classify
from edge_runtime.errors import BackendError, ModelError, one_line
from edge_runtime.model import backends
from edge_runtime.model.load import BUNDLED, bundled_model, read_model
from edge_runtime.model.picked import RECORD, Picked, read_chosen
from edge_runtime.processor import features_in_words, machine_digest, this_processor
from tests.device.conftest import pack
from tests.device.test_cli import edge

QUICK = ("--seconds", 0, "--queries", 10)
FORMER = Path(__file__).parents[1] / "former" / "files"
AGAIN = "pick on this machine: btc-edge benchmark --model "


def small(folder: Path) -> Path:
    """A folder with one graph as an int8 and as a float32 file."""
    folder.mkdir(exist_ok=True)
    pack(folder / "small.tflite", name="small")
    pack(folder / "float.tflite", name="float", quantization={"scheme": "float32"})
    return folder


def record(folder: Path, name: str = "small.tflite", **changes: Any) -> Picked:
    """The record of a pick in a folder, made here; written too."""
    machine = machine_digest("litert", backends.interpreter_version("litert"))
    digest = read_model(folder / name).sha256
    made = Picked(machine, name, digest, "litert", 1, {})._replace(**changes)
    made.write(folder)
    return made


@pytest.mark.parametrize("name", list(BUNDLED))
def test_the_bundled_models_have_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is taken for a model where nothing here is called so."""
    monkeypatch.chdir(tmp_path)
    bundled = read_model(bundled_model(name))
    assert read_chosen(name).file == bundled
    assert Classifier(name).model.tag == bundled.tag
    pack(tmp_path / name, name="own")
    assert read_chosen(name).file.info.name == "own"


def test_the_default_is_the_first_of_the_bundled_models() -> None:
    assert read_chosen().file == read_model(bundled_model(next(iter(BUNDLED))))


def test_the_benchmark_takes_names() -> None:
    done = edge("benchmark", *QUICK, "--model", "small", "--model", "large", "--format", "json")
    assert done.returncode == 0, done.stderr
    files = [row["file"] for row in json.loads(done.stdout)["models"]]
    assert files == [bundled_model(name).name for name in BUNDLED]


@pytest.fixture(scope="module")
def picked(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with the record that the command left there, and what the command said."""
    folder = small(tmp_path_factory.mktemp("picked") / "export")
    shutil.copy(FORMER / "network.onnx", folder)
    shutil.copy(FORMER / "export.json", folder)
    done = edge("benchmark", *QUICK, "--model", folder, "--images", labelled, "--pick",
                "--threads", "1,2", "--backend", "litert", "--format", "json")  # fmt: skip
    return folder, done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small(tmp_path / "export")


@pytest.fixture
def slice_path(slices: Path) -> Path:
    return slices / "notumor" / "00.jpg"


# The command that picks


def test_the_pick_of_a_folder_is_kept(picked: tuple[Path, Any]) -> None:
    folder, done = picked
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    best, kept = result["pick"], json.loads((folder / RECORD).read_text("utf-8"))
    rows = {(row["file"], row["threads"]): row for row in result["models"]}
    assert set(rows) == {(f, n) for f in ("small.tflite", "float.tflite") for n in (1, 2)}
    row = rows[best["file"], best["threads"]]
    assert kept["schema"] == 1
    assert (kept["file"], kept["threads"]) == (best["file"], best["threads"])
    assert (kept["sha256"], kept["backend"]) == (row["sha256"], "litert")
    assert kept["machine"] == machine_digest("litert", row["backend_version"])
    measured = kept["measured"]
    assert measured["p50_ms"] == best["p50_ms"]
    assert (measured["accuracy"], measured["images"]) == (0.75, 16)
    assert measured["reference"]["file"] == "float.tflite"
    assert done.stderr == (
        f"btc-edge: {folder / RECORD}: {best['file']}, for btc-edge classify --model {folder}\n"
    )


def test_a_file_without_its_interpreter_is_left_out_and_named(picked: tuple[Path, Any]) -> None:
    warnings = json.loads(picked[1].stdout)["warnings"]
    assert "left out: model network.onnx: litert does not read .onnx files" in warnings[0]


def test_a_folder_that_takes_no_record(folder: Path, labelled: Path) -> None:
    (folder / RECORD).mkdir()
    words = ("benchmark", *QUICK, "--model", folder, "--images", labelled, "--pick")
    done = edge(*words, "--fail-if", "p50_ms<0")
    assert done.returncode == 1
    assert "pick: " in done.stdout
    assert done.stderr == f"btc-edge: the pick was not kept: {folder}: Is a directory\n"


@pytest.mark.parametrize("name", ["a:b.tflite", "a\x1b[2J.tflite", "a\udcff.tflite"])
def test_a_name_that_a_record_cannot_hold(name: str, folder: Path) -> None:
    made = record(folder)
    with pytest.raises(ModelError, match="rename it"):
        made._replace(file=name).write(folder)
    assert read_chosen(folder).file.info.name == "small", "the former record stays"


def test_files_that_are_named_leave_no_record(folder: Path, labelled: Path) -> None:
    files = [word for name in ("small", "float") for word in ("--model", folder / f"{name}.tflite")]
    done = edge("benchmark", *QUICK, *files, "--images", labelled, "--pick")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / RECORD).exists()


@pytest.mark.parametrize(
    ("change", "words", "code", "message"),
    [
        (lambda f: (f / "bad.tflite").write_bytes(b"bad"), (), 3, "model bad.tflite: "),
        (lambda f: None, ("--model", "other.tflite"), 2, "name it alone"),
        (lambda f: [path.unlink() for path in f.iterdir()], (), 3, "no .tflite or .onnx file"),
        (lambda f: None, ("--backend", "onnxruntime"), 3, "no model file runs here: left out: "),
    ],
)
def test_a_folder_that_cannot_be_measured(
    folder: Path, change: Callable[[Path], Any], words: tuple[str, ...], code: int, message: str
) -> None:
    change(folder)
    done = edge("benchmark", *QUICK, "--model", folder, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


# The commands that take the pick


def test_the_picked_file_answers(picked: tuple[Path, Any], slice_path: Path) -> None:
    folder, done = picked
    best = json.loads(done.stdout)["pick"]
    words = ("classify", slice_path, "--format", "json", "--model")
    by_folder, by_file = edge(*words, folder), edge(*words, folder / best["file"])
    assert (by_folder.returncode, by_folder.stderr) == (0, "")
    assert by_folder.stdout == by_file.stdout
    assert json.loads(by_folder.stdout)[0]["model"] == best["model"]
    assert best["model"].split()[0] in edge("info", "--model", folder).stdout
    assert Classifier(folder).model.tag == best["model"]


@pytest.mark.parametrize(
    ("words", "threads", "backend"),
    [
        ((), 3, "litert"),
        (("--threads", "1"), 1, "litert"),
        (("--backend", "auto"), 3, "auto"),
        (("--threads", "2", "--backend", "auto"), 2, "auto"),
    ],
)
def test_threads_and_backend_are_those_of_the_pick_unless_they_are_given(
    folder: Path, slice_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], threads: int, backend: str,
) -> None:  # fmt: skip
    record(folder, threads=3)
    opened = []

    def open_graph(file: Any, backend: str, threads: int) -> Any:
        opened.append((backend, threads))
        return backends.open_graph(file, backend, threads)

    monkeypatch.setattr(classifier, "open_graph", open_graph)
    done = CliRunner().invoke(classify, [str(slice_path), "--model", str(folder), *words])
    assert done.exit_code == 0, done.output
    assert set(opened) == {(backend, threads)}


def test_in_a_program_too_what_is_given_counts(folder: Path) -> None:
    record(folder, threads=3)
    assert (Classifier(folder)._backend, Classifier(folder)._threads) == ("litert", 3)
    given = Classifier(folder, backend="auto", threads=1)
    assert (given._backend, given._threads) == ("auto", 1)
    plain = Classifier(bundled_model())
    assert (plain._backend, plain._threads) == ("auto", 1)


def test_the_only_file_of_a_folder_needs_no_pick(folder: Path) -> None:
    (folder / "small.tflite").unlink()
    (folder / ".hidden.tflite").write_bytes(b"")
    (folder / "brain-mri-int8.tflite.rejected").write_bytes(b"")
    assert read_chosen(folder).file.info.name == "float"


def _change(name: str, value: Any) -> Callable[[Path], None]:
    """Another value in the text of the record."""

    def change(folder: Path) -> None:
        shape = json.loads(record(folder).to_json())
        (folder / RECORD).write_text(json.dumps(shape | {name: value}), "utf-8")

    return change


def _write(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / RECORD).write_bytes(data) and None


def _alter(folder: Path) -> None:
    record(folder)
    pack(folder / "small.tflite", name="other")


def _damage(folder: Path) -> None:
    record(folder)
    (folder / "small.tflite").write_bytes(b"\x1c\0\0\0TFL3")


def _remove(folder: Path) -> None:
    record(folder)
    (folder / "small.tflite").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: None, "2 model files, of which none was picked; " + AGAIN),
        (lambda folder: (folder / RECORD).mkdir(), "picked.json: cannot be read: Is a directory; "),
        (lambda folder: (folder / RECORD).symlink_to("none"), "picked.json: no such file; "),
        (_write(b""), "picked.json: empty file"),
        (_write(b"[" * 60_000), "picked.json is damaged, no JSON; "),
        (_write(b"[1]"), "picked.json is damaged, no JSON object"),
        (_write(b"{}" + b" " * (64 << 10)), "picked.json: larger than the limit of 64 KiB"),
        (_change("schema", 2), "has a schema that this version does not read"),
        (_change("schema", True), "has a schema that this version does not read"),
        (_change("threads", 0), "picked.json is damaged: threads"),
        (_change("threads", True), "picked.json is damaged: threads"),
        (_change("backend", "auto"), "picked.json is damaged: backend"),
        (_change("backend", ["litert"]), "picked.json is damaged: backend"),
        (_change("sha256", "0" * 63), "picked.json is damaged: sha256"),
        (_change("sha256", "0" * 64), "small.tflite is not what it was when it was picked"),
        (_change("machine", "0" * 64), "made on another machine, or with another version of lite"),
        (_change("file", "none.tflite"), "none.tflite, which was picked, is not there; " + AGAIN),
        *(
            (_change("file", name), "picked.json is damaged: file")
            for name in ("../export/small.tflite", "/small.tflite", "a\\b.tflite", "C:b.tflite",
                         "small", "..", "", "a\0.tflite", "a\n.tflite", 7, "a" * 300 + ".onnx")
        ),
        (_alter, "small.tflite is not what it was when it was picked; " + AGAIN),
        (_damage, "model small.tflite: "),
        (_remove, "small.tflite, which was picked, is not there"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_hold_is_refused(
    folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises(ModelError) as caught:
        read_chosen(folder)
    line = one_line(caught.value)
    assert line.startswith("model ")
    assert message in line


def test_what_the_command_says_of_it(folder: Path, slice_path: Path) -> None:
    _alter(folder)
    for words in (("classify", slice_path), ("info",)):
        done = edge(*words, "--model", folder)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            "btc-edge: model export: small.tflite is not what it was when it was picked; "
            f"{AGAIN}{folder} --images LABELLED --pick\n"
        )
    done = edge("verify", folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Is a directory" in done.stderr


def test_an_interpreter_that_is_gone_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(folder)
    monkeypatch.setitem(backends._TFLITE, "litert", ("no_such_module", "pip install it"))
    with pytest.raises(BackendError, match="litert is not installed: pip install it; pick on"):
        read_chosen(folder)
    monkeypatch.setitem(backends._TFLITE, "litert", ("tests.no_such_module", "pip install it"))
    with pytest.raises(BackendError, match="litert is not installed"):
        read_chosen(folder)


def test_a_record_for_an_interpreter_that_does_not_read_the_file_ends_with_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends._ONNX, "onnxruntime", ("json", ""))  # whether it is there or not
    version = backends.interpreter_version("onnxruntime")
    record(folder, backend="onnxruntime", machine=machine_digest("onnxruntime", version))
    with pytest.raises(BackendError, match=r"onnxruntime does not read \.tflite files"):
        Classifier(folder)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, set[str]]:
    """A folder, the text of a record that holds there, and the digests of its files."""
    folder = small(tmp_path_factory.mktemp("attacked") / "export")
    text = record(folder).to_json().encode("utf-8")
    return folder, text, {read_model(path).sha256 for path in folder.glob("*.tflite")}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("schema", "machine", "file", "sha256", "backend", "threads", "measured", "more")


def _check(folder: Path, data: bytes, digests: set[str]) -> None:
    """Whatever the record holds: a checked file of the folder, or one line."""
    (folder / RECORD).write_bytes(data)
    chosen, line = None, "model "
    try:
        chosen = read_chosen(folder)
    except ModelError as error:
        line = one_line(error)
    assert line.startswith("model ")
    if chosen is None:
        return
    assert chosen.file.sha256 in digests
    assert chosen.file.sha256 == json.loads(data)["sha256"]
    assert chosen.backend in backends.BACKENDS
    assert 1 <= chosen.threads <= 256


@given(data=st.binary(max_size=300))
@example(data=b"\xff\xfe{}")
@example(data=b'{"schema": ' + b"9" * 5000 + b"}")
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_record_or_a_line(
    data: bytes, attacked: tuple[Path, bytes, set[str]]
) -> None:
    folder, _, digests = attacked
    _check(folder, data, digests)


@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2))
@settings(max_examples=60, deadline=None)
def test_any_values_are_a_record_or_a_line(
    changes: dict[str, Any], attacked: tuple[Path, bytes, set[str]]
) -> None:
    folder, text, digests = attacked
    _check(folder, json.dumps(json.loads(text) | changes).encode("utf-8"), digests)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_altered_record_is_a_record_or_a_line(
    place: int, byte: int, cut: bool, attacked: tuple[Path, bytes, set[str]]
) -> None:
    folder, text, digests = attacked
    place %= len(text)
    altered = text[:place] + bytes([byte]) + (b"" if cut else text[place + 1 :])
    _check(folder, altered, digests)


# The machine


def test_the_digest_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "PROC", tmp_path)

    def digest(text: str, *interpreter: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return machine_digest(*(interpreter or ("litert", "2.3.0")))

    plain = "model name : A CPU\nflags : fpu avx2\n"
    ours = digest(plain)
    assert digest(plain + "Serial : 00000000deadbeef\nmicrocode : 0x1\ncpu MHz : 2600\n") == ours
    assert len(ours) == 64
    others = {
        digest("model name : A CPU\nflags : fpu avx2 avx_vnni amx_int8\n"),
        digest("model name : Another CPU\nflags : fpu avx2\n"),
        digest("model name : A CPU\n"),
        digest(plain, "litert", "2.4.0"),
        digest(plain, "tensorflow", "2.3.0"),
    }
    assert len(others - {ours}) == 5
    monkeypatch.setattr("os.cpu_count", lambda: 4097)
    assert digest(plain) != ours


def test_features_are_named_or_said_not_to_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "PROC", tmp_path)
    for text, flags, words in (
        ("flags : avx_vnni amx_int8 avx2 fpu\n", ["avx2", "avx_vnni", "amx_int8"],
         "avx2, avx_vnni, amx_int8"),
        ("Features : asimd asimddp i8mm crc32\n", ["asimd", "asimddp", "i8mm"],
         "asimd, asimddp, i8mm"),
        ("flags : fpu\n", [], "none of the features that matter"),
        ("model name : A CPU\n", None, "features not recorded"),
    ):  # fmt: skip
        (tmp_path / "cpuinfo").write_text(text)
        assert this_processor().flags == flags
        assert features_in_words({"flags": flags}) == words


def test_a_plain_file_asks_nothing_of_the_machine() -> None:
    code = (
        "import sys; from edge_runtime import Classifier; Classifier(); "
        "sys.exit('edge_runtime.processor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

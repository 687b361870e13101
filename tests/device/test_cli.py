"""The installed command as users and scripts meet it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime
from benchmarks.hostile.pictures import black_png, draw_slice, encode
from edge_runtime.commands import inputs
from edge_runtime.errors import InputError
from edge_runtime.model.load import bundled_model
from edge_runtime.model.metadata import INTENDED_USE

TOOL = str(Path(sys.executable).parent / "btc-edge")
FIELDS = ["input", "status", "label", "raw_label", "confidence", "probabilities", "reason",
          "sha256", "model", "error", "slice", "heatmap", "plane", "sequence"]  # fmt: skip


def edge(*words: object, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([TOOL, *map(str, words)], capture_output=True, input=data, timeout=120)
    assert b"Traceback" not in done.stderr
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_json_has_the_fields_of_the_contract(slices: Path) -> None:
    done = edge("classify", "-r", slices, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answers = json.loads(done.stdout)
    assert len(answers) == 12
    assert all(list(a) == FIELDS for a in answers)
    assert [a["input"] for a in answers] == sorted(a["input"] for a in answers)


def test_formats_say_the_same(slices: Path) -> None:
    whole = json.loads(edge("classify", "-r", slices, "--format", "json").stdout)
    lines = edge("classify", "-r", slices, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == whole
    rows = list(
        csv.DictReader(io.StringIO(edge("classify", "-r", slices, "--format", "csv").stdout))
    )
    for column in ("status", "label", "raw_label"):
        assert [r[column] for r in rows] == [a[column] or "" for a in whole]
    assert float(rows[0]["p_glioma"]) == whole[0]["probabilities"]["glioma"]
    table = edge("classify", "-r", slices)
    assert len(table.stdout.splitlines()) == 13
    assert INTENDED_USE in table.stderr


def test_hostile_inputs_each_get_a_line_and_the_rest_is_classified(tmp_path: Path) -> None:
    good = encode(draw_slice(1))
    bad = {
        "half.jpg": (good[: len(good) // 2], "truncated or damaged"),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"Dear doctor", "not an image"),
        "huge.png": (black_png(8_000, 6_251), "over the limit"),
        "archive.zip": (b"PK\x03\x04" + bytes(60), "not supported: a ZIP archive"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "first.jpg").write_bytes(good)
    (tmp_path / "=last.jpg").write_bytes(good)
    words = [tmp_path / n for n in ("first.jpg", *bad, "missing.jpg", "=last.jpg")]
    done = edge("classify", *words, tmp_path, "--format", "jsonl")
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    status = {Path(a["input"]).name: a["status"] for a in answers}
    assert status["first.jpg"] == status["=last.jpg"] != "error"
    assert sum(s == "error" for s in status.values()) == 7
    lines = done.stderr.splitlines()
    assert len(lines) == 7, "one line each"
    for name, (_, reason) in bad.items():
        assert any(name in line and reason in line for line in lines), name
    assert any("missing.jpg" in line and "no such file" in line for line in lines)
    assert any("add -r" in line for line in lines)


def test_list_on_stdin(slices: Path) -> None:
    names = sorted(map(str, slices.rglob("*.png")))
    done = edge("classify", "-", "--format", "jsonl", stdin="\n".join(names) + "\n\n")
    assert done.returncode == 0
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == names


def test_csv_cells_are_no_formulas(tmp_path: Path) -> None:
    (tmp_path / "=1+1.jpg").write_bytes(encode(draw_slice(1)))
    done = subprocess.run(
        [TOOL, "classify", "=1+1.jpg", "--format", "csv"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[1].startswith("'=1+1.jpg,unfamiliar,,")


def test_one_sentence_says_what_it_is_for() -> None:
    """In the help, which must not load the module that holds it, as elsewhere."""
    assert INTENDED_USE in " ".join(edge("--help").stdout.split())
    assert edge_runtime.__doc__ is not None
    assert INTENDED_USE in edge_runtime.__doc__


def test_usage(tmp_path: Path, slices: Path) -> None:
    assert edge("classify").returncode == 2
    assert edge("classify", "--format", "xml", slices).returncode == 2
    assert edge("benchmark", "--images", tmp_path / "none").returncode == 2
    assert edge("--version").stdout.startswith("btc-edge")


def test_models_that_cannot_be_used(tmp_path: Path, slices: Path) -> None:
    data = bundled_model().read_bytes()
    altered = bytearray(data)
    altered[1000] ^= 1
    cases = {
        "missing.tflite": None,
        "truncated.tflite": data[: len(data) // 2],
        "altered.tflite": bytes(altered),
        "text.tflite": b"hello",
        "empty.tflite": b"",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for words in (("classify", "-r", slices), ("info",), ("benchmark",)):
            done = edge(*words, "--model", tmp_path / name)
            assert done.returncode == 3, (name, words)
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1
            assert name in done.stderr


def test_info() -> None:
    text = edge("info").stdout
    assert "not for diagnosis" in text.splitlines()[0]
    assert "glioma from 0." in text
    assert "unlike the training slices" in text
    shape = json.loads(edge("info", "--format", "json").stdout)
    assert (shape["schema"], shape["pooling"]) == (3, "log-sum-exp")
    assert shape["view"]["sequence"]["validated"] == ["T1", "T1 contrast"]
    assert shape["ood"]["method"] == "distance-and-turn"
    assert shape["labels"] == ["glioma", "meningioma", "notumor", "pituitary"]


def test_folders_hold_more_than_images(tmp_path: Path) -> None:
    """Hidden folders and thumbnails of file servers are not classified; pictures by their content
    are; what is left is told in one line, and is no error."""
    picture = encode(draw_slice(3), ".png")
    for place in ("a.png", "b/scan", "b/c.jfif", ".Trash-1000/d.png", "b/@eaDir/e.png", "._a.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(picture)
    for place in ("b/notes.txt", "more.txt", "page\x1b.pdf", "empty", "DICOMDIR", "logs.gz"):
        (tmp_path / place).write_bytes(b"" if place == "empty" else b"\x1f\x8b, words")
    (tmp_path / "b" / "dicomdir").write_bytes(bytes(128) + b"DICM")
    done = edge("classify", "-r", tmp_path, "--format", "jsonl")
    names = [json.loads(line)["input"] for line in done.stdout.splitlines()]
    assert names == [str(tmp_path / name) for name in ("a.png", "b/c.jfif", "b/scan")]
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    passed_over = "passed over 7 files that are no images: 3 no suffix, 2 .txt, 1 .gz, 1 .pdf"
    assert line.startswith(f"btc-edge: {tmp_path}: {passed_over}, such as ")
    assert "\x1b" not in line


@pytest.mark.parametrize("studies", [False, True])
def test_what_cannot_be_read_is_not_called_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studies: bool
) -> None:
    """Names of DICOM files have no suffix, and discs have scratches."""
    really = inputs.first_bytes

    def first_bytes(path: str) -> bytes:
        if path.endswith("IM2"):
            raise InputError("cannot be read: Input/output error")
        return really(path)

    monkeypatch.setattr(inputs, "first_bytes", first_bytes)
    for name in ("IM1", "IM2"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    (tmp_path / "nowhere").symlink_to("IM3")
    told: list[str] = []
    found = list(inputs.expand([str(tmp_path)], True, io.StringIO(), told.append, studies))
    assert found == [str(tmp_path / "IM1"), str(tmp_path / "IM2")]
    (line,) = told
    assert "passed over 1 file that is no image: 1 no suffix, such as" in line


def test_broken_pipe_is_quiet(slices: Path) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c",
         f"'{TOOL}' classify -r '{slices}' '{slices}' --format jsonl | head -n 1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, "of the command, not of head"
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["classify", "--help"], ["verify", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom edge_runtime.commands.main import main\n"
        f"sys.argv = ['btc-edge', *{words}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'ai_edge_litert', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_device_side_loads_nothing_of_the_workstation() -> None:
    code = (
        "import sys, numpy\nfrom edge_runtime import Classifier\n"
        "Classifier().classify(numpy.zeros((64, 64), numpy.uint8))\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'pandas', 'matplotlib', 'rich', 'trainer',"
        " 'export'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""What the command does when its streams, its names or its model are not as one hopes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.batch import Unusable
from edge_runtime.commands.inputs import expand
from edge_runtime.labels import normalise_label
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import read_model
from tests.device.test_cli import TOOL, edge

STRICT = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "slice.jpg"
    path.write_bytes(encode(draw_slice(1)))
    return path


@pytest.mark.parametrize(
    ("closed", "answers", "problems"),
    [("<&-", True, True), (">&-", False, True), ("2>&-", True, False),
     ("<&- >&- 2>&-", False, False)],
)  # fmt: skip
def test_closed_streams(closed: str, answers: bool, problems: bool, picture: Path) -> None:
    done = subprocess.run(
        f"'{TOOL}' classify '{picture}' missing.jpg - {closed}",
        shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert ("slice.jpg" in done.stdout) == answers
    assert ("missing.jpg: no such file" in done.stderr) == problems


def test_full_disk_is_an_error(picture: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [TOOL, "classify", picture], stdout=full, stderr=subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("style", ["table", "json", "jsonl", "csv"])
def test_names_that_are_no_text(style: str, picture: Path) -> None:
    name = os.fsencode(picture.parent) + b"/odd\xff\n\x1b[2J.jpg"
    try:
        os.rename(picture, name)  # noqa: PTH104 - a name of bytes
    except OSError:
        pytest.skip("this file system refuses such names")
    done = subprocess.run(
        [os.fsencode(TOOL), b"classify", b"--format", style.encode(), name],
        capture_output=True, env=STRICT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if style == "table":
        assert b"\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == 2


def test_a_list_that_is_no_text() -> None:
    done = subprocess.run(
        [TOOL, "classify", "--format", "jsonl", "-"],
        input=b"\xff\xfe\n\0x\n", capture_output=True, env=STRICT,
    )  # fmt: skip
    assert done.returncode == 1
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["error"] * 2
    assert len(done.stderr.splitlines()) == 2


def test_interrupt() -> None:
    with subprocess.Popen(
        [TOOL, "classify", "--format", "csv", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as tool:  # fmt: skip
        assert tool.stdin is not None
        assert tool.stdout is not None
        tool.stdin.write("missing.jpg\n")
        tool.stdin.flush()
        tool.stdin, waiting = None, tool.stdin
        tool.stdout.read(1)  # it runs
        tool.send_signal(signal.SIGINT)
        _, problems = tool.communicate(timeout=300)
        waiting.close()
    assert tool.returncode == 130
    assert "Traceback" not in problems
    assert problems.splitlines()[-1] == "btc-edge: interrupted"


def test_a_model_that_says_little(tmp_path: Path) -> None:
    file = read_model()
    metrics = (
        {},
        {"accuracy": 0.5, "n": 3},
        {"accuracy": "high", "interval95": None},
        {"accuracy": 0.25, "interval95": None},
    )
    info = replace(file.info, metrics=metrics, data={}, license=None, intended_use="\x1b[2J x")
    path = tmp_path / "terse.tflite"
    path.write_bytes(pack_model(file.graph, info, "tflite"))
    done = edge("info", "--model", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "accuracy 50.0 %" in done.stdout
    assert "accuracy unknown" in done.stdout
    assert "accuracy 25.0 % (95 % interval not estimable)" in done.stdout


def test_a_command_alone_is_a_usage_error() -> None:
    done = edge()
    assert done.returncode == 2
    assert done.stderr == "btc-edge: Missing command.\n"


def test_a_folder_that_cannot_be_opened_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: str, onerror: object) -> list[object]:
        assert callable(onerror)
        onerror(PermissionError(13, "Permission denied", f"{top}/closed"))
        return [(top, [], ["a.jpg", "notes.txt"])]

    monkeypatch.setattr(os, "walk", walk)
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    good, closed = expand(["scans"], True, sys.stdin)
    assert good == str(Path("scans", "a.jpg"))
    assert isinstance(closed, Unusable)
    assert closed.name == "scans/closed"
    assert "Permission denied" in str(closed.error)


def test_a_link_to_a_folder_is_said(tmp_path: Path) -> None:
    """It may lead anywhere, or round in a circle: it is not followed, and not passed over."""
    inside, outside = tmp_path / "scans", tmp_path / "outside"
    for place in (inside / "deep" / "a.jpg", outside / "b.jpg"):
        place.parent.mkdir(parents=True)
        place.touch()
    (inside / "linked").symlink_to(outside)
    (inside / "deep" / "circle").symlink_to(inside)
    (inside / ".hidden").symlink_to(outside)
    found = list(expand([str(inside)], True, sys.stdin))
    assert [one for one in found if isinstance(one, str)] == [str(inside / "deep" / "a.jpg")]
    links = [one for one in found if isinstance(one, Unusable)]
    assert {one.name for one in links} == {str(inside / "linked"), str(inside / "deep" / "circle")}
    assert {str(one.error) for one in links} == {"a link to a folder: name the folder itself"}
    given = expand([str(inside / "linked")], True, sys.stdin)
    assert list(given) == [str(inside / "linked" / "b.jpg")]


@pytest.mark.parametrize(
    ("name", "folded"),
    [("no_tumor", "notumor"), ("No Tumour", "notumor"), ("no-tumor", "notumor"), ("no", "notumor"),
     ("notumor", "notumor"), ("glioma_tumor", "glioma"), ("Pituitary tumour", "pituitary"),
     ("Meningioma", "meningioma"), ("Metastasis", "Metastasis"), ("abscess", "abscess")],
)  # fmt: skip
def test_common_spellings_fold(name: str, folded: str) -> None:
    assert normalise_label(name) == folded

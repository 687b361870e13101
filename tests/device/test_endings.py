"""How commands end when stdout, stderr or a file cannot take what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.commands.entry import next_command
from edge_runtime.commands.options import backend_option
from edge_runtime.files import replacing, write_bytes, write_text
from edge_runtime.model.backends import BACKENDS
from edge_runtime.model.load import bundled_model

TOOL = str(Path(sys.executable).parent / "btc-edge")
FULL = Path("/dev/full")
STYLES = ("table", "json", "jsonl", "csv")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endings") / "slice.png"
    path.write_bytes(encode(draw_slice(1), ".png"))
    return path


def nobody_reads(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout is a pipe that its reader has left before the first word."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            list(map(str, words)), stdout=write, stderr=subprocess.PIPE, text=True, **options
        )
    finally:
        os.close(write)


def to_full(*words: object, stream: str = "stdout") -> subprocess.CompletedProcess[str]:
    other = "stderr" if stream == "stdout" else "stdout"
    with FULL.open("w") as full:
        return subprocess.run(
            list(map(str, words)), text=True, **{stream: full, other: subprocess.PIPE}
        )


@pytest.mark.parametrize("style", STYLES)
def test_a_reader_that_left_is_no_failure(style: str, picture: Path) -> None:
    done = nobody_reads(TOOL, "classify", picture, "--format", style)
    said = [line for line in done.stderr.splitlines() if "Research use only" not in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("style", STYLES)
def test_nor_is_one_that_leaves_after_a_line(style: str, picture: Path) -> None:
    """More than a pipe holds: the write that breaks may be any, also the last."""
    words = [TOOL, "classify", "-", "--format", style, "--workers", "1"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        feed = threading.Thread(target=_feed, args=(running.stdin, f"{picture}\n" * 300))
        feed.start()
        assert running.stdout.readline() != ""
        running.stdout.close()
        assert running.stderr is not None
        said = running.stderr.read()
        feed.join()
        assert running.wait() == 0
    assert "Broken pipe" not in said


def _feed(stream: object, text: str) -> None:
    try:
        stream.write(text)  # type: ignore[attr-defined]
        stream.close()  # type: ignore[attr-defined]
    except BrokenPipeError:
        pass


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("classify", "--help"),
        ("info",),
        ("info", "--format", "json"),
        ("verify", bundled_model()),
    ],
)
def test_nor_does_it_matter_what_is_printed(words: tuple[object, ...]) -> None:
    done = nobody_reads(TOOL, *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_verdict_is_told_even_if_nobody_reads_the_table(picture: Path) -> None:
    """The exit code of `--fail-if` is what scripts look at."""
    words = (TOOL, "benchmark", "--queries", 10, "--seconds", 0, "--fail-if", "p50_ms>0")
    done = nobody_reads(*words)
    assert done.returncode == 1
    assert "p50_ms" in done.stderr


@needs_full
@pytest.mark.parametrize("style", STYLES)
def test_a_full_disk_is_named(style: str, picture: Path) -> None:
    done = to_full(TOOL, "classify", picture, "--format", style)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "Research use only" not in line]
    assert lines == ["btc-edge: standard output: No space left on device"]


@needs_full
@pytest.mark.parametrize("words", [("--help",), ("info",), ("info", "--format", "json")])
def test_a_full_disk_is_named_by_every_command(words: tuple[str, ...]) -> None:
    done = to_full(TOOL, *words)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["btc-edge: standard output: No space left on device"]


@needs_full
def test_lost_messages_do_not_end_the_work(picture: Path, tmp_path: Path) -> None:
    words = (TOOL, "classify", tmp_path / "missing.png", picture, "--format", "jsonl")
    done = to_full(*words, stream="stderr")
    assert done.returncode == 1
    assert [json.loads(line)["status"] == "error" for line in done.stdout.splitlines()] == [
        True, False
    ]  # fmt: skip


def test_a_file_that_does_not_fit_is_named(picture: Path, tmp_path: Path) -> None:
    """A limit on files' sizes stands for a full disk."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512));"
        f"sys.argv = ['btc-edge', 'classify', {str(picture)!r}, '--heatmap', {str(tmp_path)!r}];"
        "from edge_runtime.commands.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "Research" not in line)
    assert str(tmp_path) in line
    assert "File too large" in line
    assert ".part-" not in line
    assert list(tmp_path.iterdir()) == []


@needs_full
def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "out.json"

    def on_full(part: Path) -> None:
        with FULL.open("wb", buffering=0) as full:
            full.write(b"x")

    def reading(part: Path) -> None:
        (tmp_path / "nowhere").read_bytes()

    for write, named in ((on_full, target), (reading, tmp_path / "nowhere")):
        assert _named_by(target, write) == str(named)
    assert list(tmp_path.iterdir()) == []


def _named_by(target: Path, write: Callable[[Path], None]) -> str:
    with pytest.raises(OSError) as caught, replacing(target) as part:  # noqa: PT011 - its name counts
        write(part)
    return str(caught.value.filename)


def test_files_have_ordinary_permissions_and_nobody_changes_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask belongs to the process: changed for a moment by one thread, another thread's file
    is readable by everyone."""
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("umask was changed"))
            workers = [
                threading.Thread(target=write_bytes, args=(tmp_path / f"{i}.bin", b"x"))
                for i in range(8)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        write_text(tmp_path / "0.bin", "again")
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("seen", [True, False])
def test_the_next_command_is_for_people_only(
    seen: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: seen)
    next_command(["btc-edge", "--x", Path("-x.tflite"), Path("my model.tflite")])
    next_command(["btc-edge", "\x1b[2J"])  # would not name the file
    out, err = capsys.readouterr()
    line = "next: btc-edge --x ./-x.tflite 'my model.tflite'\n"
    assert (out, err) == ("", line if seen else "")


def test_the_choices_are_the_interpreters() -> None:
    option = backend_option(lambda: None).__click_params__[0]  # type: ignore[attr-defined]
    assert tuple(option.type.choices) == ("auto", *BACKENDS)

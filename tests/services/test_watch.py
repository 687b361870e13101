"""btc-edge watch, as its user starts it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import draw_slice, encode, png_chunk, with_chunks
from edge_runtime.commands.watch import watch
from tests.documents import SERVICES, blocks
from tests.test_schemas import problems

BIN = Path(sys.executable).parent / "btc-edge"
SOON = ("--settle", "0.1", "--quiet", "0.3")
PATIENCE = 60  # seconds: of a machine that does much else


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN), *map(str, words)], capture_output=True, text=True, timeout=PATIENCE
    )


def once(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run("watch", folder, "--once", *SOON, *words)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a watcher; what still runs at the end is killed."""
    begun: list[subprocess.Popen[str]] = []

    def begin(folder: Path, *words: object) -> subprocess.Popen[str]:
        command = [str(BIN), "watch", str(folder), *SOON, *map(str, words)]
        begun.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def draw(folder: Path, numbers: range) -> None:
    """Small pictures, each unlike the others."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        part = folder / f".{number}"
        part.write_bytes(encode(draw_slice(number, 48), ".png"))
        part.rename(folder / f"{number}.png")


def answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text("utf-8"))
        for path in folder.rglob("*.btc.json")
    }


def classified(folder: Path) -> list[dict[str, Any]]:
    done = run("classify", "-r", folder, "--format", "json")
    return [answer | {"input": ""} for answer in json.loads(done.stdout)]


def by_digest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((answer | {"input": ""} for answer in found), key=lambda a: a["sha256"] or "")


def test_answers_are_those_of_classify(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, range(6))
    draw(folder / "below", range(6, 9))
    done = once(folder, "--out", out, "--names")
    assert (done.returncode, done.stdout) == (0, "")
    found = answers(out)
    assert set(found) == {
        *(f"{n}.png.btc.json" for n in range(6)), *(f"below/{n}.png.btc.json" for n in range(6, 9))
    }  # fmt: skip
    assert by_digest([a for each in found.values() for a in each]) == by_digest(classified(folder))
    for name, (answer,) in found.items():
        assert answer["input"] == name.removesuffix(".btc.json")
        assert problems("answer", answer) == []
    again = once(folder, "--out", out, "--names")
    assert (again.returncode, again.stderr) == (0, "")


def test_beside_the_files_and_with_heatmaps(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw(folder, range(2))
    assert once(folder, "--heatmap", tmp_path / "heat").returncode == 0
    found = answers(folder)
    assert set(found) == {"0.png.btc.json", "1.png.btc.json"}
    drawn = {answer["heatmap"] for (answer,) in found.values()}
    assert drawn == {str(path) for path in (tmp_path / "heat").iterdir()}
    assert len(drawn) == 2
    assert once(folder).stderr == "", "what was written is no input"


def test_a_study_is_answered_by_its_uid(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        data = dicom_bytes(draw_slice(number, 64), StudyInstanceUID="1.2.3", PatientName="Who^Ever",
                           SOPInstanceUID=f"1.2.3.{number}")  # fmt: skip
        (folder / f"Who Ever {number}").write_bytes(data)
    done = once(folder, "--out", out)
    assert done.returncode == 0, done.stderr
    ((name, (answer,)),) = answers(out).items()
    assert (name, answer["input"], len(answer["slices"])) == ("1.2.3.btc.json", "1.2.3", 3)
    assert "Ever" not in json.dumps(answer) + done.stderr


def test_an_error_is_an_answer_and_the_exit_code_of_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw(folder, range(1))
    (folder / "bad.png").write_bytes(b"no picture")
    done = once(folder, "--names")
    assert done.returncode == 1
    (answer,) = answers(folder)["bad.png.btc.json"]
    assert (answer["status"], answer["label"]) == ("error", None)
    assert problems("answer", answer) == []
    assert "btc-edge: bad.png: answered: error" in done.stderr.splitlines()
    assert once(folder).returncode == 0, "it is not tried again"


def test_what_cannot_be_watched_is_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw(folder, range(1))
    for words, code, line in [
        ((tmp_path / "none",), 2, "no such folder"),
        ((folder / "0.png",), 2, "no such folder"),
        ((folder, "--out", folder / "out"), 2, "lies in the watched folder"),
        ((folder, "--heatmap", folder), 2, "lies in the watched folder"),
        ((folder, "--journal", folder / "journal"), 2, "lies in the watched folder"),
        ((folder, "--settle", "nan"), 2, "not a number"),
        ((folder, "--model", tmp_path / "none"), 3, "none"),
    ]:
        done = run("watch", *words, "--once")
        assert done.returncode == code, done.stderr
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
    journal = tmp_path / "journal"
    journal.write_bytes(b"no journal" * 1000)
    done = once(folder, "--journal", journal)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert answers(folder) == {}


def test_it_is_told_of_what_comes_and_ends_cleanly(start: Any, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, range(1))
    first = start(folder, "--out", out)
    until(lambda: len(answers(out)) == 1)
    second = run("watch", folder, "--out", out)
    assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
    assert "in use by another btc-edge" in second.stderr
    draw(folder / "below", range(1, 3))  # long before all is looked at again
    until(lambda: len(answers(out)) == 3)
    first.send_signal(signal.SIGTERM)
    assert "0.png" not in first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 0
    third = start(folder, "--out", out, "--poll", "0.2")
    draw(folder, range(3, 4))
    until(lambda: len(answers(out)) == 4)
    third.send_signal(signal.SIGINT)
    assert third.communicate(timeout=PATIENCE)[1].splitlines()[-1] == "btc-edge: interrupted"
    assert third.returncode == 130


def test_a_folder_that_comes_back_is_watched_again(start: Any, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, range(1))
    process = start(folder, "--out", out)
    until(lambda: len(answers(out)) == 1)
    folder.rename(tmp_path / "away")
    line = next(line for line in process.stderr if "folder" in line)
    assert line.endswith("No such file or directory: waiting for it\n")
    draw(folder, range(1, 2))
    until(lambda: len(answers(out)) == 2)


WITHOUT = """
import sys
sys.modules["watchfiles"] = None
from edge_runtime.commands.main import main
main()
"""


def test_it_says_what_it_does_and_which_kinds_of_file_it_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw(folder, range(1))
    script = WITHOUT.replace('"watchfiles"', '"pydicom"')
    command = [sys.executable, "-c", script, "watch", str(folder), *SOON]
    done = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=PATIENCE)
    (missing, answered) = done.stderr.splitlines()
    assert "DICOM files get no answer: they need pydicom: pip install" in missing
    assert "answered" in answered
    with subprocess.Popen(
        [*command, "--poll", "0.5"], stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stderr.readline() for _ in range(2)]  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert lines[0].rstrip() == missing
    assert lines[1] == "btc-edge: watching, every 0.5 s; research use only, not for diagnosis\n"
    assert process.returncode == 0


def test_without_the_package_it_looks_itself(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, range(1))
    command = [sys.executable, "-c", WITHOUT, "watch", str(folder), "--out", str(out), *SOON]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(answers(out)) == 1)
        draw(folder, range(1, 2))
        until(lambda: len(answers(out)) == 2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_the_documents_unit_is_in_order(tmp_path: Path) -> None:
    (unit,) = (each for each in blocks(SERVICES, "ini") if "btc-edge watch" in each)
    (line,) = re.findall(r"^ExecStart=\S+/btc-edge watch (.+)$", unit, flags=re.M)
    assert watch.make_context("watch", line.split(), resilient_parsing=False).params["out"]
    if (verify := shutil.which("systemd-analyze")) is None:
        pytest.skip("no systemd here")
    path = tmp_path / "btc-edge-watch.service"
    path.write_text(unit.replace("/opt/btc-edge/bin/btc-edge", sys.executable))
    done = subprocess.run([verify, "verify", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edge_runtime.commands.main import main\n"
        "try: main()\nexcept SystemExit: sys.exit(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "watch", "--help"], capture_output=True, text=True
    )
    assert "FOLDER" in done.stdout
    assert {"numpy", "cv2", "sqlite3", "watchfiles"} & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    ("files", "kills"), [(150, 3), pytest.param(1000, 10, marks=pytest.mark.slow)]
)
def test_killed_again_and_again_it_answers_every_file_once(
    files: int, kills: int, start: Any, tmp_path: Path
) -> None:
    """Killed at random moments of its work, while files come."""
    folder, out = tmp_path / "in", tmp_path / "out"
    rng = random.Random()
    seed = rng.randrange(1 << 30)
    rng.seed(seed)
    each = files // (kills + 1)
    for number in range(kills):
        process = start(folder, "--out", out, "--poll", "0.2") if number else None
        draw(folder, range(number * each, (number + 1) * each))
        process = process or start(folder, "--out", out, "--poll", "0.2")
        wanted = len(answers(out)) + rng.randrange(1, each // 2)
        until(lambda wanted=wanted: len(list(out.glob("*.btc.json"))) >= wanted)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    draw(folder, range(kills * each, files))
    done = once(folder, "--out", out)
    assert done.returncode == 0, (seed, done.stderr)
    found = [answer for each_file in answers(out).values() for answer in each_file]
    assert len(answers(out)) == len(found) == files, seed
    assert by_digest(found) == by_digest(classified(folder)), seed
    assert {a["sha256"] for a in found} == {
        sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    with sqlite3.connect(out / ".btc-edge-watch.journal") as connection:
        rows = connection.execute("SELECT name, state, tries FROM answers").fetchall()
        seen = connection.execute("SELECT count(*) FROM files").fetchone()
    connection.close()
    assert {os.fsdecode(name) for name, _, _ in rows} == set(answers(out)), seed
    assert {state for _, state, _ in rows} == {"answered"}, seed
    assert (len(rows), seen) == (files, (files,)), seed
    left = [path.name for path in out.iterdir() if path.name.startswith(".part-")]
    again = sum(tries > 1 for _, _, tries in rows)
    print(f"{files} files, {kills} kills: {again} begun more than once, {len(left)} parts left")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no such figures there")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    whole = encode(draw_slice(1, 48), ".png")
    peaks = {}
    for files in (500, 10_000):
        folder = tmp_path / f"{files}"
        folder.mkdir()
        for number in range(files):
            told = png_chunk(b"tEXt", b"Comment\0%d" % number)
            (folder / f"{number}.png").write_bytes(with_chunks(whole, told))
        command = [str(BIN), "watch", str(folder), "--once", *SOON, "--out", str(tmp_path / "out")]
        command += ["--journal", str(tmp_path / f"{files}.journal")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks[files] = usage.ru_maxrss / 1024
    print(f"peak MiB by files: {peaks}")
    assert peaks[10_000] < peaks[500] + 32

"""The benchmarks of the device side: their tables, and one run with tiny counts."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import device, fastest, footprint
from benchmarks.common import memory
from benchmarks.common.environments import installed_bytes
from benchmarks.common.pictures import as_jpeg, draw_pictures, write_jpegs
from benchmarks.common.process import launch
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.errors import BtcError, DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.load import bundled_model
from edge_runtime.processes import AFTER

KIB = 1024


def make_environment(folder: Path) -> footprint.Installed:
    """Folders as pip leaves them, with files of known sizes."""
    site = folder / "lib" / "python3.11" / "site-packages"
    sizes = {
        "numpy/core.so": 3 * KIB,
        "numpy-2.1.0.dist-info/RECORD": KIB,
        "cv2/cv2.so": 5 * KIB,
        "opencv_python_headless-4.10.0.84.dist-info/RECORD": 0,
        "tensorflow/python/ops.so": 1 << 20,
        "tensorflow_cpu-2.18.0.dist-info/RECORD": KIB,
        "six.py": KIB,
        "pip/main.py": 7 * KIB,
        "pip-24.0.dist-info/RECORD": KIB,
        "setuptools/build.py": 9 * KIB,
        "setuptools-65.5.0.dist-info/RECORD": KIB,
        "_distutils_hack/__init__.py": KIB,
        "distutils-precedence.pth": KIB,
    }
    for name, size in sizes.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(bytes(size))
    kit = next(kit for kit in footprint.KITS if kit.name == "TensorFlow")
    return footprint.Installed(folder, kit)


def test_installed_size_leaves_out_what_every_environment_has(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    assert installed_bytes(environment.site) == (1 << 20) + 11 * KIB
    row = footprint.contents(environment)
    assert row["versions"] == {"tensorflow-cpu": "2.18.0", "numpy": "2.1.0", "OpenCV": "4.10.0.84"}
    assert (row["packages"], row["interpreter_mib"], row["model"]) == (3, 1.0, "bundled")


def test_commands_name_interpreter_and_model(tmp_path: Path) -> None:
    kit = next(kit for kit in footprint.KITS if kit.name == "ONNX Runtime")
    command = footprint.Installed(tmp_path, kit, tmp_path / "m.onnx").command("classify", "a.png")
    assert [str(word) for word in command] == [
        *(str(tmp_path / "bin" / "btc-edge"), "classify", "--backend", "onnxruntime"),
        *("--model", str(tmp_path / "m.onnx"), "a.png"),
    ]


def test_footprint_table_names_the_model_and_what_was_left_out() -> None:
    row = {
        "set": "ONNX Runtime", "model": "brain-mri-onnx.onnx", "versions": {"onnxruntime": "1.20"},
        "packages": 9, "installed_mib": 300.4, "interpreter_mib": 40.2, "peak_mib": 91.3,
        "imports_mib": 60.1, "wall_ms": 512.7, "invoke_ms": 1.234,
    }  # fmt: skip
    result = {
        "machine": {"cpu": "Some CPU", "cores": 2}, "python": "3.11.7", "repeats": 5,
        "left_out": ["LiteRT"], "sets": [row],
    }  # fmt: skip
    text = footprint.as_markdown(result)
    wanted = "| ONNX Runtime | onnxruntime 1.20 | 9 | 300 | 40 | 60 | 91 | 513 | 1.23 |"
    assert wanted in text.splitlines()
    assert "ONNX Runtime runs brain-mri-onnx.onnx" in text
    assert "LiteRT was left out." in text


def test_launch_measures_a_process_of_its_own(tmp_path: Path) -> None:
    hold = "import sys; kept = b'1' * (int(sys.stdin.readline()) << 20)"
    small, large = (
        launch([sys.executable, "-c", hold], tmp_path, stdin=f"{size}\n") for size in (1, 100)
    )
    assert small[0] > 0
    assert 80 < large[1] - small[1] < 120
    assert small[1] < 60, "the peak of this process, not of the one that measures"
    with pytest.raises(BtcError, match="exit code 7"):
        launch([sys.executable, "-c", "raise SystemExit(7)"], tmp_path)


def test_memory_is_that_of_a_command_and_all_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends once its memory was looked at."""
    os.mkfifo(tmp_path / "seen")
    look = memory.tree_memory

    def tree_memory(pid: int, itself: bool) -> float:
        found = look(pid, itself)
        if found > 60:
            with suppress(OSError):  # nobody waits there yet
                os.close(os.open(tmp_path / "seen", os.O_WRONLY | os.O_NONBLOCK))
        return found

    monkeypatch.setattr(memory, "tree_memory", tree_memory)
    hold = "kept = b'1' * (60 << 20); open('seen').read()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    wall, peak = memory.launch_tree([sys.executable, "-c", start], tmp_path, seconds=60)
    assert wall > 0
    assert 60 < peak < 100


def test_growth_is_judged_from_few_to_the_most_files() -> None:
    rates, peaks = (None, 900.0, 1000.0, 850.0), (60.0, 70.0, 71.0, 77.0)
    rows = [
        {"workers": 1, "files": 10**i, "rate": rate, "peak_mib": peak}
        for i, rate, peak in zip((1, 2, 3, 4), rates, peaks, strict=True)
    ]
    held, rate = device.growth_bars(rows)
    assert (held["value"], held["holds"]) == (pytest.approx(1.1), True)
    assert (rate["value"], rate["holds"]) == (0.85, False)
    assert len([*device.growth_bars(rows[:3])]) == 1, "one rate since 1,000 files: no bar"
    assert [*device.growth_bars(rows[:2])] == [], "nothing to compare with"
    assert device.growth_table(rows)[2:4] == ["| 10 | – | 60 |", "| 100 | 900 | 70 |"]


def test_growth_of_several_workers_is_judged_once_their_processes_are_there() -> None:
    rows = [
        {"workers": 2, "files": files, "rate": rate, "peak_mib": peak}
        for files, rate, peak in (
            (100, 300.0, 70.0),
            (2 * AFTER, 500.0, 130.0),
            (10_000, 600.0, 160.0),
            (100_000, 630.0, 176.0),
        )
    ]
    held, rate = device.growth_bars(rows)
    assert held["what"] == "peak memory with 100000 files, over that with 10000, 2 workers"
    assert (held["value"], rate["value"]) == (pytest.approx(1.1), pytest.approx(1.05))
    assert [*device.growth_bars(rows[:3])] == []


def test_folders_of_jpegs_repeat_their_pictures(tmp_path: Path) -> None:
    paths = write_jpegs(tmp_path / "new", [draw_slice(0), draw_slice(1)], 64, 5)
    contents = [path.read_bytes() for path in paths]
    assert contents == [contents[0], contents[1], contents[0], contents[1], contents[0]]
    assert contents[0] == as_jpeg(draw_slice(0), 64) != contents[1]


def test_bars() -> None:
    assert device.row_of("a", 1.15, "", 1.15, "")["holds"]
    assert not device.row_of("a", 1.16, "", 1.15, "")["holds"]
    assert device.row_of("a", 0.9, "", 0.9, "", at="least")["holds"]
    assert not device.row_of("a", 0.89, "", 0.9, "", at="least")["holds"]
    row = device.ratio_bar("a", [2.0, 4.0, 6.0] * 2, [1.0, 2.0, 3.0] * 2, 1.5)
    assert (row["value"], row["holds"]) == (2.0, False)
    assert "2.000–2.000; 4.00 ms against 2.00 ms" in row["note"]
    assert "not estimable; " in device.ratio_bar("a", [2.0], [1.0], 1.5)["note"]


def test_reduced_decoding_is_compared_where_it_leaves_enough_pixels() -> None:
    pictures = [draw_slice(i) for i in range(3)]
    rows = device.reduced_decoding(pictures, Preprocess(size=96), sides=(160, 400), rounds=1)
    assert [(row["side"], row["reduced"]) for row in rows] == [(400, 2), (400, 4)]
    assert all(0 < row["levels"] <= row["worst"] < 64 for row in rows)


def test_pictures_come_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable image"):
        draw_pictures(3, tmp_path)
    (tmp_path / "a.png").write_bytes(encode(draw_slice(0), ".png"))
    (tmp_path / "b.png").write_bytes(b"damaged")
    (picture,) = draw_pictures(3, tmp_path)
    assert np.array_equal(picture, draw_slice(0))
    assert cv2.imdecode(np.frombuffer(as_jpeg(picture, 64), np.uint8), -1).shape == (64, 64)


def test_device_benchmark_writes_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(device.reduced_decoding, sides=(448,), rounds=1)
    for name, value in (("ROUNDS", 1), ("WARM_UP", 1), ("FOLDER_BARS", {1: 0.8}),
                        ("reduced_decoding", few)):  # fmt: skip
        monkeypatch.setattr(device, name, value)
    words = ["--rounds", "3", "--repeats", "1", "--files", "8", "--growth", "30"]
    done = CliRunner().invoke(device.main, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    result = json.loads((tmp_path / "device.json").read_text("utf-8"))
    names = " ".join(row["what"] for row in result["rows"])
    for part in ("224", "512", "classify one.jpg", "peak memory", "--help", "1 worker", "by path",
                 "whole command"):  # fmt: skip
        assert part in names
    assert [(row["workers"], row["files"]) for row in result["growth"]] == [(1, 30)]
    assert {row["side"] for row in result["reduced_decoding"]} == {448}
    table = (tmp_path / "device.md").read_text("utf-8")
    assert table in done.output
    assert all(row["what"] in table for row in result["rows"])


def test_what_is_newer_than_avx2_is_hidden_from_a_library_that_asks(tmp_path: Path) -> None:
    ask = "import cv2; print(*(cv2.checkHardwareSupport(i) for i in (10, 11, 13)))"  # AVX, AVX2, F
    here = fastest.run_apart(ask, [], None).split()
    try:
        hidden = fastest.run_apart(ask, [], fastest.build(tmp_path)).split()
    except UsageError as error:
        pytest.skip(str(error))
    assert hidden == [*here[:2], "False"]


def test_the_fastest_file_is_marked_for_each_processor() -> None:
    about = {"backend": "litert", "backend_version": "2", "bytes": 2048, "sha256": "0" * 64}
    times = {"a.tflite": (0.9, 1.2), "b.tflite": (0.6, 0.9)}
    rows = {
        file: dict(zip(("invoke", "total"), spans, strict=True)) for file, spans in times.items()
    }
    swapped = dict(zip(rows, reversed(rows.values()), strict=True))
    result = {
        "machine": {"cpu": "Some CPU", "cores": 2, "flags": ["avx2", "avx_vnni"]}, "queries": 304,
        "images": 120, "rounds": 3, "files": dict.fromkeys(rows, about),
        "ways": {fastest.AS_IT_IS: rows, fastest.AVX2: swapped},
    }  # fmt: skip
    lines = fastest.as_markdown(result).splitlines()
    assert lines[2] == "| a.tflite | litert | 2 | 0.90 | 1.20 | 0.60 | **0.90** |"
    assert lines[3] == "| b.tflite | litert | 2 | 0.60 | **0.90** | 0.90 | 1.20 |"
    assert "Some CPU (avx2, avx_vnni), 2 cores" in lines[5]
    measured = [{"models": [{"file": "a", "invoke_ms": {"p50": t}, "total_ms": {"p50": 2 * t}}]}
                for t in (3.0, 1.0, 2.0)]  # fmt: skip
    assert fastest.medians(measured, ["a"]) == {"a": {"invoke": 2.0, "total": 4.0}}
    text = fastest.as_markdown(result | {"left_out": ["b was left out: why"]})
    assert text.endswith("\n\nb was left out: why.\n")


def test_a_file_counts_that_was_measured_in_every_round_both_ways() -> None:
    def found(*files: str) -> dict[str, object]:
        return {"models": [{"file": file} for file in files]}

    ways = {fastest.AS_IT_IS: [found("a", "b"), found("a", "b", "c")], fastest.AVX2: [found("b")]}
    files, left_out = fastest.in_all(ways)
    assert files == ["b"]
    assert [line.partition(" was left out: ")[0] for line in left_out] == ["a", "c"]
    with pytest.raises(BtcError, match="no file was measured"):
        fastest.in_all(ways | {fastest.AVX2: [found("c")]})


def test_empty_folders_are_refused_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "build", pytest.fail)
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, message in (((empty, empty), "no .tflite or .onnx file"),
                           ((bundled_model().parent, empty), "no readable image")):  # fmt: skip
        done = CliRunner().invoke(fastest.main, list(map(str, words)))
        assert isinstance(done.exception, BtcError)
        assert message in str(done.exception)


def test_only_another_system_or_a_missing_compiler_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("cc") is not None and platform.machine() == "x86_64":
        (tmp_path / "without_vnni.c").write_text("#error no\n")
        monkeypatch.setattr(fastest, "LIBRARY", tmp_path / "without_vnni.c")
        with pytest.raises(BtcError, match="does not compile") as raised:
            fastest.build(tmp_path)
        assert not isinstance(raised.value, UsageError)
    monkeypatch.setattr(fastest.shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match=r"compiler|only for Linux"):
        fastest.build(tmp_path)
    monkeypatch.setattr(fastest.platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageError, match="only for Linux on x86-64"):
        fastest.build(tmp_path)

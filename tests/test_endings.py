"""How the workstation's commands end when nobody reads them, and which options they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.hostile.models import strip_digest
from edge_runtime.model.load import bundled_model
from tests.device.test_endings import FULL, needs_full, nobody_reads, to_full
from trainer.synthetic.phantoms import CLASSES, draw_phantom

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Testing folder of drawn slices, and a Training folder with a copy of each: a leak."""
    folder = tmp_path_factory.mktemp("data")
    for number, label in enumerate(CLASSES):
        for i in range(3):
            picture = draw_phantom(label, np.random.default_rng([8, number, i]))
            for side in ("Training", "Testing"):
                (folder / side / label).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / side / label / f"{i}.png"), picture)
    return folder


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    name, *others = words
    line = [str(BIN / str(name)), *map(str, others)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    "name", ["btc-train", "btc-evaluate", "btc-audit", "btc-data", "btc-plot", "btc-export"]
)
def test_help_to_nobody(name: str) -> None:
    done = nobody_reads(BIN / name, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_list_to_nobody() -> None:
    done = nobody_reads(BIN / "btc-train", "--list-features")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("style", ["table", "json"])
def test_figures_to_nobody(style: str, data: Path) -> None:
    """The table is rich's, which has a way of its own with a broken pipe."""
    done = nobody_reads(BIN / "btc-evaluate", bundled_model(), data, "--format", style)
    assert done.returncode == 0, done.stderr
    assert "pipe" not in done.stderr


@pytest.mark.parametrize("style", ["table", "json"])
def test_a_leak_is_told_even_if_nobody_reads_of_it(style: str, data: Path, tmp_path: Path) -> None:
    done = nobody_reads(BIN / "btc-audit", data, "--out", tmp_path / "audit", "--format", style)
    assert done.returncode == 1
    assert "pipe" not in done.stderr


@needs_full
def test_figures_to_a_full_disk(data: Path) -> None:
    done = to_full(BIN / "btc-evaluate", bundled_model(), data)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "btc-evaluate: standard output: No space left on device"
    assert FULL.exists()


def test_verified_to_nobody() -> None:
    done = nobody_reads(BIN / "btc-export", "--verify", bundled_model())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("--backend", "tpu"), ("--threads", "0")])
def test_an_interpreter_that_there_is_not_is_a_matter_of_usage(
    words: tuple[str, str], data: Path
) -> None:
    """As in btc-edge, by the same option."""
    evaluated = tool("btc-evaluate", bundled_model(), data, *words)
    assert evaluated.returncode == 2
    assert words[0] in evaluated.stderr
    assert len(evaluated.stderr.splitlines()) == 1
    classified = tool("btc-edge", "classify", "x.png", *words)
    assert classified.stderr.partition(": ")[2] == evaluated.stderr.partition(": ")[2]


@pytest.mark.parametrize(
    "words", [("--backend", "litert"), ("--threads", "1"), ("--allow-unsigned",)]
)
def test_a_run_has_no_interpreter_to_choose(
    words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    done = tool("btc-evaluate", tmp_path, data, *words)
    assert done.returncode == 2
    assert f"{words[0]}: for a model file" in done.stderr


def test_an_unsigned_model_is_measured_when_told_to(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "unsigned.tflite"
    model.write_bytes(strip_digest(bundled_model().read_bytes()))
    refused = tool("btc-evaluate", model, data)
    assert refused.returncode == 3
    assert "--allow-unsigned" in refused.stderr
    taken = tool("btc-evaluate", model, data, "--allow-unsigned", "--format", "json")
    signed = tool("btc-evaluate", bundled_model(), data, "--format", "json")
    assert taken.returncode == 0, taken.stderr
    assert taken.stdout.partition('"accuracy"')[2] == signed.stdout.partition('"accuracy"')[2]


def test_info_takes_an_unsigned_model_when_told_to(tmp_path: Path) -> None:
    model = tmp_path / "unsigned.tflite"
    model.write_bytes(strip_digest(bundled_model().read_bytes()))
    refused = tool("btc-edge", "info", "--model", model)
    assert refused.returncode == 3
    assert "--allow-unsigned" in refused.stderr
    taken = tool("btc-edge", "info", "--model", model, "--allow-unsigned")
    assert taken.returncode == 0, taken.stderr
    assert "glioma" in taken.stdout


def test_verify_has_no_way_round_the_digest(tmp_path: Path) -> None:
    model = tmp_path / "unsigned.tflite"
    model.write_bytes(strip_digest(bundled_model().read_bytes()))
    done = tool("btc-export", "--verify", model)
    assert done.returncode == 3
    assert "has no digest" in done.stderr
    assert "--allow-unsigned" not in done.stderr, "which is no option here"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--all",), "--all"),
        (("--int8", "--onnx"), "--int8, --onnx"),
        (("--all", "--sign", bundled_model()), "--all, --sign"),
        (("--diagnose",), "--diagnose"),
        (("--c-array",), "--c-array"),
        (("--out", "x"), "--out"),
        (("--name", "brain-mri"), "--name"),
        (("--seed", "0"), "--seed"),
        (("--max-error", "0.1"), "--max-error"),
        (("--license", "X"), "--license"),
        (("--calibration-images", "64"), "--calibration-images"),
        (("--min-agreement", "0.9"), "--min-agreement"),
        ((".",), "RUN"),
        ((".", "--int8"), "RUN, --int8"),
    ],
)
def test_verify_refuses_what_it_would_pass_over(words: tuple[object, ...], named: str) -> None:
    from click.testing import CliRunner

    from edge_runtime.errors import UsageError
    from export.commands.export import command

    line = ["--verify", str(bundled_model()), *map(str, words)]
    result = CliRunner().invoke(command, line)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).endswith(f"does not take {named}")


def test_verify_refuses_with_the_code_of_usage() -> None:
    done = tool("btc-export", "--verify", bundled_model(), "--all", "--sign", bundled_model())
    assert done.returncode == 2
    assert "--all, --sign" in done.stderr
    assert len(done.stderr.splitlines()) == 1

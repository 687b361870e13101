"""The wheel in fresh environments without TensorFlow: every Python here, both interpreters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device.conftest import draw_slice, encode

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def find_python(version: str) -> str | None:
    """An interpreter of this version that really runs (a version manager's shim may not)."""
    places = [shutil.which(f"python{version}")]
    places += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    for place in filter(None, places):
        done = subprocess.run([place, "-c", "import ensurepip"], capture_output=True)
        if done.returncode == 0:
            return place
    return None


def run(*words: object, **options: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "*-out", "runs"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(20):
        (folder / f"{i:02d}.png").write_bytes(encode(draw_slice(i), ".png"))
    return folder


@pytest.fixture(scope="module")
def here(pictures: Path) -> list[dict]:
    """The answers of this environment."""
    return classify(Path(sys.executable).parent, pictures)


def classify(bin_folder: Path, pictures: Path) -> list[dict]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    out = run(bin_folder / "btc-edge", "classify", "-r", pictures, "--format", "json",
              env=environment, cwd=pictures)  # fmt: skip
    answers: list[dict] = json.loads(out)
    return answers


def check_same(answers: list[dict], expected: list[dict]) -> None:
    assert [a["raw_label"] for a in answers] == [e["raw_label"] for e in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        # Interpreters may differ by one quantisation step of a logit.
        assert answer["confidence"] == pytest.approx(wanted["confidence"], abs=0.08)


def check_light(python: Path) -> None:
    code = (
        "import importlib.util as u, sys, edge_runtime\n"
        "assert all(u.find_spec(m) is None for m in ('tensorflow', 'keras', 'sklearn', 'pandas'))"
    )
    run(python, "-c", code, cwd=python.parent)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_litert(
    version: str, wheel: Path, pictures: Path, here: list[dict], tmp_path: Path
) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    run(python, "-m", "venv", tmp_path / "env")
    inside = tmp_path / "env" / "bin"
    run(inside / "python", "-m", "pip", "install", "--quiet", wheel)
    check_light(inside / "python")
    check_same(classify(inside, pictures), here)


def test_tflite_runtime(wheel: Path, pictures: Path, here: list[dict], tmp_path: Path) -> None:
    python = find_python("3.11")
    if python is None:
        pytest.skip("no Python 3.11 on this machine")
    run(python, "-m", "venv", tmp_path / "env")
    inside = tmp_path / "env" / "bin"
    pip = (inside / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "-r", ROOT / "requirements-device-minimal.txt")
    run(*pip, "--no-deps", wheel)
    check_light(inside / "python")
    code = "import importlib.util as u; assert u.find_spec('ai_edge_litert') is None"
    run(inside / "python", "-c", code)
    check_same(classify(inside, pictures), here)
    missing = subprocess.run(
        [inside / "btc-train", pictures], capture_output=True, text=True, cwd=tmp_path
    )
    assert missing.returncode == 2
    assert "pip install 'btc-edge[train]'" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    run(*pip, "numpy>=2,<2.3")
    refused = subprocess.run(
        [inside / "btc-edge", "classify", pictures / "00.png"], capture_output=True, text=True
    )
    assert refused.returncode == 3
    assert "does not work with numpy 2" in refused.stderr

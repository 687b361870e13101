"""The wheel in fresh environments without TensorFlow: every Python here, every interpreter."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.decision.prediction import probabilities
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.outputs import outputs_elsewhere, outputs_of, version_elsewhere
from tests.device.conftest import pack

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


def run(*words: object, quiet: bool = False, **options: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not quiet or done.stderr == "", "interpreters keep their noise to themselves"
    return done.stdout


def install(python: str, folder: Path, *words: object) -> Path:
    """A fresh environment with `words` for pip installed; its folder of programs.

    This environment's pip runs under `python`: to put one into each takes seconds.
    """
    run(python, "-m", "venv", "--without-pip", folder)
    pip(folder / "bin", *words)
    return folder / "bin"


def pip(inside: Path, *words: object) -> None:
    run(sys.executable, "-m", "pip", "--python", inside / "python", "install", "--quiet",
        *words)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv*", ".arm", "*-out", "runs", "build"),
    )
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


def outside() -> dict[str, str]:
    """The environment variables of a shell that knows nothing of this one's Python."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


def classify(bin_folder: Path, pictures: Path, *words: object) -> list[dict]:
    out = run(bin_folder / "btc-edge", "classify", "-r", pictures, "--format", "json", *words,
              quiet=True, env=outside(), cwd=pictures)  # fmt: skip
    answers: list[dict] = json.loads(out)
    return answers


def check_same(answers: list[dict], expected: list[dict]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        # Interpreters may differ by quantisation steps, and so in the label of a tie.
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], abs=0.08)
        best, second = sorted(wanted["probabilities"].values())[:-3:-1]
        assert answer["raw_label"] == wanted["raw_label"] or best - second < 0.16
    same = [a["raw_label"] == e["raw_label"] for a, e in zip(answers, expected, strict=True)]
    assert same.count(False) <= 1


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
    inside = install(python, tmp_path / "env", wheel)
    check_light(inside / "python")
    check_same(classify(inside, pictures), here)
    guide_for_devices(inside, pictures, tmp_path)


def guide_for_devices(inside: Path, pictures: Path, folder: Path) -> None:
    """The commands and the code of the guide for devices, as they stand there."""
    text = (ROOT / "docs" / "devices.md").read_text("utf-8")
    shutil.copytree(pictures, folder / "scans" / "glioma")
    shutil.copytree(pictures, folder / "scans" / "notumor")
    shutil.copytree(pictures, folder / "patient-1")
    shutil.make_archive(str(folder / "disc"), "zip", pictures)
    picture = cv2.imread(str(pictures / "00.png"))
    cv2.imwrite(str(folder / "slice.jpg"), picture)
    path = f"{inside}{os.pathsep}{os.environ['PATH']}"
    ran = 0
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
        for line in block.splitlines():
            if "btc-edge" in line and "runs/" not in line and ".dcm" not in line:
                run("bash", "-c", line, cwd=folder, env=outside() | {"PATH": path})
                ran += 1
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        run(inside / "python", "-c", code, cwd=folder, env=outside())
        ran += 1
    assert ran >= 6


def test_onnx_runtime_and_the_device_tests(wheel: Path, pictures: Path, tmp_path: Path) -> None:
    """An environment with ONNX Runtime, the readers of volumes and the checker of signatures, in
    which the device's own tests run: inputs, answers, interpreters without TensorFlow."""
    inside = install(
        sys.executable, tmp_path / "env", f"{wheel}[onnx,dicom,nifti,signing]", "pytest",
        "hypothesis", "tifffile", "imagecodecs", "python-gdcm", "pyjpegls", "pylibjpeg",
        "pylibjpeg-openjpeg",
    )  # fmt: skip
    check_light(inside / "python")
    said = device_tests(
        inside,
        tmp_path,
        *("--ignore", tmp_path / "tests" / "device" / "test_environments.py"),
        *("--ignore", tmp_path / "tests" / "device" / "test_hostile.py"),
        tmp_path / "tests" / "device",
    )
    assert "skipped" not in said


# The lower ends in pyproject.toml. The upper ones are what the test above installs.
OLDEST = ("opencv-python-headless==4.8.*", "numpy==1.24.*", "ai-edge-litert==1.3.*")
OF_PIXELS = ("preprocess", "pyramid", "features", "answers", "images")  # with the golden values


def test_the_oldest_opencv_numpy_and_litert(
    wheel: Path, pictures: Path, here: list[dict], tmp_path: Path
) -> None:
    python = find_python("3.11")
    if python is None:
        pytest.skip("no Python 3.11 on this machine")
    inside = install(python, tmp_path / "env", wheel, *OLDEST, "pytest", "hypothesis")
    check_same(classify(inside, pictures), here)
    names = [f"test_{name}.py" for name in OF_PIXELS]
    said = device_tests(
        inside, tmp_path, "-k", "not still_gif", *(f"tests/device/{name}" for name in names)
    )
    assert "skipped" not in said


def device_tests(inside: Path, folder: Path, *words: object) -> str:
    """What pytest says of the device's tests in an environment, of copies outside a checkout."""
    shutil.copytree(ROOT / "tests" / "device", folder / "tests" / "device")
    shutil.copytree(ROOT / "tests" / "former" / "files", folder / "tests" / "former" / "files")
    shutil.copytree(ROOT / "benchmarks" / "hostile", folder / "benchmarks" / "hostile")
    for name in ("benchmarks/__init__.py", "tests/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    said = run(inside / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words,
               cwd=folder, env=outside())  # fmt: skip
    assert "passed" in said
    return said


def check_rules(inside: Path, pictures: Path, folder: Path) -> None:
    """Another environment is asked by its Python, and goes by the rule of its own runtime."""
    python, name, file = inside / "python", "tflite-runtime", read_model()
    version = version_elsewhere(python, name)
    assert version.startswith("2.14")
    slices = np.stack([preprocess(draw_slice(i), file.info.preprocess) for i in range(4)])
    data = bundled_model().read_bytes()
    one, two = outputs_of(file, slices), outputs_elsewhere(python, name, data, slices)
    assert {key: rows.shape for key, rows in one.items()} == {
        key: rows.shape for key, rows in two.items()
    }
    assert np.abs(one["logits"] - two["logits"]).max() < 1
    ood = dict(file.info.ood or {})
    own = {"version": version, "temperature": 3.0, "thresholds": None,
           "ood": {key: ood[key] for key in ("levels", "threshold")}}  # fmt: skip
    with_it = {"runtime": "litert", "version": "2"}
    for rules, temperature, lines in (({name: own}, 3.0, 0), (None, file.info.temperature, 1)):
        path = pack(folder / "m.tflite", fitted_with=with_it, rules=rules)
        done = subprocess.run(
            [inside / "btc-edge", "classify", pictures / "00.png", "--format", "json", "--model",
             path], capture_output=True, text=True, env=outside(),
        )  # fmt: skip
        (answer,) = json.loads(done.stdout)
        first = preprocess(cv2.imread(str(pictures / "00.png"), 0), file.info.preprocess)
        logits = outputs_elsewhere(python, name, data, first[None])["logits"]
        expected = probabilities(logits, temperature)[0].tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
        assert len(done.stderr.splitlines()) == lines
        assert not lines or f"may not hold in {name}" in done.stderr


def test_tflite_runtime(wheel: Path, pictures: Path, here: list[dict], tmp_path: Path) -> None:
    python = find_python("3.11")
    if python is None:
        pytest.skip("no Python 3.11 on this machine")
    minimal = ROOT / "requirements-device-minimal.txt"
    inside = install(python, tmp_path / "env", "-r", minimal)
    pip(inside, "--no-deps", wheel)
    check_light(inside / "python")
    code = "import importlib.util as u; assert u.find_spec('ai_edge_litert') is None"
    run(inside / "python", "-c", code)
    check_same(classify(inside, pictures), here)
    check_rules(inside, pictures, tmp_path)
    missing = subprocess.run(
        [inside / "btc-train", pictures], capture_output=True, text=True, cwd=tmp_path
    )
    assert missing.returncode == 2
    assert "pip install 'btc-edge[train]'" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    pip(inside, "numpy>=2,<2.3")
    refused = subprocess.run(
        [inside / "btc-edge", "classify", pictures / "00.png"], capture_output=True, text=True
    )
    assert refused.returncode == 3
    assert "does not work with numpy 2" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

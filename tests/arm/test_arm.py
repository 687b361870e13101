"""The wheel on ARM, 64 and 32 bits, as the guide says: Debian's roots under QEMU (`make test-arm`).

That emulates processors, so it tells whether answers are right, and nothing of how fast they come.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.model.load import BUNDLED
from tests.arm.roots import (
    ARM64,
    ARMHF,
    CACHE,
    HOME,
    PIP,
    ROOT,
    TESTS,
    Architecture,
    Root,
    Unavailable,
    build_wheel,
    fetch,
    missing,
    run,
)
from tests.documents import blocks

REASON = missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=f"no root: {REASON}")]
BOTH = pytest.mark.parametrize("name", [ARM64.name, ARMHF.name])
REAL = ROOT.parent / "shared" / "data" / "brain-tumor-mri.zip"
# Tests of the device side that start few processes; others take minutes under emulation. Left out
# of them: bytes that are no graph, which end tflite-runtime on every processor (the device tries a
# file without a digest in a process of its own).
LIGHT = ("preprocess", "pyramid", "head", "kinds", "ood", "model_file", "classifier", "images")
BIN = f"/{HOME}/btc-edge/bin"
MAIN = "from edge_runtime.commands.main import main\nmain()"
# tflite-runtime has no fast kernels for int8 on armv7l, and counts there as its reference kernels
# do; on x86-64 it has others, so it must be told.
REFERENCE = """
import functools, tflite_runtime.interpreter as t
t.Interpreter = functools.partial(
    t.Interpreter, experimental_op_resolver_type=t.OpResolverType.BUILTIN_REF)
"""


class Findings(NamedTuple):
    """What was seen in a root: what the guide's last lines wrote, answers, digests of pixels, what
    `info` and `verify` wrote, and the end of the device's tests."""

    guide: str
    answers: list[dict]
    pixels: dict[str, list[str]]
    info: dict
    verified: str
    tests: str


def guide_lines(name: str) -> list[str]:
    """The lines to type on that architecture."""
    typed = [text for text in blocks(ROOT / "docs" / "devices.md", "bash") if "apt install" in text]
    return typed[[ARM64.name, ARMHF.name].index(name)].splitlines()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn slices in several formats; where the real ones lie beside this checkout, some."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, suffix in enumerate([".jpg", ".png", ".bmp", ".tiff", ".webp"] * 4):
        (folder / f"{i:02d}{suffix}").write_bytes(encode(draw_slice(i), suffix))
    if REAL.is_file():
        with zipfile.ZipFile(REAL) as archive:
            for i, name in enumerate(sorted(archive.namelist())[::120]):
                (folder / f"real-{i:02d}.jpg").write_bytes(archive.read(name))
    return folder


def examine(root: Root, wheel: Path, pictures: Path) -> Findings:
    """Set up a root and see what the project does in it."""
    root.make(wheel, (pictures / "00.jpg").read_bytes())
    inside = root.home / "inside"
    shutil.rmtree(inside, ignore_errors=True)
    shutil.copytree(pictures, inside / "pictures")
    for name in ("tests/device", "tests/former/files", "benchmarks/hostile"):
        shutil.copytree(ROOT / name, inside / name)
    for name in ("tests/__init__.py", "benchmarks/__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, inside / name)
    shutil.copy(ROOT / "tests" / "arm" / "inside.py", inside)
    tool, python = f"{BIN}/btc-edge", f"{BIN}/python"
    (models,) = root.home.glob("btc-edge/lib/python3*/site-packages/edge_runtime/models")
    model = models / BUNDLED["small"]
    given = f"/{HOME}/inside/pictures"
    answered = root.run(tool, "classify", "-r", given, "--format", "json", quiet=True)
    tested = [f"tests/device/test_{part}.py" for part in LIGHT]
    words = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not hypothesis",
             "-k", "not threads and not no_graph", *tested]  # fmt: skip
    code = f"import os, pytest\nos.chdir('/{HOME}/inside')\nprint(int(pytest.main({words})))"
    return Findings(
        root.said,
        json.loads(answered),
        json.loads(root.run(python, f"/{HOME}/inside/inside.py", given)),
        json.loads(root.run(tool, "info", "--format", "json", quiet=True)),
        root.run(tool, "verify", f"/{model.relative_to(root.folder)}", quiet=True),
        root.run(python, "-c", code, PYTHONPATH=f"/{TESTS}"),
    )


@pytest.fixture(scope="module")
def findings(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Findings]]]:
    """Both roots, set up and examined at the same time."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    roots = [Root(architecture, guide_lines(architecture.name)) for architecture in (ARM64, ARMHF)]
    with ThreadPoolExecutor(len(roots)) as pool:
        yield {
            root.architecture.name: pool.submit(examine, root, wheel, pictures) for root in roots
        }


@pytest.fixture
def found(findings: dict[str, Future[Findings]], name: str) -> Findings:
    try:
        return findings[name].result()
    except Unavailable as error:
        pytest.skip(f"no root for {name}: {error}")


def here(code: str, *words: object, path: str | None = None) -> str:
    """What Python code writes on this machine; with `path` it sees the packages there only."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    if path is None:
        return run(sys.executable, "-c", code, *words, env=kept, cwd=ROOT)
    return run(sys.executable, "-S", "-c", code, *words, env=kept | {"PYTHONPATH": path})


@pytest.fixture(scope="module")
def small_packages() -> str:
    """The smallest set of packages on this machine, as PYTHONPATH."""
    if sys.version_info[:2] not in {(3, 10), (3, 11)}:
        pytest.skip("tflite-runtime 2.14 is there for Python 3.10 and 3.11 only")
    needed = ROOT / "requirements-device-minimal.txt"
    place = CACHE / f"here-{sys.version_info[1]}"
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        try:
            fetch(*PIP, "install", "--target", place, "--requirement", needed)
        except Unavailable as error:
            pytest.skip(f"no tflite-runtime here: {error}")
        (place / "ready").touch()
    return f"{place}:{ROOT}"


@BOTH
def test_the_guide_leads_to_an_answer(found: Findings) -> None:
    assert "slice.jpg" in found.guide
    assert re.search(r"\b(ok|uncertain|unfamiliar)\b", found.guide)


@BOTH
def test_what_the_model_is_given_is_the_same_to_the_bit(found: Findings, pictures: Path) -> None:
    code = (ROOT / "tests" / "arm" / "inside.py").read_text("utf-8")
    assert found.pixels == json.loads(here(code, pictures))
    assert len(found.pixels) >= 20


def check_answers(answers: list[dict], wanted: list[dict]) -> None:
    """Equal, but for a last bit of an exponential, and of the path the file's name only. One step
    of the model's integers would be a hundredth."""
    for answer, expected in zip(answers, wanted, strict=True):
        for numbers in ("probabilities", "confidence"):
            assert answer[numbers] == pytest.approx(expected[numbers], rel=1e-12, abs=1e-12)
        for one in (answer, expected):
            del one["probabilities"], one["confidence"]
            one["input"] = Path(one["input"]).name
        assert answer == expected
    assert len(answers) >= 20


@pytest.mark.parametrize("name", [ARM64.name])
def test_litert_answers_as_on_x86_64(found: Findings, pictures: Path) -> None:
    said = here(MAIN, "classify", "-r", pictures, "--format", "json", "--backend", "litert")
    check_answers(found.answers, json.loads(said))


@pytest.mark.parametrize("name", [ARMHF.name])
def test_tflite_runtime_answers_as_its_reference_does(
    found: Findings, pictures: Path, small_packages: str
) -> None:
    said = here(REFERENCE + MAIN, "classify", "-r", pictures, "--format", "json",
                path=small_packages)  # fmt: skip
    check_answers(found.answers, json.loads(said))


@BOTH
def test_info_and_verify(found: Findings) -> None:
    assert found.info == json.loads(here(MAIN, "info", "--format", "json"))
    assert re.search(r"\bruns\b", found.verified)


@BOTH
def test_the_device_tests_pass(found: Findings) -> None:
    passed = re.search(r"(\d+) passed", found.tests)
    assert found.tests.split()[-1] == "0", found.tests[-3000:]
    assert passed is not None
    assert int(passed[1]) > 400


def test_nothing_is_left_mounted(findings: dict[str, Future[Findings]]) -> None:
    for future in findings.values():
        future.exception()  # until it has ended
    assert str(CACHE) not in Path("/proc/mounts").read_text("utf-8")
    handlers = Path("/proc/sys/fs/binfmt_misc")
    assert not (handlers / "arm").exists()


def test_a_program_that_fails_tells_what_it_said() -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        run("sh", "-c", "echo no such thing >&2; exit 3")


def test_a_root_that_cannot_be_had_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.arm.roots.CACHE", tmp_path)
    odd = Architecture("m86k", *ARM64[1:])
    with pytest.raises(Unavailable, match="mmdebstrap"):
        Root(odd, guide_lines("arm64")).make(tmp_path / "none.whl", b"")

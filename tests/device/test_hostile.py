"""Altered files through the real command; benchmarks.hostile is the large run."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
pytest.importorskip("PIL")

from benchmarks.hostile import bombs
from benchmarks.hostile.alter import alter
from benchmarks.hostile.attack import Table, attack_images, attack_models
from benchmarks.hostile.files import MAKERS, dicom_bytes, draw, nifti_bytes
from benchmarks.hostile.models import MODEL_KINDS, alter_model, alter_unsigned, strip_digest
from benchmarks.hostile.pictures import black_png, encode
from edge_runtime.classifier import Classifier
from edge_runtime.errors import InputError, ModelError
from edge_runtime.imaging.readers import slices_of
from edge_runtime.model import untrusted as unsigned
from edge_runtime.model.file_format import parse_model
from edge_runtime.model.load import bundled_model, read_model
from tests.device.test_cli import edge

MODEL = bundled_model().read_bytes()


def images(count: int, first: int) -> Table:
    table = Table(keep=None)
    attack_images(count, first, table, alter)
    return table


def models(count: int, first: int) -> Table:
    table = Table(keep=None)
    cases = (alter_model(first + i, MODEL, MODEL[::-1]) for i in range(count))
    attack_models(cases, table, "model", MODEL)
    return table


def total(table: Table, column: str) -> int:
    return sum(row[column] for row in table.rows.values())


def test_altered_images() -> None:
    table = images(400, 500_000)
    assert table.failures == []
    assert total(table, "altered") == total(table, "refused") + total(table, "answered") == 400


def test_altered_models() -> None:
    table = models(2 * len(MODEL_KINDS), 500_000)
    assert table.failures == []
    assert total(table, "refused") == 2 * len(MODEL_KINDS)


def test_the_size_of_who_starts_the_command_is_not_its_own() -> None:
    ballast = np.ones(700 << 20, np.uint8)
    assert models(1, 550_000).failures == []
    assert ballast[-1] == 1


@pytest.mark.slow
def test_many_altered_files() -> None:
    assert images(4000, 600_000).failures == []
    assert models(100, 600_000).failures == []
    table = Table(keep=None)
    cases = (alter_unsigned(600_000 + i, MODEL) for i in range(28))
    attack_models(cases, table, "unsigned", MODEL)
    assert table.failures == []


def test_a_seed_makes_the_same_file_again() -> None:
    assert [alter(seed) for seed in range(40)] == [alter(seed) for seed in range(40)]
    for seed in range(20):
        case = alter_model(seed, MODEL, MODEL[::-1])
        assert case == alter_model(seed, MODEL, MODEL[::-1])
        assert case.data != MODEL


def test_every_format_is_read_and_answered() -> None:
    classifier = Classifier()
    for name, make in MAKERS.items():
        answers = list(classifier.classify_slices(make(1)))
        assert len(answers) == {"dcm enhanced": 4, "dcm jpeg": 4}.get(
            name, 6 if name.startswith("nii") else 1
        ), name
        assert {answer.error for answer in answers} == {None}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A slice and the bundled model without its digest."""
    picture, model = tmp_path / "slice.png", tmp_path / "unsigned.tflite"
    picture.write_bytes(encode(draw(1), ".png"))
    model.write_bytes(strip_digest(MODEL))
    return picture, model


def test_no_digest_no_answer(files: tuple[Path, Path]) -> None:
    picture, model = files
    done = edge("classify", picture, "--model", model)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--allow-unsigned" in done.stderr


def test_an_unsigned_model_keeps_its_schema(tmp_path: Path) -> None:
    former = Path(__file__).parents[1] / "former" / "files" / "network-int8.tflite"
    model = tmp_path / "model.tflite"
    for data, schema in ((former.read_bytes(), 1), (MODEL, parse_model(MODEL).info.schema)):
        model.write_bytes(strip_digest(data))
        assert read_model(model, allow_unsigned=True).info.schema == schema


def test_an_unsigned_model_answers_as_the_signed_one(files: tuple[Path, Path]) -> None:
    picture, model = files
    with pytest.raises(ModelError, match="--allow-unsigned"):
        read_model(model)
    ours = Classifier(read_model(model, allow_unsigned=True)).classify(picture)
    signed = Classifier().classify(picture)
    assert (ours.status, ours.probabilities) == (signed.status, signed.probabilities)
    done = edge("classify", picture, "--model", model, "--allow-unsigned", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probabilities"] == dict(signed.probabilities or {})


@pytest.mark.parametrize(
    ("child", "message"),
    [("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "code -11"),
     ("import time; time.sleep(60)", "over 1 s"),
     ("raise ValueError", "code 1"),
     ("print('{}')", "another process"),
     ("print('3')", "another process"),
     ("print('{\"error\": \"told\"}')", "told")],
)  # fmt: skip
def test_a_trial_that_fails_is_a_model_error(
    child: str, message: str, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsigned, "_CHILD", child)
    monkeypatch.setattr(unsigned, "SECONDS", 1)
    with pytest.raises(ModelError, match=message):
        read_model(files[1], allow_unsigned=True)


def test_metadata_that_was_touched_is_refused() -> None:
    reasons: Counter[str] = Counter()
    seeds = range(sorted(MODEL_KINDS).index("zip made anew"), 600, len(MODEL_KINDS))
    for seed in seeds:
        case = alter_model(seed, MODEL, b"other")
        assert case.kind == "zip made anew"
        with pytest.raises(ModelError) as caught:
            parse_model(case.data)
        reasons[str(caught.value).partition(":")[0]] += 1
    assert len(reasons) == 2, "no digest, or one that does not match"


# What each costs a decoder that takes it at its word: gigabytes, or minutes.
COSTLY = {
    "gzip": lambda: bombs._zeros(100),
    "deflated": lambda: bombs._deflated(np.random.default_rng(1)),
    "narrow": lambda: black_png(60_000, 1),
    "gigapixel": lambda: black_png(8000, 8000),
    "scans": lambda: bombs.many_scans(1900, 2000),
    "tiles": lambda: bombs.tiff(64, 64, t322=16384, t323=16384, t258=16),
    "floats": lambda: bombs.full_tiff(6000, 32, 3),
    "progressive": lambda: bombs.encoded(5000, "JPEG", True, progressive=True, subsampling=0),
    "lossless": lambda: bombs.encoded(4500, "WEBP", True, lossless=True, method=0),
    "segments": lambda: bombs.jpeg_segments(b"\xff\xfe\x00\x02", 8_000_000),
    "markers": lambda: bombs.jpeg_segments(b"\xff\x01", 16_000_000),
    "stray": lambda: bombs.jpeg_segments(b"\x00", 32_000_000),
    "chunks": lambda: bombs.png_chunks(2_500_000),
    "blocks": lambda: bombs.gif_blocks(16_000_000),
    "chunk": lambda: encode(draw(1), ".png")[:33] + b"\x80\0\0\0" + encode(draw(1), ".png")[37:],
    "runs": lambda: bombs._encoded(
        np.array([1, 64, *[0] * 14], "<u4").tobytes() + b"\x81\0" * (2 << 20), bombs.RLELossless
    ),
    "larger frame": lambda: bombs._encoded(bombs._black(4000, "JPEG"), bombs.JPEGBaseline8Bit),
    "larger frame, 2000": lambda: bombs._encoded(
        bombs._black(4000, "JPEG2000"), bombs.JPEG2000Lossless
    ),
    "frames": lambda: dicom_bytes(draw(1), NumberOfFrames=2**31 - 1),
    "sides": lambda: dicom_bytes(draw(1), Rows=65535, Columns=65535),
}
# What is large and yet within the limits: it is answered, within the same memory.
LARGE = {
    "black": lambda: black_png(7000, 7000),
    "colours": lambda: black_png(6000, 6000, 16, 6),
    "baseline": lambda: bombs.encoded(6000, "JPEG", True),
    "progressive within": lambda: bombs.encoded(4000, "JPEG", True, progressive=True),
    "strip": lambda: bombs.full_tiff(3000, 16, 1),
    "long": lambda: black_png(25_000, 1600),
}
CAP = 512  # MiB for the whole process
SECONDS = 60  # of processor time for all of them, and for making Python start


def test_costly_files_need_little(tmp_path: Path) -> None:
    """With the default limits."""
    makers = {**COSTLY, **LARGE}
    for name, make in makers.items():
        (tmp_path / name).write_bytes(make())
    code = (
        "import json, sys\n"
        "from edge_runtime.classifier import Classifier\n"
        "classifier = Classifier()\n"
        "for path in sys.argv[1:]:\n"
        "    (answer,) = classifier.classify_many([path])\n"
        "    with open('/proc/self/status') as status:\n"
        "        peak = next(int(line.split()[1]) for line in status if 'VmHWM' in line)\n"
        "    print(json.dumps([answer.status.value, answer.error, peak / 1024]), flush=True)\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
    )

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    done = subprocess.run(
        [sys.executable, "-c", code, *(tmp_path / name for name in makers)],
        capture_output=True, text=True, preexec_fn=bounded,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (len(rows), done.stderr)
    assert len(rows) == len(makers)
    for name, (status, error, mib) in zip(makers, rows, strict=True):
        assert (status == "error") == (name in COSTLY), (name, status, error)
        assert mib < CAP, name


def test_pixels_of_twenty_to_one_need_no_twentyfold_memory() -> None:
    wide = dicom_bytes(np.zeros((1900, 2000), np.uint8), PixelSpacing=[20, 1])
    assert all(part.gray.size <= 8_000_000 for part in slices_of(wide))


def test_damaged_functional_groups_are_an_input_error() -> None:
    data = dicom_bytes(draw(1))
    at = data.find(b"\xe0\x7f\x10\x00")
    odd = b"\x00\x52\x29\x92US\x03\x00abc"  # a sequence that says it is a number
    with pytest.raises(InputError, match="damaged"):
        list(slices_of(data[:at] + odd + data[at:]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("slope", [1e30, -1e38, float("inf"), float("nan")])
def test_values_that_overflow_say_nothing(slope: float) -> None:
    volume = np.stack([draw(1, 48, 40)] * 3).astype(np.float32) * np.float32(1e35)
    volume[0, 3, 3], volume[1, 4, 4] = np.nan, np.inf
    data = bytearray(nifti_bytes(volume))
    data[112:116] = np.float32(slope).tobytes()
    with suppress(InputError):
        assert len(list(slices_of(bytes(data)))) == 40

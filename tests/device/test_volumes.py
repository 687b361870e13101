"""DICOM and NIfTI: what the files say of their values and their geometry is obeyed."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import Classifier, InputError
from edge_runtime.images import ImageLimits
from edge_runtime.slices import slices_of
from tests.device.conftest import draw_slice, encode
from tests.device.test_cli import edge

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

from benchmarks.hostile_files import dicom_bytes, nifti_bytes  # noqa: E402 - they need both

PICTURE = draw_slice(3)[:150, :180]
DEEP = PICTURE.astype(np.uint16) * 8 + 100  # 100 to 2140


def only(data: bytes, **options: object) -> np.ndarray:
    (part,) = slices_of(data, **options)
    assert part.number is None
    return part.gray


def near(gray: np.ndarray, wanted: np.ndarray, levels: float = 1.0) -> bool:
    return bool(np.abs(gray.astype(float) - wanted).max() <= levels)


def test_dicom_without_window_spans_its_own_values() -> None:
    low, high = DEEP.min(), DEEP.max()
    wanted = (DEEP.astype(float) - low) / (high - low) * 255
    assert near(only(dicom_bytes(DEEP)), wanted)


def test_dicom_window_counts_after_the_rescale() -> None:
    # Stored values times 2 minus 200 are 16 times the gray level; the window shows 0 to 4080.
    data = dicom_bytes(
        DEEP, RescaleSlope=2, RescaleIntercept=-200, WindowCenter=2040.5, WindowWidth=4081
    )
    assert near(only(data), PICTURE)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_dicom_window_functions(function: str) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    gray = only(dicom_bytes(ramp, WindowCenter=2048, WindowWidth=1024, VOILUTFunction=function))
    flat = gray.ravel().astype(float)
    assert (np.diff(flat) >= 0).all()
    assert flat[2048] == pytest.approx(127.5, abs=1)
    by_hand = {"LINEAR": 63.75, "LINEAR_EXACT": 63.75, "SIGMOID": 255 / (1 + np.e)}[function]
    assert flat[2048 - 256] == pytest.approx(by_hand, abs=1)
    if function != "SIGMOID":
        assert (flat[2048 - 513], flat[2048 + 513]) == (0, 255)


def test_dicom_of_several_windows_takes_the_first() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    one = only(dicom_bytes(ramp, WindowCenter=1000, WindowWidth=500))
    many = only(dicom_bytes(ramp, WindowCenter=[1000, 9], WindowWidth=[500, 9]))
    np.testing.assert_array_equal(one, many)


def test_monochrome1_is_white_on_black() -> None:
    plain = only(dicom_bytes(DEEP))
    inverse = only(dicom_bytes(DEEP.max() - DEEP, PhotometricInterpretation="MONOCHROME1"))
    assert near(inverse, plain)


def test_signed_pixels_and_padding() -> None:
    signed = DEEP.astype(np.int16) - 1000
    padded = signed.copy()
    padded[:20] = -2000
    data = dicom_bytes(padded, PixelPaddingValue=-2000)
    wanted = only(dicom_bytes(signed))
    assert near(only(data)[20:], wanted[20:])
    assert (only(data)[:20] == 0).all()


def test_dicom_pixels_that_are_not_square_are_stretched() -> None:
    assert only(dicom_bytes(DEEP, PixelSpacing=[1.0, 0.5])).shape == (300, 180)
    assert only(dicom_bytes(DEEP, PixelSpacing=[0.5, 0.5])).shape == (150, 180)
    assert only(dicom_bytes(DEEP, PixelSpacing=[0.0, 0.5])).shape == (150, 180)


def test_frames_are_slices_in_their_order() -> None:
    frames = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    parts = list(slices_of(dicom_bytes(frames)))
    assert [part.number for part in parts] == [0, 1, 2]
    np.testing.assert_array_equal(parts[1].gray, parts[0].gray[::-1])
    np.testing.assert_array_equal(parts[2].gray, parts[0].gray[:, ::-1])


def test_enhanced_images_have_their_values_frame_by_frame() -> None:
    def groups(intercept: float, center: float) -> pydicom.Dataset:
        group, values, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, intercept, "US"
        window.WindowCenter, window.WindowWidth = center, 2041
        group.PixelValueTransformationSequence = [values]
        group.FrameVOILUTSequence = [window]
        return group

    measures, shared = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = [1.0, 0.5]
    shared.PixelMeasuresSequence = [measures]
    data = dicom_bytes(
        np.stack([DEEP, DEEP]),
        PerFrameFunctionalGroupsSequence=[groups(-100, 1020.5), groups(900, 2020.5)],
        SharedFunctionalGroupsSequence=[shared],
    )
    first, second = (part.gray for part in slices_of(data))
    assert first.shape == (300, 180)
    np.testing.assert_array_equal(first, second)
    assert near(first[::2], PICTURE, 60)


def test_nothing_of_the_patient_is_read_or_told(tmp_path: Path) -> None:
    from edge_runtime.dicom import ELEMENTS

    groups = {pydicom.datadict.tag_for_keyword(name) >> 16 for name in ELEMENTS}
    assert groups == {0x0028, 0x5200}
    who = {"PatientName": "Mustermann^Erika", "PatientID": "4711-0815", "StudyDate": "not a date"}
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(DEEP, **who))
    (tmp_path / "b.dcm").write_bytes(dicom_bytes(DEEP, **who)[:-5000])
    for style in ("table", "json", "csv"):
        done = edge("classify", tmp_path / "a.dcm", tmp_path / "b.dcm", "--format", style)
        assert done.returncode == 1
        assert "b.dcm: truncated or damaged DICOM" in done.stderr
        for secret in ("Mustermann", "4711", "not a date"):
            assert secret not in done.stdout + done.stderr


def test_dicom_that_is_refused() -> None:
    cases = {
        "without an image": pydicom_without_pixels(),
        "over the limit": dicom_bytes(DEEP, NumberOfFrames=50_000),
        "deflated": dicom_bytes(DEEP).replace(
            b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0"
        ),
        "truncated or damaged": dicom_bytes(DEEP)[:-1000],
    }
    for reason, data in cases.items():
        with pytest.raises(InputError, match=reason):
            list(slices_of(data))
    with pytest.raises(InputError, match="180x150 pixels: over the limit"):
        list(slices_of(dicom_bytes(DEEP), ImageLimits(max_pixels=1000)))


def pydicom_without_pixels() -> bytes:
    data = dicom_bytes(DEEP)
    return data[: data.index(b"\x28\x00\x02\x00")]


@pytest.mark.parametrize(("module", "data"), [("dicom", dicom_bytes), ("nifti", nifti_bytes)])
def test_a_missing_package_is_said_and_the_rest_goes_on(
    module: str, data: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(data)
    file = data(DEEP if module == "dicom" else np.stack([DEEP] * 3, axis=2))
    package = {"dicom": "pydicom", "nifti": "nibabel"}[module]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"edge_runtime.{module}", raising=False)
    bad, good = Classifier().classify_many([file, encode(PICTURE)])
    assert bad.error is not None
    assert f"pip install 'btc-edge[{module}]'" in bad.error
    assert good.error is None


# A head in RAS+ millimetres: every voxel knows where it is.
SIZE = (20, 24, 16)
RIGHT, FRONT, UP = np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij")


def world(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int16) * 10


@pytest.mark.parametrize(
    ("plane", "values", "count", "shape", "rises"),
    [
        ("axial", RIGHT, 16, (24, 20), "left"),
        ("axial", FRONT, 16, (24, 20), "up"),
        ("coronal", RIGHT, 24, (16, 20), "left"),
        ("coronal", UP, 24, (16, 20), "up"),
        ("sagittal", FRONT, 20, (16, 24), "left"),
        ("sagittal", UP, 20, (16, 24), "up"),
    ],
)
@settings(max_examples=20, deadline=None)
@given(order=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3))
def test_planes_are_shown_as_radiologists_see_them(
    plane: str, values: np.ndarray, count: int, shape: tuple[int, int], rises: str,
    order: list[int], flips: tuple[bool, bool, bool],
) -> None:  # fmt: skip
    """Whichever way the voxels lie in the file."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    stored = world(values)
    for axis, flip in enumerate(flips):
        if flip:
            stored = np.flip(stored, axis)
    stored = stored.transpose(order)
    for place, axis in enumerate(order):
        affine[axis, place] = -1 if flips[axis] else 1
    parts = list(slices_of(nifti_bytes(stored, affine), plane=plane))
    assert len(parts) == count
    gray = parts[count // 2].gray.astype(int)
    assert gray.shape == shape
    steps = np.diff(gray, axis=1 if rises == "left" else 0)
    assert (steps <= 0).all()
    assert (steps < 0).sum() >= 0.9 * steps.size
    assert (np.diff(gray, axis=0 if rises == "left" else 1) == 0).all()


def test_nifti_slices_keep_their_proportions_and_share_one_range() -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    stack = np.stack([DEEP, DEEP // 2, DEEP // 4], axis=2)
    grays = [part.gray for part in slices_of(nifti_bytes(stack, affine))]
    assert grays[0].max() == 255
    assert 100 < grays[1].max() < 140
    coronal = list(slices_of(nifti_bytes(stack, affine), plane="coronal"))
    assert coronal[0].gray.shape == (9, 150)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nifti_types_scaling_and_gzip_do_not_matter(dtype: type) -> None:
    stack = np.stack([PICTURE, PICTURE[::-1]], axis=2)
    plain = [part.gray for part in slices_of(nifti_bytes(stack.astype(dtype)))]
    packed = slices_of(gzip.compress(nifti_bytes(stack.astype(dtype), kind=2)))
    for part, wanted in zip(packed, plain, strict=True):
        np.testing.assert_array_equal(part.gray, wanted)
    assert near(plain[0], np.clip(PICTURE.T[::-1, ::-1] * (255 / 240), 0, 255), 20)


def test_nifti_holes_are_black() -> None:
    stack = np.stack([DEEP, DEEP], axis=2).astype(np.float32)
    stack[:40] = np.nan
    grays = [part.gray for part in slices_of(nifti_bytes(stack))]
    assert (grays[0][:, -40:] == 0).all()
    assert grays[0].max() == 255


def test_nifti_that_is_refused() -> None:
    four = np.zeros((4, 5, 6, 3), np.int16)
    good = nifti_bytes(np.stack([DEEP] * 3, axis=2))
    cases = {
        "of 3 volumes": nifti_bytes(four),
        "truncated or damaged NIFTI": good[:-1000],
        "truncated or damaged gzip": gzip.compress(good)[:-20],
        "holds no NIFTI": gzip.compress(b"text" * 500),
        "finite": nifti_bytes(np.full((9, 9, 9), np.nan, np.float32)),
    }
    for reason, data in cases.items():
        with pytest.raises(InputError, match=reason):
            list(slices_of(data))
    bomb = gzip.compress(bytes(3_000_000))
    with pytest.raises(InputError, match="unpacks to more than the limit of 1 MiB"):
        list(slices_of(bomb, ImageLimits(max_bytes=1 << 20)))


def test_a_volume_through_the_command(tmp_path: Path) -> None:
    stack = np.stack([draw_slice(i) for i in range(5)], axis=2)
    path = tmp_path / "head.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes(stack)))
    (tmp_path / "IM0001").write_bytes(dicom_bytes(DEEP))
    (tmp_path / "notes").write_text("no picture")
    done = edge("classify", "-r", tmp_path, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["slice"] for a in answers] == [None, 0, 1, 2, 3, 4]
    assert Path(answers[0]["input"]).name == "IM0001"
    done = edge("classify", "--stdin", "--format", "csv", stdin=path.read_bytes())
    assert len(done.stdout.splitlines()) == 6
    (study,) = json.loads(edge("classify", "--study", path, "--format", "json").stdout)
    assert [a["slice"] for a in study["slices"]] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="several slices"):
        Classifier().classify(path)

"""DICOM and NIfTI: what the files say of their values and their geometry is obeyed."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError
from edge_runtime.commands.inputs import expand
from edge_runtime.imaging.kinds import HEAD, gzipped_kind, kind_of
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.readers import slices_of
from tests.device.test_cli import edge

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

from benchmarks.hostile.files import MAKERS, dicom_bytes, nifti_bytes, pillow_bytes  # noqa: E402 - they need both

PICTURE = draw_slice(3)[:150, :180]
DEEP = PICTURE.astype(np.uint16) * 8 + 100  # 100 to 2140


def only(data: bytes, **options: object) -> np.ndarray:
    (part,) = slices_of(data, **options)
    assert part.number is None
    return part.gray


def near(gray: np.ndarray, wanted: np.ndarray, levels: float = 1.0) -> bool:
    return bool(np.abs(gray.astype(float) - wanted).max() <= levels)


def robust(values: np.ndarray) -> np.ndarray:
    """Gray levels of values between two percentiles of theirs."""
    low, high = np.percentile(values, (0.1, 99.9))
    return np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255)


def test_dicom_without_window_spans_nearly_all_its_own_values() -> None:
    assert near(only(dicom_bytes(DEEP)), robust(DEEP))


@pytest.mark.parametrize("syntax", [None, pydicom.uid.RLELossless])
def test_a_hot_pixel_does_not_darken_a_file_without_a_window(syntax: str | None) -> None:
    """In one frame of many, the others are shown by the same range."""
    hot = np.stack([DEEP] * 3 + [DEEP // 2] * 2)
    hot[1, 40, 50] = 60_000
    how = {"TransferSyntaxUID": syntax} if syntax else {}
    grays = [part.gray for part in slices_of(dicom_bytes(hot, **how))]
    wanted = robust(hot)
    assert all(near(gray, frame) for gray, frame in zip(grays, wanted, strict=True))
    assert np.ptp(grays[0]) > 200
    one = DEEP.copy()
    one[40, 50] = 60_000
    assert np.ptp(np.delete(only(dicom_bytes(one)).ravel(), 40 * 180 + 50)) > 200


@pytest.mark.parametrize("frames", [-1, -(2**31)])
def test_a_file_of_no_frames_is_an_error(frames: int) -> None:
    with pytest.raises(InputError, match="damaged"):
        only(dicom_bytes(DEEP, NumberOfFrames=frames))


def test_a_number_that_is_two_is_an_error() -> None:
    data = dicom_bytes(DEEP)
    one = b"\x28\0\x00\x01US\x02\0\x10\0"
    assert data.count(one) == 1
    with pytest.raises(InputError, match="damaged"):
        only(data.replace(one, b"\x28\0\x00\x01US\x04\0\x10\0\x10\0"))


@pytest.mark.parametrize("offset", [-352.0, 0.0, 1.0, 347.0, 1e9, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_that_begin_nowhere_are_an_error(offset: float, packed: bool) -> None:
    data = bytearray(nifti_bytes(DEEP[:60, :60, None]))
    data[108:112] = np.array(offset, "<f4").tobytes()
    with pytest.raises(InputError, match=r"damaged|limit"):
        only(gzip.compress(data) if packed else bytes(data))


def test_padding_does_not_count_for_the_range() -> None:
    padded = DEEP.astype(np.int16)
    padded[:75] = -30_000
    gray = only(dicom_bytes(padded, PixelPaddingValue=-30_000))
    assert near(gray[75:], robust(DEEP[75:]))
    # Written as the unsigned number of the same bits, as some scanners do.
    unsigned = dicom_bytes(padded, PixelPaddingValue=-30_000)
    unsigned = unsigned.replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US")
    np.testing.assert_array_equal(only(unsigned), gray)


def test_padding_is_black_in_monochrome1_too() -> None:
    padded = DEEP.copy()
    padded[:20] = 0
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    gray = only(dicom_bytes(padded, **inverse))
    assert (gray[:20] == 0).all()
    assert near(gray[20:], 255 - robust(DEEP[20:]))


def test_colours_of_every_depth_look_the_same() -> None:
    """White is what the stored bits can hold, not what the bytes can."""
    picture = np.dstack([PICTURE, PICTURE // 2, PICTURE[::-1]])
    wanted = only(dicom_bytes(picture, SamplesPerPixel=3))
    for kind, stored in (("u2", 16), ("u2", 12), ("u4", 32), ("u4", 20)):
        white = 2**stored - 1
        deep = (picture.astype(np.uint64) * white // 255).astype(kind)
        data = dicom_bytes(deep, SamplesPerPixel=3, BitsStored=stored, HighBit=stored - 1)
        assert near(only(data), wanted), (kind, stored)


def test_colours_that_are_no_rgb_are_named() -> None:
    picture = np.dstack([PICTURE] * 3)
    for space in ("HSV", "CMYK", "YBR_PARTIAL_420"):
        data = dicom_bytes(picture, SamplesPerPixel=3, PhotometricInterpretation=space)
        with pytest.raises(InputError, match="not supported: a DICOM file of another"):
            only(data)


def test_colour_pixels_are_made_square_too() -> None:
    picture = np.dstack([PICTURE] * 3)
    data = dicom_bytes(picture, SamplesPerPixel=3, PixelAspectRatio=[2, 1])
    assert only(data).shape == (300, 180)


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


def test_functional_groups_of_thousands_of_frames_are_read() -> None:
    def group(center: float) -> pydicom.Dataset:
        group, window = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = center, 100
        window.WindowCenterWidthExplanation = "x" * 60
        group.FrameVOILUTSequence = [window]
        return group

    frames = np.full((2500, 4, 4), 500, np.uint16)
    frames[:, 0, 0] = 0
    groups = [group(500 if number % 2 else 5000) for number in range(2500)]
    parts = list(slices_of(dicom_bytes(frames, PerFrameFunctionalGroupsSequence=groups)))
    assert [int(part.gray.max()) > 0 for part in parts] == [False, True] * 1250


def test_nothing_of_the_patient_is_read_or_told(tmp_path: Path) -> None:
    from edge_runtime.imaging.dicom_head import ELEMENTS

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


def cut_in_an_element() -> bytes:
    """A file that ends before it tells of its picture, within another element."""
    data = dicom_bytes(DEEP, Manufacturer="a name of some length")
    return data[: data.index(b"some")]


def test_dicom_that_is_refused() -> None:
    cases = {
        "without an image": pydicom_without_pixels(),
        "over the limit": dicom_bytes(DEEP, NumberOfFrames=50_000),
        "deflated": dicom_bytes(DEEP).replace(
            b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0"
        ),
        "truncated or damaged": dicom_bytes(DEEP)[:-1000],
        "truncated or damaged DICOM": cut_in_an_element(),
    }
    for reason, data in cases.items():
        with pytest.raises(InputError, match=reason):
            list(slices_of(data))
    with pytest.raises(InputError, match="180x150 pixels: over the limit"):
        list(slices_of(dicom_bytes(DEEP), ImageLimits(max_pixels=1000)))


def packed(codestream: bytes, like: np.ndarray, syntax: str, bits: int, **more: object) -> bytes:
    """A DICOM file of one compressed frame."""
    told = {"BitsStored": bits, "HighBit": bits - 1, "TransferSyntaxUID": syntax} | more
    return dicom_bytes(like, PixelData=pydicom.encaps.encapsulate([codestream]), **told)


def test_signs_that_the_codestream_does_not_tell() -> None:
    """JPEG 2000 of another sign than the file says, and JPEG-LS, which knows none."""
    codecs = pytest.importorskip("imagecodecs")
    signed = (DEEP.astype(int) * 3 - 4000).astype(np.int16)  # -3700 to 2420: 13 bits
    wanted = only(dicom_bytes(signed, BitsStored=13, HighBit=12))
    bare = (signed & 0x1FFF).astype(np.uint16)
    j2k = codecs.jpeg2k_encode(bare, codecformat="J2K", bitspersample=13, reversible=True, level=0)
    np.testing.assert_array_equal(
        only(packed(j2k, signed, pydicom.uid.JPEG2000Lossless, 13)), wanted
    )
    pytest.importorskip("jpeg_ls")
    half = signed // 2
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(half, BitsStored=12, HighBit=11)))
    wanted = only(dicom_bytes(half, BitsStored=12, HighBit=11))
    whole.compress(pydicom.uid.JPEGLSLossless, encoding_plugin="pyjpegls")
    out = io.BytesIO()
    whole.save_as(out)
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(out.getvalue())).pixel_array, half)
    np.testing.assert_array_equal(only(out.getvalue()), wanted)


def test_frames_of_more_colours_than_the_file_says_are_damaged() -> None:
    """The memory of a decode is told from what the file says."""
    colour = np.dstack([PICTURE] * 3)
    for syntax, format in ((pydicom.uid.JPEGBaseline8Bit, "JPEG"),
                           (pydicom.uid.JPEG2000Lossless, "JPEG2000")):  # fmt: skip
        data = packed(pillow_bytes(colour, format), PICTURE, syntax, 8)
        with pytest.raises(InputError, match="damaged"):
            only(data)


def small_parts(picture: np.ndarray) -> dict[str, bytes]:
    """JPEG 2000 pictures of 512x512 that come in tens of thousands of parts, and one that does
    not."""
    whole = pillow_bytes(picture, "JPEG2000", no_jp2=True)
    at = whole.index(b"\xff\x52") + 2
    length, levels = int.from_bytes(whole[at : at + 2], "big"), whole[at + 7]
    style = bytes([whole[at + 2] | 1]) + whole[at + 3 : at + length] + bytes([0x11] * (levels + 1))
    finer = (length + levels + 1).to_bytes(2, "big") + style
    tile = whole.index(b"\xff\x90")
    size = int.from_bytes(whole[tile + 6 : tile + 10], "big") + 2 + len(finer)
    return {
        "few": whole,
        "tiles": pillow_bytes(picture, "JPEG2000", no_jp2=True, tile_size=(8, 8)),
        "blocks": pillow_bytes(picture, "JPEG2000", no_jp2=True, codeblock_size=(4, 4)),
        "precincts": whole[:at] + finer + whole[at + length :],
        "precincts of a tile": whole[: tile + 6] + size.to_bytes(4, "big")
        + whole[tile + 10 : tile + 12] + b"\xff\x52" + finer + whole[tile + 12 :],
        "precincts of a tile behind what nobody knows": whole[:at - 2] + b"\xff\x40\0\4\0\0"
        + whole[at - 2 :],
    }  # fmt: skip


def test_jpeg2000_of_very_many_parts_is_refused_before_a_decoder_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edge_runtime.imaging import dicom_frames

    picture = draw_slice(3, 512)
    seen: list[int] = []
    real = dicom_frames.encapsulate
    monkeypatch.setattr(dicom_frames, "encapsulate", lambda frames: seen.append(1) or real(frames))
    for name, stream in small_parts(picture).items():
        seen.clear()
        data = packed(stream, picture, pydicom.uid.JPEG2000Lossless, 8)
        if name == "few":
            assert only(data).max() > 0
            assert seen
        else:
            words = "damaged" if "nobody" in name else "not supported: .* of very many parts"
            with pytest.raises(InputError, match=words):
                only(data)
            assert not seen, name


def test_run_lengths_are_unpacked_once_and_not_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.imaging import dicom_frames

    picture, syntax = np.full((64, 128), 7, np.uint16), pydicom.uid.RLELossless
    run, nothing = b"\x81\7" * 64, b"\x80" * 9000

    def frame(count: int, *segments: bytes, starts: tuple[int, ...] = ()) -> bytes:
        places = np.cumsum([64, *map(len, segments)])[:-1].tolist()
        return struct.pack("<16I", count, *[*(starts or places), *[0] * 15][:15]) + b"".join(
            segments
        )

    assert only(packed(frame(2, run, run), picture, syntax, 16)).shape == (64, 128)
    looked: list[int] = []
    real = dicom_frames._run_length
    monkeypatch.setattr(
        dicom_frames, "_run_length", lambda part, most: looked.append(len(part)) or real(part, most)
    )
    for wrong in (
        frame(1, run), frame(3, run, run, run), frame(2, run, run, starts=(64, 64)),
        frame(2, run, run, starts=(192, 64)), frame(2, run, run, starts=(0, 64)),
        frame(2, run, run, starts=(64, 9999)), frame(15, run, run), frame(99, run, run),
        b"\2\0\0\0",
    ):  # fmt: skip
        with pytest.raises(InputError, match="damaged"):
            only(packed(wrong, picture, syntax, 16))
        assert not looked
    monkeypatch.setattr(
        dicom_frames, "encapsulate", lambda frames: pytest.fail("a decoder sees it")
    )
    with pytest.raises(InputError, match="damaged"):
        only(packed(frame(2, run, run + nothing * 2), picture, syntax, 16))
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection"), ("1.2.840.10008.1.2.4.55", "JPEG Full"),
     ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"), ("1.2.840.10008.1.2.4.112", "JPEG XL"),
     ("1.2.840.10008.1.2.8.1", "Deflated Image Frames"), ("1.2.840.10008.1.2.4.100", "MPEG2"),
     ("1.2.3.4.5", "1.2.3.4.5")],
)  # fmt: skip
def test_compressions_that_nobody_decodes_are_named(syntax: str, name: str) -> None:
    data = packed(b"\xff\xd8\xff\xd9", DEEP, pydicom.uid.JPEGBaseline8Bit, 8)
    told = syntax.encode() + b"\0" * (len(syntax) % 2)
    data = data.replace(b"\x16\x001.2.840.10008.1.2.4.50", bytes([len(told), 0]) + told)
    with pytest.raises(InputError, match=f"^not supported: .* compressed as {name}"):
        only(data)


FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize(
    ("file", "plugin", "package"),
    [("SC_rgb_jpeg_dcmtk.dcm", "pillow", "pillow"),
     ("MR_small_jp2klossless.dcm", "pillow", "pillow"),
     ("SC_rgb_jpeg_gdcm.dcm", "gdcm", "python-gdcm"),
     ("MR_small_jpeg_ls_lossless.dcm", "pyjpegls", "pyjpegls"),
     ("JPEGLSNearLossless_16.dcm", "pyjpegls", "pyjpegls")],
)  # fmt: skip
def test_the_package_that_is_named_is_the_one_that_helps(
    file: str, plugin: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (FILES / file).read_bytes()
    syntax = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).file_meta.TransferSyntaxUID
    decoder = pydicom.pixels.get_decoder(syntax)
    if plugin not in decoder.available_plugins:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})
    assert only(data).max() == 255
    monkeypatch.setattr(decoder, "_available", {})
    words = f"no decoder is installed: needs the package {package}: pip install {package}$"
    with pytest.raises(InputError, match=words):
        only(data)


def test_decoders_that_know_only_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow says that it decodes JPEG Extended and JPEG 2000, and means 8 bits of colour."""
    codecs = pytest.importorskip("imagecodecs")
    twelve = codecs.jpeg8_encode(DEEP, level=95, bitspersample=12)
    with pytest.raises(InputError, match=r"JPEG Extended \(12 bit\), for which no decoder .* "
                                         "pip install pylibjpeg pylibjpeg-libjpeg"):  # fmt: skip
        only(packed(twelve, DEEP, pydicom.uid.JPEGExtended12Bit, 12))
    deep = np.dstack([DEEP, DEEP, DEEP])
    j2k = codecs.jpeg2k_encode(deep, codecformat="J2K", reversible=True, level=0)
    data = packed(j2k, deep, pydicom.uid.JPEG2000Lossless, 16, SamplesPerPixel=3)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEG2000Lossless)
    if "pylibjpeg" in decoder.available_plugins:
        assert near(only(data), DEEP * (255 / 65535))
    others = {k: v for k, v in decoder._available.items() if k != "pylibjpeg"}
    monkeypatch.setattr(decoder, "_available", others)
    with pytest.raises(InputError, match=r"16 bit, 3 colours.* the package pylibjpeg-openjpeg"):
        only(data)


def test_gdcm_is_given_nothing_that_it_may_die_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a damaged JPEG or JPEG 2000 it ends the process, in about one of a hundred."""
    files = ("SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm")
    for data in [(FILES / file).read_bytes() for file in files]:
        head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        decoder = pydicom.pixels.get_decoder(head.file_meta.TransferSyntaxUID)
        if "gdcm" not in decoder.available_plugins:
            pytest.skip("python-gdcm is not installed")
        monkeypatch.setattr(decoder, "_available", {"gdcm": decoder._available["gdcm"]})
        with pytest.raises(InputError, match="needs the package pillow"):
            only(data)


def table(first: int, entries: np.ndarray, bits: int, **more: object) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", more.pop("kind", "US"), more.pop("data", entries.tolist()))
    return item


def test_empty_items_of_lookup_tables_are_none() -> None:
    """As LEADTOOLS writes them; the window counts then."""
    window = {"WindowCenter": 1000, "WindowWidth": 1500}
    wanted = only(dicom_bytes(DEEP, **window))
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        empty, bare = pydicom.Dataset(), pydicom.Dataset()
        empty.add_new(0x00283002, "US", None)
        empty.add_new(0x00283006, "US", None)
        for items in ([empty], [bare], [empty, bare], []):
            np.testing.assert_array_equal(
                only(dicom_bytes(DEEP, **{sequence: items}, **window)), wanted
            )


def test_lookup_tables_of_every_depth_and_storage() -> None:
    """Values outside a table take its ends, however far away."""
    entries = np.arange(2048)[::-1] * 2  # 12 bits, falling
    want = np.interp(DEEP, [100, 2147], [255, 0])
    shown = {"VOILUTSequence": [table(100, entries, 12)]}
    assert near(only(dicom_bytes(DEEP, **shown)), want)
    words = entries.astype("<u2").tobytes()
    shown = {"VOILUTSequence": [table(100, entries, 12, kind="OW", data=words)]}
    assert near(only(dicom_bytes(DEEP, **shown)), want)
    far = {"RescaleSlope": 1000, "RescaleIntercept": 0}
    flat = only(dicom_bytes(DEEP, VOILUTSequence=[table(0, entries, 12)], **far))
    assert (flat == 0).all(), "65,536 and more behind the last entry"
    modal = {"ModalityLUTSequence": [table(100, entries, 12)]}
    assert near(only(dicom_bytes(DEEP, WindowCenter=2048, WindowWidth=4096, **modal)), want, 2)


def test_tables_that_begin_below_what_is_stored() -> None:
    entries = np.arange(4096)
    want = np.interp(DEEP + 1000, [0, 4095], [0, 255])
    for stored in (DEEP, DEEP.astype(np.int16)):
        shown = {"VOILUTSequence": [table(-1000, entries, 12)]}
        data = dicom_bytes(stored, RescaleSlope=1, RescaleIntercept=0, **shown)
        assert near(only(data), want)
        modal = {"ModalityLUTSequence": [table(-1000, entries, 12)]}
        data = dicom_bytes(stored, WindowCenter=2048, WindowWidth=4096, **modal)
        assert stored.dtype == np.uint16 or near(only(data), want)


@pytest.mark.parametrize(
    ("keyword", "bits"), [("FloatPixelData", 32), ("DoubleFloatPixelData", 64)]
)
def test_pixels_that_are_floats(keyword: str, bits: int) -> None:
    """Parametric maps."""
    values = DEEP / 7 - 20
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(DEEP, BitsAllocated=bits)))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del whole[name]
    setattr(whole, keyword, values.astype(f"<f{bits // 8}").tobytes())
    out = io.BytesIO()
    whole.save_as(out)
    assert near(only(out.getvalue()), robust(values))


SEGMENTS = {
    "u1": [0, 4, 0, 5, 10, 15, 1, 60, 200, 0, 2, 30, 40, 2, 1, 6, 0, 0, 0, 1, 130, 255],
    "u2": [0, 4, 0, 5, 10, 15, 1, 120, 60_000, 0, 2, 30, 40, 1, 130, 65_535],
}


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_segmented_palettes_are_expanded_as_pydicom_does(kind: str) -> None:
    data = np.array(SEGMENTS[kind], kind).tobytes()
    ds = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        ds[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8 * int(kind[1])]
        ds[f"Segmented{colour}PaletteColorLookupTableData"] = data
    file = dicom_bytes(PICTURE, **ds)
    read = pydicom.dcmread(io.BytesIO(file))
    rgb = pydicom.pixels.apply_color_lut(read.pixel_array, read)
    assert near(only(file), rgb[..., 0] / (1 if kind == "u1" else 257))


@pytest.mark.parametrize(
    "parts", [[1, 60_000, 5] * 9000, [0, 1, 7] + [2, 60_000, 0, 0] * 9000, [0, 0] * 40_000,
              [2, 1, 0, 0], [9, 9, 9], []],
)  # fmt: skip
def test_segments_that_ask_for_much_end_soon(parts: list[int]) -> None:
    from edge_runtime.imaging.dicom import _segments

    with pytest.raises(InputError, match="damaged"):
        _segments(np.array(parts, np.int64), True, 1 << 16)


@pytest.mark.parametrize("empty", [[0, 0], [1, 0, 7]])
def test_segments_of_nothing_are_damaged(empty: list[int]) -> None:
    """There could be any number of them, over and over."""
    from edge_runtime.imaging.dicom import _segments

    first, ramp = [0, 1, 7], [1, 3, 10]
    assert _segments(np.array(first + ramp, np.int64), True, 4).tolist() == [7, 8, 9, 10]
    with pytest.raises(InputError, match="damaged"):
        _segments(np.array(first + empty + ramp, np.int64), True, 4)


def bare(picture: np.ndarray, syntax: str) -> bytes:
    """A data set without preamble and file meta information."""
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(picture)))
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
    if syntax == pydicom.uid.ExplicitVRBigEndian:
        ds.PixelData = picture.astype(">u2").tobytes()
    out = io.BytesIO()
    whole = pydicom.Dataset(ds)
    little = syntax != pydicom.uid.ExplicitVRBigEndian
    pydicom.dcmwrite(out, whole, implicit_vr="Implicit" in pydicom.uid.UID(syntax).name,
                     little_endian=little, force_encoding=True)  # fmt: skip
    return out.getvalue()


@pytest.mark.parametrize(
    "syntax",
    [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian,
     pydicom.uid.ExplicitVRBigEndian],
)  # fmt: skip
def test_dicom_without_preamble_is_read(syntax: str, tmp_path: Path) -> None:
    wanted = only(dicom_bytes(DEEP))
    data = bare(DEEP, syntax)
    assert data[128:132] != b"DICM"
    np.testing.assert_array_equal(only(data), wanted)
    (tmp_path / "IM1").write_bytes(data)
    assert list(expand([str(tmp_path)], True, sys.stdin)) == [str(tmp_path / "IM1")]
    meta = dicom_bytes(DEEP)[132:]  # file meta information, but no preamble
    np.testing.assert_array_equal(only(meta), wanted)


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=40, max_size=80), st.sampled_from([b"\x02\0", b"\x08\0", b"\0\x08"]))
def test_arbitrary_bytes_are_not_taken_for_dicom(data: bytes, begin: bytes) -> None:
    with pytest.raises(InputError, match=r"not an image|not supported"):
        list(slices_of(begin + data + bytes(100)))


@pytest.mark.parametrize("syntax", [None, pydicom.uid.RLELossless, pydicom.uid.JPEGBaseline8Bit])
def test_a_damaged_second_frame_does_not_lose_the_first(syntax: str | None) -> None:
    frames = np.stack([PICTURE, PICTURE, PICTURE])
    data = dicom_bytes(frames, **({"TransferSyntaxUID": syntax} if syntax else {}))
    if syntax is None:
        data = data[: -PICTURE.size - 100]
    else:
        places = [at for at in range(len(data)) if data[at : at + 4] == b"\xfe\xff\x00\xe0"]
        begin, end = places[-2] + 8, places[-1]
        data = data[:begin] + b"\xff" * (end - begin) + data[end:]
    parts = slices_of(data)
    assert next(parts).number == 0
    with pytest.raises(InputError, match="damaged"):
        list(parts)
    first, second = Classifier().classify_many([data])
    assert (first.slice, first.error is None, second.error is None) == (0, True, False)


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
    monkeypatch.delitem(sys.modules, f"edge_runtime.imaging.{module}", raising=False)
    bad, good = Classifier().classify_many([file, encode(PICTURE)])
    assert bad.error is not None
    assert f"pip install 'btc-edge[{module}]'" in bad.error
    assert good.error is None


@pytest.mark.parametrize("word", MAKERS)
def test_the_first_bytes_tell_every_kind(word: str) -> None:
    data = MAKERS[word](0)
    kind = kind_of(data[:HEAD]) or gzipped_kind(data)
    assert kind is not None
    assert f".{word.split()[0]}" in kind.suffixes


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


def test_nifti_extensions_are_passed_over() -> None:
    image = nibabel.Nifti1Image(np.stack([DEEP] * 3, axis=2), np.eye(4))
    wanted = [part.gray for part in slices_of(image.to_bytes())]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", b"<x/>" * 5000))
    for data in (image.to_bytes(), gzip.compress(image.to_bytes())):
        for part, gray in zip(slices_of(data), wanted, strict=True):
            np.testing.assert_array_equal(part.gray, gray)


def test_gzip_of_several_members_is_one_file() -> None:
    """As bgzip and pigz write it."""
    data = nifti_bytes(np.stack([DEEP] * 3, axis=2))
    members = b"".join(gzip.compress(data[at : at + 9999]) for at in range(0, len(data), 9999))
    assert len(list(slices_of(members))) == 3


def test_gzip_may_have_a_long_name_and_padding_and_not_any_number_of_members() -> None:
    data = nifti_bytes(np.stack([DEEP] * 3, axis=2))
    packed, empty = gzip.compress(data), gzip.compress(b"")
    named = packed[:3] + b"\x08" + packed[4:10] + b"n" * (1 << 24) + b"\0" + packed[10:]
    half = len(data) // 2
    halves = gzip.compress(data[:half]) + bytes(99_999) + gzip.compress(data[half:])
    for whole in (named, packed + bytes(1 << 25), halves, empty * 9 + packed + empty):
        assert [part.gray.max() for part in slices_of(whole)] == [255] * 3
    with pytest.raises(InputError, match="a gzip file of more than 65,536 members"):
        list(slices_of(packed + empty * 65_536))


def test_gzip_that_ends_early_or_does_not_add_up_is_damaged() -> None:
    packed = gzip.compress(nifti_bytes(np.stack([DEEP] * 3, axis=2)))
    wrong_sum = packed[:-8] + bytes(4) + packed[-4:]
    for data in (packed[:5], packed[:-1], packed[:-8], wrong_sum, packed + b"more",
                 packed + bytes(9) + b"\x1f", packed + packed[:-9]):  # fmt: skip
        with pytest.raises(InputError, match="truncated or damaged gzip file"):
            list(slices_of(data))


def test_nifti_masks_share_one_range() -> None:
    """Where nearly all is 0 the percentiles are one: then the largest value of all is white."""
    mask = np.zeros((60, 60, 30), np.float32)
    mask[30, 30, 3], mask[30, 30, 4], mask[0, 0, 0] = 1, 2, np.nan
    grays = [part.gray for part in slices_of(nifti_bytes(mask))]
    assert [int(gray.max()) for gray in grays[3:5]] == [128, 255]
    assert only(nifti_bytes(np.full((9, 9, 1), 7.0))).max() == 0


def test_one_volume_of_several_is_chosen() -> None:
    stack = np.stack([np.stack([DEEP + 50 * v + s for s in range(3)], 2) for v in range(6)], 3)
    five = stack.reshape(*stack.shape[:3], 1, 6)
    for whole in (stack, five, stack.reshape(*stack.shape[:3], 2, 3, order="F")):
        for data in (nifti_bytes(whole), gzip.compress(nifti_bytes(whole))):
            with pytest.raises(InputError, match="of 6 volumes: choose one with --volume 0 to 5"):
                list(slices_of(data))
            with pytest.raises(InputError, match="of 6 volumes: --volume must be 0 to 5"):
                list(slices_of(data, volume=6))
            grays = [part.gray for part in slices_of(data, volume=4)]
            wanted = slices_of(nifti_bytes(np.ascontiguousarray(stack[..., 4])))
            for gray, part in zip(grays, wanted, strict=True):
                np.testing.assert_array_equal(gray, part.gray)
    one = nifti_bytes(np.ascontiguousarray(stack[..., 0]))
    assert len(list(slices_of(one, volume=0))) == 3
    with pytest.raises(InputError, match="of 1 volume: --volume can only be 0"):
        list(slices_of(one, volume=1))


def test_volume_through_the_command(tmp_path: Path) -> None:
    path = tmp_path / "four.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes(np.stack([np.stack([DEEP] * 2, 2)] * 3, 3))))
    done = edge("classify", path)
    assert (done.returncode, "of 3 volumes: choose one" in done.stderr) == (1, True)
    done = edge("classify", path, "--volume", 2, "--format", "jsonl")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    done = edge("classify", path, "--volume", 2, "--max-memory", 1)
    assert "MiB of memory to decode: over the limit of 1 MiB" in done.stderr


def pair_of(volume: np.ndarray, kind: int) -> tuple[bytes, bytes]:
    """Header and voxels of a NIfTI pair."""
    made = {1: nibabel.Nifti1Pair, 2: nibabel.Nifti2Pair}[kind](volume, np.diag([1, 1, 2, 1]))
    halves = {name: nibabel.FileHolder(fileobj=io.BytesIO()) for name in ("header", "image")}
    made.to_file_map(halves)
    return tuple(halves[name].fileobj.getvalue() for name in ("header", "image"))


@pytest.mark.parametrize("kind", [1, 2])
def test_a_pair_is_read_by_the_path_of_either_half(kind: int, tmp_path: Path) -> None:
    volume = np.stack([draw_slice(i) for i in range(3)], axis=2)
    header, image = pair_of(volume, kind)
    (tmp_path / "head.hdr").write_bytes(header)
    (tmp_path / "head.img").write_bytes(image)
    single = tmp_path / "head.nii"
    single.write_bytes(nifti_bytes(volume, np.diag([1, 1, 2, 1]), kind))
    classifier = Classifier()
    wanted = [a.probabilities for a in classifier.classify_slices(single)]
    for half in ("head.hdr", "head.img"):
        answers = list(classifier.classify_many([tmp_path / half], workers=2))
        assert [a.probabilities for a in answers] == wanted
    single.unlink()
    done = edge("classify", "-r", tmp_path, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    names = [Path(json.loads(line)["input"]).name for line in done.stdout.splitlines()]
    assert names == ["head.img"] * 3, "a pair is one input"
    with pytest.raises(InputError, match="header of a NIfTI pair"):
        classifier.classify(header)
    (tmp_path / "head.img").unlink()
    with pytest.raises(InputError, match=r"its \.img file is missing"):
        classifier.classify(tmp_path / "head.hdr")
    (tmp_path / "head.img").write_bytes(image[:-500])
    with pytest.raises(InputError, match="truncated"):
        classifier.classify(tmp_path / "head.hdr")
    (tmp_path / "head.hdr").write_bytes(header[:344] + bytes(8))
    with pytest.raises(
        InputError, match=r"not supported: an Analyze 7\.5 pair" if kind == 1 else "."
    ):
        classifier.classify(tmp_path / "head.img")


@pytest.mark.parametrize("names", [("a.hdr", "a.IMG"), ("a.HDR", "a.img"), ("A.HDR", "A.IMG")])
def test_the_halves_of_a_pair_may_be_written_otherwise(
    names: tuple[str, str], tmp_path: Path
) -> None:
    volume = np.stack([draw_slice(i) for i in range(2)], axis=2)
    for name, half in zip(names, pair_of(volume, 1), strict=True):
        (tmp_path / name).write_bytes(half)
    listed = [Path(path).name for path in expand([str(tmp_path)], True, io.StringIO())]
    assert listed == [names[1]]
    for name in names:
        assert len(list(Classifier().classify_slices(tmp_path / name))) == 2


def test_paths_may_be_bytes_as_a_listing_gives_them(tmp_path: Path) -> None:
    for name, half in zip(("a.hdr", "a.img"), pair_of(np.zeros((40, 40, 2)), 1), strict=True):
        (tmp_path / name).write_bytes(half)
    (tmp_path / "slice.png").write_bytes(encode(draw_slice(1), ".png"))
    with os.scandir(os.fsencode(tmp_path)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    answers = list(Classifier().classify_many(found, workers=2))
    assert [Path(answer.input).name for answer in answers] == ["a.hdr"] * 2 + ["a.img"] * 2 + [
        "slice.png"
    ]
    assert {answer.error for answer in answers} == {None}


def test_nifti_that_is_refused() -> None:
    four = np.zeros((4, 5, 6, 3), np.int16)
    good = nifti_bytes(np.stack([DEEP] * 3, axis=2))
    cases = {
        "of 3 volumes": nifti_bytes(four),
        "truncated or damaged NIfTI": good[:-1000],
        "truncated or damaged gzip": gzip.compress(good)[:-20],
        "holds no NIfTI": gzip.compress(b"text" * 500),
        "finite": nifti_bytes(np.full((9, 9, 9), np.nan, np.float32)),
    }
    for reason, data in cases.items():
        with pytest.raises(InputError, match=reason):
            list(slices_of(data))
    bomb = gzip.compress(nifti_bytes(np.zeros((150, 150, 150), np.uint8)))
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


def sparse(path: Path, head: bytes, size: int) -> Path:
    """A file of this size, zeros behind its head, that takes no room on the disk."""
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def largest_files(folder: Path) -> list[Path]:
    """Files at the default limits: 250 MiB, or small and in need of much memory."""
    whole = 250 << 20
    volume = bytearray(nifti_bytes(np.zeros((2, 2, 2), np.int16))[:352])
    volume[40:48] = np.array([3, 3500, 3500, 1], "<i2").tobytes()
    frame = dicom_bytes(np.zeros((2, 2), np.uint16), Rows=2900, Columns=2900)
    at = frame.rfind(b"\xe0\x7f\x10\x00") + 8
    frame = frame[:at] + np.uint32(whole - at - 4).tobytes()
    deep = bytearray(volume)
    deep[40:48] = np.array([3, 2000, 2000, 7], "<i2").tobytes()
    deep_file = folder / "c.nii.gz"
    deep_file.write_bytes(gzip.compress(bytes(deep) + bytes(56_000_000), 1))
    black = np.zeros((1700, 1700, 3), np.uint8)
    colour = folder / "d.dcm"
    colour.write_bytes(
        dicom_bytes(black, SamplesPerPixel=3, TransferSyntaxUID=pydicom.uid.JPEGBaseline8Bit)
    )
    return [
        sparse(folder / "a.nii", bytes(volume), whole),
        sparse(folder / "b.dcm", frame, whole),
        deep_file,
        colour,
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_four_workers_on_the_largest_files_stay_within_512_mib(tmp_path: Path) -> None:
    paths = largest_files(tmp_path)
    code = (
        "import sys, json\n"
        "from edge_runtime import Classifier\n"
        "answers = list(Classifier().classify_many(sys.argv[1:], workers=4))\n"
        "with open('/proc/self/status') as status:\n"
        "    peak = next(int(line.split()[1]) for line in status if 'VmHWM' in line)\n"
        "print(json.dumps([peak / 1024, [a.error for a in answers]]))\n"
    )
    # Through exec by a small process: a child is born with its parent's peak.
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@"', "sh", sys.executable, "-c", code, *paths],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, errors = json.loads(done.stdout)
    assert set(errors) == {None}
    assert len(errors) == 3 + 7
    assert peak < 512


def costly_kinds() -> dict[str, bytes]:
    """A file of each way to store a frame, of a million pixels."""
    deep = np.kron(draw_slice(1, 100).astype(np.uint16) * 16, np.ones((10, 10), np.uint16))
    small = (deep >> 4).astype(np.uint8)
    colour = np.dstack([small, small[::-1], small[:, ::-1]])
    ybr = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL"}
    kinds = {
        "native": dicom_bytes(deep, WindowCenter=2000, WindowWidth=3000),
        "native without window": dicom_bytes(
            deep.astype(np.uint32), RescaleSlope=2, RescaleIntercept=1
        ),
        "colour": dicom_bytes(colour.astype(np.uint16) * 9, SamplesPerPixel=3),
        "ybr": dicom_bytes(colour, **ybr),
        "nifti": nifti_bytes(np.stack([deep, deep], 2).astype(np.float32), np.diag([1, 1.5, 1, 1])),
        "nifti gz": gzip.compress(nifti_bytes(np.stack([deep] * 6, 2)), 1),
    }
    for name, syntax in (("rle", pydicom.uid.RLELossless), ("jpeg", pydicom.uid.JPEGBaseline8Bit),
                         ("j2k", pydicom.uid.JPEG2000Lossless)):  # fmt: skip
        how = 0 if name == "rle" else 1  # runs are found by a loop here
        gray = small if name == "jpeg" else deep
        kinds[name] = dicom_bytes(gray * how, TransferSyntaxUID=syntax)
        kinds[f"{name} colour"] = dicom_bytes(
            colour * how, SamplesPerPixel=3, TransferSyntaxUID=syntax
        )
    return kinds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_takes_no_more_than_the_header_told(tmp_path: Path) -> None:
    for name, data in costly_kinds().items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import sys, json, pathlib\n"
        "from edge_runtime.memory import give_back\n"
        "from edge_runtime.imaging.readers import numbered, open_slices\n"
        "def kib(what):\n"
        "    with open('/proc/self/status') as status:\n"
        "        return next(int(line.split()[1]) for line in status if what in line)\n"
        "for path in sys.argv[1:] * 2:\n"  # the first time imports decoders
        "    data = pathlib.Path(path).read_bytes()\n"
        "    stack = open_slices(data)\n"
        "    give_back()\n"
        "    before = kib('VmRSS')\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
        "    for part in numbered(stack): pass\n"
        "    used = (kib('VmHWM') - before) / 1024\n"
        "    print(json.dumps([path, used, stack.memory / 2**20]))\n"
        "    del part\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(tmp_path.iterdir())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for path, used, told in rows[len(rows) // 2 :]:
        assert 0.05 * told < used <= told, Path(path).name


def test_elements_that_are_megabytes_long_are_refused() -> None:
    """pydicom would make an object of each number."""
    long = dicom_bytes(DEEP, WindowCenter=[1.5] * 10, WindowWidth=[2.5] * 10)
    at = long.find(b"\x28\x00\x50\x10DS")
    text = b"1\\" * 200_000
    head = b"\x28\x00\x50\x10UN\0\0" + np.uint32(len(text)).tobytes()
    data = (
        long[:at] + head + text + long[at + 8 + int.from_bytes(long[at + 6 : at + 8], "little") :]
    )
    with pytest.raises(InputError, match="damaged"):
        list(slices_of(data))


def element(tag: int, value: bytes, vr: bytes = b"UN", order: str = "<") -> bytes:
    """A DICOM element with its length, in explicit VR."""
    return struct.pack(f"{order}HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value


def item(value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(value)) + value


def with_elements(elements: bytes) -> bytes:
    """A DICOM file with these elements before its pixels."""
    data = dicom_bytes(PICTURE)
    at = data.rindex(b"\xe0\x7f\x10\0")
    return data[:at] + elements + data[at:]


def many_elements() -> dict[str, bytes]:
    """What a DICOM file may have millions of, a few more of them than are read."""
    empty = [struct.pack("<HH2sH", 0x21, 0x1000 + n, b"SH", 0) for n in range(1 << 15)]
    group = b"".join(empty * 8)
    endless = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    begin = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    half = b"".join(empty * 4)
    nested = b"".join(element(tag, item(half), b"SQ") for tag in (0x00289132, 0x00289145))
    return {
        "in the file": group,
        "in a group": element(0x52009229, item(group), b"SQ"),
        "in the groups of a frame": element(0x52009230, item(nested), b"SQ"),
        "in a sequence without a length": endless + begin + group + end,
        "items of the other order": element(0x52009230, item(b"", ">") * 70_000, b"SQ"),
    }


@pytest.mark.parametrize("kind", many_elements())
def test_elements_by_the_hundred_thousand_are_not_read(kind: str) -> None:
    with pytest.raises(InputError, match=r"too many or too large parts"):
        only(with_elements(many_elements()[kind]))


def test_a_value_of_many_megabytes_is_not_read() -> None:
    data = dicom_bytes(PICTURE)
    at = data.index(b"\x08\0\x16\0")  # behind the elements that tell of the file
    with pytest.raises(InputError, match=r"too many or too large parts"):
        only(data[:at] + element(0x00020102, bytes(17 << 20), b"OB") + data[at:])

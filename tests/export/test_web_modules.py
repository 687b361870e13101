"""What the page's modules compute, in Node.js, against what Python computes: to the bit wherever
numbers are whole, and to the last digits of a double elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.hostile.pictures import black_png, encode, png_chunk
from edge_runtime.decision.heatmap import overlay
from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import probabilities, status_of
from edge_runtime.decision.view import View
from edge_runtime.errors import InputError, ModelError
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import Preprocess, crop_box, preprocess
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.pooling import log_mean_exp
from tests.export.node_page import NODE, NodePage, array, node_page, text
from trainer.synthetic.phantoms import draw_phantom

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js here: apt-get install nodejs")
ROUNDED = 1e-12  # of a probability: exponentials of doubles may differ in their last digit
DRAWN = [draw_phantom(label, np.random.default_rng(3)) for label in ("glioma", "notumor")]


def libjpeg() -> Path | None:
    """libjpeg-turbo for the page, where btc-edge-web is installed."""
    try:
        from btc_edge_web import FOLDER
    except ModuleNotFoundError:
        return None
    return FOLDER / "jpeg-turbo.wasm.gz"


needs_libjpeg = pytest.mark.skipif(libjpeg() is None, reason="no btc-edge-web: pip install ./web")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePage]:
    with node_page(tmp_path_factory.mktemp("page"), libjpeg()) as running:
        yield running


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

grays = st.tuples(st.integers(1, 300), st.integers(1, 300)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 255))
)
options = st.builds(
    Preprocess,
    size=st.sampled_from([16, 33, 96]),
    crop=st.sampled_from(["head", "none"]),
    window=st.sampled_from([None, (1.0, 99.5), (0.0, 100.0)]),
    resize=st.just("pyramid"),
)


def prepared(
    page: NodePage, gray: np.ndarray, wanted: Preprocess
) -> tuple[np.ndarray, list[float]]:
    height, width = gray.shape
    made = page.call(
        "preprocess",
        pixels=text(np.ascontiguousarray(gray).tobytes()),
        width=width,
        height=height,
        options=wanted.to_json(),
    )
    return array(made["pixels"]).reshape(wanted.size, wanted.size), made["box"]


@quick
@given(gray=grays, wanted=options)
def test_slices_are_prepared_to_the_bit(
    page: NodePage, gray: np.ndarray, wanted: Preprocess
) -> None:
    pixels, box = prepared(page, gray, wanted)
    assert (pixels == preprocess(gray, wanted)).all()
    assert box == pytest.approx(crop_box(gray, wanted), abs=1e-12)


@pytest.mark.parametrize("size", [17, 96, 128])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.7])
def test_drawn_heads_are_prepared_to_the_bit(page: NodePage, scale: float, size: int) -> None:
    for drawn in DRAWN:
        for gray in (cv2.resize(drawn, None, fx=scale, fy=scale * 0.9), drawn[10:-30]):
            gray = np.asarray(gray, np.uint8)
            pixels, _ = prepared(page, gray, Preprocess(size=size, resize="pyramid"))
            assert (pixels == preprocess(gray, Preprocess(size=size, resize="pyramid"))).all()


def test_what_the_page_cannot_prepare_is_refused(page: NodePage) -> None:
    for other in ({"resize": "area"}, {"denoise": "median"}, {"contrast": "clahe"}):
        wanted = replace(Preprocess(resize="pyramid"), **other)
        with pytest.raises(ModelError, match="not supported here"):
            prepared(page, DRAWN[0], wanted)
    narrow = np.zeros((2, 5000), np.uint8)
    with pytest.raises(InputError) as ours:
        prepared(page, narrow, Preprocess(resize="pyramid"))
    with pytest.raises(InputError) as theirs:
        preprocess(narrow, Preprocess(resize="pyramid"))
    assert str(ours.value) == str(theirs.value)


def written(picture: Any, kind: str, **words: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    made = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    made.save(out, kind, **words)
    return out.getvalue()


def colour(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray, gray[::-1], 255 - gray])


def turned_by(turn: int) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[274] = turn
    return exif


PASSES = (  # of Adam7: first column and row, and steps
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def interlaced(gray: np.ndarray) -> bytes:
    """A PNG in seven passes, unfiltered."""
    raw = b""
    for left, top, across, down in PASSES:
        for row in gray[top::down, left::across]:
            raw += b"\0" + row.tobytes() if row.size else b""
    height, width = gray.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    parts = (png_chunk(b"IHDR", head), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pngs() -> dict[str, bytes]:
    from PIL import Image

    gray = DRAWN[0]
    rng = np.random.default_rng(0)
    found = {f"{mode}.png": written(Image.fromarray(colour(gray)).convert(mode), "PNG")
             for mode in ("1", "L", "LA", "RGB", "RGBA")}  # fmt: skip
    for colours in (2, 4, 13, 200):
        few = Image.fromarray(colour(gray)).quantize(colours)
        found[f"palette-{colours}.png"] = written(few, "PNG", transparency=0)
    deep = rng.integers(0, 4096, (70, 50)).astype(np.uint16)
    found |= {"12.png": encode(deep, ".png"), "16.png": encode(deep * 16, ".png")}
    found |= {"deep-colour.png": encode(np.dstack([deep, deep[::-1], deep[:, ::-1]]), ".png")}
    found |= {"flat.png": encode(np.full_like(deep, 77), ".png")}
    found |= {f"passes-{n}.png": interlaced(gray[:n, : n + 3]) for n in (1, 2, 5, 64)}
    for turn in range(1, 9):
        found[f"turn-{turn}.png"] = written(gray[:, :90], "PNG", exif=turned_by(turn))
    return found


def jpegs() -> dict[str, bytes]:
    gray = DRAWN[1]
    found = {}
    for progressive in (False, True):
        for sampling in (0, 1, 2):
            found[f"colour-{progressive}-{sampling}.jpg"] = written(
                colour(gray), "JPEG", quality=80, subsampling=sampling, progressive=progressive
            )
        found[f"gray-{progressive}.jpg"] = written(
            gray[:77, :91], "JPEG", quality=40, progressive=progressive
        )
    for turn in range(1, 9):
        found[f"turn-{turn}.jpg"] = written(gray[:, :90], "JPEG", exif=turned_by(turn))
    restarts = cv2.imencode(".jpg", colour(gray), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1]
    return found | {"restarts.jpg": restarts.tobytes()}


def test_pngs_are_decoded_to_the_bit(page: NodePage) -> None:
    for name, data in pngs().items():
        assert (page.decode(data) == decode(data)).all(), name


@needs_libjpeg
def test_jpegs_are_decoded_to_the_bit(page: NodePage) -> None:
    for name, data in jpegs().items():
        assert (page.decode(data) == decode(data)).all(), name


def told(decoder: Any, data: bytes) -> str:
    """Why a picture is refused; empty where it is not."""
    try:
        decoder(data)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["png", pytest.param("jpeg", marks=needs_libjpeg)])
def test_truncated_pictures_are_refused_in_the_same_words(page: NodePage, kind: str) -> None:
    whole = (pngs()["RGB.png"],) if kind == "png" else (
        jpegs()["colour-False-2.jpg"], jpegs()["gray-True.jpg"]
    )  # fmt: skip
    for data in whole:
        for end in (*range(9, len(data), len(data) // 40), *range(len(data) - 14, len(data))):
            words = told(decode, data[:end])
            assert words, end
            assert told(page.decode, data[:end]) == words, end


def test_altered_pngs_fare_as_in_python(page: NodePage) -> None:
    data = encode(np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8), ".png")
    for at in range(8, len(data)):
        altered = data[:at] + bytes([data[at] ^ 0x21]) + data[at + 1 :]
        assert told(page.decode, altered) == told(decode, altered), at


def header_of(kind: str, width: int, height: int) -> bytes:
    """A small file whose header claims a size."""
    if kind == "png":
        data = bytearray(encode(np.zeros((2, 2), np.uint8), ".png"))
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        return bytes(data)
    data = bytearray(written(np.zeros((8, 8), np.uint8), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [("png", 60_000, 60_000), ("png", 0, 5), ("png", 7000, 7000), ("jpeg", 65_000, 65_000),
     ("jpeg", 0, 9), ("png", 2**31 - 1, 2**31 - 1)],
)  # fmt: skip
def test_sizes_are_refused_by_the_header(
    page: NodePage, kind: str, width: int, height: int
) -> None:
    data = header_of(kind, width, height)
    words = told(decode, data)
    assert words
    assert told(page.decode, data) == words


def test_a_picture_that_takes_much_memory_is_refused(page: NodePage) -> None:
    bomb = black_png(7000, 7000, 16)
    assert told(page.decode, bomb) == told(decode, bomb)
    assert "MiB to decode: over the limit" in told(decode, bomb)


def test_more_pixels_than_the_header_says_are_not_unpacked(page: NodePage) -> None:
    data = bytearray(encode(np.zeros((900, 900), np.uint8), ".png"))
    data[16:24] = struct.pack(">II", 3, 3)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert told(page.decode, bytes(data)) == "truncated or damaged png image"


def test_other_files_are_told_apart(page: NodePage) -> None:
    kinds = {
        "DICOM": bytes(128) + b"DICM" + bytes(200),
        "NIfTI": bytes(344) + b"n+1\0" + bytes(99),
        "BMP": encode(DRAWN[0], ".bmp"),
        "TIFF": encode(DRAWN[0], ".tiff"),
        "WebP": encode(DRAWN[0], ".webp"),
    }
    for title, data in kinds.items():
        words = f"not supported here: a {title} file; btc-edge and Classifier read it"
        assert told(page.decode, data) == words
    assert told(page.decode, b"") == "empty file"
    assert told(page.decode, b"%PDF-1.7") == "not an image in a supported format (jpeg, png)"


@quick
@given(data=st.binary(max_size=300))
def test_digests_are_sha256(page: NodePage, data: bytes) -> None:
    assert page.call("sha256", data=text(data)) == hashlib.sha256(data).hexdigest()


INFO = json.loads(read_model().info.to_json())
LABELS = INFO["labels"]


def outputs(rng: np.random.Generator, size: float) -> dict[str, list[float]]:
    detector = OodDetector.from_json(INFO["ood"])
    features = detector.mean + rng.normal(0, size, len(detector.mean)) * detector.scale
    maps = rng.normal(0, 4, (6, 6, len(LABELS)))
    return {name: np.float32(values).ravel().tolist()
            for name, values in {"features": features, "class_maps": maps}.items()}  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_answers_are_decided_as_in_python(page: NodePage, seed: int) -> None:
    given_ = outputs(np.random.default_rng(seed), [0.3, 1.0, 2.0, 9.0][seed % 4])
    answer = page.call("answer", info=INFO, outputs=given_)
    features = np.float32(given_["features"])
    logits = log_mean_exp(np.float32(given_["class_maps"]).reshape(6, 6, -1))
    shares = probabilities(logits, INFO["temperature"])
    best = LABELS[int(shares.argmax())]
    is_ood = OodDetector.from_json(INFO["ood"]).is_outside(features)
    view = View.from_json(INFO["view"])
    seen = view.look(features)
    objection = None if is_ood else view.objection(seen)
    threshold = INFO["thresholds"][best]
    status = status_of(float(shares.max()), threshold, is_ood, objection is None)
    assert list(answer["probabilities"]) == LABELS
    assert list(answer["probabilities"].values()) == pytest.approx(shares.tolist(), abs=ROUNDED)
    assert (answer["raw_label"], answer["status"]) == (best, status.value)
    assert answer["label"] == (best if status.value == "ok" else None)
    assert (answer["plane"], answer["sequence"]) == ((None, None) if is_ood else tuple(seen))
    if objection:
        assert answer["reason"] == objection


def test_what_is_no_number_is_no_answer(page: NodePage) -> None:
    given_ = outputs(np.random.default_rng(0), 1.0)
    info = {**INFO, "pooling": None}
    logits = {"logits": [1e39, 0.0, 0.0, 0.0], "features": given_["features"]}  # infinite in floats
    with pytest.raises(InputError, match="no finite numbers"):
        page.call("answer", info=info, outputs=logits)


def test_thresholds_of_one_are_never_answered(page: NodePage) -> None:
    info = {**INFO, "ood": None, "view": None, "thresholds": dict.fromkeys(LABELS, 1.0)}
    answer = page.call("answer", info=info, outputs=outputs(np.random.default_rng(0), 1.0))
    assert answer["status"] == "uncertain"
    assert answer["reason"] == f"{answer['raw_label']} is never answered: its threshold is 1"


@pytest.mark.parametrize("field", ["ood", "view"])
def test_rules_of_another_method_are_refused(page: NodePage, field: str) -> None:
    info = {**INFO, field: {**INFO[field], "method": "another"}}
    with pytest.raises(ModelError, match="is not known here"):
        page.call("answer", info=info, outputs=outputs(np.random.default_rng(0), 1.0))


def test_a_model_file_is_checked_before_it_runs(page: NodePage) -> None:
    data = bundled_model().read_bytes()
    told_ = page.call("model", data=text(data))
    assert told_["tag"] == read_model().tag
    assert told_["info"] == INFO
    for at in (9, 100_000, len(data) - 40_000 % len(data), len(data) - 100, len(data) - 3):
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ModelError):
            page.call("model", data=text(altered))
    for end in (0, 3, 1000, len(data) - 1):
        with pytest.raises(ModelError):
            page.call("model", data=text(data[:end]))


def test_heatmaps_look_like_python_s(page: NodePage) -> None:
    rng = np.random.default_rng(4)
    for gray in (DRAWN[0], DRAWN[1][:80, :60]):
        heat = rng.normal(0, 1, (6, 6))
        box = crop_box(gray, Preprocess(resize="pyramid"))
        height, width = gray.shape
        made = array(
            page.call(
                "overlay",
                pixels=text(np.ascontiguousarray(gray).tobytes()),
                width=width,
                height=height,
                heat={"values": heat.ravel().tolist(), "side": 6, "box": list(box)},
            )
        ).reshape(height, width, 4)
        theirs = overlay(gray, heat, box)[..., ::-1].astype(int)
        # OpenCV takes cubic weights from a table of 32 places between two cells.
        assert np.abs(made[..., :3] - theirs).mean() < 1.0
        assert np.abs(made[..., :3] - theirs).max() <= 16

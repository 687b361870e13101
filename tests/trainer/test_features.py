from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import ModelError, UsageError
from edge_runtime.imaging.handcrafted import (
    DEVICE_SETS,
    PATTERNS,
    cooccurrence,
    extract,
    haralick,
    patterns,
)
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from trainer.features import extractor as features
from trainer.features.cache import FeatureCache, default_folder
from trainer.features.extractor import SETS, Extractor
from trainer.features.gabor import FREQUENCIES
from trainer.synthetic.phantoms import CLASSES, draw_phantom

QUICK = ("histogram", "glcm")


def phantoms(many: int, size: int = 48) -> np.ndarray:
    options = Preprocess(size=size)
    drawn = [draw_phantom(CLASSES[i % 4], np.random.default_rng([9, i])) for i in range(many)]
    return np.stack([preprocess(gray, options) for gray in drawn])


def odd_slices(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [
        np.zeros((size, size), np.uint8),
        np.full((size, size), 255, np.uint8),
        np.full((size, size), 77, np.uint8),
        rng.integers(0, 256, (size, size), dtype=np.uint8),
        rng.integers(0, 2, (size, size), dtype=np.uint8) * 255,
        np.eye(size, dtype=np.uint8) * 200,
        (np.indices((size, size)).sum(axis=0) % 3 * 90).astype(np.uint8),
    ]


# Against scikit-image


@pytest.mark.parametrize("size", [16, 23, 31, 48, 96, 100])
def test_device_sets_equal_scikit_image(size: int) -> None:
    from skimage.feature import graycomatrix, hog, local_binary_pattern

    for gray in [*phantoms(2, size), *odd_slices(size)]:
        cell = (size // 8, size // 8)
        theirs = hog(gray, 9, cell, (2, 2), "L2-Hys", transform_sqrt=False, feature_vector=True)
        np.testing.assert_allclose(extract(gray, ["hog"]), theirs, atol=1e-6, rtol=0)
        for points, radius in PATTERNS:
            np.testing.assert_array_equal(
                patterns(gray, points, radius),
                local_binary_pattern(gray, points, radius, method="uniform"),
            )
        angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
        counts = graycomatrix(gray >> 3, [1, 2, 4], angles, levels=32, symmetric=True)
        counts = counts.transpose(2, 3, 0, 1).reshape(12, 32, 32).astype(np.int64)
        for each in counts:
            if each[1:, 1:].any():
                each[0] = each[:, 0] = 0
        np.testing.assert_array_equal(cooccurrence(gray), counts)


def test_haralick_equals_graycoprops() -> None:
    from skimage.feature import graycoprops

    for gray in [*phantoms(2), *odd_slices(32)]:
        counts = cooccurrence(gray)
        ours = haralick(counts)
        theirs = (counts / counts.sum(axis=(1, 2), keepdims=True)).transpose(1, 2, 0)[..., None]
        kinds = {0: "ASM", 1: "contrast", 2: "correlation", 3: "variance", 4: "homogeneity",
                 8: "entropy"}  # fmt: skip
        for column, kind in kinds.items():
            expected = graycoprops(theirs, kind)[:, 0]
            np.testing.assert_allclose(ours[:, column], expected, atol=1e-9, err_msg=kind)


def test_gabor_equals_scikit_image() -> None:
    from skimage.filters import gabor

    gray = phantoms(1, 16)[0]  # the largest kernel is four times as wide
    found = dict(zip(SETS["gabor"].names(16), SETS["gabor"].compute(gray), strict=True))
    for frequency in FREQUENCIES:
        for angle in (0, 30, 150):
            real, imaginary = gabor(gray / 255, frequency, theta=np.radians(angle))
            magnitude = np.hypot(real, imaginary)
            name = f"gabor:frequency {frequency} angle {angle}"
            assert found[f"{name}:mean"] == pytest.approx(magnitude.mean(), abs=2e-6)
            assert found[f"{name}:deviation"] == pytest.approx(magnitude.std(), abs=2e-6)


def test_region_knows_a_drawn_ellipse() -> None:
    gray = np.zeros((128, 128), np.uint8)
    cv2.ellipse(gray, (64, 64), (50, 58), 0, 0, 360, 90, -1)
    cv2.ellipse(gray, (64, 64), (20, 30), 0, 0, 360, 60, -1)
    cv2.ellipse(gray, (84, 44), (16, 8), 0, 0, 360, 230, -1)
    names = [name.removeprefix("region:") for name in SETS["region"].names(128)]
    found = dict(zip(names, SETS["region"].compute(gray).tolist(), strict=True))
    head, mass = np.count_nonzero(gray), np.count_nonzero(gray == 230)
    assert found["head:share"] == pytest.approx(head / 128**2)
    assert found["head:width"] == pytest.approx(101 / (101 + 117))
    assert found["segment:share"] == pytest.approx(mass / head, rel=0.03)  # opening rounds it
    assert found["segment:eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.02)
    assert found["segment:extent"] == pytest.approx(np.pi / 4, abs=0.05)
    assert found["segment:solidity"] > 0.94
    assert 0.7 < found["segment:circularity"] < 0.95
    rest = gray[(gray > 0) & (gray < 230)].mean()
    assert found["segment:brightness difference"] == pytest.approx((230 - rest) / 255, abs=0.02)
    assert found["segment:brightness ratio"] == pytest.approx(230 / (230 + rest), abs=0.02)
    assert found["place:off midline"] == pytest.approx(2 * 20 / 101, abs=0.01)
    assert found["place:below middle"] == pytest.approx(-2 * 20 / 117, abs=0.01)
    assert found["segments:number"] == pytest.approx(1 / 32)
    assert found["segments:second"] == 0
    assert [found[f"classes:share {i}"] for i in range(3)] == pytest.approx(
        [np.count_nonzero(gray == level) / head for level in (60, 90, 230)]
    )
    assert found["symmetry:difference"] > 0.01
    assert found["symmetry:unlikeness"] > 0.1
    assert found["symmetry:area"] == 0


def test_touching_segments_are_split() -> None:
    gray = np.zeros((128, 128), np.uint8)
    cv2.circle(gray, (64, 64), 56, 80, -1)
    gray[80:84, 30:100] = 110  # a third class, so that the brightest is the masses alone
    for x in (52, 74):
        cv2.circle(gray, (x, 50), 13, 220, -1)
    names = SETS["region"].names(128)
    found = dict(zip(names, SETS["region"].compute(gray), strict=True))
    assert found["region:segments:number"] == pytest.approx(2 / 32)
    assert found["region:segments:largest"] < 1.2 * found["region:segments:second"]


@pytest.mark.parametrize("size", [64, 65])
def test_a_symmetric_slice_has_no_asymmetry(size: int) -> None:
    gray = phantoms(1, size)[0]
    gray = np.maximum(gray, gray[:, ::-1])
    names = SETS["region"].names(size)
    found = dict(zip(names, SETS["region"].compute(gray).tolist(), strict=True))
    for kind in ("difference", "unlikeness", "brightness", "area"):
        assert found[f"region:symmetry:{kind}"] == pytest.approx(0, abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [16, 17, 64])
def test_odd_slices_have_bounded_values(size: int) -> None:
    for gray in odd_slices(size):
        for name in SETS.keys() - DEVICE_SETS.keys():
            values = SETS[name].compute(gray)
            assert values.dtype == np.float32
            assert len(values) == len(SETS[name].names(size))
            assert np.isfinite(values).all()
            assert np.abs(values).max() <= 1


# The extractor


def test_one_implementation_for_both_sides() -> None:
    images = phantoms(3)
    extractor = Extractor(tuple(DEVICE_SETS), 48)
    found = extractor(images)
    assert found.shape == (3, len(extractor.names))
    for row, gray in zip(found, images, strict=True):
        np.testing.assert_array_equal(row, extract(gray, tuple(DEVICE_SETS)))
    assert Extractor(["hog"], 48)(images[:0]).shape == (0, 1764)


def test_processes_batches_and_cache_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = phantoms(70, 32)
    sets = tuple(SETS)
    plain = Extractor(sets, 32, workers=1)(images)
    steps: list[tuple[int, int]] = []
    cache = FeatureCache(tmp_path)
    parallel = Extractor(
        sets, 32, workers=2, cache=cache, progress=lambda *at: steps.append(at)
    )(images)  # fmt: skip
    np.testing.assert_array_equal(parallel, plain)
    assert steps == [(0, 70), (32, 70), (64, 70), (70, 70)]
    monkeypatch.setattr(features, "BATCH", 7)
    np.testing.assert_array_equal(Extractor(sets, 32, workers=1)(images), plain)
    np.testing.assert_array_equal(Extractor(sets, 32, cache=cache)(images), plain)
    np.testing.assert_array_equal(
        np.stack([Extractor(sets, 32)(image[None])[0] for image in images[:3]]), plain[:3]
    )


@pytest.mark.parametrize(
    ("sets", "said"),
    [(["hog", "sift"], f"'sift'; there are {', '.join(SETS)}, deep"),
     (["hog", "hog"], "'hog' given twice"), ([], "no features; there are"),
     (["deep"], "need a network")],
)  # fmt: skip
def test_sets_that_do_not_exist_are_refused(sets: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Extractor(sets, 48)


def test_images_of_another_shape_are_refused() -> None:
    for images in (phantoms(1, 32), phantoms(1)[0], phantoms(1).astype(np.float32)):
        with pytest.raises(ValueError, match="no slices of"):
            Extractor(["hog"], 48)(images)


class Network:
    """Stands in for a network: remembers how many slices it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(len(images))
        return images.reshape(len(images), -1)[:, 1000:1005].astype(np.float32)


def test_deep_features_are_asked_for_once(tmp_path: Path) -> None:
    images, network = phantoms(6), Network()
    steps: list[tuple[int, int]] = []

    def make(key: str = "a") -> Extractor:
        return Extractor(
            ["deep", "histogram"], 48, cache=FeatureCache(tmp_path), deep=network, deep_key=key,
            deep_length=5, progress=lambda *at: steps.append(at),
        )  # fmt: skip

    found = make()(images[:4])
    assert make().names[4:6] == ("deep:feature 4:value", "histogram:levels:bin 0")
    np.testing.assert_array_equal(found[:, :5], images[:4].reshape(4, -1)[:, 1000:1005])
    assert steps == [(0, 8), (4, 8), (8, 8)]
    steps.clear()
    again = make()(images)
    np.testing.assert_array_equal(again[:4], found)
    assert network.seen == [4, 2]
    assert steps == [(8, 12), (10, 12), (12, 12)]
    make("b")(images)  # another network's features are not these
    assert network.seen == [4, 2, 6]


@pytest.mark.parametrize("value", [np.zeros((2, 4)), np.full((2, 5), np.nan)])
def test_a_network_that_breaks_its_word_is_refused(value: np.ndarray) -> None:
    extractor = Extractor(["deep"], 48, deep=lambda images: value, deep_key="a", deep_length=5)
    with pytest.raises(ModelError, match="the network gave"):
        extractor(phantoms(2))


# The cache


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the slices that are computed."""
    seen: list[int] = []
    real = features._compute_sets
    monkeypatch.setattr(features, "_compute_sets", lambda i, w: seen.append(len(i)) or real(i, w))
    return seen


def test_only_what_is_new_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, images = counting(monkeypatch), phantoms(5)
    first = Extractor(QUICK, 48, cache=FeatureCache(tmp_path))(images[:3])
    order = [4, 2, 0]
    mixed = Extractor(QUICK, 48, cache=FeatureCache(tmp_path))(images[order])
    assert seen == [3, 1]
    np.testing.assert_array_equal(mixed[1:], first[[2, 0]])
    Extractor(["glcm", "hog"], 48, cache=FeatureCache(tmp_path))(images)
    assert seen == [3, 1, 5]
    monkeypatch.setitem(SETS, "glcm", replace(SETS["glcm"], version=2))
    Extractor(["histogram", "glcm"], 48, cache=FeatureCache(tmp_path))(images[:3])
    assert seen == [3, 1, 5, 3]


def test_another_shape_of_the_same_bytes_is_another_slice(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    small, large = Extractor(QUICK, 16, cache=cache), Extractor(QUICK, 32, cache=cache)
    assert small._keys(np.zeros((1, 16, 16), np.uint8)) != large._keys(
        np.zeros((1, 32, 32), np.uint8)
    )


@pytest.mark.parametrize("damage", ["text", "truncated", "overwritten"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    images = phantoms(8)
    plain = Extractor(["hog"], 48, cache=FeatureCache(tmp_path))(images)
    path = FeatureCache(tmp_path).path
    whole = path.read_bytes()
    path.write_bytes(
        {"text": b"no database at all " * 100, "truncated": whole[: len(whole) // 2],
         "overwritten": whole[:100] + bytes(len(whole) - 100)}[damage]
    )  # fmt: skip
    lines: list[str] = []
    cache = FeatureCache(tmp_path, lines.append)
    for _ in range(2):
        np.testing.assert_array_equal(Extractor(["hog"], 48, cache=cache)(images), plain)
    assert cache.works
    assert len(lines) == 1
    assert "damaged" in lines[0]
    assert "\n" not in lines[0]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM features").fetchone() == (8,)


def test_impossible_values_are_missing(tmp_path: Path) -> None:
    lines: list[str] = []
    cache = FeatureCache(tmp_path, lines.append)
    good = np.arange(3, dtype=np.float32)
    cache.put({b"good": good, b"short": good[:2], b"nan": np.array([1, np.nan, 2], np.float32)})
    with sqlite3.connect(cache.path) as database:
        database.execute("INSERT INTO features VALUES (?, ?)", (b"text", "twelve chars"))
    found = cache.get([b"good", b"short", b"nan", b"text", b"none"], 3)
    assert list(found) == [b"good"]
    np.testing.assert_array_equal(found[b"good"], good)
    assert cache.get([bytes([i % 256, i // 256]) for i in range(2000)], 3) == {}
    assert not lines


def test_work_goes_on_without_a_cache(tmp_path: Path) -> None:
    images = phantoms(2)
    plain = Extractor(QUICK, 48)(images)
    (tmp_path / "file").write_text("in the way")
    lines: list[str] = []
    unusable = FeatureCache(tmp_path / "file", lines.append)  # also for the superuser
    np.testing.assert_array_equal(Extractor(QUICK, 48, cache=unusable)(images), plain)

    locked = FeatureCache(tmp_path / "locked", lines.append, patience=0.05)
    locked.put({b"a": np.zeros(1, np.float32)})
    with sqlite3.connect(locked.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        np.testing.assert_array_equal(Extractor(QUICK, 48, cache=locked)(images), plain)
        other.execute("ROLLBACK")

    assert not unusable.works
    assert not locked.works
    assert len(lines) == 2
    assert all("going on without stored features" in line for line in lines)


def _fill(job: tuple[str, int]) -> list[str]:
    """In another process: write and read beside others."""
    folder, own = job
    lines: list[str] = []
    cache = FeatureCache(Path(folder), lines.append)
    for i in range(20):
        cache.put({bytes([own, i, j]): np.full(50, i, np.float32) for j in range(10)})
        cache.get([bytes([own, i, j]) for j in range(10)], 50)
    return lines


def test_processes_and_threads_share_a_file(tmp_path: Path) -> None:
    jobs = [(str(tmp_path), own) for own in range(2)]
    thread = threading.Thread(target=_fill, args=((str(tmp_path), 2),))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = pool.map(_fill, jobs)
        thread.start()
        assert list(running) == [[], []]
    thread.join()
    keys = [bytes([own, i, j]) for own in range(3) for i in range(20) for j in range(10)]
    assert len(FeatureCache(tmp_path).get(keys, 50)) == len(keys)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interruption_leaves_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    images = phantoms(100, 16)
    plain = Extractor(QUICK, 16, workers=1)(images)

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Extractor(QUICK, 16, cache=FeatureCache(tmp_path), workers=workers, progress=stop)(images)
    seen = counting(monkeypatch)
    again = Extractor(QUICK, 16, cache=FeatureCache(tmp_path), workers=1)(images)
    np.testing.assert_array_equal(again, plain)
    assert sum(seen) == 36


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "btc-edge"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_folder() == Path.home() / ".cache" / "btc-edge"


KIB = 1024


def some_keys(count: int) -> list[bytes]:
    return [bytes([i]) * 16 for i in range(count)]


def stored(cache: FeatureCache, keys: list[bytes]) -> set[int]:
    return {key[0] for key in cache.get(keys, 2048)}


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    """Values of 8 KiB, a limit of 100 KiB, a clock that goes on by a day with each put."""
    days = [0.0]
    cache = FeatureCache(tmp_path, limit=100 * KIB, clock=lambda: 86_400 * days[0])
    keys, values = some_keys(30), np.ones(2048, np.float32)
    for i, key in enumerate(keys):
        days[0] = i
        cache.put({key: values})
        assert stored(cache, keys[:1]) == {0}, "looked at every day"
    left = stored(cache, keys)
    assert 0 in left
    assert 29 in left
    assert 5 <= len(left) <= 12
    assert left - {0} == set(range(31 - len(left), 30)), "the others by age"
    assert cache.path.stat().st_size <= 100 * KIB
    smaller = FeatureCache(tmp_path, limit=40 * KIB, clock=lambda: 86_400 * 30)
    smaller.put({b"new": values})
    assert smaller.get([b"new"], 2048)
    assert cache.path.stat().st_size <= 40 * KIB


def test_a_cache_of_an_older_version_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE features (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        database.executemany(
            "INSERT INTO features VALUES (?, ?)", [(key, bytes(8 * KIB)) for key in some_keys(30)]
        )
    database.close()
    lines: list[str] = []
    cache = FeatureCache(tmp_path, lines.append, limit=100 * KIB)
    cache.put({b"new": np.ones(2048, np.float32)})
    assert set(cache.get([b"new", *some_keys(30)], 2048)) > {b"new"}
    assert len(stored(cache, some_keys(30))) <= 12
    assert lines == []


def test_a_cache_that_may_not_be_written_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(tmp_path, clock=lambda: 0.0).put({b"k": np.ones(3, np.float32)})
    lines: list[str] = []
    cache = FeatureCache(tmp_path, lines.append)
    connect = sqlite3.connect
    monkeypatch.setattr(  # the superuser may write whatever the file's mode says
        sqlite3,
        "connect",
        lambda path, **other: connect(f"file:{path}?mode=ro", uri=True, **other),
    )
    assert set(cache.get([b"k"], 3)) == {b"k"}
    assert (cache.works, lines) == (True, [])


def fill(folder: str, own: int) -> None:
    cache = FeatureCache(Path(folder), limit=60 * KIB)
    for i in range(20):
        cache.put({bytes([own, i]): np.full(1024, i, np.float32)})
        cache.get([bytes([own, j]) for j in range(i + 1)], 1024)
    assert cache.works


def test_several_processes_keep_to_the_limit_together(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(fill, [str(tmp_path)] * 2, range(2)))
    cache = FeatureCache(tmp_path)
    left = cache.get([bytes([own, i]) for own in range(2) for i in range(20)], 1024)
    assert left
    for key, value in left.items():
        assert (value == key[1]).all()
    assert cache.path.stat().st_size <= 60 * KIB

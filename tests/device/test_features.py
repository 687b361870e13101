from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.hostile.pictures import draw_slice
from edge_runtime.errors import ModelError
from edge_runtime.imaging.handcrafted import (
    DEVICE_SETS,
    MEASURES,
    cooccurrence,
    extract,
    haralick,
    names_of,
    patterns,
)

ALL = tuple(DEVICE_SETS)
LENGTHS = {"histogram": 43, "glcm": 78, "lbp": 486, "hog": 1764}


def values_of(gray: np.ndarray, name: str) -> dict[str, float]:
    return dict(zip(names_of([name], len(gray)), extract(gray, [name]).tolist(), strict=True))


@pytest.mark.parametrize("size", [96, 128, 1024])
def test_the_sets_have_their_lengths(size: int) -> None:
    assert {name: len(names_of([name], size)) for name in ALL} == LENGTHS


@settings(max_examples=60, deadline=None)
@given(
    st.integers(16, 70).flatmap(
        lambda side: hnp.arrays(np.uint8, (side, side), elements=st.integers(0, 255))
    ),
    st.permutations(ALL),
)
def test_any_slice_gives_a_finite_value_for_each_name(gray: np.ndarray, sets: list[str]) -> None:
    before = gray.copy()
    values = extract(gray, sets)
    names = names_of(sets, len(gray))
    assert values.dtype == np.float32
    assert values.shape == (len(names),)
    assert len(set(names)) == len(names)
    assert all(name.count(":") == 2 and all(name.split(":")) for name in names)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(gray, before)
    np.testing.assert_array_equal(values, extract(gray, sets))


def test_reports_have_parts_of_a_sensible_number() -> None:
    for name in ALL:
        parts = {tuple(each.split(":")[:2]) for each in names_of([name], 128)}
        assert len(parts) <= 60, name


def test_sets_follow_in_the_order_asked_for() -> None:
    gray = draw_slice(0, 64)
    both = extract(gray, ["hog", "histogram"])
    np.testing.assert_array_equal(both, [*extract(gray, ["hog"]), *extract(gray, ["histogram"])])
    assert names_of(["hog", "histogram"], 64)[-1] == "histogram:background:share"
    assert extract(gray, []).shape == (0,)


def test_an_unknown_set_is_refused() -> None:
    for act in (lambda: extract(draw_slice(0, 32), ["sift"]), lambda: names_of(["sift"], 32)):
        with pytest.raises(
            ModelError, match="'sift'; this version knows histogram, glcm, lbp, hog"
        ):
            act()


def test_how_the_slice_lies_in_memory_does_not_matter() -> None:
    gray = draw_slice(1, 64)
    wide = np.repeat(gray, 2, axis=1)
    for same in (wide[:, ::2], np.asfortranarray(gray), gray[::-1][::-1]):
        np.testing.assert_array_equal(extract(same, ALL), extract(gray, ALL))
        for each in DEVICE_SETS.values():
            np.testing.assert_array_equal(each.compute(same), each.compute(gray))


def test_threads_do_not_matter() -> None:
    slices = [draw_slice(seed, 64) for seed in range(4)] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda gray: extract(gray, ALL), slices))
    for values, gray in zip(together, slices, strict=True):
        np.testing.assert_array_equal(values, extract(gray, ALL))


def test_only_numpy_is_needed() -> None:
    script = (
        "import sys, numpy\n"
        "from edge_runtime.imaging.handcrafted import extract, DEVICE_SETS\n"
        "extract(numpy.eye(32, dtype=numpy.uint8), list(DEVICE_SETS))\n"
        "print({'skimage', 'scipy', 'sklearn', 'tensorflow', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# Brightness


def test_histogram_by_hand() -> None:
    gray = np.zeros((16, 16), np.uint8)
    gray[:4] = 100  # a quarter
    found = values_of(gray, "histogram")
    assert found["histogram:levels:bin 0"] == 0.75
    assert found["histogram:levels:bin 12"] == 0.25
    deviation = math.sqrt(0.75 * 25**2 + 0.25 * 75**2)
    skew = (0.75 * -(25**3) + 0.25 * 75**3) / deviation**3
    kurtosis = (0.75 * 25**4 + 0.25 * 75**4) / deviation**4
    bits = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found["histogram:moments:mean"] == pytest.approx(25 / 255)
    assert found["histogram:moments:deviation"] == pytest.approx(deviation / 127.5)
    assert found["histogram:moments:skewness"] == pytest.approx(skew / (1 + skew))
    assert found["histogram:moments:kurtosis"] == pytest.approx(1 - 1 / kurtosis)
    assert found["histogram:entropy:bits"] == pytest.approx(bits / 8)
    assert found["histogram:percentiles:75"] == 0
    assert found["histogram:percentiles:95"] == pytest.approx(100 / 255)
    assert found["histogram:background:share"] == 0.75


@pytest.mark.parametrize("level", [0, 7, 8, 255])
def test_histogram_of_one_level(level: int) -> None:
    found = values_of(np.full((20, 20), level, np.uint8), "histogram")
    by_hand = dict.fromkeys(found, 0.0)
    by_hand[f"histogram:levels:bin {level // 8}"] = 1.0
    by_hand["histogram:moments:mean"] = level / 255
    by_hand |= {f"histogram:percentiles:{p}": level / 255 for p in (5, 25, 50, 75, 95)}
    by_hand["histogram:background:share"] = float(level < 8)
    assert found == pytest.approx(by_hand)


@pytest.mark.parametrize("size", [16, 20, 100])
def test_percentiles_are_exact_ranks(size: int) -> None:
    rng = np.random.default_rng(size)
    gray = rng.integers(0, 256, (size, size), dtype=np.uint8)
    ordered = np.sort(gray.ravel())
    found = values_of(gray, "histogram")
    for share in (5, 25, 50, 75, 95):
        rank = math.ceil(share * gray.size / 100) - 1
        assert found[f"histogram:percentiles:{share}"] == pytest.approx(ordered[rank] / 255)


# Co-occurrence


def pairs_by_loop(gray: np.ndarray, down: int, right: int) -> np.ndarray:
    side = len(gray)
    counts = np.zeros((32, 32))
    for row in range(side):
        for column in range(side):
            if 0 <= row + down < side and 0 <= column + right < side:
                i, j = gray[row, column] // 8, gray[row + down, column + right] // 8
                counts[i, j] += 1
                counts[j, i] += 1
    if counts[1:, 1:].any():
        counts[0] = counts[:, 0] = 0
    return counts


def haralick_by_loop(p: np.ndarray) -> list[float]:
    """The measures as the paper writes them, for any matrix."""
    levels = range(32)

    def entropy(shares: list[float]) -> float:
        return -sum(q * math.log(q) for q in shares if q > 0)

    every = [(i, j, float(p[i, j])) for i in levels for j in levels]
    px, py = p.sum(axis=1), p.sum(axis=0)
    mean_x, mean_y = sum(i * px[i] for i in levels), sum(j * py[j] for j in levels)
    var_x = sum((i - mean_x) ** 2 * px[i] for i in levels)
    var_y = sum((j - mean_y) ** 2 * py[j] for j in levels)
    sums = [sum(q for i, j, q in every if i + j == k) for k in range(63)]
    gaps = [sum(q for i, j, q in every if abs(i - j) == k) for k in levels]
    average, gap = sum(k * s for k, s in enumerate(sums)), sum(k * d for k, d in enumerate(gaps))
    hxy, hx, hy = entropy([q for _, _, q in every]), entropy(list(px)), entropy(list(py))
    hxy1 = -sum(q * math.log(px[i] * py[j]) for i, j, q in every if q > 0)
    hxy2 = entropy([px[i] * py[j] for i in levels for j in levels])
    return [
        sum(q * q for _, _, q in every),
        sum(k * k * d for k, d in enumerate(gaps)),
        sum((i - mean_x) * (j - mean_y) * q for i, j, q in every) / math.sqrt(var_x * var_y),
        var_x,
        sum(q / (1 + (i - j) ** 2) for i, j, q in every),
        average,
        sum((k - average) ** 2 * s for k, s in enumerate(sums)),
        entropy(sums),
        hxy,
        sum((k - gap) ** 2 * d for k, d in enumerate(gaps)),
        entropy(gaps),
        (hxy - hxy1) / max(hx, hy),
        math.sqrt(1 - math.exp(-2 * (hxy2 - hxy))),
    ]


def test_glcm_by_loop() -> None:
    gray = draw_slice(2, 18)
    gray[:3] = 0
    found = values_of(gray, "glcm")
    for distance, slant in ((1, 1), (2, 1), (4, 3)):
        steps = [(0, distance), (slant, slant), (distance, 0), (slant, -slant)]
        angles = [pairs_by_loop(gray, *step) for step in steps]
        values = np.array([haralick_by_loop(counts / counts.sum()) for counts in angles])
        for k, measure in enumerate(MEASURES):
            name = f"glcm:{measure} d{distance}"
            own = values[:, k]
            assert found[f"{name}:mean"] == pytest.approx(own.mean(), rel=1e-5, abs=1e-6), name
            assert found[f"{name}:range"] == pytest.approx(np.ptp(own), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("level", [0, 8, 255])
def test_one_level_has_the_measures_that_are_documented(level: int) -> None:
    found = values_of(np.full((16, 16), level, np.uint8), "glcm")
    ones = {"angular second moment", "correlation", "inverse difference moment"}
    for name, value in found.items():
        _, part, kind = name.split(":")
        measure = part.rpartition(" ")[0]
        expected = float(measure in ones) if measure != "sum average" else 2.0 * (level >> 3)
        assert value == (expected if kind == "mean" else 0.0), name


def test_background_counts_only_where_there_is_nothing_else() -> None:
    gray = np.zeros((16, 16), np.uint8)
    gray[5, 5] = 200  # touches nothing but background: its pairs are all there are
    assert (cooccurrence(gray)[:, 0, 0] > 0).all()
    gray[5, 6] = 100  # one pair at distance 1 and 0 degrees
    counts = cooccurrence(gray)
    assert counts[0].sum() == 2
    assert counts[0, 25, 12] == counts[0, 12, 25] == 1
    assert (counts[1:, 0, 0] > 0).all()


def test_two_levels_by_hand() -> None:
    counts = np.zeros((1, 32, 32), np.int64)
    counts[0, 1, 3] = counts[0, 3, 1] = 5  # always together: each tells all of the other
    found = dict(zip(MEASURES, haralick(counts)[0].tolist(), strict=True))
    by_hand = {
        "angular second moment": 0.5, "contrast": 4, "correlation": -1, "variance": 1,
        "inverse difference moment": 0.2, "sum average": 4, "sum variance": 0, "sum entropy": 0,
        "entropy": math.log(2), "difference variance": 0, "difference entropy": 0,
        "information correlation 1": -1, "information correlation 2": math.sqrt(0.75),
    }  # fmt: skip
    assert found == pytest.approx(by_hand)


# Local binary patterns


def test_a_flat_slice_is_all_ones_but_for_its_edge() -> None:
    codes = patterns(np.full((16, 16), 64, np.uint8), 8, 1)  # a power of two rounds exactly
    assert (codes[1:-1, 1:-1] == 8).all()
    assert (codes[0, 1:-1] == 5).all()  # three of eight points lie outside
    assert codes[0, 0] == 3
    for points, radius in ((8, 1), (16, 2), (24, 3)):
        assert (patterns(np.zeros((16, 16), np.uint8), points, radius) == points).all()


def test_a_bright_pixel_by_hand() -> None:
    gray = np.zeros((16, 16), np.uint8)
    gray[8, 8] = 200
    by_hand = np.full((16, 16), 8)
    by_hand[8, 8] = 0  # nothing around is as bright
    np.testing.assert_array_equal(patterns(gray, 8, 1), by_hand)
    gray[8, 9] = 200
    assert patterns(gray, 8, 1)[8, 8] == 1  # one bright neighbour; diagonals reach only 100 or so
    gray[8, 7] = 200
    assert patterns(gray, 8, 1)[8, 8] == 9  # two opposite ones are no uniform pattern


def test_lbp_counts_codes_by_region() -> None:
    gray = draw_slice(3, 50)
    found = values_of(gray, "lbp")
    edges = [0, 17, 34, 50]
    for points, radius in ((8, 1), (16, 2), (24, 3)):
        codes = patterns(gray, points, radius)
        for row in range(3):
            for column in range(3):
                block = codes[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
                for code in range(points + 2):
                    name = f"lbp:radius {radius}:region {row},{column} code {code}"
                    assert found[name] == pytest.approx((block == code).mean())


# Gradients


def test_hog_of_a_ramp_by_hand() -> None:
    gray = np.repeat(np.arange(64, dtype=np.uint8)[None] * 3, 64, axis=0)  # 0 degrees all over
    found = values_of(gray, "hog")
    inner, outer = 6.0, 6.0 * 7 / 8  # mean gradients of cells; at the slice's edge one column is 0
    for name, value in found.items():
        _, block, rest = name.split(":")
        right = int(block.split(",")[1])
        cell = int(rest.split(" ")[1].split(",")[1])
        cells = [outer if right + side in (0, 7) else inner for side in (0, 1)]
        length = math.sqrt(2 * cells[0] ** 2 + 2 * cells[1] ** 2)
        cut = [min(each / length, 0.2) for each in cells]  # all are cut off
        expected = cut[cell] / math.sqrt(2 * cut[0] ** 2 + 2 * cut[1] ** 2)
        assert value == pytest.approx(expected if rest.endswith("bin 0") else 0.0, abs=1e-5), name


def test_gradients_fall_into_the_bins_of_their_angles() -> None:
    from edge_runtime.imaging.handcrafted import _angle_table

    table = _angle_table().reshape(511, 511)
    for down, right in ((0, 0), (0, 5), (0, -5), (255, 0), (-255, 0), (1, 255), (-1, 255), (9, 9)):
        degrees = math.degrees(math.atan2(down, right)) % 180
        assert table[down + 255, right + 255] == int(degrees // 20), (down, right)
    assert set(np.unique(table).tolist()) == set(range(9))


def test_a_flat_slice_has_no_gradients() -> None:
    for level in (0, 200):
        assert not extract(np.full((96, 96), level, np.uint8), ["hog"]).any()


@pytest.mark.parametrize(("size", "cells"), [(16, 8), (23, 11), (31, 10), (100, 8), (1024, 8)])
def test_hog_fits_sizes_that_eight_does_not_divide(size: int, cells: int) -> None:
    names = names_of(["hog"], size)
    assert len(names) == (cells - 1) ** 2 * 36
    assert names[-1] == f"hog:block {cells - 2},{cells - 2}:cell 1,1 bin 8"

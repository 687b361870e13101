"""The networks of blocks: their pooling, and the weights that they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.model.pooling import log_mean_exp
from pretrained.make_weights import _narrow
from trainer.models.networks import _log_mean_exp, pretrained_shapes
from trainer.models.pretrained import FILES

ROWS, COLUMNS, CLASSES = 3, 4, 4
Layers = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def pooled() -> Any:
    import keras

    maps = keras.Input((ROWS, COLUMNS, CLASSES), name="class_maps")
    return keras.Model(maps, _log_mean_exp(maps))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
def test_pooling_is_as_on_a_device(pooled: Any, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    maps = (rng.normal(size=(2, ROWS, COLUMNS, CLASSES)) * spread).astype(np.float32)
    logits = np.asarray(pooled(maps))
    np.testing.assert_allclose(
        logits, [log_mean_exp(each) for each in maps], rtol=1e-5, atol=1e-5 * max(spread, 1)
    )
    slack = 1e-4 * max(spread, 1)
    assert (logits >= maps.mean(axis=(1, 2)) - slack).all(), "by Jensen's inequality"
    assert (logits <= maps.max(axis=(1, 2)) + slack).all()


def test_pooling_is_saved_and_loaded_in_safe_mode(pooled: Any, tmp_path: Path) -> None:
    import keras

    assert pooled.layers[-1].name == "logits"
    pooled.save(tmp_path / "pooled.keras")
    loaded = keras.saving.load_model(tmp_path / "pooled.keras", compile=False, safe_mode=True)
    maps = np.random.default_rng(0).normal(size=(3, ROWS, COLUMNS, CLASSES)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(loaded(maps)), np.asarray(pooled(maps)))


def block(seed: int, inner: int = 12, width: int = 3, filters: int = 2) -> Layers:
    """An inverted residual block in PyTorch's order: out, in, rows, columns."""
    rng = np.random.default_rng(seed)
    shapes = {"expand": (inner, width, 1, 1), "depthwise": (inner, 1, 3, 3)}
    shapes["project"] = (filters, inner, 1, 1)
    return {
        f"block1_{part}": (rng.normal(size=shape), rng.normal(size=shape[0]))
        for part, shape in shapes.items()
    }


def output_of(layers: Layers, pixels: np.ndarray) -> np.ndarray:
    """What a block gives for pixels (channels×rows×columns), without padding."""
    (enter, low), (depth, mid), (leave, out) = layers.values()
    wide = np.einsum("oi,irc->orc", enter[..., 0, 0], pixels) + low[:, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(np.clip(wide, 0, 6), (3, 3), (1, 2))
    deep = np.einsum("oij,orcij->orc", depth[:, 0], windows) + mid[:, None, None]
    return np.einsum("oi,irc->orc", leave[..., 0, 0], np.clip(deep, 0, 6)) + out[:, None, None]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_narrowed_block_keeps_the_channels_of_the_largest_product(seed: int, wide: int) -> None:
    whole, narrow = block(seed), block(seed)
    _narrow(narrow, "block1", wide)
    (enter, low), (depth, mid), (leave, out) = whole.values()
    product = [
        np.linalg.norm(enter[c]) * np.linalg.norm(depth[c]) * np.linalg.norm(leave[:, c])
        for c in range(len(enter))
    ]
    kept = sorted(sorted(range(len(product)), key=lambda c: -product[c])[:wide])
    expected = ((enter[kept], low[kept]), (depth[kept], mid[kept]), (leave[:, kept], out))
    assert list(narrow) == list(whole)
    for mine, theirs in zip(narrow.values(), expected, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sets(st.integers(0, 11), max_size=8))
def test_channels_that_carry_nothing_are_not_missed(seed: int, empty: set[int]) -> None:
    layers = block(seed)
    layers["block1_project"][0][:, sorted(empty)] = 0
    pixels = np.random.default_rng(seed).normal(size=(3, 6, 6))
    before = output_of(layers, pixels)
    _narrow(layers, "block1", 12 - len(empty))
    assert len(layers["block1_expand"][1]) == 12 - len(empty)
    np.testing.assert_allclose(output_of(layers, pixels), before)


@pytest.mark.parametrize("network", FILES)
def test_the_weights_are_of_the_shapes_of_the_network(network: str) -> None:
    expected = {}
    for name, (kernel, bias) in pretrained_shapes(network).items():
        expected |= {f"{name}.kernel": kernel, f"{name}.bias": (bias,)}
    path = Path(__file__).parents[2] / "pretrained/btc_edge_pretrained" / FILES[network]
    with np.load(path, allow_pickle=False) as stored:
        assert {name: stored[name].shape for name in stored.files} == expected
        for name in stored.files:
            assert stored[name].dtype == np.float16
            assert np.isfinite(stored[name]).all()

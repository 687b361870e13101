"""The report on an int8 file finds the layer that was made bad, and only that one."""

from __future__ import annotations

import io
import json

import keras
import numpy as np
import pytest
from rich.console import Console

from edge_runtime.errors import ModelError
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from export.graph import export_graph
from export.tflite.bias_correction import correct_bias
from export.tflite.convert import convert_tflite
from export.tflite.diagnose import Diagnosis, as_table, diagnose, summary, to_json
from export.tflite.flatbuffer import read_tflite
from trainer.run import dump_json
from trainer.synthetic.phantoms import CLASSES, draw_phantom

SIZE = 24
LABELS = np.arange(32) % 4
NAMES = ["pixels", "first", "second", "third", "added", "class_maps"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    options = Preprocess(size=SIZE)
    draws = (draw_phantom(CLASSES[c], np.random.default_rng([5, i])) for i, c in enumerate(LABELS))
    return np.stack([preprocess(draw, options) for draw in draws])


def network() -> keras.Model:
    """With what the real ones have: batch norm, ReLU6, a depthwise layer, a sum, class maps."""
    from keras import layers

    keras.utils.set_random_seed(2)
    inputs = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="second")(x)
    y = layers.Conv2D(8, 1, name="third")(layers.ReLU(6.0)(y))
    x = layers.Add(name="added")([x, y])
    x = layers.Conv2D(4, 1, name="class_maps")(layers.Dropout(0.3)(x))
    x = layers.GlobalAveragePooling2D(name="logits")(x)
    return keras.Model(inputs, layers.Softmax(name="softmax")(x))


def report(model: keras.Model, images: np.ndarray, calibration: np.ndarray, **options) -> Diagnosis:
    graph, _ = export_graph(model)
    floats, int8 = (convert_tflite(graph, name, calibration) for name in ("float32", "int8"))
    return diagnose(graph, floats, int8, images, **options)


@pytest.fixture(scope="module")
def good(images: np.ndarray) -> Diagnosis:
    return report(network(), images, images, labels=LABELS, worst=2)


def test_layers_are_named_as_in_keras(good: Diagnosis) -> None:
    names = [row.name for row in good.layers]
    assert names[:6] == NAMES
    assert sorted(names[6:]) == ["features", "logits"]  # either order is one of the graph
    ops = {row.name: row.op for row in good.layers}
    assert (ops["first"], ops["second"], ops["added"]) == ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")
    shapes = {row.name: row.shape for row in good.layers}
    assert shapes["first"] == (1, 12, 12, 8)
    assert shapes["logits"] == (1, 4)


def test_a_good_network_has_no_bad_layer(good: Diagnosis) -> None:
    assert (good.reference.logit, good.reference.agreement) == (0, 1)
    assert good.emulated.logit == pytest.approx(good.file.logit, rel=0.5)
    pixels, *rows = good.layers
    assert (pixels.rmse, pixels.local_rmse_steps, pixels.alone.logit) == (0, 0, 0)
    assert pixels.step == 1
    for row in rows:
        assert row.sqnr is not None
        assert row.local_sqnr is not None
        assert min(row.sqnr, row.local_sqnr) > 25, row.name
        assert row.local_rmse_steps < 2, row.name
        assert row.rmse == pytest.approx(row.rmse_steps * row.step)
        assert row.clipped < 0.02
        assert row.grid_low - row.step <= row.low <= row.high <= row.grid_high + row.step
    weighted = {row.name for row in rows if row.weight_sqnr is not None}
    assert weighted == {"first", "second", "third", "class_maps"}
    assert all((row.weight_spread or 1) >= 1 for row in rows)


def test_only_the_worst_are_tried_in_float(good: Diagnosis) -> None:
    tried = [row for row in good.layers if row.others is not None]
    assert tried == sorted(good.ranked()[:2], key=good.layers.index)
    assert all(row.others.logit < good.emulated.logit * 1.2 for row in tried if row.others)


def chain(bad: str | None = None) -> keras.Model:
    """Convolutions in turn with depthwise ones. Channel 0 of a bad one comes out 1000 times
    stronger, and the next weighs it a thousandth as much: in float nothing changes, and the next,
    whose channels have a scale each, loses nothing."""
    from keras import layers

    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = layers.Rescaling(1 / 255)(inputs)
    for name, follower in (("one", "two"), ("three", "four")):
        x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name=name)(x)
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name=follower)(x)
    x = layers.Conv2D(4, 1, name="class_maps")(x)
    x = layers.GlobalAveragePooling2D(name="logits")(x)
    model = keras.Model(inputs, layers.Softmax(name="softmax")(x))
    if bad is not None:
        follower = {"one": "two", "three": "four"}[bad]
        for name, place, factor in ((bad, np.s_[..., 0], 1000), (follower, np.s_[..., 0, :], 1e-3)):
            kernel, bias = model.get_layer(name).get_weights()
            kernel[place] = np.abs(kernel[place]) * factor  # positive: activations let it through
            model.get_layer(name).set_weights([kernel, bias])
    return model


@pytest.mark.parametrize("bad", ["one", "three"])
def test_a_channel_that_takes_the_range_for_itself(bad: str, images: np.ndarray) -> None:
    """Steps become so large that all the other channels round to nothing."""
    first, second, *_ = report(chain(bad), images, images, worst=1).ranked()
    assert first.name == bad
    assert first.alone.logit > 5 * second.alone.logit
    assert first.local_rmse_steps == pytest.approx(0.3, abs=0.25)  # small in its own large steps
    # In float, the layer costs nothing, and little is left of the file's error.
    assert first.others is not None
    assert first.others.logit < first.alone.logit / 5


def test_a_file_that_mistakes_the_pixels(images: np.ndarray) -> None:
    """Calibrated on dark pictures, it takes 255 for the brightest pixel that it saw."""
    dark = report(chain(), images, images // 4)
    pixels = dark.ranked()[0]
    assert (pixels.name, pixels.op) == ("pixels", "QUANTIZE")
    assert pixels.step == pytest.approx(63 / 255, rel=0.02)
    assert pixels.clipped > 0
    assert dark.emulated.logit == pytest.approx(dark.file.logit, rel=0.2)


def test_a_range_too_small_clips(images: np.ndarray) -> None:
    """One white pixel keeps the input right, while the layers never saw a bright picture."""
    calibration = images // 8
    calibration[:, 0, 0] = 255
    rows = {row.name: row for row in report(chain(), images, calibration).layers}
    assert rows["pixels"].step == 1
    assert rows["one"].clipped > 0.01
    assert rows["one"].high > rows["one"].grid_high


def test_pooling_adds_nothing_of_its_own(images: np.ndarray) -> None:
    from keras import layers

    keras.utils.set_random_seed(6)
    inputs = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = layers.Conv2D(4, 3, activation="relu", name="wide")(layers.Rescaling(1 / 255)(inputs))
    x = layers.Dropout(0.4)(layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(x)))
    outputs = layers.Softmax(name="softmax")(layers.Dense(4, name="logits")(x))
    done = report(keras.Model(inputs, outputs), images[:8], images)
    rows = {row.name: row for row in done.layers}
    assert {"wide", "pool", "flat", "logits"} <= set(rows)
    for name in ("pool", "flat"):
        assert (rows[name].local_rmse_steps, rows[name].alone.logit) == (0, 0)
        assert rows[name].rmse > 0
    assert done.reference.accuracy is None


def test_json_is_plain_numbers(good: Diagnosis) -> None:
    content = to_json(good)
    assert json.loads(dump_json(content)) == json.loads(json.dumps(content, allow_nan=False))
    assert content["layers"][0]["sqnr"] is None
    assert content["layers"][1]["alone"].keys() == {"logit", "agreement", "accuracy"}


def test_table_fits_and_starts_with_the_worst(good: Diagnosis) -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(as_table(good))
    names = [line.split()[1] for line in out.getvalue().splitlines() if line.startswith("│")]
    assert names == [row.name for row in good.ranked()]
    assert "32 images" in summary(good)
    assert "Right are" in summary(good)


def test_another_network_s_file_is_refused(images: np.ndarray) -> None:
    graph, _ = export_graph(chain())
    other, _ = export_graph(network())
    floats = convert_tflite(graph, "float32")
    with pytest.raises(ModelError, match="not of this graph"):
        diagnose(graph, floats, convert_tflite(other, "int8", images), images)
    with pytest.raises(ModelError, match="not of this graph"):
        diagnose(graph, floats, floats, images)


def test_progress_ends_at_its_total(images: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    done = report(chain(), images[:2], images, progress=lambda *at: seen.append(at), worst=99)
    assert seen == [(i + 1, 2 * len(done.layers) + 1) for i in range(len(seen))]
    assert seen[-1][0] == seen[-1][1]


def test_a_mean_error_goes_into_the_bias(images: np.ndarray) -> None:
    """All but one of a channel's weights are just under half a step, and round to nothing."""
    model = chain()
    layer = model.get_layer("one")
    kernel, bias = layer.get_weights()
    kernel[:], kernel[1, 1] = 0.45 / 127, 1
    layer.set_weights([kernel, bias])
    graph, _ = export_graph(model)
    floats, plain = (convert_tflite(graph, name, images) for name in ("float32", "int8"))
    mended = correct_bias(floats, plain, images)
    assert mended == correct_bias(floats, plain, images) != plain
    one, two = read_tflite(mended), read_tflite(plain)
    assert (one.ops, one.scheme, len(one.tensors)) == (two.ops, two.scheme, len(two.tensors))
    assert len(mended) < len(plain) + 1024
    before, after = (diagnose(graph, floats, data, images, worst=0) for data in (plain, mended))
    rows = [next(row for row in d.layers if row.name == "one") for d in (before, after)]
    assert rows[0] == before.ranked()[0]
    assert rows[1].local_rmse_steps < 0.7 * rows[0].local_rmse_steps
    assert after.file.logit < 0.7 * before.file.logit


def test_every_kind_of_layer_with_a_bias_can_be_mended(images: np.ndarray) -> None:
    from keras import layers

    keras.utils.set_random_seed(8)
    inputs = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, dilation_rate=2, activation="relu", name="apart")(x)
    x = layers.DepthwiseConv2D(3, 2, depth_multiplier=2, activation="relu", name="deep")(x)
    x = layers.Dense(8, activation="relu", name="dense")(layers.Flatten()(x))
    x = layers.Dense(4, use_bias=False, name="logits")(x)
    model = keras.Model(inputs, layers.Softmax(name="softmax")(x))
    for name in ("apart", "deep", "dense"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([np.abs(kernel), bias + 0.1])
    graph, _ = export_graph(model)
    floats, plain = (convert_tflite(graph, name, images) for name in ("float32", "int8"))
    before = diagnose(graph, floats, plain, images, worst=0)
    after = diagnose(graph, floats, correct_bias(floats, plain, images), images, worst=0)
    for old, new in zip(before.layers, after.layers, strict=True):
        assert new.local_rmse_steps <= old.local_rmse_steps + 0.02, new.name
    own = [{row.name: row.local_rmse_steps for row in d.layers} for d in (before, after)]
    assert all(own[1][name] < own[0][name] for name in ("apart", "deep", "dense"))
    assert own[1]["logits"] == own[0]["logits"]  # no bias, so nothing to change

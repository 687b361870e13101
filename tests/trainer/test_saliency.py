"""Boxes, heatmaps and baselines, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess, crop_box, preprocess
from edge_runtime.model.pooling import log_mean_exp
from tests.trainer.test_dataset import fake_dataset
from trainer.data.boxes import into_input, read_boxes
from trainer.data.dataset import Dataset
from trainer.evaluation.baselines import low_level, nearest_neighbour
from trainer.evaluation.examples import choose_examples
from trainer.evaluation.saliency import (
    grad_cam,
    heatmaps,
    peaks,
    pointing_chances,
    pointing_hits,
    pointing_metrics,
)
from trainer.models.networks import build_network
from trainer.models.outputs import ModelOutputs, predictor
from trainer.synthetic.phantoms import draw_phantom


def test_a_box_follows_the_crop() -> None:
    """A bright square in a slice with wide margins lies in its box after preprocessing too."""
    gray = np.zeros((200, 300), np.uint8)
    gray[40:160, 100:220] = 90  # the head: 120 by 120
    gray[100:120, 180:200] = 255
    options = Preprocess(size=64, window=None)
    left, top, right, bottom = crop_box(gray, options)
    np.testing.assert_allclose([left, right], [100 / 300, 220 / 300])
    np.testing.assert_allclose([top, bottom], [40 / 200, 160 / 200])
    rows, columns = np.nonzero(preprocess(gray, options) > 200)
    place = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / 64
    back = left + place[0] * (right - left), top + place[1] * (bottom - top)
    np.testing.assert_allclose(back, [190 / 300, 110 / 200], atol=0.005)


@pytest.mark.parametrize("shape", [(120, 200), (200, 120)])
def test_frames_of_oblong_heads_reach_beyond_the_slice(shape: tuple[int, int]) -> None:
    gray = np.full(shape, 80, np.uint8)
    crop = crop_box(gray, Preprocess())
    wide, tall = (crop[2] - crop[0]) * shape[1], (crop[3] - crop[1]) * shape[0]
    assert wide == pytest.approx(tall), "the input is a square"
    assert crop_box(gray, Preprocess(crop="none")) == (0.0, 0.0, 1.0, 1.0)


def write_boxes(path: Path, *rows: str) -> Path:
    path.write_text("path,x_center,y_center,width,height\n" + "\n".join(rows))
    return path


def test_boxes_of_a_table(tmp_path: Path) -> None:
    crops = np.array([[0, 0, 1, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1]], np.float32)
    names = ["top/a.png", "b (1).png", "c.png"]
    table = write_boxes(tmp_path / "b.csv", "a.png,0.5,0.5,0.2,0.4", "b (1).png,0.75,0.75,0.1,0.1",
                        "a.png,0.8,0.5,0.2,0.2")  # fmt: skip
    boxes = into_input(read_boxes(table, names), crops)
    np.testing.assert_allclose(boxes[0], [0.4, 0.3, 0.9, 0.7], atol=1e-6)
    np.testing.assert_allclose(boxes[1], [0.4, 0.4, 0.6, 0.6], atol=1e-6)
    assert np.isnan(boxes[2]).all()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,x,0,0,0", "box of a.png: not four numbers"),
        ("a.png,0.5,0.5,,0.2", "box of a.png: not four numbers"),
        ("a.png,0.5,0.5,-1,0.2", "box of a.png: not a box"),
        ("a.png,nan,0.5,1,1", "box of a.png: not a box"),
        ("a.png,250,0.5,0.1,0.1", "box of a.png: not fractions of the picture's sides; divide "
         "pixels by them"),
        ("a.png,0.5,-0.1,0.1,0.1", "box of a.png: not fractions of the picture's sides; divide "
         "pixels by them"),
        ("a.png,0.5,0.5,40,1", "box of a.png: not fractions of the picture's sides; divide "
         "pixels by them"),
        ("z.png,0,0,0,0", "no row for any of the images"),
        ("a.png,,, ,", "no box for any of the images"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_box_is_named(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_boxes(write_boxes(tmp_path / "bad.csv", row), ["top/a.png", "c.png"])
    assert str(caught.value) == f"bad.csv: {words}"


def test_empty_cells_are_no_box(tmp_path: Path) -> None:
    table = write_boxes(tmp_path / "b.csv", "a.png,0.5,0.5,1,1", "c.png,,,,", " d.png ,, , ,")
    boxes = read_boxes(table, ["top/a.png", "c.png", "d.png"])
    assert boxes[0].tolist() == [0, 0, 1, 1]
    assert np.isnan(boxes[1:]).all()


def test_pointing_by_hand() -> None:
    heat = np.zeros((3, 8, 8), np.float32)
    heat[0, 1, 6] = heat[1, 4, 4] = heat[2, 0, 0] = 1
    places = peaks(heat)
    np.testing.assert_allclose(places[0], [6.5 / 8, 1.5 / 8], atol=0.02)
    boxes = np.array([[0.7, 0.1, 0.9, 0.3], [0.0, 0.0, 0.2, 0.2], [np.nan] * 4])
    hits = pointing_hits(places, boxes)
    np.testing.assert_array_equal(hits, [1, 0, np.nan])
    np.testing.assert_allclose(pointing_chances(boxes)[:2], [0.04, 0.04])
    found = pointing_metrics(hits, pointing_chances(boxes), list("uvw"))
    assert found is not None
    assert (found["n"], found["share"], found["chance"]) == (2, 0.5, pytest.approx(0.04))
    assert pointing_metrics(np.array([np.nan]), np.array([np.nan]), ["u"]) is None


def test_class_maps_are_the_heatmaps() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    classes = np.array([0, 2, 1, 1, 0])
    heat = heatmaps(None, ModelOutputs(maps.mean((1, 2)), None, maps), np.zeros((5, 8, 8)), classes)
    assert heat is not None
    for i, c in enumerate(classes):
        np.testing.assert_array_equal(heat[i], maps[i, :, :, c])
    assert heatmaps(None, ModelOutputs(np.zeros((1, 3))), np.zeros((1, 8, 8)), classes[:1]) is None


def test_grad_cam_against_finite_differences() -> None:
    """On a network that is linear behind its last maps, the weights can be found by hand."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 1))
    maps = layers.Conv2D(3, 3, strides=4, padding="same", activation="relu")(inputs)
    logits = layers.Dense(2, name="logits")(layers.Flatten()(maps))
    model = keras.Model(inputs, layers.Softmax(name="softmax")(logits))
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16), dtype=np.uint8)
    values = keras.Model(inputs, maps).predict(image[..., None].astype("float32"), verbose=0)[0]
    for c in (0, 1):
        kernel = model.get_layer("logits").get_weights()[0][:, c].reshape(values.shape)
        by_hand = np.maximum((values * kernel.mean(axis=(0, 1))).sum(axis=2), 0)
        np.testing.assert_allclose(
            grad_cam(model, image, np.array([c]))[0], by_hand, rtol=1e-3, atol=1e-3
        )


def test_networks_give_what_the_checks_need() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    for name, features, has_maps in (("edge", 80, True), ("classic", 128, False)):
        seen = predictor(build_network(name, 32, 4))(images)
        assert seen.logits.shape == (3, 4)
        assert seen.features is not None
        assert seen.features.shape == (3, features)
        assert (seen.class_maps is not None) == has_maps
        if seen.class_maps is not None:
            pooled = np.stack([log_mean_exp(maps) for maps in seen.class_maps])
            np.testing.assert_allclose(pooled, seen.logits, atol=1e-4)


def with_pictures(pictures: list[np.ndarray], labels: list[int]) -> Dataset:
    from dataclasses import replace

    from trainer.data.near_duplicates import thumbnail

    data = fake_dataset(list(range(len(labels))), labels)
    return replace(data, thumbnails=np.stack([thumbnail(p) for p in pictures]))


def test_nearest_neighbour_knows_mirror_images() -> None:
    pictures = [draw_phantom("glioma", np.random.default_rng(i)) for i in range(6)]
    training = with_pictures(pictures, [0, 1, 0, 1, 0, 1])
    mirrored = [p[:, ::-1] for p in pictures]
    tested = with_pictures(mirrored, [0] * 6)
    np.testing.assert_array_equal(nearest_neighbour(training, tested), [0, 1, 0, 1, 0, 1])


def test_low_level_baseline_finds_a_shortcut() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    values = rng.normal(size=(200, 10)).astype(np.float32)
    values[:, 3] += 4 * labels
    values[:, 7] = 5  # says nothing and has no spread
    data = replace(fake_dataset(list(range(200)), labels.tolist()), file_statistics=values)
    predicted = low_level(data.take(range(150)), data.take(range(150, 200)))
    assert (predicted == labels[150:]).mean() > 0.9


def test_cases_begin_with_the_most_confident_errors() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    predicted = np.array([0, 1, 1, 0, 1, 0])
    confidence = np.array([0.9, 0.6, 0.7, 0.95, 0.8, 0.5])
    apart = list("uvwxyz")
    assert choose_examples(labels, predicted, confidence, apart).tolist() == [3, 1, 0, 5, 4, 2]
    # Copies of one picture are one case.
    assert choose_examples(labels, predicted, confidence, list("uvwvyu")).tolist() == [3, 0, 4, 2]

"""What a training sees: changed slices, moved tumours, balanced draws, losses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.imaging.preprocess import Preprocess, preprocess
from trainer.augmentation.copy_paste import erase, paste, symmetry
from trainer.augmentation.spatial import change_place, move_box
from trainer.augmentation.style import change_style, match_levels
from trainer.former import settings_of_today
from trainer.models.feed import as_batch, box_mask
from trainer.models.recipes import RECIPES, Recipe, recipes_in_words
from trainer.models.sampler import NO_BOX, Example, Feed, Samples, sampling_weights
from trainer.models.training import TrainSettings, learning_rate
from trainer.synthetic.corruptions import CORRUPTIONS
from trainer.synthetic.phantoms import CLASSES, draw_phantom

OPTIONS = Preprocess(size=64)
BOX = np.array([0.2, 0.3, 0.4, 0.5])


def phantom(label: str, seed: int) -> np.ndarray:
    return preprocess(draw_phantom(label, np.random.default_rng(seed)), OPTIONS)


def make_samples(
    labels: list[int], boxed: set[int] = frozenset(), tumour_free: int | None = 2
) -> Samples:
    images = np.stack([phantom(CLASSES[c], i) for i, c in enumerate(labels)])
    boxes = np.stack([BOX if c in boxed else NO_BOX for c in labels])
    groups = tuple(f"g{i // 2}" for i in range(len(labels)))
    sources = tuple("ab"[c % 2] for c in labels)
    none = np.zeros((0, 64, 64), np.uint8), np.zeros((0, 4), np.float32)
    without = np.array([c == tumour_free for c in range(4)])
    return Samples(images, np.array(labels), boxes, groups, sources, without, *none)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CLASSES))
def test_augmentation_is_repeatable_and_keeps_the_box_on_the_picture(seed: int, label: str) -> None:
    image, reference = phantom(label, seed), phantom("notumor", seed + 1)
    before = image.copy()

    def changed(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        moved, box = change_place(image, box, rng)
        return change_style(moved, rng, reference), box

    one, box = changed(BOX)
    np.testing.assert_array_equal(one, changed(BOX)[0])
    np.testing.assert_array_equal(image, before)
    assert (one.shape, one.dtype) == (image.shape, np.uint8)
    assert one.std() > 3, "the slice is still a picture"
    assert (box >= 0).all()
    assert (box <= 1).all()
    assert box[0] < box[2]
    assert box[1] < box[3]
    assert np.isnan(changed(NO_BOX)[1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_box_follows_its_pixels(seed: int) -> None:
    import cv2

    rng = np.random.default_rng(seed)
    image = np.zeros((64, 64), np.uint8)
    image[20:32, 13:26] = 255
    box = np.array([13, 20, 26, 32]) / 64
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), rng.uniform(-20, 20), 1.0)
    if seed % 2:
        matrix[0] = [-matrix[0, 0], -matrix[0, 1], 63 - matrix[0, 2]]
    moved = cv2.warpAffine(image, matrix, (64, 64))
    rows, columns = np.nonzero(moved > 127)
    left, top, right, bottom = move_box(box, matrix, 64) * 64
    assert left - 1 <= columns.min() <= left + 3
    assert right - 4 <= columns.max() <= right + 1
    assert top - 1 <= rows.min() <= top + 3
    assert bottom - 4 <= rows.max() <= bottom + 1


def test_levels_become_those_of_the_style() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 100, (64, 64), dtype=np.uint8)
    style = rng.integers(100, 256, (64, 64), dtype=np.uint8)
    matched = match_levels(image, style, 1.0)
    assert abs(float(matched.mean()) - float(style.mean())) < 3
    np.testing.assert_array_equal(match_levels(image, style, 0.0), image)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_pasted_tumour_lies_in_its_box_and_nowhere_else(seed: int) -> None:
    donor, host = np.full((64, 64), 40, np.uint8), np.full((64, 64), 90, np.uint8)
    donor[20:32, 13:25] = 200
    changed, box = paste(donor, np.array([13, 20, 25, 32]) / 64, host, np.random.default_rng(seed))
    rows, columns = np.nonzero(changed > 120)
    left, top, right, bottom = box * 64
    assert len(rows) > 20, "brighter than its surroundings there, so brighter here"
    assert left - 4 <= columns.min()
    assert columns.max() <= right + 4
    assert top - 4 <= rows.min()
    assert rows.max() <= bottom + 4
    far = np.ones((64, 64), bool)
    grow = 0.35 * max(right - left, bottom - top) + 2
    far[
        max(0, int(top - grow)) : int(bottom + grow) + 1,
        max(0, int(left - grow)) : int(right + grow) + 1,
    ] = False
    np.testing.assert_array_equal(changed[far], host[far])


def test_erasing_covers_a_tumour_of_one_half_only() -> None:
    head = np.zeros((64, 64), np.uint8)
    head[6:58, 10:54] = 100
    sick = head.copy()
    sick[24:34, 16:26] = 220
    rng = np.random.default_rng(0)
    healed = erase(sick, np.array([16, 24, 26, 34]) / 64, rng)
    assert healed is not None
    np.testing.assert_array_equal(healed, head)
    assert erase(sick, np.array([26, 24, 38, 34]) / 64, rng) is None, "over the midline"
    lopsided = np.zeros((64, 64), np.uint8)
    lopsided[:, :20] = 200
    assert symmetry(lopsided) < 0.8
    assert erase(lopsided, np.array([2, 24, 12, 34]) / 64, rng) is None, "halves that differ"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_every_time_and_leaves_a_slice(name: str) -> None:
    gray = draw_phantom("glioma", np.random.default_rng(3))
    words, change = CORRUPTIONS[name]
    one, two = change(gray.copy()), change(gray.copy())
    np.testing.assert_array_equal(one, two)
    assert words
    assert (one.dtype, one.ndim) == (np.uint8, 2)
    assert not np.array_equal(one, gray)
    assert preprocess(one, OPTIONS).std() > 5


def test_balanced_draws_give_each_class_the_same_and_small_groups_more() -> None:
    samples = make_samples([0] * 12 + [1] * 2 + [2] * 4 + [3] * 6)
    weights = sampling_weights(samples, balance=True)
    assert weights.sum() == pytest.approx(1)
    for label in range(4):
        assert weights[samples.labels == label].sum() == pytest.approx(0.25)
    uneven = replace(samples, groups=("big",) * 9 + ("one",) + samples.groups[10:])
    drawn = sampling_weights(uneven, balance=True)
    assert drawn[9] == pytest.approx(3 * drawn[0]), "a group by the square root of its size"
    plain = sampling_weights(samples, balance=False)
    assert (plain == plain[0]).all()


def test_every_slice_comes_once_an_epoch_without_balance() -> None:
    feed = Feed(make_samples([0, 1, 2, 3] * 3), 4, Recipe(), seed=3)
    assert sorted(feed.order(0).tolist()) == list(range(12))
    assert feed.order(0).tolist() != feed.order(1).tolist()


def test_recipe_decides_what_an_example_is() -> None:
    samples = make_samples([0, 1, 2, 3] * 4, boxed={0, 1, 3})
    own = {image.tobytes() for image in samples.images}

    def seen(recipe: Recipe, start: int) -> list[Example]:
        feed = Feed(samples, 4, recipe, seed=1)
        return [feed.example(0, n, start) for n in range(40)]

    still = seen(Recipe(augment=0.0), 0)
    assert all(e.image.tobytes() == samples.images[0].tobytes() for e in still)
    pasted = seen(Recipe(augment=0.0, paste=1.0), 0)
    assert {int(e.target.argmax()) for e in pasted} == {0, 1, 3}, "a tumour brings its class"
    assert not any(e.image.tobytes() in own for e in pasted)
    assert not any(np.isnan(e.box).any() for e in pasted)
    patched = seen(Recipe(augment=0.0, patch=1.0), 2)
    assert {int(e.target.argmax()) for e in patched} == {2}, "a patch brings nothing"
    assert not any(e.image.tobytes() in own for e in patched)
    covered = seen(Recipe(augment=0.0, erase=1.0), 2)
    assert {int(e.target.argmax()) for e in covered} == {2}
    assert any(e.image.tobytes() not in own for e in covered)
    boxless = Feed(make_samples([0, 1, 2, 3]), 4, Recipe(augment=0.0, paste=1.0), seed=1)
    assert boxless.example(0, 0, 0).target.argmax() == 0, "nothing to paste"


@pytest.mark.parametrize("tumour_free", [2, None])
def test_a_class_that_merely_lacks_boxes_is_no_tumour_free_one(tumour_free: int | None) -> None:
    """Boxes for glioma only: slices of the other tumours show one all the same."""
    samples = make_samples([0, 1, 2, 3] * 4, boxed={0}, tumour_free=tumour_free)
    recipe = Recipe(
        balance=True, augment=0.0, paste=0.4, erase=0.3, patch=0.3, tumour_free_weight=1.5
    )
    feed = Feed(samples, 4, recipe, seed=1)
    hosts = samples.images[samples.labels == 2].astype(int)
    changed = 0
    for start in range(16):
        for number in range(20):
            image, target, _ = feed.example(0, number, start)
            label = int(target.argmax())
            if np.array_equal(image, samples.images[start]):
                assert label == samples.labels[start]
                continue
            changed += 1
            assert label in (0, 2), "a slice of the others is never changed under its label"
            if label == 0:  # pasted: most of the picture is still a tumour-free host
                assert (np.abs(hosts - image).mean(axis=(1, 2)) < 20).any()
    assert (changed > 0) == (tumour_free is not None), "without a tumour-free class, pasting rests"
    drawn = np.bincount(samples.labels[np.concatenate([feed.order(e) for e in range(200)])])
    assert drawn[1] == pytest.approx(drawn[3], rel=0.15)
    assert drawn[2] / drawn[1] == pytest.approx(1.5 if tumour_free else 1, rel=0.15)


def test_tumour_free_classes_are_said_and_known_to_the_samples() -> None:
    from tests.trainer.test_dataset import fake_dataset
    from trainer.models.sampler import make_samples as from_data

    data = fake_dataset([0, 1, 2, 3], [0, 1, 0, 1])
    assert from_data(data).tumour_free.tolist() == [False, False]
    assert from_data(replace(data, tumour_free=("b",))).tumour_free.tolist() == [False, True]


def test_partial_slices_come_with_their_set() -> None:
    target = np.array([[1, 1, 0, 1]], np.float32)
    samples = replace(
        make_samples([0, 1, 2, 3]), partial_images=phantom("glioma", 99)[None],
        partial_targets=target,
    )  # fmt: skip
    feed = Feed(samples, 4, Recipe(augment=0.0, partial_labels=0.5), seed=1)
    sums = [feed.example(0, n, 2).target.sum() for n in range(200)]
    assert 60 < sums.count(3.0) < 140
    assert set(sums) == {1.0, 3.0}


def test_set_loss_is_cross_entropy_over_what_is_allowed() -> None:
    from trainer.models.losses import LocalisationLoss, PartialLabelCrossEntropy, accuracy

    shares = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1]], np.float32)
    sets = np.array([[1, 0, 0, 0], [1, 1, 0, 1]], np.float32)
    assert float(PartialLabelCrossEntropy()(sets, shares)) == pytest.approx(
        -np.log([0.5, 0.3]).mean()
    )
    smooth = 0.9 * -np.log([0.5, 0.3]).mean() + 0.1 * -np.log(shares).mean()
    assert float(PartialLabelCrossEntropy(0.1)(sets, shares)) == pytest.approx(smooth, rel=1e-5)
    np.testing.assert_array_equal(np.asarray(accuracy(sets, shares)), [1, 0])

    maps = np.zeros((2, 3, 3, 4), np.float32)
    maps[0, 1, 1, 2] = np.log(8)  # half of the map's softmax
    masks = np.zeros_like(maps)
    masks[0, 1, 1, 2] = 1
    each = -np.log(0.5) / 2  # the second slice has no box
    assert float(LocalisationLoss()(masks, maps)) == pytest.approx(each, rel=1e-5)


def test_mask_covers_the_box_in_the_channel_of_the_class() -> None:
    target = np.eye(4, dtype=np.float32)[1]
    image = np.zeros((64, 64), np.uint8)
    mask = box_mask(Example(image, target, np.array([0.0, 0.5, 0.25, 1.0])), (4, 4))
    assert mask[..., [0, 2, 3]].sum() == 0
    np.testing.assert_array_equal(
        mask[..., 1], [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    )
    tiny = box_mask(Example(image, target, np.array([0.6, 0.6, 0.61, 0.61])), (4, 4))
    assert tiny.sum() >= 1, "a box smaller than a cell still has one"
    assert box_mask(Example(image, target, NO_BOX), (4, 4)).sum() == 0
    inputs, (targets, masks) = as_batch([Example(image, target, NO_BOX)] * 2, (4, 4)).for_model()
    assert (inputs.shape, targets.shape, masks.shape) == ((2, 64, 64, 1), (2, 4), (2, 4, 4, 4))


def test_the_rate_rises_and_falls() -> None:
    made = TrainSettings(epochs=4, learning_rate=1e-3)
    rates = [learning_rate(made, step, 200) for step in range(800)]
    assert rates[0] < 2e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.1)
    assert rates[-1] < 2e-5
    assert TrainSettings.from_json(asdict(made)) == made


def test_recipes_of_the_former_version_are_read() -> None:
    names = {"tumour_free_weight": "clear", "partial_labels": "partial", "pretrained": "start"}
    for recipe in RECIPES.values():
        former = {names.get(name, name): value for name, value in asdict(recipe).items()}
        assert former.keys() >= set(names.values())
        read = settings_of_today({"training": {"recipe": former}})["training"]["recipe"]
        assert Recipe(**read) == recipe
        assert settings_of_today({"training": {"recipe": read}})["training"]["recipe"] == read
    run = json.loads((Path(__file__).parents[1] / "former/network/run.json").read_text())
    training = settings_of_today(run)["training"]
    assert TrainSettings.from_json(training).recipe == RECIPES["plain"]


def test_recipes_are_named_in_the_command() -> None:
    from trainer.commands.train import train_command

    option = next(p for p in train_command.params if p.name == "recipe")
    assert recipes_in_words() in option.help
    assert set(option.type.choices) == set(RECIPES)  # type: ignore[attr-defined]
    assert option.default in RECIPES


@pytest.mark.parametrize("name", ["edge", "lite0"])
def test_start_weights_are_those_that_the_network_takes(name: str) -> None:
    from trainer.models.networks import build_network, pretrained_shapes
    from trainer.models.pretrained import read_pretrained

    start = read_pretrained(name, pretrained_shapes(name))
    network = build_network(name, 64, 4)
    named = {layer.name for layer in network.layers if layer.weights}
    assert set(start) == named - {"class_maps"}
    for layer, (kernel, _) in start.items():
        np.testing.assert_array_equal(network.get_layer(layer).get_weights()[0], kernel)


def test_a_normalisation_folded_into_a_convolution_gives_what_both_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pretrained.make_weights import fold
    from trainer.models.networks import NETWORKS

    monkeypatch.setitem(NETWORKS, "edge", NETWORKS["edge"]._replace(blocks=()))
    rng = np.random.default_rng(0)
    state = {
        "_conv_stem.weight": rng.normal(size=(2, 3, 3, 3)),
        "_bn0.weight": rng.uniform(0.5, 2, 2), "_bn0.bias": rng.normal(size=2),
        "_bn0.running_mean": rng.normal(size=2), "_bn0.running_var": rng.uniform(0.5, 2, 2),
    }  # fmt: skip
    arrays = fold(state, "edge")
    patch = rng.integers(0, 256, (3, 3)).astype(np.float64)
    scaled = (patch - 127) / 128
    plain = (state["_conv_stem.weight"] * scaled).sum(axis=(1, 2, 3))
    normal = (plain - state["_bn0.running_mean"]) / np.sqrt(state["_bn0.running_var"] + 1e-3)
    expected = normal * state["_bn0.weight"] + state["_bn0.bias"]
    kernel = arrays["stem.kernel"][:, :, 0].astype(np.float64)
    got = (kernel * (patch / 255)[..., None]).sum(axis=(0, 1)) + arrays["stem.bias"]
    np.testing.assert_allclose(got, expected, rtol=0.02, atol=0.02)

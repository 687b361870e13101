"""What the bundled model refuses, and how the check is fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime import Classifier
from edge_runtime.imaging.preprocess import CONTRAST, DENOISE, Preprocess, preprocess
from trainer.evaluation.ood import REFUSED, fit_ood_detector, turned_copies
from trainer.models.outputs import ModelOutputs
from trainer.synthetic.ood_pictures import DRAWN, draw_ood_pictures
from trainer.synthetic.phantoms import CLASSES, draw_phantom


@pytest.mark.parametrize("kind", list(DRAWN))
def test_the_bundled_model_refuses_drawn_ood_pictures(kind: str) -> None:
    answers = list(Classifier().classify_many(draw_ood_pictures(kind, 40, seed=7)))
    refused = [a.status.value == "unfamiliar" for a in answers]
    assert np.mean(refused) >= 0.9, kind
    assert all(a.label is None for a, r in zip(answers, refused, strict=True) if r)


def test_ood_pictures_repeat() -> None:
    for kind in DRAWN:
        one, two = draw_ood_pictures(kind, 2, seed=3), draw_ood_pictures(kind, 2, seed=3)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)), kind
        assert all(p.dtype == np.uint8 and p.ndim == 2 for p in one)


def features_of(images: np.ndarray) -> ModelOutputs:
    """Stands for a network: coarse thumbnails as features."""
    small = images.reshape(len(images), 4, 8, 4, 8).mean(axis=(2, 4)).reshape(len(images), -1)
    return ModelOutputs(small[:, :4].astype(np.float32), small.astype(np.float32))


def slices(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    options = Preprocess(size=32)
    labels = np.arange(n) % 4
    pictures = [
        preprocess(draw_phantom(CLASSES[c], np.random.default_rng([seed, i])), options)
        for i, c in enumerate(labels)
    ]
    return np.stack(pictures), labels


def test_fitted_check_keeps_held_out_slices_and_refuses_others() -> None:
    images, labels = slices(240, seed=1)
    validation, test = slices(200, seed=2)[0], slices(200, seed=3)[0]
    validation_features = features_of(validation).features
    assert validation_features is not None
    check = fit_ood_detector(features_of, images, labels, validation_features, Preprocess(size=32))
    assert check is not None

    def refused(pictures: np.ndarray) -> float:
        found = features_of(pictures).features
        assert found is not None
        return float(check.is_ood(found).mean())

    assert refused(validation) == pytest.approx(REFUSED, abs=0.005)
    assert refused(test) < 3 * REFUSED
    assert refused(255 - test) > 0.95
    assert refused(np.ascontiguousarray(np.rot90(test, axes=(1, 2)))) > 0.8
    noise = np.random.default_rng(0).integers(0, 256, test.shape, dtype=np.uint8)
    assert refused(noise) > 0.95


def test_a_network_without_features_has_no_check() -> None:
    images, labels = slices(8, seed=1)
    none = fit_ood_detector(
        lambda x: ModelOutputs(np.zeros((len(x), 4), np.float32)),
        images, labels, np.zeros((3, 2), np.float32), Preprocess(size=32),
    )  # fmt: skip
    assert none is None


def test_turned_copies_leave_half_turns_out() -> None:
    images, _ = slices(6, seed=4)
    copies = turned_copies(images, Preprocess(size=32))
    assert copies.shape == (12, 32, 32)
    np.testing.assert_array_equal(copies, turned_copies(images, Preprocess(size=32)))
    for image, quarter in zip(images, copies[::2], strict=True):
        assert any(np.array_equal(quarter, np.rot90(image, k)) for k in (1, 3))


@pytest.mark.parametrize("denoise", DENOISE)
@pytest.mark.parametrize("contrast", CONTRAST)
def test_turned_copies_are_filtered_once(denoise: str | None, contrast: str | None) -> None:
    """The slices that are turned have been through the filters; only the crop is new."""
    images, _ = slices(6, seed=4)
    options = Preprocess(size=32)
    filtered = replace(options, denoise=denoise, contrast=contrast)
    np.testing.assert_array_equal(turned_copies(images, filtered), turned_copies(images, options))

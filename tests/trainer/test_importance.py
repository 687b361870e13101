"""Permutation importance: planted features, the shortcut against the plain way, the pictures, and
what a report says of a classical model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from sklearn.feature_selection import f_classif

from edge_runtime.errors import DataError
from tests.trainer.test_dataset import fake_dataset
from tests.trainer.test_report import NAMES, SETTINGS, Figures, example, examples_of
from trainer.data.dataset import Dataset
from trainer.evaluation import importance as module
from trainer.evaluation.importance import (
    EACH,
    PICTURED,
    SHOWN,
    ComponentChange,
    Importance,
    component_classifier,
    explained_by_class,
    measure_importance,
    pool_importance,
    units_of,
)
from trainer.evaluation.metrics import balanced_accuracy
from trainer.evaluation.predictions import metrics_of
from trainer.models.classical import ClassicalModel, ClassicalSettings, fit_classical
from trainer.models.kinds import KINDS
from trainer.models.outputs import open_trained
from trainer.report.display_names import model_name, model_noun
from trainer.report.html import ReportData, write_report
from trainer.run import Run

BIN = Path(sys.executable).parent

PLANTED = "glcm:contrast"
WIDTHS = {
    "glcm:energy": 2, PLANTED: 3, "hog:block 0,0": 5, "hog:block 0,1": 5, "histogram:mean": 1,
}  # fmt: skip
FEATURES = tuple(f"{part}:value {i}" for part, k in WIDTHS.items() for i in range(k))
CLASSICAL = SETTINGS | {
    "network": None, "model": "svm", "features": {"sets": ["glcm", "hog", "histogram"]},
    "heatmap": None,
}  # fmt: skip


def planted(n: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Noise in all columns but those of PLANTED, which tell the class. float32 N×F and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    reported = units_of(FEATURES, 2)[PLANTED]
    features[:, reported] += 4 * np.eye(classes, len(reported), dtype=np.float32)[labels]
    # As real features are: on very different scales.
    return features * np.geomspace(1e-3, 1e3, len(FEATURES), dtype=np.float32), labels


def fitted(kind: str = "svm", classes: int = 3) -> ClassicalModel:
    features, labels = planted(200, 1, classes)
    settings = ClassicalSettings(kind, ("glcm", "hog", "histogram"))
    return fit_classical(settings, features, labels, [str(i) for i in range(200)])[0]


def side_of(labels: np.ndarray, groups: Sequence[int] | None = None) -> Dataset:
    """Slices that each show their number."""
    n = len(labels)
    images = np.repeat(np.arange(n, dtype=np.uint8), 64).reshape(n, 8, 8)
    data = fake_dataset(list(groups or range(n)), labels.tolist())
    return replace(data, images=images, class_names=NAMES)


@pytest.fixture(scope="module")
def found() -> Importance:
    features, labels = planted(150, 2)
    return measure_importance(fitted(), FEATURES, features, side_of(labels), 1)


def test_what_tells_the_class_is_what_matters(found: Importance) -> None:
    facts = found.summary()
    assert facts["n"] == 150
    assert facts["balanced_accuracy"] > 0.9
    assert facts["parts"][0]["part"] == PLANTED
    assert facts["parts"][0]["columns"] == 3
    assert facts["sets"]["glcm"]["drop"] > 0.4
    for name in ("hog", "histogram"):
        assert abs(facts["sets"][name]["drop"]) < 0.05
    assert {p["part"] for p in facts["parts"]} == set(WIDTHS)
    assert all(abs(p["drop"]) < 0.05 for p in facts["parts"][1:])
    drops = [p["drop"] for p in facts["parts"]]
    assert drops == sorted(drops, reverse=True)
    assert facts["whole_only"] == []


def test_the_seed_decides(found: Importance) -> None:
    features, labels = planted(150, 2)
    same, other = (
        measure_importance(fitted(), FEATURES, features, side_of(labels), seed) for seed in (1, 2)
    )
    assert same.facts == found.facts
    np.testing.assert_array_equal(same.pixels, found.pixels)
    assert other.facts["sets"] != found.facts["sets"]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_shortcut_is_the_plain_way(kind: str, classes: int) -> None:
    model = fitted(kind, classes)
    features, labels = planted(90, 3, classes)
    change, classify = ComponentChange(model.pipeline, features), component_classifier(model)
    assert (classify(change.components) == model.predict(features)[0].argmax(axis=1)).all()
    rng = np.random.default_rng(0)
    for columns in units_of(FEATURES, 1).values():
        order = rng.permutation(90)
        shuffled = features.copy()
        shuffled[:, columns] = features[order][:, columns]
        logits, components = model.predict(shuffled)
        np.testing.assert_allclose(change(columns, order), components, atol=1e-5)
        predicted = classify(change(columns, order))
        assert (predicted == logits.argmax(axis=1)).all()
        expected = sk.balanced_accuracy_score(labels, predicted)
        assert balanced_accuracy(predicted, labels) == pytest.approx(expected)


def test_the_figures_are_those_of_a_plain_loop(found: Importance) -> None:
    features, labels = planted(150, 2)
    model, rng = fitted(), np.random.default_rng(1)
    rng.permutation(150)  # the draw of slices
    drops = []
    for _ in range(module.SET_REPEATS):
        shuffled, columns = features.copy(), units_of(FEATURES, 1)["glcm"]
        shuffled[:, columns] = features[rng.permutation(150)][:, columns]
        predicted = [model.predict(f)[0].argmax(axis=1) for f in (features, shuffled)]
        before, after = (sk.balanced_accuracy_score(labels, c) for c in predicted)
        drops.append(before - after)
    reported = found.facts["sets"]["glcm"]
    assert reported["drop"] == pytest.approx(np.mean(drops))
    assert reported["spread"] == pytest.approx(np.std(drops, ddof=1))


def test_the_pictures_are_the_extremes_one_a_group() -> None:
    features, labels = planted(150, 2)
    groups = [i // 10 for i in range(150)]
    found = measure_importance(fitted(), FEATURES, features, side_of(labels, groups), 1)
    reported = found.facts["pictures"]
    assert 1 <= len(reported) <= PICTURED
    assert found.pixels.shape == (2 * EACH * len(reported), 8, 8)
    first = reported[0]
    column = FEATURES.index(first["column"])
    own = units_of(FEATURES, 2)[PLANTED]
    assert column == own[f_classif(features[:, own], labels)[0].argmax()]
    values = features[:, column].reshape(15, 10)
    shown = found.pixels[: 2 * EACH, 0, 0].tolist()
    lowest = sorted(range(15), key=lambda g: values[g].min())[:EACH]
    highest = sorted(range(15), key=lambda g: -values[g].max())[:EACH]
    assert shown[:EACH] == [10 * g + int(values[g].argmin()) for g in lowest]
    assert shown[EACH:] == [10 * g + int(values[g].argmax()) for g in highest]
    for row, slice_ in zip(shown, first["lowest"] + first["highest"], strict=True):
        assert slice_ == {
            "path": f"{row}.png",
            "label": NAMES[labels[row]],
            "value": float(features[row, column]),
        }


def test_eta_squared_is_the_share_between_classes() -> None:
    features, labels = planted(80, 5)
    features[:, 0] = 0.1
    explained = explained_by_class(features, labels)
    assert explained[0] == 0
    f = f_classif(features[:, 1:].astype(np.float64), labels)[0]
    np.testing.assert_allclose(explained[1:], f / (f + (80 - 3) / (3 - 1)), rtol=1e-6)


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARTS", 3)
    monkeypatch.setattr(module, "MOST_SLICES", 60)
    features, labels = planted(150, 2)
    found = measure_importance(fitted(), FEATURES, features, side_of(labels), 1)
    assert found.facts["n"] == 60
    # The two parts of glcm come first; then one more fits, and only one set has so few.
    parts = {p["part"] for p in found.facts["parts"]}
    assert parts == {"glcm:energy", PLANTED, "histogram:mean"}
    assert found.facts["whole_only"] == ["hog"]


def test_it_survives_its_file(found: Importance, tmp_path: Path) -> None:
    path = tmp_path / "importance.npz"
    found.save(path)
    again = Importance.read(path)
    assert again.facts == found.facts
    assert json.loads(json.dumps(again.summary(), allow_nan=False)) == found.summary()
    np.testing.assert_array_equal(again.pixels, found.pixels)
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"importance\.npz"):
        Importance.read(path)
    with pytest.raises(DataError):
        Importance.read(tmp_path / "none.npz")


def fold(drops: dict[str, float], n: int = 10) -> Importance:
    parts = [{"part": p, "drop": d, "spread": 9.0, "columns": 2} for p, d in drops.items()]
    parts.sort(key=lambda p: -float(str(p["drop"])))
    sets = {"hog": {"drop": n / 100, "spread": 9.0}, "deep": {"drop": 0.5, "spread": 9.0}}
    facts = {
        "n": n, "balanced_accuracy": n / 20, "sets": sets, "parts": parts, "whole_only": [],
        "folds": None, "pictures": [{"part": f"of {n}"}],
    }  # fmt: skip
    return Importance(facts, np.full((1, 2, 2), n, np.uint8))


def test_folds_are_averaged() -> None:
    many = {f"hog:block {i}": i / 100 for i in range(SHOWN + 5)}
    one = fold(many | {"deep:feature 0": 0.9})
    two = fold({p: d + 0.1 for p, d in many.items() if p != "hog:block 7"}
               | {"deep:feature 0": 0.9}, n=14)  # fmt: skip
    pooled = pool_importance([one, two])
    facts = pooled.facts
    assert facts["n"] == 24
    assert facts["folds"] == 2
    assert facts["balanced_accuracy"] == pytest.approx(0.6)
    assert facts["sets"]["hog"]["drop"] == pytest.approx(0.12)
    assert facts["sets"]["hog"]["spread"] == pytest.approx(np.std([0.1, 0.14], ddof=1))
    reported = {p["part"]: p["drop"] for p in facts["parts"]}
    # A part that a fold lacks has no mean; a deep feature is another one in each fold.
    assert set(reported) == set(many) - {"hog:block 7"}
    assert reported["hog:block 3"] == pytest.approx(0.08)
    assert next(iter(reported)) == f"hog:block {SHOWN + 4}"
    assert facts["whole_only"] == ["deep"]
    assert len(pooled.summary()["parts"]) == SHOWN
    assert facts["pictures"] == [{"part": "of 10"}]
    assert pooled.pixels.max() == 10


def page_of(folder: Path, settings: dict[str, Any], importance: Importance | None) -> str:
    predictions = example()
    metrics = metrics_of(predictions)
    metrics["importance"] = None if importance is None else importance.summary()
    write_report(
        ReportData(folder, settings, [], predictions, metrics, examples_of(predictions), importance)
    )
    return (folder / "report.html").read_text("utf-8")


def test_a_report_of_a_classical_model(found: Importance, tmp_path: Path) -> None:
    text = page_of(tmp_path, CLASSICAL, found)
    parsed = Figures(text)
    words = " ".join(parsed.words.split())
    assert "network" not in text
    assert "brain-mri: SVM on glcm, hog, histogram, protocol grouped" in words
    assert "this model" in words
    assert "Feature importance" in words
    assert "share their importance" in words
    assert parsed.found["importance/n"] == (150, "150")
    assert all(place.startswith("data:image/") for place in parsed.loads)
    reported = found.facts["pictures"]
    for end in ("lowest", "highest"):
        assert text.count(f'alt="slice with the {end} value"') == EACH * len(reported)
    for part in reported:
        assert f"{part['column']}: " in words
    pooled = page_of(tmp_path, CLASSICAL, pool_importance([found, found]))
    assert "over the folds" in " ".join(Figures(pooled).words.split())
    assert len(Figures(pooled).loads) == len(parsed.loads)


def test_a_classical_model_without_known_importance_has_no_section(tmp_path: Path) -> None:
    text = page_of(tmp_path, CLASSICAL, None)
    assert "Feature importance" not in text
    assert "network" not in text


def test_a_report_of_a_network_says_network(tmp_path: Path) -> None:
    words = " ".join(Figures(page_of(tmp_path, SETTINGS, None)).words.split())
    assert "Feature importance" not in words
    assert "brain-mri: edge network, protocol grouped" in words
    assert "this network" in words
    assert "A network that does not beat it" in words


def test_what_a_model_is_called() -> None:
    assert model_name({"network": "edge", "model": "cnn"}) == "edge network"
    assert model_name({"network": "evaluated", "model": "cnn"}) == "evaluated network"
    assert model_name(CLASSICAL) == "SVM on glcm, hog, histogram"
    deep = {"network": None, "model": "random-forest", "features": {"sets": ["deep"]}}
    assert model_name(deep) == "random forest on deep features"
    assert model_name({"model": "knn", "features": None}) == "nearest neighbours"
    assert {model_name({"model": kind}) for kind in KINDS}.isdisjoint(KINDS)
    assert [model_noun(s) for s in (SETTINGS, CLASSICAL)] == ["network", "model"]


@pytest.mark.slow
def test_the_command_measures_it_on_the_validation_side(phantom_zip: Path, tmp_path: Path) -> None:
    classical = ("--model", "logistic", "--features", "histogram,lbp", "--size", 64, "--no-cache")
    for name, words in (
        ("folds", (*classical, "--protocol", "grouped", "--folds", 2)),
        ("network", ("--size", 64, "--epochs", 1)),
    ):
        command = [BIN / "btc-train", phantom_zip, "--out", tmp_path / name, *words]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
    pooled, first, second, network = (
        Run.open(tmp_path / name) for name in ("folds", "folds/fold-1", "folds/fold-2", "network")
    )
    reported = [run.metrics()["importance"] for run in (first, second)]
    for run, measured in zip((first, second), reported, strict=True):
        assert measured["n"] == len(run.validation_images().labels)
        assert {s["path"] for p in measured["pictures"] for s in p["lowest"]}.isdisjoint(
            run.measured_paths()
        )
        predicted = open_trained(run).predict(run.validation_images().pixels).logits.argmax(axis=1)
        expected = sk.balanced_accuracy_score(run.validation_images().labels, predicted)
        assert measured["balanced_accuracy"] == pytest.approx(expected)
        assert "network" not in (run.folder / "report.html").read_text("utf-8")
    whole = pooled.metrics()["importance"]
    assert whole["folds"] == 2
    assert whole["n"] == reported[0]["n"] + reported[1]["n"]
    drops = [each["sets"]["lbp"]["drop"] for each in reported]
    assert whole["sets"]["lbp"]["drop"] == pytest.approx(np.mean(drops))
    assert "Feature importance" in (pooled.folder / "report.html").read_text("utf-8")
    assert network.metrics()["importance"] is None
    assert not (network.folder / module.FILE).exists()
    assert "Feature importance" not in (network.folder / "report.html").read_text("utf-8")

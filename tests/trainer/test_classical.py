"""Classical models: fitted, kept without pickle, refused when altered, trained by the command."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.decision.prediction import probabilities
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model.metadata import INTENDED_USE
from trainer.commands.train_options import parse_features
from trainer.data.dataset import read_dataset
from trainer.data.split import split_dataset
from trainer.fitting import network_for
from trainer.models import classical
from trainer.models.classical import ClassicalModel, ClassicalSettings, fit_classical
from trainer.models.kinds import KINDS
from trainer.models.outputs import open_trained
from trainer.run import Run

BIN = Path(sys.executable).parent


def clouds(
    classes: int = 4, n: int = 240, width: int = 20
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features (float32 n×width) that lie about one centre a class, labels, and groups of 3."""
    rng = np.random.default_rng(classes)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, width)) * 2
    features = (centres[labels] + rng.normal(size=(n, width))).astype(np.float32)
    return features, labels, [f"g{i // (3 * classes)}" for i in range(n)]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_and_survives_its_file(kind: str, classes: int, tmp_path: Path) -> None:
    features, labels, groups = clouds(classes)
    train, validation = slice(0, 160), slice(160, None)
    model, chosen = fit_classical(
        ClassicalSettings(kind, ("hog",)), features[train], labels[train], groups[train]
    )
    assert chosen is None
    logits, components = model.predict(features[validation])
    assert logits.dtype == components.dtype == np.float32
    assert logits.shape == (80, classes)
    assert (logits.argmax(axis=1) == labels[validation]).mean() > 0.9
    assert components.shape[0] == 80
    digest = model.save(tmp_path / "model.skops")
    again = ClassicalModel.load(tmp_path / "model.skops", digest, kind)
    again = again.predict(features[validation])
    np.testing.assert_array_equal(again[0], logits)
    repeated, _ = fit_classical(
        ClassicalSettings(kind, ("hog",)), features[train], labels[train], groups[train]
    )
    np.testing.assert_array_equal(repeated.predict(features[validation])[0], logits)


def test_logits_of_probabilities_are_their_logarithms() -> None:
    """Softmax of the logits gives the forest's own probabilities back, but for the floor."""
    features, labels, groups = clouds()
    model, _ = fit_classical(ClassicalSettings("random-forest", ("hog",)), features, labels, groups)
    given = probabilities(model.predict(features)[0])
    np.testing.assert_allclose(given, model.pipeline.predict_proba(features), atol=4 * 1e-3)


def test_margins_of_the_svm_are_those_of_scikit_learn() -> None:
    features, labels, groups = clouds()
    model, _ = fit_classical(ClassicalSettings("svm", ("hog",)), features, labels, groups)
    expected = model.pipeline.decision_function(features)
    np.testing.assert_allclose(model.predict(features)[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_search_keeps_groups_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    seen = []
    split = StratifiedGroupKFold.split

    def recording(self: object, X: object, y: object = None, groups: object = None) -> object:
        for train, test in split(self, X, y, groups):
            names = np.asarray(groups)
            seen.append(set(names[train]) & set(names[test]))
            yield train, test

    monkeypatch.setattr(StratifiedGroupKFold, "split", recording)
    features, labels, groups = clouds(n=120)
    _, chosen = fit_classical(ClassicalSettings(kind, ("hog",), True), features, labels, groups)
    assert seen
    assert not any(seen)
    assert chosen is not None
    assert set(chosen) == {"project__n_components", *KINDS[kind].grid}


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    features, labels, groups = clouds(n=60)
    model, _ = fit_classical(ClassicalSettings("logistic", ("hog",)), features, labels, groups)
    path = tmp_path / "model.skops"
    digest = model.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="altered"):
        ClassicalModel.load(path, digest, "logistic")
    with pytest.raises(ModelError, match="train again"):
        ClassicalModel.load(tmp_path / "none.skops", digest, "logistic")
    path.write_bytes(b"PK nonsense")
    with pytest.raises(ModelError, match="cannot be read"):
        ClassicalModel.load(path, hashlib.sha256(b"PK nonsense").hexdigest(), "logistic")


def test_a_file_that_names_code_is_refused(tmp_path: Path) -> None:
    """What a pickle would run: a function of another module, here os.system."""
    features, labels, groups = clouds(n=60)
    model, _ = fit_classical(ClassicalSettings("logistic", ("hog",)), features, labels, groups)
    path = tmp_path / "model.skops"
    model.save(path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "schema.json":
                schema = json.loads(data)
                schema["content"] = {
                    "__class__": "system", "__module__": "os", "__loader__": "FunctionNode",
                    "__id__": 1, "content": {"module_path": "os", "function": "system"},
                }  # fmt: skip
                data = json.dumps(schema).encode()
            new.writestr(name, data)
    path.write_bytes(out.getvalue())
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    with pytest.raises(ModelError, match=r"do not belong|cannot be read"):
        ClassicalModel.load(path, digest, "logistic")


def test_a_tree_that_walks_in_circles_is_refused(tmp_path: Path) -> None:
    features, labels, groups = clouds(n=60)
    model, _ = fit_classical(ClassicalSettings("random-forest", ("hog",)), features, labels, groups)
    classical._check_trees(model.pipeline[-1])
    tree = model.pipeline[-1].estimators_[0].tree_
    state = tree.__getstate__()
    for field, value in (("left_child", 0), ("right_child", 10_000), ("feature", 999)):
        nodes = state["nodes"].copy()
        nodes[field][0] = value
        tree.__setstate__({**state, "nodes": nodes})
        digest = model.save(tmp_path / "model.skops")
        with pytest.raises(ModelError, match="tree"):
            ClassicalModel.load(tmp_path / "model.skops", digest, "random-forest")


def test_features_are_named(tmp_path: Path) -> None:
    assert parse_features("hog, glcm") == (("hog", "glcm"), None)
    assert parse_features(f"lbp,deep:{tmp_path}") == (("lbp", "deep"), tmp_path)
    for wrong in ("sift", "hog,hog", "deep", "hog:3", "", "deep:"):
        with pytest.raises(UsageError):
            parse_features(wrong)
    with pytest.raises(UsageError, match="no such run"):
        parse_features("deep:/nowhere/at/all")


def train(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "btc-train"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "svm", "--epochs", 3), "--epochs does not go with --model svm"),
        (("--features", "hog"), "--features goes with --model"),
        (("--model", "knn", "--features", "sift"), "there are histogram, glcm, lbp, hog"),
        (("--model", "knn", "--cache", "x", "--no-cache"), "exclude"),
    ],
)
def test_options_that_do_not_go_together(
    words: tuple[object, ...], said: str, phantom_zip: Path, tmp_path: Path
) -> None:
    done = train(phantom_zip, "--out", tmp_path / "run", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_sets_are_explained() -> None:
    done = train("--list-features")
    assert done.returncode == 0
    for name, values in (("histogram", 43), ("glcm", 78), ("lbp", 486), ("hog", 1764)):
        assert f"{name}: {values} values" in done.stdout
    assert done.stdout.count("on the workstation only") == 2
    for source in ("Haralick", "Ojala", "Dalal", "Otsu", "Gabor"):
        assert source in done.stdout


SMALL = ("--size", 64, "--features", "histogram,hog")


@pytest.mark.slow
def test_the_command_trains_a_complete_run(phantom_zip: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, extra in (("one", ()), ("two", ("--search",)), ("three", ())):
        out = tmp_path / name
        done = train(phantom_zip, "--out", out, "--model", "svm", *SMALL, "--cache", cache, *extra)
        assert done.returncode == 0, done.stderr
        assert INTENDED_USE in done.stdout
    first, searched, third = (Run.open(tmp_path / n) for n in ("one", "two", "three"))
    assert first.settings["status"] == "finished"
    assert first.settings["features"]["sets"] == ["histogram", "hog"]
    assert first.settings["search"] is None
    assert set(searched.settings["search"]) == {"project__n_components", "classify__estimator__C"}
    assert first.metrics() == third.metrics(), "the same seed gives the same figures"
    assert {"model.skops", "metrics.json", "predictions.csv", "report.html", "run.json"} <= {
        path.name for path in first.folder.iterdir()
    }
    validation = first.validation_images()
    seen = open_trained(first).predict(validation.pixels)
    assert (seen.logits.argmax(axis=1) == validation.labels).mean() > 0.5
    words = ("--model", "knn", "--features", f"deep:{first.folder}")
    done = train(phantom_zip, "--out", tmp_path / "deep", *words)
    assert done.returncode == 2
    assert "is a classical model" in done.stderr
    answer = subprocess.run(
        [str(BIN / "btc-evaluate"), str(first.folder), str(phantom_zip), "--format", "json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["accuracy"] == first.metrics()["accuracy"]
    with (first.folder / "model.skops").open("r+b") as stream:
        stream.write(b"altered")
    answer = subprocess.run(
        [str(BIN / "btc-evaluate"), str(first.folder), str(phantom_zip)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 3
    assert "altered" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_deep_features_come_from_a_network_that_saw_no_test_slice(
    phantom_zip: Path, tmp_path: Path
) -> None:
    network = tmp_path / "network"
    done = train(phantom_zip, "--out", network, "--epochs", 2, "--size", 64, "--seed", 5)
    assert done.returncode == 0, done.stderr
    words = ("--model", "logistic", "--features", f"histogram,deep:{network}", "--no-cache")
    done = train(phantom_zip, "--out", tmp_path / "deep", "--seed", 5, *words)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "deep")
    assert run.preprocess.size == 64, "slices as the network saw them"
    assert open_trained(run).predict(run.validation_images().pixels).logits.shape[1] == 4
    for name, extra in (("seed", ("--seed", 6)), ("protocol", ("--protocol", "grouped"))):
        done = train(phantom_zip, "--out", tmp_path / name, *words, *extra)
        assert done.returncode == 1
        assert "would know what is tested" in done.stderr
    data = read_dataset(phantom_zip, run.preprocess)
    split = split_dataset(data, "official", 5)
    assert network_for(network, data, split, 5).folder == network
    done = train(phantom_zip, "--out", tmp_path / "size", *words, "--size", 64)
    assert done.returncode == 2
    assert "network's own" in done.stderr


@pytest.mark.slow
def test_folds_go_on_where_they_were_stopped(phantom_zip: Path, tmp_path: Path) -> None:
    words = (
        "--model", "random-forest", *SMALL, "--protocol", "grouped", "--folds", 3,
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = subprocess.Popen(
        [str(BIN / "btc-train"), *map(str, (phantom_zip, "--out", stopped, *words))],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (stopped / "fold-1" / "report.html").is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    done = train(phantom_zip, "--out", stopped, "--resume")
    assert done.returncode == 0, done.stderr
    done = train(phantom_zip, "--out", whole, *words)
    assert done.returncode == 0, done.stderr
    assert Run.open(stopped).metrics() == Run.open(whole).metrics()
    assert Run.open(whole).metrics()["n"] == 96

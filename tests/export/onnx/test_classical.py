"""A classical model leaves as one .onnx that a device runs, features and all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime import Classifier
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model.file_format import pack_model, parse_model
from edge_runtime.model.load import read_model
from export.exporter import Exported, Exporter, ExportSettings
from export.formats import FORMATS, formats_of
from export.gate import run_gate
from export.verify import verify_file
from tests.export.conftest import save_images
from trainer.evaluation.temperature import fit_temperature
from trainer.models.classical import KINDS, ClassicalModel, ClassicalSettings, fit_classical
from trainer.models.outputs import make_extractor, open_trained, predict_file
from trainer.run import Run, dump_json
from trainer.synthetic.phantoms import CLASSES, draw_phantom

TOOLS = Path(sys.executable).parent
IMAGE_SETS = ("hog", "glcm")


def make_run(
    folder: Path, like: Run, kind: str, sets: tuple[str, ...] = IMAGE_SETS, classes: int = 4
) -> Run:
    """A run of a classical model over the slices of another run, with labels below `classes`."""
    folder.mkdir()
    training, validation = like.calibration_images(), like.validation_images()
    network = digest = None
    if "deep" in sets:
        import hashlib

        network = like.load_model()
        shutil.copy(like.folder / "model.keras", folder / "deep.keras")
        digest = hashlib.sha256((folder / "deep.keras").read_bytes()).hexdigest()
    extractor = make_extractor(list(sets), 32, network, digest)
    mine = training.labels < classes
    model, _ = fit_classical(
        ClassicalSettings(kind, sets),
        extractor(training.pixels[mine]),
        training.labels[mine],
        [f"g{i}" for i in range(mine.sum())],
    )
    sha256 = model.save(folder / "model.skops")
    known = validation.labels < classes
    logits, _ = model.predict(extractor(validation.pixels[known]))
    temperature = fit_temperature(logits, validation.labels[known])
    features = {"sets": list(sets), "length": len(extractor.names), "deep_sha256": digest}
    run = Run(
        folder,
        like.settings
        | {"model": kind, "features": features, "model_sha256": sha256, "temperature": temperature}
        | {"labels": list(CLASSES[:classes])},
    )
    run.save_settings()
    save_images(folder / "calibration.npz", training.pixels[mine], training.labels[mine])
    save_images(folder / "validation.npz", validation.pixels[known], validation.labels[known])
    shutil.copy(like.folder / "metrics.json", folder)
    return run


@pytest.fixture(scope="module")
def runs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each classifier over image features, one over a network's, and one of two classes."""
    place = tmp_path_factory.mktemp("runs")
    runs = {kind: make_run(place / kind, tiny_run, kind) for kind in KINDS}
    runs["deep"] = make_run(place / "deep", tiny_run, "svm", ("deep",))
    runs["two"] = make_run(place / "two", tiny_run, "logistic", classes=2)
    return runs


@pytest.fixture(scope="module")
def exported(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    place = tmp_path_factory.mktemp("models")
    return {
        name: Exporter(run, ExportSettings(place / name, "tiny")).export(
            formats_of(run.settings["model"])["onnx"]
        )
        for name, run in runs.items()
    }


NAMES = [*KINDS, "deep", "two"]


@pytest.mark.parametrize("name", NAMES)
def test_each_model_passes_and_says_what_it_is(
    runs: dict[str, Run], exported: dict[str, Exported], name: str
) -> None:
    done = exported[name]
    assert done.gate.passed, done.gate.failures
    assert done.gate.agreement == 1
    entry = done.to_json()
    assert (entry["size_ratio"], entry["latency"], entry["calibration"]) == (None, None, None)
    json.dumps(entry, allow_nan=False)
    info = read_model(done.path).info
    deep = name == "deep"
    length = runs[name].settings["features"]["length"]
    assert info.features == (None if deep else {"sets": list(IMAGE_SETS), "length": length})
    assert info.input["shape"] == ([1, 32, 32, 1] if deep else [1, length])
    assert info.outputs == {"logits": 0, "features": 1}
    assert info.ood is not None
    assert {metric["measured_on"] for metric in info.metrics} == {"the scikit-learn model"}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_what_scikit_learn_says(
    runs: dict[str, Run], exported: dict[str, Exported], name: str
) -> None:
    pixels = runs[name].validation_images().pixels
    file = read_model(exported[name].path)
    expected, seen = open_trained(runs[name]).predict(pixels), predict_file(file, pixels)
    near = 1e-3 if KINDS[runs[name].settings["model"]].floor else 1e-4
    np.testing.assert_allclose(seen.logits, expected.logits, atol=near)
    np.testing.assert_allclose(seen.features, expected.features, atol=1e-3)
    np.testing.assert_array_equal(seen.logits.argmax(axis=1), expected.logits.argmax(axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_every_reader_takes_the_file(exported: dict[str, Exported], name: str) -> None:
    """As it stands: opset 17, IR 8 and ai.onnx.ml 3 at most, which ONNX Runtime 1.17 reads."""
    import onnx

    path = exported[name].path
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == 8
    used = {node.domain for node in proto.graph.node}
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    assert opsets == {d: v for d, v in {"": 17, "ai.onnx.ml": 3}.items() if d in used}
    assert [o.name for o in proto.graph.output] == ["logits", "components"]
    assert [i.name for i in proto.graph.input] == ["pixels" if name == "deep" else "features"]
    assert "IR version 8" in dict(verify_file(path).findings)["scheme"]


def test_the_steps_of_a_tree_are_those_of_scikit_learn(
    runs: dict[str, Run], exported: dict[str, Exported]
) -> None:
    """A threshold in 64 bits, rounded up to 32, would let a value on the edge take another way."""
    import onnxruntime

    from export.onnx.classical import convert_classical

    run = runs["random-forest"]
    trained = open_trained(run).classical
    assert trained is not None
    pipeline = trained.model.pipeline
    data = convert_classical(trained.model, 4)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for pixels in run.validation_images().pixels[:20]:
        features = trained.extractor(pixels[None])
        logits, components = session.run(None, {"features": features})
        votes = pipeline[-1].predict_proba(components)
        np.testing.assert_allclose(logits, np.log(np.maximum(votes, 1e-3)), atol=1e-5)


def test_broken_exports_are_caught(runs: dict[str, Run], exported: dict[str, Exported]) -> None:
    for name in ("svm", "knn"):
        run, form = runs[name], formats_of(name)["onnx"]
        exporter = Exporter(run, ExportSettings(run.folder, "tiny"))
        good = read_model(exported[name].path)
        labels = (*good.info.labels[1:], good.info.labels[0])
        shuffled = parse_model(pack_model(good.graph, replace(good.info, labels=labels), "onnx"))
        result = run_gate(shuffled, run.validation_images(), exporter.reference, form.tolerance)
        assert "agrees with the trained model" in "; ".join(result.failures)
        # Other features than it learned from, and another number of them.
        wrong = replace(good.info, features={"sets": ["glcm", "hog"], "length": 1}).to_json()
        with pytest.raises(ModelError, match="number of features"):
            type(good.info).from_json(wrong)


def test_features_in_another_order_are_caught(
    runs: dict[str, Run], exported: dict[str, Exported]
) -> None:
    good = read_model(exported["svm"].path)
    assert good.info.features is not None
    turned = replace(good.info, features=dict(good.info.features) | {"sets": ["glcm", "hog"]})
    file = parse_model(pack_model(good.graph, turned, "onnx"))
    run = runs["svm"]
    reference = Exporter(run, ExportSettings(run.folder, "tiny")).reference
    assert not run_gate(file, run.validation_images(), reference, FORMATS["onnx"].tolerance).passed


def test_an_altered_file_is_refused(exported: dict[str, Exported], tmp_path: Path) -> None:
    data = bytearray(exported["svm"].path.read_bytes())
    for at in (len(data) // 3, len(data) - 200):
        data[at] ^= 1
        path = tmp_path / "tiny.onnx"
        path.write_bytes(data)
        picture = tmp_path / "slice.png"
        cv2.imwrite(str(picture), draw_phantom("glioma", np.random.default_rng(0)))
        done = tool("btc-edge", "classify", picture, "--model", path)
        assert (done.returncode, done.stdout) == (3, "")
        data[at] ^= 1


EXPORT = """
import sys
from pathlib import Path
from export.formats import formats_of
from export.exporter import Exporter, ExportSettings
from trainer.run import Run
for folder in map(Path, sys.argv[2:]):
    run = Run.open(folder)
    form = formats_of(run.settings["model"])["onnx"]
    Exporter(run, ExportSettings(Path(sys.argv[1]) / folder.name, "tiny")).export(form)
print([name for name in ("tensorflow", "keras") if name in sys.modules])
"""


def test_processes_give_the_same_bytes_without_tensorflow(
    runs: dict[str, Run], exported: dict[str, Exported], tmp_path: Path
) -> None:
    folders = [runs[name].folder for name in ("knn", "svm", "random-forest")]
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, tmp_path, *folders],
        env=os.environ | {"PYTHONHASHSEED": "2"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    for folder in folders:
        path = exported[folder.name].path
        assert (tmp_path / folder.name / path.name).read_bytes() == path.read_bytes()


def test_a_network_and_its_classifier_repeat(
    runs: dict[str, Run], exported: dict[str, Exported], tmp_path: Path
) -> None:
    again = Exporter(runs["deep"], ExportSettings(tmp_path, "tiny")).export(FORMATS["onnx"])
    assert again.path.read_bytes() == exported["deep"].path.read_bytes()


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["hog", "gabor"], "gabor is computed on the workstation only"),
        (["region", "lbp", "gabor"], "region, gabor are computed on the workstation only"),
        (["deep", "region"], "region is computed"),
        (["hog", "deep"], "leave only by themselves"),
    ],
)
def test_what_a_device_cannot_compute_stays(
    runs: dict[str, Run], tmp_path: Path, sets: list[str], words: str
) -> None:
    run = Run(tmp_path, json.loads(json.dumps(runs["svm"].settings)))
    run.settings["features"]["sets"] = sets
    with pytest.raises(UsageError, match=words) as caught:
        Exporter(run, ExportSettings(tmp_path, "tiny"))
    assert caught.value.exit_code == 2
    assert "histogram,glcm,lbp,hog" in str(caught.value)
    assert "deep:RUN" in str(caught.value)


def test_classes_that_the_classifier_lacks() -> None:
    from export.onnx.classical import convert_classical

    features = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    labels = np.arange(40) % 3 + (np.arange(40) % 3 > 1)  # 0, 1 and 3
    settings = ClassicalSettings("logistic", ("hog",))
    model, _ = fit_classical(settings, features, labels, [str(i) for i in range(40)])
    with pytest.raises(ModelError, match="each of the 4 classes"):
        convert_classical(model, 4)


def test_neighbours_of_another_kind_are_refused() -> None:
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    from export.onnx.classical import convert_classical

    features = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    for classifier in (
        KNeighborsClassifier(3, weights="distance"),
        KNeighborsClassifier(3, metric="manhattan"),
    ):
        pipeline = make_pipeline(PCA(4), classifier).fit(features, np.arange(40) % 2)
        with pytest.raises(ModelError, match="neighbours that are weighted"):
            convert_classical(ClassicalModel(pipeline, 1e-2), 2)


def tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    line = [TOOLS / name, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done


def test_the_command_line_refuses_other_formats(runs: dict[str, Run], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "models")
    for words in (("--int8",), ("--onnx", "--float16"), ("--onnx", "--diagnose")):
        done = tool("btc-export", runs["svm"].folder, *words, *out)
        assert done.returncode == 2
        assert "a classical model (svm) is exported with --onnx" in done.stderr
        assert words[-1] in done.stderr
    folder = shutil.copytree(runs["svm"].folder, tmp_path / "run")
    run = Run.open(folder)
    run.settings["features"]["sets"] = ["hog", "gabor"]
    run.save_settings()
    done = tool("btc-export", folder, "--onnx", *out)
    assert (done.returncode, "gabor is computed on the workstation" in done.stderr) == (2, True)
    assert not (tmp_path / "models").exists()
    run.settings["features"]["sets"] = list(IMAGE_SETS)
    run.settings["model_sha256"] = "0" * 64
    run.save_settings()
    assert tool("btc-export", folder, "--onnx", *out).returncode == 3


def test_a_missing_package_is_one_line(runs: dict[str, Run], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['skl2onnx'] = None; "
        "from export.commands import export; export.main()"
    )
    line = [sys.executable, "-c", code, runs["svm"].folder, "--onnx", "--out", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "skl2onnx is missing: pip install 'btc-edge[export]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn slices in folders named after their class."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        place = folder / CLASSES[i % 4]
        place.mkdir(exist_ok=True)
        picture = draw_phantom(CLASSES[i % 4], np.random.default_rng([8, i]))
        cv2.imwrite(str(place / f"{i:02d}.png"), picture)
    return folder


def test_all_commands_take_the_file(runs: dict[str, Run], pictures: Path, tmp_path: Path) -> None:
    done = tool("btc-export", runs["random-forest"].folder, "--all", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed") == 1
    (entry,) = json.loads((tmp_path / "export.json").read_text())
    assert (entry["format"], entry["passed"]) == ("onnx", True)
    model = tmp_path / entry["path"]

    paths = sorted(pictures.rglob("*.png"))
    done = tool("btc-edge", "classify", *paths, "--model", model, "--format", "json")
    answers = json.loads(done.stdout)
    expected = [Classifier(model).classify(path) for path in paths]
    assert [a["raw_label"] for a in answers] == [a.raw_label for a in expected]
    assert [a["status"] for a in answers] == [a.status.value for a in expected]

    assert "hog, glcm" in tool("btc-edge", "info", "--model", model).stdout
    assert "4 logits" in tool("btc-export", "--verify", model).stdout
    done = tool("btc-evaluate", model, pictures, "--format", "json")
    assert done.returncode == 0, done.stderr
    right = [a.raw_label == path.parent.name for a, path in zip(expected, paths, strict=True)]
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(np.mean(right))
    done = tool("btc-edge", "benchmark", "--model", model, "--images", pictures, "--queries", 12,
                "--seconds", 0, "--format", "json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["models"]
    # Features are counted with the preprocessing, and take longer than the forest itself.
    assert row["preprocess_ms"]["p50"] > row["invoke_ms"]["p50"] > 0
    assert row["accuracy"] == pytest.approx(np.mean(right))


def test_metrics_name_no_network(exported: dict[str, Exported]) -> None:
    assert "Keras" not in dump_json(exported["svm"].to_json())

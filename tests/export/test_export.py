"""What leaves is right, says what it is, and is caught when it is not right."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime import Classifier
from edge_runtime.errors import DataError, ModelError, UsageError
from edge_runtime.model.file_format import pack_model, parse_model
from edge_runtime.model.load import read_model
from edge_runtime.model.metadata import ModelInfo
from export.calibration_images import choose_calibration_images
from export.commands.export import command
from export.exporter import REJECTED, Exporter, ExportSettings
from export.formats import FORMATS, Tolerance
from export.gate import _failures, run_gate
from export.graph import export_graph, maps_graph
from export.onnx.network import convert_onnx
from export.tflite.convert import convert_tflite, output_order
from export.tflite.flatbuffer import read_tflite
from export.tflite.repack import repack
from tests.export.conftest import save_images
from trainer.evaluation.selective import Targets
from trainer.models.networks import build_network
from trainer.models.outputs import ModelOutputs
from trainer.run import Images, Run
from trainer.synthetic.phantoms import CLASSES, draw_phantom

TOOL = str(Path(sys.executable).parent / "btc-export")


@pytest.fixture(scope="module")
def exporter(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    return Exporter(tiny_run, ExportSettings(tmp_path_factory.mktemp("out"), "tiny"))


@pytest.mark.parametrize("name", list(FORMATS))
def test_each_format_passes_and_repeats(exporter: Exporter, name: str) -> None:
    done = exporter.export(FORMATS[name])
    assert done.gate.passed, done.gate.failures
    data = done.path.read_bytes()
    file = read_model(done.path)
    assert file.info.scheme == FORMATS[name].scheme.partition("-")[0]
    assert done.macs == 16 * 16 * 9 * 8 + 8 * 8 * 9 * 8 * 16 + 8 * 8 * 16 * 4
    assert file.info.outputs.keys() == {"logits", "features", "class_maps"}
    again = exporter.export(FORMATS[name])
    assert again.path.read_bytes() == data, "the same run gives the same bytes"
    answer = Classifier(done.path).classify(draw_phantom("glioma", np.random.default_rng(0)))
    assert answer.raw_label in CLASSES


def test_int8_is_integers_only_and_counts_its_work(exporter: Exporter) -> None:
    done = exporter.export(FORMATS["int8"])
    facts = read_tflite(read_model(done.path).graph)
    assert facts.integer_only
    assert dtypes(read_model(done.path).graph) == (["uint8"], ["int8"] * 3)
    by_hand = 16 * 16 * 9 * 8 + 8 * 8 * 9 * 8 * 16 + 8 * 8 * 16 * 4
    assert facts.macs == done.macs == by_hand
    plain = read_tflite(read_model(exporter.export(FORMATS["float32"]).path).graph)
    assert not plain.integer_only


def dtypes(graph: bytes) -> tuple[list[str], list[str]]:
    """Of the graph's inputs and outputs."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=graph)
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    return [np.dtype(d["dtype"]).name for d in ins], [np.dtype(d["dtype"]).name for d in outs]


def test_another_exporter_gives_the_same_bytes(
    exporter: Exporter, tiny_run: Run, tmp_path: Path
) -> None:
    other = Exporter(tiny_run, ExportSettings(tmp_path, "tiny"))
    for name, form in FORMATS.items():
        first, second = exporter.export(form), other.export(form)
        assert first.path.read_bytes() == second.path.read_bytes(), name


def test_the_float_graphs_are_converted_once(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference, the formats, int8's bias correction and the diagnosis share them."""
    asked: list[str] = []

    def tflite(graph: object, name: str, *words: object) -> bytes:
        asked.append(name)
        return convert_tflite(graph, name, *words)

    def onnx(*words: object) -> bytes:
        asked.append("onnx")
        return convert_onnx(*words)

    monkeypatch.setattr("export.models.convert_tflite", tflite)
    monkeypatch.setattr("export.models.convert_onnx", onnx)
    exporter = Exporter(tiny_run, ExportSettings(tmp_path, "tiny"))
    for name in ("float32", "int8", "onnx", "onnx-int8"):
        exporter.export(FORMATS[name])
    exporter.diagnose()
    assert sorted(asked) == ["float32", "int8", "int8", "onnx"]


def test_a_network_without_class_maps_has_one_output() -> None:
    import keras
    import onnx
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    graph, outputs = export_graph(build_network("classic", 32, 4))
    assert outputs == {"logits": 0, "features": 1}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8)
    by_hand = 32 * 32 * 9 * 32 + 16 * 16 * 9 * 32 * 64 + 8 * 8 * 9 * 64 * 128
    by_hand += 4 * 4 * 9 * 128 * 128 + 2 * 2 * 128 * 128 + 128 * 4
    for name in ("float32", "dynamic", "int8"):
        data = convert_tflite(graph, name, pixels)
        order = output_order(read_tflite(data), outputs)
        details = tf.lite.Interpreter(model_content=data).get_output_details()
        assert {n: details[i]["shape"].tolist() for n, i in order.items()} == {
            "logits": [1, 4], "features": [1, 128]
        }  # fmt: skip
        facts = read_tflite(data)
        assert facts.macs == by_hand
        assert facts.integer_only == (name == "int8")
        # Dropout is gone, and a fixed batch needs no shape arithmetic.
        assert facts.ops.keys() <= {
            *("CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "QUANTIZE", "MUL")
        }
    proto = onnx.load_from_string(convert_onnx(graph, outputs))
    assert [output.name for output in proto.graph.output] == ["logits", "features"]


@pytest.fixture(scope="module")
def edge_files() -> tuple[bytes, bytes]:
    """The int8 graph of the untrained default network, as converted and as written."""
    import keras

    import export.tflite.convert as tflite

    keras.utils.set_random_seed(3)
    graph, _ = maps_graph(build_network("edge", 32, 4))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    kept = tflite.repack
    try:
        tflite.repack = lambda flatbuffer: flatbuffer
        plain = tflite.convert_tflite(graph, "int8", pixels)
    finally:
        tflite.repack = kept
    return plain, kept(plain)


def test_repacked_graph_is_smaller_and_the_same(edge_files: tuple[bytes, bytes]) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.lite.python import schema_py_generated as schema

    plain, packed = edge_files
    assert len(packed) < 0.9 * len(plain)
    assert repack(packed) == packed
    one, two = read_tflite(packed), read_tflite(plain)
    assert (one.ops, one.macs, one.scheme) == (two.ops, two.macs, two.scheme)
    model = schema.Model.GetRootAs(packed, 0)
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0, "read in place"
    both = [Interpreter(model_content=data) for data in edge_files]
    for interpreter in both:
        interpreter.allocate_tensors()
    assert both[0].get_signature_list() == both[1].get_signature_list()
    rng = np.random.default_rng(1)
    for _ in range(5):
        pixels = rng.integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
        answers = []
        for interpreter in both:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
            interpreter.invoke()
            places = interpreter.get_output_details()
            answers.append([interpreter.get_tensor(d["index"]) for d in places])
        for one, two in zip(*answers, strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_default_network_becomes_plain_integer_ops(edge_files: tuple[bytes, bytes]) -> None:
    facts = read_tflite(edge_files[1])
    assert facts.integer_only
    assert facts.ops.keys() <= {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "QUANTIZE"}
    assert len(edge_files[1]) <= 300_000


def test_labels_are_where_the_metadata_convention_has_them(exporter: Exporter) -> None:
    import tensorflow as tf

    done = exporter.export(FORMATS["float32"])
    with zipfile.ZipFile(done.path) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)
        assert json.loads(archive.read("model.json"))["labels"] == list(CLASSES)
    tf.lite.Interpreter(model_path=str(done.path)).allocate_tensors()


def test_onnx_is_checked_in_full(exporter: Exporter) -> None:
    import onnx

    done = exporter.export(FORMATS["onnx"])
    proto = onnx.load(io.BytesIO(done.path.read_bytes()))
    onnx.checker.check_model(proto, full_check=True)
    assert {p.key for p in proto.metadata_props} == {"model.json", "model.json.sha256"}


def test_broken_exports_are_caught(exporter: Exporter, tiny_run: Run) -> None:
    """Shuffled labels, calibration on noise, a wrong scale; each is rejected for what it is."""
    network, _ = export_graph(tiny_run.load_model())
    validation, reference = tiny_run.validation_images(), exporter.reference
    good = read_model(exporter.export(FORMATS["int8"]).path)

    def failures(graph: bytes, info: ModelInfo, form: str) -> str:
        file = parse_model(pack_model(graph, info, "tflite"))
        return "; ".join(run_gate(file, validation, reference, FORMATS[form].tolerance).failures)

    assert failures(good.graph, good.info, "int8") == ""

    labels = (*good.info.labels[1:], good.info.labels[0])
    shuffled = failures(good.graph, replace(good.info, labels=labels), "int8")
    assert "agrees with the trained model" in shuffled
    assert "points of glioma's recall" in shuffled
    untold = dict.fromkeys(("thresholds", "target_error", "error_bound", "rules"))
    renamed = replace(good.info, labels=("other", *good.info.labels[1:]), **untold)
    assert failures(good.graph, renamed, "int8").startswith("labels that are not the run's: glio")

    for pictures in (
        np.zeros((8, 32, 32), np.uint8),
        np.random.default_rng(0).integers(0, 3, (8, 32, 32), np.uint8),
    ):
        graph = convert_tflite(network, "int8", pictures)
        assert "agrees with the trained model" in failures(graph, good.info, "int8")

    import keras

    scaled = keras.models.clone_model(network)
    scaled.set_weights([w * 0.5 for w in network.get_weights()])
    graph = convert_tflite(scaled, "float32")
    assert "agrees with the trained model" in failures(graph, float_info(exporter), "float32")
    tenth = failures(
        convert_tflite(network, "float32"),
        replace(float_info(exporter), temperature=10.0),
        "float32",
    )
    assert "a probability differs" in tenth


def test_the_gate_tells_what_it_measured(exporter: Exporter) -> None:
    done = exporter.export(FORMATS["int8"])
    gate = done.gate
    assert set(gate.per_class) == set(CLASSES)
    total = sum(row["n"] * row["difference"] for row in gate.per_class.values()) / gate.n
    assert total == pytest.approx(gate.difference)
    for row in gate.per_class.values():
        assert row["interval95"][0] <= row["difference"] <= row["interval95"][1]
    assert 0 <= gate.ece["after"] <= 1
    assert gate.latency is not None
    assert gate.latency["ms"] > 0
    low, high = gate.latency["interval95"]
    assert low <= gate.latency["ratio"] <= high
    entry = done.to_json()
    graphs = [read_model(exporter.export(FORMATS[name]).path).graph for name in ("int8", "float32")]
    assert entry["size_ratio"] == pytest.approx(len(graphs[0]) / len(graphs[1]))
    assert len(entry["calibration"]["each_sha256"]) == entry["calibration"]["images"]
    json.dumps(entry, allow_nan=False)


def test_a_class_may_not_be_lost_for_another(exporter: Exporter, tiny_run: Run) -> None:
    """The accuracy over all classes can hide one that is gone."""
    validation, reference = tiny_run.validation_images(), exporter.reference
    file = read_model(exporter.export(FORMATS["float32"]).path)
    tolerance = Tolerance(agreement=0, accuracy_drop=1, probability=1, class_drop=0.05)
    assert run_gate(file, validation, reference, tolerance).passed
    # As if a few slices were notumor, which Keras sees and the file calls meningioma.
    fooled = np.flatnonzero(reference.logits.argmax(axis=1) == 1)[:9]
    logits, truth = reference.logits.copy(), validation.labels.copy()
    truth[fooled] = 2
    logits[fooled, 2] = logits.max() + 5
    result = run_gate(
        file, replace(validation, labels=truth), replace(reference, logits=logits), tolerance
    )
    (lost,) = result.failures
    assert "points of notumor's recall" in lost
    assert result.per_class["notumor"]["difference"] == pytest.approx(-9 / (truth == 2).sum())


def test_gate_bootstraps_images_where_groups_are_unknown(exporter: Exporter, tiny_run: Run) -> None:
    validation, logits = tiny_run.validation_images(), exporter.reference.logits.copy()
    file = read_model(exporter.export(FORMATS["float32"]).path)
    logits[::2] = np.roll(logits[::2], 1, axis=1)  # as if Keras erred on every second one
    unknown = replace(validation, groups=("",) * len(validation.labels))
    reference = replace(exporter.reference, logits=logits)
    result = run_gate(file, unknown, reference, FORMATS["float32"].tolerance)
    assert not result.passed
    assert result.interval95[0] < result.difference < result.interval95[1]


def test_tolerance_on_few_and_on_many_images() -> None:
    tolerance = Tolerance(0.999, 0.01, probability=1e-3, class_drop=0.02)
    assert tolerance.needed_agreement(100) == pytest.approx(0.985)
    assert tolerance.allowed_drop(100) == pytest.approx(0.015)
    assert (tolerance.needed_agreement(10_000), tolerance.allowed_drop(10_000)) == (0.999, 0.01)
    assert (tolerance.allowed_class_drop(30), tolerance.allowed_class_drop(999)) == (0.05, 0.02)


def test_a_run_without_held_out_images_proves_nothing(tiny_run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    save_images(folder / "validation.npz", np.zeros((0, 32, 32), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="held-out"):
        Exporter(Run.open(folder), ExportSettings(tmp_path / "out", "tiny"))


def float_info(exporter: Exporter):
    return read_model(exporter.export(FORMATS["float32"]).path).info


def test_two_trainings_never_share_a_version(tiny_run: Run, tmp_path: Path) -> None:
    again = Run.open(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    assert again.version == tiny_run.version
    assert again.version.startswith("2026.1.1+")
    with zipfile.ZipFile(again.folder / "model.keras", "a") as archive:
        archive.writestr("other", b"weights")
    assert again.version != tiny_run.version
    again.settings["model_version"] = "1.2"
    assert again.version == "1.2"


def test_a_model_has_its_runs_name_and_version(tiny_run: Run, tmp_path: Path) -> None:
    info = read_model(
        Exporter(tiny_run, ExportSettings(tmp_path)).export(FORMATS["float32"]).path
    ).info
    assert (info.name, info.version) == ("tiny", tiny_run.version)
    settings = ExportSettings(tmp_path, "other", "2.0+x", targets=Targets(None, {"glioma": 0.3}))
    done = Exporter(tiny_run, settings).export(FORMATS["float32"])
    assert done.path.name == "other-float32.tflite"
    info = read_model(done.path).info
    assert (info.name, info.version, info.confidence) == ("other", "2.0+x", 0.9)
    assert (info.target_error or {})["glioma"] == 0.3
    assert info.max_error == max((info.target_error or {}).values())
    answered = {label for label, level in (info.thresholds or {}).items() if level < 1}
    assert set(info.error_bound or {}) == answered
    assert len(done.not_answered) == len(CLASSES) - len(answered)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--target-error", "2"], "--target-error '2'"),
     (["--target-error", "lung=0.1"], "no class of that name"),
     (["--max-error", "nan"], "nan"), (["--max-accuracy-drop", "nan"], "nan"),
     (["--name", "a/b"], "--name"), (["--model-version", "1 2"], "--model-version")],
)  # fmt: skip
def test_options_that_are_none_are_refused(tiny_run: Run, words: list[str], says: str) -> None:
    done = CliRunner().invoke(command, [str(tiny_run.folder), "--float32", *words])
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)
    assert says in done.output + str(done.exception)


def test_the_gate_refuses_what_is_no_number() -> None:
    tolerance = FORMATS["float32"].tolerance
    measured = {"n": 100, "agreement": np.nan, "difference": np.nan, "max_abs_probability": np.nan,
               "per_class": {"a": {"n": 50, "difference": np.nan}}}  # fmt: skip
    assert len(_failures(measured, tolerance)) == 4
    with pytest.raises(ModelError, match="no finite numbers for 1 of 2 slices"):
        ModelOutputs(np.array([[0, 1], [np.nan, 1]], np.float32))


def test_a_rejected_file_never_has_the_good_name(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter(tiny_run, ExportSettings(tmp_path, "tiny"))
    good = exporter.export(FORMATS["int8"])
    before = good.path.read_bytes()
    monkeypatch.setattr(exporter, "_calibration_images", lambda: np.zeros((8, 32, 32), np.uint8))
    bad = exporter.export(FORMATS["int8"])
    assert not bad.gate.passed
    assert bad.path.name.endswith(REJECTED)
    assert good.path.read_bytes() == before
    exporter_again = Exporter(tiny_run, ExportSettings(tmp_path, "tiny"))
    exporter_again.export(FORMATS["int8"])
    assert not bad.path.exists()


def test_calibration_is_even_and_repeatable() -> None:
    n = 200
    labels = np.array([0] * 180 + [1] * 20)
    sources = tuple("ab"[i % 2] for i in range(n))
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    images = Images(pixels, labels, ("",) * n, sources, ("",) * n, ("",) * n)
    chosen = choose_calibration_images(images, 40, seed=3)[:, 0, 0]
    assert len(chosen) == len(set(chosen.tolist())) == 40
    assert (labels[chosen] == 1).sum() == 20
    np.testing.assert_array_equal(chosen, choose_calibration_images(images, 40, seed=3)[:, 0, 0])
    # Ten groups of twenty: as many groups as there is room for, before a second slice of any.
    apart = tuple(f"g{i // 20}" for i in range(n))
    grouped = replace(images, labels=labels * 0, groups=apart, sources=("",) * n)
    seen = choose_calibration_images(grouped, 10)[:, 0, 0] // 20
    assert sorted(seen.tolist()) == list(range(10))
    with pytest.raises(DataError):
        choose_calibration_images(Images(pixels[:0], labels[:0], (), (), (), ()), 4)


def export(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done


def test_usage(tiny_run: Run, tmp_path: Path) -> None:
    assert "--int8" in export("--help").stdout
    none = export(tiny_run.folder)
    assert (none.returncode, "name a format" in none.stderr) == (2, True)
    for words, message in (
        (("--onnx", "--seed", 5, "--calibration-images", 7), "--calibration-images, --seed: goes"),
        (("--diagnose", "--license", "X", "--sign", tiny_run.folder / "run.json"),
         "--license, --sign: goes"),
    ):  # fmt: skip
        unused = export(tiny_run.folder, *words)
        assert (unused.returncode, unused.stdout) == (2, "")
        assert message in unused.stderr, "what nothing is done with is not passed over"
    assert export(tmp_path / "nowhere", "--int8").returncode == 2
    assert export(tiny_run.folder, "--int8", "--name", "a/b").returncode == 2


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    heavy = ("tensorflow", "keras", "onnx", "tf2onnx", "numpy", "cv2", "rich")
    code = f"import sys, export.commands.export; print([m for m in {heavy} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_a_missing_package_is_one_line(tiny_run: Run) -> None:
    code = (
        "import sys; sys.modules['keras'] = None; from export.commands import export; export.main()"
    )
    done = python(code, tiny_run.folder, "--int8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "pip install 'btc-edge[export]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_command(tiny_run: Run, tmp_path: Path) -> None:
    no_run = export(tmp_path, "--int8")
    assert (no_run.returncode, len(no_run.stderr.splitlines())) == (1, 1)
    done = export(tiny_run.folder, "--all", "--out", tmp_path / "models", "--name", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed") == len(FORMATS)
    entries = json.loads((tmp_path / "models" / "export.json").read_text())
    assert [e["format"] for e in entries] == list(FORMATS)
    needed = {"format", "path", "bytes", "sha256", "scheme", "ops", "macs", "agreement", "accuracy",
              "accuracy_float", "difference", "interval95", "max_abs_probability", "per_class",
              "temperature", "passed", "tolerance"}  # fmt: skip
    assert all(needed <= set(e) for e in entries)


@pytest.mark.slow
def test_command_rejects(tiny_run: Run, tmp_path: Path) -> None:
    """Calibrated on black pictures, int8 is useless; the command says so and exits 1."""
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    save_images(folder / "calibration.npz", np.zeros((8, 32, 32), np.uint8), np.arange(8) % 4)
    done = export(folder, "--int8", "--out", tmp_path / "models")
    assert done.returncode == 1
    assert "btc-export: int8 rejected: agrees with the trained model" in done.stderr
    assert "REJECTED" in done.stdout
    names = {p.name for p in (tmp_path / "models").iterdir()}
    assert names == {"tiny-int8.tflite" + REJECTED, "export.json"}
    (entry,) = json.loads((tmp_path / "models" / "export.json").read_text())
    assert entry["passed"] is False
    options = ("--min-agreement", 0, "--max-accuracy-drop", 1, "--max-class-drop", 1)
    lenient = export(folder, "--int8", "--out", tmp_path / "models", *options)
    assert "agrees with the trained model" not in lenient.stderr
    assert "points of" not in lenient.stderr
    assert "a probability differs" in lenient.stderr
    assert export(folder, "--int8", "--out", tmp_path / "models", *options, "--max-probability", 1
                  ).returncode == 0  # fmt: skip

"""The comparison with peers: one small run with what is installed here, and its table."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.common.environments import Environment, run
from benchmarks.common.pictures import as_jpeg
from benchmarks.hostile.pictures import draw_slice
from benchmarks.peers.compare import (
    OURS,
    PEERS,
    SAME,
    SCRIPTS,
    Contender,
    PeerError,
    Serving,
    as_markdown,
    bar_of,
    contenders,
    counterpart,
    exported,
    first_answer,
    measure,
    measure_all,
)
from benchmarks.peers.wrap import colour_network
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BtcError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.load import bundled_model
from trainer.run import Run

HERE = Environment(Path(sys.prefix))
LABELS = Classifier().info.labels
SIZE = Classifier().info.preprocess.size


def contender(script: str, kind: str = "int8", model: str = str(bundled_model())) -> Contender:
    peer = next(peer for peer in PEERS if peer.script == script)
    return Contender(peer, HERE, kind, model, SIZE, LABELS)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    return measure([contender("btc_edge"), contender("plain_litert")], None, 2, 3, 1)


def test_each_row_holds_every_figure(rows: list[dict[str, object]]) -> None:
    ours, plain = rows
    for row in rows:
        assert {"224", "512"} == set(row["latency_ms"])  # type: ignore[call-overload]
        for name in ("folder_rate", "folder_mib", "first_ms", "first_mib", "installed_mib"):
            assert row[name] > 0, name  # type: ignore[operator]
    assert ours["ours_over"] == ours["same_label"] == {}
    over = plain["ours_over"]
    assert isinstance(over, dict)
    assert over["224"]["bar"] is None
    assert over["512"]["holds"] == (over["512"]["ratio"] <= 1.15)


def test_the_table_says_what_was_measured(rows: list[dict[str, object]]) -> None:
    over = {"ratio": 1.2, "interval95": [1.1, 1.3], "bar": 1.15, "holds": False}
    result = {
        "machine": {"cpu": "Some CPU", "cores": 2, "flags": ["avx2"]}, "python": "3.11.7",
        "network": "tag", "pictures": "drawn", "rounds": 2, "files": 3, "repeats": 1,
        "left_out": ["Other was left out: not found"],
        "rows": [rows[0], rows[1] | {"ours_over": {"224": over | {"bar": None}, "512": over}}],
    }  # fmt: skip
    text = as_markdown(json.loads(json.dumps(result)))
    times = "1.20 (1.10–1.30) | 1.20 (1.10–1.30); at most 1.15: **no** |"
    assert [line.endswith(times) for line in text.splitlines() if line.startswith("| LiteRT")] == [
        True,
        False,
    ]
    assert f"{rows[1]['latency_ms']['512']['p99']:.2f}" in text  # type: ignore[index]
    assert "\nOther was left out: not found." in text
    assert text.count(f"| {OURS} | int8 |") == 2


def test_only_what_does_the_same_work_has_a_bar() -> None:
    rows = [contender(peer.script, kind) for peer in PEERS for kind in peer.files]
    bars = {(row.peer.script, row.kind): (bar_of(row, 224), bar_of(row, 512)) for row in rows}
    assert bars["btc_edge", "int8"] == (None, None)
    assert bars["plain_litert", "float32"] == (None, 1.15)
    assert bars["plain_opencv", "onnx"] == bars["mediapipe_tasks", "mediapipe"] == (1.0, 1.0)
    assert bars["ultralytics_classify", "yolo11n-cls.yaml"] == (None, None)
    for row in rows:
        ours = counterpart(rows, row)
        if ours is not None:
            assert (rows[ours].peer.name, rows[ours].kind) == (OURS, SAME[row.kind])
    assert {row.peer.script for row in rows if counterpart(rows, row) is None} == {
        "btc_edge",
        "ultralytics_classify",
    }


def test_what_a_script_answers_is_what_its_graph_says(tmp_path: Path) -> None:
    """Fed with what the model was trained to see, the bare script and ours agree."""
    import cv2

    classifier = Classifier()
    gray = draw_slice(1)
    serving = Serving(contender("plain_litert"), tmp_path)
    squeezed = cv2.resize(
        cv2.imdecode(np.frombuffer(as_jpeg(gray, 224), np.uint8), cv2.IMREAD_GRAYSCALE),
        (SIZE, SIZE),
    )
    logits = open_graph(classifier.model).run(squeezed).astype(np.float64)
    (tmp_path / "a.jpg").write_bytes(as_jpeg(gray, 224))
    serving.ask(read=[str(tmp_path / "a.jpg")])
    answer = serving.ask(classify=0)
    serving.close()
    wanted = np.exp(logits) / np.exp(logits).sum()
    assert list(answer["probabilities"]) == list(LABELS)
    np.testing.assert_allclose(list(answer["probabilities"].values()), wanted, atol=1e-5)


def test_a_peer_that_ends_tells_why(tmp_path: Path) -> None:
    serving = Serving(contender("plain_litert", model="missing.tflite"), tmp_path)
    with pytest.raises(BtcError, match=r"LiteRT \(int8\) ended: .*missing.tflite"):
        serving.ask(classify=0)
    serving.close()


def test_a_peer_that_stops_is_killed(tmp_path: Path) -> None:
    serving = Serving(contender("plain_litert"), tmp_path)
    serving.ask(read=[])
    os.kill(serving.pid, signal.SIGSTOP)
    with pytest.raises(PeerError, match=r"LiteRT \(int8\) gave no answer in 0.01 s"):
        serving.ask(0.01, folder=["long enough to fill a pipe"] * 10_000, workers=1)
    other = Serving(contender("plain_litert"), tmp_path)
    os.kill(other.pid, signal.SIGSTOP)
    other.close(0.01)
    assert not psutil.pid_exists(other.pid)


def test_a_peer_that_fails_while_measured_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, plain, float32 = (
        contender("btc_edge"), contender("plain_litert"), contender("plain_litert", "float32")
    )  # fmt: skip

    def measure(rows: list[Contender], *_: object) -> list[dict[str, object]]:
        if bad in rows:
            raise PeerError(bad, "ended: killed")
        return [{"peer": row.name} for row in rows]

    monkeypatch.setattr("benchmarks.peers.compare.measure", measure)
    bad = plain
    rows, left_out = measure_all([ours, plain, float32], None, 1, 1, 1)
    assert [row["peer"] for row in rows] == [ours.name, float32.name]
    assert left_out == ["LiteRT (int8) was left out: it ended: killed"]
    assert left_out[0] in capsys.readouterr().err
    bad = ours
    with pytest.raises(PeerError, match="btc-edge"):
        measure_all([ours, plain], None, 1, 1, 1)


def test_one_that_has_no_first_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.compare.ANSWER_SECONDS", 0.01)
    with pytest.raises(PeerError, match=r"LiteRT \(int8\) has no first answer: .* took more than"):
        first_answer(contender("plain_litert"), "missing.jpg", tmp_path)


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    place = tmp_path / "fifo"
    os.mkfifo(place)
    reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    start = 'exec 3> "$0"; (sleep 20; echo survived >&3) & wait'
    with pytest.raises(BtcError, match=r"sh -c .* took more than 0.5 s"):
        run("sh", "-c", start, place, seconds=0.5)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as told:
        assert told.read() == b"", "what it started went on"


def test_scripts_need_nothing_of_ours() -> None:
    for path in SCRIPTS.glob("[!_]*.py"):
        text = path.read_text("utf-8")
        assert "benchmarks" not in text.replace("benchmarks/", ""), path
        assert "edge_runtime" not in text or path.stem == "btc_edge", path


def test_files_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, {})
    calls: list[list[str]] = []

    def export(words: list[str]) -> None:
        calls.append(list(map(str, words)))
        (tmp_path / "export").mkdir()
        for name in ("a-int8.tflite", "a-float32.tflite", "a-onnx.onnx", "a-onnx-int8.onnx"):
            (tmp_path / "export" / name).touch()

    monkeypatch.setattr("benchmarks.peers.compare.run_tool", export)
    files = exported(run)
    assert {kind: path.name for kind, path in files.items()} == {
        "int8": "a-int8.tflite", "float32": "a-float32.tflite",
        "onnx": "a-onnx.onnx", "onnx-int8": "a-onnx-int8.onnx",
    }  # fmt: skip
    assert exported(run) == files
    assert len(calls) == 1
    (tmp_path / "export" / "a-onnx.onnx").unlink()
    monkeypatch.setattr("benchmarks.peers.compare.run_tool", lambda _: None)
    with pytest.raises(BtcError, match=r"no file for --onnx$"):
        exported(run)


def test_what_cannot_be_had_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(environment: Environment, *_: object) -> None:
        if environment.folder.name not in ("btc_edge", "plain_litert"):
            raise BtcError("pip install failed: no such package")

    def answer(*words: str, seconds: float) -> str:
        if "plain_litert" in words and "f.tflite" in words:
            raise BtcError("it does not answer")
        return ""

    files = {"int8": Path("i.tflite"), "float32": Path("f.tflite")}
    for name, value in (("install", install), ("run", answer), ("build_wheel", lambda _: None),
                        ("exported", lambda _: files)):  # fmt: skip
        monkeypatch.setattr(f"benchmarks.peers.compare.{name}", value)
    run = Run(tmp_path, {"labels": list(LABELS), "preprocess": Preprocess().to_json()})
    found, left_out = contenders(run, tmp_path / "keep", tmp_path, sys.executable)
    assert [(each.peer.name, each.kind) for each in found] == [(OURS, "int8"), (OURS, "float32")]
    assert [line.partition(" was left out: ")[0] for line in left_out] == [
        peer.name for peer in PEERS if peer.name != OURS
    ]
    assert left_out[0].endswith("it does not answer")
    assert left_out[-1].endswith("no such package")


def test_a_wrapped_network_says_of_a_gray_picture_what_it_said() -> None:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    logits = keras.layers.GlobalAveragePooling2D()(hidden)
    network = keras.Model(inputs, keras.layers.Softmax(name="softmax")(logits))
    interpreter = tf.lite.Interpreter(model_content=colour_network(network))
    interpreter.allocate_tensors()
    gray = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 1)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.repeat(gray, 3, 3))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, network(gray), atol=1e-5)

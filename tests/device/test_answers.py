"""Studies, heatmaps, thresholds of one's own, and how answers are written."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError
from edge_runtime.commands.writers import _cell, open_writer
from edge_runtime.decision.heatmap import overlay
from edge_runtime.decision.prediction import Prediction, Status, failure
from edge_runtime.decision.study import pooled, pooled_answer
from edge_runtime.errors import ModelError
from edge_runtime.imaging.preprocess import crop_box, preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import read_model
from edge_runtime.model.sessions import TfliteGraph
from edge_runtime.tables import guard, unguard
from tests.device.test_cli import TOOL, edge

LABELS = ("glioma", "meningioma", "notumor", "pituitary")


def trusting() -> Classifier:
    """The bundled model with modest thresholds, and without its check for OOD pictures."""
    file = read_model()
    info = replace(file.info, thresholds=dict.fromkeys(LABELS, 0.5), ood=None)
    return Classifier(replace(file, info=info))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that takes no drawn picture for out-of-distribution."""
    file = read_model()
    path = tmp_path_factory.mktemp("model") / "open.tflite"
    info = replace(file.info, thresholds=None, ood=None)
    path.write_bytes(pack_model(file.graph, info, "tflite"))
    return path


def answer(label: str, confidence: float = 0.9, status: Status = Status.OK) -> Prediction:
    rest = (1 - confidence) / 3
    probabilities = {name: confidence if name == label else rest for name in LABELS}
    given = label if status is Status.OK else None
    return Prediction("x", status, given, label, confidence, probabilities, None, "0", "m")


def study(*answers: Prediction) -> Prediction:
    return pooled_answer("patient", answers, dict.fromkeys(LABELS, 0.5), "m")


@given(st.lists(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), min_size=1, max_size=9))
def test_pooling_is_the_geometric_mean_and_knows_no_order(rows: list[list[float]]) -> None:
    by_class = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    whole = pooled(by_class)
    by_hand = np.prod(by_class ** (1 / len(by_class)), axis=0)
    np.testing.assert_allclose(whole, by_hand / by_hand.sum(), rtol=1e-9)
    np.testing.assert_allclose(pooled(by_class[::-1]), whole)
    np.testing.assert_allclose(pooled(np.concatenate([by_class, by_class])), whole)


def test_a_study_is_answered_once_with_its_slices() -> None:
    whole = study(answer("glioma"), answer("glioma"), answer("pituitary", 0.6))
    assert (whole.status, whole.label) == (Status.OK, "glioma")
    assert whole.slices is not None
    assert len(whole.slices) == 3
    assert whole.counts() == {"glioma": 2, "pituitary": 1}
    assert sum((whole.probabilities or {}).values()) == pytest.approx(1)
    assert len(whole.to_json()["slices"]) == 3
    assert "slices" not in answer("glioma").to_json()


def test_unfamiliar_slices_and_errors_do_not_vote() -> None:
    outside = answer("pituitary", 0.99, Status.UNFAMILIAR)
    broken = failure("x", "m", "truncated")
    assert study(answer("glioma"), outside, broken).label == "glioma"
    most = study(answer("glioma"), outside, outside)
    assert (most.status, most.label) == (Status.UNFAMILIAR, None)
    assert most.reason is not None
    assert most.reason.startswith("2 of 3 slices")
    assert study(outside).status is Status.UNFAMILIAR
    assert study(broken, broken).status is Status.ERROR
    assert study().status is Status.ERROR


def test_a_study_with_a_tumour_slice_is_not_called_tumour_free() -> None:
    assert study(*[answer("notumor")] * 9).label == "notumor"
    torn = study(*[answer("notumor")] * 9, answer("glioma"))
    assert (torn.status, torn.label, torn.raw_label) == (Status.UNCERTAIN, None, "notumor")
    assert torn.reason == "1 of 10 slices are predicted as a tumour"
    unsure = answer("glioma", 0.4, Status.UNCERTAIN)
    assert study(*[answer("notumor")] * 9, unsure).label == "notumor"


def test_study_through_the_command(slices: Path, model: Path) -> None:
    words = ("classify", "--study", slices / "glioma", slices / "notumor", "--model", model)
    done = edge(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    studies = json.loads(done.stdout)
    assert [Path(s["input"]).name for s in studies] == ["glioma", "notumor"]
    assert [len(s["slices"]) for s in studies] == [6, 6]
    alone = json.loads(edge("classify", "-r", slices, "--model", model, "--format", "json").stdout)
    assert [a for s in studies for a in s["slices"]] == alone
    rows = list(csv.DictReader(io.StringIO(edge(*words, "--format", "csv").stdout)))
    assert sum(int(part.split()[0]) for part in rows[0]["slices"].split(";")) == 6
    table = edge(*words).stdout.splitlines()
    assert len(table) == 3
    assert "(6 slices: " in table[1]
    one = edge("classify", "--study", min((slices / "glioma").iterdir()), "--model", model)
    assert "(1 slice: " in one.stdout
    (slices / "glioma" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = edge(*words, "--format", "jsonl")
    (slices / "glioma" / "broken.jpg").unlink()
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert "broken.jpg: truncated" in done.stderr


def test_confidence_of_ones_own(slices: Path, model: Path) -> None:
    loose = Classifier(model).classify(draw_slice(1))
    assert loose.status is Status.OK
    assert loose.confidence is not None
    strict = Classifier(model, min_confidence=min(loose.confidence + 1e-3, 1))
    assert strict.classify(draw_slice(1)).status is Status.UNCERTAIN
    assert strict.classify(draw_slice(1)).raw_label == loose.label
    own = trusting()
    assert own.threshold("glioma") == 0.5
    assert Classifier(own.model, min_confidence=0.3).threshold("glioma") == 0.5
    assert Classifier(own.model, min_confidence=0.8).threshold("glioma") == 0.8
    assert Classifier(model).threshold("glioma") is None
    done = edge(
        "classify", "-r", slices, "--model", model, "--min-confidence", 1, "--format", "csv"
    )
    assert {row["status"] for row in csv.DictReader(io.StringIO(done.stdout))} == {"uncertain"}
    assert edge("classify", "x.jpg", "--min-confidence", 2).returncode == 2


def test_top_tells_the_most_probable_first(slices: Path) -> None:
    words = ("classify", "-r", slices, "--top", 2)
    whole = json.loads(edge("classify", "-r", slices, "--format", "json").stdout)
    best = json.loads(edge(*words, "--format", "json").stdout)
    for short, full in zip(best, whole, strict=True):
        ranked = sorted(full["probabilities"].items(), key=lambda pair: -pair[1])
        assert list(short["probabilities"].items()) == ranked[:2]
    (row, *_) = csv.DictReader(io.StringIO(edge(*words, "--format", "csv").stdout))
    assert sum(bool(row[f"p_{label}"]) for label in LABELS) == 2
    table = edge(*words).stdout.splitlines()
    assert f"{ranked[0][0]} {100 * ranked[0][1]:.1f} %, {ranked[1][0]}" in table[-1]


def test_heatmaps_are_written_beside_the_answers(slices: Path, model: Path, tmp_path: Path) -> None:
    done = edge("classify", "-r", slices, "--heatmap", tmp_path / "heat", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        reported = json.loads(line)
        picture = cv2.imread(reported["heatmap"])
        assert picture.shape == (200, 200, 3)
        assert reported["sha256"][:8] in reported["heatmap"]
    assert len(list((tmp_path / "heat").iterdir())) == 12


def test_a_model_without_class_maps_has_no_heatmaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier()
    monkeypatch.setattr(TfliteGraph, "class_maps", lambda _: None)
    picture = encode(draw_slice(1), ".png")
    with pytest.raises(ModelError, match="no class maps"):
        list(classifier.classify_slices(picture, heatmaps=tmp_path))


@pytest.mark.parametrize("shape", [(200, 200), (150, 260), (260, 150)])
def test_a_heatmap_lies_where_the_network_looked(shape: tuple[int, int]) -> None:
    """A single hot cell shows at its own place in the slice, through crop and padding."""
    gray = np.zeros(shape, np.uint8)
    gray[30:120, 40:130] = 100
    options = read_model().info.preprocess
    crop = crop_box(gray, options)
    heat = np.zeros((6, 6), np.float32)
    heat[1, 4] = 1
    picture = overlay(gray, heat, crop)
    hot = picture.astype(int).sum(axis=2)
    y, x = np.unravel_index(hot.argmax(), shape)
    left, top, right, bottom = crop
    assert x == pytest.approx((left + 4.5 / 6 * (right - left)) * shape[1], abs=8)
    assert y == pytest.approx((top + 1.5 / 6 * (bottom - top)) * shape[0], abs=8)
    assert (picture[130:, :20] == 0).all(), "outside the frame the slice stays gray"


def test_a_heatmap_over_the_whole_input_is_the_maps_own() -> None:
    gray = preprocess(draw_slice(1), read_model().info.preprocess)
    graph = open_graph(read_model())
    graph.run(gray)
    maps = graph.class_maps()
    assert maps is not None
    fine = cv2.resize(maps[..., 0], gray.shape, interpolation=cv2.INTER_CUBIC)
    colour = cv2.applyColorMap(
        np.rint((fine - fine.min()) / np.ptp(fine) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO
    )
    wanted = cv2.addWeighted(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), 0.6, colour, 0.4, 0)
    assert np.abs(overlay(gray, maps[..., 0]).astype(int) - wanted).mean() < 1


def test_a_heatmap_of_a_huge_slice_is_smaller_than_it() -> None:
    """Its pictures in colour are no part of what a slice may take."""
    gray = np.zeros((3000, 6000), np.uint8)
    gray[:, 4500:] = 100
    heat = np.zeros((6, 6), np.float32)
    heat[1, 1] = 1
    crop = (0.0, 0.25, 0.5, 0.75)
    picture = overlay(gray, heat, crop)
    assert picture.shape == (1024, 2048, 3)
    assert (picture[:, 1600:] == 100).all()
    y, x = np.unravel_index(picture[:, :1500].astype(int).sum(axis=2).argmax(), (1024, 1500))
    assert x == pytest.approx(1.5 / 6 * 0.5 * 2048, abs=8)
    assert y == pytest.approx((0.25 + 1.5 / 6 * 0.5) * 1024, abs=8)
    assert overlay(gray[:1, :], heat).shape == (1, 2048, 3)


@pytest.mark.filterwarnings("error")
def test_a_heatmap_of_huge_numbers_shows_their_proportions() -> None:
    gray, heat = np.full((48, 48), 90, np.uint8), np.zeros((6, 6), np.float32)
    heat[1, 1], heat[4, 4] = 3, -3
    np.testing.assert_array_equal(overlay(gray, heat * np.float32(1e38)), overlay(gray, heat))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(stream: io.StringIO) -> str:
        open_writer("table", stream, LABELS).write(answer("glioma"))
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mok" in written(Terminal())
    assert "\x1b" not in written(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in written(Terminal())


@given(st.text(min_size=1))
def test_no_cell_of_text_is_a_formula(text: str) -> None:
    cell = str(_cell(text))
    assert cell[0] not in "=+-@\t\r\n＝＋－＠"
    assert unguard(cell) == text


@given(st.text("'=+-@\t\r\n＝＋－＠a", max_size=6))
def test_a_guarded_cell_is_read_back_as_it_was(text: str) -> None:
    assert unguard(guard(text)) == text
    assert guard(text).lstrip("'") == text.lstrip("'")


def test_stdin_holds_one_file(slices: Path) -> None:
    path = next(slices.rglob("*.png"))
    (reported,) = json.loads(
        edge("classify", "--stdin", "--format", "json", stdin=path.read_bytes()).stdout
    )
    assert reported["input"] == "stdin"
    (other,) = json.loads(edge("classify", path, "--format", "json").stdout)
    assert reported["probabilities"] == other["probabilities"]
    assert reported["sha256"] == other["sha256"]
    done = edge("classify", "--stdin", stdin=b"")
    assert done.returncode == 1
    assert "stdin: " in done.stderr
    assert edge("classify", "--stdin", path).returncode == 2
    done = edge("classify", "--stdin", "--max-mib", 1, stdin=bytes(2 << 20))
    assert "larger than the limit of 1 MiB" in done.stderr


def test_patterns_that_no_shell_expands(slices: Path) -> None:
    done = edge("classify", f"{slices}/**/*.png", f"{slices}/*.gif", "--format", "jsonl")
    assert done.returncode == 1
    names = [json.loads(line)["input"] for line in done.stdout.splitlines()]
    assert names == [*sorted(map(str, slices.rglob("*.png"))), f"{slices}/*.gif"]
    assert "no file fits" in done.stderr
    odd = slices / "[odd].png"
    odd.write_bytes(encode(draw_slice(0), ".png"))
    done = edge("classify", odd, "--format", "jsonl")
    odd.unlink()
    assert done.returncode == 0, done.stderr


def test_limits_can_be_set(slices: Path) -> None:
    path = next(slices.rglob("*.png"))
    done = edge("classify", path, "--max-pixels", 39_999)
    assert done.returncode == 1
    assert "200x200 pixels: over the limit of 39,999 pixels" in done.stderr
    assert edge("classify", path, "--max-pixels", 40_000).returncode == 0


def test_bytes_over_the_limit_are_refused_too() -> None:
    with pytest.raises(InputError, match="larger than the limit of 256 MiB"):
        Classifier().classify(bytes((256 << 20) + 1))


def test_a_stated_value_range_reaches_the_model() -> None:
    picture = draw_slice(1)
    plain = Classifier().classify(picture)
    scaled = Classifier().classify(picture.astype(np.float32) * 3 - 50, value_range=(-50, 715))
    assert scaled.probabilities == plain.probabilities


def test_completion_of_the_shell() -> None:
    script = subprocess.run(
        [TOOL],
        env=os.environ | {"_BTC_EDGE_COMPLETE": "bash_source"},
        capture_output=True,
        text=True,
    )
    assert "complete -o" in script.stdout
    words = {"COMP_WORDS": "btc-edge classify --heat", "COMP_CWORD": "2"}
    done = subprocess.run(
        [TOOL], env=os.environ | words | {"_BTC_EDGE_COMPLETE": "bash_complete"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,--heatmap"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_bar_on_the_terminal_for_a_long_batch(slices: Path) -> None:
    import pty

    master, slave = pty.openpty()
    with subprocess.Popen(
        [TOOL, "classify", "-r", slices, slices / "missing.jpg", "--format", "csv"],
        stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm"},
    ) as tool:  # fmt: skip
        os.close(slave)
        seen = b""
        while True:
            try:
                block = os.read(master, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not block:
                break
            seen += block
        assert tool.stdout is not None
        assert len(tool.stdout.read().splitlines()) == 14
    os.close(master)
    assert b"13" in seen
    assert b"missing.jpg: no such file" in seen

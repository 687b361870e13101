"""A model file holds a decision rule for each runtime, and a device answers by that of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, ModelError
from edge_runtime.commands.info import _fitted_with
from edge_runtime.decision.prediction import probabilities
from edge_runtime.errors import BackendError
from edge_runtime.model.backends import BACKENDS, choose_backend, interpreter_version
from edge_runtime.model.load import read_model
from edge_runtime.model.metadata import MOST_RULES, RUNTIMES, ModelInfo
from edge_runtime.model.outputs import outputs_elsewhere, outputs_of, version_elsewhere
from tests.device.conftest import pack

HERE = choose_backend("tflite")
AWAY = next(name for name in BACKENDS if name != HERE)
OTHER = {"runtime": AWAY, "version": "2.0"}


def rule(**changes: Any) -> dict[str, Any]:
    """A rule of its own for the bundled graph: hotter, and answering all that is familiar."""
    info = read_model().info
    ood = dict(info.ood or {})
    return {
        "version": "1.0", "temperature": 2.0, "thresholds": dict.fromkeys(info.labels, 0.0),
        "target_error": None, "confidence": None, "error_bound": None, "max_error": None,
        "ood": {name: ood[name] for name in ("levels", "threshold")},
    } | changes  # fmt: skip


def info_with(**changes: Any) -> ModelInfo:
    return replace(read_model().info, fitted_with=None, rules=None, **changes)


def shape_with(**changes: Any) -> str:
    return json.dumps(json.loads(info_with().to_json()) | changes)


def test_the_names_are_those_of_the_interpreters() -> None:
    assert RUNTIMES == BACKENDS


def test_a_device_answers_by_the_rule_of_its_own_runtime(tmp_path: Path) -> None:
    there = replace(info_with(), fitted_with=OTHER, rules={HERE: rule()})
    path = pack(tmp_path / "m.tflite", fitted_with=OTHER, rules={HERE: rule()})
    own, file = Classifier(path), read_model(path)
    picture = draw_slice(1)
    answer = own.classify(picture)
    given = outputs_of(file, _pixels(file.info, picture)[None])
    expected = probabilities(given["logits"], 2.0)[0]
    assert list(answer.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-12)
    assert (own.runtime, own.fitted_here) == (HERE, True)
    assert own.info.temperature == 2.0
    assert own.info.fitted_with == {"runtime": HERE, "version": "1.0"}
    assert file.info.temperature == there.temperature, "what older versions go by stays"
    assert {own.threshold(label) for label in own.info.labels} == {0.0}


def _pixels(info: ModelInfo, picture: np.ndarray) -> np.ndarray:
    from edge_runtime.imaging.preprocess import preprocess

    return preprocess(picture, info.preprocess)


@pytest.mark.parametrize("rules", [None, {AWAY: rule()}])
def test_the_rule_of_another_runtime_changes_no_answer_here(rules: Any, tmp_path: Path) -> None:
    plain = Classifier(replace(read_model(), info=info_with()))
    with_it = {"runtime": HERE, "version": "0.1"}
    told = Classifier(pack(tmp_path / "m.tflite", fitted_with=with_it, rules=rules))
    assert (plain.fitted_here, told.fitted_here) == (None, True), "versions are not compared"
    for i in range(4):
        one, two = plain.classify(draw_slice(i)), told.classify(draw_slice(i))
        assert replace(one, model="") == replace(two, model="")


def test_a_rule_may_refuse_more(tmp_path: Path) -> None:
    levels = (read_model().info.ood or {})["levels"]
    strict = rule(ood={"levels": levels, "threshold": -1e9})
    path = pack(tmp_path / "m.tflite", fitted_with=OTHER, rules={HERE: strict})
    assert Classifier(path).classify(draw_slice(1)).status.value == "unfamiliar"


def test_files_are_written_as_before_where_nothing_is_known() -> None:
    shape = json.loads(info_with().to_json())
    assert not {"fitted_with", "rules"} & set(shape)
    told = replace(info_with(), fitted_with=OTHER, rules={HERE: rule()}, graph_sha256="0" * 64)
    again = ModelInfo.from_json(told.to_json())
    assert again == replace(told, schema=3)
    assert again.for_runtime(AWAY) is again
    assert [again.is_fitted_for(name) for name in (AWAY, HERE, "of the future")] == [
        True, True, False,
    ]  # fmt: skip
    assert info_with().is_fitted_for(HERE) is None


def test_runtimes_of_the_future_are_passed_over() -> None:
    info = ModelInfo.from_json(
        shape_with(fitted_with=OTHER, rules={"of the future": 3, HERE: rule()})
    )
    assert list(info.rules or {}) == [HERE]
    assert ModelInfo.from_json(shape_with(fitted_with=OTHER, rules={"x": {}})).rules is None


@pytest.mark.parametrize(
    "change",
    [{"rules": {HERE: rule()}}, {"fitted_with": 3}, {"fitted_with": {"runtime": HERE}},
     {"fitted_with": {"runtime": "x" * 65, "version": ""}},
     {"fitted_with": {"runtime": "a\x1b[2J", "version": ""}},
     {"fitted_with": {"runtime": ["litert"], "version": ""}},
     *({"fitted_with": OTHER} | {"rules": rules} for rules in (
         3, [rule()], {HERE: 3}, {HERE: {}}, {AWAY: rule()}, {HERE: rule(version=2)},
         {HERE: rule(version="x" * 65)}, {HERE: rule(temperature=0)},
         {HERE: rule(temperature=float("nan"))}, {HERE: rule(temperature="1")},
         {HERE: rule(thresholds={"x": 0.5})}, {HERE: rule(thresholds={"glioma": 2})},
         {HERE: rule(thresholds=[1])}, {HERE: rule(confidence=2)}, {HERE: rule(study=3)},
         {HERE: rule(ood=None)}, {HERE: rule(ood={"levels": "AAAA"})}, {HERE: rule(ood=[1])},
         {HERE: {name: value for name, value in rule().items() if name != "temperature"}},
         {str(i): {} for i in range(MOST_RULES + 1)},
     ))],
)  # fmt: skip
def test_damaged_rules_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        ModelInfo.from_json(shape_with(**change))
    assert len(str(caught.value)) < 300, "one line that can be read"
    assert "\x1b" not in str(caught.value)


def test_a_rule_that_is_nested_too_deep_is_told_in_words() -> None:
    study: Any = 1
    for _ in range(800):
        study = [study]
    text = shape_with(rules={AWAY: rule(study={"a": study})}, fitted_with=OTHER | {"runtime": HERE})
    with pytest.raises(ModelError, match="nested too deep"):
        ModelInfo.from_json(text)


@pytest.mark.parametrize("ood", [{"levels": "AAAA", "threshold": 0.0},
                                 {"levels": 3, "threshold": "x"}])  # fmt: skip
def test_a_check_that_is_damaged_is_refused_by_who_needs_it(ood: Any, tmp_path: Path) -> None:
    path = pack(tmp_path / "m.tflite", fitted_with=OTHER, rules={HERE: rule(ood=ood)})
    with pytest.raises(ModelError):
        Classifier(path)
    away = pack(tmp_path / "a.tflite", fitted_with={"runtime": HERE, "version": ""},
                rules={AWAY: rule(ood=ood)})  # fmt: skip
    Classifier(away)  # a rule that is not for it
    done = edge("verify", away)
    assert done.returncode == 3, "and by who checks the file"
    assert len(done.stderr.splitlines()) == 1


def edge(*words: object) -> subprocess.CompletedProcess[str]:
    code = "from edge_runtime.commands.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True
    )


def test_a_rule_of_another_runtime_is_told_once(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        (pictures / f"{i}.png").write_bytes(encode(draw_slice(i), ".png"))
    away = pack(tmp_path / "away.tflite", fitted_with=OTHER, rules=None)
    done = edge("classify", "-r", pictures, "--model", away, "--format", "jsonl")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"btc-edge: the model's thresholds were fitted with {AWAY} and may not hold in {HERE}: "
        f"btc-export RUN --refit FILE --runtime {HERE}=PYTHON adds its own"
    ]
    unknown = pack(tmp_path / "old.tflite", fitted_with=None, rules=None)
    done = edge("classify", pictures / "0.png", "--model", unknown, "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, ""), "an older file is answered as it was"


def test_info_tells_the_runtimes() -> None:
    told = replace(info_with(), fitted_with=OTHER, rules={HERE: rule()})
    assert _fitted_with(told) == f"{AWAY} 2.0, {HERE} 1.0 (but for studies)"
    study = dict(told.study or {})
    with_study = replace(told, rules={HERE: rule(study=study)})
    assert _fitted_with(with_study) == f"{AWAY} 2.0, {HERE} 1.0"
    assert _fitted_with(info_with()) == "unknown"


# In another environment: this one's Python stands for it, since what is asked of it is the same.


def test_another_python_answers_as_this_one() -> None:
    python, file = Path(sys.executable), read_model()
    pixels = np.stack([_pixels(file.info, draw_slice(i)) for i in range(3)])
    data = _bundled()
    assert version_elsewhere(python, HERE) == interpreter_version(HERE)
    here, there = outputs_of(file, pixels), outputs_elsewhere(python, HERE, data, pixels)
    assert set(here) == set(there) == {"logits", "features", "class_maps"}
    for name, values in here.items():
        np.testing.assert_array_equal(values, there[name])


def _bundled() -> bytes:
    from edge_runtime.model.load import bundled_model

    return bundled_model().read_bytes()


def test_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.model.outputs.code_digest", lambda package: "0" * 64)
    with pytest.raises(BackendError, match="other code than this one: install the same there"):
        version_elsewhere(Path(sys.executable), HERE)


def test_a_python_that_cannot_is_told_in_a_line(tmp_path: Path) -> None:
    silent, talking = tmp_path / "silent", tmp_path / "talking"
    silent.write_text("#!/bin/sh\ncat > /dev/null\n")
    talking.write_text(
        "#!/bin/sh\ncat > /dev/null\necho 'PK not an archive'\necho why >&2\nexit 1\n"
    )
    for path in (silent, talking):
        path.chmod(0o755)
    for python, says in ((tmp_path / "none", "cannot be run"), (silent, "it says nothing"),
                         (talking, "cannot run a model: why")):  # fmt: skip
        with pytest.raises(BackendError, match=says):
            version_elsewhere(python, HERE)
    with pytest.raises(BackendError, match="is not installed"):
        version_elsewhere(Path(sys.executable), "tflite-runtime")


def _printing(tmp_path: Path, data: bytes) -> Path:
    """A program that prints this whatever it is asked."""
    python, reply = tmp_path / "python", tmp_path / "reply"
    reply.write_bytes(data)
    python.write_text(f"#!/bin/sh\ncat > /dev/null\ncat '{reply}'\n")
    python.chmod(0o755)
    return python


def _npz(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


NPY = io.BytesIO()
np.save(NPY, np.zeros(3))


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 and no more",
        _npz(version="1")[:-30],
        NPY.getvalue(),
        b"\x80\x04N.",
        b"noise\n" * 300_000,
        _npz(version=np.zeros(3)),
        _npz(version=np.array(["1", "2"])),
    ],
)
def test_what_some_program_prints_is_no_answer(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BackendError, match="cannot run a model: it says nothing"):
        version_elsewhere(_printing(tmp_path, data), HERE)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"logits": np.zeros((2, 4), np.float32)},
        {"logits": np.zeros(1, np.float32)},
        {"logits": np.array([["a", "b"]])},
        {"logits": np.zeros((1, 4), np.float32), "features": np.zeros((), np.float32)},
    ],
)
def test_answers_of_another_shape_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    python = _printing(tmp_path, _npz(version="1", **arrays))
    with pytest.raises(ModelError, match="did not answer for each slice"):
        outputs_elsewhere(python, HERE, b"", np.zeros((1, 96, 96), np.uint8))


def test_an_error_without_its_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="why"):
        version_elsewhere(_printing(tmp_path, _npz(error="why")), HERE)


def test_a_python_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o755)
    monkeypatch.setattr("edge_runtime.model.outputs.SECONDS", 0.1)
    with pytest.raises(BackendError, match="did not answer within"):
        version_elsewhere(python, HERE)


def test_a_damaged_file_is_refused_there() -> None:
    data = _bundled()
    with pytest.raises(ModelError):
        outputs_elsewhere(Path(sys.executable), HERE, data[:-9], np.zeros((1, 96, 96), np.uint8))

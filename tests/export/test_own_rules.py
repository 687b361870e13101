"""A file is fitted and proved with every runtime that is at hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime import Classifier
from edge_runtime.errors import DataError, ModelError, UsageError
from edge_runtime.model.file_format import ModelFile, pack_model
from edge_runtime.model.load import read_model
from export.commands.export import command, runtimes_of
from export.commands.printing import print_exports
from export.exporter import REJECTED, Exported, Exporter, ExportSettings
from export.formats import FORMATS, Format
from export.runtimes import Runtime, at_hand, open_elsewhere
from trainer.evaluation.decision_rule import DecisionRule
from trainer.models.outputs import ModelOutputs
from trainer.run import Run

HERE = Path(sys.executable)


@pytest.fixture(scope="module")
def exporter(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """LiteRT is asked as if it were in another environment."""
    folder = tmp_path_factory.mktemp("out")
    return Exporter(tiny_run, ExportSettings(folder, "tiny", runtimes={"litert": HERE}))


@pytest.fixture(scope="module")
def made(exporter: Exporter) -> Exported:
    """As int8, with rules for both."""
    return exporter.export(FORMATS["int8"])


@pytest.fixture(scope="module")
def written(made: Exported) -> ModelFile:
    """The same as it was read before another test put another in its place."""
    return read_model(made.path)


def as_it_is(form: Format) -> Format:
    return form


def test_each_runtime_gets_its_rule(
    exporter: Exporter, tiny_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    done = exporter.export(FORMATS["float32"])
    info = read_model(done.path).info
    assert (info.fitted_with or {})["runtime"] == "litert"
    assert list(info.rules or {}) == ["tensorflow"]
    asked = [(runtime.name, runtime.python) for runtime, _, _ in done.gates]
    assert asked == [("litert", HERE), ("tensorflow", None)]
    assert done.not_measured == ["tflite-runtime"]
    assert [entry["runtime"] for entry in done.to_json()["measured"]] == ["litert", "tensorflow"]
    ours, theirs = (
        DecisionRule.from_settings(vars(info.for_runtime(runtime.name)))
        for runtime, _, _ in done.gates
    )  # fmt: skip
    # The two round alike: the same outputs must give the same rule.
    assert theirs.temperature == pytest.approx(ours.temperature, rel=1e-3)
    assert dict(theirs.thresholds) == pytest.approx(dict(ours.thresholds), abs=1e-3)
    assert theirs.ood_detector is not None
    assert ours.ood_detector is not None
    assert theirs.ood_detector.threshold == pytest.approx(ours.ood_detector.threshold, abs=0.02)
    validation = tiny_run.validation_images().pixels
    for runtime, _, _ in done.gates:
        refused = Classifier(done.path, backend=runtime.name)
        assert refused.fitted_here is True
        shares = theirs.is_ood(runtime.predict(read_model(done.path), validation)).mean()
        assert shares == pytest.approx(0.05, abs=0.02), "as many as the check is to refuse"
    print_exports([done], exporter.trained_bytes)
    said = capsys.readouterr().out
    assert "in tensorflow" in said
    assert "Not measured in tflite-runtime" in said
    assert "--runtime tflite-runtime=PYTHON" in said


def test_an_onnx_file_has_one_runtime(exporter: Exporter) -> None:
    done = exporter.export(FORMATS["onnx"])
    info = read_model(done.path).info
    assert ((info.fitted_with or {})["runtime"], info.rules) == ("onnxruntime", None)
    assert (len(done.gates), done.not_measured) == (1, [])


class Surer:
    """A runtime that is surer of everything: what it answers takes another temperature."""

    def __init__(self, factor: float) -> None:
        self.name, self.version, self.python, self._factor = "tflite-runtime", "9", None, factor

    def predict(self, *args: object) -> ModelOutputs:
        seen = Runtime("litert", "").predict(*args)  # type: ignore[arg-type]
        assert seen.features is not None
        return replace(seen, logits=seen.logits * self._factor, features=seen.features * 2)


def with_runtime(exporter: Exporter, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Runtime("litert", "1"), other]
    monkeypatch.setattr(exporter, "_runtimes", lambda form: both)


@pytest.mark.usefixtures("written")
def test_a_runtime_that_answers_otherwise_gets_another_rule(
    exporter: Exporter, tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Surer(2)
    with_runtime(exporter, other, monkeypatch)
    done = exporter.export(FORMATS["int8"])
    assert done.gate.passed, done.gate.failures
    file = read_model(done.path)
    own = file.info.for_runtime("tflite-runtime")
    assert own.temperature == pytest.approx(2 * file.info.temperature, rel=0.01)
    pixels = tiny_run.validation_images().pixels
    seen, known = (DecisionRule.from_settings(vars(i)) for i in (own, file.info))
    moved, plain = other.predict(file, pixels), Runtime("litert", "").predict(file, pixels)
    assert seen.is_ood(moved).mean() == pytest.approx(known.is_ood(plain).mean(), abs=0.02)
    assert known.is_ood(moved).mean() > 0.5, "by the other's rule nearly all of them"
    np.testing.assert_allclose(seen.probabilities(moved), known.probabilities(plain), atol=0.01)


@pytest.mark.usefixtures("written")
def test_a_runtime_that_fails_the_gate_rejects_the_file(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_runtime(exporter, Surer(-1), monkeypatch)
    done = exporter.export(FORMATS["int8"])
    assert not done.gate.passed
    assert done.path.name.endswith(REJECTED)
    assert done.gate.failures[0].startswith("in tflite-runtime 9: agrees with the trained model")


def test_refit_changes_no_graph_and_no_answer(
    exporter: Exporter, written: ModelFile, made: Exported, tmp_path: Path
) -> None:
    """What an older btc-export wrote gets the rules that it lacks."""
    old = tmp_path / "old.tflite"
    bare = replace(written.info, fitted_with=None, rules=None)
    old.write_bytes(pack_model(written.graph, bare, "tflite"))
    done = exporter.refit(old, as_it_is)
    assert done.gate.passed
    assert done.path.name == old.name
    file = read_model(done.path)
    assert file.graph == written.graph
    assert replace(file.info, fitted_with=None, rules=None) == read_model(old).info
    assert (file.info.fitted_with, list(file.info.rules or {})) == (
        written.info.fitted_with, ["tensorflow"],
    )  # fmt: skip
    assert done.ops == made.ops
    again = exporter.refit(done.path, as_it_is)
    assert again.sha256 == done.sha256, "the rules are made anew, and are the same"


def test_a_refit_that_fails_leaves_the_file_as_it_was(
    exporter: Exporter, written: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    path, linked = folder / "kept.tflite", folder / "linked.tflite"
    bare = replace(written.info, fitted_with=None, rules=None)
    before = pack_model(written.graph, bare, "tflite")
    path.write_bytes(before)
    linked.symlink_to(path)
    monkeypatch.setattr(exporter, "_settings", replace(exporter._settings, out=folder))
    with_runtime(exporter, Surer(-1), monkeypatch)
    for each in (path, linked):
        done = exporter.refit(each, as_it_is)
        assert not done.gate.passed
        assert done.path.name == each.name + REJECTED
    assert path.read_bytes() == before
    assert linked.is_symlink()
    (folder / "cut.tflite").write_bytes(before[:-9])
    with pytest.raises(ModelError):
        exporter.refit(folder / "cut.tflite", as_it_is)
    assert (folder / "cut.tflite").read_bytes() == before[:-9]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"temperature": 9.0}, "repeat --target-error, else export it again"),
     ({"data": {"sha256": "1" * 64}}, "is no file of"),
     ({"labels": ("a", "b", "c", "d"), "thresholds": None, "target_error": None,
       "error_bound": None}, "is no file of")],
)  # fmt: skip
def test_a_file_of_something_else_is_not_refitted(
    exporter: Exporter, written: ModelFile, tmp_path: Path, change: dict, says: str
) -> None:
    path = tmp_path / "other.tflite"
    info = replace(written.info, fitted_with=None, rules=None, **change)
    path.write_bytes(pack_model(written.graph, info, "tflite"))
    with pytest.raises(DataError, match=says):
        exporter.refit(path, as_it_is)


def test_what_is_not_here_is_not_asked() -> None:
    found = at_hand(("litert", "tflite-runtime", "tensorflow"), {})
    assert [runtime.name for runtime in found] == ["litert", "tensorflow"]
    named = Runtime("litert", "1", Path("elsewhere"))
    assert at_hand(("litert",), {"litert": named}) == [named]
    with pytest.raises(UsageError, match=r"--runtime litert: .* cannot be run"):
        open_elsewhere({"litert": Path("/of/nobody")})


def test_options(tiny_run: Run, tmp_path: Path) -> None:
    assert runtimes_of(("litert=a=b", "tensorflow=c")) == {
        "litert": Path("a=b"), "tensorflow": Path("c"),
    }  # fmt: skip
    file = tmp_path / "m.tflite"
    file.write_bytes(b"")
    run = tiny_run.folder
    for words, says in (
        ([run, "--int8", "--runtime", "litert"], "give NAME=PYTHON"),
        ([run, "--int8", "--runtime", "litter=x"], "did you mean 'litert'"),
        ([run, "--int8", "--runtime", "litert=x", "--runtime", "litert=y"], "given twice"),
        ([run, "--diagnose", "--runtime", "litert=x"], "--runtime: goes with a format"),
        ([run, "--int8", "--refit", file], "keeps its graph; it does not take --int8"),
        ([run, "--refit", file, "--seed", 3], "does not take --seed"),
        (["--verify", file, "--refit", file], "does not take --refit"),
    ):
        result = CliRunner().invoke(command, list(map(str, words)))
        assert isinstance(result.exception, UsageError), words
        assert says in str(result.exception)


@pytest.mark.parametrize("name", ["../../up", "/etc/x", "a\0b", "."])
def test_a_run_whose_name_is_a_path_is_not_exported(
    tiny_run: Run, tmp_path: Path, name: str
) -> None:
    run = Run(tiny_run.folder, tiny_run.settings | {"name": name})
    with pytest.raises(UsageError, match="use letters, digits"):
        Exporter(run, ExportSettings(tmp_path))


def test_the_rules_travel_in_the_file(written: ModelFile) -> None:
    shape = json.loads(written.info.to_json())
    assert set(shape["rules"]["tensorflow"]["ood"]) == {"levels", "threshold"}
    assert "view" not in shape["rules"]["tensorflow"]

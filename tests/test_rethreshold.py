"""New thresholds for a model file whose run is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.card import answers
from benchmarks.rethreshold import as_markdown, coverage_and_error, facts_of, refit, split_of
from edge_runtime.errors import DataError
from edge_runtime.model.file_format import parse_model
from edge_runtime.model.load import read_model
from trainer.data.dataset import read_dataset
from trainer.data.split import split_dataset
from trainer.evaluation.decision_rule import DecisionRule, SideOutputs
from trainer.evaluation.selective import Targets
from trainer.models.outputs import ModelOutputs


def validation_outputs(wrong: float) -> SideOutputs:
    """600 single slices, of which a share is predicted wrong, and less surely."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 4
    off = rng.random(600) < wrong
    logits = rng.normal(0, 0.1, (600, 4)).astype(np.float32)
    logits[np.arange(600), np.where(off, (labels + 1) % 4, labels)] += np.where(off, 2, 5)
    return SideOutputs(
        ModelOutputs(logits), labels, [str(i) for i in range(600)], [""] * 600, [""] * 600
    )


def test_only_the_metadata_changes() -> None:
    file = replace(read_model(), info=replace(read_model().info, ood=None, view=None))
    data, decision_rule = refit(file, validation_outputs(0.05), Targets(0.05), "1.0")
    again, _ = refit(file, validation_outputs(0.05), Targets(0.05), "1.0")
    made = parse_model(data)
    assert data == again
    assert made.graph == file.graph
    assert made.tag != file.tag
    assert (made.info.version, made.info.temperature) == ("1.0", file.info.temperature)
    assert (made.info.target_error or {})["notumor"] == pytest.approx(0.0125)
    assert (made.info.thresholds or {})["notumor"] == 1.0, "150 slices cannot support 1.25 %"
    assert 0 < (made.info.thresholds or {})["glioma"] < 1
    side = coverage_and_error(decision_rule, validation_outputs(0.1), file.info.labels)
    assert side["error"]["share"] < 0.05
    assert 0.5 < side["coverage"]["share"] < 0.75
    result = {"target_error": made.info.target_error, "error_bound": made.info.error_bound,
              "confidence": 0.9, "old": side, "new": side, "n": 600, "groups": 600,
              "validation": 600, "model": made.tag}  # fmt: skip
    table = as_markdown(result)
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert "| notumor | never | 1.2 | – |" in answers(made.info, table)
    assert "no guarantee" in answers(replace(made.info, confidence=None), "")


def test_another_split_is_refused(phantoms: Path) -> None:
    file = read_model()
    data = read_dataset(phantoms, file.info.preprocess, class_names=file.info.labels)
    split = split_dataset(data, "grouped", 1)
    fitting = replace(file, info=replace(file.info, data=facts_of(data, split)))
    assert split_of(fitting, data, "grouped", 1).validation.tolist() == split.validation.tolist()
    with pytest.raises(DataError, match=r"not the split .* sha256, images"):
        split_of(file, data, "grouped", 1)


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    from trainer.synthetic.phantoms import write_phantoms

    write_phantoms(tmp_path / "phantoms.zip", per_class=12, testing=0.25, seed=3)
    return tmp_path / "phantoms.zip"


def test_what_is_no_number_is_never_an_answer() -> None:
    """The evaluation follows the device's rule."""
    outputs = ModelOutputs(np.eye(4, dtype=np.float32) * 9, np.full((4, 80), np.nan, np.float32))
    rule = DecisionRule.from_settings(vars(read_model().info))
    assert set(rule.statuses(outputs, read_model().info.labels)) == {"unfamiliar"}

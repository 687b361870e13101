"""Two cross-validations side by side, on the slices that both tested."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.two_recipes import main
from edge_runtime.imaging.preprocess import Preprocess

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def made(folder: Path, wrong: set[int], numbers: range, *, doubts: bool = False) -> Path:
    """A cross-validation that predicts notumor for the slices `wrong`, and is right else."""
    folder.mkdir()
    settings = {
        "schema": 1, "model": "cnn", "network": "edge", "protocol": "grouped", "folds": 2,
        "labels": CLASSES, "status": "finished", "preprocess": Preprocess(size=96).to_json(),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    extra = ["doubtful"] if doubts else []
    names = [f"p_{name}" for name in CLASSES]
    head = ["path", "group", "source", "label", "predicted", "confidence", *names, "status", *extra]
    rows = []
    for i in numbers:
        label = CLASSES[i % 4]
        predicted = "notumor" if i in wrong else label
        shares = [0.7 if name == predicted else 0.1 for name in CLASSES]
        source = "br35h" if label == "notumor" else "cheng"
        status = "ok" if i % 3 else "uncertain"
        rows.append([f"{i}.png", f"g{i // 2}", source, label, predicted, 0.7, *shares, status])
        rows[-1] += [int(i == 2)] * doubts
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return folder


def run(*words: Path) -> dict[str, dict]:
    done = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((words[-1] / "two_recipes.json").read_text())["rows"]


def test_the_difference_is_that_of_the_slices_that_both_tested(tmp_path: Path) -> None:
    first = made(tmp_path / "a", {0, 1, 5}, range(40))
    second = made(tmp_path / "b", {1}, range(4, 60), doubts=True)
    rows = run(first, second, Path("--out"), tmp_path)
    row = rows["right of four classes"]
    assert row["n"] == 36
    assert [rate["share"] for rate in row["rates"]] == pytest.approx([35 / 36, 1])
    assert row["difference"]["share"] == pytest.approx(1 / 36)
    low, high = row["difference"]["interval95"]
    assert low < 1 / 36 < high
    assert rows["tumours predicted notumor"]["difference"]["share"] == pytest.approx(-1 / 27)
    assert rows["right of `br35h`"]["n"] == 9
    table = (tmp_path / "two_recipes.md").read_text("utf-8")
    assert "| right of four classes | 36 | 97.2" in table
    assert rows["answered"]["both"] is None, "both together have no thresholds"


def test_both_together_say_what_the_surer_one_says(tmp_path: Path) -> None:
    """The log-probabilities are added, so the less sure one is outvoted."""
    first = made(tmp_path / "a", {0, 1}, range(20))
    second = made(tmp_path / "b", {1, 4}, range(20))
    tables = [list(csv.DictReader((f / "predictions.csv").open())) for f in (first, second)]
    for row in tables[1]:  # the second is less sure
        shares = {name: 0.4 if row["predicted"] == name else 0.2 for name in CLASSES}
        row.update({f"p_{name}": str(share) for name, share in shares.items()})
    with (second / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, tables[1][0])
        writer.writeheader()
        writer.writerows(tables[1])
    row = run(first, second, Path("--out"), tmp_path)["right of four classes"]
    assert row["both"]["share"] == pytest.approx(18 / 20), "0 and 1 are wrong, 4 is mended"


def test_doubted_labels_are_those_of_the_second_run(tmp_path: Path) -> None:
    first, second = (
        made(tmp_path / name, set(), range(20), doubts=doubts)
        for name, doubts in (("a", False), ("b", True))
    )
    rows = run(first, second, Path("--out"), tmp_path)
    assert rows["… without slices of doubted label"]["n"] == 19


def test_swapped_runs_give_the_opposite_difference(tmp_path: Path) -> None:
    drawn = np.random.default_rng(3).integers(0, 40, (2, 6)).tolist()
    first, second = (
        made(tmp_path / name, set(wrong), range(40))
        for name, wrong in zip("ab", drawn, strict=True)
    )
    there, back = (
        run(*pair, Path("--out"), tmp_path) for pair in ((first, second), (second, first))
    )
    for name, row in there.items():
        assert back[name]["difference"]["share"] == -row["difference"]["share"]
        assert back[name]["rates"] == row["rates"][::-1]


def test_a_group_may_have_another_name(tmp_path: Path) -> None:
    first, second = (made(tmp_path / name, set(), range(8)) for name in "ab")
    table = second / "predictions.csv"
    table.write_text(re.sub(r",g(\d)", r",data/g\1", table.read_text()))
    assert run(first, second, Path("--out"), tmp_path)["right of four classes"]["n"] == 8


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first, apart = made(tmp_path / "a", set(), range(8)), made(tmp_path / "b", set(), range(8, 16))
    failed = CliRunner().invoke(main, [str(first), str(apart)])
    assert "no slice was tested by both" in str(failed.exception)
    text = (first / "predictions.csv").read_text().replace("3.png,g1,", "3.png,g9,")
    moved = made(tmp_path / "c", set(), range(8))
    (moved / "predictions.csv").write_text(text)
    assert "groups of slices differ" in str(
        CliRunner().invoke(main, [str(first), str(moved)]).exception
    )
    settings = json.loads((first / "run.json").read_text()) | {"folds": None}
    (first / "run.json").write_text(json.dumps(settings))
    assert "no cross-validation" in str(
        CliRunner().invoke(main, [str(first), str(moved)]).exception
    )

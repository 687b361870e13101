"""The benchmark of unseen groups, sources and heads, on small classical runs of several DATA."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from benchmarks import card, honest, ood, robust
from edge_runtime.errors import BtcError, DataError, UsageError
from edge_runtime.model.load import bundled_model, read_model
from tests.device.volume_files import draw_head, nifti
from trainer.commands.train import train_command
from trainer.synthetic.phantoms import draw_phantom, write_phantoms

KNN = ("--model", "knn", "--features", "histogram", "--size", "32", "--no-cache")


class Made(NamedTuple):
    """Two DATA, a cross-validation on both, and a run without the source `far`."""

    data: tuple[Path, Path]
    folds: Path
    source: Path


def call(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)))


def draw(label: str, *seed: int) -> bytes:
    return cv2.imencode(".png", draw_phantom(label, np.random.default_rng(seed)))[1].tobytes()


def save(folder: Path, name: str, rows: list[str], card: str, pictures: dict[str, bytes]) -> Path:
    """A zip of more pictures than it may hold already, its table and its card."""
    with zipfile.ZipFile(folder / f"{name}.zip", "a") as archive:
        for path, content in pictures.items():
            archive.writestr(path, content)
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    (folder / f"{name}.toml").write_text(
        f'groups = "{name}.csv"\ntumour_free = ["notumor"]\n{card}'
    )
    return folder / f"{name}.zip"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("robust")
    write_phantoms(folder / "main.zip", per_class=14, testing=0.25, seed=3)
    with zipfile.ZipFile(folder / "main.zip") as archive:
        names = sorted(archive.namelist())
    sources = {"glioma": "cheng", "pituitary": "cheng", "meningioma": "other", "notumor": "br35h"}
    rows = [f"{n},g{i},{sources[n.split('/')[1]]},p{i}" for i, n in enumerate(names)]
    untyped = {f"tumor/{i}.png": draw("glioma", 7, i) for i in range(12)}
    with zipfile.ZipFile(folder / "untyped.zip", "w") as archive:
        for path, content in untyped.items():
            archive.writestr(path, content)
    said = ["path,group,source", *(f"{path},u{path},br35h" for path in untyped)]
    (folder / "untyped.csv").write_text("\n".join(said) + "\n")
    card = 'title = "Drawn slices"\nlicense = "CC0"\n'
    card += 'partial = "untyped.zip"\npartial_groups = "untyped.csv"\n'
    main = save(folder, "main", ["path,group,source,patient", *rows], card, {})
    heads = {f"notumor/{i}.png": draw("notumor", 9, i) for i in range(24)}
    rows = [
        f"{path},far{i // 2},far,far{i // 2},{('T1', 'T2')[i % 2]}" for i, path in enumerate(heads)
    ]
    far = save(
        folder,
        "far",
        ["path,group,source,patient,sequence", *rows],
        'title = "Far"\nlicense = "CC BY-SA 3.0"\n',
        heads,
    )
    for out, words in (
        ("folds", ("--protocol", "grouped", "--folds", 2)),
        ("source", ("--protocol", "source:far")),
    ):
        done = call(train_command, main, far, *words, *KNN, "--out", folder / out)
        assert done.exit_code == 0, done.exception
    return Made((main, far), folder / "folds", folder / "source")


@pytest.fixture(scope="module")
def result(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    done = call(
        robust.main, made.folds, *made.data, "--source", made.source, "--skip-corruptions",
        "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    content: dict[str, Any] = json.loads((out / "robust.json").read_text("utf-8"))
    assert (out / "robust.md").read_text("utf-8") == robust.as_markdown(content)
    assert "| fold 2 | glioma |" in (out / "answers.md").read_text("utf-8")
    return content


def test_overall_figures_are_of_the_main_sources(result: dict[str, Any]) -> None:
    assert result["grouped"]["slices"]["n"] == 56
    assert result["clean"] == {k: result["grouped"]["slices"][k] for k in result["clean"]}
    assert set(result["by_source"]) == {"cheng", "br35h", "other", "far", "all"}
    assert result["by_source"]["all"]["n"] == 80
    assert result["by_source"]["far"]["studies"]["n"] == 12
    text = robust.as_markdown(result)
    assert "Slices of `cheng`, `br35h`, `other`" in text
    assert "Corruptions of the test folds were not measured." in text


def test_a_source_of_one_side_borrows_the_other(made: Made, result: dict[str, Any]) -> None:
    side = result["left_out"]["far"]
    assert side["borrowed"] == "tumours"
    assert side["n"] == side["classes"]["notumor"]["n"] == 24
    assert side["tumors_predicted_tumour_free"]["n"] == 0
    run = robust.Run.open(made.source)
    validation = run.validation_images().labels != run.labels.index("notumor")
    assert side["auc"]["positives"] == validation.sum()
    assert side["auc"]["negatives"] == 24
    assert "from the run's validation side: `far` tumours" in robust.as_markdown(result)


def test_untyped_tumours_stand_beside_their_source(made: Made, result: dict[str, Any]) -> None:
    side = result["by_source"]["br35h"]
    assert (side["untyped"], side["borrowed"]) == (12, None)
    tables = [robust.predictions_of(robust.Run.open(made.folds)).table, None]
    tables[1] = robust.partial_of(robust.Run.open(made.folds))
    mine = tables[0][tables[0]["source"] == "br35h"]
    scores = 1 - np.concatenate([mine["p_notumor"], tables[1]["p_notumor"]])
    assert side["auc"]["auc"] == pytest.approx(roc_auc_score(np.arange(26) >= 14, scores))
    missed = (tables[1]["predicted"] == "notumor").mean()
    assert side["tumors_predicted_tumour_free"]["share"] == pytest.approx(missed)


def test_sequences_are_those_that_a_table_names(result: dict[str, Any]) -> None:
    rows = {(r["tested"], r["sequence"]): r for r in result["sequences"]}
    assert set(rows) == {(t, s) for t in ("folds", "source:far") for s in ("T1", "T2")}
    assert all(row["predicted_tumour_free"]["n"] == 12 for row in rows.values())
    assert not any(row["tumor"] for row in rows.values())


def test_heads_are_seen_by_who_was_tested_on_the_person(made: Made, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "heads.zip", "w") as archive:
        for path in ("notumor/far1.nii", "tumor/sick.nii"):
            archive.writestr(path, nifti(draw_head()))
    rows = ["notumor/far1.nii,notumor,far1,T1,", "tumor/sick.nii,tumor,sick,T1,10-12 of 32"]
    table = tmp_path / "heads.csv"
    table.write_text("\n".join(["path,label,subject,sequence,tumour_slices", *rows]) + "\n")
    words = (robust.main, made.folds, "--heads", tmp_path / "heads.zip", "--out", tmp_path)
    assert call(*words).exit_code == 0
    result = json.loads((tmp_path / "robust.json").read_text("utf-8"))
    heads = {head["subject"]: head for head in result["heads"]["heads"]}
    table_of = {
        n: robust.predictions_of(robust.Run.open(made.folds / f"fold-{n}")).texts("patient")
        for n in (1, 2)
    }
    (fold,) = [n for n, patients in table_of.items() if "far/far1" in patients]
    assert heads["far1"]["fold"] == fold
    assert heads["sick"]["fold"] == 1
    assert heads["sick"]["with_tumour"]["slices"] == 3
    assert heads["far1"]["with_tumour"] is None
    for head in heads.values():
        assert head["predicted_tumour_free"] + head["predicted_tumor"] == head["slices"] > 20
    text = (tmp_path / "robust.md").read_text("utf-8")
    assert "| sick, T1, with the tumour | 3 |" in text
    assert result["corruptions"] is result["sequences"] is None, "without DATA"
    table.write_text("path,label,subject,sequence,tumour_slices\nnotumor/no.nii,notumor,x,T1,\n")
    assert isinstance(call(*words).exception, DataError)


def test_corruptions_are_of_the_slices_that_were_tested(made: Made, tmp_path: Path) -> None:
    words = (made.folds, *made.data, "--main", "far", "--out", tmp_path)
    assert call(robust.main, *words).exit_code == 0
    result = json.loads((tmp_path / "robust.json").read_text("utf-8"))
    assert {rate["n"] for rate in result["corruptions"].values()} == {24}
    assert "| worst corruption (" in (tmp_path / "robust.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (("{source}",), UsageError, "is no cross-validation"),
        (("{folds}", "--source", "{folds}"), UsageError, "its protocol is grouped"),
        (("{folds}", "--main", "farr"), UsageError, "out of br35h, cheng, far, other"),
        (("{folds}", "{main}"), DataError, "is not in DATA"),
    ],
)
def test_what_does_not_fit_is_refused(
    made: Made, tmp_path: Path, words: tuple[str, ...], kind: type[BtcError], says: str
) -> None:
    places = {"folds": made.folds, "source": made.source, "main": made.data[0]}
    done = call(robust.main, *(word.format(**places) for word in words), "--out", tmp_path)
    assert type(done.exception) is kind
    assert says in str(done.exception)


def test_a_card_says_what_the_run_learned_from(made: Made) -> None:
    run = robust.Run.open(made.source)
    said = card.about_data(run)
    assert "Data: Far; Drawn slices. Licences: CC BY-SA 3.0; CC0." in said
    assert "80 slices in " in said
    assert "groups; beside them 12 of which only `tumor` is known" in said
    rows = card.by_source(run).splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| br35h", "| cheng", "| far", "| other"]
    assert rows[0].endswith("| – | none |"), "learned from, not tested on"
    assert rows[2].endswith("| 24 |")
    limits = card.limits(run, robust.predictions_of(run))
    assert "`cheng`, `other` gives tumours only, `br35h`, `far` none." in limits
    assert "patient" not in limits


def test_a_card_takes_the_tables_of_its_own_recipe(
    made: Made, result: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "robust.json").write_text(json.dumps(result))
    run = robust.Run.open(made.source)
    assert robust.as_markdown(result) in card.robustness(run, tmp_path)
    result = result | {"recipe": result["recipe"] | {"model": "svm"}}
    (tmp_path / "robust.json").write_text(json.dumps(result))
    for folder in (tmp_path, tmp_path / "none"):
        assert card.robustness(run, folder) == "Not measured for this recipe.\n"


def test_the_card_of_a_former_network() -> None:
    run = robust.Run.open(Path(__file__).with_name("former") / "network")
    text = card.describe(read_model(None), run, "Not measured for this recipe.\n")
    assert "No card of the data says what it is." in text
    assert "{" not in text


def test_other_benchmarks_take_runs_of_several_data(made: Made, tmp_path: Path) -> None:
    command = honest.command_of(robust.Run.open(made.folds))
    assert command.startswith("btc-train DATA DATA --model knn")
    model = bundled_model()
    words = (model, made.source, *made.data, "--count", 10, "--out", tmp_path)
    assert call(ood.main, *words).exit_code == 0
    assert json.loads((tmp_path / "ood.json").read_text("utf-8"))["count"] == 10
    done = call(ood.main, model, made.source, made.data[0], "--count", 10, "--out", tmp_path)
    assert isinstance(done.exception, DataError)

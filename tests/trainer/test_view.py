"""Planes and sequences: from tables and cards to a head, and to what a device does not answer."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import Classifier
from edge_runtime.decision.view import LONGEST, Seen, View
from edge_runtime.errors import DataError, ModelError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.studies.sequences import CONTRAST, SEQUENCES
from trainer.commands.evaluate import evaluate_command
from trainer.commands.train import train_command
from trainer.data.card import Source, find_card, source_views
from trainer.data.collection import Collection
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.split import Split
from trainer.data.views import SourceView, normalise_plane, normalise_sequence
from trainer.evaluation.decision_rule import (
    DecisionRule,
    SideOutputs,
    fit_decision_rule,
)
from trainer.evaluation.selective import Targets
from trainer.evaluation.view import (
    LEAST_GROUPS,
    LEAST_SLICES,
    VALIDATED_GROUPS,
    VALIDATED_SLICES,
    fit_view,
    not_validated,
    validated_view,
)
from trainer.finalize import CALIBRATION_IMAGES, EACH_VIEW, _for_calibration, _keep_slices
from trainer.models.outputs import ModelOutputs
from trainer.run import Images, Run
from trainer.synthetic.phantoms import CLASSES, draw_phantom

SIZE = 16
NAMES = ("glioma", "notumor")
OPTIONS = Preprocess(size=SIZE, crop="none", window=None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("axial", "axial"), (" Axial ", "axial"), ("AX", "axial"), ("transverse", "axial"),
     ("cor", "coronal"), ("Sagittal", "sagittal"), ("oblique", "oblique"), ("", ""),
     ("unknown", ""), ("N/A", ""), ("-", "")],
)  # fmt: skip
def test_planes_have_one_spelling(written: str, meant: str) -> None:
    assert normalise_plane(written) == meant
    assert normalise_plane(meant) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [("T1", "T1"), ("T1W", "T1"), ("t1w", "T1"), ("T2W", "T2"), ("T2-FLAIR", "FLAIR"),
     ("flair", "FLAIR"), ("T1 contrast", CONTRAST), ("T1 with contrast", CONTRAST),
     ("T1ce", CONTRAST), ("T1+C", CONTRAST), ("T1 without contrast", "T1"),
     ("perfusion of ours", "perfusion of ours"), (" ", ""), ("none", ""), ("?", "")],
)  # fmt: skip
def test_sequences_have_one_spelling(written: str, meant: str) -> None:
    assert normalise_sequence(written) == meant
    assert normalise_sequence(meant) == meant


def test_the_words_of_btc_data_stay() -> None:
    assert [normalise_sequence(name) for name in SEQUENCES] == list(SEQUENCES)


def write_slices(folder: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Path:
    """A folder of drawn slices, with a table of groups that has these columns."""
    for i, row in enumerate(rows):
        path = folder / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw_phantom(row["label"], np.random.default_rng([5, i])))
    with (folder / "groups.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "group", *columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def drawn(n: int, **columns: list[str]) -> list[dict[str, str]]:
    rows = []
    for i in range(n):
        label = "glioma" if i % 2 else "notumor"
        row = {"path": f"{label}/{i}.png", "label": label, "group": f"g{i}"}
        rows.append(row | {name: cells[i % len(cells)] for name, cells in columns.items()})
    return rows


def test_a_table_says_how_slices_were_taken(tmp_path: Path) -> None:
    rows = drawn(6, plane=["ax", "COR", ""], sequence=["T1W", "flair", "x" * (LONGEST + 1)])
    write_slices(tmp_path, rows, ("plane", "sequence"))
    data = read_dataset(tmp_path, OPTIONS, groups_csv=tmp_path / "groups.csv")
    by_path = dict(zip(data.paths, zip(data.planes, data.sequences, strict=True), strict=True))
    assert by_path["notumor/0.png"] == ("axial", "T1")
    assert by_path["glioma/1.png"] == ("coronal", "FLAIR")
    assert by_path["notumor/2.png"] == ("", "")
    (told,) = (words for words in data.warnings if "sequence" in words)
    assert "2 slices have a sequence that is longer than 40 characters" in told
    two = data.take([4, 0])
    assert (two.planes, two.sequences) == (
        (data.planes[4], data.planes[0]), (data.sequences[4], data.sequences[0])
    )  # fmt: skip
    bare = read_dataset(tmp_path, OPTIONS)
    assert (set(bare.planes), set(bare.sequences)) == ({""}, {""})


def test_a_card_speaks_of_a_source_whose_table_says_nothing(tmp_path: Path) -> None:
    rows = drawn(6, source=["here", "there", ""], sequence=["", "", "T2"])
    write_slices(tmp_path, rows, ("source", "sequence"))
    table = tmp_path / "groups.csv"
    views = (SourceView("here", "axial", "t1 with contrast"), SourceView("", "", "FLAIR"))
    data = read_dataset((Collection(tmp_path, views=views),), OPTIONS, groups_csv=table)
    found = set(zip(data.sources, data.planes, data.sequences, strict=True))
    assert found == {("here", "axial", CONTRAST), ("there", "", ""), ("", "", "T2")}


def test_a_source_in_parts_says_what_they_say_together() -> None:
    one = Source("cheng", sequence="T1 contrast", plane="axial")
    assert source_views([one]) == (
        SourceView("cheng", "axial", "T1 contrast"), SourceView("", "axial", "T1 contrast")
    )  # fmt: skip
    parts = [one, replace(one, plane="coronal"), Source("other")]
    assert source_views(parts) == (SourceView("cheng", "", "T1 contrast"),)
    assert source_views([one, replace(one, sequence="T2", plane="")]) == ()
    assert source_views([Source("other")]) == ()


def test_the_card_is_read_by_the_command(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "data", drawn(4), ())
    (folder / "data.toml").write_text(
        'groups = "groups.csv"\n[[sources]]\nname = "cheng"\nsequence = "T1c"\nplane = "axial"\n'
    )
    card = find_card(folder)
    assert card is not None
    assert (card.sources[0].sequence, card.sources[0].plane) == ("T1c", "axial")
    from trainer.commands.options import with_cards

    named = with_cards([folder], {"no_card": False, "groups": None}, ("groups",))
    data = read_dataset(named.data, OPTIONS, groups_csv=named.options["groups"])
    assert set(zip(data.planes, data.sequences, strict=True)) == {("axial", CONTRAST)}
    (folder / "data.toml").write_text('[[sources]]\nname = "cheng"\nsequence = 3\n')
    with pytest.raises(DataError, match="sequence"):
        find_card(folder)


# From here on a slice is a vector: its pixels' first column, over 255, is all that a model sees.
def images(n: int, seed: int, **known: Any) -> Images:
    """Slices of sequences a, b, c in turn, which the features tell, with noise."""
    rng = np.random.default_rng(seed)
    values = np.array(list("abc"))[np.arange(n) % 3]
    pixels = rng.integers(0, 60, (n, SIZE, SIZE), np.uint8)
    for place, value in enumerate("abc"):
        pixels[values == value, place, 0] += 150
    labels = np.arange(n) % 2
    groups = tuple(f"{seed}-{i // 2}" for i in range(n))
    blank = ("",) * n
    return replace(Images(pixels, labels, groups, blank, blank, tuple(map(str, values))), **known)


def predict(pixels: np.ndarray) -> ModelOutputs:
    features = pixels[:, :, 0].astype(np.float32) / 255
    return ModelOutputs(np.tile(np.float32([3, 0]), (len(pixels), 1)), features)


def test_the_head_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    taken = images(90, 1)
    for values in (taken.sequences, tuple(v if v != "c" else "a" for v in taken.sequences)):
        view = fit_view(predict, replace(taken, sequences=values))
        assert view is not None
        assert view.plane is None
        assert view.sequence is not None
        features = predict(taken.pixels).features
        scaler = StandardScaler().fit(features.astype(np.float64))
        model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
        model.fit(scaler.transform(features), values)
        new = predict(images(30, 2).pixels).features
        assert view.sequence.labels == tuple(model.classes_)
        np.testing.assert_allclose(
            view.sequence.probabilities(new), model.predict_proba(scaler.transform(new)), atol=1e-5
        )


@settings(max_examples=10, deadline=None)
@given(st.permutations("abc"))
def test_the_names_of_values_say_nothing(names: list[str]) -> None:
    new = dict(zip("abc", names, strict=True))
    taken = images(90, 1)
    one = fit_view(predict, taken)
    other = fit_view(predict, replace(taken, sequences=tuple(new[v] for v in taken.sequences)))
    assert one is not None
    assert other is not None
    for features in predict(images(20, 3).pixels).features:
        seen = one.look(features).sequence
        assert other.look(features).sequence == (None if seen is None else new[seen])


def test_what_cannot_be_learned_gives_no_head() -> None:
    taken = images(90, 1)
    n = len(taken.labels)
    assert fit_view(predict, replace(taken, sequences=("",) * n)) is None
    assert fit_view(predict, replace(taken, sequences=("T1",) * n)) is None
    rare = tuple("T1" if i >= LEAST_SLICES - 1 else "T2" for i in range(n))
    assert fit_view(predict, replace(taken, sequences=rare)) is None
    enough = tuple("T1" if i >= LEAST_SLICES else "T2" for i in range(n))
    assert fit_view(predict, replace(taken, sequences=enough)) is not None
    of_one = tuple("x" if value == "T2" else f"g{i}" for i, value in enumerate(enough))
    assert len(set(of_one[:LEAST_SLICES])) < LEAST_GROUPS
    assert fit_view(predict, replace(taken, sequences=enough, groups=of_one)) is None
    names = tuple(f"v{i % 45}" for i in range(45 * LEAST_SLICES))
    many = images(len(names), 1, sequences=names)
    assert fit_view(predict, many) is None, "names of something else"
    assert fit_view(lambda pixels: ModelOutputs(np.zeros((len(pixels), 2))), taken) is None


def test_slices_of_no_known_sequence_are_not_learned_from() -> None:
    taken = images(120, 1)
    blank = tuple("" if i % 5 == 0 else value for i, value in enumerate(taken.sequences))
    kept = [i for i in range(120) if blank[i]]
    part = Images(
        taken.pixels[kept], taken.labels[kept], *(
            tuple(getattr(taken, name)[i] for i in kept)
            for name in ("groups", "sources", "planes", "sequences")
        )
    )  # fmt: skip
    one, other = fit_view(predict, replace(taken, sequences=blank)), fit_view(predict, part)
    assert one is not None
    assert other is not None
    assert one.to_json() == other.to_json()


@pytest.mark.parametrize(
    ("slices", "groups", "fine"),
    [(VALIDATED_SLICES, VALIDATED_GROUPS, True), (VALIDATED_SLICES - 1, VALIDATED_GROUPS, False),
     (400, VALIDATED_GROUPS - 1, False)],
)  # fmt: skip
def test_validated_is_what_is_known_of_enough_groups(slices: int, groups: int, fine: bool) -> None:
    view = fit_view(predict, images(90, 1))
    assert view is not None
    names = [f"g{i % groups}" for i in range(slices)] + [f"h{i}" for i in range(400)]
    sequences = ["a"] * slices + ["b"] * 200 + [""] * 200
    found = validated_view(view, names, [""] * len(names), sequences)
    assert found.sequence is not None
    assert found.sequence.validated == (("a", "b") if fine else ("b",))
    lines = not_validated(found)
    assert len(lines) == 2 - fine
    assert any(line.startswith("slices that look like c: not answered") for line in lines)
    assert not_validated(None) == []


def rule(seed: int = 2) -> tuple[DecisionRule, SideOutputs]:
    """Of a validation side where nobody knows of c, and its rule."""
    side = images(240, seed)
    known = ["" if sequence == "c" else sequence for sequence in side.sequences]
    validation = SideOutputs(predict(side.pixels), side.labels, side.groups, side.planes, known)
    fitted = fit_decision_rule(predict, images(120, 1), validation, NAMES, OPTIONS, Targets())
    return fitted, validation


def test_the_rule_withholds_what_was_not_validated() -> None:
    fitted, validation = rule()
    assert fitted.view is not None
    assert fitted.view.sequence is not None
    assert fitted.view.sequence.validated == ("a", "b")
    told = fitted.refusals()
    assert any(line.startswith("slices that look like c: not answered") for line in told)
    again = DecisionRule.from_settings(json.loads(json.dumps(fitted.to_settings())))
    open_rule = replace(again, thresholds={})
    seen = open_rule.seen(validation.outputs)
    statuses = open_rule.statuses(validation.outputs, NAMES)
    assert {"ok", "uncertain"} <= set(statuses)
    for what, status in zip(seen, statuses, strict=True):
        if status != "unfamiliar":
            assert (status == "uncertain") == (what.sequence == "c")
        else:
            assert what == Seen()
    bare = replace(open_rule, view=None)
    assert "uncertain" not in bare.statuses(validation.outputs, NAMES)
    # What is withheld is not among the slices that thresholds are chosen on.
    answered = sum(status == "ok" for status in statuses)
    assert sum(each.slices for each in fitted.chosen.values()) == answered
    with pytest.raises(ModelError, match="features"):
        open_rule.statuses(ModelOutputs(validation.outputs.logits), NAMES)


def fake(n: int, planes: tuple[str, ...], sequences: tuple[str, ...]) -> Dataset:
    blank = ("",) * n
    return Dataset(
        images=np.zeros((n, SIZE, SIZE), np.uint8), labels=np.zeros(n, np.int64),
        class_names=NAMES, paths=tuple(map(str, range(n))), splits=blank, groups=blank,
        given_groups=blank, sources=blank, patients=blank, planes=planes, sequences=sequences,
        problems=(), sha256="", thumbnails=np.zeros((n, 32, 32), np.uint8),
        file_statistics=np.zeros((n, 10), np.float32), crop_boxes=np.zeros((n, 4), np.float32),
        boxes=np.full((n, 4), np.nan),
    )  # fmt: skip


def test_a_run_keeps_enough_of_each_view(tmp_path: Path) -> None:
    n = 6 * CALIBRATION_IMAGES
    rare = tuple("FLAIR" if i % 60 == 0 else "" for i in range(n))
    data = fake(n, ("",) * n, rare)
    shuffled = np.random.default_rng(1).permutation(n)
    chosen = _for_calibration(data, shuffled)
    assert chosen[:CALIBRATION_IMAGES] == shuffled[:CALIBRATION_IMAGES].tolist()
    assert len(set(chosen)) == len(chosen)
    assert sum(rare[i] == "FLAIR" for i in chosen) == EACH_VIEW
    assert all(rare[i] for i in chosen[CALIBRATION_IMAGES:])
    blank = fake(n, ("",) * n, ("",) * n)
    assert _for_calibration(blank, shuffled) == shuffled[:CALIBRATION_IMAGES].tolist()

    small = data.take(range(100))
    run = Run(tmp_path, {"seed": 1, "preprocess": OPTIONS.to_json()})
    none = np.array([], np.int64)
    _keep_slices(run, small, Split("grouped", np.arange(80), np.arange(80, 100), none))
    kept = run.calibration_images()
    assert sorted(kept.sequences) == sorted(small.sequences[:80])
    with np.load(tmp_path / "calibration.npz") as file:
        former = {name: file[name] for name in ("pixels", "labels", "groups", "sources")}
    np.savez_compressed(tmp_path / "calibration.npz", **former)
    old = run.calibration_images()
    assert (old.planes, old.sequences) == (("",) * 80, ("",) * 80)
    np.testing.assert_array_equal(old.pixels, kept.pixels)


def toned(gray: np.ndarray, power: float) -> np.ndarray:
    """Another sequence: other levels for the same tissue."""
    return np.asarray(255 * (gray / 255) ** power, np.uint8)


@pytest.mark.slow
def test_from_a_table_to_an_answer_that_is_withheld(tmp_path: Path) -> None:
    """btc-train, btc-evaluate, btc-export and btc-edge on few slices: nothing is validated."""
    lines = ["path,group,sequence"]
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for i in range(96):
            label, t2 = CLASSES[i % 4], i // 4 % 2
            gray = draw_phantom(label, np.random.default_rng([3, i]))
            name = f"{'Testing' if i >= 80 else 'Training'}/{label}/{i}.png"
            archive.writestr(name, cv2.imencode(".png", toned(gray, 2.5 - 2.1 * t2))[1].tobytes())
            lines.append(f"{name},g{i},{'T2W' if t2 else 'T1W'}")
    (tmp_path / "groups.csv").write_text("\n".join([*lines, ""]))
    out = tmp_path / "run"
    words = [tmp_path / "data.zip", "--groups", tmp_path / "groups.csv", "--out", out, "--size",
             "32", "--model", "logistic", "--features", "histogram", "--no-cache"]  # fmt: skip
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "slices that look like T2: not answered: the validation side has fewer" in done.output
    told = json.loads((out / "run.json").read_text("utf-8"))
    assert told["view"]["plane"] is None
    assert (told["view"]["sequence"]["labels"], told["view"]["sequence"]["validated"]) == (
        ["T1", "T2"], []
    )  # fmt: skip
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sure = [row for row in rows if row["seen_sequence"]]
    assert len(sure) > len(rows) / 2
    assert all(row["status"] != "ok" for row in sure)
    right = sum(row["seen_sequence"] == row["sequence"] for row in sure)
    assert right >= 0.9 * len(sure)

    tool = Path(sys.executable).parent
    again = subprocess.run([tool / "btc-export", out, "--onnx"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    (model,) = (out / "export").glob("*.onnx")
    classifier = Classifier(model)
    assert classifier.info.schema == 3
    View.from_json(classifier.info.view or {})
    evaluated = CliRunner().invoke(
        evaluate_command, [str(word) for word in (model, *words[:3], "--out", tmp_path / "again")]
    )
    assert evaluated.exit_code == 0, evaluated.output
    with (tmp_path / "again" / "predictions.csv").open(newline="") as file:
        by_path = {row["path"]: row for row in csv.DictReader(file)}
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        for path, row in by_path.items():
            answer = classifier.classify(archive.read(path))
            assert answer.status.value == row["status"]
            assert (answer.sequence or "") == row["seen_sequence"]
            if answer.sequence:
                assert "which the model was not validated for" in (answer.reason or "")

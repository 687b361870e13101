"""report.html: every figure on the page against scikit-learn, names that could break a page, and
the page in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.utils import resample

from benchmarks import card
from benchmarks.common.formatting import metric_in_words, rate_in_words
from edge_runtime.errors import DataError
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.preprocess import Preprocess, preprocess, steps_in_words
from edge_runtime.model.metadata import INTENDED_USE
from tests.test_schemas import problems
from tests.trainer.test_dataset import fake_dataset
from trainer.data.dataset import read_dataset
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.examples import (
    BEFORE,
    Examples,
    choose_examples,
    pool_examples,
    take_examples,
    whole_pictures,
)
from trainer.evaluation.predictions import (
    Predictions,
    make_predictions,
    metrics_of,
    pool,
    read_predictions,
)
from trainer.models.outputs import ModelOutputs
from trainer.report.html import ReportData, summary_lines, write_report

NAMES = ("Ödem & co", "<b>mass", "healthy (all)")
N = 240


def example(seed: int = 0) -> Predictions:
    """A test side of which everything is known, boxes and statuses too."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(40, size=N))
    labels = (groups + (rng.random(N) < 0.1)) % 3
    data = replace(
        fake_dataset(groups.tolist(), labels.tolist()),
        class_names=NAMES,
        paths=tuple(f"Testing/{NAMES[c]}/<i>slice [{i}] é.png" for i, c in enumerate(labels)),
        sources=tuple(f"source {g % 2}" if g % 5 else "" for g in groups),
        patients=tuple(f"P{g // 2}" if g % 3 else "" for g in groups),
    )
    probabilities = rng.dirichlet(np.ones(3) * 0.5, N) * 0.5 + 0.5 * np.eye(3)[labels]
    wrong = rng.random(N) < 0.15
    probabilities[wrong] = np.roll(probabilities[wrong], 1, axis=1)
    extras = {
        "status": rng.choice(["ok", "uncertain", "unfamiliar"], N, p=[0.8, 0.15, 0.05]),
        "near_duplicate": (rng.random(N) < 0.4).astype(int),
        "seen_group": (groups < 30).astype(int),
        "nearest_neighbour": [NAMES[i] for i in rng.integers(3, size=N)],
        "low_level": [NAMES[i] for i in rng.integers(3, size=N)],
        "pointing_hit": np.where(labels == 1, (rng.random(N) < 0.6).astype(float), np.nan),
        "box_share": np.where(labels == 1, rng.uniform(0, 0.3, N), np.nan),
    }
    return make_predictions(data, probabilities, "grouped", "test", extras)


PREPROCESS = Preprocess(16, denoise="non-local-means", contrast="clahe")
SETTINGS: dict[str, Any] = {
    "name": "brain-mri", "model": "cnn", "network": "edge", "max_error": 0.02,
    "heatmap": "class_maps", "source_commit": None, "preprocess": PREPROCESS.to_json(),
    "thresholds": {NAMES[1]: 0.5}, "unfamiliar": {"whiten": "x" * 1000},
    "data": {"images": 1000, "groups": 200, "unreadable": 1, "test": N,
             "test_with_near_duplicate": 90, "left_out": 2, "sha256": "0" * 64,
             "classes": {n: {"training": 9, "validation": 9, "test": 9} for n in NAMES}},
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    predictions = example()
    predictions.write(folder / "predictions.csv")
    rows = choose_examples(
        predictions.labels, predictions.predicted, predictions.numbers("confidence"),
        predictions.texts("group"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    boxes = np.tile([0.2, 0.3, 0.5, 0.6], (len(rows), 1))
    boxes[::2] = np.nan
    examples = Examples(
        rows,
        rng.integers(0, 256, (len(rows), 128, 128), dtype=np.uint8),
        rng.normal(size=(len(rows), 8, 8)).astype(np.float32),
        boxes,
        rng.integers(1, 256, (len(rows), BEFORE, BEFORE), dtype=np.uint8),
    )
    history = [
        {"epoch": e, "loss": 1 / e, "val_loss": 1.1 / e, "accuracy": 0.5, "val_accuracy": 0.4}
        for e in range(1, 9)
    ]
    metrics = metrics_of(predictions)
    write_report(ReportData(folder, SETTINGS, [history], predictions, metrics, examples))
    return folder / "report.html"


def test_a_side_of_one_class_says_what_it_cannot_tell(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    whole = example()
    one = whole.take(whole.table["label"] == NAMES[2], "source:far")
    one.table["source"] = "far"
    metrics = metrics_of(one)
    known = {name for name, figures in metrics["per_class"].items() if figures["n"]}
    assert known == {NAMES[2]}
    assert metrics["kappa"] is metrics["interval95"]["kappa"] is None
    assert all(each["kappa"] is None for each in metrics["baselines"].values())
    figures = metrics["per_class"][NAMES[2]]
    for key in ("precision", "f1", "specificity", "auc", "average_precision"):
        assert figures[key] is figures["interval95"].get(key) is None, key
    assert figures["recall"] == metrics["accuracy"] == metrics["balanced_accuracy"]
    other = metrics["per_class"][NAMES[0]]
    assert other["recall"] is None
    assert 0 < other["specificity"] < 1, "how often it is said of what it is not"
    far = metrics["per_source"]["far"]
    for column, answered in (("predicted", np.ones(len(one.table), bool)),
                             ("answered", one.table["status"] == "ok")):  # fmt: skip
        for name in NAMES:
            share = ((one.table["predicted"] == name) & answered).mean()
            assert far[column][name]["share"] == pytest.approx(share)
    assert far["recall"][NAMES[2]]["share"] == far["predicted"][NAMES[2]]["share"]
    assert far["coverage"]["share"] == metrics["selective"]["coverage"]["share"]
    assert far["error"]["share"] == metrics["selective"]["error"]["share"]
    assert problems("metrics", metrics | {"partial": None, "importance": None}) == []
    empty = Examples(
        np.zeros(0, np.int64), np.zeros((0, 16, 16), np.uint8), np.zeros((0, 1, 1), np.float32),
        np.zeros((0, 4)), np.zeros((0, BEFORE, BEFORE), np.uint8),
    )  # fmt: skip
    write_report(ReportData(tmp_path, SETTINGS, [], one, metrics, empty))
    words = " ".join(Figures((tmp_path / "report.html").read_text("utf-8")).words.split())
    said = " ".join(summary_lines(metrics))
    for text in (words, said):
        assert f"All of them are {NAMES[2]}: accuracy is the share that is recognised" in text
        assert "baseline:" not in text.lower().split("on the same slices")[0]
    assert "Ranking" not in words, "one class has no ROC curve"
    assert not recwarn.list, "nothing of this is for a user's stderr"


class Figures(HTMLParser):
    """Collects the page's figures, its text and everything that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, tuple[float, str]] = {}
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self._open: tuple[str, float] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.add(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset") and v]
        if tag == "data":
            self._open = str(named["data-key"]), float(str(named["value"]))

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open is not None:
            key, value = self._open
            self.found[key] = value, data
            self._open = None


def recompute(table: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """The figures of a predictions table by scikit-learn and pandas alone."""
    probabilities = table[[f"p_{n}" for n in NAMES]].to_numpy()
    labels = table["label"].map(NAMES.index).to_numpy()
    predicted = probabilities.argmax(axis=1)
    values = {
        "n": len(table),
        "groups": table["group"].nunique(),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "kappa": sk.cohen_kappa_score(labels, predicted),
        "log_loss": sk.log_loss(labels, probabilities, labels=[0, 1, 2]),
        "brier": np.mean([3 * sk.mean_squared_error(np.eye(3)[t], s)
                          for t, s in zip(labels, probabilities, strict=True)]),
    }  # fmt: skip
    confidence, right = probabilities.max(axis=1), predicted == labels
    true, sure = calibration_curve(right, confidence, n_bins=15)
    counts, _ = np.histogram(confidence, np.linspace(0, 1, 16))
    values["ece"] = (np.abs(true - sure) * counts[counts > 0]).sum() / len(table)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, predicted)
    for c, name in enumerate(NAMES):
        one = f"per_class/{name}/"
        values |= {
            one + "precision": precision[c],
            one + "recall": recall[c],
            one + "f1": f1[c],
            one + "n": support[c],
            one + "specificity": sk.recall_score(labels != c, predicted != c),
            one + "auc": sk.roc_auc_score(labels == c, probabilities[:, c]),
            one + "average_precision": sk.average_precision_score(labels == c, probabilities[:, c]),
        }
    return {prefix + key: float(value) for key, value in values.items()}


def recompute_all(table: pd.DataFrame) -> dict[str, float]:
    values = recompute(table)
    for part, column in (
        ("without_near_duplicates/", "near_duplicate"),
        ("without_shared_groups/", "seen_group"),
    ):
        values |= recompute(table[table[column] == 0], part)
    for prefix, rows in (
        ("baselines/", table),
        ("without_near_duplicates/baselines/", table[table["near_duplicate"] == 0]),
        ("without_shared_groups/baselines/", table[table["seen_group"] == 0]),
    ):
        for baseline in ("nearest_neighbour", "low_level"):
            calls = rows[baseline]
            values |= {
                f"{prefix}{baseline}/n": len(rows),
                f"{prefix}{baseline}/accuracy": sk.accuracy_score(rows["label"], calls),
                f"{prefix}{baseline}/balanced_accuracy": sk.balanced_accuracy_score(
                    rows["label"], calls
                ),
                f"{prefix}{baseline}/kappa": sk.cohen_kappa_score(rows["label"], calls),
            }
    studies = table[table["patient"] != ""].copy()
    columns = [f"p_{n}" for n in NAMES]
    studies[columns] = np.log(studies[columns])
    logs = studies.groupby(["patient", "label"])
    means = np.exp(logs[columns].mean())
    means = means.div(means.sum(axis=1), axis=0).reset_index()
    means["group"] = logs["group"].first().to_numpy()
    values |= recompute(means, "per_study/")
    table = table.assign(source=table["source"].replace("", "unknown"))
    for source, rows in table.groupby("source"):
        right = rows["label"] == rows["predicted"]
        values[f"per_source/{source}/accuracy"] = right.mean()
        values[f"per_source/{source}/n"] = len(rows)
        for name in NAMES:
            if (rows["label"] == name).any():
                hit = right[rows["label"] == name]
                values[f"per_source/{source}/recall/{name}/share"] = hit.mean()
            called, given = rows["predicted"] == name, rows["status"] == "ok"
            values[f"per_source/{source}/predicted/{name}/share"] = called.mean()
            values[f"per_source/{source}/answered/{name}/share"] = (called & given).mean()
        values[f"per_source/{source}/coverage/share"] = given.mean()
        values[f"per_source/{source}/error/share"] = (~right)[given].mean()
    answered = table["status"] == "ok"
    boxed = table[table["box_share"].notna()]
    for name, calls in table.groupby("predicted"):
        given = calls[calls["status"] == "ok"]
        values |= {
            f"selective/per_class/{name}/coverage/n": len(calls),
            f"selective/per_class/{name}/coverage/share": len(given) / len(calls),
            f"selective/per_class/{name}/error/share": (given["label"] != name).mean(),
        }
    return values | {
        "selective/coverage/share": answered.mean(),
        "selective/error/share": (table["label"] != table["predicted"])[answered].mean(),
        "unfamiliar/share": (table["status"] == "unfamiliar").mean(),
        "heatmap/share": boxed["pointing_hit"].mean(),
        "heatmap/chance": boxed["box_share"].mean(),
        "heatmap/n": len(boxed),
    }


def test_every_figure_is_that_of_scikit_learn(page: Path) -> None:
    table = pd.read_csv(page.parent / "predictions.csv", keep_default_na=False,
                        na_values={"pointing_hit": [""], "box_share": [""]})  # fmt: skip
    expected = recompute_all(table)
    found = Figures(page.read_text("utf-8")).found
    points = {key: value for key, value in found.items() if "interval95" not in key}
    assert len(points) > 90
    for key, (value, text) in points.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key
        shown = float(text) / (1 if "." not in text or len(text.split(".")[1]) == 3 else 100)
        assert shown == pytest.approx(value, abs=0.00051), key
    # An interval stands about its figure, and that of the accuracy is near a plain loop's.
    for key, (low, _) in found.items():
        if key.endswith("interval95") or not key.endswith("/0"):
            continue
        high = found[key[:-1] + "1"][0]
        head, _, tail = key[:-2].rpartition("interval95")
        point = head + tail.removeprefix("/") if tail else head + "share"
        assert low - 1e-9 <= expected[point] <= high + 1e-9, key
    groups = table["group"].unique().tolist()
    means = []
    for seed in range(400):
        drawn = resample(groups, random_state=seed)
        rows = pd.concat([table[table["group"] == g] for g in drawn])
        means.append((rows["label"] == rows["predicted"]).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    # A bootstrap of few groups is a little narrow.
    assert low - 0.05 < found["interval95/accuracy/0"][0] < low + 0.005
    assert high - 0.005 < found["interval95/accuracy/1"][0] < high + 0.05


def test_the_page_needs_no_network_and_names_are_text(page: Path) -> None:
    parsed = Figures(page.read_text("utf-8"))
    assert all(place.startswith("data:image/") for place in parsed.loads)
    assert not {"script", "link", "iframe", "i"} & parsed.tags
    assert "url(" not in page.read_text("utf-8")
    for words in (*NAMES, INTENDED_USE, "<i>slice [", "Errors, the most"):
        assert words in parsed.words, words
    assert "xxxx" not in parsed.words, "the check's parameters are no reading"
    assert "90 of 240 test slices" in " ".join(parsed.words.split())


def examples_of(predictions: Predictions) -> Examples:
    """Examples, all different, without heatmaps, boxes and whole slices."""
    rows = choose_examples(
        predictions.labels, predictions.predicted, predictions.numbers("confidence"),
        predictions.texts("group"),
    )  # fmt: skip
    k = len(rows)
    pixels = np.random.default_rng(2).integers(0, 256, (k, 24, 24), dtype=np.uint8)
    return Examples(rows, pixels, np.zeros((k, 1, 1), np.float32), np.full((k, 4), np.nan),
                   whole_pictures([None] * k))  # fmt: skip


def test_each_case_shows_the_file_the_input_and_the_heatmap(page: Path) -> None:
    text = page.read_text("utf-8")
    cases = text.count('alt="heatmap of the class predicted"')
    assert cases >= 12
    assert text.count('alt="slice as its file has it"') == cases + len(NAMES)
    assert text.count('alt="slice as the model sees it"') == cases + len(NAMES)
    parsed = " ".join(Figures(text).words.split())
    assert "Where it looks" in parsed
    for step in steps_in_words(PREPROCESS):
        assert step in parsed
    assert parsed.index("cut to the box") < parsed.index("16x16") < parsed.index("non-local means")


def test_what_is_not_known_is_not_shown(tmp_path: Path) -> None:
    predictions = example()
    examples = examples_of(predictions)
    write_report(ReportData(tmp_path, SETTINGS, [], predictions, metrics_of(predictions), examples))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert 'alt="heatmap' not in text
    assert 'alt="slice as its file' not in text
    assert text.count('alt="slice as the model sees it"') == len(examples.rows)
    assert "Where it looks" not in text
    # One slice whose file is at hand: before and after in its case, and as its class's example.
    examples.before[-1, 40:80, 40:80] = 200
    write_report(ReportData(tmp_path, SETTINGS, [], predictions, metrics_of(predictions), examples))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count('alt="slice as its file has it"') == 2
    assert text.count('alt="slice as the model sees it"') == len(examples.rows) + 1


def test_a_box_shows_without_a_heatmap(tmp_path: Path) -> None:
    predictions = example()
    pages = []
    for box in (np.nan, 0.2):
        examples = examples_of(predictions)
        examples.boxes[:] = [box, box, box + 0.3, box + 0.3]
        metrics = metrics_of(predictions)
        write_report(ReportData(tmp_path, SETTINGS, [], predictions, metrics, examples))
        pages.append(set(Figures((tmp_path / "report.html").read_text("utf-8")).loads))
    assert len(pages[0] - pages[1]) == len(examples.rows)


def test_whole_pictures_fit_a_square() -> None:
    wide, tall = np.full((100, 400), 90, np.uint8), np.full((64, 16), 70, np.uint8)
    thin = np.full((1, 1000), 50, np.uint8)
    pictures = whole_pictures([wide, None, tall, thin])
    assert pictures.shape == (4, BEFORE, BEFORE)
    assert pictures.dtype == np.uint8
    assert (pictures[0, 48:80] == 90).all()
    assert pictures[0].astype(int).sum() == 90 * 32 * BEFORE
    assert not pictures[1].any()
    assert (pictures[2, :, 48:80] == 70).all()
    assert np.count_nonzero(pictures[2]) == BEFORE * 32
    assert np.count_nonzero(pictures[3]) == BEFORE
    assert whole_pictures([]).shape == (0, BEFORE, BEFORE)


def test_measuring_keeps_the_files_pictures(phantom_zip: Path, tmp_path: Path) -> None:
    options = Preprocess(32, denoise="median", contrast="clahe")
    data = read_dataset(phantom_zip, options)
    shown = []
    for side in (data, replace(data, origin=tmp_path / "nowhere")):
        evaluator = Evaluator(looks_dark, DecisionRule(1.0, {}, None), "as given")
        shown.append(evaluator.evaluate(side, "all", None)[1])
    with zipfile.ZipFile(phantom_zip) as archive:
        files = [load_gray(archive.read(data.paths[row])) for row in shown[0].rows]
    np.testing.assert_array_equal(shown[0].before, whole_pictures(files))
    np.testing.assert_array_equal(shown[0].pixels, [preprocess(f, options) for f in files])
    assert shown[1].before.shape == shown[0].before.shape
    assert not shown[1].before.any()


def looks_dark(images: np.ndarray) -> ModelOutputs:
    """Stands for a model of four classes."""
    return ModelOutputs(
        np.outer(images.mean(axis=(1, 2)), [0.03, 0.02, -0.01, 0.0]).astype(np.float32)
    )


def test_a_gallery_survives_its_file_with_and_without_whole_slices(tmp_path: Path) -> None:
    examples, path = examples_of(example()), tmp_path / "gallery.npz"
    examples.before[:] = np.arange(len(examples.rows), dtype=np.uint8)[:, None, None]
    examples.save(path)
    again = Examples.read(path)
    for name, values in vars(examples).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    older = tmp_path / "older.npz"
    kept = {name: values for name, values in vars(examples).items() if name != "before"}
    np.savez_compressed(older, **kept)
    old = Examples.read(older)
    assert old.before.shape == examples.before.shape
    assert not old.before.any()
    pooled = pool_examples([old, examples], [N, N])
    taken = take_examples(pooled, np.array([examples.rows[3] + N, examples.rows[2]]))
    assert taken.before[0, 0, 0] == 3
    assert not taken.before[1].any()
    older.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"older\.npz"):
        Examples.read(older)


def test_a_class_without_images_shows_a_dash(tmp_path: Path) -> None:
    whole = example()
    some = whole.take((whole.labels != 2) & (whole.numbers("near_duplicate") == 0), "source:one")
    predictions = Predictions(
        some.table.drop(columns=["patient", "status"]), NAMES, "source:one", "test"
    )
    none = Examples(np.zeros(0, np.int64), np.zeros((0, 8, 8), np.uint8),
                   np.zeros((0, 8, 8), np.float32), np.zeros((0, 4)),
                   whole_pictures([]))  # fmt: skip
    metrics = metrics_of(predictions)
    assert metrics["per_class"][NAMES[2]]["recall"] is None
    assert metrics["per_study"] is None
    assert metrics["selective"] is None
    write_report(ReportData(tmp_path, SETTINGS, [], predictions, metrics, none))
    assert "–" in (tmp_path / "report.html").read_text("utf-8")
    assert not (tmp_path / "curves.png").exists()


def test_one_group_has_no_intervals_anywhere(tmp_path: Path) -> None:
    """Every reader bears it and says so: the page, the terminal, the benchmarks' tables."""
    whole = example(2)
    predictions = Predictions(whole.table.assign(group="g"), NAMES, "grouped", "test")
    none = Examples(np.zeros(0, np.int64), np.zeros((0, 8, 8), np.uint8),
                   np.zeros((0, 8, 8), np.float32), np.zeros((0, 4)),
                   whole_pictures([]))  # fmt: skip
    metrics = metrics_of(predictions) | {"partial": None}
    assert metrics["interval95"]["accuracy"] is None
    share = {"n": 3, "share": 0.0, "interval95": None}
    partial = {"n": 3, "outside": share, "outside_answered": share, "answered": share}
    lines = " ".join(summary_lines(metrics | {"partial": partial}))
    assert lines.count("not estimable") >= 4
    assert "cannot be told from so few groups" in lines
    write_report(ReportData(tmp_path, SETTINGS, [], predictions, metrics, none))
    assert "not estimable" in (tmp_path / "report.html").read_text("utf-8")
    assert "(not estimable)" in metric_in_words(metrics, "accuracy")
    for cell in (card._share, rate_in_words):
        assert "(not estimable)" in cell(metrics["unfamiliar"])


def test_a_table_with_a_hole_is_refused(tmp_path: Path) -> None:
    predictions = example(3)
    table = predictions.table.copy()
    table.loc[1, f"p_{NAMES[0]}"] = np.nan
    Predictions(table, NAMES, "grouped", "test").write(tmp_path / "p.csv")
    with pytest.raises(DataError, match="no number"):
        read_predictions(tmp_path / "p.csv", NAMES, "grouped", "test")


def test_a_written_table_gives_the_same_figures(tmp_path: Path) -> None:
    predictions = example(3)
    predictions.write(tmp_path / "p.csv")
    again = read_predictions(tmp_path / "p.csv", NAMES, "grouped", "test")
    assert metrics_of(again) == metrics_of(predictions)


def test_pooled_folds_are_one_table() -> None:
    whole = example(4)
    fold = np.arange(N) % 2 == 0
    pooled = pool([whole.take(fold, "grouped"), whole.take(~fold, "grouped")])
    one, two = metrics_of(pooled), metrics_of(whole)
    assert one["n"] == two["n"]
    assert one["confusion"] == two["confusion"]
    assert one["interval95"]["accuracy"] == pytest.approx(two["interval95"]["accuracy"])
    assert one["per_study"]["accuracy"] == pytest.approx(two["per_study"]["accuracy"])


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync")  # fmt: skip
PROBE = """<style>html { width: WIDTHpx; }</style><script>addEventListener("load", () => {
const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
const names = [...document.querySelectorAll("td:first-child")].map(c => c.clientWidth);
document.title = `broken ${broken} images ${document.images.length} wide
${document.body.scrollWidth} narrowest ${Math.min(...names)}`; });</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("window", "width"), [(1280, 1280), (500, 375)])
def test_the_page_in_a_browser(page: Path, tmp_path: Path, window: int, width: int) -> None:
    """All pictures show, nothing is wider than a desktop's or a phone's page, and no name is
    squeezed to a column of letters. (Chromium's window is 500 wide at least.)"""
    probed = tmp_path / "page.html"
    text, probe = page.read_text("utf-8"), PROBE.replace("WIDTH", str(width))
    probed.write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={window},900", "--virtual-time-budget=5000", "--dump-dom",
         probed.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.S)
    assert title, done.stderr[-2000:]
    broken, images, wide, narrowest = map(int, re.findall(r"\d+", title[1]))
    assert broken == 0
    assert images > 20
    assert wide <= width
    assert narrowest > 80

"""report.html: every figure on the page against scikit-learn, names that could break a page, and
the page in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.utils import resample

from tests.trainer.test_dataset import fake_dataset
from trainer.evaluation.gallery import Gallery, choose_cases
from trainer.evaluation.outcome import Outcome, figures, make_outcome, pool, read_outcome
from trainer.evaluation.report import Material, write_report

NAMES = ("Ödem & co", "<b>mass", "healthy (all)")
N = 240


def example(seed: int = 0) -> Outcome:
    """A test side with everything known: studies, sources, twins, controls, boxes, statuses."""
    from dataclasses import replace

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
    shares = rng.dirichlet(np.ones(3) * 0.5, N) * 0.5 + 0.5 * np.eye(3)[labels]
    wrong = rng.random(N) < 0.15
    shares[wrong] = np.roll(shares[wrong], 1, axis=1)
    extras = {
        "status": rng.choice(["ok", "uncertain", "unfamiliar"], N, p=[0.8, 0.15, 0.05]),
        "twin": (rng.random(N) < 0.4).astype(int),
        "seen_group": (groups < 30).astype(int),
        "nearest_neighbour": [NAMES[i] for i in rng.integers(3, size=N)],
        "low_level": [NAMES[i] for i in rng.integers(3, size=N)],
        "heat_in_box": np.where(labels == 1, (rng.random(N) < 0.6).astype(float), np.nan),
        "box_share": np.where(labels == 1, rng.uniform(0, 0.3, N), np.nan),
    }
    return make_outcome(data, shares, "grouped", "test", extras)


SETTINGS: dict[str, Any] = {
    "name": "brain-mri", "network": "edge", "max_error": 0.02, "heatmap": "class_maps",
    "source_commit": None, "preprocess": {"size": 16}, "thresholds": {NAMES[1]: 0.5},
    "unfamiliar": {"whiten": "x" * 1000},
    "data": {"images": 1000, "groups": 200, "unreadable": 1, "test": N, "test_with_twin": 90,
             "left_out": 2, "sha256": "0" * 64,
             "classes": {n: {"training": 9, "validation": 9, "test": 9} for n in NAMES}},
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    outcome = example()
    outcome.write(folder / "predictions.csv")
    rows = choose_cases(outcome.labels, outcome.predicted, outcome.numbers("confidence"),
                        outcome.texts("group"))  # fmt: skip
    rng = np.random.default_rng(0)
    boxes = np.tile([0.2, 0.3, 0.5, 0.6], (len(rows), 1))
    boxes[::2] = np.nan
    gallery = Gallery(
        rows,
        rng.integers(0, 256, (len(rows), 128, 128), dtype=np.uint8),
        rng.normal(size=(len(rows), 8, 8)).astype(np.float32),
        boxes,
    )
    history = [
        {"epoch": e, "loss": 1 / e, "val_loss": 1.1 / e, "accuracy": 0.5, "val_accuracy": 0.4}
        for e in range(1, 9)
    ]
    write_report(Material(folder, SETTINGS, [history], outcome, figures(outcome), gallery))
    return folder / "report.html"


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
    shares = table[[f"p_{n}" for n in NAMES]].to_numpy()
    labels = table["label"].map(NAMES.index).to_numpy()
    called = shares.argmax(axis=1)
    values = {
        "n": len(table),
        "groups": table["group"].nunique(),
        "accuracy": sk.accuracy_score(labels, called),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        "kappa": sk.cohen_kappa_score(labels, called),
        "log_loss": sk.log_loss(labels, shares, labels=[0, 1, 2]),
        "brier": np.mean([3 * sk.mean_squared_error(np.eye(3)[t], s)
                          for t, s in zip(labels, shares, strict=True)]),
    }  # fmt: skip
    confidence, right = shares.max(axis=1), called == labels
    true, predicted = calibration_curve(right, confidence, n_bins=15)
    counts, _ = np.histogram(confidence, np.linspace(0, 1, 16))
    values["ece"] = (np.abs(true - predicted) * counts[counts > 0]).sum() / len(table)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, called)
    for c, name in enumerate(NAMES):
        one = f"per_class/{name}/"
        values |= {
            one + "precision": precision[c],
            one + "recall": recall[c],
            one + "f1": f1[c],
            one + "n": support[c],
            one + "specificity": sk.recall_score(labels != c, called != c),
            one + "auc": sk.roc_auc_score(labels == c, shares[:, c]),
            one + "average_precision": sk.average_precision_score(labels == c, shares[:, c]),
        }
    return {prefix + key: float(value) for key, value in values.items()}


def recompute_all(table: pd.DataFrame) -> dict[str, float]:
    values = recompute(table)
    for part, column in (("without_twins/", "twin"), ("without_shared_groups/", "seen_group")):
        values |= recompute(table[table[column] == 0], part)
    for prefix, rows in (
        ("controls/", table),
        ("without_twins/controls/", table[table["twin"] == 0]),
        ("without_shared_groups/controls/", table[table["seen_group"] == 0]),
    ):
        for control in ("nearest_neighbour", "low_level"):
            calls = rows[control]
            values |= {
                f"{prefix}{control}/n": len(rows),
                f"{prefix}{control}/accuracy": sk.accuracy_score(rows["label"], calls),
                f"{prefix}{control}/balanced_accuracy": sk.balanced_accuracy_score(
                    rows["label"], calls
                ),
                f"{prefix}{control}/kappa": sk.cohen_kappa_score(rows["label"], calls),
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
    answered = table["status"] == "ok"
    boxed = table[table["box_share"].notna()]
    return values | {
        "selective/coverage/share": answered.mean(),
        "selective/error/share": (table["label"] != table["predicted"])[answered].mean(),
        "unfamiliar/share": (table["status"] == "unfamiliar").mean(),
        "heatmap/share": boxed["heat_in_box"].mean(),
        "heatmap/chance": boxed["box_share"].mean(),
        "heatmap/n": len(boxed),
    }


def test_every_figure_is_that_of_scikit_learn(page: Path) -> None:
    table = pd.read_csv(page.parent / "predictions.csv", keep_default_na=False,
                        na_values={"heat_in_box": [""], "box_share": [""]})  # fmt: skip
    expected = recompute_all(table)
    found = Figures(page.read_text("utf-8")).found
    points = {key: value for key, value in found.items() if "interval95" not in key}
    assert len(points) > 90
    for key, (value, text) in points.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key
        shown = float(text) / (1 if "." not in text or len(text.split(".")[1]) == 3 else 100)
        assert shown == pytest.approx(value, abs=0.00051), key
    # An interval stands about its figure, and that of the accuracy is the one of a plain loop.
    for key, (low, _) in found.items():
        if key.endswith("interval95") or not key.endswith("/0"):
            continue
        high = found[key[:-1] + "1"][0]
        head, _, tail = key[:-2].rpartition("interval95")
        point = head + tail.removeprefix("/") if tail else head + "share"
        assert low - 1e-9 <= expected[point] <= high + 1e-9, key
    groups = table["group"].unique()
    means = []
    for seed in range(400):
        drawn = resample(groups, random_state=seed)
        rows = pd.concat([table[table["group"] == g] for g in drawn])
        means.append((rows["label"] == rows["predicted"]).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    assert found["interval95/accuracy/0"][0] == pytest.approx(low, abs=0.02)
    assert found["interval95/accuracy/1"][0] == pytest.approx(high, abs=0.02)


def test_the_page_needs_no_network_and_names_are_text(page: Path) -> None:
    parsed = Figures(page.read_text("utf-8"))
    assert all(place.startswith("data:image/") for place in parsed.loads)
    assert not {"script", "link", "iframe", "i"} & parsed.tags
    assert "url(" not in page.read_text("utf-8")
    for words in (*NAMES, "Research only; not for diagnosis.", "<i>slice [", "Errors, the most"):
        assert words in parsed.words, words
    assert "xxxx" not in parsed.words, "the check's parameters are no reading"
    assert "90 of 240 test slices" in " ".join(parsed.words.split())


def test_a_class_without_images_shows_a_dash(tmp_path: Path) -> None:
    whole = example()
    some = whole.take((whole.labels != 2) & (whole.numbers("twin") == 0), "source:one")
    outcome = Outcome(some.table.drop(columns=["patient", "status"]), NAMES, "source:one", "test")
    none = Gallery(np.zeros(0, np.int64), np.zeros((0, 8, 8), np.uint8),
                   np.zeros((0, 8, 8), np.float32), np.zeros((0, 4)))  # fmt: skip
    metrics = figures(outcome)
    assert metrics["per_class"][NAMES[2]]["recall"] is None
    assert metrics["per_study"] is None
    assert metrics["selective"] is None
    write_report(Material(tmp_path, SETTINGS, [], outcome, metrics, none))
    assert "–" in (tmp_path / "report.html").read_text("utf-8")
    assert not (tmp_path / "curves.png").exists()


def test_a_written_table_gives_the_same_figures(tmp_path: Path) -> None:
    outcome = example(3)
    outcome.write(tmp_path / "p.csv")
    again = read_outcome(tmp_path / "p.csv", NAMES, "grouped", "test")
    assert figures(again) == figures(outcome)


def test_pooled_folds_are_one_table() -> None:
    whole = example(4)
    fold = np.arange(N) % 2 == 0
    pooled = pool([whole.take(fold, "grouped"), whole.take(~fold, "grouped")])
    one, two = figures(pooled), figures(whole)
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

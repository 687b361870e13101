"""The benchmark of recipes: which slices it looks at, what it keeps. Nothing is trained here."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks import recipes
from edge_runtime.cluster import Done, Task
from edge_runtime.errors import BtcError, DataError, UsageError
from trainer.data.dataset import Dataset
from trainer.data.split import fold_splits
from trainer.models.outputs import ModelOutputs
from trainer.synthetic.phantoms import draw_phantom, write_phantoms

SOURCES = ("home", "away", "far")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip with its card: four classes of three sources, and untyped tumours of one of them."""
    folder = tmp_path_factory.mktemp("recipes")
    write_phantoms(folder / "slices.zip", per_class=30, testing=0, seed=3)
    with zipfile.ZipFile(folder / "slices.zip") as archive:
        names = sorted(archive.namelist())
    rows = [f"{name},g{i},{SOURCES[i % 3]}" for i, name in enumerate(names)]
    (folder / "groups.csv").write_text("\n".join(["path,group,source", *rows]) + "\n")
    with zipfile.ZipFile(folder / "untyped.zip", "w") as archive:
        for i in range(24):
            gray = draw_phantom("glioma", np.random.default_rng([8, i]))
            archive.writestr(f"tumor/{i}.png", cv2.imencode(".png", gray)[1].tobytes())
    rows = [f"tumor/{i}.png,u{i},{SOURCES[i % 3]}" for i in range(24)]
    (folder / "untyped.csv").write_text("\n".join(["path,group,source", *rows]) + "\n")
    (folder / "slices.toml").write_text(
        'groups = "groups.csv"\npartial = "untyped.zip"\npartial_groups = "untyped.csv"\n'
    )
    return folder / "slices.zip"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[recipes.Fold, Any, int]]:
    """What would be trained; the model knows tumours from none in all but one of ten slices."""
    seen: list[tuple[recipes.Fold, Any, int]] = []

    def predict(images: np.ndarray) -> ModelOutputs:
        draws = images.reshape(len(images), -1).astype(np.int64).sum(axis=1) % 10
        logits = np.zeros((len(images), 4), np.float32)
        logits[:, 2] = draws - 4.5
        return ModelOutputs(logits)

    def fit(fold: recipes.Fold, recipe: Any, epochs: int, seed: int, folder: Path) -> Any:
        seen.append((fold, recipe, seed))
        return predict

    monkeypatch.setattr(recipes, "fit", fit)
    return seen


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `--work` that is not named lies here."""
    monkeypatch.chdir(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(recipes.main, list(map(str, words)))


def both(side: recipes.Side) -> tuple[Dataset, Dataset]:
    assert side.partial is not None
    return side.typed, side.partial.slices


def test_no_fold_sees_its_test_side_or_what_is_left_out(
    data: Path, tmp_path: Path, fits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[recipes.Side] = []
    reader = recipes.read_sides
    monkeypatch.setattr(recipes, "read_sides", lambda named: read.append(reader(named)) or read[0])
    done = call(data, "--leave-out", "far", "--skip-corruptions", "--out", tmp_path)
    assert done.exit_code == 0, done.exception
    everything = read[0].typed
    splits = fold_splits(everything, recipes.FOLDS, recipes.SPLIT_SEED)
    assert len(fits) == len(splits) == 5
    for (fold, _, _), split in zip(fits, splits, strict=True):
        tested = {everything.paths[i] for i in split.test}
        learned, measured = both(fold.training), both(fold.validation)
        assert not tested & {*learned[0].paths, *measured[0].paths}
        for one, other in zip(learned, measured, strict=True):
            assert not set(one.groups) & set(other.groups)
            assert set(one.sources) | set(other.sources) == {"home", "away"}
    (row,) = json.loads((tmp_path / "recipes.json").read_text())["variants"]
    assert row["validation"] == sum(len(fold.validation.typed) for fold, _, _ in fits)
    assert row["corruptions"] == {}
    assert row["left_out"] == ["far"]


def test_figures_of_the_unseen(data: Path) -> None:
    side = recipes.read_sides(recipes.with_cards(
        (data,),
        {"no_card": False, "tumour_free": (), **dict.fromkeys(recipes.TABLES)},
        (*recipes.TABLES, "tumour_free"),
    ))  # fmt: skip
    far = recipes.of_sources(side, ["far"])
    assert (len(far.typed), len(both(far)[1])) == (40, 8)
    order = np.concatenate([np.where(far.typed.labels == 2, 0.0, 1.0), np.ones(8)])
    order[np.flatnonzero(order == 0)[:3]] = 2  # three of the tumour-free look most like a tumour

    def predict(images: np.ndarray) -> ModelOutputs:
        logits = np.zeros((len(images), 4), np.float32)
        logits[:, 2] = -(order[:40] if len(images) == 40 else order[40:])
        return ModelOutputs(logits)

    found = recipes.unseen_figures(predict, far)
    none = int((order[:40] == 0).sum())
    assert found["specificity"] == pytest.approx(none / (none + 3))
    assert found["auc"] == pytest.approx(none / (none + 3))
    assert recipes.unseen_figures(predict, recipes.of_sources(side, [])) == dict.fromkeys(
        recipes.UNSEEN
    )


def test_variants_are_kept_by_what_they_were_measured_with(
    data: Path, tmp_path: Path, fits: list[Any]
) -> None:
    words = (data, "--folds", "2,1", "--skip-corruptions", "--out", tmp_path)
    assert call(*words, "--vary", "", "--vary", "paste=0", "--seeds", "1,2").exit_code == 0
    assert call(*words, "--seeds", "2").exit_code == 0
    assert call(*words, "--epochs", 3).exit_code == 0
    rows = json.loads((tmp_path / "recipes.json").read_text())["variants"]
    assert len(rows) == 5
    assert {row["recipe"]["paste"] for row in rows if row["changes"]} == {0.0}
    assert [seed for _, recipe, seed in fits if recipe.paste == 0] == [1, 1, 2, 2]
    table = (tmp_path / "recipes.md").read_text().splitlines()
    assert len({line.count("|") for line in table if line}) == 1
    assert len(table) == 2 + 3
    assert [line for line in table if line.startswith("| paste=0 | 1, 2 | 8 | 1, 2 |")]


def test_a_stopped_search_goes_on_where_it_was(
    data: Path, tmp_path: Path, fits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (data, "--folds", "1,2,3", "--skip-corruptions", "--work", tmp_path / "work")
    ask = recipes.ask

    def stop_at_the_third(*arguments: Any) -> recipes.Answers:
        if len(fits) == 3:
            raise KeyboardInterrupt
        return ask(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "ask", stop_at_the_third)
        assert call(*words, "--out", tmp_path / "one").exit_code == 1
    assert not (tmp_path / "one").exists()
    assert call(*words, "--out", tmp_path / "one").exit_code == 0
    assert len(fits) == 3 + 1, "two folds had answered"
    assert not list((tmp_path / "work").iterdir()), "what is in a row is kept nowhere else"
    assert call(*words, "--out", tmp_path / "two").exit_code == 0
    rows = [json.loads((tmp_path / n / "recipes.json").read_text()) for n in ("one", "two")]
    (one,), (two,) = (each["variants"] for each in rows)
    assert one | {"minutes": 0} == two | {"minutes": 0}


class Here:
    """A cluster that is this process; the last task ends first."""

    @contextmanager
    def open(self, address: str | None, workers: int | None, **options: Any) -> Iterator[Here]:
        yield self

    def run(self, function: Any, tasks: list[Task], *, once: Any, **_: Any) -> Iterator[Done]:
        first = pickle.loads(pickle.dumps(once))()
        for task in reversed(tasks):
            try:
                function(first, *pickle.loads(pickle.dumps(task.arguments)))
                yield Done(task.key, None, None)
            except BtcError as error:
                yield Done(task.key, None, error)


def test_rows_by_ray_equal_rows_in_series(
    data: Path, tmp_path: Path, fits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "open_cluster", Here().open)
    for name in ("use_threads", "import_tensorflow"):
        monkeypatch.setattr(recipes, name, lambda threads=None: None)
    monkeypatch.chdir(data.parent)
    words = (data.name, "--folds", "1,2", "--vary", "", "--vary", "paste=0", "--seeds", "1,2",
             "--leave-out", "far", "--skip-corruptions", "--work", tmp_path / "work")  # fmt: skip
    assert call(*words, "--out", tmp_path / "series").exit_code == 0
    done = call(*words, "--out", tmp_path / "ray", "--ray", "--threads", 3)
    assert done.exit_code == 0, done.exception
    rows = [json.loads((tmp_path / n / "recipes.json").read_text()) for n in ("series", "ray")]
    series, ray = ([row | {"minutes": 0} for row in each["variants"]] for each in rows)
    assert series == ray
    assert len(ray) == 4


def test_a_worker_with_other_slices_measures_nothing(
    data: Path, tmp_path: Path, fits: list[Any]
) -> None:
    named = recipes.with_cards(
        (data,),
        {"no_card": False, "tumour_free": (), **dict.fromkeys(recipes.TABLES)},
        (*recipes.TABLES, "tumour_free"),
    )
    everything = recipes.read_sides(named)
    material = recipes.Material(everything, recipes.of_sources(everything, ["far"]))
    other = recipes.Material(everything, recipes.of_sources(everything, []))
    trial = recipes.Trial(other.digest, "", 1, 1, 8, False)
    with pytest.raises(DataError, match="sees other slices"):
        recipes.measure(material, trial, tmp_path)
    assert not fits


def test_corruptions_are_of_validation_slices(data: Path, tmp_path: Path, fits: list[Any]) -> None:
    assert call(data, "--folds", 3, "--out", tmp_path).exit_code == 0
    (row,) = json.loads((tmp_path / "recipes.json").read_text())["variants"]
    assert row["worst"] == min(row["corruptions"].values())
    assert row["unseen"] == dict.fromkeys(recipes.UNSEEN)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--leave-out", "fr"), "the sources are away, far, home"),
        (("--leave-out", "far", "--leave-out", "home", "--leave-out", "away"), "is left in fold 1"),
        (("--vary", "pasted=1"), "a recipe has no 'pasted'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    data: Path, fits: list[Any], words: tuple[str, ...], says: str
) -> None:
    done = call(data, *words)
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
    assert not fits


@pytest.mark.parametrize("words", [("--folds", "6"), ("--folds", "0"), ("--seeds", "a")])
def test_lists_of_numbers(data: Path, words: tuple[str, ...]) -> None:
    assert call(data, *words).exit_code == 2

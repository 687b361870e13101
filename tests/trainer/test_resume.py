"""A training goes on with what it was started with, or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from trainer import train_job as pipeline
from trainer.commands.train import train_command
from trainer.commands.train_options import started_options
from trainer.data.dataset import read_dataset
from trainer.data.split import split_dataset
from trainer.evaluation.selective import Targets
from trainer.fitting import Callbacks, network_for
from trainer.models.classical import ClassicalSettings
from trainer.models.networks import pretrained_shapes
from trainer.models.pretrained import read_pretrained
from trainer.models.recipes import RECIPES
from trainer.models.training import TrainSettings
from trainer.run import Run
from trainer.synthetic.phantoms import draw_phantom, write_phantoms
from trainer.train_job import Job, check_start, resume_job, start_run

KNN = ("--model", "knn", "--features", "histogram", "--no-cache", "--size", "32", "--seed", "5")


def train(*words: object) -> Result:
    return CliRunner().invoke(train_command, [str(word) for word in words])


def refused(*words: object) -> str:
    """What a command says that is refused for what it was given."""
    done = train(*words)
    assert isinstance(done.exception, (DataError, UsageError)), done.output
    return str(done.exception)


class Inputs:
    """Everything that a run can be started with, in a folder."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        with zipfile.ZipFile(data) as archive:
            names = sorted(archive.namelist())
        self.groups = self.write(
            "groups.csv", "path,group", [f"{n},g{i // 2}" for i, n in enumerate(names)]
        )
        columns = "path,x_center,y_center,width,height"
        boxed = [f"{n},0.5,0.5,0.2,0.2" for n in names if "glioma" in n]
        self.boxes = self.write("boxes.csv", columns, boxed)
        self.partial = folder / "partial.zip"
        self.write_partial(self.partial, 1)
        rows = [f"tumor/{i}.png,p{i // 2}" for i in range(8)]
        self.partial_groups = self.write("partial.csv", "path,group", rows)

    def write(self, name: str, head: str, rows: list[str]) -> Path:
        path = self.folder / name
        path.write_text("\n".join([head, *rows]) + "\n")
        return path

    def write_partial(self, path: Path, seed: int) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(8):
                gray = draw_phantom("glioma", np.random.default_rng([seed, i]))
                archive.writestr(f"tumor/{i}.png", cv2.imencode(".png", gray)[1].tobytes())

    def words(self, without: str = "", **other: Path) -> list[object]:
        names = ("groups", "boxes", "partial", "partial_groups")
        given = {name: other.get(name, getattr(self, name)) for name in names if name != without}
        pairs = [(f"--{name.replace('_', '-')}", path) for name, path in given.items()]
        return [other.get("data", self.data), *(word for pair in pairs for word in pair)]


def stop(folder: Path) -> None:
    """Take a finished cross-validation back to where its first fold was finished."""
    for name in ("predictions.csv", "metrics.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "fold-2")
    settings = json.loads((folder / "run.json").read_text())
    settings |= {"status": "started", "data": None, "partial": None, "labels": []}
    (folder / "run.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def inputs(phantom_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), phantom_zip)


@pytest.fixture(scope="module")
def half(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of two folds that was stopped between them."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    words = (*inputs.words(), "--protocol", "grouped", "--folds", 2, *KNN, "--out", folder)
    done = train(*words)
    assert done.exit_code == 0, done.output
    stop(folder)
    return folder


@pytest.fixture
def copied(half: Path, tmp_path: Path) -> Path:
    shutil.copytree(half, tmp_path / "run")
    return tmp_path / "run"


def every_slice_once(folder: Path) -> bool:
    with (folder / "predictions.csv").open(newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    return len(paths) == len(set(paths)) == 96


def test_it_goes_on_with_the_same_inputs_said_otherwise(inputs: Inputs, copied: Path) -> None:
    again = copied.parent / "again.csv"
    rows = inputs.groups.read_text().splitlines()
    again.write_text("\r\n".join([rows[0] + ",note", *(f"{r},x" for r in rows[:0:-1]), "no,g,x"]))
    words = inputs.words(groups=again)
    done = train(*words, "--out", copied, "--resume", "--model", "knn", "--seed", 5, "--folds", 2)
    assert done.exit_code == 0, done.output
    assert "could not be checked" not in done.output
    assert every_slice_once(copied)
    kept = Run.open(copied).settings["inputs"]
    assert kept == Run.open(copied / "fold-2").settings["inputs"]
    assert [len(kept[name] or "") for name in kept] == [64, 64, 64, 64, 64, 0]


@pytest.mark.parametrize("name", ["groups", "boxes", "partial", "partial_groups"])
def test_one_input_fewer_is_refused_by_name(inputs: Inputs, half: Path, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    words = inputs.words(name)
    if name == "partial":
        words = inputs.words("partial_groups")
        words = [word for word in words if word not in ("--partial", inputs.partial)]
    line = refused(*words, "--out", half, "--resume")
    assert line == f"the run was started with {option}; give the same again"


def change_table(inputs: Inputs, path: Path, name: str) -> Path:
    old, new = {
        "groups": (",g3\n", ",g4\n"), "boxes": ("0.5,0.5", "0.5,0.4"),
        "partial_groups": (",p1\n", ",p2\n"),
    }[name]  # fmt: skip
    path.write_text(getattr(inputs, name).read_text().replace(old, new, 1))
    return path


def change_pictures(inputs: Inputs, path: Path, name: str) -> Path:
    if name == "partial":
        inputs.write_partial(path, 2)
    else:
        write_phantoms(path, per_class=24, testing=0.25, seed=4)
    return path


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("groups", change_table, "--groups is not the table"),
        ("boxes", change_table, "--boxes is not the table"),
        ("partial_groups", change_table, "--partial-groups is not the table"),
        ("partial", change_pictures, "--partial is not the data"),
        ("data", change_pictures, "DATA is not the data"),
    ],
)
def test_another_input_is_refused_by_name(
    inputs: Inputs, half: Path, tmp_path: Path, name: str,
    change: Callable[[Inputs, Path, str], Path], line: str,
) -> None:  # fmt: skip
    before = {path: path.read_bytes() for path in half.rglob("run.json")}
    words = inputs.words(**{name: change(inputs, tmp_path / "other", name)})
    said = refused(*words, "--out", half, "--resume")
    assert said == f"{line} that the run was started with"
    assert {path: path.read_bytes() for path in half.rglob("run.json")} == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--seed", 6), "--seed is not what the run was started with, which was 5"),
        (("--model", "svm"), "--model is not what the run was started with, which was knn"),
        (("--features", "hog"), "--features is not what .* which was histogram"),
        (("--resize", "area"), "--resize is not what .* which was pyramid"),
        (("--window", "none"), "--window is not what .* which was 1.0,99.5"),
        (("--folds", 3), "--folds is not what .* which was 2"),
        (("--protocol", "official"), "--protocol is not what .* which was grouped"),
        (("--search",), "--search is not what .* which was off"),
        (("--tumour-free", "glioma"), "--tumour-free is not what .* which was none"),
        (("--epochs", 3), "--epochs does not go with --model knn, the run's"),
    ],
)
def test_another_option_is_refused_by_name(
    inputs: Inputs, half: Path, words: tuple[object, ...], line: str
) -> None:
    said = refused(*inputs.words(), "--out", half, "--resume", *words)
    assert re.match(line, said), said


def test_a_run_that_did_not_say_how_slices_are_scaled_goes_on_as_it_began() -> None:
    former = Run.open(Path(__file__).parents[1] / "former" / "interrupted")
    assert "resize" not in former.settings["preprocess"]
    assert started_options(former)["resize"] == "area"


def test_one_input_more_is_refused_by_name(inputs: Inputs, tmp_path: Path) -> None:
    start_run(Job(inputs.data, tmp_path / "run"))
    for name in ("groups", "boxes", "partial"):
        option = f"--{name}"
        words = (inputs.data, option, getattr(inputs, name), "--out", tmp_path / "run", "--resume")
        assert refused(*words) == f"the run was started without {option}; leave it out"


def test_a_run_of_the_former_version_goes_on_with_a_word(inputs: Inputs, copied: Path) -> None:
    for path in copied.rglob("run.json"):
        settings = json.loads(path.read_text())
        del settings["inputs"], settings["tumour_free"]
        path.write_text(json.dumps(settings))
    said = refused(*inputs.words("groups"), "--out", copied, "--resume")
    assert said.startswith("--groups: the run in")
    done = train(*inputs.words(), "--out", copied, "--resume")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if "could not be checked" in line]
    assert "whether --groups, --boxes, --partial-groups are as they were" in line
    assert every_slice_once(copied)
    assert Run.open(copied / "fold-1").settings["inputs"]["groups"]


def test_a_run_that_does_not_say_how_it_scales_goes_on_as_it_began(
    inputs: Inputs, tmp_path: Path
) -> None:
    settings = ClassicalSettings("knn", ("histogram",), False, 5)
    run = start_run(
        Job(inputs.data, tmp_path / "old", preprocess=Preprocess(32), settings=settings)
    )
    del run.settings["preprocess"]["resize"]  # as version 0.1.0 wrote it
    run.save_settings()
    said = refused(inputs.data, "--out", run.folder, "--resume", "--resize", "pyramid")
    assert "which was area;" in said
    made = {"old": ("--resume", "--no-cache"), "new": (*KNN, "--resize", "area")}
    predictions = {}
    for name, words in made.items():
        done = train(inputs.data, "--out", tmp_path / name, *words)
        assert done.exit_code == 0, done.output
        predictions[name] = (tmp_path / name / "predictions.csv").read_text()
    assert predictions["old"] == predictions["new"]


def test_a_run_of_the_former_version_is_exported_for_the_targets_it_was_completed_for(
    inputs: Inputs, tmp_path: Path
) -> None:
    """The rates that were found are no rates that were asked for."""
    settings = ClassicalSettings("knn", ("histogram",), False, 5)
    run = start_run(Job(inputs.data, tmp_path / "knn", settings=settings))
    del run.settings["targets"]
    run.settings["max_error"] = 0.02
    run.save_settings()
    done = train(inputs.data, "--out", run.folder, "--resume", "--no-cache")
    assert done.exit_code == 0, done.output
    assert Targets.from_settings(Run.open(run.folder).settings) == Targets()


def test_no_cache_goes_with_a_classical_run_only(inputs: Inputs, tmp_path: Path) -> None:
    start_run(Job(inputs.data, tmp_path / "network"))
    said = refused(inputs.data, "--out", tmp_path / "network", "--resume", "--no-cache")
    assert said == "--no-cache does not go with --model cnn, the run's"
    settings = ClassicalSettings("knn", ("histogram",), False, 5)
    start_run(Job(inputs.data, tmp_path / "knn", settings=settings))
    done = train(inputs.data, "--out", tmp_path / "knn", "--resume", "--no-cache", "--seed", 5)
    assert done.exit_code == 0, done.output


def test_deep_features_need_their_run_again(inputs: Inputs, tmp_path: Path) -> None:
    settings = ClassicalSettings("knn", ("histogram", "deep"), False, 5)
    job = Job(inputs.data, tmp_path / "run", settings=settings, deep=tmp_path)
    start_run(job)
    words = (inputs.data, "--out", tmp_path / "run", "--resume")
    line = "the run was started with --features deep:RUN; give the same again"
    assert refused(*words) == line
    (tmp_path / "deep").mkdir()
    said = refused(*words, "--features", f"hog,deep:{tmp_path / 'deep'}")
    assert said.startswith("--features is not what the run was started with, which was histogram,")
    run, started = resume_job(job)
    assert (started.settings, started.deep) == (settings, tmp_path)
    assert started_options(run)["features"] == ("histogram", "deep")


def test_a_network_of_other_groups_gives_no_deep_features(inputs: Inputs, tmp_path: Path) -> None:
    """Its validation slices may be among those that the classifier is tested on."""
    data = read_dataset(inputs.data, Preprocess(32), groups_csv=inputs.groups)
    split = split_dataset(data, "official", 1)
    run = start_run(Job(inputs.data, tmp_path / "network"))
    facts = {"sha256": data.sha256, "groups": len(set(data.groups)),
             "training": len(split.train), "validation": len(split.validation)}  # fmt: skip
    run.settings |= {"status": "finished", "labels": list(data.class_names), "data": facts}
    paths = [data.paths[i] for i in split.test]
    (run.folder / "predictions.csv").write_text("\n".join(["path", *paths]))
    for digest, known in ((data.tables["groups"], True), ("0" * 64, False), (None, False)):
        run.settings["inputs"]["groups"] = digest
        run.save_settings()
        if known:
            assert network_for(run.folder, data, split, 1).folder == run.folder
        else:
            with pytest.raises(DataError, match="the same --groups"):
                network_for(run.folder, data, split, 1)
    del run.settings["inputs"]
    run.save_settings()
    assert network_for(run.folder, data, split, 1).folder == run.folder, "of a former version"


@pytest.mark.parametrize("named", [None, ("glioma",)])
def test_a_training_says_that_it_knows_no_tumour_free_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...] | None
) -> None:
    for i, label in enumerate(("glioma", "meningioma")):
        (tmp_path / "data" / label).mkdir(parents=True)
        gray = draw_phantom(label, np.random.default_rng(i))
        cv2.imwrite(str(tmp_path / "data" / label / "1.png"), gray)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,x_center,y_center,width,height\nmeningioma/1.png,0.5,0.5,0.1,0.1\n")
    job = Job(
        tmp_path / "data", tmp_path / "run", boxes_csv=boxes, tumour_free=named,
        settings=TrainSettings(recipe=RECIPES["robust"]),
    )  # fmt: skip
    monkeypatch.setattr(pipeline, "split_dataset", lambda *_: None)
    monkeypatch.setattr(pipeline, "_train_split", lambda *_: None)
    said: list[str] = []
    run = pipeline.run_job(job, start_run(job), Callbacks(warn=said.append))
    assert ["--tumour-free" in line for line in said] == ([] if named else [True])
    assert run.settings["tumour_free"] == (list(named) if named else None)


def test_every_option_that_shapes_a_run_is_compared(tmp_path: Path) -> None:
    """An option added to the command must be compared, or be free by name."""
    from trainer.commands.train_options import RESUMED_WITH

    known: set[str] = set()
    for name, settings in (
        ("cnn", TrainSettings()), ("knn", ClassicalSettings("knn", ("hog",), False, 1))
    ):  # fmt: skip
        run = start_run(Job(tmp_path, tmp_path / name, settings=settings))
        known |= set(started_options(run))
    names = {p.name for p in train_command.params if p.expose_value} - {"data", "out"}
    assert names == known | RESUMED_WITH


# A start that is refused


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--target-error", "gloima=0.1"), "gloima"),
        (("--protocol", "source:nix"), "no image of source 'nix'|give --groups"),
        (("--protocol", "grouped", "--folds", 50, "--tumour-free", "x"), "tumour-free classes"),
    ],
)
def test_a_refused_start_leaves_nothing_in_the_way(
    inputs: Inputs, tmp_path: Path, words: tuple[object, ...], line: str
) -> None:
    out = tmp_path / "run"
    assert re.search(line, refused(inputs.data, *KNN, *words, "--out", out))
    assert not out.exists()
    out.mkdir()
    refused(inputs.data, *KNN, *words, "--out", out)
    assert list(tmp_path.rglob("*")) == [out], "a folder of the user's own stays"
    done = train(inputs.data, *KNN, "--out", out)
    assert done.exit_code == 0, done.output


def test_a_start_without_a_package_leaves_nothing_in_the_way(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(pipeline, "import_tensorflow", missing)
    done = train(inputs.data, "--out", tmp_path / "run")
    assert isinstance(done.exception, ModuleNotFoundError)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_text("mine")
    assert "is not empty" in refused(inputs.data, "--out", tmp_path / "run"), "said before it"


def test_a_start_without_the_pretrained_weights_is_refused_before_anything_is_read(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    start_run(Job(inputs.data, tmp_path / "begun"))
    monkeypatch.setattr("trainer.models.pretrained.PACKAGE", "btc_edge_no_such_package")
    monkeypatch.setattr(pipeline, "read_dataset", None)
    for words in (("--out", out), ("--out", tmp_path / "begun", "--resume")):
        done = train(inputs.data, *words)
        assert isinstance(done.exception, UsageError), done.output
        assert "pip install ./pretrained" in str(done.exception)
        assert "--network classic" in str(done.exception)
    assert not out.exists()
    check_start(Job(inputs.data, out, settings=TrainSettings("classic")))
    check_start(Job(inputs.data, out, settings=ClassicalSettings("knn", ("histogram",))))


def install_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put other weights in the place of those that are installed."""
    package = folder / f"btc_edge_other_{abs(hash(content))}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights.npz").write_bytes(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("trainer.models.pretrained.PACKAGE", package.name)


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def wrong_weights() -> dict[str, bytes]:
    good = {
        f"{name}.{part}": array
        for name, pair in read_pretrained("edge", pretrained_shapes("edge")).items()
        for part, array in zip(("kernel", "bias"), pair, strict=True)
    }
    bias = good["stem.bias"]
    small = {name: array for name, array in good.items() if name.startswith(("stem", "block0"))}
    broken = bytearray(packed(small))
    broken[len(broken) // 3 :: 7] = b"x" * len(broken[len(broken) // 3 :: 7])
    plain = io.BytesIO()
    np.save(plain, bias)
    return {
        "empty": b"",
        "no zip": b"PK\x03\x04damaged",
        "altered": bytes(broken),
        "one array": plain.getvalue(),
        "no arrays": packed({}),
        "few layers": packed(small),
        "a layer more": packed(good | {"head.kernel": bias, "head.bias": bias}),
        "another kernel": packed(good | {"stem.kernel": good["stem.kernel"][:, :, :, :-1]}),
        "another bias": packed(good | {"stem.bias": bias[:-1]}),
        "texts": packed(good | {"stem.bias": np.array(["x"] * len(bias))}),
        "no number": packed(good | {"stem.bias": bias * np.nan}),
    }


def test_wrong_pretrained_weights_are_refused_before_anything_is_read(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begun = tmp_path / "run", tmp_path / "begun"
    start_run(Job(inputs.data, begun))
    monkeypatch.setattr(pipeline, "read_dataset", None)
    for name, content in wrong_weights().items():
        with monkeypatch.context() as patch:
            install_weights(tmp_path, patch, content)
            for words in (("--out", out), ("--out", begun, "--resume")):
                assert "damaged or of another version: install" in refused(inputs.data, *words), (
                    name
                )
    assert not out.exists()


def test_a_run_names_the_weights_that_it_started_from(tmp_path: Path, inputs: Inputs) -> None:
    run = start_run(Job(inputs.data, tmp_path / "edge"))
    weights = Path(__file__).parents[2] / "pretrained/btc_edge_pretrained/weights.npz"
    assert run.settings["pretrained_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    plain = start_run(Job(inputs.data, tmp_path / "classic", settings=TrainSettings("classic")))
    assert plain.settings["pretrained_sha256"] is None


@pytest.mark.parametrize("folds", [(), ("--protocol", "grouped", "--folds", 2)])
def test_a_start_that_is_refused_after_reading_leaves_nothing_in_the_way(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: tuple[object, ...]
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("no network for these slices")

    words = (inputs.data, *KNN, *folds, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_classical_model", refuse)
        refused(*words)
    assert not (tmp_path / "run").exists()
    assert train(*words).exit_code == 0


def test_a_start_keeps_what_was_learned_before_an_error(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, parts = pipeline.fit_classical_model, iter((True, False))

    def learn(*words: Any) -> Any:
        if not next(parts):
            raise DataError("the second fold cannot be learned")
        return real(*words)

    words = (inputs.data, *KNN, "--protocol", "grouped", "--folds", 2, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_classical_model", learn)
        refused(*words)
    assert Run.open(tmp_path / "run" / "fold-1").settings["status"] == "finished"
    done = train(*words[:1], "--out", tmp_path / "run", "--resume", "--no-cache")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("stage", "kept"), [("read_dataset", False), ("fit_classical_model", True)]
)
def test_an_interrupted_start_can_be_started_or_resumed(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, kept: bool
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = (inputs.data, *KNN, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, stage, interrupt)
        done = train(*words)
    assert done.exit_code == 130
    assert ("--resume goes on" in done.output, "start it again" in done.output) == (kept, not kept)
    assert (tmp_path / "run").exists() == kept
    done = train(*words, *["--resume"] * kept)
    assert done.exit_code == 0, done.output


def test_a_resumed_run_outlives_what_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    """Its options stand nowhere else."""
    settings = ClassicalSettings("knn", ("histogram",), False, 5)
    start_run(Job(inputs.data, tmp_path / "run", settings=settings))
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "--out", tmp_path / "run", "--resume")
    done = train(inputs.data, "--out", tmp_path / "run", "--resume", "--no-cache")
    assert done.exit_code == 0, done.output

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.labels import normalise_label
from edge_runtime.model.load import bundled_model
from trainer.commands.train import train_command
from trainer.data import tables
from trainer.data.dataset import Dataset, check_boxes, originals, read_dataset
from trainer.data.split import fold_splits, split_dataset
from trainer.data.tables import from_csv, read_table, to_csv
from trainer.synthetic.phantoms import CLASSES, draw_phantom

OPTIONS = Preprocess()


def test_reads_a_zip_with_splits(phantom_zip: Path) -> None:
    data = read_dataset(phantom_zip, OPTIONS)
    assert data.class_names == CLASSES
    assert data.images.shape == (96, 128, 128)
    assert data.images.dtype == np.uint8
    assert (len(data.where("training")), len(data.where("testing"))) == (72, 24)
    assert not data.problems


def test_folder_and_zip_give_the_same(phantom_zip: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(phantom_zip) as archive:
        archive.extractall(tmp_path / "wrapped")  # our own archive
    one, two = read_dataset(phantom_zip, OPTIONS), read_dataset(tmp_path / "wrapped", OPTIONS)
    assert one.sha256 == two.sha256
    np.testing.assert_array_equal(one.images, two.images)


def test_each_slice_is_what_the_device_would_see(phantom_zip: Path) -> None:
    data = read_dataset(phantom_zip, OPTIONS)
    with zipfile.ZipFile(phantom_zip) as archive:
        raw = archive.read(data.paths[7])
    np.testing.assert_array_equal(data.images[7], preprocess(load_gray(raw), OPTIONS))


def test_originals_are_the_files_pictures(phantom_zip: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(phantom_zip) as archive:
        archive.extractall(tmp_path)  # our own archive
    for origin in (phantom_zip, tmp_path):
        data = read_dataset(origin, OPTIONS).take([40, 7, 3])
        assert data.origin == origin
        again = originals(data, np.array([2, 0]))
        for row, gray in zip((2, 0), again, strict=True):
            np.testing.assert_array_equal(gray, load_gray(tmp_path / data.paths[row]))
            assert gray is not None
            np.testing.assert_array_equal(preprocess(gray, OPTIONS), data.images[row])
    assert originals(data, []) == []


def test_originals_that_are_gone_end_nothing(phantom_zip: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(phantom_zip) as archive:
        archive.extractall(tmp_path / "folder")
        names = sorted(archive.namelist())
    data = read_dataset(tmp_path / "folder", OPTIONS)
    gone, broken, other, kept = (tmp_path / "folder" / data.paths[i] for i in range(4))
    gone.unlink()
    broken.write_bytes(b"no picture")
    shutil.copy(kept, other)  # another picture under the name of the one that was read
    assert [gray is None for gray in originals(data, range(4))] == [True, True, True, False]
    assert originals(replace(data, origin=None), [3]) == [None]
    assert originals(replace(data, origin=tmp_path / "nowhere"), [3, 3]) == [None, None]
    # A zip that lost a member, and one that is none any more.
    packed = tmp_path / "less.zip"
    with zipfile.ZipFile(phantom_zip) as source, zipfile.ZipFile(packed, "w") as out:
        for name in names[1:]:
            out.writestr(name, source.read(name))
    whole = read_dataset(phantom_zip, OPTIONS)
    first = whole.paths.index(names[0])
    lost = originals(replace(whole, origin=packed), [first, whole.paths.index(names[1])])
    assert [gray is None for gray in lost] == [True, False]
    packed.write_bytes(b"PK")
    assert originals(replace(whole, origin=packed), [first]) == [None]


def test_bad_files_are_reported_and_skipped(phantom_zip: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.zip"
    with zipfile.ZipFile(phantom_zip) as source, zipfile.ZipFile(path, "w") as out:
        names = source.namelist()
        for name in names:
            out.writestr(name, source.read(name))
        whole = source.read(names[0])
        out.writestr("Training/glioma/half.jpg", whole[: len(whole) // 2])
        out.writestr("Training/glioma/text.jpg", b"not an image")
        out.writestr("Training/glioma/empty.jpg", b"")
        out.writestr("stray.jpg", whole)
    data = read_dataset(path, OPTIONS)
    assert len(data) == 96
    assert {Path(p).name for p, _ in data.problems} == {
        "half.jpg", "text.jpg", "empty.jpg", "stray.jpg"
    }  # fmt: skip


def write_picture(path: Path, seed: int) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    gray = draw_phantom("glioma", np.random.default_rng(seed))
    path.write_bytes(cv2.imencode(".png", gray)[1].tobytes())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two classes with two pictures each in Training and one each in Testing."""
    for i, name in enumerate(("Training/a", "Training/a", "Training/b", "Training/b",
                              "Testing/a", "Testing/b")):  # fmt: skip
        write_picture(tmp_path / "data" / name / f"{i}.png", i)
    return tmp_path / "data"


def problems_of(data: Dataset) -> dict[str, str]:
    return {each.words: each.reason for each in data.passed_over}


def test_hidden_folders_runs_and_pictures_elsewhere_are_no_classes(small: Path) -> None:
    for name in ("Training/a/.ipynb_checkpoints", "@eaDir/a", ".Trash-1000/files",
                 "runs/latest", "runs/latest/fold-1", "audit", "more/a", "heatmaps"):  # fmt: skip
        write_picture(small / name / "x.png", len(name))
    (small / "runs" / "latest" / "run.json").write_text("{}")
    data = read_dataset(small, OPTIONS)
    assert data.class_names == ("a", "b")
    assert sorted(set(data.paths) - {p for p in data.paths if p.startswith("T")}) == [
        "more/a/x.png"
    ]
    assert problems_of(data) == {
        "audit/x.png, heatmaps/x.png": "in no class folder of Training or Testing",
        "runs/latest": "a run of btc-train, no class",
    }
    assert not data.problems


def test_files_of_other_kinds_are_counted_and_pictures_read_by_content(small: Path) -> None:
    folder = small / "Training" / "a"
    picture = (folder / "0.png").read_bytes()
    for name in ("x.jfif", "noext", "x.dat"):
        (folder / name).write_bytes(picture)
    for name in ("1.txt", "2.txt", "3.txt", "4.txt", "5.TXT"):
        (folder / name).write_text("notes")
    (folder / "x.dcm").write_bytes(bytes(128) + b"DICM")
    (folder / "README").write_text("notes")
    (small / "groups.csv").write_text("in no class folder: nobody's business")
    (small / "Training" / "notumor").write_text("../elsewhere")  # a link that git wrote as a file
    data = read_dataset(small, OPTIONS)
    assert {Path(p).name for p in data.paths} >= {"x.jfif", "noext", "x.dat"}
    assert len(data) == 9
    assert dict(data.problems) == {"Training/a/x.dcm": "a DICOM file without an image"}
    assert problems_of(data) == {
        "Training/a/1.txt, Training/a/2.txt, Training/a/3.txt and 2 more .txt":
            "not a picture that is read here",
        "Training/a/README, Training/notumor": "not a picture that is read here",
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
def test_a_training_and_an_audit_read_the_same(
    small: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.audit.files import read_files
    from trainer.data import archive

    folder = small / "Training" / "a"
    whole = (folder / "0.png").read_bytes()
    for name, content in {"half.png": whole[:99], "empty.jpg": b"", "x.dcm": b"x"}.items():
        (folder / name).write_bytes(content)
    write_picture(small / "elsewhere" / "x.png", 9)
    (small / "stray.png").write_bytes(whole)
    place = packed(small) if zipped else small
    reads: list[str] = []
    kind = archive.ZipArchive if zipped else archive.FolderArchive
    real = kind.read
    monkeypatch.setattr(kind, "read", lambda self, name: reads.append(name) or real(self, name))
    data = read_dataset(place, OPTIONS)
    once = sorted(reads)
    assert len(once) == len(set(once)) == 9
    files = read_files(place)
    assert sorted(reads) == sorted(once * 2), "each file once"
    assert len(data.problems) == 4
    assert data.problems == files.problems
    assert data.passed_over == files.passed_over
    assert (data.paths, data.splits) == (files.paths, files.splits)
    assert tuple(data.class_names[i] for i in data.labels) == files.labels
    np.testing.assert_array_equal(data.thumbnails, files.thumbnails)
    np.testing.assert_array_equal(data.file_statistics, files.file_statistics)


NONE = "no picture that is read here, so no class"
NO_PICTURE = "not a picture that is read here"


def packed(folder: Path) -> Path:
    """A zip of a folder, empty folders too."""
    return Path(shutil.make_archive(str(folder), "zip", folder))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("sides", [("Training/", "Testing/"), ("",)])
def test_a_class_without_a_picture_is_told_by_name(
    small: Path, sides: tuple[str, ...], zipped: bool
) -> None:
    if len(sides) == 1:
        shutil.rmtree(small / "Testing")
        for name in "ab":
            (small / "Training" / name).rename(small / name)
        (small / "Training").rmdir()
    for side in sides:
        for name, files in {"c": ("1.pdf", "2.pdf"), "d": ("1.heic",), "e": ()}.items():
            (small / side / name).mkdir()
            for file in files:
                (small / side / name / file).write_bytes(b"x")
    data = read_dataset(packed(small) if zipped else small, OPTIONS)
    assert data.class_names == ("a", "b")

    def words(*names: str) -> str:
        paths = sorted(f"{side}{name}" for side in sides for name in names)
        more = len(paths) - 3
        return ", ".join(paths[:3]) + (f" and {more} more" if more > 0 else "")

    pages = words("c/1.pdf", "c/2.pdf") + (" .pdf" if len(sides) == 2 else "")
    assert problems_of(data) == {
        words("c", "d"): NONE, words("e"): "an empty folder", pages: NO_PICTURE,
        words("d/1.heic"): NO_PICTURE,
    }  # fmt: skip


def test_a_class_that_lacks_one_side_is_told(small: Path) -> None:
    shutil.rmtree(small / "Testing" / "b")
    (small / "Testing" / "b").mkdir()
    (small / "Testing" / "b" / "x.pdf").write_bytes(b"x")
    assert problems_of(read_dataset(small, OPTIONS)) == {
        "Testing/b": "no picture that is read here", "Testing/b/x.pdf": NO_PICTURE
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
def test_results_within_the_data_are_no_class(small: Path, zipped: bool) -> None:
    for name in ("results", "results/pictures", "Training/notes"):
        write_picture(small / name / "x.png", 1)
    for path in ("results/metrics.json", "results/predictions.csv", "Training/notes/metrics.json"):
        (small / path).write_text("{}")
    data = read_dataset(packed(small) if zipped else small, OPTIONS)
    assert data.class_names == ("a", "b", "notes"), "a user's own folder may hold a metrics.json"
    assert problems_of(data) == {
        "results": "a folder of results, no class",
        "Training/notes/metrics.json": "not a picture that is read here",
    }


def test_btc_evaluate_tells_what_it_passes_over(tmp_path: Path) -> None:
    from trainer.commands.evaluate import evaluate_command

    model = bundled_model()
    for i, label in enumerate(CLASSES):
        write_picture(tmp_path / "data" / label / f"{i}.png", i)
    (tmp_path / "data" / "glioma" / "\x1b[2J.txt").write_text("notes")
    write_picture(tmp_path / "data" / "@eaDir" / "x.png", 9)
    words = [str(model), str(tmp_path / "data"), "--format", "json", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(evaluate_command, words)
    assert done.exit_code == 0, done.output
    assert done.stderr == "glioma/?[2J.txt: not a picture that is read here; skipped\n"
    assert json.loads(done.stdout)["n"] == 4


def test_nothing_readable_tells_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.pdf").write_bytes(b"x")
    write_picture(tmp_path / "Training" / "run.png", 0)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="1 unreadable, 3 passed over, such as gone: a link that"):
        read_dataset(tmp_path, OPTIONS)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_class_folder_that_is_a_link_is_a_class(small: Path, tmp_path: Path) -> None:
    for side in ("Training", "Testing"):
        (small / side / "b").rename(tmp_path / f"else-{side}")
        (small / side / "b").symlink_to(tmp_path / f"else-{side}", target_is_directory=True)
    data = read_dataset(small, OPTIONS)
    assert np.bincount(data.labels).tolist() == [3, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_no_text_is_a_problem(small: Path) -> None:
    shutil.copy(small / "Training/a/0.png", os.fsencode(small / "Training/a") + b"/\xe9.png")
    (problem,) = read_dataset(small, OPTIONS).problems
    assert "not UTF-8" in problem[1]


def test_tumour_free_is_said_not_guessed(small: Path, phantom_zip: Path, tmp_path: Path) -> None:
    assert read_dataset(small, OPTIONS).tumour_free == ()
    assert read_dataset(phantom_zip, OPTIONS).tumour_free == ("notumor",)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,x_center,y_center,width,height\nTraining/b/2.png,0.5,0.5,0.1,0.1\n")
    data = read_dataset(small, OPTIONS, boxes_csv=boxes, tumour_free=["a"])
    assert data.tumour_free == ("a",)
    check_boxes(data)
    check_boxes(read_dataset(small, OPTIONS, boxes_csv=boxes))
    with pytest.raises(DataError, match=r"Training/b/2.png has a tumour's box, but b is a class"):
        check_boxes(read_dataset(small, OPTIONS, boxes_csv=boxes, tumour_free=["b"]))
    with pytest.raises(UsageError, match="notumor"):
        read_dataset(small, OPTIONS, tumour_free=["Normal"])
    with pytest.raises(DataError, match="every class"):
        read_dataset(small, OPTIONS, tumour_free=["a", "b"])


def test_digests_of_tables_are_of_what_they_say(small: Path, tmp_path: Path) -> None:
    def digests(groups: str, boxes: str) -> tuple[str, str]:
        for name, text in (("g", groups), ("b", boxes)):
            (tmp_path / f"{name}.csv").write_text(text, newline="")
        data = read_dataset(
            small, OPTIONS, groups_csv=tmp_path / "g.csv", boxes_csv=tmp_path / "b.csv"
        )
        return data.tables["groups"], data.tables["boxes"]

    names = [p.relative_to(small).as_posix() for p in sorted(small.rglob("*.png"))]
    groups = "path,group,source\n" + "".join(f"{n},g{i},s\n" for i, n in enumerate(names))
    boxes = "path,x_center,y_center,width,height\nTraining/b/2.png,0.5,0.5,0.1,0.1\n"
    first = digests(groups, boxes)
    more = groups.replace("\n", "\r\n") + "other/x.png,g9,s\r\n"
    assert digests(more, boxes.replace("0.1\n", "0.10\r\n")) == first, "the same said otherwise"
    assert digests(groups.replace("g1", "g2"), boxes)[0] != first[0]
    assert digests(groups.replace("g3,s", "g3,t"), boxes)[0] != first[0]
    assert digests(groups, boxes.replace("0.5,0.5", "0.5,0.6"))[1] != first[1]


def test_names_that_look_like_formulas_are_found_again(small: Path, tmp_path: Path) -> None:
    import pandas as pd

    texts = ["=1+1.png", "'=1.png", "-a", "a,b", 'q"q', "line\nend", "cr\rend", "", "plain"]
    table = pd.DataFrame({"path": texts, "share": np.linspace(-1, 1, len(texts))})
    text = to_csv(table)
    assert not re.search(r"(^|[,\n])\"?[=+@]", text)
    again = from_csv(text)
    assert again["path"].tolist() == texts
    assert pd.to_numeric(again["share"]).tolist() == table["share"].tolist()
    write_picture(small / "Training" / "a" / "=x.png", 9)
    names = [*(p.relative_to(small).as_posix() for p in sorted(small.rglob("*.png")))]
    (tmp_path / "=g.csv").write_text(to_csv(pd.DataFrame({"path": names, "group": ["=g"] * 7})))
    assert set(read_dataset(small, OPTIONS, groups_csv=tmp_path / "=g.csv").groups) == {"=g"}


def test_groups_table(phantom_zip: Path, tmp_path: Path) -> None:
    names = read_dataset(phantom_zip, OPTIONS).paths
    table = tmp_path / "groups.csv"
    rows = [f"{n},g{i // 4},{'a' if i % 8 < 4 else 'b'}" for i, n in enumerate(names)]
    table.write_text("path,group,source\n" + "\n".join(rows))
    data = read_dataset(phantom_zip, OPTIONS, groups_csv=table)
    assert data.grouped
    assert data.groups[:5] == ("g0", "g0", "g0", "g0", "g1")
    assert set(data.sources) == {"a", "b"}
    table.write_text("path,group\n" + "\n".join(f"{n},g" for n in names[1:]))
    with pytest.raises(DataError, match="no row for 1 of 96"):
        read_dataset(phantom_zip, OPTIONS, groups_csv=table)
    table.write_text("file,cluster\n")
    with pytest.raises(DataError, match="need the columns path, group"):
        read_dataset(phantom_zip, OPTIONS, groups_csv=table)


def test_a_table_of_groups_that_contradicts_itself_is_refused(small: Path, tmp_path: Path) -> None:
    names = [p.relative_to(small).as_posix() for p in sorted(small.rglob("*.png"))]
    table = tmp_path / "g.csv"

    def read(*more: str) -> Dataset:
        rows = [f" {name} , g{i},s" for i, name in enumerate(names)]
        table.write_text("path,group,source\n" + "\n".join([*rows, *more]))
        return read_dataset(small, OPTIONS, groups_csv=table)

    assert read(f"{names[0]},g0,s", f"{names[1]},,").groups == tuple(f"g{i}" for i in range(6))
    for row, words in (("gx,s", "group g2 and group gx"), (",t", "source s and source t")):
        with pytest.raises(DataError) as caught:
            read(f"{names[2]},{row}")
        assert str(caught.value) == f"g.csv: two rows of {names[2]} contradict each other: {words}"


def test_images_without_a_group_are_told(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import train_job as pipeline
    from trainer.commands.audit import audit_command

    names = [p.relative_to(small).as_posix() for p in sorted(small.rglob("*.png"))]
    table = tmp_path / "g.csv"
    groups = ["g0", "g1", "  ", "", "g2", "g3"]
    table.write_text("path,group\n" + "\n".join(map(",".join, zip(names, groups, strict=True))))
    monkeypatch.setattr(pipeline, "_train_split", lambda *_: None)
    monkeypatch.setattr(pipeline, "split_dataset", lambda *_: None)
    line = "2 of 6 images have no group in g.csv; they are grouped by looks alone"
    said: list[str] = []
    job = pipeline.Job(small, tmp_path / "run", groups_csv=table)
    pipeline.run_job(job, pipeline.start_run(job), pipeline.Callbacks(warn=said.append))
    assert said == [line]
    done = CliRunner().invoke(
        audit_command, [str(small), "--groups", str(table), "--out", str(tmp_path / "audit")]
    )
    assert f"btc-audit: {line}\n" in done.stderr
    table.write_text("path,group\n" + "".join(f"{name},\n" for name in names))
    data = read_dataset(small, OPTIONS, groups_csv=table)
    assert (data.grouped, len(data.warnings)) == (False, 1), "no group from the table"


def test_a_class_of_which_nothing_can_be_read_is_told(small: Path) -> None:
    (small / "Training" / "c").mkdir()
    for name in ("1.png", "2.png"):
        (small / "Training" / "c" / name).write_bytes(b"damaged")
    (small / "Training" / "a" / "x.png").write_bytes(b"damaged")
    data = read_dataset(small, OPTIONS)
    assert data.class_names == ("a", "b")
    assert data.warnings == ("no picture of c could be read (2 tried), so it is no class",)


def test_equal_pictures_share_a_group(tmp_path: Path) -> None:
    import cv2

    for i, label in enumerate(["glioma", "glioma", "notumor", "notumor"]):
        picture = draw_phantom("glioma", np.random.default_rng(i // 2))
        (tmp_path / label).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / label / f"{i}.png"), picture)
    groups = read_dataset(tmp_path, OPTIONS).groups
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_more_classes_than_a_model_has_are_refused(
    phantom_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where each patient has a folder."""
    monkeypatch.setattr("trainer.data.dataset.MOST_LABELS", 3)
    with pytest.raises(DataError, match="4 classes, such as glioma; a model has 3 at most"):
        read_dataset(phantom_zip, OPTIONS)


def test_unknown_and_single_classes_are_refused(phantom_zip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not among"):
        read_dataset(phantom_zip, OPTIONS, class_names=["glioma", "notumor"])
    with pytest.raises(DataError, match="no readable image"):
        read_dataset(tmp_path, OPTIONS)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", " ", "zero\u200bwidth"])
def test_a_class_that_no_model_may_have_is_refused(small: Path, name: str) -> None:
    (small / "Training" / "b").rename(small / "Training" / name)
    with pytest.raises(DataError) as caught:
        read_dataset(small, OPTIONS)
    assert str(caught.value).startswith(f"no model may have a class called {name.strip()!a}: ")


@pytest.mark.parametrize(
    ("spelling", "label"),
    [("no_tumor", "notumor"), ("No Tumour", "notumor"), ("glioma_tumor", "glioma"),
     ("Pituitary", "pituitary"), ("schwannoma", "schwannoma")],
)  # fmt: skip
def test_spellings(spelling: str, label: str) -> None:
    assert normalise_label(spelling) == label


def fake_dataset(groups: list[int], labels: list[int]) -> Dataset:
    n = len(groups)
    return Dataset(
        images=np.zeros((n, 16, 16), np.uint8),
        labels=np.array(labels, dtype=np.int64),
        class_names=("a", "b"),
        paths=tuple(f"{i}.png" for i in range(n)),
        splits=("",) * n,
        groups=tuple(f"g{g}" for g in groups),
        given_groups=("",) * n,
        sources=("",) * n,
        patients=("",) * n,
        planes=("",) * n,
        sequences=("",) * n,
        problems=(),
        sha256="",
        thumbnails=np.zeros((n, 32, 32), np.uint8),
        file_statistics=np.zeros((n, 10), np.float32),
        crop_boxes=np.zeros((n, 4), np.float32),
        boxes=np.full((n, 4), np.nan),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(24, 60),
    st.integers(1, 5),
    st.integers(0, 99),
    st.sampled_from(["grouped", "official"]),
)
def test_a_group_never_stands_on_two_sides(n: int, size: int, seed: int, protocol: str) -> None:
    groups = [i // size for i in range(n * size)]
    data = fake_dataset(groups, [g % 2 for g in groups])
    split = split_dataset(data, protocol, seed)
    sides = [split.train, split.validation, split.test]
    names = [{data.groups[i] for i in side} for side in sides]
    assert sum(map(len, names)) == len(set.union(*names))
    assert sorted(np.concatenate(sides)) == list(range(len(data)))
    assert (split.test.size > 0) == (protocol == "grouped")
    again = split_dataset(data, protocol, seed)
    np.testing.assert_array_equal(split.validation, again.validation)


@settings(max_examples=20, deadline=None)
@given(st.integers(30, 60), st.integers(2, 5), st.integers(0, 99))
def test_folds_test_every_slice_once(n: int, folds: int, seed: int) -> None:
    groups = [i // 2 for i in range(2 * n)]
    data = fake_dataset(groups, [g % 2 for g in groups])
    splits = fold_splits(data, folds, seed)
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(2 * n))
    for split in splits:
        sides = [{data.groups[i] for i in s} for s in (split.train, split.validation, split.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))
    one = split_dataset(data, "grouped", seed)
    np.testing.assert_array_equal(one.test, fold_splits(data, 5, seed)[0].test)


def test_a_source_is_tested_by_models_that_never_saw_it() -> None:
    groups = [i // 2 for i in range(120)]
    data = replace(
        fake_dataset(groups, [g % 2 for g in groups]),
        sources=tuple("there" if i % 10 == 0 else "here" for i in range(120)),
    )
    split = split_dataset(data, "source:there", seed=1)
    assert split.test.tolist() == list(range(0, 120, 10))
    # Its groups' other slices are on no side: they would show the network the same patients.
    assert split.left_out == 12
    training_groups = {data.groups[i] for i in split.train_and_validation}
    assert not training_groups & {data.groups[i] for i in split.test}
    with pytest.raises(UsageError, match="sources in the data: here, there; did you mean 'here'"):
        split_dataset(data, "source:nowhere", seed=1)
    with pytest.raises(UsageError, match="give --groups"):
        split_dataset(fake_dataset(groups, [0] * 120), "source:x", seed=1)


def test_near_duplicates_share_a_group_with_or_without_a_table(tmp_path: Path) -> None:
    """A copy that is mirrored, turned and brighter, under another class and split."""
    import cv2

    names = []
    for i, label in enumerate(["glioma", "notumor"] * 2):
        picture = draw_phantom("glioma", np.random.default_rng(i % 2))
        if i >= 2:
            picture = cv2.convertScaleAbs(np.rot90(picture[:, ::-1]), alpha=0.8, beta=20)
        names.append(f"{'Training' if i < 2 else 'Testing'}/{label}/{i}.png")
        (tmp_path / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / names[-1]), picture)
    table = tmp_path / "groups.csv"
    table.write_text("path,group\n" + "\n".join(f"{n},g{i}" for i, n in enumerate(names)))
    for groups_csv in (None, table):
        data = read_dataset(tmp_path, OPTIONS, groups_csv=groups_csv)
        group = dict(zip(data.paths, data.groups, strict=True))
        assert group[names[0]] == group[names[2]] != group[names[1]] == group[names[3]]


def test_too_few_groups_are_an_error() -> None:
    with pytest.raises(DataError, match="groups"):
        split_dataset(fake_dataset([0, 0, 1, 1], [0, 0, 1, 1]), "official", 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], Preprocess(96, resize="pyramid")),
        (["--resize", "area"], Preprocess(96)),
        (["--denoise", "median", "--contrast", "clahe"],
         Preprocess(96, "head", (1.0, 99.5), "median", "clahe", "pyramid")),
        (["--denoise", "non-local-means", "--window", "none", "--size", "64"],
         Preprocess(64, "head", None, "non-local-means", resize="pyramid")),
        (["--window", "0.5,99", "--crop", "none", "--resize", "area"],
         Preprocess(96, "none", (0.5, 99.0))),
    ],
)  # fmt: skip
def test_options_of_btc_train_become_preprocessing(
    options: list[str], expected: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import train_job as pipeline

    class Started(Exception):
        """In place of a training."""

    def start(job: pipeline.Job, *_: object, **__: object) -> None:
        raise Started(job.preprocess)

    monkeypatch.setattr(pipeline, "start_run", start)
    done = CliRunner().invoke(
        train_command, [str(tmp_path), "--out", str(tmp_path / "r"), *options]
    )
    assert isinstance(done.exception, Started), done.output
    assert done.exception.args == (expected,)


@pytest.mark.parametrize("window", ["1", "99,1", "a,b", "1,2,3", "-1,99", "0,101", "nan,99", ""])
def test_an_unusable_window_is_named(window: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(train_command, [str(tmp_path), f"--window={window}"])
    assert done.exit_code == 2
    assert "neither two rising percentiles (1,99.5) nor none" in " ".join(
        done.output.replace("\u2502", " ").split()
    )


def test_a_table_is_a_file_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "groups.csv"
    os.mkfifo(table)
    with pytest.raises(DataError, match=r"groups.csv: .*not a regular file"):
        read_table(table, ("path",))
    table.unlink()
    table.write_text("path,group\n" + "a,b\n" * 100)
    assert len(read_table(table, ("path", "group"))) == 100
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 400)
    with pytest.raises(DataError, match="limit"):
        read_table(table, ("path",))

"""`btc-data cheng`: MATLAB files of Cheng's collection, also hostile ones, become a data set."""

from __future__ import annotations

import io
import itertools
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.gray import as_gray
from edge_runtime.imaging.preprocess import Preprocess
from tests.trainer.mat_files import border_of, cheng_file, disc, mat_file, picture
from trainer.commands.prepare.cheng import cheng
from trainer.data.card import find_card
from trainer.data.dataset import read_dataset
from trainer.data.tables import read_table
from trainer.prepare import folder as data_folder
from trainer.prepare.cheng import matlab
from trainer.prepare.cheng.job import FIELDS, STRUCT, find_files, read_slice
from trainer.prepare.cheng.matlab import MatReader

EMPTY = np.zeros((48, 40), np.uint8)


@pytest.fixture(scope="module")
def reader() -> Iterator[MatReader]:
    with MatReader() as opened:
        yield opened


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Six files of three patients, two for each class."""
    place = tmp_path / "collection"
    place.mkdir()
    patients = ("100360", "MR040240", "MR040240B")
    for number in range(1, 7):
        data = cheng_file((number - 1) % 3 + 1, patients[number % 3], picture(number))
        (place / f"{number}.mat").write_bytes(data)
    return place


def make(place: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(cheng, [str(place), "--out", str(out), *options])


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def png(data: bytes) -> npt.NDArray[Any]:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_collection_becomes_a_data_set(collection: Path, tmp_path: Path) -> None:
    (collection / "cvind.mat").write_bytes(mat_file(cvind=np.ones((6, 1))))
    (collection / "README.txt").write_text("about")
    out = tmp_path / "out"
    done = make(collection, out)
    assert done.exit_code == 0, done.output
    assert sorted(tree(out)) == sorted(
        ["boxes.csv", "croissant.json", "data.toml", "groups.csv"]
        + [
            f"{kind}/{label}/000{number}.png"
            for kind in ("slices", "masks")
            for label, numbers in (("meningioma", "14"), ("glioma", "25"), ("pituitary", "36"))
            for number in numbers
        ]
    )
    rows = read_table(out / "groups.csv", ("path",))
    assert rows[0] == {
        "path": "glioma/0002.png", "label": "glioma", "source": "cheng", "patient": "MR040240",
        "group": "MR040240", "plane": "", "sequence": "T1 contrast",
    }  # fmt: skip
    assert {row["patient"] for row in rows} == {"100360", "MR040240"}, "a letter makes no patient"
    card = find_card(out)
    assert card is not None
    assert card.about["license"] == "CC BY 4.0"
    assert [source.name for source in card.sources] == ["cheng"]
    assert re.fullmatch("[0-9a-f]{64}", card.sources[0].sha256)
    data = read_dataset(out / "slices", Preprocess(size=32), groups_csv=out / "groups.csv")
    assert len(data) == 6
    assert data.class_names == ("glioma", "meningioma", "pituitary")
    assert "meningioma: 2 slices\n" in done.stdout
    assert "2 patients, 2 groups, 6 slices with a box\n" in done.stdout
    assert "Research use only" in done.stdout
    said = done.stderr.splitlines()
    assert said[:2] == [
        "README.txt: no .mat file; skipped",
        "cvind.mat: the collection's own folds: btc-train divides by patient; skipped",
    ]


def test_a_slice_stands_as_matlab_shows_it(reader: MatReader) -> None:
    image = picture()
    new, lines = read_slice(cheng_file(image=image), "0001", reader)
    assert lines == []
    assert np.array_equal(png(new.encoded), as_gray(image)), "not turned, not mirrored"
    mask = disc(image.shape)
    assert new.mask is not None
    assert np.array_equal(png(new.mask), mask * 255)
    assert new.row.box is not None
    left, top, right, bottom = new.row.box
    assert 0.5 < left < 0.65 < right < 0.8, "the tumour is right of the middle"
    assert 0.45 < top < 0.6 < bottom < 0.75, "and below it"
    rows, columns = np.nonzero(mask)
    height, width = image.shape
    assert left * width == pytest.approx(columns.min())
    assert right * width == pytest.approx(columns.max() + 1)
    assert top * height == pytest.approx(rows.min())
    assert bottom * height == pytest.approx(rows.max() + 1)


def test_gray_levels_are_those_that_the_device_makes(reader: MatReader) -> None:
    image = picture()
    encoded = cv2.imencode(".png", image.astype(np.uint16))[1].tobytes()
    new, _ = read_slice(cheng_file(image=image), "0001", reader)
    assert np.array_equal(png(new.encoded), decode(encoded))


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    data=st.data(),
    kind=st.sampled_from(["int16", "uint16", "uint8", "float64", "float32"]),
)
def test_any_picture_and_mask_come_back(
    reader: MatReader, sides: tuple[int, int], data: st.DataObject, kind: str
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image = rng.integers(0, 200, sides).astype(kind)
    mask = rng.random(sides) < data.draw(st.sampled_from([0.02, 0.5, 1]))
    mask[data.draw(st.integers(0, sides[0] - 1)), data.draw(st.integers(0, sides[1] - 1))] = True
    new, lines = read_slice(cheng_file(image=image, mask=mask, tumorBorder=None), "", reader)
    assert lines == []
    assert np.array_equal(png(new.encoded), as_gray(image))
    assert new.mask is not None
    assert np.array_equal(png(new.mask) > 0, mask)
    rows, columns = np.nonzero(mask)
    expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert new.row.box == pytest.approx(expected / (*sides[::-1], *sides[::-1]))


@pytest.mark.parametrize(
    ("pid", "patient"),
    [
        ("100360", "100360"), ("53669", "53669"), ("MR017260F", "MR017260"),
        ("MR040240", "MR040240"), ("MR040240B", "MR040240"), ("MR040240D", "MR040240"),
        ("100360 ", "100360"), ("100360\0\0", "100360"),
    ],
)  # fmt: skip
def test_series_of_one_patient_are_one(reader: MatReader, pid: str, patient: str) -> None:
    row = read_slice(cheng_file(patient=pid), "0001", reader)[0].row
    assert (row.patient, row.group, row.source) == (patient, patient, "cheng")


WHAT_IS_WRONG_WITH_AN_OUTLINE: dict[str, tuple[dict[str, Any], str, bool]] = {
    "zeros": ({"tumorMask": EMPTY}, "tumorMask is all zeros: the box is that of tumorBorder", True),
    "missing": (
        {"tumorMask": None}, "tumorMask is missing: the box is that of tumorBorder", True,
    ),
    "size": (
        {"tumorMask": np.ones((40, 48), np.uint8)},
        "tumorMask is of another size than image: the box is that of tumorBorder", True,
    ),
    "nan": (
        {"tumorMask": np.full((48, 40), np.nan)},
        "tumorMask has values that are not finite: the box is that of tumorBorder", True,
    ),
    "empty": ({"tumorMask": np.zeros((0, 0))}, "tumorMask is empty: the box is", True),
    "both": (
        {"tumorMask": None, "tumorBorder": None},
        "tumorMask is missing, and tumorBorder is missing: no box", False,
    ),
    "odd": (
        {"tumorMask": None, "tumorBorder": np.ones((1, 7))},
        "tumorMask is missing, and tumorBorder is no row of points: no box", False,
    ),
    "border nan": (
        {"tumorMask": None, "tumorBorder": np.array([[1, 2, np.nan, 4, 5, 6.0]])},
        "tumorMask is missing, and tumorBorder has values that are not finite: no box", False,
    ),
    "outside": (
        {"tumorMask": None, "tumorBorder": np.array([[1, 2, 400, 4, 5, 6.0]])},
        "tumorMask is missing, and tumorBorder lies outside image: no box", False,
    ),
    "line": (
        {"tumorMask": None, "tumorBorder": np.array([[5, 2, 5, 4, 5, 6.0]])},
        "tumorMask is missing, and tumorBorder encloses nothing: no box", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHAT_IS_WRONG_WITH_AN_OUTLINE)
def test_without_a_mask_the_border_counts(reader: MatReader, case: str) -> None:
    fields, line, boxed = WHAT_IS_WRONG_WITH_AN_OUTLINE[case]
    border = {"tumorBorder": border_of(disc((48, 40)))}
    new, lines = read_slice(cheng_file(**(border | fields)), "0001", reader)
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert new.mask is None
    assert (new.row.box is not None) == boxed
    if boxed:
        whole = read_slice(cheng_file(), "0001", reader)[0].row.box
        assert new.row.box == pytest.approx(whole, abs=0.6 / 40), "half a pixel at most"


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "matlab 5": (lambda: b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(600),
                 "a MATLAB 5 file is not supported: save it with -v7.3"),
    "text": (lambda: b"not a file of MATLAB" * 50, "damaged: no MATLAB 7.3 file"),
    "half": (lambda: cheng_file()[:6000], "damaged: HDF5 cannot read it"),
    "no struct": (lambda: mat_file().replace(b"cjdata", b"cjdatb"), "not supported: no struct cjd"),
    "no image": (lambda: cheng_file(image=picture(), **{"tumorMask": None}).replace(
        b"image", b"imagf"), "image is missing"),
    "label": (lambda: cheng_file(label=4), "an unknown label; there are 1 meningioma, 2 glioma"),
    "half label": (lambda: cheng_file(label=1.5), "an unknown label"),  # type: ignore[arg-type]
    "nan label": (lambda: cheng_file(label=np.nan), "an unknown label"),  # type: ignore[arg-type]
    "labels": (lambda: mat_file(label=np.ones((1, 2)), PID="1", image=picture()),
               "an unknown label"),
    "name": (lambda: cheng_file(patient="SMITH^JOHN"), "PID is no identifier of the collection"),
    "nan": (lambda: cheng_file(image=np.full((48, 40), np.nan)), "pixels that are not finite"),
    "volume": (lambda: cheng_file(image=np.ones((4, 4, 4), np.int16), mask=disc((48, 40))),
               "image is no slice, its shape is"),
    "empty": (lambda: cheng_file(image=np.zeros((0, 0)), mask=disc((48, 40))), "image is no slice"),
}  # fmt: skip


@pytest.mark.parametrize(
    "pid",
    ["SMITH^JOHN", "王100360", "100360é", "100 360", "1970-01-01", "123456789", "MR1BB", "\0"],
)
def test_what_may_be_a_real_identifier_goes_nowhere(reader: MatReader, pid: str) -> None:
    with pytest.raises(InputError) as caught:
        read_slice(cheng_file(patient=pid), "0001", reader)
    assert str(caught.value) == (
        "PID is no identifier of the collection, such as 100360 or MR040240B"
    )


def test_a_file_that_is_too_large_is_not_read(collection: Path, tmp_path: Path) -> None:
    with open(collection / "7.mat", "wb") as stream:
        stream.truncate(matlab.MAX_BYTES + 1)
    done = make(collection, tmp_path / "out")
    assert "7.mat: larger than the limit of 16 MiB; skipped" in done.stderr
    assert "6 slices with a box" in done.stdout


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_cannot_be_used_is_one_line(reader: MatReader, case: str) -> None:
    data, line = WRONG[case]
    with pytest.raises(InputError) as caught:
        read_slice(data(), "0001", reader)
    assert line in str(caught.value)
    assert "SMITH" not in str(caught.value)
    assert "\n" not in str(caught.value)


def _linked(kind: str) -> Callable[[Any, str], None]:
    def write(group: Any, name: str) -> None:
        import h5py

        elsewhere = {
            "soft": h5py.SoftLink("/cjdata/label"),
            "external": h5py.ExternalLink("/etc/passwd", "/x"),
        }
        group[name] = elsewhere[kind]

    return write


def _external(group: Any, name: str) -> None:
    group.create_dataset(name, (8, 8), "u1", external=[("/etc/passwd", 0, 64)])


def _virtual(group: Any, name: str) -> None:
    import h5py

    layout = h5py.VirtualLayout((8, 8), "i2")
    layout[:] = h5py.VirtualSource("other.h5", "x", (8, 8))
    group.create_virtual_dataset(name, layout)


def _references(group: Any, name: str) -> None:
    import h5py

    group.create_dataset(name, data=np.array([group.ref], h5py.ref_dtype))


def _huge(group: Any, name: str) -> None:
    group.create_dataset(name, (100_000, 100_000), "i2", chunks=(100, 100), compression=3)


def _huge_chunk(group: Any, name: str) -> None:
    group.create_dataset(name, (8, 8), "i2", maxshape=(None, None), chunks=(30_000, 30_000))


def _unknown_filter(group: Any, name: str) -> None:
    group.create_dataset(name, (64, 64), "i2", chunks=(64, 64), compression="lzf")


def _texts(group: Any, name: str) -> None:
    group.create_dataset(name, data=["a", "b"])


def _null(group: Any, name: str) -> None:
    import h5py

    group[name] = h5py.Empty("i2")


def _folder(group: Any, name: str) -> None:
    group.create_group(name)


TRICKS: dict[str, tuple[Callable[[Any, str], None], str]] = {
    "soft link": (_linked("soft"), "image is a link, which is not followed"),
    "external link": (_linked("external"), "image is a link, which is not followed"),
    "external storage": (_external, "image lies in other files, which are not read"),
    "virtual": (_virtual, "image lies in other files, which are not read"),
    "references": (_references, "image holds no numbers"),
    "texts": (_texts, "image holds no numbers"),
    "shape": (_huge, "image is too large (100000x100000)"),
    "chunk": (_huge_chunk, "image is too large (8x8)"),
    "filter": (_unknown_filter, "image is packed in a way that is not supported"),
    "null": (_null, "image is no array"),
    "group": (_folder, "image is no array"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_but_plain_arrays_of_the_file_is_read(reader: MatReader, trick: str) -> None:
    write, line = TRICKS[trick]
    data = mat_file(image=write, label=1.0, PID="100360")
    with pytest.raises(InputError) as caught:
        read_slice(data, "0001", reader)
    assert str(caught.value) == line
    found = reader.read(data, STRUCT, FIELDS)
    assert found.arrays["label"] == 1, "the other fields are there"


def test_a_struct_that_is_a_link_is_not_followed(reader: MatReader) -> None:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["cjdata"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(InputError, match="cjdata is a link, which is not followed"):
        reader.read(stream.getvalue(), STRUCT, FIELDS)


def bomb(megabytes: int) -> bytes:
    """A chunk of 8 KiB that unpacks to far more, without a fault (RFC 1950, 1951)."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    sum_of_zeros = ((megabytes << 20) % 65521) << 16 | 1
    packed = head + block * megabytes + b"\x03\x00" + struct.pack(">I", sum_of_zeros)

    def write(group: Any, name: str) -> None:
        chunk = group.create_dataset(name, (64, 64), "i2", chunks=(64, 64), compression=9)
        chunk.id.write_direct_chunk((0, 0), packed)

    return mat_file(image=write, label=1.0, PID="100360")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has no such limit")
def test_a_chunk_that_unpacks_beyond_reason_is_damaged(reader: MatReader) -> None:
    assert reader.read(bomb(8), STRUCT, FIELDS).arrays["image"].shape == (64, 64), "a sound one"
    with pytest.raises(InputError, match="damaged"):
        reader.read(bomb(matlab.MEMORY >> 20), STRUCT, FIELDS)
    assert reader.read(cheng_file(), STRUCT, FIELDS).problems == {}


def _circle(data: bytes) -> bytes:
    """A file whose first B-tree is its own child."""
    first = data.index(b"TREE")
    altered = bytearray(data)
    altered[first + 5] = 1  # a node of nodes
    altered[first + 32 : first + 40] = struct.pack("<Q", first - 512)
    return bytes(altered)


def test_a_file_that_ends_the_process_is_damaged_and_the_next_is_read(reader: MatReader) -> None:
    with pytest.raises(InputError, match="damaged: the process that read it died of it"):
        reader.read(_circle(cheng_file()), STRUCT, FIELDS)
    assert reader.read(cheng_file(), STRUCT, FIELDS).problems == {}


def test_a_process_that_was_ended_by_others_costs_nothing() -> None:
    with MatReader() as reader:
        reader.read(cheng_file(), STRUCT, FIELDS)
        process = reader._process
        assert process is not None
        process.kill()
        process.wait()
        assert reader.read(cheng_file(), STRUCT, FIELDS).problems == {}
        assert reader._process is not process
    assert process.stdout is not None
    assert process.stdout.closed


def test_a_file_that_never_ends_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "print('ready', flush=True)\nimport sys\nsys.stdin.read()"
    monkeypatch.setattr(matlab, "_CHILD", deaf)
    with MatReader() as reader:
        reader._start()
        monkeypatch.setattr(matlab, "SECONDS", 0.1)
        monkeypatch.setattr(matlab, "ATTEMPTS", 1)
        with pytest.raises(InputError, match="or took too long"):
            reader.read(cheng_file(), STRUCT, FIELDS)


def test_a_process_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "_CHILD", "import nothing_of_this_name")
    with MatReader() as reader, pytest.raises(DataError, match="is h5py broken"):
        reader.read(cheng_file(), STRUCT, FIELDS)


@pytest.mark.parametrize(
    "answer",
    ["[]", "nonsense", '{"image": ["|O8", [1]]}', '{"image": ["<i2", [-1]]}', '{"image": 3}',
     '{"image": ["<i2", [99999, 99999]]}', '{"image": ["<i2", [9]]}', "{}", "[" * 60_000,
     '{"image": ["<i2", [1.5]]}', '{"image": ["<i2", ["a"]]}', "1" * 70_000],
)  # fmt: skip
def test_an_answer_is_not_trusted(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "_CHILD", f"print('ready\\n' + {answer!r}, flush=True)")
    with MatReader() as reader, pytest.raises(InputError, match="damaged"):
        reader.read(cheng_file(), STRUCT, ("image",))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(512, 11_000), st.integers(0, 255)), min_size=1, max_size=9))
def test_altered_bytes_are_a_slice_or_one_line(
    reader: MatReader, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(cheng_file())
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(InputError):
        new, lines = read_slice(bytes(data), "0001", reader)
        assert png(new.encoded).dtype == np.uint8
        assert len(lines) <= 1


def test_a_bad_file_costs_one_line_and_nothing_else(collection: Path, tmp_path: Path) -> None:
    good = make(collection, tmp_path / "good")
    bad = {
        "7.mat": WRONG["matlab 5"][0](), "8.mat": WRONG["half"][0](), "9.mat": b"",
        "10.mat": cheng_file(label=4), "11.mat": cheng_file(patient="SMITH^JOHN"),
        "DOE JANE.mat": _circle(cheng_file()), "12.mat": bomb(1)[:-100],
    }  # fmt: skip
    for name, data in bad.items():
        (collection / name).write_bytes(data)
    (collection / "bad.zip").write_bytes(b"PK\x03\x04 no zip")
    out = tmp_path / "out"
    done = make(collection, out)
    assert done.exit_code == 0, done.output
    for name in (*bad, "bad.zip"):
        lines = [line for line in done.stderr.splitlines() if line.startswith(f"{name}: ")]
        assert len(lines) == 1, name
        assert lines[0].endswith("; skipped")
    assert "9.mat: empty file; skipped" in done.stderr
    assert "bad.zip: not a readable zip file; skipped" in done.stderr
    assert tree(tmp_path / "good") == tree(out)
    assert "dropped, 1: a MATLAB 5 file is not supported: save it with -v7.3\n" in done.stdout
    assert good.exit_code == 0


def test_no_name_of_a_file_is_found_in_the_output(tmp_path: Path) -> None:
    place = tmp_path / "Jane Doe 1970"
    place.mkdir()
    data = {"DOE_JANE.mat": cheng_file(2), "jane.mat": cheng_file(3), "x.mat": cheng_file(4)}
    for name, content in data.items():
        (place / name).write_bytes(content)
    out = tmp_path / "out"
    assert make(place, out).exit_code == 0
    for name, content in tree(out).items():
        for word in (b"doe", b"jane", b"1970"):
            assert word not in content.lower(), name
            assert word not in name.encode().lower()
    (named,) = (out / "slices/glioma").iterdir()
    assert re.fullmatch(r"[0-9a-f]{16}\.png", named.name), "by its content"


def test_zips_as_they_are_downloaded_give_the_same_bytes(collection: Path, tmp_path: Path) -> None:
    assert make(collection, tmp_path / "one").exit_code == 0
    zips = tmp_path / "zips"
    zips.mkdir()
    names = sorted(path.name for path in collection.iterdir())
    for part in (names[:3], names[3:]):
        with zipfile.ZipFile(
            zips / f"brainTumorDataPublic_{part[0][0]}-{part[-1][0]}.zip", "w"
        ) as z:
            for name in part:
                z.write(collection / name, name)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as whole:
        for name in reversed(names):
            whole.write(collection / name, f"in a folder/{name}")
    assert make(zips, tmp_path / "two").exit_code == 0
    assert make(tmp_path / "all.zip", tmp_path / "three").exit_code == 0
    (zips / "unpacked").mkdir()
    for name in names:
        (zips / "unpacked" / name).write_bytes((collection / name).read_bytes())
    both = make(zips, tmp_path / "four")
    assert "and 3 more: a copy of another file; skipped" in both.stderr
    trees = [tree(tmp_path / name) for name in ("one", "two", "three", "four")]
    assert trees[0] == trees[1] == trees[2] == trees[3]


def test_a_zip_of_the_zips_says_what_to_do(collection: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "1512427.zip", "w") as whole:
        whole.writestr("brainTumorDataPublic_1-766.zip", b"PK")
    done = make(tmp_path / "1512427.zip", tmp_path / "out")
    assert isinstance(done.exception, DataError)
    assert "brainTumorDataPublic_1-766.zip: a zip within a zip: unpack it" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_different_files_of_one_number_are_both_read(collection: Path, tmp_path: Path) -> None:
    (collection / "more").mkdir()
    (collection / "more" / "1.mat").write_bytes(cheng_file(1, "53669", picture(99)))
    found = find_files(collection)
    assert [file.stem for file in found.files] == ["", "", *(f"000{i}" for i in range(2, 7))]
    done = make(collection, tmp_path / "out")
    assert "meningioma: 3 slices" in done.stdout


def test_a_card_beside_the_data_says_which_version_they_are(
    collection: Path, tmp_path: Path
) -> None:
    digest = "ab" * 32
    (collection / "data.toml").write_text(
        f'[[sources]]\nname = "cheng"\nversion = "5"\nsha256 = "{digest}"\nlicense = "none"\n'
    )
    assert make(collection, tmp_path / "out").exit_code == 0
    card = find_card(tmp_path / "out")
    assert card is not None
    assert (card.sources[0].version, card.sources[0].sha256) == ("5", digest)
    assert card.sources[0].license == "CC BY 4.0"
    assert make(collection, tmp_path / "without", "--no-card").exit_code == 0
    card = find_card(tmp_path / "without")
    assert card is not None
    assert card.sources[0].version == ""
    (collection / "data.toml").write_text("sources = 3\n")
    wrong = make(collection, tmp_path / "wrong")
    assert isinstance(wrong.exception, DataError)
    assert not (tmp_path / "wrong").exists()


def test_each_part_has_a_card_as_it_was_fetched(collection: Path, tmp_path: Path) -> None:
    for part, number in ((1, 1), (2, 2), (2, 3), (3, 4)):
        place = tmp_path / "figshare" / str(part)
        (place / "files").mkdir(parents=True, exist_ok=True)
        (collection / f"{number}.mat").rename(place / "files" / f"{number}.mat")
        (place / "croissant.json").write_text("{}")
        (place / "data.toml").write_text(
            f'[[sources]]\nname = "{part}"\nurl = "https://x.org/{part}"\nsha256 = "{part:064x}"\n'
        )
    out = tmp_path / "out"
    done = make(tmp_path / "figshare", out)
    assert done.exit_code == 0, done.output
    assert done.stderr == "", "cards are no strange files"
    card = find_card(out)
    assert card is not None
    assert {each.name for each in card.sources} == {"cheng"}
    assert [(each.url, each.sha256) for each in card.sources] == [
        (f"https://x.org/{part}", f"{part:064x}") for part in (1, 2, 3)
    ]
    assert card.about["license"] == "CC BY 4.0"
    (tmp_path / "figshare" / "3" / "data.toml").unlink()
    (collection / "5.mat").rename(tmp_path / "figshare" / "5.mat")
    assert make(tmp_path / "figshare", tmp_path / "some").exit_code == 0
    card = find_card(tmp_path / "some")
    assert card is not None
    assert len(card.sources) == 3, "what has no card has one source"
    assert card.sources[2].url.startswith("https://doi.org/")
    assert re.fullmatch("[0-9a-f]{64}", card.sources[2].sha256)


class Stopped(BaseException):
    """As a kill, nothing catches it."""


def test_a_run_that_was_stopped_anywhere_goes_on(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (collection / "7.mat").write_bytes(b"damaged")
    (collection / "8.mat").write_bytes(cheng_file(tumorMask=None))
    whole = make(collection, tmp_path / "whole")
    out = tmp_path / "out"
    real = data_folder._write
    for stop in (1, 2, 4, 5):  # files that a run writes before it is stopped
        count = itertools.count()

        def write(place: Path, data: bytes) -> None:
            if next(count) == stop:  # noqa: B023
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data[: len(data) // 2])
                raise Stopped
            real(place, data)

        monkeypatch.setattr(data_folder, "_write", write)
        with pytest.raises(Stopped):
            make(collection, out)
    monkeypatch.setattr(data_folder, "_write", real)
    done = make(collection, out)
    assert done.exit_code == 0, done.output
    assert "files were done before" in done.stderr
    assert tree(out) == tree(tmp_path / "whole")
    assert done.stdout.replace(str(out), "") == whole.stdout.replace(str(tmp_path / "whole"), "")


def test_the_folder_to_make_does_not_lie_in_the_collection(collection: Path) -> None:
    done = make(collection, collection / "out")
    assert isinstance(done.exception, UsageError)
    assert "lie in each other" in str(done.exception)
    assert not (collection / "out").exists()


def test_other_data_does_not_go_on(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_folder.DataFolder, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            make(collection, out)
    assert (out / data_folder.JOURNAL).exists()
    assert ".mat" not in (out / data_folder.JOURNAL).read_text()
    first = collection / "1.mat"
    before = first.read_bytes()
    first.write_bytes(cheng_file(2, "100360", picture(50))[: len(before)].ljust(len(before), b"\0"))
    done = make(collection, out)
    assert isinstance(done.exception, DataError)
    assert "1 inputs that were done before the command was stopped are gone" in str(done.exception)
    first.write_bytes(before)
    (collection / "9.mat").write_bytes(cheng_file())
    done = make(collection, out)
    assert isinstance(done.exception, UsageError)


def test_without_h5py_one_line_says_so(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matlab, "find_spec", lambda name: None)
    done = make(collection, tmp_path / "out")
    assert isinstance(done.exception, ModuleNotFoundError)
    assert done.exception.name == "h5py"
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_collection_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cvind.mat").write_bytes(b"x")
    done = make(tmp_path / "in", tmp_path / "out")
    assert isinstance(done.exception, DataError)
    assert "holds no .mat file of the collection" in str(done.exception)

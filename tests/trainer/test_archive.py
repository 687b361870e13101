"""Archives are untrusted: hostile ones are refused whole, in one line."""

from __future__ import annotations

import errno
import os
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, InputError
from trainer.data.archive import (
    CIRCLE,
    NAMELESS,
    NO_PICTURE,
    NOWHERE,
    PACKED_LINK,
    RUN_FOLDER,
    SPECIAL,
    FolderArchive,
    ZipArchive,
    open_archive,
)


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "C:/evil.jpg", "a\\..\\evil.jpg",
     "C:evil.jpg", "c:\\evil.jpg", "\\etc\\evil.jpg", "\\\\server\\share\\evil.jpg",
     "./C:/evil.jpg"],
)  # fmt: skip
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "x.zip", {"glioma/a.jpg": b"a", name: b"b"})
    with pytest.raises(DataError, match="points outside"):
        ZipArchive(path)


def test_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"glioma/a.png": bytes(40 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="beyond reason"):
        ZipArchive(path)


def test_repeated_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("glioma/a.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("glioma/a.jpg", b"two")
    with pytest.raises(DataError, match="two members"):
        ZipArchive(path)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04" + bytes(50)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable zip"):
        open_archive(path)


def test_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        open_archive(tmp_path / "nowhere")


def test_damaged_member_is_an_input_error_and_the_rest_is_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"first-first", "a/2.jpg": b"second"})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"first-first")
    raw[at] ^= 0xFF
    path.write_bytes(raw)
    source = ZipArchive(path)
    with pytest.raises(InputError):
        source.read("a/1.jpg")
    assert source.read("a/2.jpg") == b"second"


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"Training\\glioma\\a.png": b"a", "b/./c.png": b"c"})
    source = ZipArchive(path)
    assert source.names() == ["Training/glioma/a.png", "b/c.png"]
    assert source.read("Training/glioma/a.png") == b"a"
    for second in ("glioma\\a.png", "./glioma/a.png", "glioma//a.png"):
        path = make_zip(tmp_path / "twice.zip", {"glioma/a.png": b"a", second: b"b"})
        with pytest.raises(DataError, match="two members"):
            ZipArchive(path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("./\\:aC", max_size=6) | st.text(max_size=4), max_size=3))
def test_any_member_name_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        for name in names:
            info = zipfile.ZipInfo("a.png")
            info.filename = name + ".png" if len(name) % 2 else name
            archive.writestr(info, b"content")
    try:
        source = ZipArchive(path)
    except DataError:
        return
    for name in source.names():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert source.read(name) == b"content"


def test_links_in_a_zip_are_told_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("glioma/a.png", b"a")
        for name, kind in (("glioma/b.png", stat.S_IFLNK), ("notumor", stat.S_IFLNK),
                           ("glioma/pipe.png", stat.S_IFIFO)):  # fmt: skip
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (kind | 0o777) << 16
            archive.writestr(info, b"../else")
        archive.writestr(zipfile.ZipInfo("."), b"something")
    source = ZipArchive(path)
    assert source.names() == ["glioma/a.png"]
    assert source.others() == [
        ("glioma/b.png", PACKED_LINK), ("glioma/pipe.png", SPECIAL), ("notumor", PACKED_LINK),
        ("x.zip", NAMELESS),
    ]  # fmt: skip


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links to files and folders, within it and out of it, dead ones and circles."""
    data, away = tmp_path / "data", tmp_path / "away"
    for folder in (data / "glioma", away / "deep", away / ".store"):
        folder.mkdir(parents=True)
    (data / "glioma" / "a.png").write_bytes(b"a")
    (away / "deep" / "n.png").write_bytes(b"n")
    (away / ".store" / "x").write_bytes(b"s")
    (data / "notumor").symlink_to(away, target_is_directory=True)
    (data / "glioma" / "same.png").symlink_to("a.png")
    (data / "glioma" / "out.png").symlink_to(away / ".store" / "x")
    (data / "glioma" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (data / "glioma" / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (data / "glioma" / "up").symlink_to(data, target_is_directory=True)
    (data / "glioma" / "self").symlink_to("self")
    return data


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_is_what_it_leads_to(linked: Path) -> None:
    source = FolderArchive(linked)
    assert source.names() == [
        "glioma/a.png", "glioma/out.png", "glioma/same.png", "notumor/deep/n.png"
    ]  # fmt: skip
    assert [source.read(name) for name in source.names()] == [b"a", b"s", b"a", b"n"]
    assert source.others() == [
        ("glioma/dead.png", NOWHERE), ("glioma/gone", NOWHERE), ("glioma/self", NOWHERE),
        ("glioma/up", CIRCLE),
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_that_multiply_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of twenty folders leads twice to the next: a million ways to the last one."""
    monkeypatch.setattr("trainer.data.archive.MAX_MEMBERS", 1000)
    for i in range(20):
        (tmp_path / f"far-{i}").mkdir()
        for name in "ab":
            (tmp_path / f"far-{i}" / name).symlink_to(tmp_path / f"far-{i + 1}")
    with pytest.raises(DataError, match="more than 1,000 files and folders"):
        FolderArchive(tmp_path / "far-0").names()


def test_a_folder_that_may_not_be_read_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Training" / "notumor").mkdir(parents=True)
    (tmp_path / "Training" / "glioma").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:  # root may read everything
        if Path(path).name == "notumor":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="Training/notumor: Permission denied"):
        FolderArchive(tmp_path).names()


PNG = b"\x89PNG\r\n\x1a\n"
MEMBERS = {
    "b/2.JPG": b"x", "a/1.png": b"x", "a/notes.txt": b"x", "a/photo.jfif": b"\xff\xd8\xff\xe0",
    "a/noext": PNG, "a/wrong.dat": PNG, "a/scan.dcm": b"x", "a/IM1": bytes(128) + b"DICM",
    "a/DICOMDIR": bytes(128) + b"DICM", "a/two.hdr": b"x", "a/two.img": b"y", "a/alone.hdr": b"x",
    "a/v.nii.gz": b"\x1f\x8b", "a/x.tar.gz": b"\x1f\x8b", "a/._1.png": b"x",
    "b/dicomdir": bytes(128) + b"DICM",
    "runs/latest/run.json": b"{}", "runs/latest/fold-1/confusion.png": PNG, "a/.x/1.png": b"x",
}  # fmt: skip
PICTURES = ["a/1.png", "a/noext", "a/photo.jfif", "a/wrong.dat", "b/2.JPG"]
VOLUMES = ["a/IM1", "a/alone.hdr", "a/scan.dcm", "a/two.img", "a/v.nii.gz"]
HIDDEN = ("__MACOSX", "@eaDir", ".Trash-1000", ".ipynb_checkpoints", "#recycle", "$RECYCLE.BIN")


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_a_picture_and_what_is_told(tmp_path: Path, packed: bool) -> None:
    members = MEMBERS | {f"{name}/a/1.png": b"x" for name in HIDDEN}
    if packed:
        source = open_archive(make_zip(tmp_path / "x.zip", members))
    else:
        for name, data in members.items():
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / name).write_bytes(data)
        source = open_archive(tmp_path / "f")
    assert source.names() == sorted(PICTURES + VOLUMES)
    assert source.others() == [
        ("a/DICOMDIR", NO_PICTURE), ("a/notes.txt", NO_PICTURE), ("a/x.tar.gz", NO_PICTURE),
        ("b/dicomdir", NO_PICTURE), ("runs/latest", RUN_FOLDER),
    ]  # fmt: skip
    whole = open_archive(tmp_path / ("x.zip" if packed else "f"), every=True)
    assert whole.names() == sorted(
        [*PICTURES, *VOLUMES, "a/two.hdr", "a/DICOMDIR", "a/notes.txt", "a/x.tar.gz", "b/dicomdir"]
    )
    assert whole.others() == [("runs/latest", RUN_FOLDER)]
    assert [whole.read(f"a/two.{half}") for half in ("hdr", "img")] == [b"x", b"y"]
    assert source.read("a/noext") == PNG


def test_a_hidden_folder_may_hold_the_data(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "a").mkdir(parents=True)
    (tmp_path / ".cache" / "a" / "1.png").write_bytes(b"x")
    assert open_archive(tmp_path / ".cache").names() == ["a/1.png"]

"""Archives are untrusted: hostile ones are refused whole, in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edge_runtime.errors import DataError, InputError
from trainer.data.archive import FolderSource, ZipSource, open_source


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "C:/evil.jpg", "a\\..\\evil.jpg"]
)
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "x.zip", {"glioma/a.jpg": b"a", name: b"b"})
    with pytest.raises(DataError, match="points outside"):
        ZipSource(path)


def test_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"glioma/a.png": bytes(40 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="beyond reason"):
        ZipSource(path)


def test_repeated_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("glioma/a.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("glioma/a.jpg", b"two")
    with pytest.raises(DataError, match="two members"):
        ZipSource(path)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04" + bytes(50)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable zip"):
        open_source(path)


def test_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        open_source(tmp_path / "nowhere")


def test_damaged_member_is_an_input_error_and_the_rest_is_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"first-first", "a/2.jpg": b"second"})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"first-first")
    raw[at] ^= 0xFF
    path.write_bytes(raw)
    source = ZipSource(path)
    with pytest.raises(InputError):
        source.read("a/1.jpg")
    assert source.read("a/2.jpg") == b"second"


def test_only_images_are_listed_sorted(tmp_path: Path) -> None:
    members = {"b/2.JPG": b"x", "a/1.png": b"x", "a/notes.txt": b"x", "__MACOSX/a/1.png": b"x",
               "a/._1.png": b"x"}  # fmt: skip
    assert ZipSource(make_zip(tmp_path / "x.zip", members)).names() == ["a/1.png", "b/2.JPG"]
    for name, data in members.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
    assert "a/1.png" in FolderSource(tmp_path / "f").names()

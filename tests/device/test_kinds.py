"""The table of kinds of files is what everything asks that must know one from another."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.classifier import Classifier
from edge_runtime.commands.classify import classify
from edge_runtime.errors import InputError
from edge_runtime.imaging import kinds
from edge_runtime.imaging.decode import decode, read_header
from edge_runtime.imaging.headers import Header
from edge_runtime.imaging.kinds import (
    GZIP,
    HEAD,
    KINDS,
    PICTURE_SUFFIXES,
    SUFFIXES,
    Kind,
    gzipped_kind,
    halves_of,
    kind_named,
    kind_of,
    kinds_in_words,
    other_halves,
    picture_kind,
    refusal,
)
from edge_runtime.imaging.limits import DEFAULT_LIMITS
from edge_runtime.imaging.readers import open_slices

NAMES = [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_every_kind_has_a_reader_with_the_one_signature(kind: object) -> None:
    """Looked at without importing it: its package may be missing."""
    spec = find_spec(f"edge_runtime.imaging.{kind.module}")
    assert spec is not None
    tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
    (read,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "read")
    assert [arg.arg for arg in read.args.args] == ["data", "limits", "plane", "volume"]


def test_no_two_kinds_share_a_name_or_a_suffix() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)
    assert sum(kind.gzipped for kind in KINDS) == 1, "a gzip file cannot be taken for two"


def test_every_picture_has_a_parser_of_its_header() -> None:
    for kind in KINDS:
        assert kind.is_picture == bool(kind.header)
        for place in filter(None, (kind.header, kind.repair, kind.pixels)):
            module, _, function = place.partition(".")
            assert callable(getattr(import_module(f"edge_runtime.imaging.{module}"), function))


def test_a_new_picture_is_a_row_and_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppm = b"P6 200 200 255\n" + np.repeat(draw_slice(1), 3).tobytes()
    with pytest.raises(InputError, match="Netpbm"):
        decode(ppm)
    module = ModuleType("edge_runtime.imaging.netpbm")
    module.header = lambda data: Header("ppm", *map(int, data.split(maxsplit=4)[1:3]), 3, 8, 1)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = Kind("ppm", "PPM", (".ppm",), lambda data: data.startswith(b"P6"), "decode",
               header="netpbm.header")  # fmt: skip
    monkeypatch.setattr(kinds, "KINDS", (*KINDS, row))
    monkeypatch.setattr(kinds, "_PICTURES", (*kinds._PICTURES, row))
    assert (decode(ppm) == draw_slice(1)).all()
    (tmp_path / "a.ppm").write_bytes(ppm)
    (tmp_path / "half.ppm").write_bytes(ppm[:99])
    (tmp_path / "wide.ppm").write_bytes(b"P6 99999 99999 255\n")
    names = [tmp_path / f"{name}.ppm" for name in ("a", "half", "wide")]
    errors = [answer.error for answer in Classifier().classify_many(names)]
    assert errors[0] is None
    assert "over the limit" in str(errors[2])


def test_content_decides_and_a_name_only_hints() -> None:
    for suffix in (".jpg", ".png", ".bmp", ".tiff", ".webp"):
        data = encode(draw_slice(1), suffix)
        kind = kind_of(data[:HEAD])
        assert kind is kind_named(f"a/B{suffix.upper()}") is picture_kind(data)
        header = read_header(data)
        assert header is not None
        assert header.format == kind.name
        assert suffix in PICTURE_SUFFIXES
    assert kind_named("notes.txt") is kind_of(b"notes") is None


def test_a_preamble_that_is_another_header_does_not_hide_dicom() -> None:
    """Slide scanners write files that are TIFF and DICOM at once."""
    both = b"II*\0".ljust(128, b"\0") + b"DICM"
    kind, picture = kind_of(both), picture_kind(both)
    assert kind is not None
    assert picture is not None
    assert (kind.name, picture.name) == ("dicom", "tiff")


def test_a_gzip_file_is_taken_for_a_volume_only_where_it_is_opened() -> None:
    packed = GZIP + bytes(400)
    assert kind_of(packed) is None
    kind = gzipped_kind(packed)
    assert kind is not None
    assert kind is kind_named("x.nii.gz")
    assert gzipped_kind(bytes(400)) is None
    with pytest.raises(InputError, match="a gzip file: unpack it first"):
        decode(packed)


def test_halves_of_a_pair_are_told_by_their_names() -> None:
    assert halves_of("A.HDR") == halves_of("a.img") == (".hdr", ".img")
    assert halves_of("a.nii") == halves_of("hdr") == ()
    assert other_halves("a.hdr") == ("a.img", "a.IMG")
    assert other_halves("A.IMG") == ("A.HDR", "A.hdr")
    assert other_halves("a.nii") == ()


def test_what_is_not_read_is_refused_in_one_way() -> None:
    for data in (b"%PDF-1.7", b"nothing that anyone knows"):
        for read in (decode, open_slices):
            with pytest.raises(InputError) as caught:
                read(data)
            assert str(caught.value) == refusal(data)


def test_the_header_of_a_picture_refuses_before_a_slice_is_asked_for() -> None:
    whole = encode(draw_slice(1), ".png")
    stack = open_slices(whole, DEFAULT_LIMITS)
    assert (stack.length, [gray.shape for gray in stack.grays]) == (1, [(200, 200)])
    with pytest.raises(InputError, match="damaged"):
        open_slices(whole[:40])


def test_the_help_names_every_kind() -> None:
    words = kinds_in_words()
    for kind in KINDS:
        assert kind.title in words
        assert kind.is_picture or all(suffix in words for suffix in kind.suffixes + kind.halves)
        assert kind.extra in words
    done = CliRunner().invoke(classify, ["--help"])
    assert words.partition(";")[0] in " ".join(done.output.split())

"""Whatever knows the formats knows them from the registry's rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_runtime.model.backends import BACKENDS
from export.commands.export import command
from export.formats import FORMATS, as_markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_an_option_with_its_help(name: str) -> None:
    (flag,) = [p for p in command.params if f"--{name}" in p.opts]
    assert flag.is_flag
    assert flag.help == FORMATS[name].about + "."


def test_rows_can_be_told_apart() -> None:
    assert len({(form.kind, form.scheme) for form in FORMATS.values()}) == len(FORMATS)
    for name, form in FORMATS.items():
        assert form.name == name
        assert set(form.runtimes) <= set(BACKENDS)
        assert form.file_name("m") == f"m-{name}.{form.kind}"


def test_without_a_format_all_are_named(tmp_path: Path) -> None:
    message = str(CliRunner().invoke(command, [str(tmp_path)]).exception)
    assert all(f"--{name}" in message for name in FORMATS)


def test_the_documents_hold_the_table() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(as_markdown() in page.read_text("utf-8") for page in pages), as_markdown()

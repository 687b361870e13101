"""The HTML pages' templates, each beside the module that fills it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def page_environment(folder: Path) -> Any:
    """A Jinja environment for the templates of a folder, which escapes every text and refuses a
    name that it does not know."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

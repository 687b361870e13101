"""The HTML pages' templates, which lie beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def page_environment() -> Any:
    """A Jinja environment that escapes every text and refuses a name that it does not know."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

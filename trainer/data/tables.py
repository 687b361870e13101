"""CSV tables that say something of the images of a data set."""

from __future__ import annotations

import csv
import os
from collections.abc import Container, Sequence
from pathlib import Path

from edge_runtime.errors import DataError, one_line


def read_table(path: str | os.PathLike[str], needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV with a header; empty text where a row is short.

    Raises:
        DataError: unreadable, or without one of the `needed` columns.
    """
    table = Path(path)
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := set(needed) - set(reader.fieldnames or ()):
                raise DataError(
                    f"{table.name}: need the columns {', '.join(needed)}; "
                    f"missing: {', '.join(sorted(missing))}"
                )
            return [{k: v or "" for k, v in row.items() if isinstance(k, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table.name}: cannot be read as CSV: {one_line(error)}") from None


def key_of(name: str, paths: Container[str]) -> str | None:
    """What a table calls the image `name`: a zip may wrap everything in folders more than the
    table knows. None where the table does not know it."""
    while name not in paths:
        if "/" not in name:
            return None
        name = name.partition("/")[2]
    return name

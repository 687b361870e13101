"""CSV tables that say something of the images of a data set, and tables of what was found.

What is written is guarded against formulas, what is read loses the guard: see `tables` of the
device side.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.limits import ImageLimits, read_file
from edge_runtime.tables import guard, unguard

if TYPE_CHECKING:
    import pandas as pd

MAX_TABLE_BYTES = 64 << 20  # a row takes about a hundred


def read_table(path: str | os.PathLike[str], needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV with a header; empty text where a row is short.

    Raises:
        DataError: unreadable, no regular file, over MAX_TABLE_BYTES, or without one of the
            `needed` columns.
    """
    table = Path(path)
    try:
        text = read_file(table, ImageLimits(max_bytes=MAX_TABLE_BYTES)).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = list(reader.fieldnames or ())
        if len(columns) == 1 and re.search("[;\t]", columns[0]):
            raise DataError(f"{table.name}: no commas between its columns: save it with commas")
        for name in needed:
            if columns.count(name) > 1:
                raise DataError(f"{table.name}: two columns are called {name}")
        if missing := set(needed) - set(columns):
            raise DataError(
                f"{table.name}: need the columns {', '.join(needed)}; "
                f"missing: {', '.join(sorted(missing))}"
            )
        return [
            {k: unguard(v or "") for k, v in row.items() if isinstance(k, str)} for row in reader
        ]
    except UnicodeDecodeError:
        raise DataError(f"{table.name}: cannot be read as CSV: save it as UTF-8") from None
    except (InputError, csv.Error) as error:
        raise DataError(f"{table.name}: cannot be read as CSV: {one_line(error)}") from None


def key_of(name: str, paths: Container[str], prefix: str = "") -> str | None:
    """What a table calls the image `name`: a zip may wrap everything in folders more than the
    table knows. None where the table does not know it.

    Args:
        prefix: what the name begins with in the table too: the collection, among several.
    """
    inner = name.removeprefix(prefix)
    while prefix + inner not in paths:
        if "/" not in inner:
            return None
        inner = inner.partition("/")[2]
    return prefix + inner


def first_folder(name: str) -> str:
    """A path's first folder, with its slash."""
    folder, slash, _ = name.partition("/")
    return folder + slash


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as CSV with LF line ends.

    Every text is quoted where one holds a carriage return, which Python's writer leaves bare.
    """
    cells = [[guard(value) for value in row] for row in rows]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(columns)
    careful = any("\r" in value for row in cells for value in row)
    quoting: Any = csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(cells)
    return text.getvalue()


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV with LF line ends; numbers stand as they are.

    Every text is quoted where one holds a carriage return, which CSV writers leave bare.
    """
    texts = table.select_dtypes(exclude="number")
    guarded = table.assign(**{name: texts[name].map(_cell) for name in texts.columns})
    careful = any("\r" in str(value) for name in texts for value in guarded[name])
    quoting: Any = csv.QUOTE_NONNUMERIC if careful else csv.QUOTE_MINIMAL
    return str(guarded.to_csv(index=False, lineterminator="\n", quoting=quoting))


def from_csv(text: str) -> pd.DataFrame:
    """A table that `to_csv` wrote, every cell a text.

    Raises:
        ValueError: no such table.
    """
    import pandas as pd

    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    for name in table.columns:
        table[name] = table[name].map(unguard)
    return table


def _cell(value: object) -> object:
    return guard(value) if isinstance(value, str) else value

"""Cells of CSV files that a spreadsheet must not take for formulas.

A file's name may come from anywhere, and a spreadsheet runs what begins with `=` (OWASP, "CSV
Injection"). Every table that this project writes goes through `guard`; every one that it reads
back goes through `unguard`, so that names stay what they are.
"""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
MARK = "'"  # spreadsheets take what follows for text


def guard(text: str) -> str:
    """`text` as a cell: with an apostrophe before what a spreadsheet could take for a formula.

    A text that looks guarded already gets one more, so that `unguard` gives back any text.
    """
    return MARK + text if text.lstrip(MARK).startswith(FORMULA) else text


def unguard(cell: str) -> str:
    """The text that `guard` made a cell of."""
    return cell[1:] if cell.startswith(MARK) and cell.lstrip(MARK).startswith(FORMULA) else cell

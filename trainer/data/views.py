"""How a slice was taken, its view: the plane and the sequence, in one spelling each.

They come from the columns `plane` and `sequence` of a table of groups or, of a whole source whose
table says nothing, from its entry in a data card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge_runtime.decision.view import LONGEST, is_value
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.studies.sequences import SEQUENCES, sequence_in

UNKNOWN = ("", "-", "?", "n/a", "na", "nan", "none", "null", "unknown")  # in lower case
_PLANE_WORDS = {
    "ax": "axial", "tra": "axial", "trans": "axial", "transverse": "axial",
    "transversal": "axial", "cor": "coronal", "sag": "sagittal",
}  # fmt: skip


class SourceView(NamedTuple):
    """What a card says of all slices of a source; empty where it says nothing."""

    source: str
    plane: str = ""
    sequence: str = ""


def normalise_plane(text: str) -> str:
    """A plane in the words of `geometry.PLANES`; a spelling that is not known stays as it is, and
    what means that nobody knows is empty."""
    word = text.strip().lower()
    if word in UNKNOWN:
        return ""
    word = _PLANE_WORDS.get(word, word)
    return word if word in PLANES else text.strip()


def normalise_sequence(text: str) -> str:
    """A sequence in the words of `sequences.SEQUENCES`, likewise."""
    word = text.strip()
    if word in SEQUENCES or word.lower() in UNKNOWN:
        return word if word in SEQUENCES else ""
    return sequence_in(word) or word


def normalised(
    texts: Sequence[str], normalise: Callable[[str], str], what: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cells of a column in one spelling, and a sentence on those that can be none.

    Args:
        what: the column's name.
    """
    known = {text: normalise(text) for text in dict.fromkeys(texts)}
    wrong = {text for text, value in known.items() if value and not is_value(value)}
    cells = tuple("" if text in wrong else known[text] for text in texts)
    if not wrong:
        return cells, ()
    count = sum(text in wrong for text in texts)
    return cells, (
        f"{count:,} slices have a {what} that is longer than {LONGEST} characters or does not "
        f"show, such as {min(wrong)[:LONGEST]!a}; it is taken as unknown",
    )

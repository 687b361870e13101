"""The folder of an audit: audit.json, groups.csv and audit.html, one page without the network."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.files import write_text
from edge_runtime.imaging.decode import decode
from edge_runtime.tables import guard
from trainer.audit.examine import GROUP_COLUMNS, Audit, share
from trainer.data.archive import ImageArchive
from trainer.report.templates import page_environment
from trainer.run import dump_json

PICTURE_SIZE = 128  # pixels of the longer side of a picture on the page
CONFLICTS = 8  # pairs with pictures
ODD = 6  # pictures of each kind of oddity
QUALITY = 80
NAMES = {
    "tiny": "Tiny",
    "not_square": "Not square",
    "colour": "Coloured",
    "sixteen_bit": "More than 8 bits",
    "not_mri_like": "Not like an MRI slice",
}


def write_audit(found: Audit, archive: ImageArchive, out: Path) -> None:
    """Write the three files, each whole or not at all; files of an earlier audit are replaced.

    Args:
        archive: the audited data, of which the page shows some pictures.
    """
    write_text(out / "groups.csv", as_csv(found.groups))
    pictures = {path: uri for path in shown(found.result) if (uri := picture(archive, path))}
    write_text(out / "audit.html", as_html(found.result, pictures))
    write_text(out / "audit.json", dump_json(found.result))


def as_csv(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of GROUP_COLUMNS as CSV with LF line ends.

    Every text is quoted: Python's writer leaves a carriage return in a file name bare.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(GROUP_COLUMNS)
    careful = any("\r" in value for row in rows for value in row)
    quoting: Any = csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator="\n", quoting=quoting)
    writer.writerows([guard(value) for value in row] for row in rows)
    return text.getvalue()


def as_html(result: dict[str, Any], pictures: dict[str, str]) -> str:
    """The page.

    Args:
        result: the content of audit.json.
        pictures: data URI by path; a path without one is shown by name only.
    """
    pages = page_environment(Path(__file__).parent)
    pages.filters["thousands"] = lambda value: f"{value:,}"
    page: str = pages.get_template("audit.html").render(
        audit=result, pictures=pictures, conflict_pairs=CONFLICTS, odd_pictures=ODD, names=NAMES,
        share=share,
    )  # fmt: skip
    return page.lstrip()


def shown(result: dict[str, Any]) -> Iterator[str]:
    """The paths of the images that the page shows as pictures."""
    pairs = [*result["conflicts"]["pairs"][:CONFLICTS], *result["leak"]["examples"]]
    for pair in pairs:
        yield from (pair["first"], pair["second"])
    for kind in result["oddities"].values():
        yield from _paths(kind["examples"][:ODD])


def picture(archive: ImageArchive, path: str) -> str | None:
    """A small gray JPEG as a data URI; None where the file can no longer be read."""
    import cv2

    try:
        gray = decode(archive.read(path))
    except InputError:
        return None
    height, width = gray.shape
    scale = PICTURE_SIZE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(gray, size, interpolation=method)
    encoded: np.ndarray = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _paths(examples: Iterable[Any]) -> Iterator[str]:
    for example in examples:
        yield example if isinstance(example, str) else example["path"]

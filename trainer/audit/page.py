"""The folder of an audit: audit.json, groups.csv and audit.html, one page without the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_text
from edge_runtime.json_text import parse_json
from edge_runtime.model.metadata import INTENDED_USE
from trainer.audit.examine import Audit, share
from trainer.audit.groups import GROUP_COLUMNS, as_csv, digest_of
from trainer.data.archive import ImageArchive
from trainer.data.reading import read_again
from trainer.report.templates import inline_picture, page_environment
from trainer.run import dump_json

PICTURE_SIZE = 128  # pixels of the longer side of a picture on the page
CONFLICTS = 8  # pairs with pictures
ODD = 6  # pictures of each kind of oddity
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
    pictures = small_pictures(archive, shown(found.result))
    write_text(out / "audit.html", as_html(found.result, pictures))
    write_text(out / "audit.json", dump_json(found.result))


def check_out(out: Path) -> None:
    """Refuse a folder whose groups.csv is not what an earlier audit left there: it may be the
    data's own table, or one that was corrected by hand.

    Raises:
        UsageError: there is such a table.
    """
    table = out / "groups.csv"
    if not table.exists():
        return
    try:
        before = parse_json((out / "audit.json").read_text("utf-8"))
        content = table.read_bytes()
        # Version 0.1.0 kept no digest.
        kept = before.get("groups_csv_sha256")
        header = f"{','.join(GROUP_COLUMNS)}\n".encode()
        own = content.startswith(header) if kept is None else digest_of(content) == kept
    except (OSError, ValueError, AttributeError):  # the last: JSON, but no object
        own = False
    if not own:
        raise UsageError(
            f"--out {out} holds a groups.csv that no audit left as it is, and would replace it; "
            "name another folder"
        )


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
        share=share, intended_use=INTENDED_USE,
    )  # fmt: skip
    return page.lstrip()


def shown(result: dict[str, Any]) -> Iterator[str]:
    """The paths of the images that the page shows as pictures."""
    pairs = [*result["conflicts"]["pairs"][:CONFLICTS], *result["leak"]["examples"]]
    for pair in pairs:
        yield from (pair["first"], pair["second"])
    for kind in result["oddities"].values():
        yield from _paths(kind["examples"][:ODD])


def small_pictures(archive: ImageArchive, paths: Iterable[str]) -> dict[str, str]:
    """Small gray JPEGs as data URIs, by path, of the images that can still be read."""
    try:
        return {path: _picture(gray) for path, gray in read_again(archive, paths)}
    except DataError:
        return {}


def _picture(gray: np.ndarray) -> str:
    import cv2

    height, width = gray.shape
    scale = PICTURE_SIZE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small: np.ndarray = cv2.resize(gray, size, interpolation=method)
    return inline_picture(small)


def _paths(examples: Iterable[Any]) -> Iterator[str]:
    for example in examples:
        yield example if isinstance(example, str) else example["path"]

"""A DICOMDIR (PS3.3, annex F): the index of a disc, which names the files on it.

It names the patient, too, of which nothing is read. No file is opened because an index names it:
what it names is looked for among the files of the drop.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.errors import InputError
from edge_runtime.files import Note
from edge_runtime.imaging.dicom_head import DAMAGED, read_elements
from edge_runtime.imaging.limits import ImageLimits

RECORDS, FILE = "DirectoryRecordSequence", "ReferencedFileID"
LONGEST = 256  # bytes of a file's name: by the book up to eight parts of eight letters


def files_named(data: bytes, limits: ImageLimits) -> list[tuple[str, ...]]:
    """The folders and the name of each file that an index names, beside the index.

    Raises:
        InputError: damaged, or too many records to be read.
    """
    try:
        head, _ = read_elements(data, limits, [RECORDS], ((RECORDS,),))
        named = []
        for record in head.get(RECORDS) or []:
            raw = record.get_item(FILE)
            if raw is not None and isinstance(raw.value, bytes):
                text = raw.value[:LONGEST].decode("ascii", "replace").strip("\0 ")
                if text:
                    named.append(tuple(part.strip("\0 ") for part in text.split("\\")))
        return named
    except InputError:
        raise
    except Exception:  # pydicom raises many kinds on a damaged file
        raise InputError(DAMAGED) from None


def notes_on(index: str, named: Iterable[tuple[str, ...]], present: Iterable[str]) -> list[Note]:
    """What is to be told of an index: names that point outside its folder, and missing files.

    Args:
        index: name of the index in the drop.
        present: names of all files in the drop.
    """
    folder = index.replace("\\", "/").rpartition("/")[0]
    known = {_folded(name) for name in present}
    outside, missing = [], []
    for parts in named:
        name = "/".join(parts)
        if not all(map(_is_plain, parts)):
            outside.append(name)
        elif _folded(f"{folder}/{name}" if folder else name) not in known:
            missing.append(name)
    return [
        Note(index, text.format(len(names)), f", such as {min(names)}")
        for text, names in (
            ("{} names that point outside its folder are refused", outside),
            ("names {} files that are not there", missing),
        )
        if names
    ]


def _is_plain(part: str) -> bool:
    """Whether a part of a name leads no further than into the folder before it."""
    return part not in ("", ".", "..") and not {"/", ":"} & {*part}


def _folded(name: str) -> str:
    """A name as discs and archives write it: in capitals or not, with a version or not."""
    return name.replace("\\", "/").casefold().removesuffix(";1").rstrip(".")

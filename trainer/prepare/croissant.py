"""A data set's description in Croissant, the JSON-LD format of MLCommons, for other programs.

Croissant Format Specification 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).
It names the files and what their columns mean:

    classes     the labels, an enumeration
    pictures    the picture files
    slices      the rows of groups.csv, each with its picture
    boxes       the rows of boxes.csv
    masks       the files of the tumours' outlines
    partial_…   the slices whose class is only known to be one of several, likewise

What nobody knows is left out, dates above all: the specification wants a date of publication, and
a data set that was just made has none.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from edge_runtime.errors import printable
from edge_runtime.model.metadata import INTENDED_USE
from edge_runtime.tables import FORMULA, MARK, guard
from trainer.data.boxes import COLUMNS as BOX_FRACTIONS
from trainer.data.card import ABOUT, CardText, Source
from trainer.prepare.rows import COLUMNS, Row, boxes_text, columns_of, groups_text

Json = dict[str, Any]

SPECIFICATION = "http://mlcommons.org/croissant/1.0"
# Its appendix 1, without the terms that no data set here has.
CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
MIME_TYPES = {
    ".bmp": "image/bmp",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
MEANINGS = {
    "path": "The picture's file, below the folder of the pictures",
    "label": "The class of the slice",
    "source": "The collection, hospital or scanner that it comes from",
    "patient": "A pseudonym of the patient; empty where nobody knows",
    "group": "Slices of one group show one patient or look alike: never split one",
    "plane": "axial, coronal or sagittal; empty where nobody knows",
    "sequence": "Such as T1; empty where nobody knows",
    "doubt": "Why the label is doubted; empty where it is not",
    "x_center": "The box's middle, as a fraction of the picture's width",
    "y_center": "The box's middle, as a fraction of the picture's height",
    "width": "As a fraction of the picture's width",
    "height": "As a fraction of the picture's height",
}
SET_OF_CLASSES = "One of several classes, joined by +; tumor is any tumour"

_CC = re.compile(r"CC[ -]BY((?:[ -](?:NC|ND|SA))*)[ -](\d\.\d)", re.IGNORECASE)
_CC0 = re.compile(r"CC0(?:[ -]1\.0)?", re.IGNORECASE)
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+([-+].*)?")  # semver.org
# What a reader of a table does to a cell, see `edge_runtime.tables`.
_UNGUARD = f"(?s)^(?:{MARK}(?={MARK}*[{re.escape(''.join(FORMULA))}]))?(.*)$"


def describe(
    files: Mapping[str, str],
    rows: Sequence[Row],
    partial: Sequence[Row],
    card: CardText,
    masks: str = "",
) -> str:
    """The text of croissant.json.

    Args:
        files: by key of the card (images, groups, boxes, partial, partial_groups): names relative
            to the description. What is missing is not described; `images` and `partial` are
            folders.
        rows, partial: what the tables hold.
        card: what is known of the data.
        masks: the folder of the masks, each of the name of its picture; empty without any.
    """
    distribution: list[Json] = []
    records: list[Json] = []
    if rows:
        records.append(_classes(rows))
    for key, of_rows, prefix in (("images", rows, ""), ("partial", partial, "partial_")):
        table = files.get("groups" if key == "images" else "partial_groups", "")
        pictures = f"{prefix}pictures" if key in files and of_rows else ""
        if pictures:
            kinds = {
                MIME_TYPES.get(_suffix(row.path), "application/octet-stream") for row in of_rows
            }
            distribution.append(_files(f"{pictures}-files", files[key], sorted(kinds)))
            records.append(_pictures(pictures, files[key]))
        if table:
            distribution.append(_table(table, groups_text(of_rows)))
        if table and of_rows:
            records.append(_slices(f"{prefix}slices", table, of_rows, pictures, not prefix))
    pictures = "pictures" if "images" in files and rows else ""
    if "boxes" in files:
        distribution.append(_table(files["boxes"], boxes_text(rows)))
        boxed = [row for row in rows if row.box is not None]
        records.append(_boxes(files["boxes"], boxed, pictures))
    if masks:
        distribution.append(_files("mask-files", masks, ["image/png"]))
        records.append(_masks(masks, pictures))
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": SPECIFICATION,
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": records,
        **_about(card),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def license_url(text: str) -> str:
    """Where a licence is to be read; the text itself where that is not known."""
    if _CC0.fullmatch(text):
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    if found := _CC.fullmatch(text):
        terms = "-".join(["by", *re.findall("[a-z]+", found[1].lower())])
        return f"https://creativecommons.org/licenses/{terms}/{found[2]}/"
    return text


def _about(card: CardText) -> Json:
    """What is known of the data set as a whole."""
    titles = card.joined("title") or ", ".join(source.name for source in card.sources)
    use = "" if INTENDED_USE in card.notes else INTENDED_USE
    said = [card.notes, use, f"Made by {card.made_by}."]
    content: Json = {
        "name": printable(titles) or "Brain MRI slices",
        "description": "\n".join(filter(None, said)),
        "isBasedOn": [_based_on(source) for source in card.sources],
        "license": list(
            dict.fromkeys(license_url(each.license) for each in card.sources if each.license)
        ),
        "citeAs": card.joined("citation"),
    }
    if len(card.sources) == 1:
        (source,) = card.sources
        content |= {"url": source.url, "version": _version(source.version)}
    return {key: value for key, value in content.items() if value not in ("", [], None)}


def _based_on(source: Source) -> Json:
    said = {key: getattr(source, key) for key in (*ABOUT, "version", "sha256")}
    said["license"] = license_url(source.license)
    said["name"] = said.pop("title") or source.name
    return {
        "@type": "sc:CreativeWork",
        "identifier": source.name,
        **{key: value for key, value in said.items() if value},
    }


def _version(text: str) -> int | str | None:
    """A source's version as that of what was made of it, where it is one as the specification has
    it: a number, or a semantic one."""
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    return text if _SEMANTIC.fullmatch(text) else None


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _table(name: str, text: str) -> Json:
    data = text.encode()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": "text/csv",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _files(identity: str, folder: str, kinds: Sequence[str]) -> Json:
    return {
        "@type": "cr:FileSet",
        "@id": identity,
        "name": identity,
        "encodingFormat": list(kinds),
        "includes": f"{glob.escape(folder)}/**",
    }


def _records(name: str, about: str, fields: Sequence[Json]) -> Json:
    """A set of records; the first field is the key."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        "key": {"@id": fields[0]["@id"]},
        "field": list(fields),
    }


def _field(records: str, name: str, data_type: str | list[str], about: str, source: Json) -> Json:
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{name}",
        "name": name,
        "description": about,
        "dataType": data_type,
        "source": source,
    }


def _column(records: str, table: str, name: str, rows: Sequence[Row]) -> Json:
    """A column of a table: a number of a box, or a text.

    The guard of texts is taken off where there is one; readers take a column of nothing but digits
    for numbers, which no expression fits.
    """
    source: Json = {"fileObject": {"@id": table}, "extract": {"column": name}}
    if name in BOX_FRACTIONS:
        return _field(records, name, "sc:Float", MEANINGS[name], source)
    if any(guard(text) != text for text in (getattr(row, name) for row in rows)):
        source["transform"] = {"regex": _UNGUARD}
    return _field(records, name, "sc:Text", MEANINGS[name], source)


def _of_files(folder: str, files: str, what: str) -> Json:
    """The path of a file below a folder, or its content."""
    source: Json = {"fileSet": {"@id": files}, "extract": {"fileProperty": what}}
    if what == "fullpath":
        # Readers that join may apply it twice: what has no folder but its class stays.
        source["transform"] = {"regex": f"(?s)^(?:{re.escape(folder)}/(?=.*/))?(.*)$"}
    return source


def _refers(field: Json, other: str) -> Json:
    """A field whose values are those of another."""
    return {**field, "references": {"field": {"@id": other}}}


def _classes(rows: Sequence[Row]) -> Json:
    name: Json = {"@type": "cr:Field", "@id": "classes/name", "name": "name", "dataType": "sc:Text"}
    records = _records("classes", "The classes", [name])
    labels = sorted({row.label for row in rows})
    data = [{"classes/name": label} for label in labels]
    return {**records, "dataType": "sc:Enumeration", "data": data}


def _pictures(name: str, folder: str) -> Json:
    files = f"{name}-files"
    path = _of_files(folder, files, "fullpath")
    content = _of_files(folder, files, "content")
    fields = [
        _field(name, "path", "sc:Text", MEANINGS["path"], path),
        _field(name, "image", "sc:ImageObject", "The picture, of gray levels", content),
    ]
    return _records(name, "The picture files", fields)


def _slices(name: str, table: str, rows: Sequence[Row], pictures: str, typed: bool) -> Json:
    """The rows of a table of groups.

    Args:
        pictures: the records of their pictures; empty without any.
        typed: their labels are classes.
    """
    fields = [_column(name, table, column, rows) for column in columns_of(rows)]
    label = fields[COLUMNS.index("label")]
    label["dataType"] = ["sc:Text", "cr:Label"]
    if typed:
        fields[COLUMNS.index("label")] = _refers(label, "classes/name")
    else:
        label["description"] = SET_OF_CLASSES
    if pictures:
        fields[0] = _refers(fields[0], f"{pictures}/path")
        source = {"field": {"@id": f"{pictures}/image"}}
        fields.append(_field(name, "image", "sc:ImageObject", "The picture", source))
    return _records(name, "The slices and what is known of them", fields)


def _boxes(table: str, rows: Sequence[Row], pictures: str) -> Json:
    fields = [_column("boxes", table, column, rows) for column in ("path", *BOX_FRACTIONS)]
    if pictures:
        fields[0] = _refers(fields[0], f"{pictures}/path")
    return _records("boxes", "The tumour's box in a slice", fields)


def _masks(folder: str, pictures: str) -> Json:
    files = "mask-files"
    path = _of_files(folder, files, "fullpath")
    content = _of_files(folder, files, "content")
    kind = ["sc:ImageObject", "cr:SegmentationMask"]
    fields = [
        _field("masks", "path", "sc:Text", "The path of the picture that it belongs to", path),
        _field("masks", "mask", kind, "The tumour, white on black", content),
    ]
    if pictures:
        fields[0] = _refers(fields[0], f"{pictures}/path")
    return _records("masks", "The tumour's outline in a slice", fields)

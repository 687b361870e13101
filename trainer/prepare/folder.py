"""The folder that every `btc-data` command leaves, and how a stopped command goes on with it.

    slices/CLASS/NAME.png   the pictures, one folder a class
    partial/CLASSES/…       those whose class is only known to be one of several
    masks/CLASS/NAME.png    the tumour's outline, white on black, where one is known
    groups.csv              path, label, source, patient, group, plane, sequence of each slice
    partial.csv             the same of those in partial/
    boxes.csv               the tumours' boxes
    data.toml               the data card, which names all of it: written last
    croissant.json          the same for other programs

While it is made, a hidden journal holds what is done: one line an input, written once its pictures
are. Inputs stand in it as digests, since the path of a hospital's file may name a patient.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import edge_runtime
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_text
from trainer.data.card import NAME, CardText, written_card
from trainer.data.partial_labels import is_partial
from trainer.prepare.croissant import describe
from trainer.prepare.rows import Row, boxes_text, groups_text

SLICES, PARTIAL, MASKS = "slices", "partial", "masks"
GROUPS, PARTIAL_GROUPS, BOXES = "groups.csv", "partial.csv", "boxes.csv"
CROISSANT = "croissant.json"
JOURNAL = ".btc-data.jsonl"
PART = ".part-"  # what files begin with while they are written, those of `files.replacing` too


class NewSlice(NamedTuple):
    """A slice to write: its picture file, what is known of it (`sha256` is filled in), and its mask
    as a PNG of the same size, if there is one."""

    encoded: bytes
    row: Row
    mask: bytes | None = None


class Dropped(NamedTuple):
    """What gave no slice, and why.

    Attributes:
        what: the input or a part of it, for the terminal; never written.
        reason: one line, without a name.
    """

    what: str
    reason: str


@dataclass
class Summary:
    """What a finished folder holds.

    Attributes:
        classes: number of slices by label, those of `partial` too.
        patients, groups, boxes: how many there are.
        dropped: how many inputs gave no slice, by reason.
    """

    classes: dict[str, int]
    patients: int
    groups: int
    boxes: int
    dropped: dict[str, int] = field(default_factory=dict)


class DataFolder:
    """A data set's folder while it is made.

    Args:
        out: the folder: new, empty, or what the same command left when it was stopped.
        settings: all that decides which bytes are written, ready for JSON: the command, its
            options, digests of tables. No names or paths of a hospital's files.
        labels: every label that may come. Those that name several classes, or a tumour of no
            stated type beside typed ones, go into `partial`.

    Raises:
        UsageError: `out` holds something else.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], labels: Iterable[str]) -> None:
        self.out = out
        known = sorted(set(labels))
        self._partial = {label for label in known if is_partial(label, known)}
        self._items: dict[str, list[str]] = {}  # digest of an input -> why parts were dropped
        self._rows: dict[str, Row] = {}  # by the file's path below the folder
        self._masks: set[str] = set()
        self._journal = out / JOURNAL
        self._begin({"labels": known, **settings})

    @property
    def resumed(self) -> int:
        """How many inputs were done before."""
        return self._resumed

    def dropped_of(self, item: str) -> list[str] | None:
        """Why parts of an input that was done before gave no slice; None where it was not done."""
        return self._items.get(_key(item))

    def add(self, item: str, slices: Iterable[NewSlice], dropped: Sequence[Dropped] = ()) -> None:
        """Write the slices of an input, then note that it is done.

        Args:
            item: tells the input from all others of the command, such as its path.

        Raises:
            DataError: two slices have one path.
        """
        rows: list[Row] = []
        masks: dict[str, str] = {}
        for each in slices:
            row = replace(each.row, sha256=hashlib.sha256(each.encoded).hexdigest())
            place = self._place(row)
            if place in self._rows:
                raise DataError(f"two slices would be {place}")
            if each.mask is not None and row.path in self._masks:
                raise DataError(f"two masks would be {MASKS}/{row.path}")
            _write(self.out / place, each.encoded)
            if each.mask is not None:
                _write(self.out / MASKS / row.path, each.mask)
                masks[row.path] = hashlib.sha256(each.mask).hexdigest()
                self._masks.add(row.path)
            self._rows[place] = row
            rows.append(row)
        entry = {
            "item": _key(item),
            "rows": [asdict(row) for row in rows],
            "masks": masks,
            "dropped": [each.reason for each in dropped],
        }
        self._keep(entry)
        _append(self._journal, json.dumps(entry) + "\n")

    def finish(self, card: CardText, groups: Mapping[str, str] | None = None) -> Summary:
        """Write the tables and, last, the card; the journal goes.

        Args:
            card: what is known of the data; the files are filled in.
            groups: new names of groups, by name.

        Raises:
            DataError: no slice, or none of a single class.
        """
        if not self._rows:
            raise DataError(f"no slice for {self.out}: see the lines above")
        new = groups or {}
        whole = [
            replace(row, group=new.get(row.group, row.group))
            for _, row in sorted(self._rows.items())
        ]
        typed = [row for row in whole if row.label not in self._partial]
        partial = [row for row in whole if row.label in self._partial]
        if not typed:
            raise DataError(f"no slice for {self.out} but of one of several classes")
        write_description(self.out, SLICES, typed, card, partial, MASKS if self._masks else "")
        self._journal.unlink()
        dropped = [reason for reasons in self._items.values() for reason in reasons]
        return summary(whole, dropped)

    def _place(self, row: Row) -> str:
        """Where a slice lies below the folder."""
        return f"{PARTIAL if row.label in self._partial else SLICES}/{row.path}"

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Start the journal, or read it.

        A last line that was cut off, and an input of which a picture or mask is missing or altered,
        are not done.
        """
        self._resumed = 0
        head, *lines = claim(self.out, settings)
        kept = [head]
        for line in lines:
            try:
                entry = json.loads(line)
                whole = self._whole(entry)
            except (ValueError, KeyError, TypeError):  # cut off, or not from here
                continue
            if whole:
                self._keep(entry)
                kept.append(line)
                self._resumed += 1
        write_text(self._journal, "".join(f"{line}\n" for line in kept))

    def _keep(self, entry: Mapping[str, Any]) -> None:
        self._items[entry["item"]] = list(entry["dropped"])
        for saved in entry["rows"]:
            row = _row(saved)
            self._rows[self._place(row)] = row
        self._masks.update(entry["masks"])

    def _whole(self, entry: Mapping[str, Any]) -> bool:
        """Whether an input's pictures and masks are what was written."""
        rows = map(_row, entry["rows"])
        written = {self._place(row): row.sha256 for row in rows}
        written |= {f"{MASKS}/{path}": digest for path, digest in entry["masks"].items()}
        try:
            return all(
                hashlib.sha256((self.out / place).read_bytes()).hexdigest() == digest
                for place, digest in written.items()
            )
        except OSError:
            return False


def claim(out: Path, settings: Mapping[str, Any]) -> list[str]:
    """Take a folder to make, and give the lines of its journal: the first is of the settings.

    Args:
        out: new, empty, or what a command with the same settings left when it was stopped.
        settings: ready for JSON.

    Raises:
        UsageError: it holds something else.
    """
    head = json.dumps({"version": edge_runtime.__version__, **settings}, sort_keys=True)
    journal = out / JOURNAL
    try:
        lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    if not lines:
        check_free(out)
        write_text(journal, head + "\n")
        lines = [head]
    if lines[0] != head:
        raise UsageError(
            f"{out} holds what another command, or one with other options or inputs, began; give "
            "those again, or name another --out"
        )
    for path in out.rglob(f"{PART}*"):
        path.unlink()
    return lines


def _is_ours(name: str) -> bool:
    """Whether a file is one that a stopped command leaves before anything else."""
    return name == JOURNAL or name.startswith(PART)


def release(out: Path) -> None:
    """Give a claimed folder up if nothing came into it, so that another command may have it."""
    if [path.name for path in out.iterdir()] == [JOURNAL]:
        (out / JOURNAL).unlink()
        out.rmdir()


def check_free(out: Path) -> None:
    """Refuse a folder that holds something but what a stopped command left: before minutes of work.

    Raises:
        UsageError: it does.
    """
    if (out / JOURNAL).exists() and (out / JOURNAL).stat().st_size:
        return
    if out.exists() and any(not _is_ours(path.name) for path in out.iterdir()):
        raise UsageError(f"{out} is not empty; name another --out")


def write_description(
    out: Path,
    images: str,
    rows: Sequence[Row],
    card: CardText,
    partial: Sequence[Row] = (),
    masks: str = "",
) -> None:
    """Write the tables, croissant.json and the card of a folder whose pictures are there.

    Args:
        images: the folder of the pictures below `out`.
        rows, partial: sorted by path; without any, the card names no pictures.
        masks: the folder of the masks below `out`; empty without any.
    """
    files: dict[str, str] = {}
    if rows:
        write_text(out / GROUPS, groups_text(rows))
        files = {"images": images, "groups": GROUPS}
    if any(row.box is not None for row in rows):
        write_text(out / BOXES, boxes_text(rows))
        files["boxes"] = BOXES
    if partial:
        write_text(out / PARTIAL_GROUPS, groups_text(partial))
        files |= {"partial": PARTIAL, "partial_groups": PARTIAL_GROUPS}
    there = {row.label for row in rows}
    free = [label for label in card.tumour_free if label in there]
    write_text(out / CROISSANT, describe(files, rows, partial, card, masks))
    write_text(out / NAME, written_card(files, free, card))


def summary(rows: Sequence[Row], dropped: Sequence[str]) -> Summary:
    """Counts of slices, and of what was dropped."""
    labels, reasons = [row.label for row in rows], list(dropped)
    return Summary(
        {label: labels.count(label) for label in sorted(set(labels))},
        len({row.patient for row in rows} - {""}),
        len({row.group for row in rows} - {""}),
        sum(row.box is not None for row in rows),
        {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def content_digest(digests: Iterable[str]) -> str:
    """A digest over files, whatever they are called and in whichever order they come.

    Args:
        digests: the SHA-256 of each.
    """
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _key(item: str) -> str:
    return hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _row(saved: Mapping[str, Any]) -> Row:
    return Row(**{**saved, "box": None if saved["box"] is None else tuple(saved["box"])})


def _write(place: Path, data: bytes) -> None:
    """Write a file whole or not at all. Not flushed to the disk: a resumed command compares it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{PART}{place.name}")
    part.write_bytes(data)
    os.replace(part, place)


def _append(journal: Path, line: str) -> None:
    with open(journal, "a", encoding="utf-8") as stream:
        stream.write(line)

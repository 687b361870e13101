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
are. Inputs stand in it as digests, since the path of a hospital's file may name a patient. A lock
beside it keeps other processes away.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import edge_runtime
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_text
from edge_runtime.json_text import parse_json
from trainer.data.card import NAME, CardText, written_card
from trainer.data.partial_labels import is_partial
from trainer.prepare.croissant import describe
from trainer.prepare.rows import Row, boxes_text, groups_text

SLICES, PARTIAL, MASKS = "slices", "partial", "masks"
GROUPS, PARTIAL_GROUPS, BOXES = "groups.csv", "partial.csv", "boxes.csv"
CROISSANT = "croissant.json"
JOURNAL, LOCK = ".btc-data.jsonl", ".btc-data.lock"
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

    Attributes:
        resumed: how many inputs were done before.

    Raises:
        UsageError: `out` holds something else.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], labels: Iterable[str]) -> None:
        self.out = out
        known = sorted(set(labels))
        self._partial = {label for label in known if is_partial(label, known)}
        self._items: dict[str, list[str]] = {}  # digest of an input -> why parts were dropped
        self._asked: set[str] = set()  # of these, and those that are not done
        self._rows: dict[str, Row] = {}  # by the file's path below the folder
        self._masks: set[str] = set()
        self._claim = Claim(out, {"labels": known, **settings})
        self._begin()

    def dropped_of(self, item: str) -> list[str] | None:
        """Why parts of an input that was done before gave no slice; None where it was not done.

        `finish` wants to have been asked for each: one that nobody asks for is gone or altered.
        """
        self._asked.add(_key(item))
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
        self._items[_key(item)] = [each.reason for each in dropped]  # rows and masks are kept above
        self._asked.add(_key(item))
        self._claim.append(json.dumps(entry))

    def finish(self, card: CardText, groups: Mapping[str, str] | None = None) -> Summary:
        """Write the tables and, last, the card; the journal goes.

        Args:
            card: what is known of the data; the files are filled in.
            groups: new names of groups, by name.

        Raises:
            DataError: no slice, or none of a single class; or inputs that were done before are no
                longer what they were.
        """
        if gone := self._items.keys() - self._asked:
            raise DataError(
                f"{len(gone):,} inputs that were done before the command was stopped are gone or "
                f"have changed since: {self.out} is of the old ones; name another --out"
            )
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
        self._claim.end()
        dropped = [reason for reasons in self._items.values() for reason in reasons]
        return summary(whole, dropped)

    def _place(self, row: Row) -> str:
        """Where a slice lies below the folder."""
        return f"{PARTIAL if row.label in self._partial else SLICES}/{row.path}"

    def _begin(self) -> None:
        """Read the journal.

        A last line that was cut off, and an input of which a picture or mask is missing or altered,
        are not done.
        """
        kept = []
        for line in self._claim.lines:
            try:
                entry = parse_json(line)
                whole = self._whole(entry)
            except (ValueError, KeyError, TypeError):  # cut off, or not from here
                continue
            if whole:
                self._keep(entry)
                kept.append(line)
        self._claim.rewrite(kept)
        self.resumed = len(kept)

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


class Claim:
    """A folder that this process makes and no other, and its journal.

    Args:
        out: new, empty, or what a command with the same settings left when it was stopped.
        settings: ready for JSON: the journal's first line.

    Attributes:
        lines: of the journal, as it was found, after the first.

    Raises:
        UsageError: it holds something else, or another process makes it now.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        check_free(out)
        self._out, self._journal = out, out / JOURNAL
        self._head = json.dumps({"version": edge_runtime.__version__, **settings}, sort_keys=True)
        self._lock = _locked(out)
        check_free(out)  # it may have been finished in the meantime
        self.lines = self._read()
        for path in filter(Path.is_file, out.rglob(f"{PART}*")):
            path.unlink()

    def _read(self) -> list[str]:
        try:
            text = self._journal.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        if not text:
            self.rewrite([])
            return []
        head, *lines = text.splitlines()
        if head != self._head:
            raise UsageError(
                f"{self._out} holds what another command, or one with other options or data, "
                "began; give those again, or name another --out"
            )
        return lines

    def rewrite(self, lines: Sequence[str]) -> None:
        """Write the journal anew."""
        write_text(self._journal, "".join(f"{line}\n" for line in (self._head, *lines)))

    def append(self, line: str) -> None:
        """Add a line to the journal."""
        _append(self._journal, f"{line}\n")

    def end(self) -> None:
        """The folder is whole: nothing of the claim stays in it."""
        (self._out / LOCK).unlink(missing_ok=True)  # without the journal it would stay for ever
        self._journal.unlink()
        if self._lock is not None:
            self._lock.close()

    def give_up(self) -> None:
        """Free a folder into which nothing came, so that another command may have it."""
        if {path.name for path in self._out.iterdir()} <= {JOURNAL, LOCK}:
            self.end()
            self._out.rmdir()


def _locked(out: Path) -> IO[bytes] | None:
    """A file that keeps other processes from a folder while it is open, and after a kill no longer;
    None on Windows, which has no such locks.

    Raises:
        UsageError: another process has it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = open(out / LOCK, "ab")  # noqa: SIM115  open as long as the folder is made
    except OSError as error:
        error.filename = str(out)
        raise
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.close()
        raise UsageError(
            f"another process makes {out} now: wait for its end, or name another --out"
        ) from None
    except OSError:  # a file system without locks
        pass
    return lock


def _is_ours(name: str) -> bool:
    """Whether a file is one that a stopped command leaves before anything else."""
    return name in (JOURNAL, LOCK) or name.startswith(PART)


def check_free(out: Path) -> None:
    """Refuse a folder that holds something but what a stopped command left: before minutes of work.

    Raises:
        UsageError: it does.
    """
    if (out / JOURNAL).exists() and (out / JOURNAL).stat().st_size:
        return
    if out.exists() and any(not _is_ours(path.name) for path in out.iterdir()):
        # A command that was killed after its end is given again, too.
        whole = (
            ", or use it as it is: it has a card, so it is whole" if (out / NAME).exists() else ""
        )
        raise UsageError(f"{out} is not empty; name another --out{whole}")


def check_outside(out: Path, data: Path) -> None:
    """Refuse a folder to make that lies in the data, where a later run would find it, or around it.

    Raises:
        UsageError: it does.
    """
    whole, place = out.resolve(), data.resolve()
    if place == whole or place in whole.parents or whole in place.parents:
        raise UsageError(f"--out {out} and the input {data} lie in each other")


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
    return Summary(
        dict(sorted(Counter(row.label for row in rows).items())),
        len({row.patient for row in rows} - {""}),
        len({row.group for row in rows} - {""}),
        sum(row.box is not None for row in rows),
        dict(sorted(Counter(dropped).items())),
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
    part = place.with_name(f"{PART}{os.getpid()}")  # no longer than the longest name
    try:
        part.write_bytes(data)
        os.replace(part, place)
    except OSError as error:
        error.filename, error.filename2 = str(place), None  # nobody knows the other
        raise


def _append(journal: Path, line: str) -> None:
    with open(journal, "a", encoding="utf-8") as stream:
        stream.write(line)

"""Several data sets become one, in which look-alikes stand together.

    slices/INPUT/Training/CLASS/FILE   each picture as it was, byte for byte, below its input's name
    masks/…                            those of inputs that btc-data made, likewise
    conflicts.csv                      look-alikes whose labels exclude each other

An input is a folder or zip with a card (see `trainer.data.card`), or one of class folders alone.
Its tables hold: the names of their groups are its own, see `_named_groups`; what look-alikes add
to them, see `copies`. Each picture is read once for its facts and once to be copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.files import write_text
from edge_runtime.labels import NO_TUMOR, normalise_label
from trainer.data.archive import ImageArchive
from trainer.data.card import ABOUT, CardText, Source, written_card
from trainer.data.near_duplicates import THRESHOLD, TURN_NAMES
from trainer.data.partial_labels import is_partial
from trainer.data.reading import Progress
from trainer.data.tables import csv_text
from trainer.prepare.folder import (
    DataFolder,
    NewSlice,
    Summary,
    check_free,
    check_outside,
    content_digest,
)
from trainer.prepare.join.copies import NONE, Found, Slices, compare
from trainer.prepare.join.inputs import Fact, Input, Say, Skip, read_input
from trainer.prepare.rows import Row

CONFLICTS = "conflicts.csv"
CONFLICT_COLUMNS = ("path", "label", "other_path", "other_label", "correlation", "turn")
IN_CONFLICT = "it looks like a slice whose label excludes its own"
TOLD = 5  # of what may be many
CHUNK = 256  # slices that are noted as done at a time
SPLIT_FOLDERS = {"training": "Training", "testing": "Testing"}


@dataclass(frozen=True)
class OfInput:
    """What became of an input.

    Attributes:
        name: what it is called.
        slices: how many.
        groups: of its table; 0 where it has none.
        became: how many groups of the result those are.
        crossing: pairs of its look-alikes that its table has in two groups, by turn.
    """

    name: str
    slices: int
    groups: int
    became: int
    crossing: Mapping[str, int]


@dataclass(frozen=True)
class Joined:
    """What a join made.

    Attributes:
        summary: of the folder.
        inputs: in their order.
        patients, boxes, sources: slices that took theirs from a look-alike of another input.
        unclear: slices that look like those of several patients, and took none.
        conflicts: pairs of look-alikes whose labels exclude each other.
        copies: slices with the pixels of a slice of an earlier input.
        typed_copies: slices of a partial label that look like one whose class is known.
        crowded: groups with slices of several patients.
    """

    summary: Summary
    inputs: list[OfInput]
    patients: int
    boxes: int
    sources: int
    unclear: int
    conflicts: int
    copies: int
    typed_copies: int
    crowded: int


def join_data(
    inputs: Sequence[Input],
    out: Path,
    *,
    made_by: str,
    threshold: float = THRESHOLD,
    drop_conflicts: bool = False,
    skip: Skip,
    say: Say,
    progress: Progress | None = None,
) -> Joined:
    """Make one data set of several.

    Args:
        out: see `DataFolder`.
        made_by: for the card.
        threshold: of the correlation of look-alikes.
        drop_conflicts: leave out the slices that look like one whose label excludes theirs.
        skip, say: told of what is left out, and of what one should know.
        progress: called with (done, total) of each set of pictures.

    Raises:
        DataError: an input without a readable picture, or with a wrong table.
        UsageError: `out` holds something else, or lies in an input.
    """
    for each in inputs:
        check_outside(out, each.path)
    check_free(out)
    facts: list[Fact] = []
    problems: list[str] = []
    for number, each in enumerate(inputs):
        read, failed = read_input(number, each, skip, say, progress)
        facts += read
        problems += failed
    known = sorted({fact.label for fact in facts})
    free = _tumour_free(inputs, known)
    _without_wrong_boxes(facts, inputs, free, say)
    slices = _compared(facts, inputs, known, free)
    found = compare(slices, threshold)
    rows = _rows(facts, inputs, known, slices, found, say)
    _tell(facts, inputs, found, drop_conflicts, say)
    clashing = {end for each in found.conflicts for end in (each.first, each.second)}
    left = clashing if drop_conflicts else set()
    problems += [IN_CONFLICT] * len(left)
    chosen = [i for i in range(len(facts)) if i not in left]
    card = _card_text(inputs, facts, made_by, threshold, free)
    written_card({}, free, card)  # refuses one that is too large
    folder = DataFolder(out, _settings(facts, rows, threshold, drop_conflicts), known)
    _copy([(facts[i], rows[i]) for i in chosen], inputs, folder)
    if found.conflicts:
        write_text(out / CONFLICTS, _conflicts_text(rows, found))
    made = folder.finish(card)
    return Joined(
        replace(made, dropped=dict(sorted(Counter(problems).items()))),
        [_of_input(number, each, facts, found) for number, each in enumerate(inputs)],
        int((found.patient_of != NONE).sum()),
        int((found.box_of != NONE).sum()),
        int((found.source_of != NONE).sum()),
        len(found.unclear),
        len(found.conflicts),
        _copies(facts),
        int((found.typed_of != NONE).sum()),
        _crowded(found),
    )


def _tumour_free(inputs: Sequence[Input], known: Sequence[str]) -> tuple[str, ...]:
    named = {NO_TUMOR}
    for each in inputs:
        if each.card is not None and each.card.tumour_free is not None:
            named |= {normalise_label(name) for name in each.card.tumour_free}
    return tuple(label for label in known if label in named)


def _without_wrong_boxes(
    facts: Sequence[Fact], inputs: Sequence[Input], free: Sequence[str], say: Say
) -> None:
    """Take away the tumours' boxes of classes without tumours: no training reads those."""
    wrong = [fact for fact in facts if fact.label in free and fact.box is not None]
    for number, each in enumerate(inputs):
        if own := [fact for fact in wrong if fact.number == number]:
            say(
                f"{each.name}: {len(own):,} slices of classes without tumours have a box, such as "
                f"{own[0].name}; label or box is wrong, and the box is left out"
            )
    for fact in wrong:
        fact.box = None


def _compared(
    facts: Sequence[Fact], inputs: Sequence[Input], known: Sequence[str], free: Sequence[str]
) -> Slices:
    """The slices as `compare` wants them."""
    sets = {label: allowed(label, known, free) for label in known}
    homes = [_home(each) for each in inputs]
    return Slices(
        inputs=np.array([fact.number for fact in facts], np.int64),
        labels=np.array([known.index(fact.label) for fact in facts], np.int64),
        agree=np.array([[bool(sets[a] & sets[b]) for b in known] for a in known], bool),
        partial=np.array([is_partial(fact.label, known) for fact in facts], bool),
        tumour_free=np.array([fact.label in free for fact in facts], bool),
        groups=[fact.row.get("group", "") for fact in facts],
        sources=[fact.row.get("source", "") for fact in facts],
        homes=[homes[fact.number] for fact in facts],
        patients=[fact.row.get("patient", "") for fact in facts],
        boxes=[fact.box for fact in facts],
        pixels=[fact.pixels for fact in facts],
        thumbnails=np.stack([fact.thumbnail for fact in facts]),
    )


def allowed(label: str, known: Sequence[str], free: Sequence[str]) -> frozenset[str]:
    """The classes that a label allows; see `partial_labels.allowed_classes`, which knows the
    classes of a model."""
    if not is_partial(label, known):
        return frozenset({label})
    if "+" in label:
        return frozenset(normalise_label(part) for part in re.split(r"\s*\+\s*", label))
    parts = (allowed(each, known, free) for each in known if "+" in each)
    typed = {each for each in known if not is_partial(each, known)}
    return frozenset(typed.union(*parts) - set(free))


def _home(each: Input) -> str:
    """The source of an input's slices of which nothing else is known."""
    names = {source.name for source in each.card.sources} if each.card else set()
    return names.pop() if len(names) == 1 else each.name


def _rows(
    facts: Sequence[Fact],
    inputs: Sequence[Input],
    known: Sequence[str],
    slices: Slices,
    found: Found,
    say: Say,
) -> list[Row]:
    """What the tables say of each slice."""
    paths = _paths(facts, inputs, known, say)
    groups = _named_groups(facts, inputs, found)
    patients = _named_patients(facts, slices, found)
    rows = []
    for i, fact in enumerate(facts):
        taken = found.source_of[i]
        source = slices.sources[i] or (slices.sources[taken] if taken != NONE else slices.homes[i])
        rows.append(
            Row(
                path=paths[i],
                label=fact.label,
                sha256=fact.sha256,
                source=source,
                patient=patients.get(int(found.persons[i]), ""),
                group=groups[int(found.groups[i])],
                plane=fact.row.get("plane", ""),
                sequence=fact.row.get("sequence", ""),
                doubt=fact.row.get("doubt", ""),
                box=None if is_partial(fact.label, known) else found.boxes[i],
            )
        )
    return rows


def _paths(
    facts: Sequence[Fact], inputs: Sequence[Input], known: Sequence[str], say: Say
) -> list[str]:
    """Where each slice lies below `slices` or `partial`: input, split, class, file.

    Folders between are left out, and files that would have one path get numbers. Where any input
    is split into Training and Testing, what lies in neither is Training's: pictures beside such
    folders are passed over by whoever reads them.
    """
    kinds = [is_partial(fact.label, known) for fact in facts]
    split = {kind for kind, fact in zip(kinds, facts, strict=True) if fact.split}
    moved: Counter[int] = Counter()
    taken: set[tuple[bool, str]] = set()
    last: dict[tuple[bool, str], int] = {}  # numbers, so that none is tried twice
    paths = []
    for kind, fact in zip(kinds, facts, strict=True):
        side = [SPLIT_FOLDERS[fact.split or "training"]] if kind in split else []
        moved[fact.number] += bool(side and not fact.split)
        file = PurePosixPath(fact.name)
        folder = "/".join([inputs[fact.number].name, *side, fact.label])
        wanted = path = f"{folder}/{file.name}"
        count = last.get((kind, wanted), 1)
        while (kind, path.casefold()) in taken:  # some file systems take A.png for a.png
            count += 1
            path = f"{folder}/{file.stem}-{count}{file.suffix}"
        last[kind, wanted] = count
        taken.add((kind, path.casefold()))
        paths.append(path)
    for number, count in sorted(moved.items()):
        if count:
            say(
                f"{inputs[number].name}: {count:,} slices are in neither Training nor Testing, "
                "which other slices are; they go to Training"
            )
    return paths


def _named_groups(facts: Sequence[Fact], inputs: Sequence[Input], found: Found) -> dict[int, str]:
    """The name of each group: the first that a table has for it, of the first input; of slices
    that no table groups, a digest. Where several groups would have a name, all but the first get
    that of their input before it."""
    first: dict[int, tuple[int, str]] = {}
    for fact, group in zip(facts, found.groups.tolist(), strict=True):
        name = fact.row.get("group", "")
        told = (fact.number, name) if name else (len(inputs), f"look-{fact.pixels}")
        first[group] = min(first.get(group, told), told)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for group, (number, name) in sorted(first.items(), key=lambda item: item[1]):
        while name in taken:  # never of a digest, which is a group's own
            name = f"{inputs[number].name}/{name}"
        taken.add(name)
        names[group] = name
    return names


def _named_patients(facts: Sequence[Fact], slices: Slices, found: Found) -> dict[int, str]:
    """The name of each patient: as the first input has it, or behind the source's name where
    others are called so."""
    first: dict[int, tuple[str, int, str]] = {}
    for i, person in enumerate(found.persons.tolist()):
        if person != NONE and slices.patients[i]:
            told = (slices.patients[i], facts[i].number, slices.sources[i] or slices.homes[i])
            first[person] = min(first.get(person, told), told)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for person, (name, _, source) in sorted(first.items(), key=lambda item: item[1]):
        while name in taken:
            name = f"{source}/{name}"
        taken.add(name)
        names[person] = name
    return names


def _tell(
    facts: Sequence[Fact], inputs: Sequence[Input], found: Found, dropped: bool, say: Say
) -> None:
    """Say what one should look at."""

    def named(i: int) -> str:
        return f"{inputs[facts[i].number].name}: {facts[i].name} ({facts[i].label})"

    after = "both are left out" if dropped else "both are kept"
    for each in found.conflicts[:TOLD]:
        say(
            f"{named(each.first)} looks like {named(each.second)}: correlation "
            f"{each.correlation:.3f}, {each.turn}; {after}"
        )
    for i in found.unclear[:TOLD].tolist():
        say(f"{named(i)} looks like slices of several patients; it takes none of them")
    partial = np.flatnonzero(found.typed_of != NONE)
    for i in partial[:TOLD].tolist():
        say(f"{named(i)} looks like {named(int(found.typed_of[i]))}, of which the class is known")
    listed = [
        (len(found.conflicts), f"pairs of look-alikes with conflicting labels, see {CONFLICTS}"),
        (len(found.unclear), "slices that look like those of several patients"),
        (len(partial), "slices of a partial label that look like one whose class is known"),
    ]
    for count, what in listed:
        if count > TOLD:
            say(f"{count:,} {what}")


def _settings(
    facts: Sequence[Fact], rows: Sequence[Row], threshold: float, drop_conflicts: bool
) -> dict[str, object]:
    """All that decides which slices are written."""
    content = json.dumps(
        [(*astuple(row), fact.mask) for fact, row in zip(facts, rows, strict=True)]
    )
    return {
        "command": "join",
        "rows": hashlib.sha256(content.encode()).hexdigest(),
        "threshold": threshold,
        "drop_conflicts": drop_conflicts,
    }


def _copy(kept: Sequence[tuple[Fact, Row]], inputs: Sequence[Input], folder: DataFolder) -> None:
    """Copy the pictures and masks, so many at a time, but for those that were copied before.

    Raises:
        DataError: a file is not what was read a moment ago.
    """

    masks = [each.masks for each in inputs]

    def read(fact: Fact, archive: ImageArchive, digest: str) -> bytes:
        try:
            data = archive.read(fact.name)
        except InputError as error:
            raise _changed(fact, inputs, one_line(error)) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise _changed(fact, inputs, "its bytes changed")
        return data

    def again(chunk: Sequence[tuple[Fact, Row]]) -> Iterator[NewSlice]:
        for fact, row in chunk:
            encoded = read(fact, fact.archive, fact.sha256)
            of_input = masks[fact.number]
            mask = read(fact, of_input, fact.mask) if of_input and fact.mask else None
            yield NewSlice(encoded, row, mask)

    for start in range(0, len(kept), CHUNK):
        if folder.dropped_of(str(start)) is None:
            folder.add(str(start), again(kept[start : start + CHUNK]))


def _changed(fact: Fact, inputs: Sequence[Input], why: str) -> DataError:
    return DataError(
        f"{inputs[fact.number].name}: {fact.name} is not what it was a moment ago ({why}): join "
        "data that nobody works on, into another --out"
    )


def _conflicts_text(rows: Sequence[Row], found: Found) -> str:
    """conflicts.csv; paths are those of the result, also of slices that were left out."""
    cells = (
        (rows[each.first], rows[each.second], f"{each.correlation:.4f}", each.turn)
        for each in found.conflicts
    )
    table = ((a.path, a.label, b.path, b.label, *others) for a, b, *others in cells)
    return csv_text(CONFLICT_COLUMNS, sorted(table))


def _card_text(
    inputs: Sequence[Input],
    facts: Sequence[Fact],
    made_by: str,
    threshold: float,
    free: Sequence[str],
) -> CardText:
    """The sources of all inputs: those that a card names, and the input itself where its card names
    none, or says more of it than of them."""
    digests: dict[int, list[str]] = defaultdict(list)
    for fact in facts:
        digests[fact.number].append(fact.sha256)
    sources: list[Source] = []
    for number, each in enumerate(inputs):
        own = each.card.sources if each.card else ()
        about = dict(each.card.about) if each.card else {}
        whole = CardText("", own)
        if not own or any(about.get(key, "") not in ("", whole.joined(key)) for key in ABOUT):
            sources.append(Source(each.name, **about, sha256=content_digest(digests[number])))
        sources += own
    parts = (f"{each.name} ({len(digests[i]):,} slices)" for i, each in enumerate(inputs))
    return CardText(
        made_by,
        tuple(dict.fromkeys(sources)),
        f"Joined of {', '.join(parts)}. Slices whose thumbnails correlate at {threshold:g} or "
        "above, turned or mirrored or not, are of one group.",
        tuple(free),
    )


def _of_input(number: int, each: Input, facts: Sequence[Fact], found: Found) -> OfInput:
    own = [i for i, fact in enumerate(facts) if fact.number == number]
    given = [i for i in own if facts[i].row.get("group")]
    crossing = dict(zip(TURN_NAMES, found.crossing[number].tolist(), strict=True))
    return OfInput(
        each.name,
        len(own),
        len({facts[i].row["group"] for i in given}),
        len(set(found.groups[given].tolist())),
        {turn: count for turn, count in crossing.items() if count},
    )


def _copies(facts: Sequence[Fact]) -> int:
    """How many slices have the pixels of one of an earlier input."""
    first: dict[str, int] = {}
    return sum(fact.number > first.setdefault(fact.pixels, fact.number) for fact in facts)


def _crowded(found: Found) -> int:
    """How many groups have slices of several patients."""
    pairs = np.unique(np.stack([found.groups, found.persons], 1)[found.persons != NONE], axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())

"""What an archive's answers are made from, fixed at the start: which files, in which shards, by
which model and settings.

In the folder, or under the address, of the answers stand

    manifest.json               the head: written last, so that a manifest is whole or not there
    manifest/part-00000.parquet the entries of some shards, in their order; digests are in the head
    shards/00000000.parquet     the answers of a shard, see `rows`

Nobody holds all entries at once: making holds those of one part and of one folder, reading those
of one part.
"""

from __future__ import annotations

import io
import json
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from edge_runtime.archive.places import Place, absolute, place_of
from edge_runtime.archive.sources import ARCHIVE, STDIN, VOLUME, Entry, Source
from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.files import Note
from edge_runtime.imaging.limits import MIB, ImageLimits
from edge_runtime.json_text import parse_json
from edge_runtime.version import __version__

SCHEMA = 1
HEAD, PARTS, SHARDS = "manifest.json", "manifest", "shards"
SHARD_SIZE = 2000  # entries of a shard, by default
SHARD_BYTES = 1024 * MIB  # of its entries together
LARGE = 64 * MIB  # an entry from which on it is a shard of its own
LARGE_VOLUME = 16 * MIB  # likewise, of those that hold many slices
PART = 1 << 16  # entries of a part, and those that its last shard has more
MOST_SHARDS = 10**8
OWN = ImageLimits(max_bytes=1 << 30)  # bytes that a head or a part may have
RENEW = "what is missing cannot be made from it: name another place"
MOST_NOTES = 1000  # lines that are kept on what is no image
PART_NAME = re.compile(r"part-[0-9]{5,}\.parquet")
SHARD_NAME = re.compile(r"([0-9]{8})\.parquet")


class Shard(NamedTuple):
    """Entries that are answered together.

    Attributes:
        number: from 0.
        manifest: digest of the manifest's head.
    """

    number: int
    entries: tuple[Entry, ...]
    manifest: str = ""


class Lines(NamedTuple):
    """Lines for people, of which there may be very many.

    Attributes:
        first: MOST_NOTES of them at most.
        total: how many there are.
    """

    first: tuple[str, ...] = ()
    total: int = 0

    @classmethod
    def of(cls, *lines: str) -> Lines:
        """These lines."""
        return cls(lines[:MOST_NOTES], len(lines))

    def plus(self, other: Lines) -> Lines:
        """These and those behind them."""
        room = MOST_NOTES - len(self.first)
        first = self.first + other.first[:room] if room and other.first else self.first
        return Lines(first, self.total + other.total)

    def told(self, most: int) -> list[str]:
        """So many of them, and how many more there are."""
        told = list(self.first[:most])
        more = self.total - len(told)
        return [*told, f"and {more:,} more such lines"] if more else told


@dataclass
class Tally:
    """What goes through: how much there is of what."""

    entries: int = 0
    bytes: int = 0
    shards: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    largest: int = 0
    passed_over: Lines = field(default_factory=lambda: Lines())

    def add(self, shard: Iterable[Entry]) -> None:
        """Count a shard."""
        self.shards += 1
        for entry in shard:
            self.entries += 1
            self.bytes += entry.size
            self.kinds[entry.kind or "unusable"] += 1
            self.largest = max(self.largest, entry.size)

    def note(self, note: Note) -> None:
        """Keep what is to be said of what is no image."""
        self.passed_over = self.passed_over.plus(Lines.of(str(note)))

    def to_json(self) -> dict[str, Any]:
        """The counts, as the head of a manifest has them."""
        return {
            "entries": self.entries, "bytes": self.bytes, "shards": self.shards,
            "kinds": dict(sorted(self.kinds.items())), "largest": self.largest,
            "passed_over": self.passed_over.told(MOST_NOTES),
        }  # fmt: skip


def cut(
    entries: Iterable[Entry], size: int = SHARD_SIZE, most_bytes: int = SHARD_BYTES
) -> Iterator[tuple[Entry, ...]]:
    """The entries of each shard: at most `size`, of at most `most_bytes` together; a large one is
    alone. Each entry is in exactly one."""
    gathered: list[Entry] = []
    held = 0
    for entry in entries:
        many = entry.kind in (ARCHIVE, VOLUME)
        if entry.size >= (LARGE_VOLUME if many else LARGE):
            yield (entry,)
            continue
        if gathered and (len(gathered) >= size or held + entry.size > most_bytes):
            yield tuple(gathered)
            gathered, held = [], 0
        gathered.append(entry)
        held += entry.size
    if gathered:
        yield tuple(gathered)


@dataclass
class Manifest:
    """What is answered, and where the answers go.

    Attributes:
        out: folder or address of the answers.
        head: what manifest.json says.
        digest: SHA-256 of it as JSON with sorted keys, hexadecimal.
    """

    out: str
    head: Mapping[str, Any]
    digest: str

    @classmethod
    def make(
        cls,
        source: Source,
        out: str,
        settings: Mapping[str, Any],
        *,
        shard_size: int = SHARD_SIZE,
        shard_bytes: int = SHARD_BYTES,
        tally: Tally | None = None,
    ) -> Manifest:
        """List the source and fix what is to be done.

        Args:
            settings: what changes answers, as JSON, see `rows.answer_settings`.
            tally: counts what goes through.

        Raises:
            UsageError: there are shards already. InputError, DataError: see `Source.entries`.
            DataError: another run made its manifest there meanwhile.
        """
        place, root = place_of(out)
        if _files(place, place.join(root, SHARDS)) or exists(out):
            raise UsageError(f"{out}: holds shards of another run: name an empty place")
        tally = Tally() if tally is None else tally
        parts: list[dict[str, Any]] = []
        pending: list[tuple[int, Entry]] = []

        def flush() -> None:
            name = f"part-{len(parts):05d}.parquet"
            data = _packed(pending)
            place.write(place.join(place.join(root, PARTS), name), data)
            parts.append({"first": pending[0][0], "file": name, "sha256": sha256(data).hexdigest()})
            pending.clear()

        for entries in cut(source.entries(tally.note), shard_size, shard_bytes):
            pending += [(tally.shards, entry) for entry in entries]
            tally.add(entries)
            if tally.shards > MOST_SHARDS:
                raise UsageError(f"more than {MOST_SHARDS:,} shards: give a larger --shard-size")
            if len(pending) >= PART:
                flush()
        if pending:
            flush()
        made = {part["file"] for part in parts}
        for name in _files(place, place.join(root, PARTS)) - made:  # of a listing that was ended
            if PART_NAME.fullmatch(name):
                place.remove(place.join(place.join(root, PARTS), name))
        head = {
            "schema": SCHEMA, "version": __version__, "source": _kept(source.word),
            "form": source.form, "base": source.base,
            "settings": dict(settings), "shard_size": shard_size, **tally.to_json(),
            "parts": parts,
        }  # fmt: skip
        head["sha256"] = _digest(head)
        text = json.dumps(head, indent=1) + "\n"
        place.write(place.join(root, HEAD), text.encode("ascii"))
        manifest = cls(out, head, head.pop("sha256"))
        manifest.check_kept()
        return manifest

    @classmethod
    def open(cls, out: str) -> Manifest:
        """The manifest that was made.

        Raises:
            DataError: damaged, of another schema, or the store does not answer.
        """
        place, root = place_of(out)
        try:
            head = parse_json(place.read(place.join(root, HEAD), OWN))
            if not isinstance(head, dict) or head.get("schema") != SCHEMA:
                raise DataError(f"{out}/{HEAD}: not supported: of another version of btc-edge")
            digest = head.pop("sha256", None)
            if digest != _digest(head) or not _is_head(head):
                raise ValueError
        except (InputError, ValueError) as error:
            why = f" ({error})" if isinstance(error, InputError) else ""
            raise DataError(
                f"{out}/{HEAD}: damaged{why}; the answers there cannot be gone on with: name "
                "another place"
            ) from None
        return cls(out, head, digest)

    @property
    def shards(self) -> int:
        """How many there are."""
        return int(self.head["shards"])

    def go_on(self, source: Source, settings: Mapping[str, Any], shard_size: int | None) -> Source:
        """The source as the run that made this had it, for one that goes on with it.

        Args:
            shard_size: None where the user gave none.

        Raises:
            UsageError: it would answer something else, or otherwise.
        """
        now = {"version": __version__, "source": _kept(source.word), **settings}
        then = {"version": self.head["version"], "source": self.head["source"],
                **self.head["settings"]}  # fmt: skip
        if shard_size is not None:
            now["shard_size"], then["shard_size"] = shard_size, self.head["shard_size"]
        if "form" in self.head:  # it came later
            now["form"], then["form"] = source.form, self.head["form"]
        for name in {**now, **then}:
            if now.get(name) != then.get(name):
                raise UsageError(
                    f"{self.out} was begun with {name} {then.get(name)!r}, this is "
                    f"{now.get(name)!r}: run with the same, or name another place"
                )
        return source.based_on(self.head.get("base", source.base))

    def check_kept(self) -> None:
        """
        Raises:
            DataError: another run, which began at the same moment, has put its manifest in the
                place of this one; or see `open`.
        """
        if Manifest.open(self.out).digest != self.digest:
            raise DataError(
                f"{self.out}: another run was begun there at the same moment: run this again "
                "when it has ended, or name another place"
            )

    def missing(self) -> list[int]:
        """The shards without answers, by number.

        Raises:
            DataError: the store does not answer.
        """
        there = set(map(_number_of, self._answers()))
        return [number for number in range(self.shards) if number not in there]

    def foreign(self) -> list[str]:
        """What stands among the shards and is none, though whoever reads them all would read it.

        Raises:
            DataError: the store does not answer.
        """
        own = range(self.shards)
        place, root = place_of(self.out)
        others = [name for name in self._answers() if _number_of(name) not in own]
        return [place.join(place.join(root, SHARDS), name) for name in sorted(others)]

    def _answers(self) -> list[str]:
        """The names of all Parquet files among the shards."""
        place, root = place_of(self.out)
        names = _files(place, place.join(root, SHARDS))
        return [name for name in names if name.endswith(".parquet")]

    def shard(self, number: int) -> Shard:
        """
        Raises:
            DataError: the part that it stands in is damaged, or the store does not answer.
        """
        entries = self._part_of(number).get(number)
        if not entries:
            raise DataError(f"{self.out}/{HEAD}: has no shard {number}")
        return Shard(number, tuple(entries), self.digest)

    def path_of(self, number: int) -> str:
        """Where a shard's answers stand, in the place of `out`."""
        return shard_path(self.out, number)

    def _part_of(self, number: int) -> dict[int, list[Entry]]:
        """The entries of all shards of the part that has this one."""
        parts = self.head["parts"]
        part = parts[max(0, bisect_right([part["first"] for part in parts], number) - 1)]
        if self._loaded[0] != part["file"]:
            self._loaded = part["file"], self._read_part(part["file"], part["sha256"])
        return self._loaded[1]

    _loaded: tuple[str, dict[int, list[Entry]]] = field(default=("", {}), init=False, repr=False)

    def _read_part(self, name: str, digest: str) -> dict[int, list[Entry]]:
        place, root = place_of(self.out)
        path = place.join(place.join(root, PARTS), name)
        try:
            data = place.read(path, OWN)
        except InputError as error:
            raise DataError(f"{self.out}/{PARTS}/{name}: {error}; {RENEW}") from None
        if sha256(data).hexdigest() != digest:
            raise DataError(f"{self.out}/{PARTS}/{name}: damaged or altered; {RENEW}")
        return _unpacked(data)


def _number_of(name: str) -> int | None:
    """The number of a shard; None where it has another name."""
    found = SHARD_NAME.fullmatch(name)
    return None if found is None else int(found[1])


def exists(out: str) -> bool:
    """Whether a place holds a manifest.

    Raises:
        UsageError, DataError: see `places.place_of`; the store does not answer.
    """
    place, root = place_of(out)
    return place.what(place.join(root, HEAD)) != ""


def shard_path(out: str, number: int) -> str:
    """Where the answers of a shard stand, as the place of `out` has it."""
    place, root = place_of(out)
    return place.join(place.join(root, SHARDS), f"{number:08d}.parquet")


def as_text(path: str) -> tuple[str, bytes | None]:
    """A path as text that every reader takes; and, where it is none (names on disks are bytes), as
    those bytes, since its text may then stand for several."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        name = os.fsencode(path)
        return name.decode("utf-8", "backslashreplace"), name
    return path, None


def _kept(word: str) -> str:
    """A source's word, the same from wherever the command is started."""
    return word if word == STDIN else absolute(word)


def _is_head(head: Mapping[str, Any]) -> bool:
    """Whether all is there and of its type; names of parts lead nowhere else."""
    types = {
        "version": str, "source": str, "settings": dict, "shard_size": int, "entries": int,
        "bytes": int, "shards": int, "kinds": dict, "largest": int, "passed_over": list,
        "parts": list,
    }  # fmt: skip
    if not all(type(head.get(name)) is kind for name, kind in types.items()):
        return False
    parts, shards, entries = head["parts"], head["shards"], head["entries"]
    counts = (head["bytes"], head["largest"], *head["kinds"].values())
    return (
        0 < shards <= min(entries, MOST_SHARDS)
        and entries <= len(parts) * (PART + head["shard_size"])
        and all(type(number) is int and 0 <= number < 1 << 63 for number in counts)
        and all(isinstance(line, str) for line in head["passed_over"])
        and all(isinstance(head.get(name, ""), str) for name in ("form", "base"))
        and all(
            isinstance(part, dict)
            and type(part.get("first")) is int
            and PART_NAME.fullmatch(str(part.get("file"))) is not None
            and isinstance(part.get("sha256"), str)
            for part in parts
        )
        and [part["first"] for part in parts][:1] == [0]
    )


def _digest(head: Mapping[str, Any]) -> str:
    return sha256(json.dumps(head, sort_keys=True).encode("ascii")).hexdigest()


def _files(place: Place, folder: str) -> set[str]:
    return place.listing(folder).files if place.what(folder) == "folder" else set()


def _packed(rows: list[tuple[int, Entry]]) -> bytes:
    """A part as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: list[list[Any]] = [[] for _ in _COLUMNS]
    for number, entry in rows:
        values = (number, *as_text(entry.path), *entry[1:])
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in _COLUMNS])
    stream = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), stream, compression="zstd")
    return stream.getvalue()


def _unpacked(data: bytes) -> dict[int, list[Entry]]:
    """The entries of each shard of a part whose digest was checked."""
    import pyarrow.parquet as pq

    shards: dict[int, list[Entry]] = {}
    columns = [column.to_pylist() for column in pq.read_table(io.BytesIO(data)).columns]
    for number, text, name, *rest in zip(*columns, strict=True):
        path = text if name is None else os.fsdecode(name)
        shards.setdefault(number, []).append(Entry(path, *rest))
    return shards


_COLUMNS = (
    ("shard", "int64"), ("path", "string"), ("path_bytes", "binary"), ("size", "int64"),
    ("etag", "string"), ("kind", "string"), ("problem", "string"),
)  # fmt: skip

"""The answers for the files of a shard, one row a slice, as a Parquet file.

They are those of `btc-edge classify` for the same files, to the last bit, since the same code gives
them. Beside that, zips are opened, within the caps that studies have for them; and DICOM files are
told apart by their StudyInstanceUID.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.archive.manifest import Lines, Manifest, Shard, as_text, shard_path
from edge_runtime.archive.places import place_of
from edge_runtime.archive.sources import ARCHIVE, Entry, Source
from edge_runtime.batch import Unusable, in_order
from edge_runtime.classifier import Classifier
from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.errors import InputError, UsageError, one_line
from edge_runtime.files import Note
from edge_runtime.imaging.kinds import kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits
from edge_runtime.imaging.readers import reader_of
from edge_runtime.json_text import parse_json
from edge_runtime.model.metadata import INTENDED_USE
from edge_runtime.studies.drop import study_uid
from edge_runtime.studies.files import DropFile, kind_in, unzipped
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from edge_runtime.model.file_format import ModelFile
    from edge_runtime.studies.zips import ZipReader

SCHEMA = 1
KEY = b"btc-edge"  # of what a file says of itself, in the metadata of its schema
TOGETHER = 32  # pictures that are answered together
HELD = 4 * MIB  # bytes of these, and of a file that is read ahead
BATCH = 4096  # rows that wait as Python objects
MOST_SLICES = 1 << 18  # of one file: a zip of volumes could hold more than any memory
TOO_MANY = f"more than {MOST_SLICES:,} slices in one file: the rest is not answered"
# Bytes that a worker needs beside the file and what decoding it takes: Python with the
# interpreter and pyarrow, what is read ahead, and rows.
BESIDE = 512 * MIB


class ClassifierSettings(NamedTuple):
    """What a worker makes its `Classifier` of: its arguments."""

    model: ModelFile
    backend: str = "auto"
    threads: int = 1
    limits: ImageLimits = DEFAULT_LIMITS
    min_confidence: float = 0.0
    plane: str | None = None
    volume: int | None = None

    @classmethod
    def of(cls, classifier: Classifier) -> ClassifierSettings:
        """Those of a classifier, with the interpreter that it has chosen."""
        return cls(**classifier.settings)

    def open(self) -> Classifier:
        """
        Raises:
            ModelError: the model cannot be used here.
        """
        return Classifier(**self._asdict())

    def to_json(self) -> dict[str, Any]:
        """What of it changes answers."""
        limits = self.limits
        return {
            "model": self.model.tag, "model_sha256": self.model.sha256, "backend": self.backend,
            "max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels,
            "max_slices": limits.max_slices, "max_memory": limits.max_memory,
            "min_confidence": self.min_confidence, "plane": self.plane, "volume": self.volume,
        }  # fmt: skip

    def memory(self) -> int:
        """Bytes that a worker needs at most."""
        return BESIDE + self.limits.max_bytes + self.limits.max_memory


class Counts(NamedTuple):
    """What stands in a shard, or in several.

    Attributes:
        rows, errors: rows, and those with status error.
        passed_over: what zips hold besides images, a line each.
        damaged: shards that cannot be read, or belong to another manifest.
    """

    rows: int = 0
    errors: int = 0
    passed_over: Lines = Lines()
    damaged: Lines = Lines()

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.rows + other.rows,
            self.errors + other.errors,
            self.passed_over.plus(other.passed_over),
            self.damaged.plus(other.damaged),
        )


def schema_of(labels: Sequence[str]) -> pa.Schema:
    """The columns of a shard: those of `btc-edge classify --format csv`, with the file's path and
    its study before them."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            pa.field("path", text, nullable=False),
            pa.field("path_bytes", pa.binary()),
            pa.field("slice", pa.int32()),
            pa.field("study", text),
            pa.field("status", text, nullable=False),
            *((name, text) for name in ("label", "raw_label")),
            ("confidence", pa.float64()),
            *((f"p_{label}", pa.float64()) for label in labels),
            *((name, text) for name in ("reason", "sha256", "model", "error", "heatmap")),
            *((name, text) for name in ("plane", "sequence")),
        ]
    )


def make_shard(classifier: Classifier, source: Source, shard: Shard) -> pa.Table:
    """The answers for the entries of a shard, in their order.

    Raises:
        DataError: the source is gone, or does not answer. ModelError: the model fails.
    """
    import pyarrow as pa

    labels = classifier.info.labels
    schema = schema_of(labels)
    notes: list[Note] = []
    batches: list[pa.RecordBatch] = []
    columns: list[list[Any]] = [[] for _ in schema]
    rows = errors = 0

    def pack() -> None:
        batches.append(pa.record_batch(columns, schema=schema))
        for column in columns:
            column.clear()

    for answer, study in _answers(classifier, source, shard.entries, notes.append):
        values = _row(answer, study, labels)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        rows, errors = rows + 1, errors + (answer.status is Status.ERROR)
        if len(columns[0]) >= BATCH:
            pack()
    pack()
    says = {
        "schema": SCHEMA, "version": __version__, "model": classifier.model.tag,
        "model_sha256": classifier.model.sha256, "intended_use": INTENDED_USE,
        "manifest": shard.manifest, "shard": shard.number, "entries": len(shard.entries),
        "rows": rows, "errors": errors, "passed_over": list(map(str, notes)),
    }  # fmt: skip
    table = pa.Table.from_batches(batches, schema)
    return table.replace_schema_metadata({KEY: json.dumps(says).encode("ascii")})


def write_shard(out: str, number: int, table: pa.Table) -> None:
    """Have a shard's answers where they belong, whole or not at all.

    Raises:
        DataError: the store does not answer. OSError: the disk is full.
    """
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    place_of(out)[0].write(shard_path(out, number), stream.getvalue())


def count(manifest: Manifest, numbers: Iterable[int]) -> Counts:
    """What shards that are there hold. All of it is read, so that no damage goes unseen.

    Raises:
        DataError: the store does not answer.
    """
    place, _ = place_of(manifest.out)
    total = Counts()
    for counts in in_order(partial(_counts, manifest), numbers, place.readers):
        total = total.plus(counts)
    return total


def _counts(manifest: Manifest, number: int) -> Counts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = manifest.path_of(number)
    place, _ = place_of(manifest.out)
    try:
        with (
            place.opened(path) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            says = parse_json(file.metadata.metadata[KEY])
            if (says["manifest"], says["shard"]) != (manifest.digest, number):
                return Counts(damaged=Lines.of(f"{path}: of another run"))
            found = _rows_and_errors(file)
        notes = says["passed_over"]
        whole = isinstance(notes, list) and all(isinstance(note, str) for note in notes)
        if not whole or (says["rows"], says["errors"]) != found:
            return Counts(damaged=Lines.of(f"{path}: damaged"))
        return Counts(*found, Lines.of(*notes))
    except (InputError, pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return Counts(damaged=Lines.of(f"{path}: damaged"))


def _rows_and_errors(file: pq.ParquetFile) -> tuple[int, int]:
    """How many rows a shard has, and how many of them with status error. Each value is read, and
    held against the checksum of its page."""
    import pyarrow.compute as pc

    rows = errors = 0
    for batch in file.iter_batches():
        rows += batch.num_rows
        errors += pc.sum(pc.equal(batch["status"], Status.ERROR.value)).as_py() or 0
    return rows, errors


class _File(NamedTuple):
    """A file that is read, or why it is not; a zip's members are files, too."""

    name: str
    content: bytes | InputError


Answered = tuple[Prediction, str | None]  # and the study


def _answers(
    classifier: Classifier, source: Source, entries: Iterable[Entry], tell: Callable[[Note], None]
) -> Iterator[Answered]:
    """The answers for all slices of all entries. What has one answer is gathered, so that small
    pictures go through each step together."""
    gathered: list[_File] = []
    held = 0
    file: _File | None
    for file in _files(classifier.limits, source, entries, tell):
        alone = not _has_one_answer(file)
        if not alone:
            gathered.append(file)
            held += len(file.content) if isinstance(file.content, bytes) else 0
        if alone or len(gathered) >= TOGETHER or held >= HELD:
            yield from _of_pictures(classifier, gathered)
            gathered, held = [], 0
        if alone:
            yield from _of_slices(classifier, file)
        file = None  # before the next is read: one large file at a time
    yield from _of_pictures(classifier, gathered)


def _has_one_answer(file: _File) -> bool:
    if isinstance(file.content, InputError):
        return True
    kind = kind_of(file.content)
    return kind is not None and kind.is_picture


def _of_pictures(classifier: Classifier, files: Sequence[_File]) -> Iterator[Answered]:
    sources = [
        Unusable(file.name, file.content) if isinstance(file.content, InputError) else file.content
        for file in files
    ]
    for file, answer in zip(files, classifier.classify_many(sources), strict=True):
        yield replace(answer, input=file.name), None


def _of_slices(classifier: Classifier, file: _File) -> Iterator[Answered]:
    assert isinstance(file.content, bytes)
    study = _study(file.name, file.content, classifier.limits)
    for number, answer in enumerate(classifier.classify_many([file.content])):
        if number == MOST_SLICES:
            yield classifier.failure(file.name, InputError(TOO_MANY)), study
            return
        yield replace(answer, input=file.name), study


def _study(name: str, data: bytes, limits: ImageLimits) -> str | None:
    """The StudyInstanceUID of a DICOM file, as far as it can be read; None for others.

    Raises:
        UsageError: a kind of file that nothing on this machine reads: that is no answer.
    """
    kind = kind_in(data)
    if kind is None:
        return None
    try:
        reader_of(kind)
    except InputError as error:
        raise UsageError(one_line(error)) from None
    if kind.name != "dicom":
        return None
    try:
        return study_uid(DropFile(name, data), limits) or None
    except InputError:
        return None  # what is wrong with it is told by its answer


def _files(
    limits: ImageLimits, source: Source, entries: Iterable[Entry], tell: Callable[[Note], None]
) -> Iterator[_File]:
    """The files of the entries, small ones read ahead where reading takes long."""

    def ahead(entry: Entry) -> tuple[Entry, bytes | InputError | None]:
        small = entry.kind != ARCHIVE and entry.size <= HELD // source.readers
        return entry, _content(partial(source.read, entry, limits)) if small else None

    for entry, content in in_order(ahead, entries, source.readers):
        if content is not None:
            yield _File(entry.path, content)
        elif entry.kind == ARCHIVE:
            yield from _members(limits, source, entry, tell)
        else:
            yield _File(entry.path, _content(partial(source.read, entry, limits)))


def _members(
    limits: ImageLimits, source: Source, entry: Entry, tell: Callable[[Note], None]
) -> Iterator[_File]:
    """The images in a zip, and last why it is refused or read no further."""
    opened: list[ZipReader] = []
    try:
        for begun in unzipped(entry.path, source.zip_source(entry), tell, opened):
            if isinstance(begun, Unusable):
                yield _File(*begun)
            else:
                yield _File(begun.file.name, _content(partial(begun.file.read, limits)))
        source.check_same(entry)
    except InputError as error:
        yield _File(entry.path, InputError(one_line(error)))


def _content(read: Callable[[], bytes]) -> bytes | InputError:
    try:
        return read()
    except InputError as error:  # whose traceback would hold the file's bytes
        return InputError(one_line(error))


def _row(answer: Prediction, study: str | None, labels: Sequence[str]) -> tuple[Any, ...]:
    probabilities = answer.probabilities or {}
    return (
        *as_text(answer.input), answer.slice, study, answer.status.value, answer.label,
        answer.raw_label, answer.confidence, *(probabilities.get(label) for label in labels),
        answer.reason, answer.sha256, answer.model, answer.error, answer.heatmap, answer.plane,
        answer.sequence,
    )  # fmt: skip

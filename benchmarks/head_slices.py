"""Slices of whole heads as a data set that trainings take beside others.

    python -m benchmarks.head_slices heads.zip heads.csv --source ixi --out heads-ixi

A training that saw six slices of each plane of a healthy head has not seen its neck, its eyes and
its vertex, and takes them for tumours. The heads without a tumour are cut in all planes. Patient
and group are the table's `subject`, so that a head stands on the side of the split on which other
slices of the same person stand (see "Several data sets at once" in docs/training.md). For data of
one's own there is `btc-data volumes`, which writes no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.common.command import EXISTING
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_bytes, write_text
from edge_runtime.labels import NO_TUMOR
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.heads import Head, read_heads, series_of
from trainer.data.tables import csv_text

COLUMNS = ("path", "label", "source", "patient", "group", "plane", "sequence")
CARD = """title = "Slices of whole heads"
images = "slices"
groups = "groups.csv"
tumour_free = ["{label}"]
"""


def head_slices(
    archive: ImageArchive, heads: list[Head], every: int
) -> Iterator[tuple[Head, str, str, bytes]]:
    """Of each head its slices as PNG: the head, the plane, a name and the bytes."""
    import cv2

    for head in heads:
        for series in series_of(archive, head):
            for number, gray in list(enumerate(series.grays))[::every]:
                name = f"{head.label}/{head.subject}_{series.plane or 'plane'}_{number:03d}.png"
                yield head, series.plane, name, cv2.imencode(".png", gray)[1].tobytes()


@click.command()
@click.argument("place", metavar="HEADS", type=EXISTING)
@click.argument("table", type=EXISTING)
@click.option("--source", required=True, help="Name of the collection that the heads are of.")
@click.option("--every", type=click.IntRange(1), default=2, show_default=True,
              help="Take every Nth slice of a plane.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
def main(place: Path, table: Path, source: str, every: int, out: Path) -> None:
    """Cut the heads without a tumour in HEADS, of which TABLE tells, into a data set in --out."""
    if out.exists():
        raise UsageError(f"{out} is there already; name another --out")
    heads = [head for head in read_heads(table) if head.label == NO_TUMOR]
    if not heads:
        raise DataError(f"{table.name}: no head without a tumour")
    rows = []
    for head, plane, name, data in head_slices(open_archive(place), heads, every):
        write_bytes(out / "slices" / name, data)
        rows.append((name, head.label, source, head.subject, head.subject, plane, head.sequence))
    write_text(out / "groups.csv", csv_text(COLUMNS, rows))
    write_text(out / "data.toml", CARD.format(label=NO_TUMOR))
    click.echo(f"{out}: {len(rows):,} slices of {len(heads)} heads")


if __name__ == "__main__":
    run_command(main, "benchmarks.head_slices", "train")

"""A table of groups with a column `doubt`, for the Brain Tumor MRI Dataset.

    python -m benchmarks.doubts groups.csv --out groups-doubts.csv

benchmarks/doubtful.csv names slices of the class `notumor` that show a focal lesion (a ring, a
node, a cyst, a mass with oedema), or are no MR picture but a CT. Every group of tumour-free slices
was looked at once, by its first picture, by an engineer and by no radiologist; whether a lesion is
a tumour, an abscess or an infarct no slice tells. So their label is doubted, not changed: nothing
is learned from them, and figures stand with and without them.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common.command import EXISTING
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from trainer.data.tables import csv_text, key_of, read_table

DOUBTFUL = Path(__file__).parent / "doubtful.csv"


def with_doubts(groups: Path, doubtful: Path = DOUBTFUL) -> str:
    """The rows of a table of groups, each with its doubt, as CSV.

    Raises:
        DataError: an unusable table, or one of other images.
    """
    doubts = {row["path"]: row["doubt"] for row in read_table(doubtful, ("path", "doubt"))}
    rows = read_table(groups, ("path", "group"))
    keys = [key_of(row["path"].strip(), doubts) for row in rows]
    if missing := sorted(set(doubts) - set(keys)):
        raise DataError(f"{groups.name}: no row for {len(missing)} images, such as {missing[0]}")
    columns = [name for name in rows[0] if name != "doubt"]
    cells = (
        [*(row[name] for name in columns), "" if key is None else doubts[key]]
        for row, key in zip(rows, keys, strict=True)
    )
    return csv_text([*columns, "doubt"], cells)


@click.command()
@click.argument("groups", type=EXISTING)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(groups: Path, out: Path) -> None:
    """Write the table GROUPS with a column doubt to --out."""
    write_text(out, with_doubts(groups))
    click.echo(f"{out}: {len(read_table(DOUBTFUL, ('path',)))} slices are doubted")


if __name__ == "__main__":
    run_command(main, "benchmarks.doubts", "train")

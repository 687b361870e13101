"""`btc-data volumes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.commands.click_types import Choice
from edge_runtime.imaging.geometry import PLANES
from trainer.commands.prepare.common import made_by, out_option, print_summary
from trainer.commands.terminal import EXISTING, TABLE

PER_VOLUME = 10
KEY = "pseudonyms.key"


class _Count(click.IntRange):
    """A number from 1 on, or `all`: 0."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if value in ("all", 0) else int(super().convert(value, param, ctx))


@click.command("volumes")
@click.argument("data", type=EXISTING)
@out_option
@click.option("--label", help="What all volumes show, such as glioma or notumor.")
@click.option(
    "--labels",
    "table",
    type=TABLE,
    help="CSV with the columns label and patient (PatientID, or sub-…), series (SeriesInstanceUID, "
    "a NIfTI file's name, the folder of a series) or both; source, sequence, first and last "
    "(numbers of the slices to take) may be there. label and source are written as they stand: "
    "no names there. Without --label and --labels, class folders tell.",
)
@click.option(
    "--plane",
    "planes",
    type=Choice(PLANES),
    multiple=True,
    default=("axial",),
    show_default=True,
    help="Plane to cut; repeatable.",
)
@click.option(
    "--per-volume",
    type=_Count(min=1),
    metavar="N|all",
    default=str(PER_VOLUME),
    show_default=True,
    help="Slices of a volume in each plane, evenly spaced within the head.",
)
@click.option(
    "--source",
    default="own",
    show_default=True,
    help="Name of where the volumes come from: a hospital, a scanner, a collection.",
)
@click.option(
    "--masks",
    type=EXISTING,
    help="Folder or zip of NIfTI masks called like the volumes (also with _mask, _seg or _label): "
    "only slices that show the tumour are taken, and get boxes. DICOM SEG is not supported.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the secret that makes pseudonyms of patients; made where there is none.  "
    f"[default: {KEY} in the user's configuration folder of btc-edge]",
)
@click.option(
    "--patient-from",
    type=Choice(["id", "study"]),
    default="id",
    show_default=True,
    help="What tells DICOM patients apart: the PatientID, or the study where an anonymiser wrote "
    "one PatientID for all.",
)
def volumes(
    data: Path,
    out: Path,
    label: str | None,
    table: Path | None,
    planes: tuple[str, ...],
    per_volume: int,
    source: str,
    masks: Path | None,
    key: Path | None,
    patient_from: str,
) -> None:
    """Cut DICOM series and NIfTI volumes into labelled slices.

    DATA is a folder or zip of any layout: DICOM files are sorted by series and place. No name,
    number, date or path of a patient is written: patients are keyed digests. Research use only.
    """
    from edge_runtime.errors import UsageError
    from trainer.commands.progress import add_bar, progress_bars
    from trainer.commands.terminal import say, say_problem
    from trainer.prepare.volumes.pseudonyms import read_key

    if label is not None and table is not None:
        raise UsageError("--label and --labels: give one of them")
    if not source.strip() or not source.isprintable():
        raise UsageError("--source is no name")
    place = key or Path(click.get_app_dir("btc-edge")) / KEY
    if out.resolve() in place.resolve().parents:
        raise UsageError(f"the key {place} would lie in --out, which may be given away")
    for inputs, what in ((data, "the data"), (masks, "--masks")):
        above = (out.resolve(), *out.resolve().parents)
        if inputs is not None and inputs.is_dir() and inputs.resolve() in above:
            raise UsageError(f"--out {out} lies in {what}")
    _need_packages()
    from trainer.prepare.volumes.job import Wanted, cut_volumes
    from trainer.prepare.volumes.units import Tell

    pseudonyms, lines = read_key(place)
    for line in lines:
        say(line)
    wanted = Wanted(
        planes=tuple(plane for plane in PLANES if plane in planes),
        per_volume=per_volume or None,
        source=source.strip(),
        label=label,
        table=table,
        masks=masks,
        by_study=patient_from == "study",
    )
    with progress_bars() as bars:
        summary = cut_volumes(
            data,
            out,
            wanted,
            pseudonyms,
            Tell(say_problem, say),
            looking=add_bar(bars, "Looking"),
            cutting=add_bar(bars, "Cutting"),
            made_by=made_by("volumes"),
        )
    print_summary(summary, out)


def _need_packages() -> None:
    """Refuse at once what would fail for every file.

    Raises:
        UsageError: a package is not installed.
    """
    from importlib.util import find_spec

    from edge_runtime.errors import UsageError

    for name in ("pydicom", "nibabel"):
        if find_spec(name) is None:
            raise UsageError(f"needs the package {name}: pip install 'btc-edge[data]'")

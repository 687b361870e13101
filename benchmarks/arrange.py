"""What it costs to sort and answer a DICOM series, beside what decoding its files costs.

    python -m benchmarks.arrange

Draws a series of files in a temporary folder, once as it is and once in a zip, and takes in turns
the processor time of decoding every file alone, of sorting them (heads only), of showing every
slice in order, and of answering the study with the bundled model. Prints medians of the turns, and
what each is of decoding.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.common.formatting import machine_in_words
from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import draw_slice
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.imaging.readers import read_any, slices_of
from edge_runtime.studies.arrange import How, arrange
from edge_runtime.studies.drop import DropFile, classify_drop
from edge_runtime.studies.study import Study


def draw_series(folder: Path, files: int, size: int) -> list[Path]:
    """Files of a series of 16-bit slices, without windows, in no order of their names."""
    paths = []
    for number in range(files):
        picture = draw_slice(number % 8, size, size).astype(np.uint16) * 8
        data = dicom_bytes(
            picture, Modality="MR", PatientID="drawn", StudyInstanceUID="1.2.3",
            SeriesInstanceUID="1.2.3.4", SOPInstanceUID=f"1.2.3.4.{number}",
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[0, 0, number],
            PixelSpacing=[1, 1], InstanceNumber=number + 1,
        )  # fmt: skip
        paths.append(folder / f"IM{number * 7919 % 10_007:05d}")
        paths[-1].write_bytes(data)
    return sorted(paths)


def study_of(files: list[DropFile]) -> Study:
    """The one study in these files."""
    (study,) = arrange(files, How())
    assert isinstance(study, Study)
    return study


@click.command()
@click.option("--files", type=click.IntRange(1), default=200, show_default=True)
@click.option("--size", type=click.IntRange(16, 2048), default=512, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
def main(files: int, size: int, turns: int) -> None:
    """Print what sorting, showing and answering a series cost beside decoding its files."""
    classifier = Classifier()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "series"
        folder.mkdir()
        paths = list(map(str, draw_series(folder, files, size)))
        packed = Path(name) / "series.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, Path(path).name)
        drop, zipped = [DropFile(path, path) for path in paths], [DropFile("zip", str(packed))]

        def shown(of: list[DropFile]) -> None:
            assert sum(1 for series in study_of(of).series for _ in series.slices()) == files

        jobs: dict[str, Callable[[], object]] = {
            "decode each file alone": lambda: [list(slices_of(read_any(path))) for path in paths],
            "sort": lambda: study_of(drop),
            "sort and show": lambda: shown(drop),
            "sort and show, from a zip": lambda: shown(zipped),
            "answer each file alone": lambda: list(classifier.classify_many(paths)),
            "sort and answer": lambda: list(classify_drop(classifier, drop)),
        }
        took: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(turns):
            for job, run in jobs.items():
                begun = time.process_time()
                run()
                took[job].append(time.process_time() - begun)
    click.echo(f"{files} files of {size}x{size}, medians of {turns} turns")
    click.echo(machine_in_words(machine_facts()))
    first = median(took["decode each file alone"])
    for job, times in took.items():
        click.echo(
            f"{job:<28} {median(times):7.3f} s of CPU  {median(times) / first:5.2f} of decoding"
        )


if __name__ == "__main__":
    run_command(main, "benchmarks.arrange", "dicom")

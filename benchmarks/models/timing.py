"""Files of trained models for a device, and how long each takes for a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.formatting import machine_in_words
from benchmarks.common.process import run_tool
from benchmarks.common.turns import time_in_turns
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.measure import SETTLING, TURN
from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import preprocess
from export.models import check_device_sets
from trainer.data.archive import open_archive
from trainer.models.outputs import open_trained
from trainer.run import CNN, Run

WARM_UP = 5


def device_file(folder: Path) -> Path | None:
    """The ONNX file of a run, exported where it is not there yet; None where the run's features
    need the workstation."""
    run = Run.open(folder)
    if run.kind != CNN:
        try:
            check_device_sets(run.settings["features"]["sets"])
        except UsageError:
            return None
    path = folder / "export" / "brain-mri-onnx.onnx"
    if not path.is_file():
        run_tool(["btc-export", folder, "--onnx"])
    return path


def latencies(
    folders: Sequence[Path], files: Sequence[Path | None], data: Path, count: int
) -> tuple[list[float], str]:
    """Median milliseconds from JPEG bytes to an answer for each model, and the processor.

    Args:
        folders: runs.
        files: what `device_file` gave for each; where that is None, the run itself is timed.
        data: zip or folder that the slices come from.
        count: how many slices; each passes through all models in turn.
    """
    calls = {
        str(folder): _caller(folder, file) for folder, file in zip(folders, files, strict=True)
    }
    archive = open_archive(data)
    names = archive.names()
    chosen = np.random.default_rng(0).permutation(len(names))[: count + WARM_UP]
    slices = (archive.read(names[i]) for i in chosen)
    spans = time_in_turns(calls, slices, WARM_UP, turn=TURN, settling=SETTLING)
    return [float(np.median(mine)) for mine in spans.values()], machine_in_words(machine_facts())


def _caller(folder: Path, file: Path | None) -> Callable[[bytes], object]:
    if file is not None:
        return Classifier(file).classify
    run = Run.open(folder)
    trained, options = open_trained(run), run.preprocess
    return lambda content: trained.predict(preprocess(decode(content), options)[None])

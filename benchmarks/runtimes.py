"""Does every exported file say the same in every runtime that reads it?

    python -m benchmarks.runtimes RUN/export DATA --out benchmarks/results

The same slices through each file in two runtimes or more. Labels may differ only where the two
best classes lie within one quantisation step of the logits. Writes runtimes.json and runtimes.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import FOLDER, out_option, publish
from benchmarks.common.runners import FLOAT_STEP, model_files, read_slices, runners, step_of
from edge_runtime.commands.entry import run_command
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model


def compare(file: ModelFile, slices: list[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """Labels of one file in its runtimes, against the first."""
    step = step_of(file)
    options = file.info.preprocess
    logits = {
        name: np.stack([run(preprocess(gray, options)) for gray in slices])
        for name, run in runners(file).items()
    }
    (first, one), *others = logits.items()
    rows = []
    for name, two in others:
        differs = one.argmax(axis=1) != two.argmax(axis=1)
        top = np.sort(one, axis=1)
        close = top[:, -1] - top[:, -2] <= step * 1.001
        rows.append(
            {
                "runtimes": [first, name],
                "same": int((~differs).sum()),
                "differ_within_a_step": int((differs & close).sum()),
                "differ": int((differs & ~close).sum()),
                "max_steps": float(np.abs(one - two).max() / step),
            }
        )
    return {"model": file.tag, "step": step, "pairs": rows}


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| file | runtimes | same label | differ within one step | differ | largest difference |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, found in result["files"].items():
        lines += [
            f"| {name} | {' and '.join(row['runtimes'])} | {row['same']} "
            f"| {row['differ_within_a_step']} | {row['differ']} | {row['max_steps']:.2f} steps |"
            for row in found["pairs"]
        ]
    lines += ["", f"{result['n']} slices; a step is the quantisation step of the logits "
              f"({FLOAT_STEP:g} where they are floats).", ""]  # fmt: skip
    return "\n".join(lines)


@click.command()
@click.argument("models", type=FOLDER)
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", type=click.IntRange(1), default=500, show_default=True)
@out_option
def main(models: Path, data: Path, images: int, out: Path) -> None:
    """Run every model file of a folder in its runtimes on slices of DATA; exits 1 where labels
    differ by more than one step."""
    slices = read_slices(data, images)
    paths = model_files(models)
    files = {path.name: compare(read_model(path), slices) for path in paths}
    result = {"n": len(slices), "files": files}
    publish(out, "runtimes", result, as_markdown(result))
    if any(row["differ"] for found in files.values() for row in found["pairs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main, "benchmarks.runtimes", extra="export")

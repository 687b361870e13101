"""Does every exported file say the same in every runtime that reads it?

    python -m benchmarks.runtimes RUN/export DATA --out benchmarks/results

The same slices through each file in two runtimes or more. Labels may differ only where the two
best classes lie within one quantisation step of the logits. Writes runtimes.json and runtimes.md.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.files import write_text
from edge_runtime.imaging.decode import SUFFIXES, load_gray
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from trainer.run import dump_json

Floats = npt.NDArray[np.float32]
Runner = Callable[[npt.NDArray[np.uint8]], Floats]
PLAIN = "onnxruntime, its own defaults"  # without the options of our session
FLOAT_STEP = 1e-3  # rounding of floats in another order


def runners(file: ModelFile) -> dict[str, Runner]:
    """What reads the file here: name -> the logits of one preprocessed slice."""
    if file.format == "tflite":
        return {name: open_graph(file, name).run for name in ("litert", "tensorflow")}
    found = {"onnxruntime": open_graph(file, "onnxruntime").run}
    if file.info.scheme == "qdq":  # OpenCV's kernels for VNNI are wrong on some shapes
        return found | {PLAIN: plain_runner(file)}
    return found | {"OpenCV DNN": opencv_runner(file)}


def opencv_runner(file: ModelFile) -> Runner:
    import cv2

    net = cv2.dnn.readNetFromONNX(np.frombuffer(file.graph, np.uint8))

    def run(pixels: npt.NDArray[np.uint8]) -> Floats:
        net.setInput(pixels[None, ..., None].astype(np.float32), "pixels")
        answer: Floats = np.asarray(net.forward("logits"), np.float32).ravel()
        return answer

    return run


def plain_runner(file: ModelFile) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.graph, options, providers=["CPUExecutionProvider"])

    def run(pixels: npt.NDArray[np.uint8]) -> Floats:
        feed = {"pixels": pixels[None, ..., None].astype(np.float32)}
        answer: Floats = session.run(["logits"], feed)[0][0]
        return answer

    return run


def step_of(file: ModelFile) -> float:
    """One quantisation step of the logits; of floats, their rounding."""
    if file.format == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        details = Interpreter(model_content=file.graph).get_output_details()
        scale = float(details[file.info.outputs["logits"]]["quantization"][0])
        return scale or FLOAT_STEP
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(file.graph).graph
    last = next(node for node in graph.node if "logits" in node.output)
    if last.op_type != "DequantizeLinear":
        return FLOAT_STEP
    known = {tensor.name: tensor for tensor in graph.initializer}
    return float(numpy_helper.to_array(known[last.input[1]]))


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


def read_slices(data: Path, count: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Gray slices drawn from a zip.

    Raises:
        DataError: no image in it.
    """
    with zipfile.ZipFile(data) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith(SUFFIXES))
        if not names:
            raise DataError(f"{data.name}: no image")
        order = np.random.default_rng(seed).permutation(len(names))[:count]
        return [load_gray(archive.read(names[i])) for i in sorted(order.tolist())]


def as_markdown(result: dict[str, Any]) -> str:
    """The table that the README shows."""
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
@click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", type=click.IntRange(1), default=500, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
def main(models: Path, data: Path, images: int, out: Path) -> None:
    """Run every model file of a folder in its runtimes on slices of DATA; exits 1 where labels
    differ by more than one step."""
    slices = read_slices(data, images)
    paths = sorted(p for p in models.iterdir() if p.suffix in (".tflite", ".onnx"))
    if not paths:
        raise DataError(f"{models}: no model file")
    files = {path.name: compare(read_model(path), slices) for path in paths}
    result = {"n": len(slices), "files": files}
    write_text(out / "runtimes.json", dump_json(result))
    write_text(out / "runtimes.md", as_markdown(result))
    click.echo(as_markdown(result))
    if any(row["differ"] for found in files.values() for row in found["pairs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    from edge_runtime.commands.entry import run_command

    run_command(main, "benchmarks.runtimes", extra="export")

"""What the device side costs to install and to run, with each interpreter it can use.

    python -m benchmarks.footprint --onnx MODEL.onnx --out benchmarks/results

Every set is a fresh environment of Python 3.11 with the wheel of this checkout. Measured in it:
what is installed, wall time and peak memory of the whole command that classifies one slice and of
the bare imports, and the time of one invoke. The sets take turns, so that a drift of the machine
hits all alike. Writes footprint.json and footprint.md.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.environments import (
    ROOT,
    VERSION,
    Environment,
    build_wheel,
    find_python,
    install,
    installed_bytes,
    packages,
    run,
    tree_bytes,
)
from benchmarks.common.formatting import MIB, machine_in_words
from benchmarks.common.process import launch
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from edge_runtime.files import write_bytes
from trainer.synthetic.phantoms import draw_phantom

COMMON = ("click", "numpy", "opencv-python-headless")
MINIMAL = ("-r", str(ROOT / "requirements-device-minimal.txt"))


@dataclass(frozen=True)
class Kit:
    """One way to run a model.

    Attributes:
        distribution: the interpreter's package, without the suffix of a variant.
        module: what imports the interpreter.
        choices: what pip installs before the wheel; the first that can be had. Empty: the wheel
            brings all it needs.
        backend: for `btc-edge --backend`.
    """

    name: str
    distribution: str
    module: str
    choices: tuple[tuple[str, ...], ...]
    backend: str


KITS = (
    Kit("LiteRT", "ai-edge-litert", "ai_edge_litert.interpreter", (), "litert"),
    Kit("tflite-runtime", "tflite-runtime", "tflite_runtime.interpreter", (MINIMAL,),
        "tflite-runtime"),
    Kit("ONNX Runtime", "onnxruntime", "onnxruntime", ((*COMMON, "onnxruntime"),), "onnxruntime"),
    Kit("TensorFlow", "tensorflow", "tensorflow",
        ((*COMMON, "tensorflow-cpu"), (*COMMON, "tensorflow")), "tensorflow"),
)  # fmt: skip


@dataclass(frozen=True)
class Installed(Environment):
    """A kit in its environment, and the model it runs (None: the bundled one)."""

    kit: Kit
    model: Path | None = None

    def command(self, name: str, *words: str) -> list[str | Path]:
        """One of btc-edge's commands with this kit's interpreter and model."""
        chosen = ["--backend", self.kit.backend]
        chosen += ["--model", str(self.model)] if self.model else []
        return [self.folder / "bin" / "btc-edge", name, *chosen, *words]


def invoke_ms(environment: Installed, queries: int) -> float:
    """Median time of one call of the interpreter, as `btc-edge benchmark` measures it."""
    words = ["--format", "json", "--queries", str(queries)]
    if "--seconds" in run(environment.folder / "bin" / "btc-edge", "benchmark", "--help"):
        words += ["--seconds", "0"]
    result = json.loads(run(*environment.command("benchmark", *words)))
    return float(result["models"][0]["invoke_ms"]["p50"])


def contents(environment: Installed) -> dict[str, Any]:
    """What is installed, and how large it is."""
    kit, found = environment.kit, packages(environment.site)
    name = next(n for n in found if n.removesuffix("-cpu") == kit.distribution)
    shown = {name: found[name]}
    shown |= {short: found[n] for short, n in (("numpy", COMMON[1]), ("OpenCV", COMMON[2]))}
    return {
        "set": kit.name,
        "model": environment.model.name if environment.model else "bundled",
        "versions": shown,
        "packages": len(found),
        "installed_mib": installed_bytes(environment.site) / MIB,
        "interpreter_mib": tree_bytes(environment.site / kit.module.partition(".")[0]) / MIB,
    }


def measure(environments: list[Installed], repeats: int, queries: int) -> list[dict[str, Any]]:
    """One row for each environment; see the module's text."""
    rows = [contents(each) for each in environments]
    whole: list[list[tuple[float, float]]] = [[] for _ in environments]
    bare: list[list[float]] = [[] for _ in environments]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = str(folder / "slice.png")
        gray = draw_phantom("glioma", np.random.default_rng(0))
        write_bytes(picture, cv2.imencode(".png", gray)[1].tobytes())
        for _ in range(repeats + 1):
            for i, each in enumerate(environments):
                whole[i].append(launch(each.command("classify", picture), folder))
                imports = f"import numpy, cv2, {each.kit.module}"
                bare[i].append(launch([each.python, "-c", imports], folder)[1])
    for i, row in enumerate(rows):
        # The first run warms the disk cache.
        row["wall_ms"] = float(np.median([wall for wall, _ in whole[i][1:]]))
        row["peak_mib"] = max(peak for _, peak in whole[i])
        row["imports_mib"] = max(bare[i])
        row["invoke_ms"] = invoke_ms(environments[i], queries)
    return rows


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| set | installs | packages | size MiB | of it interpreter | imports, peak MiB "
        "| classify, peak MiB | classify ms | invoke p50 ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["sets"]:
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        lines.append(
            f"| {row['set']} | {versions} | {row['packages']} | {row['installed_mib']:.0f} "
            f"| {row['interpreter_mib']:.0f} | {row['imports_mib']:.0f} | {row['peak_mib']:.0f} "
            f"| {row['wall_ms']:.0f} | {row['invoke_ms']:.2f} |"
        )
    models = {row["model"]: row["set"] for row in result["sets"] if row["model"] != "bundled"}
    others = "".join(f"; {name} runs {model}" for model, name in models.items())
    lines += [
        "",
        "Size: all of site-packages besides pip and setuptools. imports: numpy, OpenCV and the "
        "interpreter. classify: the whole command on one slice, median of "
        f"{result['repeats']}, the sets in turn. All run the bundled int8 model{others}. "
        f"Python {result['python']}; "
        f"{machine_in_words(result['machine'])}.",
        *(f"\n{name} was left out." for name in result["left_out"]),
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--onnx", type=EXISTING, help="Needed for its row.")
@click.option("--python", help=f"Python {VERSION} for the environments; default: one found here.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to keep them in, for reuse.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--queries", type=click.IntRange(10), default=128, show_default=True)
@out_option
def main(onnx: Path | None, python: str | None, keep: Path | None, repeats: int, queries: int,
         out: Path) -> None:  # fmt: skip
    """Measure every set of packages that can run a model; gigabytes are downloaded."""
    left_out = [] if onnx else ["ONNX Runtime"]
    for name in left_out:
        click.echo(f"{name} is left out: it needs a model, --onnx FILE", err=True)
    chosen = python or find_python()
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        environments = []
        for kit in (k for k in KITS if k.name not in left_out):
            model = onnx.resolve() if onnx and kit.backend == "onnxruntime" else None
            place = (keep.resolve() if keep else Path(folder)) / kit.backend
            environments.append(Installed(place, kit, model))
            click.echo(f"{kit.name}: installing", err=True)
            install(environments[-1], chosen, kit.choices, wheel)
        result = {
            "machine": machine_facts(),
            "python": run(environments[0].python, "--version").split()[-1],
            "repeats": repeats,
            "left_out": left_out,
            "sets": measure(environments, repeats, queries),
        }
    publish(out, "footprint", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.footprint", extra="dev")

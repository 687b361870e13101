"""What each extra adds to an installation.

    python -m benchmarks.extras --out benchmarks/results

Every one is a fresh environment of Python 3.11 with the wheel of this checkout and that extra.
Writes extras.json and extras.md.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.common.command import out_option, publish
from benchmarks.common.environments import (
    VERSION,
    Environment,
    build_wheel,
    find_python,
    install,
    installed_bytes,
    packages,
    run,
)
from benchmarks.common.formatting import MIB
from edge_runtime.commands.entry import run_command

NONE = "none"
# Extra -> the one that it stands beside, whose packages are its own too.
EXTRAS = {
    NONE: NONE, "onnx": NONE, "dicom": NONE, "nifti": NONE, "watch": NONE, "serve": NONE,
    "dimse": NONE, "dicom-out": NONE, "ray": NONE, "signing": NONE, "train": NONE,
    "tensorboard": "train", "mlflow": "train", "export": "train", "quantizer": "export",
}  # fmt: skip


def measure(environment: Environment, extra: str) -> dict[str, Any]:
    """What is installed with an extra, and how large it is."""
    return {
        "extra": extra,
        "beside": EXTRAS[extra],
        "packages": len(packages(environment.site)),
        "installed_mib": installed_bytes(environment.site) / MIB,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """A row for each extra, and what it adds to what it stands beside."""
    sizes = {row["extra"]: row["installed_mib"] for row in result["extras"]}
    lines = ["| extra | packages | size MiB | adds MiB | to |", "|---|--:|--:|--:|---|"]
    for row in result["extras"]:
        extra, beside = row["extra"], row["beside"]
        added = f"{sizes[extra] - sizes[beside]:.0f} | {beside}" if extra != beside else "|"
        lines.append(f"| {extra} | {row['packages']} | {sizes[extra]:.0f} | {added} |")
    lines += [
        "",
        "Size: all of site-packages besides pip and setuptools. "
        f"Python {result['python']}, {result['architecture']}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--python", help=f"Python {VERSION} for the environments; default: one found here.")
@out_option
def main(python: str | None, out: Path) -> None:
    """Measure what each extra installs; every one is downloaded."""
    chosen = python or find_python()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for extra in EXTRAS:
            click.echo(f"{extra}: installing", err=True)
            environment = Environment(Path(folder) / extra)
            words = str(wheel) if extra == NONE else f"{wheel}[{extra}]"
            install(environment, chosen, [(words,)])
            rows.append(measure(environment, extra))
            shutil.rmtree(environment.folder)
        result = {
            "python": run(chosen, "--version").split()[-1],
            "architecture": platform.machine(),
            "extras": rows,
        }
    publish(out, "extras", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.extras", extra="dev")

"""What each extra of the device side adds to an installation.

    python -m benchmarks.extras --out benchmarks/results

Every one is a fresh environment of Python 3.11 with the wheel of this checkout and that extra.
Writes extras.json and extras.md.
"""

from __future__ import annotations

import platform
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

EXTRAS = ("", "onnx", "dicom", "nifti", "watch", "serve", "dimse", "dicom-out", "ray", "signing")


def measure(environment: Environment, extra: str) -> dict[str, Any]:
    """What is installed with an extra, and how large it is."""
    return {
        "extra": extra,
        "packages": len(packages(environment.site)),
        "installed_mib": installed_bytes(environment.site) / MIB,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """A row for each extra, and what it adds to none."""
    alone = result["extras"][0]["installed_mib"]
    lines = ["| extra | packages | size MiB | adds MiB |", "|---|--:|--:|--:|"]
    for row in result["extras"]:
        size = row["installed_mib"]
        lines.append(
            f"| {row['extra'] or 'none'} | {row['packages']} | {size:.0f} | {size - alone:.0f} |"
        )
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
            click.echo(f"{extra or 'none'}: installing", err=True)
            environment = Environment(Path(folder) / (extra or "none"))
            words = f"{wheel}[{extra}]" if extra else str(wheel)
            install(environment, chosen, [(words,)])
            rows.append(measure(environment, extra))
        result = {
            "python": run(environment.python, "--version").split()[-1],
            "architecture": platform.machine(),
            "extras": rows,
        }
    publish(out, "extras", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.extras", extra="dev")

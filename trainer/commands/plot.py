"""`btc-plot`."""

from __future__ import annotations

from pathlib import Path

import click

import edge_runtime
from edge_runtime.commands.options import HELP
from edge_runtime.errors import UsageError
from trainer.commands.terminal import TABLE, enter, say

EXIT_CODES = (
    "\b\nExit codes: 0 drawn, 1 a FILE is damaged or no result of a benchmark, 2 usage or a "
    "missing package, 130 interrupted."
)
SUFFIXES = (".svg", ".png")


@click.command("btc-plot", context_settings=HELP, epilog=EXIT_CODES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=TABLE)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The picture to write: .svg or .png.",
)
@click.version_option(edge_runtime.__version__, prog_name="btc-plot")
def plot_command(files: tuple[Path, ...], out: Path) -> None:
    """Draw what `btc-edge benchmark --format json` wrote to each FILE, one FILE a device.

    A bar for each model: the median time of one image, split into its steps, with whiskers to p90
    and p99. All devices have one scale.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out writes {' or '.join(SUFFIXES)}, not {out.suffix or out.name!r}")
    if out.exists() and any(out.samefile(file) for file in files):
        raise UsageError(f"--out {out} would replace a result")

    from trainer.report.charts import save_chart
    from trainer.report.device_times import device_times_chart, read_device_times

    save_chart(device_times_chart([read_device_times(file) for file in files]), out)
    say(f"btc-plot: {out}")


def main() -> None:
    """Entry point of btc-plot."""
    enter(plot_command, "btc-plot")

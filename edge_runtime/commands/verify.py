"""`btc-edge verify`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import loading, next_command, to_the_reader
from edge_runtime.errors import printable

EXIT_CODES = (
    "\b\nExit codes: 0 in order, 2 usage or a missing package, 3 not in order, 130 interrupted."
)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--public-key", type=EXISTING, metavar="PEM", help="Whose signature it must have.")
@click.option("--signature", type=EXISTING, help="Default: FILE.sig where it is.")
@click.option(
    "--format", "style", type=Choice(["table", "json"]), default="table", show_default=True
)
def verify(file: Path, public_key: Path | None, signature: Path | None, style: str) -> None:
    """Check a model FILE before it is used: that it is whole, that it runs here, and who made it.

    Digests tell of damage, a signature (btc-edge[signing]) of who made it. btc-export --verify, on
    a workstation, looks into the graph as well.
    """
    with loading():
        from edge_runtime.verify import verify_file
    found = verify_file(file, signature, public_key)
    with to_the_reader():
        if style == "json":
            import json

            shape = {
                "input": str(file),
                "sha256": found.sha256,
                "signed": found.signed,
                "findings": dict(found.findings),
            }
            click.echo(json.dumps(shape, indent=1))
            return
        for what, finding in found.findings:
            click.echo(f"{what:<14} {printable(finding)}")
    next_command(["btc-edge", "classify", "--model", file, "PATH..."])

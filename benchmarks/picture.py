"""The README's picture: the real answers of `btc-edge classify` as an SVG of a terminal.

python -m benchmarks.picture docs/classify.svg slice1.jpg slice2.jpg …
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import click

from edge_runtime.files import write_text


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--cwd", type=click.Path(path_type=Path), default=Path(), help="Where images lie.")
def main(out: Path, images: tuple[str, ...], cwd: Path) -> None:
    """Classify IMAGES with the bundled model and draw what the terminal shows to OUT."""
    from rich.console import Console

    words = ["btc-edge", "classify", *images]
    tool = Path(sys.executable).parent.absolute() / words[0]
    done = subprocess.run([tool, *words[1:]], cwd=cwd, capture_output=True, text=True)
    console = Console(record=True, width=76, file=io.StringIO())
    console.print(f"$ btc-edge classify {' '.join(images[:2])} …", style="bold", highlight=False)
    console.print(done.stdout.rstrip(), highlight=False, soft_wrap=True)
    console.print(done.stderr.rstrip(), style="yellow", highlight=False, soft_wrap=True)
    picture = console.export_svg(title="btc-edge")
    # The font is the reader's own: a picture asks no network for anything.
    write_text(out, re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S))


if __name__ == "__main__":
    main()

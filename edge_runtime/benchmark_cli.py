"""`btc-edge benchmark`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.errors import UsageError
from edge_runtime.options import backend_option, threads_option


@click.command()
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Model file, repeatable; default: the bundled one.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images; accuracy is measured where they lie in folders named after labels.",
)
@click.option(
    "--queries",
    type=click.IntRange(10, 1_000_000),
    default=256,
    show_default=True,
    help="Timed images per model; the images are taken again from the start as often as needed.",
)
@threads_option
@backend_option
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def benchmark(
    models: tuple[Path, ...],
    images: Path | None,
    queries: int,
    threads: int,
    backend: str,
    style: str,
) -> None:
    """Measure latency, memory and (on labelled images) accuracy on this device."""
    import json

    from edge_runtime.benchmark import as_table, measure
    from edge_runtime.model_file import bundled_model

    if images is not None and not images.is_dir():
        raise UsageError(f"{images} is not a folder")
    result = measure(
        models or (bundled_model(),), images, queries=queries, threads=threads, backend=backend
    )
    click.echo(json.dumps(result, indent=1) if style == "json" else as_table(result))

"""What both fuzz targets share: a corpus drawn at start, and libFuzzer's limits."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris


def fuzz(target: Callable[[bytes], None], corpus: Iterable[bytes], most: int) -> None:
    """Feed `target` until the time is up (`-max_total_time=60` among the arguments).

    An exception, 5 s for one input or 1 GiB of memory end it; the input is then kept in a
    temporary folder, which is printed.

    Args:
        corpus: valid inputs to begin with.
        most: bytes of the largest input.
    """
    folder = Path(tempfile.mkdtemp(prefix="btc-fuzz-"))
    seeds = folder / "corpus"
    seeds.mkdir()
    for number, data in enumerate(corpus):
        (seeds / f"{number:03d}").write_bytes(data)
    limits = [f"-max_len={most}", "-timeout=5", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/"]
    atheris.Setup([*sys.argv, *limits, str(seeds)], target)
    atheris.Fuzz()

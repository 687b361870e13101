"""Everything here runs without TensorFlow; no picture lies in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile.pictures import draw_slice, encode


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve drawn slices in several formats, two folders deep."""
    folder = tmp_path_factory.mktemp("slices")
    for i, suffix in enumerate([".jpg", ".png", ".bmp", ".tiff", ".webp", ".jpg"] * 2):
        place = folder / ("glioma" if i % 2 else "notumor")
        place.mkdir(exist_ok=True)
        (place / f"{i:02d}{suffix}").write_bytes(encode(draw_slice(i), suffix))
    return folder

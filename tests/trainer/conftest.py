from __future__ import annotations

from pathlib import Path

import pytest

from trainer.synthetic.phantoms import write_phantoms


@pytest.fixture(scope="session")
def phantom_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 synthetic slices in Training/ and Testing/."""
    path = tmp_path_factory.mktemp("data") / "phantoms.zip"
    write_phantoms(path, per_class=24, testing=0.25, seed=3)
    return path

"""The house rules that a tool can check."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return [ROOT / line for line in done.stdout.splitlines()]


def test_no_slice_or_archive_is_in_the_repository() -> None:
    images = {".jpg", ".jpeg", ".zip", ".npz", ".dcm", ".nii", ".gz"}
    weights = {*(ROOT / "pretrained" / "btc_edge_pretrained").glob("*.npz")}
    drawn = ROOT / "tests" / "former"  # runs on drawn slices
    found = {p for p in tracked() if p.suffix.lower() in images}
    assert {p for p in found if drawn not in p.parents} == weights
    assert all(p.parent.name in {"docs", "results"} for p in tracked() if p.suffix == ".png")

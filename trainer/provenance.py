"""What a run is made from: its inputs with their digests, the packages, the source's commit.

A training that goes on must see the inputs that it was started with; so must a cross-validation's
folds.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import edge_runtime
from edge_runtime.errors import DataError
from trainer.data.dataset import Dataset
from trainer.data.partial_labels import PartialLabels
from trainer.features.extractor import DEEP
from trainer.run import Run

PACKAGES = (
    "tensorflow", "keras", "numpy", "opencv-python-headless", "scikit-learn", "scikit-image",
    "scipy", "skops", "btc-edge-pretrained",
)  # fmt: skip


class _Input(NamedTuple):
    """Something that a run learns from: the option that names it, and what it is."""

    option: str
    kind: str


INPUTS = {
    "data": _Input("DATA", "data"),
    "groups": _Input("--groups", "table"),
    "boxes": _Input("--boxes", "table"),
    "partial": _Input("--partial", "data"),
    "partial_groups": _Input("--partial-groups", "table"),
    "deep": _Input("--features deep:RUN", "run"),
}


def known_inputs(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """What run.json knows of the run's INPUTS.

    Returns:
        The digest of each; empty where only its presence is known, None where there is none. What
        a run of a former version did not keep is missing.
    """
    stored = settings.get("inputs")
    if stored is not None:
        return {name: stored[name] for name in INPUTS}
    data, partial = settings.get("data"), settings.get("partial")
    if data is None:
        return {}
    known = {"data": data["sha256"], "partial": partial and partial["sha256"]}
    for name, present in (("groups", data.get("groups_given")), ("boxes", data.get("boxes"))):
        if present is not None:
            known[name] = "" if present else None
    if partial is None:
        known["partial_groups"] = None
    known["deep"] = "" if DEEP in settings["training"].get("features", ()) else None
    return known


def input_digests(
    data: Dataset, partial: PartialLabels | None, deep: Path | None
) -> dict[str, str | None]:
    """The digest of each of INPUTS.

    Pictures: of names, classes and contents. Tables: of what they say of these slices (see
    `Dataset.tables`), so that a table may be saved anew or hold more. A deep run: of its networks.
    """
    slices = None if partial is None else partial.slices
    return {
        "data": data.sha256,
        "groups": data.tables.get("groups"),
        "boxes": data.tables.get("boxes"),
        "partial": None if slices is None else slices.sha256,
        "partial_groups": None if slices is None else slices.tables.get("groups"),
        "deep": None if deep is None else _digest_of_networks(deep),
    }


def admit_inputs(run: Run, digests: Mapping[str, str | None]) -> list[str]:
    """Check the inputs of a run that may have begun before, and keep their digests.

    Returns:
        The options whose content cannot be compared, in a run of a former version.

    Raises:
        DataError: another input than the run was started with.
    """
    known = known_inputs(run.settings)
    for name, digest in digests.items():
        option, kind = INPUTS[name]
        before = known.get(name, "")
        if (before is None) != (digest is None) and name in known:
            more = "without" if before is None else "with"
            raise DataError(f"{option}: the run in {run.folder} was started {more} it")
        if before and before != digest:
            raise DataError(f"{option} is not the {kind} that the run was started with")
    begun = run.settings.get("inputs") is None and run.settings["data"] is not None
    unknown = [
        INPUTS[name].option
        for name, digest in digests.items()
        if begun and (known.get(name, "") == "") and (digest is not None or name not in known)
    ]
    run.settings["inputs"] = dict(digests)
    return unknown


def _digest_of_networks(folder: Path) -> str:
    """A digest over the trained networks of a run, or of every fold of a cross-validation.

    Raises:
        DataError: no run, or one whose training is not finished.
    """
    digest = hashlib.sha256()
    for each in Run.open(folder).model_folders:
        try:
            digest.update(hashlib.sha256((each / "model.keras").read_bytes()).digest())
        except OSError:
            raise DataError(f"{each}: no model.keras; the training has not finished") from None
    return digest.hexdigest()


def installed_versions() -> dict[str, str | None]:
    """The versions of Python and of what a training depends on; None of what is not there."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    versions["btc-edge"] = edge_runtime.__version__
    return versions


def source_commit() -> str | None:
    """The source's commit where this is a checkout of the project, else None."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None

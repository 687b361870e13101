"""A `Run`: the folder that a training leaves, complete enough to export from."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, ModelError, UsageError, one_line
from edge_runtime.files import replacing, write_text
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.json_text import parse_json
from trainer.data.npz import opened_npz
from trainer.data.tables import read_table
from trainer.former import metrics_of_today, settings_of_today

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Dataset

SCHEMA = 1
CNN = "cnn"  # what `--model` and run.json call the network


@dataclass(frozen=True)
class Images:
    """Preprocessed slices that a run keeps.

    Attributes:
        pixels: uint8 array of N×size×size.
        labels: int64 array of N.
        groups, sources, planes, sequences: one text per image; empty where unknown.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    planes: tuple[str, ...]
    sequences: tuple[str, ...]


class Run:
    """Files of one training.

    run.json, metrics.json, predictions.csv, report.html and pictures; the model, which is
    model.keras with history.csv, or model.skops (of a classical model; with deep.keras where it
    looks at a network's features); slices: calibration.npz (training side only), validation.npz
    (held out), gallery.npz (examples), importance.npz (of a classical model). A cross-validation
    has one such folder a fold, and the pooled figures beside them.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = settings

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """A run that has been started.

        Raises:
            DataError: no run there, or of another version.
        """
        place = Path(folder)
        try:
            settings = parse_json((place / "run.json").read_text("utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{place}: not a run folder (no readable run.json)") from None
        if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
            raise DataError(f"{place}: a run of another version; train again")
        return cls(place, settings_of_today(settings))

    @property
    def kind(self) -> str:
        """`cnn`, or the classical model."""
        return str(self.settings["model"])

    @property
    def needs_keras(self) -> bool:
        """Whether the model is, or looks through, a Keras network."""
        features = self.settings.get("features") or {}
        return self.kind == CNN or bool(features.get("deep_sha256"))

    @property
    def model_folders(self) -> list[Path]:
        """Where its models are: the folders of its folds, or its own."""
        folds = self.settings.get("folds") or 0
        return [self.folder / f"fold-{n}" for n in range(1, folds + 1)] or [self.folder]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return tuple(self.settings["labels"])

    @property
    def preprocess(self) -> Preprocess:
        """How a slice becomes the network's input."""
        return Preprocess.from_json(self.settings["preprocess"])

    @property
    def version(self) -> str:
        """The model's version: the one that was asked for, or its day and the beginning of the
        digest of its weights' file, as `2026.1.31+1a2b3c4d`. So two trainings never share one.

        Raises:
            ModelError: there is no model yet.
        """
        given = self.settings.get("model_version")
        if given:
            return str(given)
        for name in ("model.keras", "model.skops"):
            path = self.folder / name
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                return dated_version(self.settings["created"], digest)
        raise ModelError(f"{self.folder}: no model; the training has not finished")

    def check_single(self) -> None:
        """Refuse a cross-validation, which holds several models.

        Raises:
            ModelError: it is one.
        """
        if self.settings.get("folds"):
            raise ModelError(
                f"{self.folder} is a cross-validation of several models: name one of its folds, "
                f"such as {self.folder / 'fold-1'}"
            )

    def load_model(self, name: str = "model.keras", sha256: str | None = None) -> keras.Model:
        """The trained network, or another one that the run holds.

        Args:
            sha256: what the file's digest must be; None where none was kept.

        Raises:
            ModelError: no model yet, an altered one, or one that cannot be read safely.
        """
        import keras

        path = self.folder / name
        self.check_single()
        if not path.is_file():
            raise ModelError(f"{self.folder}: no {name}; the training has not finished")
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ModelError(f"{name} does not match its digest in run.json: altered file")
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever its parts raise
            raise ModelError(f"{name} cannot be loaded: {one_line(error)}") from None

    def save_model(self, model: keras.Model) -> None:
        """Keep the network as model.keras."""
        with replacing(self.folder / "model.keras") as part:
            model.save(part)

    @property
    def seconds(self) -> float:
        """Time spent on learning; 0 in runs of a version that did not count."""
        return float(self.settings.get("seconds") or 0.0)

    def add_seconds(self, spent: float) -> None:
        """Count time spent on learning: that of a resumed training adds up."""
        self.settings["seconds"] = round(self.seconds + spent, 1)

    def save_settings(self) -> None:
        """Write run.json."""
        write_text(self.folder / "run.json", dump_json(self.settings))

    def save_history(self, rows: list[dict[str, float]]) -> None:
        """Write history.csv, one row per epoch."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]) if rows else ["epoch"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "history.csv", out.getvalue())

    def history(self) -> list[dict[str, float]]:
        """The rows of history.csv; none where the model does not learn in epochs."""
        if not (self.folder / "history.csv").exists():
            return []
        try:
            with (self.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
                return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        except (OSError, ValueError) as error:
            raise DataError(f"history.csv cannot be read: {one_line(error)}") from None

    def measured_paths(self) -> set[str]:
        """The slices that predictions.csv tells of.

        Raises:
            DataError: missing or damaged.
        """
        try:
            return {row["path"] for row in read_table(self.folder / "predictions.csv", ("path",))}
        except DataError:
            raise DataError(f"{self.folder}: no readable predictions.csv") from None

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json.

        Raises:
            DataError: missing or damaged.
        """
        try:
            content: dict[str, Any] = parse_json((self.folder / "metrics.json").read_text("utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{self.folder}: no readable metrics.json") from None
        return metrics_of_today(content)

    def save_images(self, name: str, data: Dataset) -> None:
        """Keep slices as NAME.npz; NAME is `calibration` or `validation`."""
        with replacing(self.folder / f"{name}.npz") as part:
            np.savez_compressed(
                part,
                pixels=data.images,
                labels=data.labels,
                groups=np.asarray(data.groups, dtype=str),
                sources=np.asarray(data.sources, dtype=str),
                planes=np.asarray(data.planes, dtype=str),
                sequences=np.asarray(data.sequences, dtype=str),
            )

    def calibration_images(self) -> Images:
        """Slices of the training side, for quantisation."""
        return self._images("calibration")

    def validation_images(self) -> Images:
        """Slices of the validation side."""
        return self._images("validation")

    def _images(self, name: str) -> Images:
        path = self.folder / f"{name}.npz"
        with opened_npz(path, f"{self.folder}: no readable {name}.npz") as file:
            unknown = np.full(len(file["labels"]), "")  # in a run of a former version
            images = Images(
                file["pixels"],
                file["labels"],
                *(tuple(file[name].tolist()) for name in ("groups", "sources")),
                *(tuple(file.get(name, unknown).tolist()) for name in ("planes", "sequences")),
            )
        size = self.preprocess.size
        if images.pixels.dtype != np.uint8 or images.pixels.shape[1:] != (size, size):
            raise DataError(f"{name}.npz does not hold slices of {size}×{size}")
        return images


def dated_version(created: str, digest: str) -> str:
    """A version that a training has for itself: `2026.1.31+1a2b3c4d`.

    Args:
        created: time of the training, beginning with its date, YYYY-MM-DD.
        digest: of what was learned, hexadecimal.
    """
    day = ".".join(str(int(part)) for part in created[:10].split("-"))
    return f"{day}+{digest[:8]}"


def checked_name(name: str) -> str:
    """A model's name, which is the beginning of its files' names too.

    Raises:
        UsageError: other characters than letters, digits, - and _.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--name {name!r}: use letters, digits, - and _")
    return name


def checked_version(version: str | None) -> str | None:
    """A model's version, which stands in its tag as one word; None where none is given.

    Raises:
        UsageError: other characters than letters, digits and . + - _.
    """
    if version is not None and not re.fullmatch(r"[A-Za-z0-9.+_-]{1,64}", version):
        raise UsageError(f"--model-version {version!r}: use letters, digits and . + - _")
    return version


def dump_json(content: Any, ascii_only: bool = False) -> str:
    """JSON text that ends in a newline; NaN is refused, since a reader may not know it.

    Args:
        ascii_only: for a terminal, which a name must not steer.
    """
    return json.dumps(content, indent=1, ensure_ascii=ascii_only, allow_nan=False) + "\n"

"""One format of one run: convert, describe, pack, prove, and only then put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.metadata import ModelInfo
from export.calibration_images import (
    choose_calibration_images,
    digest,
    read_calibration_images,
    record,
)
from export.formats import FORMATS, TENSORFLOW, Format
from export.gate import GateResult, Reference, run_gate
from export.models import ConvertedGraph, ExportNetwork, open_export_model
from export.tflite.convert import has_converter
from trainer.evaluation.decision_rule import DecisionRule, SideOutputs, fit_decision_rule
from trainer.evaluation.selective import Targets, tumour_free_among, tumour_free_of
from trainer.evaluation.study import FILE as HEADS
from trainer.evaluation.study import HeadSlices, TooFewHeads, fit_study_rule, known_series
from trainer.models.outputs import predict_file
from trainer.run import Run

if TYPE_CHECKING:
    from export.tflite.diagnose import Diagnosis

REJECTED = ".rejected"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportSettings:
    """What an export does.

    Attributes:
        out: folder for the files.
        name: the model's name, and the beginning of the files' names; None takes the run's.
        version: the model's; None takes the run's, see `Run.version`.
        calibration_images: how many images the quantiser sees.
        calibration_folder: images of one's own for it, instead of the run's.
        quantizer: who makes the int8 graph, one of `export.formats.QUANTIZERS`.
        license: of the model, or None.
        targets: error rates that the thresholds are chosen for; None takes the run's.
    """

    out: Path
    name: str | None = None
    version: str | None = None
    calibration_images: int = 64
    seed: int = 0
    license: str | None = None
    targets: Targets | None = None
    calibration_folder: Path | None = None
    quantizer: str = TENSORFLOW


@dataclass(frozen=True)
class Exported:
    """One exported file: where it is, what is in it, how it did.

    Attributes:
        ops, macs: op -> how often; multiply-accumulates.
        calibration: the images that the quantiser saw, see `calibration_images.record`, or None.
        quantizer: who made an int8 graph, see `export.formats.QUANTIZERS`; else None.
        size_ratio: of the graph to that of the run as float32 TFLite, both without metadata;
            None where the run has no such graph.
        not_answered: a line for each class that the file never answers.
    """

    format: Format
    path: Path
    bytes: int
    sha256: str
    ops: dict[str, int]
    macs: int
    temperature: float
    calibration: dict[str, Any] | None
    quantizer: str | None
    size_ratio: float | None
    gate: GateResult
    not_answered: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One entry of export.json; the path is relative to its folder."""
        return {
            "format": self.format.name,
            "path": self.path.name,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "scheme": self.format.scheme,
            "ops": self.ops,
            "macs": self.macs,
            "temperature": self.temperature,
            "not_answered": list(self.not_answered),
            "runtimes": list(self.format.runtimes),
            "size_ratio": self.size_ratio,
            "calibration": self.calibration,
            "quantizer": self.quantizer,
        } | self.gate.to_json()


class Exporter:
    """Exports formats of one run; the trained model is loaded and run once.

    Raises:
        DataError: the run holds no held-out images to prove an export on.
        ModelError: the run's model cannot be used.
        UsageError: a classical model over features that a device cannot compute.
    """

    def __init__(self, run: Run, settings: ExportSettings) -> None:
        self._run, self._settings = run, settings
        self._model = open_export_model(run, settings.quantizer)
        self._validation = run.validation_images()
        if len(self._validation.labels) == 0:
            raise DataError("the run holds no held-out images to prove an export on")
        logits = self._model.logits(self._validation.pixels)
        plain = None
        if isinstance(self._model, ExportNetwork) and has_converter():
            plain = parse_model(self.packed(FORMATS["float32"], None))
        temperature = float(run.settings["temperature"] or 1.0)  # fitted when it was trained
        self._reference = Reference(run.labels, logits, temperature, plain)

    @property
    def trained_bytes(self) -> int:
        """Size of the trained model's files."""
        return self._model.bytes

    def export(self, form: Format, progress: Progress | None = None) -> Exported:
        """Convert, pack and prove one format.

        The file appears under its name only if it passes; otherwise it is kept aside with the
        suffix `.rejected`, and a good file from before stays as it was.

        Raises:
            ModelError: the conversion itself fails.
        """
        calibration = self._calibration_images() if form.calibrated else None
        converted = self._model.convert(form, calibration)
        graph, info = converted.graph, self._describe(form, converted, calibration)
        decision_rule = self._decision_rule(parse_model(pack_model(graph, info, form.kind)))
        info = replace(info, **decision_rule.to_settings())
        info = replace(info, study=self._study_rule(graph, info, form.kind, decision_rule))
        data = pack_model(graph, info, form.kind)
        file = parse_model(data)
        gate = run_gate(file, self._validation, self._reference, form.tolerance, progress)
        path = self._settings.out / form.file_name(self._name)
        aside = path.with_name(path.name + REJECTED)
        if gate.passed:
            write_bytes(path, data)
            aside.unlink(missing_ok=True)
        else:
            path = aside
            write_bytes(aside, data)
        plain = self._reference.float32
        return Exported(
            format=form,
            path=path,
            bytes=len(data),
            sha256=file.sha256,
            ops=converted.ops,
            macs=converted.macs,
            temperature=file.info.temperature,
            calibration=None if calibration is None else record(calibration),
            quantizer=self._settings.quantizer if form.name == "int8" else None,
            size_ratio=len(file.graph) / len(plain.graph) if plain else None,
            gate=gate,
            not_answered=tuple(decision_rule.refusals()),
        )

    def diagnose(self) -> Diagnosis:
        """What each layer loses as int8, on the held-out images; whether or not its file passes.

        Raises:
            UsageError: the run's model is no network.
        """
        from export.tflite.diagnose import diagnose

        if not isinstance(self._model, ExportNetwork):
            raise UsageError("a diagnosis is of a network's layers; the run's model is none")
        graph = self._model.integers
        int8 = self._model.tflite(FORMATS["int8"], self._calibration_images())
        return diagnose(
            graph.keras, graph.float32, int8, self._validation.pixels, pooling=graph.pooling
        )

    @property
    def identity(self) -> tuple[str, str, str | None]:
        """Name, version and licence that the files state."""
        settings = self._settings
        return self._name, settings.version or self._run.version, settings.license

    @property
    def reference(self) -> Reference:
        """What every file is compared with."""
        return self._reference

    def packed(self, form: Format, calibration: npt.NDArray[np.uint8] | None) -> bytes:
        """A file without what is fitted on its answers (temperature, thresholds, familiarity)."""
        converted = self._model.convert(form, calibration)
        info = self._describe(form, converted, calibration)
        return pack_model(converted.graph, info, form.kind)

    def _decision_rule(self, file: ModelFile) -> DecisionRule:
        """Temperature, thresholds, the check for out-of-distribution inputs and the views that are
        answered, all fitted on what the file itself answers."""
        side = self._validation
        outputs = predict_file(file, side.pixels)
        return fit_decision_rule(
            lambda images: predict_file(file, images),
            self._run.calibration_images(),
            SideOutputs(outputs, side.labels, side.groups, side.planes, side.sequences),
            file.info.labels,
            file.info.preprocess,
            self._settings.targets or Targets.from_settings(self._run.settings),
            tumour_free_of(self._run.settings),
        )

    def _study_rule(
        self, graph: bytes, info: ModelInfo, kind: str, rule: DecisionRule
    ) -> dict[str, Any] | None:
        """The rule for studies, fitted on what the file itself answers; None where the run was
        trained without whole heads, or they are too few for this file."""
        path = self._run.folder / HEADS
        if self._run.settings.get("study") is None or not path.is_file():
            return None
        file = parse_model(pack_model(graph, info, kind))
        known = known_series(
            HeadSlices.read(path), lambda images: predict_file(file, images), rule, info.labels
        )
        free = tuple(sorted(tumour_free_among(info.labels, tumour_free_of(self._run.settings))))
        try:
            return fit_study_rule(known, info.labels, free, rule.view).to_json()
        except TooFewHeads:
            return None

    @property
    def _name(self) -> str:
        return self._settings.name or str(self._run.settings["name"])

    def _calibration_images(self) -> npt.NDArray[np.uint8]:
        own, count = self._settings.calibration_folder, self._settings.calibration_images
        if own is not None:
            return read_calibration_images(own, self._run.preprocess, count)
        return choose_calibration_images(self._run.calibration_images(), count, self._settings.seed)

    def _describe(
        self,
        form: Format,
        converted: ConvertedGraph,
        calibration: npt.NDArray[np.uint8] | None,
    ) -> ModelInfo:
        settings = self._run.settings
        size, features = self._run.preprocess.size, self._model.features
        entry: dict[str, Any] = {
            "dtype": form.dtype, "shape": [1, size, size, 1], "range": [0, 255]
        }  # fmt: skip
        if features is not None:
            entry |= {"shape": [1, features["length"]], "range": None}
        return ModelInfo(
            name=self._name,
            version=self._settings.version or self._run.version,
            created=settings["created"],
            labels=self._run.labels,
            preprocess=self._run.preprocess,
            input=entry,
            features=features,
            outputs=converted.outputs,
            pooling=converted.pooling,
            quantization={
                "scheme": form.scheme,
                "calibration_images": None if calibration is None else len(calibration),
                "calibration_sha256": None if calibration is None else digest(calibration),
            },
            metrics=tuple(_reported_metrics(self._run.metrics(), self._model.about)),
            data=settings["data"] or {},
            source_commit=settings["source_commit"],
            license=self._settings.license,
        )


def _reported_metrics(metrics: dict[str, Any], measured_on: str) -> list[dict[str, Any]]:
    """The run's metrics as `model.json` holds them; all of the trained model before export."""
    parts = ("without_near_duplicates", "without_shared_groups", "without_doubtful", "per_study")
    sides = [metrics, *(metrics[part] for part in parts if metrics.get(part))]
    return [
        {
            "protocol": side["protocol"],
            "split": side["split"],
            "n": side["n"],
            "accuracy": side["accuracy"],
            "balanced_accuracy": side["balanced_accuracy"],
            "interval95": side["interval95"]["accuracy"],
            "recall": {name: c["recall"] for name, c in side["per_class"].items()},
            "measured_on": measured_on,
        }
        for side in sides
    ]

"""One format of one run: convert, describe, pack, prove, and only then put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import edge_runtime
from edge_runtime.errors import DataError, ModelError
from edge_runtime.files import write_bytes
from edge_runtime.model_file import ModelFile, pack_model, parse_model
from edge_runtime.model_info import ModelInfo
from export.calibration import choose_calibration, digest
from export.formats import Format
from export.gate import GateResult, run_gate
from export.graph import export_graph
from export.onnx import convert_onnx, onnx_ops
from export.tflite import convert_tflite, graph_facts, output_order
from trainer.evaluation.judgement import Judgement, fit_judgement
from trainer.evaluation.predict import observe_file, observer
from trainer.run import Run

if TYPE_CHECKING:
    import keras

REJECTED = ".rejected"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportSettings:
    """What an export does.

    Attributes:
        out: folder for the files.
        name: the model's name, and the beginning of the files' names.
        calibration_images: how many images the quantiser sees.
        license: of the model, or None.
        max_error: error rate that the thresholds are chosen for; None takes the run's.
    """

    out: Path
    name: str
    calibration_images: int = 256
    seed: int = 0
    license: str | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class Exported:
    """One exported file: where it is, what is in it, how it did."""

    format: Format
    path: Path
    bytes: int
    sha256: str
    ops: dict[str, int]
    macs: int | None
    temperature: float
    gate: GateResult

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
        } | self.gate.to_json()


class Exporter:
    """Exports formats of one run; the Keras model is loaded and run once.

    Raises:
        DataError: the run holds no held-out images to prove an export on.
    """

    def __init__(self, run: Run, settings: ExportSettings) -> None:
        self._run, self._settings = run, settings
        self._model = run.load_model()
        self._graph, self._outputs = export_graph(self._model)
        self._held = run.validation()
        if len(self._held.labels) == 0:
            raise DataError("the run holds no held-out images to prove an export on")
        self._reference = observer(self._model)(self._held.pixels).logits

    @property
    def graph(self) -> keras.Model:
        """The graph that is converted."""
        return self._graph

    def export(self, form: Format, progress: Progress | None = None) -> Exported:
        """Convert, pack and prove one format.

        The file appears under its name only if it passes; otherwise it is kept aside with the
        suffix `.rejected`, and a good file from before stays as it was.

        Raises:
            ModelError: the conversion itself fails.
        """
        calibration = self._calibration() if form.name == "int8" else None
        graph, outputs, ops, macs = self._convert(form, calibration)
        info = self._describe(form, outputs, calibration)
        info = self._with_judgement(parse_model(pack_model(graph, info, form.kind)))
        data = pack_model(graph, info, form.kind)
        file = parse_model(data)
        gate = run_gate(
            file, self._held, self._reference, self.keras_temperature, form.tolerance, progress
        )
        path = self._settings.out / form.file_name(self._settings.name)
        aside = path.with_name(path.name + REJECTED)
        if gate.passed:
            write_bytes(path, data)
            aside.unlink(missing_ok=True)
        else:
            path = aside
            write_bytes(aside, data)
        return Exported(form, path, len(data), file.sha256, ops, macs, file.info.temperature, gate)

    @property
    def keras_temperature(self) -> float:
        """Of the Keras model, fitted when it was trained."""
        return float(self._run.settings["temperature"] or 1.0)

    def _with_judgement(self, file: ModelFile) -> ModelInfo:
        """The file's metadata with temperature, thresholds and the check for unfamiliar inputs,
        all fitted on what the file itself answers."""
        held = observe_file(file, self._held.pixels)
        judgement: Judgement = fit_judgement(
            lambda images: observe_file(file, images),
            self._run.calibration(),
            held,
            self._held.labels,
            file.info.labels,
            file.info.preprocess,
            self._max_error,
        )
        return replace(file.info, **judgement.to_settings())

    @property
    def _max_error(self) -> float:
        chosen = self._settings.max_error
        return float(self._run.settings["max_error"] if chosen is None else chosen)

    def _calibration(self) -> npt.NDArray[np.uint8]:
        return choose_calibration(
            self._run.calibration(), self._settings.calibration_images, self._settings.seed
        )

    def _convert(
        self, form: Format, calibration: npt.NDArray[np.uint8] | None
    ) -> tuple[bytes, dict[str, int], dict[str, int], int | None]:
        if form.kind == "onnx":
            data = convert_onnx(self._graph, self._outputs)
            return data, self._outputs, onnx_ops(data), None
        data = convert_tflite(self._graph, form.name, calibration)
        facts = graph_facts(data)
        if form.name == "int8" and not facts.integer_only:
            raise ModelError("the int8 graph still computes with floats")
        return data, output_order(data, self._outputs), facts.ops, facts.macs

    def _describe(
        self,
        form: Format,
        outputs: dict[str, int],
        calibration: npt.NDArray[np.uint8] | None,
    ) -> ModelInfo:
        settings = self._run.settings
        size = self._run.preprocess.size
        return ModelInfo(
            name=self._settings.name,
            version=edge_runtime.__version__,
            created=settings["created"],
            labels=self._run.labels,
            preprocess=self._run.preprocess,
            input={"dtype": form.dtype, "shape": [1, size, size, 1], "range": [0, 255]},
            outputs=outputs,
            quantization={
                "scheme": form.scheme,
                "calibration_images": None if calibration is None else len(calibration),
                "calibration_sha256": None if calibration is None else digest(calibration),
            },
            max_error=self._max_error,
            metrics=tuple(_figures(self._run.metrics())),
            data=settings["data"] or {},
            source_commit=settings["source_commit"],
            license=self._settings.license,
        )


def _figures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The run's figures as `model.json` holds them; all of the Keras model before export."""
    parts = ("without_twins", "without_shared_groups", "per_study")
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
            "measured_on": "the Keras model",
        }
        for side in sides
    ]

"""One format of one run: convert, describe, pack, prove, and only then put in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from edge_runtime.model.metadata import ModelInfo
from export.calibration_images import (
    choose_calibration_images,
    digest,
    read_calibration_images,
    record,
)
from export.formats import FORMATS, TENSORFLOW, Format, formats_of
from export.gate import GateResult, Reference, run_gate
from export.models import ConvertedGraph, ExportNetwork, open_export_model
from export.onnx.protobuf import read_onnx
from export.rules import RuleFitter
from export.runtimes import AUTO, Runtime, at_hand, open_elsewhere
from export.tflite.convert import has_converter
from export.tflite.flatbuffer import read_tflite
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.selective import Targets
from trainer.run import Run, checked_name

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
        runtimes: of other environments, which a file is fitted and proved with too: name -> Python.
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
    runtimes: Mapping[str, Path] = field(default_factory=dict)


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
        gate: of the runtime that the file was fitted with; its failures are those of all.
        gates: of each runtime that was asked, that one first, with its version.
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
    gates: tuple[tuple[Runtime, float, GateResult], ...] = ()

    @property
    def not_measured(self) -> list[str]:
        """The runtimes that are promised to run the file and were not asked."""
        asked = [runtime.name for runtime, _, _ in self.gates]
        return [name for name in self.format.runtimes if name not in asked]

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
            "measured": [_measured(*each) for each in self.gates],
        } | self.gate.to_json()


class Exporter:
    """Exports formats of one run; the trained model is loaded and run once.

    Raises:
        DataError: the run holds no held-out images to prove an export on.
        ModelError: the run's model cannot be used.
        UsageError: a classical model over features that a device cannot compute; a run whose name
            cannot be that of a file.
    """

    def __init__(self, run: Run, settings: ExportSettings) -> None:
        self._run, self._settings = run, settings
        self._name = checked_name(settings.name or str(run.settings["name"]))  # names files
        self._elsewhere = open_elsewhere(settings.runtimes)
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
        targets = settings.targets or Targets.from_settings(run.settings)
        self._rules = RuleFitter(run, self._validation, targets)

    @property
    def trained_bytes(self) -> int:
        """Size of the trained model's files."""
        return self._model.bytes

    def export(self, form: Format, progress: Progress | None = None) -> Exported:
        """Convert, pack and prove one format.

        Its decision rule is fitted with the first of the format's runtimes that is at hand, and
        anew with each other; it must pass its gate in all of them, since an older btc-edge would
        run it in any without a word. The file appears under its name only if it passes; otherwise
        it is kept aside with the suffix `.rejected`, and a good file from before stays as it was.

        Raises:
            ModelError: the conversion itself fails.
        """
        calibration = self._calibration_images() if form.calibrated else None
        converted = self._model.convert(form, calibration)
        graph, info = converted.graph, self._describe(form, converted, calibration)
        first = self._runtimes(form)[0]
        file = parse_model(pack_model(graph, info, form.kind))
        decision_rule = self._rules.fit(file, first)
        info = replace(info, **decision_rule.to_settings(), fitted_with=_named(first))
        info = replace(info, study=self._rules.study(file, first, decision_rule))
        return self._proved(
            form,
            info,
            converted,
            self._settings.out / form.file_name(self._name),
            calibration=None if calibration is None else record(calibration),
            quantizer=self._settings.quantizer if form.name == "int8" else None,
            not_answered=tuple(decision_rule.refusals()),
            progress=progress,
        )

    def refit(self, path: Path, tolerance: Callable[[Format], Format]) -> Exported:
        """Add decision rules for other runtimes to a model file of this run, and prove it again.
        Graph and rule of the file stay as they are.

        Args:
            tolerance: the format with the tolerance that is asked for.

        Returns:
            The file of that name in the folder of the settings.

        Raises:
            DataError: a file of another training, or whose rule is none that this run gives.
            ModelError: the file cannot be used.
        """
        file = read_model(path)
        form = self._format_of(file)
        graph = read_onnx(file.graph) if file.format == "onnx" else read_tflite(file.graph)
        converted = ConvertedGraph(file.graph, dict(file.info.outputs), graph.ops, graph.macs)
        first = self._runtimes(form)[0]
        rule = self._rules.refit(file, first, anew=True)
        self._check_same_rule(path, file.info, rule, first)
        return self._proved(
            tolerance(form),
            replace(file.info, fitted_with=_named(first)),
            converted,
            self._settings.out / path.name,
            calibration=None,
            quantizer=None,
            not_answered=tuple(rule.refusals()),
        )

    def _proved(
        self,
        form: Format,
        info: ModelInfo,
        converted: ConvertedGraph,
        path: Path,
        *,
        calibration: dict[str, Any] | None,
        quantizer: str | None,
        not_answered: tuple[str, ...],
        progress: Progress | None = None,
    ) -> Exported:
        """Add the rules for the other runtimes, run the gate in each, and write the file.

        Args:
            info: with the rule of the first runtime.
        """
        graph = converted.graph
        first, *others = self._runtimes(form)
        file = parse_model(pack_model(graph, info, form.kind))
        rules = {runtime.name: self._rules.own(file, runtime) for runtime in others}
        data = pack_model(graph, replace(info, rules=rules or None), form.kind)
        file = parse_model(data)

        def gate_in(runtime: Runtime, progress: Progress | None = None) -> GateResult:
            return run_gate(
                file, self._validation, self._reference, form.tolerance, progress, runtime
            )

        # Where nothing else is asked for, the first is what the file is timed in.
        gate = gate_in(AUTO if first.python is None else first, progress)
        gates = [(first, gate), *((runtime, gate_in(runtime)) for runtime in others)]
        failures = gate.failures + tuple(
            f"in {runtime.name} {runtime.version}: {words}"
            for runtime, of_runtime in gates[1:]
            for words in of_runtime.failures
        )
        gate = replace(gate, failures=failures)
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
            calibration=calibration,
            quantizer=quantizer,
            size_ratio=len(file.graph) / len(plain.graph) if plain else None,
            gate=gate,
            not_answered=not_answered,
            gates=tuple(
                (runtime, file.info.for_runtime(runtime.name).temperature, of_runtime)
                for runtime, of_runtime in gates
            ),
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

    def _runtimes(self, form: Format) -> list[Runtime]:
        """Those that run the format and are at hand."""
        return at_hand(form.runtimes, self._elsewhere) or [AUTO]

    def _format_of(self, file: ModelFile) -> Format:
        """The format of a file of this run.

        Raises:
            DataError: it is of another training.
        """
        info, run = file.info, self._run
        same = (
            info.labels == run.labels
            and info.preprocess == run.preprocess
            and info.data.get("sha256") == (run.settings["data"] or {}).get("sha256")
        )
        scheme = info.quantization["scheme"]
        forms = [
            form
            for form in formats_of(run.kind).values()
            if (form.kind, form.scheme) == (file.format, scheme)
        ]
        if not (same and forms):
            raise DataError(f"{file.tag} is no file of {run.folder}: other labels, data or format")
        return forms[0]

    def _check_same_rule(
        self, path: Path, info: ModelInfo, rule: DecisionRule, runtime: Runtime
    ) -> None:
        """Say that a file's rule was fitted with a runtime only where this gives it again.

        Raises:
            DataError: it does not.
        """
        known, again = DecisionRule.from_settings(vars(info)), rule
        same = np.isclose(known.temperature, again.temperature, rtol=1e-4) and all(
            np.isclose(known.thresholds.get(label, -1.0), again.thresholds[label], atol=1e-4)
            for label in info.labels
        )
        if not same:
            raise DataError(
                f"{path.name}: its thresholds are not those that {self._run.folder} gives in "
                f"{runtime.name} {runtime.version}; of other error rates, repeat --target-error, "
                "else export it again"
            )

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


def _named(runtime: Runtime) -> dict[str, str]:
    """As `ModelInfo.fitted_with`."""
    return {"runtime": runtime.name, "version": runtime.version}


def _measured(runtime: Runtime, temperature: float, gate: GateResult) -> dict[str, Any]:
    """An entry of `measured` in export.json."""
    shape = gate.to_json()
    kept = ("agreement", "accuracy", "difference", "interval95", "max_abs_probability", "ece")
    return _named(runtime) | {"temperature": temperature} | {name: shape[name] for name in kept}


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

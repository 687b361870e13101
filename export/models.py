"""What an export starts from: a trained model of either kind, behind the same few questions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, UsageError
from edge_runtime.imaging.handcrafted import DEVICE_SETS
from export.formats import AI_EDGE, TENSORFLOW, Format
from export.graph import export_graph, features_graph, maps_graph, pooling_of
from export.onnx.classical import OUTPUTS, convert_classical
from export.onnx.network import convert_onnx, convert_scheme
from export.onnx.protobuf import read_onnx
from export.tflite.ai_edge import quantize_ai_edge
from export.tflite.bias_correction import correct_bias
from export.tflite.convert import convert_tflite, output_order
from export.tflite.flatbuffer import read_tflite
from trainer.features.extractor import DEEP
from trainer.models.outputs import open_trained, predictor
from trainer.run import CNN, Run

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class ConvertedGraph(NamedTuple):
    """A graph without metadata.

    Attributes:
        outputs, pooling: as `ModelInfo` holds them.
        ops, macs: op -> how often; multiply-accumulates.
    """

    graph: bytes
    outputs: dict[str, int]
    ops: dict[str, int]
    macs: int
    pooling: str | None = None


class ExportModel(Protocol):
    """A run's trained model.

    Attributes:
        about: what it is, for the figures in model.json.
        features: what `ModelInfo.features` says; None where the graph takes slices.
        bytes: of its files in the run.
    """

    about: str
    features: dict[str, Any] | None
    bytes: int

    def logits(self, pixels: Pixels) -> Floats:
        """N×C, of uint8 slices N×S×S."""
        ...

    def convert(self, form: Format, calibration: Pixels | None) -> ConvertedGraph:
        """Write it in one of its formats.

        Args:
            calibration: what the quantiser sees; None where the format is not calibrated.

        Raises:
            ModelError: the conversion fails.
        """
        ...


def open_export_model(run: Run, quantizer: str = TENSORFLOW) -> ExportModel:
    """The model of a finished run.

    Args:
        quantizer: one of QUANTIZERS, of a network's int8 graph.

    Raises:
        ModelError: none yet, an altered one, or one that cannot be read safely.
        UsageError: it looks at features that a device cannot compute.
    """
    return ExportNetwork(run, quantizer) if run.kind == CNN else ExportClassical(run)


class KerasGraph:
    """A Keras graph of a batch of one, and what is converted from it more than once.

    Attributes:
        keras: the graph.
        outputs: name -> index of its outputs.
        pooling: what it leaves to the device, see `ModelInfo.pooling`.
    """

    def __init__(
        self, keras: keras.Model, outputs: dict[str, int], pooling: str | None = None
    ) -> None:
        self.keras, self.outputs, self.pooling = keras, outputs, pooling

    @cached_property
    def float32(self) -> bytes:
        """As a TFLite flatbuffer in floats: a format, and what int8 is mended by and compared
        with."""
        return convert_tflite(self.keras, "float32")

    @cached_property
    def float_onnx(self) -> bytes:
        """Likewise as ONNX, which its quantiser starts from."""
        return convert_onnx(self.keras, self.outputs)


class ExportNetwork:
    """A Keras network.

    Attributes:
        floats, integers: what formats with and without floats are converted from; the same where
            the network does nothing that integers cannot do well.
    """

    about: str = "the Keras model"
    features: dict[str, Any] | None = None

    def __init__(self, run: Run, quantizer: str = TENSORFLOW) -> None:
        self._quantizer = quantizer
        self._model = run.load_model()
        self.bytes = (run.folder / "model.keras").stat().st_size
        self.floats = self.integers = KerasGraph(*export_graph(self._model))
        if (pooling := pooling_of(self._model)) is not None:
            self.integers = KerasGraph(*maps_graph(self._model), pooling)

    def logits(self, pixels: Pixels) -> Floats:
        """See `ExportModel`."""
        return predictor(self._model)(pixels).logits

    def convert(self, form: Format, calibration: Pixels | None) -> ConvertedGraph:
        """See `ExportModel`."""
        graph = self.integers if form.integers else self.floats
        if form.kind == "onnx":
            kept = None if self.integers.pooling is None else "class_maps"
            data = convert_scheme(graph.float_onnx, form.scheme, calibration, kept)
            return _described(data, form, graph.outputs)
        data = self.tflite(form, calibration)
        outputs = output_order(read_tflite(data), graph.outputs)
        return _described(data, form, outputs, graph.pooling)

    def tflite(self, form: Format, calibration: Pixels | None) -> bytes:
        """The flatbuffer of a format."""
        graph = self.integers if form.integers else self.floats
        if form.name == "float32":
            return graph.float32
        if form.name != "int8" or calibration is None:
            return convert_tflite(graph.keras, form.name, calibration)
        if self._quantizer == AI_EDGE:
            data = quantize_ai_edge(graph.float32, calibration)
        else:
            data = convert_tflite(graph.keras, form.name, calibration)
        return correct_bias(graph.float32, data, calibration)


class ExportClassical:
    """A classical model over features of a slice, or over a network's features."""

    about: str = "the scikit-learn model"

    def __init__(self, run: Run) -> None:
        sets = list((run.settings.get("features") or {}).get("sets", ()))
        check_device_sets(sets)
        self._trained = open_trained(run)
        assert self._trained.classical is not None  # since run.json names no network
        self._parts = self._trained.classical
        self._classes = len(run.labels)
        self.features: dict[str, Any] | None = None
        if self._parts.network is None:
            self.features = {"sets": sets, "length": len(self._parts.extractor.names)}
        files = ["model.skops", *(["deep.keras"] if self._parts.network is not None else [])]
        self.bytes = sum((run.folder / name).stat().st_size for name in files)

    def logits(self, pixels: Pixels) -> Floats:
        """See `ExportModel`."""
        return self._trained.predict(pixels).logits

    def convert(self, form: Format, calibration: Pixels | None) -> ConvertedGraph:
        """See `ExportModel`."""
        network = None
        if self._parts.network is not None:
            network = convert_onnx(*features_graph(self._parts.network))
        data = convert_classical(self._parts.model, self._classes, network)
        return _described(data, form, OUTPUTS)


def _described(
    data: bytes, form: Format, outputs: dict[str, int], pooling: str | None = None
) -> ConvertedGraph:
    """A converted graph with what it says of itself.

    Raises:
        ModelError: it is quantised in another way than the format.
    """
    graph = read_onnx(data) if form.kind == "onnx" else read_tflite(data)
    if graph.scheme != form.scheme:
        raise ModelError(f"the converter was asked for {form.scheme} and gave {graph.scheme}")
    return ConvertedGraph(data, outputs, graph.ops, graph.macs, pooling)


def check_device_sets(sets: list[str]) -> None:
    """Refuse what a device cannot compute.

    Raises:
        UsageError: such sets, or a network's features beside others.
    """
    there = ",".join(DEVICE_SETS)
    away = [name for name in sets if name not in DEVICE_SETS and name != DEEP]
    if away:
        verb = "is" if len(away) == 1 else "are"
        raise UsageError(
            f"{', '.join(away)} {verb} computed on the workstation only; for a device train with "
            f"--features {there} or some of them, or with deep:RUN alone"
        )
    if DEEP in sets and len(sets) > 1:
        raise UsageError(
            "a network's features leave only by themselves, with the network in front of the "
            f"classifier; for a device train with --features deep:RUN, or with {there}"
        )

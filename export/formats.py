"""The registry of export formats: what each is, who can run it, what it must keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """What an exported file must keep of the Keras model, on held-out images.

    On a small sample one and a half images are always allowed, for agreement and accuracy alike.

    Attributes:
        agreement: lowest share of images with the same top class.
        accuracy_drop: largest loss of accuracy (0-1).
        probability: largest difference of any probability (0-1).
    """

    agreement: float
    accuracy_drop: float
    probability: float

    def needed_agreement(self, n: int) -> float:
        """The lowest agreement on `n` images."""
        return min(self.agreement, 1 - 1.5 / n)

    def allowed_drop(self, n: int) -> float:
        """The largest loss of accuracy on `n` images."""
        return max(self.accuracy_drop, 1.5 / n)


@dataclass(frozen=True)
class Format:
    """One way to write a model.

    Attributes:
        name: option and part of the file's name.
        kind: `tflite` or `onnx`.
        scheme: what `model.json` says under quantization.
        dtype: of the graph's input.
        about: one line for people.
    """

    name: str
    kind: str
    scheme: str
    dtype: str
    about: str
    tolerance: Tolerance

    def file_name(self, model: str) -> str:
        """Name of the file for a model's name."""
        return f"{model}-{self.name}.{self.kind}"


FORMATS = {
    f.name: f
    for f in (
        Format("float32", "tflite", "float32", "float32", "TFLite, float weights and activations",
               Tolerance(0.999, 0.002, 1e-3)),
        Format("float16", "tflite", "float16", "float32", "TFLite, weights in half precision",
               Tolerance(0.995, 0.005, 0.02)),
        Format("dynamic", "tflite", "dynamic", "float32", "TFLite, int8 weights, float activations",
               Tolerance(0.98, 0.01, 0.15)),
        Format("int8", "tflite", "int8-full", "uint8", "TFLite, integers only; uint8 in",
               Tolerance(0.95, 0.01, 0.25)),  # one slice in hundreds lies on a steep edge
        Format("onnx", "onnx", "float32", "float32", "ONNX float32 for ONNX Runtime",
               Tolerance(0.999, 0.002, 1e-3)),
    )
}  # fmt: skip

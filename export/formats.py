"""The registry of export formats: what each is, who can run it, what it must keep.

The command's options, the gate, the checks of a file and the documents' table come from its rows.
A new format is a row here, and a scheme in `export.tflite.convert` or `export.onnx.network`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Who makes the int8 graph: TensorFlow's converter, or LiteRT's quantiser from the float32 graph.
TENSORFLOW, AI_EDGE = QUANTIZERS = ("tensorflow", "ai-edge")


@dataclass(frozen=True)
class Tolerance:
    """What an exported file must keep of the trained model, on held-out images.

    On a small sample one and a half images are always allowed, for each of the shares.

    Attributes:
        agreement: lowest share of images with the same top class.
        accuracy_drop: largest loss of accuracy (0-1).
        probability: largest difference of any probability (0-1).
        class_drop: largest loss of any class's recall (0-1).
    """

    agreement: float
    accuracy_drop: float
    probability: float
    class_drop: float

    def needed_agreement(self, n: int) -> float:
        """The lowest agreement on `n` images."""
        return min(self.agreement, 1 - 1.5 / n)

    def allowed_drop(self, n: int) -> float:
        """The largest loss of accuracy on `n` images."""
        return max(self.accuracy_drop, 1.5 / n)

    def allowed_class_drop(self, n: int) -> float:
        """The largest loss of recall of a class of `n` images."""
        return max(self.class_drop, 1.5 / n)


@dataclass(frozen=True)
class Format:
    """One way to write a model.

    Attributes:
        name: option and part of the file's name.
        kind: `tflite` or `onnx`.
        scheme: what `model.json` says under quantization.
        dtype: of the graph's input.
        about: one line for people.
        runtimes: who is promised to run it (and tested to), see
            `edge_runtime.model.backends.BACKENDS`.
        calibrated: whether the quantiser needs to see images.
        integers: whether all inside the graph are integers: what those cannot do well, the pooling
            of class maps, is then left to the device, see `edge_runtime.model.pooling`.
    """

    name: str
    kind: str
    scheme: str
    dtype: str
    about: str
    runtimes: tuple[str, ...]
    tolerance: Tolerance
    calibrated: bool = False
    integers: bool = False

    def file_name(self, model: str) -> str:
        """Name of the file for a model's name."""
        return f"{model}-{self.name}.{self.kind}"


_FLOAT = Tolerance(0.999, 0.002, 1e-3, 0.005)
_INT8 = Tolerance(0.95, 0.01, 0.25, 0.03)  # one slice in hundreds lies on a steep edge
_EVERY_TFLITE = ("litert", "tflite-runtime", "tensorflow")

FORMATS = {
    f.name: f
    for f in (
        Format("float32", "tflite", "float32", "float32", "TFLite, float weights and activations",
               _EVERY_TFLITE, _FLOAT),
        Format("float16", "tflite", "float16", "float32", "TFLite, weights in half precision",
               _EVERY_TFLITE, Tolerance(0.995, 0.005, 0.02, 0.01)),
        Format("dynamic", "tflite", "dynamic", "float32", "TFLite, int8 weights, float activations",
               ("litert", "tensorflow"), Tolerance(0.98, 0.01, 0.15, 0.02)),
        Format("int8", "tflite", "int8-full", "uint8", "TFLite, integers only; uint8 in",
               _EVERY_TFLITE, _INT8, calibrated=True, integers=True),
        Format("int16x8", "tflite", "int16x8", "float32",
               "TFLite, int16 activations, int8 weights; slow without a kernel for it",
               ("litert", "tensorflow"), Tolerance(0.98, 0.01, 0.25, 0.02), calibrated=True,
               integers=True),
        Format("onnx", "onnx", "float32", "float32", "ONNX, float weights and activations",
               ("onnxruntime",), _FLOAT),
        Format("onnx-int8", "onnx", "qdq-int8", "float32",
               "ONNX, 7-bit weights and int8 activations between floats at both ends (QDQ)",
               ("onnxruntime",), _INT8, calibrated=True),
    )
}  # fmt: skip

# A forest and neighbours answer in steps: a component that lies on an edge within the rounding of
# 32 bits may fall to either side, and one neighbour of fifteen is a step of 0.07 before the
# temperature makes it steeper. Labels and accuracies are held to what the other floats are.
_IN_STEPS = replace(_FLOAT, probability=0.25)


def as_markdown() -> str:
    """The table of formats that the documents show, a row for each entry of the registry."""
    rows = [
        f"| `--{form.name}` | {form.about} | {', '.join(f'`{name}`' for name in form.runtimes)} |"
        for form in FORMATS.values()
    ]
    head = "| option | file | tested with `--backend` |\n|---|---|---|"
    return "\n".join([head, *rows, ""])


def formats_of(kind: str) -> dict[str, Format]:
    """The formats that a kind of model has, by name.

    Args:
        kind: `cnn` or a classical model, see `trainer.run.Run.kind`.
    """
    from trainer.models.kinds import KINDS
    from trainer.run import CNN

    if kind == CNN:
        return FORMATS
    form = replace(FORMATS["onnx"], about="ONNX, the classifier and its projection in floats")
    in_steps = kind in KINDS and KINDS[kind].floor > 0
    return {form.name: replace(form, tolerance=_IN_STEPS) if in_steps else form}

"""LiteRT alone: decode, resize, invoke, pool class maps where there are no logits, softmax."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    cv2.setNumThreads(1)
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    # Logits are 1×C, class maps 1×H×W×C; features have another last axis.
    outputs = [o for o in interpreter.get_output_details() if o["shape"][-1] == len(labels)]
    output = min(outputs, key=lambda output: len(output["shape"]))
    scale, zero = output["quantization"]

    def classify(data: bytes) -> dict[str, float]:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        pixels = cv2.resize(gray, (size, size))
        interpreter.set_tensor(entry["index"], pixels[None, ..., None].astype(entry["dtype"]))
        interpreter.invoke()
        logits = interpreter.get_tensor(output["index"])[0].astype(np.float32)
        if scale:
            logits = (logits - zero) * scale
        if logits.ndim > 1:
            logits = np.log(np.exp(logits).mean(axis=(0, 1)))
        exp = np.exp(logits - logits.max())
        return dict(zip(labels, (exp / exp.sum()).tolist(), strict=True))

    return classify

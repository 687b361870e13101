"""ONNX Runtime alone: decode, resize, run, softmax."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import onnxruntime


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def classify(data: bytes) -> dict[str, float]:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        pixels = cv2.resize(gray, (size, size))
        feed = {name: pixels[None, ..., None].astype(np.float32)}
        logits = session.run(["logits"], feed)[0][0]
        exp = np.exp(logits - logits.max())
        return dict(zip(labels, (exp / exp.sum()).tolist(), strict=True))

    return classify

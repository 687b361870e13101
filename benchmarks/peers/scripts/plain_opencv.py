"""OpenCV DNN alone: decode, resize, forward, softmax."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(model)

    def classify(data: bytes) -> dict[str, float]:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        pixels = cv2.resize(gray, (size, size))
        network.setInput(pixels[None, ..., None].astype(np.float32), "pixels")
        logits = network.forward("logits").ravel()
        exp = np.exp(logits - logits.max())
        return dict(zip(labels, (exp / exp.sum()).tolist(), strict=True))

    return classify

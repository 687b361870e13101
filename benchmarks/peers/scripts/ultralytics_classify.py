"""Ultralytics' classify, with a network of theirs that is not trained: of use for speed only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

BATCH = 16
# Read at the import: it asks no server, and leaves its settings in this environment.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_CONFIG_DIR", sys.prefix)


def open_network(model: str, threads: int) -> Any:
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(threads)
    return YOLO(model)


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    cv2.setNumThreads(1)
    network = open_network(model, 1)

    def classify(data: bytes) -> dict[str, float]:
        colour = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        (result,) = network.predict(colour, imgsz=size, device="cpu", verbose=False)
        return dict(zip(result.names.values(), result.probs.data.tolist(), strict=True))

    return classify


def load_folder(
    model: str, size: int, labels: list[str], workers: int
) -> Callable[[list[str]], int]:
    network = open_network(model, workers)

    def folder(paths: list[str]) -> int:
        results = network.predict(
            paths, imgsz=size, device="cpu", batch=BATCH, stream=True, verbose=False
        )
        return sum(1 for _ in results)

    return folder

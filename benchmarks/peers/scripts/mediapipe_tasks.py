"""MediaPipe Tasks: its ImageClassifier resizes, runs and names the labels."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    cv2.setNumThreads(1)
    options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
    classifier = ImageClassifier.create_from_options(options)

    def classify(data: bytes) -> dict[str, float]:
        colour = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=colour)
        (head,) = classifier.classify(image).classifications
        return {category.category_name: category.score for category in head.categories}

    return classify

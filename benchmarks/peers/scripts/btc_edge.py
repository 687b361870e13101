"""btc-edge through its Python API."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime import Classifier


def load(model: str, size: int, labels: list[str]) -> Callable[[bytes], dict[str, float]]:
    classifier = Classifier(model)

    def classify(data: bytes) -> dict[str, float]:
        return dict(classifier.classify(data).probabilities or {})

    return classify


def load_folder(
    model: str, size: int, labels: list[str], workers: int
) -> Callable[[list[str]], int]:
    classifier = Classifier(model)
    return lambda paths: sum(1 for _ in classifier.classify_many(paths, workers=workers))

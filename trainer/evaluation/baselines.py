"""Baselines: what a data set gives away to methods that cannot know what a tumour is.

A network that does not beat them on the same protocol has shown nothing worth having. Both run
in seconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Dataset
from trainer.data.near_duplicates import unit_vectors

Labels = npt.NDArray[np.int64]
BASELINES = {
    "nearest_neighbour": "1-nearest-neighbour on 32×32 pixels, mirror allowed",
    "low_level": "logistic regression on ten low-level statistics of the file",
}
BATCH = 1024


def run_baselines(known: Dataset, tested: Dataset) -> dict[str, Labels]:
    """What the baselines make of slices, having learned from the `known` ones.

    Returns:
        Name of a baseline -> the class (N indices) it predicts for each slice of `tested`.
    """
    return {
        "nearest_neighbour": nearest_neighbour(known, tested),
        "low_level": low_level(known, tested),
    }


def nearest_neighbour(known: Dataset, tested: Dataset) -> Labels:
    """The class of the slice whose thumbnail, mirrored or not, correlates most."""
    vectors = unit_vectors(known.thumbnails).reshape(len(known), -1)
    predicted = np.empty(len(tested), np.int64)
    for start in range(0, len(tested), BATCH):
        units = unit_vectors(tested.thumbnails[start : start + BATCH])
        mirrored = np.ascontiguousarray(units[:, :, ::-1])
        flat = (units.reshape(len(units), -1), mirrored.reshape(len(units), -1))
        alike = np.maximum(flat[0] @ vectors.T, flat[1] @ vectors.T)
        predicted[start : start + BATCH] = known.labels[alike.argmax(axis=1)]
    return predicted


def low_level(known: Dataset, tested: Dataset) -> Labels:
    """Logistic regression on `trainer.data.file_statistics.FILE_STATISTICS`, standardised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(known.file_statistics, known.labels)
    predicted: Labels = model.predict(tested.file_statistics).astype(np.int64)
    return predicted

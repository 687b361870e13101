"""Controls: what a data set gives away to methods that cannot know what a tumour is.

A network that does not beat them on the same protocol has learned nothing worth having. Both run
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


def run_baselines(learned: Dataset, tested: Dataset) -> dict[str, Labels]:
    """Name of a control -> the class (N indices) it calls each slice of `tested`."""
    return {
        "nearest_neighbour": nearest_neighbour(learned, tested),
        "low_level": low_level(learned, tested),
    }


def nearest_neighbour(learned: Dataset, tested: Dataset) -> Labels:
    """The class of the slice whose thumbnail, mirrored or not, correlates most."""
    known = unit_vectors(learned.thumbnails).reshape(len(learned), -1)
    called = np.empty(len(tested), np.int64)
    for start in range(0, len(tested), BATCH):
        units = unit_vectors(tested.thumbnails[start : start + BATCH])
        mirrored = np.ascontiguousarray(units[:, :, ::-1])
        flat = (units.reshape(len(units), -1), mirrored.reshape(len(units), -1))
        alike = np.maximum(flat[0] @ known.T, flat[1] @ known.T)
        called[start : start + BATCH] = learned.labels[alike.argmax(axis=1)]
    return called


def low_level(learned: Dataset, tested: Dataset) -> Labels:
    """Logistic regression on `trainer.data.file_statistics.FILE_STATISTICS`, standardised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(learned.file_statistics, learned.labels)
    called: Labels = model.predict(tested.file_statistics).astype(np.int64)
    return called

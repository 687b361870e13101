"""Shuffled features as a classical model's principal components, and what it calls these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.models.outputs import Floats

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from trainer.models.classical import ClassicalModel

Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Caller = Callable[[Doubles], Labels]


class ComponentChange:
    """Principal components of features in which some columns are shuffled.

    Up to its components a pipeline is linear, so only what changes is projected: for a part of a
    large set that is some hundred times less work.

    Attributes:
        components: float64 N×K, of the features as they are.
    """

    def __init__(self, pipeline: Pipeline, features: Floats) -> None:
        """
        Args:
            pipeline: standardises, projects without whitening, and classifies.
            features: float32 N×F.
        """
        scale, project = pipeline[0].scale_, pipeline[1]
        self.components: Doubles = pipeline[:-1].transform(features).astype(np.float64)
        self._features = features
        self._weights: Doubles = (project.components_ / scale).astype(np.float64)

    def __call__(self, columns: Rows, order: Rows) -> Doubles:
        """N×K, where the values of `columns` come from the slices in `order`."""
        some = self._features[:, columns].astype(np.float64)
        return self.components + (some[order] - some) @ self._weights[:, columns].T


def caller(model: ClassicalModel) -> Caller:
    """A function from components (float64 N×K) to the classes called (N indices).

    It calls what the model does. For support vector machines it is some times as fast as
    scikit-learn, which computes the kernel anew for each class.
    """
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.svm import SVC

    classifier = model.pipeline[-1]
    machines = getattr(classifier, "estimators_", [])
    if isinstance(classifier, OneVsRestClassifier) and all(
        isinstance(m, SVC) and m.kernel == "rbf" and m._gamma == machines[0]._gamma
        for m in machines
    ):
        return _machines_caller(machines)
    # The same model from its components on: so there is one rule for what it answers.
    rest = type(model)(
        Pipeline([("as it is", FunctionTransformer().fit([[0.0]])), ("classify", classifier)]),
        model.floor,
    )

    def call(components: Doubles) -> Labels:
        called: Labels = rest.observe(components.astype(np.float32)).logits.argmax(axis=1)
        return called

    return call


def _machines_caller(machines: Sequence[Any]) -> Caller:
    """`caller` of one machine a class: all look at one kernel matrix."""
    places, first = np.unique(np.concatenate([m.support_ for m in machines]), return_index=True)
    vectors = np.concatenate([m.support_vectors_ for m in machines])[first]
    weights = np.zeros((len(places), len(machines)))
    for column, machine in enumerate(machines):
        weights[np.searchsorted(places, machine.support_), column] = machine.dual_coef_[0]
    offsets = np.array([m.intercept_[0] for m in machines])
    gamma = float(machines[0]._gamma)
    lengths = (vectors**2).sum(axis=1)

    def call(components: Doubles) -> Labels:
        kernel = components @ (2.0 * gamma * vectors.T)
        kernel -= gamma * lengths
        kernel -= gamma * (components**2).sum(axis=1, keepdims=True)
        margins = np.exp(kernel, out=kernel) @ weights + offsets
        if margins.shape[1] == 1:  # of two classes: the second's machine only
            margins = np.concatenate([-margins, margins], axis=1)
        called: Labels = margins.argmax(axis=1)
        return called

    return call

"""The kinds of classical models: an entry of KINDS is a choice of `--model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

CLASSICAL_SIZE = 128  # side of the slices that features are computed from, in pixels


class Kind(NamedTuple):
    """A classifier that `--model` names.

    Attributes:
        title: what a report calls it.
        about: what it is, and where it comes from.
        build: seed -> an unfitted classifier.
        floor: the lowest probability that its logarithm is taken of; 0 where the classifier gives
            a margin for each class, which is a logit as it is.
        grid: what `--search` tries, by the pipeline's parameter names.
    """

    title: str
    about: str
    build: Callable[[int], ClassifierMixin]
    floor: float
    grid: dict[str, list[Any]]


def _svm(seed: int) -> ClassifierMixin:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC

    # One machine a class: its margins are worth more as logits than the votes of pairs.
    return OneVsRestClassifier(SVC(C=10.0, class_weight="balanced"))


def _random_forest(seed: int) -> ClassifierMixin:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        200, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed, n_jobs=-1
    )


def _logistic(seed: int) -> ClassifierMixin:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)


def _knn(seed: int) -> ClassifierMixin:
    from sklearn.neighbors import KNeighborsClassifier

    # By brute force: in so many dimensions a tree finds nothing sooner.
    return KNeighborsClassifier(15, algorithm="brute")


KINDS: dict[str, Kind] = {
    "svm": Kind(
        "SVM",
        "support vector machines with a Gaussian kernel, one a class (Cortes and Vapnik, 1995)",
        _svm, 0.0, {"classify__estimator__C": [1.0, 3.0, 10.0, 30.0]},
    ),
    "random-forest": Kind(
        "random forest",
        "random forest of 200 trees (Breiman, 2001)",
        _random_forest, 1e-3, {"classify__min_samples_leaf": [1, 2, 5]},
    ),
    "logistic": Kind(
        "logistic regression",
        "multinomial logistic regression (Cox, 1958)",
        _logistic, 0.0, {"classify__C": [1e-3, 1e-2, 1e-1, 1.0]},
    ),
    "knn": Kind(
        "nearest neighbours",
        "the most common class among the nearest neighbours (Cover and Hart, 1967)",
        _knn, 1e-2, {"classify__n_neighbors": [5, 15, 31]},
    ),
}  # fmt: skip

"""The classical models: scikit-learn classifiers over features of a slice.

Each is one pipeline: features are standardised, projected on their principal components, and
classified. The components are also what the out-of-distribution check looks at.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, one_line
from edge_runtime.files import replacing
from trainer.models.kinds import KINDS

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

COMPONENTS = 128  # of the projection; fewer where there are fewer features or slices
SEARCH_FOLDS = 3
Floats = npt.NDArray[np.float32]
# The only types beside scikit-learn's own that skops may build; its arrays are checked on reading.
TREE = "sklearn.tree._tree.Tree"


@dataclass(frozen=True)
class ClassicalSettings:
    """How to train a classical model.

    Attributes:
        model: one of KINDS.
        features: the feature sets, in order; see `trainer.features.extractor`.
        search: whether to look for better parameters by cross-validation within the training side.
        seed: of the projection, the forest and the search.
    """

    model: str
    features: tuple[str, ...]
    search: bool = False
    seed: int = 1

    @classmethod
    def from_json(cls, shape: dict[str, Any]) -> ClassicalSettings:
        """Read what run.json holds under `training`."""
        return cls(**{**shape, "features": tuple(shape["features"])})


class ClassicalModel:
    """A fitted pipeline, from features to logits."""

    def __init__(self, pipeline: Pipeline, floor: float) -> None:
        self.pipeline = pipeline
        self.floor = floor

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Logits (N×C) and principal components (N×K) of features (float32 N×F).

        The logits of a classifier that gives margins are the margins; of one that gives
        probabilities they are the logarithms, from `floor` on.
        """
        components = self.pipeline[:-1].transform(features)
        classifier = self.pipeline[-1]
        if self.floor:
            probabilities = classifier.predict_proba(components)
            logits = np.log(np.maximum(probabilities, self.floor))
        else:
            logits = classifier.decision_function(components)
            if logits.ndim == 1:  # of two classes, scikit-learn gives the second's margin only
                logits = np.stack([-logits, logits], axis=1)
        return logits.astype(np.float32), components.astype(np.float32)

    def save(self, path: Path) -> str:
        """Write the pipeline with skops, which holds no code; its SHA-256, hexadecimal."""
        import skops.io

        content: bytes = skops.io.dumps(self.pipeline, compression=zipfile.ZIP_DEFLATED)
        with replacing(path) as part:
            part.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, path: Path, sha256: str, kind: str) -> ClassicalModel:
        """Read what `save` wrote.

        Args:
            sha256: what the file's digest must be.
            kind: one of KINDS.

        Raises:
            ModelError: missing, altered, of an unknown kind, or with types that do not belong.
        """
        import skops.io

        try:
            content = path.read_bytes()
        except OSError:
            raise ModelError(f"{path.parent}: no {path.name}; train again") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ModelError(f"{path.name} does not match its digest in run.json: altered file")
        if kind not in KINDS:
            raise ModelError(f"run.json names the model {kind!r}; there are {', '.join(KINDS)}")
        try:
            foreign = set(skops.io.get_untrusted_types(data=content)) - {TREE}
            if foreign:
                raise ModelError(f"{path.name} holds types that do not belong: {sorted(foreign)}")
            pipeline = skops.io.loads(content, trusted=[TREE])
            _check_trees(pipeline[-1])
        except ModelError:
            raise
        except Exception as error:  # skops raises whatever its parts raise
            raise ModelError(f"{path.name} cannot be read: {one_line(error)}") from None
        return cls(pipeline, KINDS[kind].floor)


def fit_classical(
    settings: ClassicalSettings,
    features: Floats,
    labels: npt.NDArray[np.int64],
    groups: Sequence[str],
) -> tuple[ClassicalModel, dict[str, Any] | None]:
    """Fit a model on the training side.

    Args:
        features: float32 N×F.
        labels: N class indices.
        groups: N; a search keeps the slices of a group on one side.

    Returns:
        The model, and the parameters that the search chose (None without one).
    """
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    kind = KINDS[settings.model]
    components = min(COMPONENTS, features.shape[1], len(features) // 2)
    pipeline = Pipeline(
        [
            ("scale", StandardScaler()),
            ("project", PCA(components, random_state=settings.seed)),
            ("classify", kind.build(settings.seed)),
        ]
    )
    chosen = None
    if settings.search:
        sizes = sorted({min(n, components) for n in (32, 64, components)})
        folds = StratifiedGroupKFold(SEARCH_FOLDS, shuffle=True, random_state=settings.seed)
        search = GridSearchCV(
            pipeline,
            {"project__n_components": sizes, **kind.grid},
            scoring="balanced_accuracy",
            cv=folds,
            refit=False,
        )
        search.fit(features, labels, groups=list(groups))
        chosen = dict(search.best_params_)
        pipeline.set_params(**chosen)
    pipeline.fit(features, labels)
    if settings.model == "random-forest":
        pipeline[-1].n_jobs = None  # for one slice, threads cost more than they bring
    return ClassicalModel(pipeline, kind.floor), chosen


def _check_trees(classifier: Any) -> None:
    """A tree is walked by compiled code that trusts its arrays: so they are checked here."""
    for estimator in getattr(classifier, "estimators_", []):
        tree = getattr(estimator, "tree_", None)
        if tree is None:
            continue
        left, right, feature = tree.children_left, tree.children_right, tree.feature
        here = np.arange(tree.node_count)
        inner = left != -1
        fine = (
            len(left) == len(right) == len(feature) == tree.node_count
            # A child comes after its parent, so that every walk ends.
            and bool((left[inner] > here[inner]).all() and (right[inner] > here[inner]).all())
            and bool((left[inner] < tree.node_count).all())
            and bool((right[inner] < tree.node_count).all())
            and bool((right[~inner] == -1).all())
            and bool(((feature[inner] >= 0) & (feature[inner] < classifier.n_features_in_)).all())
        )
        if not fine:
            raise ModelError("a tree of the forest does not hold together: altered file")

"""Which features a classical model needs: permutation importance, with slices to look at.

The values of a unit (a feature set, or a part of one) are exchanged among the slices at random,
which leaves their distribution and takes their meaning. What balanced accuracy is lost is the
unit's importance. Breiman, Machine Learning, 2001; for several columns together Fisher, Rudin &
Dominici, JMLR, 2019. Units that say the same share their importance: the loss of one is small
where another stands in for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import replacing
from edge_runtime.json_text import parse_json
from trainer.data.npz import opened_npz
from trainer.evaluation.examples import one_a_group
from trainer.evaluation.metrics import balanced_accuracy
from trainer.features.extractor import DEEP
from trainer.models.classical import Floats

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from trainer.data.dataset import Dataset
    from trainer.models.classical import ClassicalModel

FILE = "importance.npz"
SET_REPEATS, PART_REPEATS = 5, 3  # shuffles of a unit
MOST_SLICES, MOST_PARTS = 1000, 150  # they bound the work
SHOWN = 20  # parts that metrics.json reports
PICTURED, EACH = 4, 3  # parts with pictures, and slices at each end of a part's values

Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Classify = Callable[[Doubles], Labels]


@dataclass(frozen=True)
class Importance:
    """The importance of a model's features.

    Attributes:
        facts: fit for JSON. `n`: slices; `balanced_accuracy`: of the model as it is; `sets`: name
            -> `drop` (balanced accuracy lost, a share; the mean over shuffles; below 0 by chance)
            and `spread` (standard deviation over shuffles); `parts`: the same for every part
            measured, with `part` and `columns`, by falling drop; `whole_only`: sets whose parts
            were not measured; `folds`: None, or of how many folds these are the means, the spread
            being over the folds; `pictures`: for the weightiest parts, `column` (the value shown),
            `explained` (the share of its variance that lies between the classes) and the slices
            `lowest` and `highest` in it as `path`, `label` and `value`, the most extreme first.
        pixels: uint8 K×S×S, the slices of all `pictures` in order, the lowest of each before the
            highest.
    """

    facts: dict[str, Any]
    pixels: npt.NDArray[np.uint8]

    def summary(self) -> dict[str, Any]:
        """What metrics.json says: the facts, with the first SHOWN parts."""
        return self.facts | {"parts": self.facts["parts"][:SHOWN]}

    def save(self, path: Path) -> None:
        """Write as NPZ."""
        text = json.dumps(self.facts, ensure_ascii=False, allow_nan=False)
        with replacing(path) as part:
            np.savez_compressed(part, facts=np.array(text), pixels=self.pixels)

    @classmethod
    def read(cls, path: Path) -> Importance:
        """Read what `save` wrote.

        Raises:
            DataError: missing or damaged.
        """
        with opened_npz(path, f"{path.name} cannot be read") as file:
            return cls(parse_json(str(file["facts"])), file["pixels"])


def measure_importance(
    model: ClassicalModel, names: Sequence[str], features: Floats, side: Dataset, seed: int
) -> Importance:
    """The importance of each feature set and part on slices that the model did not learn from.

    All sets are measured with SET_REPEATS shuffles each, then parts with PART_REPEATS: those of
    the set with the largest drop, those of the second, and so on; a set whose parts would make it
    more than MOST_PARTS in all is reported as a whole only. All units are shuffled by the same
    permutations, so that units differ by what they are. Of more than MOST_SLICES slices, so many
    are drawn at random.

    Args:
        names: F names of the form `set:part:detail`, those of a unit in any order.
        features: float32 N×F of the side's slices.
        side: the validation side.
        seed: of the permutations; the same seed gives the same result.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(side))[:MOST_SLICES])
    orders = [rng.permutation(len(rows)) for _ in range(SET_REPEATS)]
    some, labels = features[rows], side.labels[rows]
    sets = units_of(names, 1)
    classify, change = component_classifier(model), ComponentChange(model.pipeline, some)
    base = balanced_accuracy(classify(change.components), labels)

    def drop(columns: Rows, repeats: int) -> dict[str, float]:
        drops = [
            base - balanced_accuracy(classify(change(columns, o)), labels) for o in orders[:repeats]
        ]
        return _mean_and_spread(drops)

    by_set = {name: drop(columns, SET_REPEATS) for name, columns in sets.items()}
    parts: list[dict[str, Any]] = []
    whole_only = []
    for name in sorted(sets, key=lambda name: -by_set[name]["drop"]):
        own = {p: c for p, c in units_of(names, 2).items() if p.split(":")[0] == name}
        if len(parts) + len(own) > MOST_PARTS:
            whole_only.append(name)
            continue
        for part, columns in own.items():
            parts.append({"part": part, **drop(columns, PART_REPEATS), "columns": len(columns)})
    parts.sort(key=lambda p: -p["drop"])
    pictures, pixels = _pictures(parts, names, features, side)
    facts = {
        "n": len(rows), "balanced_accuracy": base, "sets": by_set, "parts": parts,
        "whole_only": whole_only, "folds": None, "pictures": pictures,
    }  # fmt: skip
    return Importance(facts, pixels)


def pool_importance(folds: Sequence[Importance]) -> Importance:
    """The means over the models of a cross-validation; the spread is that over the models.

    A part is reported where every fold measured it. The parts of `deep` are not: each fold's
    network has features of its own. The pictures are those of the first fold.
    """
    all_facts = [fold.facts for fold in folds]
    first = all_facts[0]
    sets = {
        name: _mean_and_spread([facts["sets"][name]["drop"] for facts in all_facts])
        for name in first["sets"]
    }
    drops = [{p["part"]: p["drop"] for p in facts["parts"]} for facts in all_facts]
    parts = [
        {
            "part": p["part"],
            **_mean_and_spread([each[p["part"]] for each in drops]),
            "columns": p["columns"],
        }
        for p in first["parts"]
        if all(p["part"] in each for each in drops) and p["part"].split(":")[0] != DEEP
    ]
    parts.sort(key=lambda p: -p["drop"])
    known = {p["part"].split(":")[0] for p in parts}
    pooled = {
        "n": sum(facts["n"] for facts in all_facts),
        "balanced_accuracy": float(np.mean([facts["balanced_accuracy"] for facts in all_facts])),
        "sets": sets,
        "parts": parts,
        "whole_only": [name for name in sets if name not in known],
        "folds": len(folds),
        "pictures": first["pictures"],
    }
    return Importance(pooled, folds[0].pixels)


def units_of(names: Sequence[str], depth: int) -> dict[str, Rows]:
    """Columns by the first `depth` words of their names: 1 for sets, 2 for parts."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        found.setdefault(":".join(name.split(":")[:depth]), []).append(column)
    return {unit: np.array(columns, np.int64) for unit, columns in found.items()}


def explained_by_class(features: Floats, labels: Labels) -> Doubles:
    """Eta squared of each column (F, 0 to 1): the share of its variance that lies between the
    classes; 0 for a constant column. Fisher, Statistical Methods for Research Workers, 1925."""
    values = features.astype(np.float64)
    away = values - values.mean(axis=0)
    whole = (away**2).sum(axis=0)
    between = np.zeros_like(whole)
    for c in np.unique(labels):
        own = labels == c
        between += own.sum() * away[own].mean(axis=0) ** 2
    # The limit is below what rounding leaves of a column of one value.
    varies = whole > 1e-12 * (values**2).sum(axis=0)
    explained: Doubles = np.divide(between, whole, out=np.zeros_like(whole), where=varies)
    return explained


def _pictures(
    parts: Sequence[dict[str, Any]], names: Sequence[str], features: Floats, side: Dataset
) -> tuple[list[dict[str, Any]], npt.NDArray[np.uint8]]:
    """`pictures` and `pixels` of an Importance, for the first PICTURED parts that lose more than
    the spread. Of a part's columns the one is shown that tells the classes apart best."""
    units, explained = units_of(names, 2), explained_by_class(features, side.labels)
    pictures: list[dict[str, Any]] = []
    shown: list[int] = []
    weighty = [p["part"] for p in parts if p["drop"] > p["spread"]]
    for part in weighty[:PICTURED]:
        column = int(units[part][explained[units[part]].argmax()])
        values = features[:, column]

        def ends(order: Rows) -> list[int]:
            return one_a_group(order.tolist(), side.groups, EACH)

        def facts(rows: Iterable[int], values: Floats = values) -> list[dict[str, Any]]:
            return [
                {
                    "path": side.paths[row],
                    "label": side.class_names[side.labels[row]],
                    "value": float(values[row]),
                }
                for row in rows
            ]

        lowest = ends(np.argsort(values, kind="stable"))
        highest = ends(np.argsort(-values, kind="stable"))
        shown += [*lowest, *highest]
        pictures.append(
            {
                "part": part, "column": names[column], "explained": float(explained[column]),
                "lowest": facts(lowest), "highest": facts(highest),
            }
        )  # fmt: skip
    return pictures, side.images[np.array(shown, np.int64)]


def _mean_and_spread(drops: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(drops, ddof=1)) if len(drops) > 1 else 0.0
    return {"drop": float(np.mean(drops)), "spread": spread}


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


def component_classifier(model: ClassicalModel) -> Classify:
    """A function from components (float64 N×K) to the classes predicted (N indices).

    It answers what the model does. For support vector machines it is some times as fast as
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
        return _machines_classifier(machines)
    # The same model from its components on: so there is one rule for what it answers.
    rest = type(model)(
        Pipeline([("as it is", FunctionTransformer().fit([[0.0]])), ("classify", classifier)]),
        model.floor,
    )

    def classify(components: Doubles) -> Labels:
        predicted: Labels = rest.predict(components.astype(np.float32))[0].argmax(axis=1)
        return predicted

    return classify


def _machines_classifier(machines: Sequence[Any]) -> Classify:
    """`component_classifier` of one machine a class: all look at one kernel matrix."""
    places, first = np.unique(np.concatenate([m.support_ for m in machines]), return_index=True)
    vectors = np.concatenate([m.support_vectors_ for m in machines])[first]
    weights = np.zeros((len(places), len(machines)))
    for column, machine in enumerate(machines):
        weights[np.searchsorted(places, machine.support_), column] = machine.dual_coef_[0]
    offsets = np.array([m.intercept_[0] for m in machines])
    gamma = float(machines[0]._gamma)
    lengths = (vectors**2).sum(axis=1)

    def classify(components: Doubles) -> Labels:
        kernel = components @ (2.0 * gamma * vectors.T)
        kernel -= gamma * lengths
        kernel -= gamma * (components**2).sum(axis=1, keepdims=True)
        margins = np.exp(kernel, out=kernel) @ weights + offsets
        if margins.shape[1] == 1:  # of two classes: the second's machine only
            margins = np.concatenate([-margins, margins], axis=1)
        predicted: Labels = margins.argmax(axis=1)
        return predicted

    return classify

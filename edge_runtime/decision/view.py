"""Which plane and which sequence does a slice look like, and was the model validated for it?

A linear map of the network's penultimate features and softmax, for the plane and for the sequence:
fitted by `trainer.evaluation.view` on slices of which they are known. Whatever a slice truly is,
what it looks like to this head can be told of every slice: so it is known which of these the
validation side has shown, and a slice that looks like another is not answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.decision.ood import MAX_FEATURES, pack, unpack
from edge_runtime.decision.prediction import NOT_FINITE, probabilities
from edge_runtime.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

METHOD = "linear-softmax"
SURE = 0.5  # what a slice looks like is told from this probability on: more likely than all else
MOST_VALUES = 32  # of a head; there are three planes and some ten sequences
LONGEST = 40  # characters of a value


def is_value(name: object) -> bool:
    """Whether a plane or sequence may be called so: a short text that shows."""
    return (
        isinstance(name, str) and 0 < len(name.strip()) <= len(name) <= LONGEST
    ) and name.isprintable()


class Seen(NamedTuple):
    """What a slice looks like; None where no head tells or it is not sure."""

    plane: str | None = None
    sequence: str | None = None


@dataclass(frozen=True, eq=False)
class Head:
    """Tells values of one kind apart.

    Attributes:
        labels: the K values.
        weights, bias: F×K and K: features times the one plus the other are the logits.
        validated: the values for which the model was validated.
    """

    labels: tuple[str, ...]
    weights: Floats
    bias: Floats
    validated: tuple[str, ...]

    def probabilities(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Of each value (N×K), of features (N×F).

        Raises:
            InputError: features that are no finite numbers.
        """
        return probabilities(features.astype(np.float64) @ self.weights + self.bias)

    def to_json(self) -> dict[str, Any]:
        """Its entry in `View.to_json`; arrays in base64 (little-endian float32)."""
        return {
            "labels": list(self.labels),
            "validated": list(self.validated),
            "weights": pack(self.weights, "<f4"),
            "bias": pack(self.bias, "<f4"),
        }

    @classmethod
    def from_json(cls, shape: Mapping[str, Any], features: int) -> Head:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not write that.
        """
        labels, validated = shape["labels"], shape["validated"]
        if not (isinstance(labels, list) and all(map(is_value, labels))):
            raise ValueError("labels")
        if not (2 <= len(labels) <= MOST_VALUES and len(set(labels)) == len(labels)):
            raise ValueError("labels")
        known = isinstance(validated, list) and all(label in labels for label in validated)
        if not known or len(set(validated)) != len(validated):
            raise ValueError("validated")
        weights, bias = unpack(shape["weights"], "<f4"), unpack(shape["bias"], "<f4")
        if len(bias) != len(labels) or len(weights) != features * len(labels):
            raise ValueError("sizes")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("not finite")
        return cls(tuple(labels), weights.reshape(features, -1), bias, tuple(validated))


@dataclass(frozen=True, eq=False)
class View:
    """A head for the plane, for the sequence, or for both."""

    plane: Head | None
    sequence: Head | None

    @property
    def features(self) -> int:
        """How many features it looks at."""
        return len(self._product[0])

    @np.errstate(all="ignore")  # features that are no numbers are refused, without a warning
    def look(self, features: npt.NDArray[np.floating[Any]]) -> Seen:
        """What one slice (F features) looks like.

        Raises:
            InputError: features that are no finite numbers.
        """
        weights, bias = self._product
        logits = (features.astype(np.float64) @ weights + bias).tolist()
        if not all(map(math.isfinite, logits)):
            raise InputError(NOT_FINITE)
        first = 0 if self.plane is None else len(self.plane.labels)
        return Seen(_surest(self.plane, logits[:first]), _surest(self.sequence, logits[first:]))

    def unvalidated(self, seen: Seen) -> list[str]:
        """What of it the model was not validated for."""
        return [
            value
            for head, value in ((self.plane, seen.plane), (self.sequence, seen.sequence))
            if head is not None and value is not None and value not in head.validated
        ]

    def objection(self, seen: Seen) -> str | None:
        """Why a slice that looks so is not answered; None where nothing speaks against it."""
        new = self.unvalidated(seen)
        if not new:
            return None
        return f"looks like {' and '.join(new)}, which the model was not validated for"

    @cached_property
    def _product(self) -> tuple[Floats, Floats]:
        """Weights and bias of both heads side by side: one product costs less than two."""
        heads = [head for head in (self.plane, self.sequence) if head is not None]
        weights = np.column_stack([head.weights for head in heads])
        return np.ascontiguousarray(weights), np.concatenate([head.bias for head in heads])

    def to_json(self) -> dict[str, Any]:
        """The field `view` of `model.json`."""
        return {
            "method": METHOD,
            "features": self.features,
            "plane": None if self.plane is None else self.plane.to_json(),
            "sequence": None if self.sequence is None else self.sequence.to_json(),
        }

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> View:
        """Read what `to_json` wrote.

        Raises:
            ModelError: another method, or parameters that do not fit together.
        """
        if shape.get("method") != METHOD:
            raise ModelError(
                f"the head for plane and sequence {str(shape.get('method'))[:40]!r} is not known "
                "here: update btc-edge or export the model again"
            )
        try:
            n, plane, sequence = shape["features"], shape["plane"], shape["sequence"]
            if type(n) is not int or not 1 <= n <= MAX_FEATURES:
                raise ValueError("features")
            if plane is None and sequence is None:
                raise ValueError("no head")
            heads = (None if of is None else Head.from_json(of, n) for of in (plane, sequence))
            return cls(*heads)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = str(error)[:80]
            raise ModelError(f"the head for plane and sequence is damaged: {why}") from None


def _surest(head: Head | None, logits: list[float]) -> str | None:
    """The value of the highest logit, where softmax gives it the probability SURE at least."""
    if head is None:
        return None
    most = max(logits)
    # Softmax of the highest is one over this sum.
    if SURE * sum(math.exp(logit - most) for logit in logits) > 1:
        return None
    return head.labels[logits.index(most)]

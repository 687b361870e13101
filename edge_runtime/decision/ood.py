"""Is this like the slices that the model learned from? A score cheap enough for the device.

Two things count, whichever is worse: how far the network's penultimate features lie from the
means of the classes (the Mahalanobis distance of Lee et al., A simple unified framework for
detecting out-of-distribution samples and adversarial attacks, 2018), and how much they look like
those of a slice that was turned (a linear rule learned from turned training slices, after
Hendrycks et al., Deep anomaly detection with outlier exposure, 2019).
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

METHOD = "distance-and-turn"
MAX_FEATURES = 4096


class _Short(NamedTuple):
    """What `OodDetector.is_outside` needs.

    Attributes:
        weights, shift: F×(F+K+1) and F+K+1; features times the one plus the other are the whitened
            features, for each center what its distance is more than their square, and the turn
            rule.
        rounding, offset: how much that may be off, as `rounding * (square of the features +
            offset)`.
        near, far: a squared distance below the one is within the threshold, one above the other
            beyond it.
        level, turned_far: as those, of the turn rule.
    """

    weights: Floats
    shift: Floats
    rounding: float
    offset: float
    near: float
    far: float
    level: float
    turned_far: float


@dataclass(frozen=True, eq=False)
class OodDetector:
    """Parameters of the score, fitted by `trainer.evaluation.ood`.

    Attributes:
        mean, scale: F each; features are standardised by them.
        whiten: F×F; standardised features times it have unit covariance within a class.
        centers: K×F, the whitened means of the classes.
        turn: F+1, weights of the standardised features and a constant.
        levels: centre and spread of the log distance, then of the turn rule: they make the two
            comparable.
        threshold: a score above it means out-of-distribution.
    """

    mean: Floats
    scale: Floats
    whiten: Floats
    centers: Floats
    turn: Floats
    levels: Floats
    threshold: float

    def score(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Scores of features (…×F); larger is further out."""
        standard = (features.astype(np.float64) - self.mean) / self.scale
        gaps = (standard @ self.whiten)[..., None, :] - self.centers
        distance = np.log(np.square(gaps).sum(axis=-1).min(axis=-1) + 1e-9)
        turned = standard @ self.turn[:-1] + self.turn[-1]
        worse: Floats = np.maximum(
            (distance - self.levels[0]) / self.levels[1], (turned - self.levels[2]) / self.levels[3]
        )
        return worse

    def is_ood(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        """Which of the features (…×F) do not lie within the threshold: a score that is no number
        does not."""
        outside: npt.NDArray[np.bool_] = ~(self.score(features) <= self.threshold)
        return outside

    @np.errstate(all="ignore")  # features that are no numbers are outside, without a warning
    def is_outside(self, features: npt.NDArray[np.floating[Any]]) -> bool:
        """`is_ood` of one slice (F features), in fewer calls: each costs more than its arithmetic.

        One product gives the whitened features, their products with the centers, and the turn
        rule. It is rounded otherwise than the score: where that may matter, the score decides, and
        so it does for what is no number.
        """
        short = self._short
        values = features.astype(np.float64)
        products = values @ short.weights
        products += short.shift
        *nearest, turned = products[len(values) :].tolist()
        white = products[: len(values)]
        distance = float(white @ white) + min(nearest)
        rounding = short.rounding * (float(values @ values) + short.offset)
        if distance + rounding < short.near and turned + rounding < short.level:
            return False
        if distance - rounding > short.far or turned - rounding > short.turned_far:
            return True
        return bool(self.is_ood(features))

    @cached_property
    def _short(self) -> _Short:
        to_white, to_turn = self.whiten / self.scale[:, None], self.turn[:-1] / self.scale
        weights = np.column_stack([to_white, -2 * to_white @ self.centers.T, to_turn])
        shift = -self.mean @ weights
        shift[len(self.mean) : -1] += np.square(self.centers).sum(axis=1)
        shift[-1] += self.turn[-1]
        # A sum of F products is off by F ε times those of their sizes (Higham, Accuracy and
        # Stability of Numerical Algorithms, 2002, section 3.1). On either way none has sizes over
        # R², with R = N (r + m) + C of the lengths of features, mean and centers; and R² is at most
        # 2 N² (r² + (m + C / N)²). Few sums follow each other: the rest of the factor is room.
        norm = float(np.linalg.norm(to_white) + np.linalg.norm(to_turn)) + 1e-300
        longest = float(np.linalg.norm(self.centers, axis=1).max() + abs(self.turn[-1]) + 1)
        length = float(np.linalg.norm(self.mean)) + longest / norm
        offset = length * length  # not by **, which raises where this is infinite
        rounding = 64 * (len(self.mean) + 8) * sys.float_info.epsilon * norm**2
        centre, spread, turn_centre, turn_spread = self.levels.tolist()
        log, turn = centre + self.threshold * spread, turn_centre + self.threshold * turn_spread
        # The logarithm and the levels are rounded, too.
        loose = 1e-9 * (1 + abs(centre) + abs(self.threshold) * spread)
        turn_loose = 1e-9 * (1 + abs(turn_centre) + abs(self.threshold) * turn_spread)
        return _Short(
            np.ascontiguousarray(weights),
            shift,
            rounding,
            offset,
            _exp(log - loose) - 1e-9,
            _exp(log + loose) - 1e-9,
            turn - turn_loose,
            turn + turn_loose,
        )

    def to_json(self) -> dict[str, Any]:
        """The field `ood` of `model.json`: arrays in base64 (little-endian float32; the
        large matrix in float16)."""
        return {
            "method": METHOD,
            "threshold": self.threshold,
            "features": len(self.mean),
            **{name: pack(getattr(self, name), kind) for name, kind in _ARRAYS.items()},
        }

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> OodDetector:
        """Read what `to_json` wrote.

        Raises:
            ModelError: another method, or parameters that do not fit together.
        """
        if shape.get("method") != METHOD:
            raise ModelError(
                f"the check for out-of-distribution inputs {str(shape.get('method'))[:40]!r} is "
                "not known here: update btc-edge or export the model again"
            )
        try:
            n = shape["features"]
            if not (isinstance(n, int) and 1 <= n <= MAX_FEATURES):
                raise ValueError("features")
            arrays = {name: unpack(shape[name], kind) for name, kind in _ARRAYS.items()}
            arrays["whiten"] = arrays["whiten"].reshape(n, n)
            arrays["centers"] = arrays["centers"].reshape(-1, n)
            threshold = float(shape["threshold"])
            sizes = [len(arrays[k]) for k in ("mean", "scale", "turn", "levels")]
            if sizes != [n, n, n + 1, 4] or len(arrays["centers"]) == 0:
                raise ValueError("sizes")
            if not all(np.isfinite(v).all() for v in (*arrays.values(), np.array(threshold))):
                raise ValueError("not finite")
            if (arrays["scale"] <= 0).any() or (arrays["levels"][1::2] <= 0).any():
                raise ValueError("a scale of zero")
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise ModelError(
                f"the check for out-of-distribution inputs is damaged: {error}"
            ) from None
        return cls(**arrays, threshold=threshold)


_ARRAYS = {"mean": "<f4", "scale": "<f4", "whiten": "<f2", "centers": "<f4", "turn": "<f4",
           "levels": "<f4"}  # fmt: skip


def _exp(power: float) -> float:
    try:
        return math.exp(power)
    except OverflowError:
        return math.inf


def pack(values: Floats, kind: str) -> str:
    """An array as text for `model.json`, in the dtype `kind`."""
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")


def unpack(text: str, kind: str) -> Floats:
    """What `pack` wrote, flat and in float64.

    Raises:
        ValueError, TypeError: another text, or none.
    """
    raw = base64.b64decode(text, validate=True)
    values: Floats = np.frombuffer(raw, kind).astype(np.float64)
    return values

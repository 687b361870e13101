"""Examples to look at: the most confident errors first, then right answers of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.files import replacing
from trainer.data.npz import opened_npz

FILE = "gallery.npz"
ERRORS, RIGHT_PER_CLASS = 12, 2
BEFORE = 128  # pixels: side of the pictures of whole slices
Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """K examples.

    Attributes:
        rows: int64, where each example stands in the predictions table.
        pixels: uint8 K×S×S, as the network saw them.
        heat: float32 K×H×W, coarse heatmaps of the class predicted.
        boxes: float64 K×4, the tumour's box in fractions of the input; NaN where unknown.
        before: uint8 K×BEFORE×BEFORE, the whole slices as their files have them, see
            `whole_pictures`; black where unknown.
    """

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    heat: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float64]
    before: npt.NDArray[np.uint8]

    def save(self, path: Path) -> None:
        """Write as NPZ."""
        with replacing(path) as part:
            np.savez_compressed(
                part, rows=self.rows, pixels=self.pixels, heat=self.heat, boxes=self.boxes,
                before=self.before,
            )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Examples:
        """Read what `save` wrote; an older file has no `before`, which is then unknown.

        Raises:
            DataError: missing or damaged.
        """
        with opened_npz(path, f"{path.name} cannot be read") as file:
            rows = file["rows"]
            before = file["before"] if "before" in file else whole_pictures([None] * len(rows))
            return cls(rows, file["pixels"], file["heat"], file["boxes"], before)


def whole_pictures(slices: Sequence[Gray | None]) -> Gray:
    """Whole slices, each scaled to fit a square, with black around it.

    Args:
        slices: K slices, uint8 H×W; None where a slice is not at hand.

    Returns:
        uint8 K×BEFORE×BEFORE; black for None.
    """
    import cv2

    squares = np.zeros((len(slices), BEFORE, BEFORE), np.uint8)
    for square, gray in zip(squares, slices, strict=True):
        if gray is None:
            continue
        scale = BEFORE / max(gray.shape)
        height, width = (min(max(round(scale * side), 1), BEFORE) for side in gray.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        top, left = (BEFORE - height) // 2, (BEFORE - width) // 2
        square[top : top + height, left : left + width] = cv2.resize(
            gray, (width, height), interpolation=how
        )
    return squares


def choose_examples(
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float64],
    groups: Sequence[str],
) -> npt.NDArray[np.int64]:
    """Rows to show: ERRORS errors by falling confidence, then RIGHT_PER_CLASS right answers of
    each class: its surest and its least sure, and so on inward. One example a group at most: copies
    of a picture show nothing more."""
    order = np.argsort(-confidence, kind="stable")
    wrong = order[(predicted != labels)[order]]
    chosen = one_a_group(wrong.tolist(), groups, ERRORS)
    for c in np.unique(labels):
        right = order[((predicted == labels) & (labels == c))[order]]
        inward = [int(right[i // 2 if i % 2 == 0 else -(i // 2) - 1]) for i in range(len(right))]
        chosen += one_a_group(inward, groups, RIGHT_PER_CLASS)
    return np.asarray(chosen, dtype=np.int64)


def one_a_group(rows: Sequence[int], groups: Sequence[str], count: int) -> list[int]:
    """The first `count` of the rows that bring a group of their own."""
    firsts: dict[str, int] = {}
    for row in rows:
        firsts.setdefault(groups[row], row)
    return list(firsts.values())[:count]


def pool_examples(folds: Sequence[Examples], sizes: Sequence[int]) -> Examples:
    """The examples of several folds, their rows counted in the pooled table.

    Args:
        sizes: rows of each fold's table.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    return Examples(
        np.concatenate([fold.rows + start for fold, start in zip(folds, starts, strict=True)]),
        np.concatenate([fold.pixels for fold in folds]),
        np.concatenate([fold.heat for fold in folds]),
        np.concatenate([fold.boxes for fold in folds]),
        np.concatenate([fold.before for fold in folds]),
    )


def take_examples(examples: Examples, rows: npt.NDArray[np.int64]) -> Examples:
    """Those of some `rows` that are among the examples, in their order."""
    place = {int(row): i for i, row in enumerate(examples.rows)}
    found = [place[int(row)] for row in rows if int(row) in place]
    return Examples(
        examples.rows[found], examples.pixels[found], examples.heat[found], examples.boxes[found],
        examples.before[found],
    )  # fmt: skip

"""Recipes: named ways to train, each a whole that was measured as such.

`benchmarks/research.md` tells how the default was found.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What a training sees and is asked for. Shares are of the examples that they concern.

    Attributes:
        name: what the command calls it.
        balance: draw classes alike, and sources and groups by the square root of their size;
            else every slice once an epoch.
        clear: weight of tumour-free classes in balanced draws where tumours are pasted, the
            others having 1: pasted tumours and partial labels take from them.
        augment: share of examples changed in place and style.
        partial: share of examples whose class is only known to be one of several.
        paste: share of tumour examples that show a tumour on a tumour-free slice.
        erase: share of tumour-free examples that show a slice whose tumour was covered.
        patch: share of tumour-free examples that carry a patch of tumour-free tissue.
        localisation: weight of the loss that asks the class maps to lie within the box.
        label_smoothing: part of the target spread over all classes.
        learning_rate: of Adam at its highest.
        epochs: how many, unless stopped before.
        pretrained: whether `edge` begins with the pretrained weights.
    """

    name: str = "own"
    balance: bool = False
    clear: float = 1.0
    augment: float = 1.0
    partial: float = 0.0
    paste: float = 0.0
    erase: float = 0.0
    patch: float = 0.0
    localisation: float = 0.0
    label_smoothing: float = 0.05
    learning_rate: float = 2e-3
    epochs: int = 20
    pretrained: bool = True


RECIPES: dict[str, Recipe] = {
    "robust": Recipe(
        name="robust", balance=True, clear=1.5, augment=0.5, partial=0.08,
        paste=0.15, erase=0.1, patch=0.1, localisation=0.1,
    ),
    "plain": Recipe(name="plain", learning_rate=1e-3),
}  # fmt: skip

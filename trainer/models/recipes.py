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
        tumour_free_weight: of tumour-free classes in balanced draws where tumours are pasted, the
            others having 1: pasted tumours and partial labels take from them.
        augment: share of examples changed in place and style.
        partial_labels: share of examples whose class is only known to be one of several.
        paste: share of tumour examples that show a tumour on a tumour-free slice.
        erase: share of tumour-free examples that show a slice whose tumour was covered.
        patch: share of tumour-free examples that carry a patch of tumour-free tissue, half of them
            of a tumour's own slice.
        localisation: weight of the loss that asks the class maps to lie within the box.
        label_smoothing: part of the target spread over all classes.
        learning_rate: of Adam at its highest.
        epochs: how many, unless stopped before.
        pretrained: whether `edge` begins with the pretrained weights.
    """

    name: str = "own"
    balance: bool = False
    tumour_free_weight: float = 1.0
    augment: float = 1.0
    partial_labels: float = 0.0
    paste: float = 0.0
    erase: float = 0.0
    patch: float = 0.0
    localisation: float = 0.0
    label_smoothing: float = 0.05
    learning_rate: float = 2e-3
    epochs: int = 20
    pretrained: bool = True


# The first is the default. A row holds all that a recipe needs: what it does, in the words of
# `btc-train --help`, and its settings.
_ROWS: tuple[tuple[str, Recipe], ...] = (
    (
        "style, pasted and covered tumours, balanced sources",
        Recipe(
            name="robust", balance=True, tumour_free_weight=1.5, augment=0.5, partial_labels=0.08,
            paste=0.15, erase=0.1, patch=0.1, localisation=0.1,
        ),
    ),
    (
        "changed copies of every slice",
        Recipe(name="plain", learning_rate=1e-3),
    ),
)  # fmt: skip
RECIPES = {recipe.name: recipe for _, recipe in _ROWS}
DEFAULT_RECIPE = next(iter(RECIPES))


def recipes_in_words() -> str:
    """What each recipe does, in one line."""
    return "; ".join(f"{recipe.name}: {about}" for about, recipe in _ROWS)

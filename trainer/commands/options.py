"""Options that the workstation's commands share, and what a data card says in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import FiniteRange, Option
from trainer.commands.terminal import say

if TYPE_CHECKING:
    from trainer.data.card import DataCard

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
option = partial(click.option, cls=Option)  # wants a `group`
THRESHOLDS = "Thresholds"
IDENTITY = "Identity"

no_card_option = option(
    "--no-card", group="Data", is_flag=True, help="Pass over the data.toml beside the data."
)


def with_card(
    data: Path, options: dict[str, Any], wanted: Iterable[str]
) -> tuple[Path, dict[str, Any], DataCard | None]:
    """DATA and the options, with what the data's card says where the command line is silent.

    What is taken from the card is said on stderr, a line each.

    Args:
        options: by name, `no_card` among them.
        wanted: names of the options that a card may fill.

    Returns:
        The zip or folder of images, all options, and the card; None where there is none.

    Raises:
        DataError: a wrong card. UsageError: this Python cannot read it.
    """
    from trainer.data.card import find_card

    card = None if options["no_card"] else find_card(data)
    if card is None:
        return data, options, None
    said = {**card.files, "tumour_free": card.tumour_free}
    taken = {name: said[name] for name in wanted if said.get(name) and not options[name]}
    if options.get("partial"):
        taken.pop("partial_groups", None)  # it is of the card's own
    images = card.files["images"]
    for name, value in {"images": images, **taken}.items():
        if value != data:
            words = ", ".join(value) if isinstance(value, tuple) else value
            say(f"{name}: {words} ({card.path.name})")
    return images, options | taken, card


def threshold_options(target_error: str, confidence: str) -> Decorator:
    """`--target-error`, its former name `--max-error`, and `--confidence`; see
    `trainer.evaluation.selective.asked_targets`.

    Args:
        target_error, confidence: what holds where they are not given, in words.
    """
    return _together(
        option(
            "--target-error",
            group=THRESHOLDS,
            multiple=True,
            metavar="SHARE|CLASS=SHARE",
            help="The share of wrong answers that thresholds are chosen for, of all classes (a "
            "quarter of it for notumor) or of one; repeatable. A class that the validation side "
            "cannot support it for is never answered. `lowest` in place of a number takes the "
            "lowest that is supported, up to 0.3, or 0.1 for notumor.  "
            f"[default: {target_error}]",
        ),
        click.option(
            "--max-error", type=FiniteRange(0, 1, min_open=True, max_open=True), hidden=True
        ),
        option(
            "--confidence",
            group=THRESHOLDS,
            type=FiniteRange(0.5, 1, max_open=True),
            help=f"That a threshold keeps its target, for each class.  [default: {confidence}]",
        ),
    )


def identity_options(name: str | None, version: str) -> Decorator:
    """`--name` and `--model-version`, see `trainer.run.checked_name` and `checked_version`.

    Args:
        name: the default; None for the run's.
        version: what holds where none is given, in words.
    """
    shown = name or "the run's"
    return _together(
        option(
            "--name",
            group=IDENTITY,
            default=name,
            help=f"The model's name.  [default: {shown}]",
        ),
        option(
            "--model-version",
            group=IDENTITY,
            help=f"The model's version.  [default: {version}]",
        ),
    )


def _together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate

"""Options that the workstation's commands share, and what a data card says in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edge_runtime.commands.click_types import FiniteRange, Option
from edge_runtime.errors import UsageError
from trainer.commands.terminal import EXISTING, say

if TYPE_CHECKING:
    from trainer.data.card import DataCard
    from trainer.data.collection import Collection

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
option = partial(click.option, cls=Option)  # wants a `group`
LOCAL = "local"  # in place of the address of a cluster: a Ray of the command's own
THRESHOLDS = "Thresholds"
IDENTITY = "Identity"

data_argument = click.argument("data", nargs=-1, required=True, type=EXISTING)
no_card_option = option(
    "--no-card", group="Data", is_flag=True, help="Pass over the data.toml beside the data."
)


def ray_address(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The value of `--ray [ADDRESS]`, which takes the word behind it.

    Raises:
        BadParameter: that word is no address.
    """
    if value is None or re.fullmatch(rf"{LOCAL}|auto|\S+:\d+", value):
        return value
    raise click.BadParameter(
        f"{value!r} is neither HOST:PORT nor auto; DATA stands before --ray, or after --ray={LOCAL}"
    )


class Named(NamedTuple):
    """What the command line and the data's cards name together.

    Attributes:
        data: the zip or folder of images, or collections: where there are several DATA, or where
            a card says how the slices were taken.
        options: all options, by name.
        about: what the cards say of the data, see `DataCard.about`.
        has_card: whether there is any.
    """

    data: Path | tuple[Collection, ...]
    options: dict[str, Any]
    about: dict[str, str]
    has_card: bool


def with_cards(places: Sequence[Path], options: dict[str, Any], wanted: Iterable[str]) -> Named:
    """DATA and the options, with what the data's cards say where the command line is silent.

    What is taken from a card is said on stderr, a line each. Of several DATA each keeps the tables
    that its card names, and `partial` becomes the collections that the cards name.

    Args:
        places: each DATA.
        options: by name, `no_card` among them.
        wanted: names of the options that a card may fill.

    Raises:
        DataError: a wrong card. UsageError: a DATA that is, or lies in, another.
    """
    if len(places) == 1:
        return _with_card(places[0], options, wanted)
    return _with_several_cards(places, options, set(wanted))


def _with_card(data: Path, options: dict[str, Any], wanted: Iterable[str]) -> Named:
    from trainer.data.card import find_card, source_views
    from trainer.data.collection import Collection

    card = None if options["no_card"] else find_card(data)
    if card is None:
        return Named(data, options, {}, False)
    said = {**card.files, "tumour_free": card.tumour_free}
    taken = {name: said[name] for name in wanted if said.get(name) and not options[name]}
    if options.get("partial"):
        taken.pop("partial_groups", None)  # it is of the card's own
    images = card.files["images"]
    for name, value in {"images": images, **taken}.items():
        if value != data:
            words = ", ".join(value) if isinstance(value, tuple) else value
            say(f"{name}: {words} ({card.path.name})")
    _say_replaced(card, options, taken)
    views = source_views(card.sources)
    named = (Collection(images, views=views),) if views else images
    return Named(named, options | taken, dict(card.about), True)


def _with_several_cards(places: Sequence[Path], options: dict[str, Any], wanted: set[str]) -> Named:
    from trainer.data.card import ABOUT, find_card, joined, source_views
    from trainer.data.collection import Collection, check_apart, names_of

    if options.get("partial_groups") and not options["partial"]:
        raise UsageError("--partial-groups: with several DATA it goes with --partial")
    cards = [None if options["no_card"] else find_card(place) for place in places]
    check_apart(
        [
            place if card is None else card.files["images"]
            for place, card in zip(places, cards, strict=True)
        ]
    )
    taken = {name for name in wanted if not options[name]}
    data, partial = [], []
    tumour_free: set[str] = set()
    named = sorted(zip(names_of(places), places, cards, strict=True), key=lambda each: each[0])
    for name, place, card in named:  # it does not matter in which order they were named
        if card is None:
            data.append(Collection(place, name))
            continue
        files = _taken_from(card, name, place, taken)
        _say_replaced(card, options, files)
        names = {each.name for each in card.sources}  # parts of one source may have an entry each
        source = names.pop() if len(names) == 1 else ""
        own = Collection(
            card.files["images"],
            name,
            source if "groups" in wanted else "",
            views=source_views(card.sources),
        )
        data.append(replace(own, groups_csv=files.get("groups"), boxes_csv=files.get("boxes")))
        if "partial" in files:
            known = source if "partial_groups" in wanted else ""
            partial.append(Collection(files["partial"], name, known, files.get("partial_groups")))
        if "tumour_free" in taken:
            tumour_free |= set(card.tumour_free or ())
    filled: dict[str, Any] = {"partial": tuple(partial), "tumour_free": tuple(sorted(tumour_free))}
    found = [card for _, _, card in named if card is not None]
    about = {key: joined(card.about.get(key, "") for card in found) for key in ABOUT}
    return Named(
        tuple(data),
        options | {name: value for name, value in filled.items() if value},
        {key: text for key, text in about.items() if text},
        bool(found),
    )


def _taken_from(card: DataCard, name: str, place: Path, taken: set[str]) -> dict[str, Path]:
    """The files that the card of one of several DATA fills options with; each is said.

    Args:
        name: of the collection.
        taken: the options.
    """
    files = {key: path for key, path in card.files.items() if key in taken}
    if "partial" not in files:
        files.pop("partial_groups", None)
    said: dict[str, object] = {"images": card.files["images"], **files}
    if "tumour_free" in taken and card.tumour_free:
        said["tumour_free"] = ", ".join(card.tumour_free)
    for key, value in said.items():
        if value != place:
            say(f"{name}: {key}: {value} ({card.path.name})")
    return files


def _say_replaced(card: DataCard, options: Mapping[str, Any], taken: Container[str]) -> None:
    """Say where a table may name groups of one that an option replaces: a tie that is lost so may
    put a patient on two sides."""
    if options["groups"] and "groups" in card.files and "partial_groups" in taken:
        say(
            f"--groups replaces {card.files['groups']}: of its names, partial_groups finds those "
            "that are there"
        )


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

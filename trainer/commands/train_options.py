"""From the options of `btc-train` to a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import UsageError
from edge_runtime.imaging.handcrafted import DEVICE_SETS
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.labels import normalise_label
from trainer.commands.terminal import say
from trainer.data.collection import Data
from trainer.data.heads import Heads
from trainer.evaluation.selective import Targets, asked_targets
from trainer.features.cache import FeatureCache, default_folder
from trainer.features.extractor import DEEP, check_sets
from trainer.models.classical import ClassicalSettings
from trainer.models.kinds import CLASSICAL_SIZE, KINDS
from trainer.models.networks import NETWORKS
from trainer.models.recipes import RECIPES
from trainer.models.training import TrainSettings
from trainer.provenance import INPUTS, known_inputs
from trainer.run import CNN, Run, checked_name, checked_version
from trainer.train_job import Job, resume_job

NETWORK_ONLY = (
    "recipe", "network", "epochs", "batch_size", "learning_rate", "patience", "augment", "track",
)  # fmt: skip
CLASSICAL_ONLY = ("features", "search", "cache", "no_cache", "cache_limit")
# What may be given with --resume whatever the run was started with; inputs are compared by content.
RESUMED_WITH = {
    *("resume", "groups", "boxes", "partial", "partial_groups", "no_card"),
    *("heads", "heads_table"),
    *("cache", "cache_limit", "no_cache"),
    "track",
}
TARGETS = ("target_error", "max_error", "confidence")  # one value together
SLICE_OPTIONS = ("size", "crop", "resize", "window", "denoise", "contrast")
DEFAULT_FEATURES = ",".join(DEVICE_SETS)


FROM_CARD = ("groups", "boxes", "partial", "partial_groups", "tumour_free")


def from_card(resumed: Path | None) -> list[str]:
    """The options that a data card may fill.

    Args:
        resumed: the run that goes on; its card gives the tables that it was started with, and it
            knows the rest itself.

    Raises:
        DataError: no run there.
    """
    if resumed is None:
        return list(FROM_CARD)
    known = known_inputs(Run.open(resumed).settings)
    return [name for name in FROM_CARD if name in INPUTS and known.get(name, "") is not None]


def after_training(run: Run) -> list[str | Path] | None:
    """The command that exports a finished run; None where its features are not for a device."""
    settings = run.settings
    folder = run.folder / "fold-1" if settings.get("folds") else run.folder
    if run.kind == CNN:
        return ["btc-export", folder, "--int8"]
    sets = set(settings["training"]["features"])
    if sets != {DEEP} and not sets <= set(DEVICE_SETS):
        return None
    return ["btc-export", folder, "--onnx"]


def make_job(
    data: Data, out: Path, options: dict[str, Any], given: set[str], about: Mapping[str, str]
) -> Job:
    """The job that the command line asks for.

    Args:
        options: every option by its name.
        given: the names of those that were given, not left at their defaults.
        about: what a data card says, see `DataCard.about`.

    Raises:
        UsageError: options that do not go together. DataError: no run where deep features should
            come from.
    """
    network = options["model"] == CNN
    _refuse(
        given & set(CLASSICAL_ONLY if network else NETWORK_ONLY),
        f"{'goes' if network else 'does not go'} with --model "
        f"{' or '.join(KINDS) if network else options['model']}",
    )
    job = Job(
        data=data,
        out=out,
        protocol=options["protocol"],
        groups_csv=options["groups"],
        boxes_csv=options["boxes"],
        targets=asked_targets(options, Targets()),
        name=checked_name(options["name"]),
        version=checked_version(options["model_version"]),
        folds=options["folds"],
        partial=options["partial"],
        partial_groups_csv=options["partial_groups"],
        tumour_free=_tumour_free(options),
        heads=_heads(options),
        about=about,
    )
    if network:
        size = options["size"] or NETWORKS[options["network"]].size
        return replace(job, preprocess=_preprocess(options, size), settings=_network(options))
    return _classical(job, options, given)


def resumed_job(
    data: Data, out: Path, options: dict[str, Any], given: set[str], about: Mapping[str, str]
) -> tuple[Run, Job]:
    """The run in `out` and its job, for `--resume`: options that were not given take the run's.
    So does what a card says of the data; a line tells where it has come to say another thing.

    Args:
        options, given, about: as for `make_job`.

    Raises:
        UsageError: a finished training, or a given option or input that is not the run's.
        DataError: no run there.
    """
    names, deep = parse_features(options["features"]) if options["features"] else ((), None)
    job = Job(
        data=data,
        out=out,
        groups_csv=options["groups"],
        boxes_csv=options["boxes"],
        partial=options["partial"],
        partial_groups_csv=options["partial_groups"],
        deep=deep,
        heads=_heads(options),
        about=about,
    )
    run, started = resume_job(job)
    if changed := [key for key, text in about.items() if text != started.about.get(key)]:
        say(f"the card's {', '.join(changed)}: not what the run was started with, which it keeps")
    known = started_options(run)
    asked = options | {"features": names, "tumour_free": _tumour_free(options)}
    asked |= dict.fromkeys(TARGETS, asked_targets(options, known["target_error"]))
    for name in sorted(given - RESUMED_WITH):
        option = f"--{name.replace('_', '-')}"
        if name not in known:
            raise UsageError(f"{option} does not go with --model {known['model']}, the run's")
        if asked[name] != known[name]:
            raise UsageError(
                f"{option} is not what the run was started with, which was {_said(known[name])}; "
                "leave it out, or start another run"
            )
    if known["model"] == CNN:
        _refuse(
            given & {"cache", "cache_limit", "no_cache"}, "does not go with --model cnn, the run's"
        )
        return run, started
    return run, replace(started, cache=_cache(options, given))


def started_options(run: Run) -> dict[str, Any]:
    """The options that a run was started with, by name, as far as they shape what it learns."""
    settings, options = run.settings, run.preprocess
    training = settings["training"]
    named = settings.get("tumour_free") or (settings["data"] or {}).get("tumour_free")
    targets = Targets.from_settings(settings)
    known: dict[str, Any] = dict.fromkeys(TARGETS, targets) | {
        "model": run.kind,
        "protocol": "official" if settings["protocol"] == "none" else settings["protocol"],
        "folds": settings.get("folds"),
        "name": settings["name"],
        "model_version": settings.get("model_version"),
        "tumour_free": tuple(named) if named else None,
        "seed": training["seed"],
        "size": options.size,
        "crop": options.crop,
        "resize": options.resize,
        "window": options.window,
        "denoise": options.denoise or "none",
        "contrast": options.contrast or "none",
    }
    if known["model"] != CNN:
        return known | {"features": tuple(training["features"]), "search": training["search"]}
    recipe = training["recipe"]
    names = ("network", "epochs", "batch_size", "learning_rate", "patience")
    known |= {name: training[name] for name in names}
    return known | {"recipe": recipe["name"], "augment": recipe["augment"] > 0}


def _said(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _heads(options: dict[str, Any]) -> Heads | None:
    """Raises UsageError where a table or the heads are missing."""
    place, table = options["heads"], options["heads_table"]
    if place is None:
        if table is not None:
            raise UsageError("--heads-table is the table of --heads, which is not given")
        return None
    beside = place.with_suffix(".csv") if place.is_file() else place / "heads.csv"
    if table is None and not beside.is_file():
        raise UsageError(f"--heads {place}: no table {beside}; name one with --heads-table")
    return Heads(place, table or beside)


def _tumour_free(options: dict[str, Any]) -> tuple[str, ...] | None:
    names = {normalise_label(name) for name in options["tumour_free"]}
    return tuple(sorted(names)) or None


def _refuse(names: set[str], why: str) -> None:
    for name in sorted(names):
        raise UsageError(f"--{name.replace('_', '-')} {why}")


def _preprocess(options: dict[str, Any], size: int) -> Preprocess:
    return Preprocess(
        size=size,
        crop=options["crop"],
        window=options["window"],
        denoise=None if options["denoise"] == "none" else options["denoise"],
        contrast=None if options["contrast"] == "none" else options["contrast"],
        resize=options["resize"],
    )


def _network(options: dict[str, Any]) -> TrainSettings:
    recipe = RECIPES[options["recipe"]]
    if not options["augment"]:
        recipe = replace(recipe, augment=0.0)
    return TrainSettings(
        network=options["network"],
        epochs=options["epochs"] or recipe.epochs,
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"]
        or recipe.learning_rate * NETWORKS[options["network"]].rate,
        patience=options["patience"],
        seed=options["seed"],
        recipe=recipe,
    )


def _classical(job: Job, options: dict[str, Any], given: set[str]) -> Job:
    names, deep = parse_features(options["features"] or DEFAULT_FEATURES)
    preprocess = _preprocess(options, options["size"] or CLASSICAL_SIZE)
    if deep is not None:
        _refuse(given & set(SLICE_OPTIONS), "is the network's own where features are deep:RUN")
        source = Run.open(deep)
        if source.kind != CNN:
            raise UsageError(f"deep:{deep} is a classical model; deep features are a network's")
        preprocess = source.preprocess
    return replace(
        job,
        preprocess=preprocess,
        settings=ClassicalSettings(options["model"], names, options["search"], options["seed"]),
        deep=deep,
        cache=_cache(options, given),
    )


def _cache(options: dict[str, Any], given: set[str]) -> FeatureCache | None:
    if options["no_cache"]:
        _refuse(given & {"cache", "cache_limit"}, "and --no-cache exclude each other")
        return None
    return FeatureCache(
        options["cache"] or default_folder(), say, limit=options["cache_limit"] << 20
    )


def parse_features(text: str) -> tuple[tuple[str, ...], Path | None]:
    """`hog,glcm,deep:RUN` as the names of the sets and the run of the network, or None.

    Raises:
        UsageError: an unknown or repeated set, none, or no folder RUN.
    """
    names, deep = [], None
    for word in text.split(","):
        name, _, folder = word.strip().partition(":")
        if name == DEEP:
            deep = Path(folder) if folder else None
        names.append(name if name == DEEP else word.strip())
    check_sets(names)
    if DEEP in names and deep is None:
        raise UsageError("deep features come from a trained network: name its run, deep:RUN")
    if deep is not None and not deep.is_dir():
        raise UsageError(f"--features deep:{deep}: there is no such run folder")
    return tuple(names), deep

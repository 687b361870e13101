"""From the options of `btc-train` to a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge_runtime.errors import DataError, UsageError
from edge_runtime.features import DEVICE_SETS
from edge_runtime.preprocess import Preprocess
from trainer.evaluation.selective import Targets, asked_targets
from trainer.models.classical import ClassicalSettings
from trainer.models.feature_cache import FeatureCache, default_folder
from trainer.models.features import DEEP, check_sets
from trainer.models.networks import SIZES
from trainer.models.recipes import RECIPES
from trainer.models.training import TrainSettings
from trainer.pipeline import Job
from trainer.run import Run, checked_name, checked_version
from trainer.trained import CNN, kind_of

NETWORK_ONLY = (
    "recipe", "network", "epochs", "batch_size", "learning_rate", "patience", "augment",
)  # fmt: skip
CLASSICAL_ONLY = ("features", "search", "cache", "no_cache", "cache_limit")
SLICE_OPTIONS = ("size", "crop", "window", "denoise", "contrast")
DEFAULT_FEATURES = ",".join(DEVICE_SETS)
CLASSICAL_SIZE = 128  # pixels


def make_job(data: Path, out: Path, options: dict[str, Any], given: set[str]) -> Job:
    """The job that the command line asks for.

    Args:
        options: every option by its name.
        given: the names of those that were given, not left at their defaults.

    Raises:
        UsageError: options that do not go together. DataError: no run where deep features should
            come from.
    """
    if options["partial_groups"] and not options["partial"]:
        raise UsageError("--partial-groups is the table of --partial, which is not given")
    network = options["model"] == CNN
    _refuse(
        given & set(CLASSICAL_ONLY if network else NETWORK_ONLY),
        f"{'goes' if network else 'does not go'} with --model "
        f"{'svm, random-forest, logistic or knn' if network else options['model']}",
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
    )
    if network:
        size = options["size"] or SIZES[options["network"]]
        return replace(job, preprocess=_preprocess(options, size), settings=_network(options))
    return _classical(job, options, given)


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
    )


def _network(options: dict[str, Any]) -> TrainSettings:
    recipe = RECIPES[options["recipe"]]
    if not options["augment"]:
        recipe = replace(recipe, augment=0.0)
    return TrainSettings(
        network=options["network"],
        epochs=options["epochs"] or recipe.epochs,
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"] or recipe.learning_rate,
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
        if kind_of(source.settings) != CNN:
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
        options["cache"] or default_folder(),
        lambda words: click.echo(words, err=True),
        limit=options["cache_limit"] << 20,
    )


def parse_features(text: str) -> tuple[tuple[str, ...], Path | None]:
    """`hog,glcm,deep:RUN` as the names of the sets and the run of the network, or None.

    Raises:
        UsageError: an unknown or repeated set, or none. DataError: RUN is no run.
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
        raise DataError(f"{deep}: no such run")
    return tuple(names), deep

"""What each part of a recipe is worth, on validation slices alone.

    python -m benchmarks.recipes DATA --groups CSV --boxes CSV --partial ZIP --partial-groups CSV \\
        --vary "" --vary "paste=0,erase=0,patch=0" --vary partial_labels=0 --epochs 8

Trains the recipe `robust` once for each --vary, with the fields it names changed, on the training
side of the first fold, and measures on the validation side of that fold and on a quarter of the
partly labelled groups that the fold may learn from. No test side is looked at. Writes
recipes.json and recipes.md; variants measured before with the same epochs are kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, out_option
from benchmarks.robust import corruption_hits
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.prediction import probabilities
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.labels import NO_TUMOR
from trainer.data.archive import open_archive
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.partial_labels import PartialLabels, divide, read_partial_labels
from trainer.data.split import fold_splits
from trainer.models.checkpoint import Checkpoint
from trainer.models.networks import NETWORKS
from trainer.models.outputs import predictor
from trainer.models.recipes import RECIPES, Recipe
from trainer.models.sampler import make_samples
from trainer.models.training import TrainSettings, train
from trainer.report.html import percent
from trainer.run import dump_json

HEAD = (
    "| change to `robust` | epochs | minutes | accuracy % | cross-entropy | tumour type % | "
    "tumours predicted notumor % | notumor predicted tumour % | untyped predicted notumor % | "
    "corruptions mean % | worst corruption % |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)
COLUMNS = ("accuracy", "log_loss", "types", "missed", "alarms", "untyped", "mean", "worst")


@dataclass(frozen=True)
class Sides:
    """What is learned from and what measures."""

    training: Dataset
    validation: Dataset
    training_partial: PartialLabels
    validation_partial: PartialLabels
    archive: Path


def vary(changes: str) -> Recipe:
    """The recipe `robust` with fields changed, as in `paste=0,erase=0`.

    Raises:
        UsageError: no such field, or not a number.
    """
    recipe = RECIPES["robust"]
    known = {f.name: f.type for f in fields(Recipe)}
    for change in filter(None, changes.split(",")):
        name, _, value = change.partition("=")
        if name not in known or name == "name":
            raise UsageError(f"a recipe has no {name!r}; it has {', '.join(known)}")
        kind = type(getattr(recipe, name))
        try:
            made: Any = kind(float(value))
        except ValueError:
            raise UsageError(f"{change!r}: {value!r} is no number") from None
        recipe = replace(recipe, **{name: made})
    return recipe


def read_sides(
    data: Path, groups: Path | None, boxes: Path | None, partial: Path, partial_groups: Path | None
) -> Sides:
    """The first fold's training and validation sides; its test side is dropped at once."""
    options = Preprocess(size=NETWORKS["edge"].size)
    slices = read_dataset(data, options, groups_csv=groups, boxes_csv=boxes)
    split = fold_splits(slices, 5, 1)[0]
    beside = read_partial_labels(partial, options, slices, groups_csv=partial_groups)
    mine = beside.take(divide(beside, slices, split, 1)[0])
    names = np.array(sorted(set(mine.slices.groups)))
    kept = set(np.random.default_rng(5).permutation(names)[: len(names) // 4].tolist())
    validation = np.array([group in kept for group in mine.slices.groups])
    return Sides(
        slices.take(split.train), slices.take(split.validation),
        mine.take(np.flatnonzero(~validation)), mine.take(np.flatnonzero(validation)), data,
    )  # fmt: skip


def measure(sides: Sides, recipe: Recipe, epochs: int, seed: int) -> dict[str, Any]:
    """Train one variant and measure its best epoch on the validation side."""
    begun = time.perf_counter()
    settings = TrainSettings(
        epochs=epochs, learning_rate=recipe.learning_rate, seed=seed, recipe=recipe
    )
    names = sides.training.class_names
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint")
        train(settings, make_samples(sides.training, sides.training_partial),
              make_samples(sides.validation), len(names), checkpoint)  # fmt: skip
        predict = predictor(checkpoint.best())
    minutes = (time.perf_counter() - begun) / 60
    validation = sides.validation
    by_class, truth = probabilities(predict(validation.images).logits), validation.labels
    predicted, tumour_free = by_class.argmax(axis=1), names.index(NO_TUMOR)
    tumor = truth != tumour_free
    typed = np.delete(by_class, tumour_free, axis=1).argmax(axis=1)
    typed += typed >= tumour_free
    kinds = [c for c in range(len(names)) if c != tumour_free]
    boxed = tumor & ~np.isnan(validation.boxes).any(axis=1)
    outside = predict(sides.validation_partial.slices.images).logits.argmax(axis=1) == tumour_free
    corrupted = _corrupted(sides, predict)
    right = np.maximum(by_class[np.arange(len(truth)), truth], 1e-7)
    return {
        "minutes": minutes,
        "accuracy": float((predicted == truth).mean()),
        "log_loss": float(-np.log(right).mean()),
        "types": float(np.mean([(typed == c)[boxed & (truth == c)].mean() for c in kinds])),
        "missed": float((predicted == tumour_free)[tumor].mean()),
        "alarms": float((predicted != tumour_free)[~tumor].mean()),
        "untyped": float(outside.mean()),
        "mean": float(np.mean(list(corrupted.values()))),
        "worst": min(corrupted.values()),
        "corruptions": corrupted,
        "recipe": asdict(recipe),
    }


def _corrupted(sides: Sides, predict: Any) -> dict[str, float]:
    archive, validation = open_archive(sides.archive), sides.validation
    options = Preprocess(size=validation.images.shape[1])
    grays = [decode(archive.read(path)) for path in validation.paths]
    hits = corruption_hits(predict, grays, validation.labels, options)
    return {name: float(hit.mean()) for name, hit in hits.items()}


def as_markdown(result: dict[str, Any]) -> str:
    """The table of research.md."""
    lines = [HEAD]
    for row in result["variants"]:
        cells = [row["changes"] or "none", str(row["epochs"]), f"{row['minutes']:.1f}"]
        cells += [
            f"{row[name]:.3f}" if name == "log_loss" else percent(row[name]) for name in COLUMNS
        ]
        lines.append(f"| {' | '.join(cells)} |")
    counts = f"{result['validation']} validation slices, {result['untyped']} untyped tumours"
    return "\n".join([*lines, "", f"{counts}; {result['training']} training slices.", ""])


@click.command()
@click.argument("data", type=EXISTING)
@click.option("--groups", type=EXISTING)
@click.option("--boxes", type=EXISTING)
@click.option("--partial", type=EXISTING, required=True)
@click.option("--partial-groups", type=EXISTING)
@click.option("--vary", "variants", multiple=True, default=("",), help="As in paste=0,erase=0.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@out_option
def main(
    data: Path, groups: Path | None, boxes: Path | None, partial: Path,
    partial_groups: Path | None, variants: tuple[str, ...], epochs: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """Train and measure variants of the recipe `robust` on DATA."""
    recipes = {changes: vary(changes) for changes in variants}
    sides = read_sides(data, groups, boxes, partial, partial_groups)
    for changes, recipe in recipes.items():
        row = {"changes": changes, "epochs": epochs, "seed": seed}
        row |= measure(sides, recipe, epochs, seed)
        # Read late: another process may have added its variants meanwhile.
        path = out / "recipes.json"
        before = json.loads(path.read_text("utf-8"))["variants"] if path.is_file() else []
        key = (changes, epochs, seed)
        rows = [b for b in before if (b["changes"], b["epochs"], b["seed"]) != key] + [row]
        result = {
            "training": len(sides.training),
            "validation": len(sides.validation),
            "untyped": len(sides.validation_partial),
            "variants": rows,
        }
        write_text(path, dump_json(result))
        write_text(out / "recipes.md", as_markdown(result))
        click.echo(as_markdown({**result, "variants": [row]}))


if __name__ == "__main__":
    run_command(main, "benchmarks.recipes", extra="train")

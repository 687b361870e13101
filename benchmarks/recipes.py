"""What each part of a recipe is worth, on slices that no training learned from and no figure tests.

    python -m benchmarks.recipes DATA... --vary "" --vary "paste=0,erase=0,patch=0" \\
        --vary partial_labels=0 --leave-out other --leave-out ms --folds 1,2,3,4,5 --seeds 1,2

Trains the recipe `robust` once for each --vary, with the fields it names changed, each of --folds
and each of --seeds. Folds are those of `btc-train DATA... --protocol grouped --folds 5`. A fold's
training learns from its training side and chooses its epoch by its validation side; what is
measured are the validation sides of all folds together, and a quarter of the groups of untyped
tumours that the fold may learn from. Its own test side is dropped when it is read. One fold alone
misleads: its validation side has some eighty groups of the main data set.

Slices of a source to --leave-out are on no side of any fold. All of them together, untyped tumours
too, are the unseen: a model of each fold sees them all, and the figures are means over the folds.
A source that chose a recipe is no longer one that it was never tried on.

What a training has reached lies in --work (its checkpoint, then its answers) until the row of its
variant and seed is kept: a command that was stopped goes on. With --ray [ADDRESS] the trainings are
tasks of Ray, on nodes that see DATA and --work under the same paths; the rows are those of the
command without it, if --threads is the same and the processors are of one kind.

Variants of former runs with the same data, folds, epochs and sources left out stay in recipes.json
and recipes.md. Columns:

    accuracy          four classes, validation sides
    cross-entropy     of the right class, validation sides
    types             of tumours with a box by the tumours' probabilities, mean over the types
    missed            tumours predicted notumor
    alarms            tumour-free slices predicted as a tumour
    untyped missed    untyped tumours predicted notumor
    corruptions       accuracy on corrupted validation slices: mean over all kinds, and the worst
    unseen            accuracy (untyped tumours aside), tumour-free slices right, tumours predicted
                      notumor, AUC of tumour against none, and tumour-free slices that pass at the
                      level at which 95 % of the tumours are found
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, out_option, ray_options
from benchmarks.robust import corruption_hits
from edge_runtime.cluster import Task, open_cluster
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.prediction import probabilities
from edge_runtime.errors import DataError, UsageError, one_line
from edge_runtime.files import replacing, write_text
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.labels import NO_TUMOR
from trainer.commands.options import LOCAL, Named, with_cards
from trainer.commands.terminal import say
from trainer.data.collection import Collection, open_data
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.npz import opened_npz
from trainer.data.partial_labels import PartialLabels, divide, read_partial_labels
from trainer.data.reading import read_again
from trainer.data.split import FOLDS, fold_splits
from trainer.evaluation.metrics import auc_of
from trainer.models.checkpoint import Checkpoint
from trainer.models.networks import NETWORKS
from trainer.models.outputs import Predict, predictor
from trainer.models.recipes import RECIPES, Recipe
from trainer.models.sampler import make_samples
from trainer.models.training import TrainSettings, train
from trainer.quiet import import_tensorflow
from trainer.report.html import percent
from trainer.run import dump_json
from trainer.spread import REMIND, THREADS, absolute_data, check_ray, memory_of, raise_first
from trainer.threads import use_threads
from trainer.train_job import Job

SPLIT_SEED = 1  # that of `btc-train`
FOUND = 0.95  # of the tumours, where specificity is read
NETWORK = "edge"
ANSWERS = "answers.npz"
TABLES = ("groups", "boxes", "partial", "partial_groups")
VALIDATION = ("accuracy", "log_loss", "types", "missed", "alarms", "untyped", "mean", "worst")
UNSEEN = ("accuracy", "tumour_free", "missed", "auc", "specificity")
NO_PERCENT = ("log_loss", "auc")
HEAD = (
    "| change to `robust` | folds | epochs | seeds | minutes | accuracy % | cross-entropy "
    "| types % | missed % | alarms % | untyped missed % | corruptions % | worst % "
    "| unseen: accuracy % | tumour-free % | missed % | AUC | specificity at 95 % |"
)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """Slices of known class, and beside them those partly known, or None."""

    typed: Dataset
    partial: PartialLabels | None


@dataclass(frozen=True)
class Fold:
    """What one training learns from, and what measures it."""

    training: Side
    validation: Side


@dataclass(frozen=True)
class Answers:
    """What a variant's model of one fold gives.

    Attributes:
        typed, untyped: N×C probabilities of the fold's validation side.
        labels, boxed: of the typed: N class indices, and whether a tumour's box is known.
        hits: for each corruption, whether each of the typed is predicted rightly.
        unseen: figures on what was left out.
        minutes: of training and asking, since it last went on.
    """

    typed: Floats
    untyped: Floats
    labels: npt.NDArray[np.int64]
    boxed: npt.NDArray[np.bool_]
    hits: Mapping[str, npt.NDArray[np.bool_]]
    unseen: Mapping[str, float | None]
    minutes: float = 0.0

    def save(self, path: Path, minutes: float) -> None:
        """Keep them, with the minutes that they took."""
        rest = json.dumps({"unseen": dict(self.unseen), "hits": [*self.hits], "minutes": minutes})
        with replacing(path) as part:
            np.savez(
                part,
                typed=self.typed,
                untyped=self.untyped,
                labels=self.labels,
                boxed=self.boxed,
                hits=np.array([*self.hits.values()], bool),
                rest=np.frombuffer(rest.encode(), np.uint8),
            )

    @classmethod
    def read(cls, path: Path) -> Answers:
        """What `save` kept.

        Raises:
            DataError: nothing readable there.
        """
        problem = f"no readable answers of a training in {path}; all nodes must see --work there"
        with opened_npz(path, problem) as file:
            rest = json.loads(file["rest"].tobytes())
            hits = dict(zip(rest["hits"], file["hits"], strict=True))
            return cls(
                file["typed"],
                file["untyped"],
                file["labels"],
                file["boxed"],
                hits,
                rest["unseen"],
                rest["minutes"],
            )


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
            made: Any = value if kind is str else kind(float(value))
        except ValueError:
            raise UsageError(f"{change!r}: {value!r} is no number") from None
        recipe = replace(recipe, **{name: made})
    return recipe


def read_sides(named: Named) -> Side:
    """All slices of DATA."""
    options, given = Preprocess(size=NETWORKS[NETWORK].size), named.options
    data = read_dataset(
        named.data,
        options,
        groups_csv=given["groups"],
        boxes_csv=given["boxes"],
        tumour_free=given["tumour_free"] or None,
    )
    partial = None
    if given["partial"]:
        tables = given["partial_groups"]
        partial = read_partial_labels(given["partial"], options, data, groups_csv=tables)
    return Side(data, partial)


def of_sources(side: Side, sources: Iterable[str]) -> Side:
    """The slices of some sources.

    Raises:
        UsageError: one of them is not there.
    """
    wanted, there = set(sources), set(side.typed.sources)
    if missing := sorted(wanted - there):
        raise UsageError(f"--leave-out {missing[0]}: the sources are {', '.join(sorted(there))}")
    return _among(side, lambda source, _: source in wanted)


def fold_of(everything: Side, number: int, left_out: Side) -> Fold:
    """A fold (from 1) without its test side, and without what is left out.

    Raises:
        UsageError: a class of which nothing is left to learn from or to measure.
    """
    data, partial = everything.typed, everything.partial
    split = fold_splits(data, FOLDS, SPLIT_SEED)[number - 1]
    sources, groups = set(left_out.typed.sources), set(left_out.typed.groups)

    def kept(source: str, group: str) -> bool:
        return source not in sources and group not in groups

    learned = measured = None
    if partial is not None:
        mine = partial.take(divide(partial, data, split, SPLIT_SEED)[0])
        names = sorted(set(mine.slices.groups))
        drawn = np.random.default_rng([5, number]).permutation(len(names))[: len(names) // 4]
        held = np.isin(mine.slices.groups, [names[i] for i in drawn])
        learned, measured = (mine.take(np.flatnonzero(rows)) for rows in (~held, held))
    training = _among(Side(data.take(split.train), learned), kept)
    validation = _among(Side(data.take(split.validation), measured), kept)
    for side in (training, validation):
        for c, name in enumerate(data.class_names):
            if not (side.typed.labels == c).any():
                raise UsageError(f"--leave-out: no {name} is left in fold {number}")
    return Fold(training, validation)


def _among(side: Side, kept: Callable[[str, str], bool]) -> Side:
    """The slices of which source and group are `kept`."""

    def rows(data: Dataset) -> npt.NDArray[np.int64]:
        both = zip(data.sources, data.groups, strict=True)
        return np.flatnonzero([kept(source, group) for source, group in both])

    partial = side.partial
    return Side(
        side.typed.take(rows(side.typed)),
        None if partial is None else partial.take(rows(partial.slices)),
    )


def fit(fold: Fold, recipe: Recipe, epochs: int, seed: int, folder: Path) -> Predict:
    """Train one variant on one fold, or go on from the checkpoint in `folder`; the model of its
    best epoch."""
    settings = TrainSettings(
        network=NETWORK,
        epochs=epochs,
        learning_rate=recipe.learning_rate,
        seed=seed,
        recipe=recipe,
    )
    checkpoint = Checkpoint(folder)
    train(
        settings,
        make_samples(fold.training.typed, fold.training.partial),
        make_samples(fold.validation.typed),
        len(fold.training.typed.class_names),
        checkpoint,
    )
    return predictor(checkpoint.best())


def ask(predict: Predict, fold: Fold, left_out: Side, corrupted: bool) -> Answers:
    """What a fold's model gives on its validation side and on what was left out."""
    data, partial = fold.validation.typed, fold.validation.partial
    hits: Mapping[str, npt.NDArray[np.bool_]] = {}
    if corrupted:
        options = Preprocess(size=data.images.shape[1])
        read = dict(read_again(open_data(data.origin or ""), data.paths))
        hits = corruption_hits(predict, [read[path] for path in data.paths], data.labels, options)
    classes, boxed = len(data.class_names), ~np.isnan(data.boxes).any(axis=1)
    return Answers(
        _probabilities(predict, data, classes),
        _probabilities(predict, None if partial is None else partial.slices, classes),
        data.labels,
        np.asarray(boxed),
        hits,
        unseen_figures(predict, left_out),
    )


def _probabilities(predict: Predict, data: Dataset | None, classes: int) -> Floats:
    """N×C; 0×C of no slices."""
    if data is None or not len(data):
        return np.zeros((0, classes))
    return probabilities(predict(data.images).logits)


def unseen_figures(predict: Predict, left_out: Side) -> dict[str, float | None]:
    """UNSEEN of the slices that were left out; None of what they do not show."""
    data, partial = left_out.typed, left_out.partial
    if not len(data):
        return dict.fromkeys(UNSEEN)
    none = data.class_names.index(NO_TUMOR)
    classes = len(data.class_names)
    typed = _probabilities(predict, data, classes)
    untyped = _probabilities(predict, None if partial is None else partial.slices, classes)
    rows = np.concatenate([typed, untyped])
    tumor = np.concatenate([data.labels != none, np.ones(len(untyped), bool)])
    scores, predicted = 1 - rows[:, none], rows.argmax(axis=1)
    area = auc_of(scores, tumor, [str(i) for i in range(len(tumor))])
    specificity = None
    if area is not None:
        level = np.quantile(scores[tumor], 1 - FOUND, method="lower")
        specificity = float((scores[~tumor] < level).mean())
    return {
        "accuracy": float((predicted[: len(typed)] == data.labels).mean()),
        "tumour_free": _share((predicted == none)[~tumor]),
        "missed": _share((predicted == none)[tumor]),
        "auc": None if area is None else area["auc"],
        "specificity": specificity,
    }


class Material(NamedTuple):
    """All slices, and those of them that no fold learns from."""

    everything: Side
    left_out: Side

    @property
    def digest(self) -> str:
        """Of the slices and of what the tables say of them, in hexadecimal digits."""
        partial = self.everything.partial
        sides = [self.everything.typed, *([] if partial is None else [partial.slices])]
        facts = [[side.sha256, sorted(side.tables.items())] for side in sides]
        left_out = sorted(set(self.left_out.typed.sources))
        return hashlib.sha256(json.dumps([facts, left_out]).encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """One training: a variant with a seed, on a fold of the material with a digest."""

    material: str
    changes: str
    seed: int
    number: int
    epochs: int
    corrupted: bool

    @property
    def key(self) -> str:
        """What a message calls it."""
        return f"{self.changes or 'robust'}, seed {self.seed}, fold {self.number}"

    def folder(self, work: Path) -> Path:
        """Where it lies."""
        facts = [*asdict(self).values(), asdict(vary(self.changes))]
        return work / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def measure(material: Material, trial: Trial, work: Path) -> None:
    """Train and measure one trial, or what is left of it; its answers are then in its folder.

    Raises:
        DataError: this machine sees other slices than the trial is of.
    """
    folder = trial.folder(work)
    if (folder / ANSWERS).is_file():
        return
    if material.digest != trial.material:
        raise DataError(f"{platform.node()} sees other slices under DATA than this machine")
    begun = time.perf_counter()
    fold = fold_of(material.everything, trial.number, material.left_out)
    checkpoint = folder / "checkpoint"
    predict = fit(fold, vary(trial.changes), trial.epochs, trial.seed, checkpoint)
    answers = ask(predict, fold, material.left_out, trial.corrupted)
    answers.save(folder / ANSWERS, (time.perf_counter() - begun) / 60)
    Checkpoint(checkpoint).remove()


def material_here(named: Named, leave_out: Sequence[str], threads: int) -> Material:
    """In a worker, once: the slices, and the process made one for trainings."""
    use_threads(threads)
    import_tensorflow(threads=threads)
    everything = read_sides(named)
    return Material(everything, of_sources(everything, leave_out))


def spread(
    trials: Sequence[Trial], work: Path, address: str, named: Named, leave_out: Sequence[str],
    threads: int, material: Material,
) -> Iterator[Trial]:  # fmt: skip
    """Measure trials as tasks of Ray; each that has ended, in the order in which they end.

    Raises:
        BtcError: what one failed with, after the others have ended.
    """
    partial = material.everything.partial
    count = len(material.everything.typed) + (0 if partial is None else len(partial))
    job = Job(Path(), work, preprocess=Preprocess(size=NETWORKS[NETWORK].size), threads=threads)
    options = {name: _travelling(value) for name, value in named.options.items()}
    there = named._replace(data=_travelling(named.data), options=options)
    by_key = {trial.key: trial for trial in trials}
    tasks = [Task(trial.key, (trial, work.absolute())) for trial in trials]
    failed: dict[str, Exception] = {}
    with open_cluster(
        None if address == LOCAL else address, None, cpus=threads,
        memory=memory_of(job, count), tell=say,
    ) as cluster:  # fmt: skip
        once = functools.partial(material_here, there, tuple(leave_out), threads)
        for done in cluster.run(
            measure, tasks, once=once, stalled_after=REMIND, give_up_after=math.inf, tell=say
        ):
            if done.error is None:
                say(f"{done.key}: measured")
                yield by_key[done.key]
            else:
                say(f"{done.key}: {one_line(done.error)}")
                failed[done.key] = done.error
    if failed:
        raise_first(failed)


def _travelling(value: Any) -> Any:
    """Paths, alone or of collections, as another process reads them."""
    if isinstance(value, Path):
        return value.absolute()
    collections = isinstance(value, tuple) and all(isinstance(each, Collection) for each in value)
    return absolute_data(value) if collections else value


def figures(answers: Sequence[Answers], class_names: Sequence[str]) -> dict[str, Any]:
    """VALIDATION over the validation sides of all folds, and the means of UNSEEN."""
    typed, untyped = (
        np.concatenate([getattr(a, k) for a in answers]) for k in ("typed", "untyped")
    )
    truth, boxed = (np.concatenate([getattr(a, k) for a in answers]) for k in ("labels", "boxed"))
    none = class_names.index(NO_TUMOR)
    predicted, tumor = typed.argmax(axis=1), truth != none
    kinds = [c for c in range(len(class_names)) if c != none]
    type_ = np.array(kinds)[typed[:, kinds].argmax(axis=1)]
    rights = [_share((type_ == c)[boxed & (truth == c)]) for c in kinds]
    known = [right for right in rights if right is not None]
    hits = {n: np.concatenate([a.hits[n] for a in answers]) for n in answers[0].hits}
    corrupted = {name: float(hit.mean()) for name, hit in hits.items()}
    right = np.maximum(typed[np.arange(len(truth)), truth], 1e-7)
    return {
        "validation": len(truth),
        "untyped_tumors": len(untyped),
        "accuracy": float((predicted == truth).mean()),
        "log_loss": float(-np.log(right).mean()),
        "types": float(np.mean(known)) if known else None,
        "missed": _share((predicted == none)[tumor]),
        "alarms": _share((predicted != none)[~tumor]),
        "untyped": _share(untyped.argmax(axis=1) == none),
        "mean": float(np.mean(list(corrupted.values()))) if corrupted else None,
        "worst": min(corrupted.values(), default=None),
        "corruptions": corrupted,
        "unseen": {key: _mean([a.unseen[key] for a in answers]) for key in UNSEEN},
    }


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def as_markdown(result: dict[str, Any]) -> str:
    """The table of research.md: a variant a row, the mean over its seeds, ± their standard
    deviation."""
    lines = [HEAD, f"|{'---|' * 2}{'--:|' * (HEAD.count('|') - 3)}"]
    together: dict[str, list[dict[str, Any]]] = {}
    for row in result["variants"]:
        together.setdefault(str([row[key] for key in KEY if key != "seed"]), []).append(row)
    for rows in together.values():
        first = rows[0]
        left_out = f" (without {', '.join(first['left_out'])})" if first["left_out"] else ""
        cells = [
            (first["changes"] or "none") + left_out,
            ", ".join(map(str, first["folds"])),
            str(first["epochs"]),
            ", ".join(str(row["seed"]) for row in rows),
            f"{np.mean([row['minutes'] for row in rows]):.1f}",
        ]
        cells += [_cell(name, [row[name] for row in rows]) for name in VALIDATION]
        cells += [_cell(name, [row["unseen"][name] for row in rows]) for name in UNSEEN]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(name: str, values: Sequence[float | None]) -> str:
    mean, known = _mean(values), [value for value in values if value is not None]
    if mean is None:
        return "–"
    plain = name in NO_PERCENT
    words = f"{mean:.3f}" if plain else percent(mean)
    if len(known) > 1:
        spread = float(np.std(known, ddof=1))
        words += f" ±{spread:.3f}" if plain else f" ±{100 * spread:.1f}"
    return words


# What makes a kept result another one's.
KEY = ("data", "changes", "folds", "left_out", "epochs", "seed")


def keep(out: Path, row: dict[str, Any]) -> None:
    """Add a row to recipes.json and recipes.md in the place of one of the same KEY."""
    path = out / "recipes.json"  # read late: another process may have added its variants meanwhile
    before = json.loads(path.read_text("utf-8"))["variants"] if path.is_file() else []
    rows = [b for b in before if any(b[key] != row[key] for key in KEY)] + [row]
    result = {"variants": sorted(rows, key=lambda each: [each[key] for key in KEY])}
    write_text(path, dump_json(result))
    write_text(out / "recipes.md", as_markdown(result))
    click.echo(as_markdown({"variants": [row]}))


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers, as 1,2") from None
    if numbers[0] < 1 or (option.name == "folds" and numbers[-1] > FOLDS):
        raise click.BadParameter(f"{value!r}: numbers begin with 1, and there are {FOLDS} folds")
    return numbers


@click.command()
@click.argument("data", nargs=-1, required=True, type=EXISTING)
@click.option("--groups", type=EXISTING)
@click.option("--boxes", type=EXISTING)
@click.option("--partial", type=EXISTING)
@click.option("--partial-groups", type=EXISTING)
@click.option("--no-card", is_flag=True, help="Pass over the cards of DATA.")
@click.option("--vary", "variants", multiple=True, default=("",), help="As in paste=0,erase=0.")
@click.option("--folds", callback=_numbers, default="1,2,3,4,5", show_default=True)
@click.option("--leave-out", multiple=True, help="A source that no fold learns from.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seeds", callback=_numbers, default="1", show_default=True)
@click.option("--skip-corruptions", is_flag=True)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/recipes"),
    show_default=True,
    help="Folder of what is not in a row yet.",
)
@ray_options
@out_option
def main(
    data: tuple[Path, ...], no_card: bool, variants: tuple[str, ...], folds: list[int],
    leave_out: tuple[str, ...], epochs: int, seeds: list[int], skip_corruptions: bool, out: Path,
    work: Path, ray: str | None, threads: int | None, **tables: Path | None,
) -> None:  # fmt: skip
    """Train and measure variants of the recipe `robust` on DATA."""
    for changes in variants:
        vary(changes)
    if ray is not None:
        check_ray()
    options = {"no_card": no_card, "tumour_free": (), **tables}
    named = with_cards(data, options, (*TABLES, "tumour_free"))
    everything = read_sides(named)
    material = Material(everything, of_sources(everything, leave_out))
    for number in folds:  # what is to be refused is refused before hours of training
        fold_of(everything, number, material.left_out)
    trials = [
        Trial(material.digest, changes, seed, number, epochs, not skip_corruptions)
        for changes in dict.fromkeys(variants)
        for seed in seeds
        for number in folds
    ]
    if ray is not None:
        ended = spread(trials, work, ray, named, leave_out, threads or THREADS, material)
    else:
        ended = in_series(trials, work, threads, material)
    rows: dict[tuple[str, int], list[Trial]] = {}
    for trial in ended:
        mine = rows.setdefault((trial.changes, trial.seed), [])
        mine.append(trial)
        if len(mine) == len(folds):
            row = {
                "data": everything.typed.sha256,
                "changes": trial.changes,
                "folds": folds,
                "left_out": sorted(set(leave_out)),
                "epochs": epochs,
                "seed": trial.seed,
                "recipe": asdict(vary(trial.changes)),
            }
            keep_row(out, work, row, mine, everything.typed.class_names)


def in_series(
    trials: Sequence[Trial], work: Path, threads: int | None, material: Material
) -> Iterator[Trial]:
    """Measure trials one after the other; each that has ended."""
    if threads is not None:
        use_threads(threads)
        import_tensorflow(threads=threads)
    for trial in trials:
        measure(material, trial, work)
        yield trial


def keep_row(
    out: Path, work: Path, row: dict[str, Any], trials: Sequence[Trial], class_names: Sequence[str]
) -> None:
    """Keep the row of a variant and a seed, whose folds have all ended."""
    folders = [t.folder(work) for t in sorted(trials, key=lambda trial: trial.number)]
    answers = [Answers.read(folder / ANSWERS) for folder in folders]
    row["minutes"] = sum(each.minutes for each in answers)
    keep(out, row | figures(answers, class_names))
    for folder in folders:
        (folder / ANSWERS).unlink()
        with suppress(OSError):  # what a kill has left half written
            folder.rmdir()


if __name__ == "__main__":
    from benchmarks.recipes import main as command  # a task is sent by its module's name

    run_command(command, "benchmarks.recipes", extra="train")

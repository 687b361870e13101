"""How a recipe holds up: on unseen groups, on sources that it never saw, under corruptions.

    python -m benchmarks.robust FOLDS DATA... --source RUN --source RUN --official RUN \\
        --heads ZIP --out benchmarks/results

FOLDS is a finished group cross-validation on DATA. Each --source is a finished training with
`--protocol source:NAME`, --official one on the Testing folder. The figures come from their
predictions; three things need more: the area under the ROC curve of a source with one side only
looks at the run's validation side, for the corruptions each fold's network sees its own test
slices again, changed, and --heads are volumes. Where each fold holds an exported int8 file
(`btc-export FOLDS/fold-1 --int8`, …), that is measured too. Writes robust.json, robust.md, and
answers.md with the thresholds of each run and what they gave.

DATA may be left out: then nothing is said of corruptions, int8 files and sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, named_data, out_option, publish
from benchmarks.common.formatting import accuracy_of, rate_in_words
from benchmarks.common.heads import heads_table, measure_heads
from benchmarks.common.sides import (
    partial_of,
    predictions_of,
    side_figures,
    sides_table,
    validation_scores,
)
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_text
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.labels import NO_TUMOR
from edge_runtime.model.load import read_model
from trainer.commands.options import Named
from trainer.data.archive import ImageArchive
from trainer.data.collection import collections_of, open_data
from trainer.data.groups import read_group_tables
from trainer.data.reading import read_again
from trainer.data.split import SOURCE
from trainer.evaluation.intervals import difference_interval
from trainer.evaluation.metrics import compute_metrics, share_of, study_probabilities
from trainer.evaluation.partial_predictions import partial_metrics
from trainer.evaluation.predictions import Predictions
from trainer.models.outputs import ModelOutputs, open_trained, predict_file
from trainer.models.training import TrainSettings
from trainer.report.html import percent
from trainer.run import CNN, Run
from trainer.synthetic.corruptions import CORRUPTIONS

TUMORS = ("glioma", "meningioma", "pituitary")
TYPED_SOURCE = "cheng"
MAIN = (TYPED_SOURCE, "br35h", "other")  # the sources of the Brain Tumor MRI Dataset
ALL = "all"
Rate = dict[str, Any]


def of_sources(predictions: Predictions, sources: Sequence[str]) -> Predictions:
    """The slices of some sources; all where no source is known.

    Raises:
        UsageError: none of these sources is there.
    """
    there = predictions.texts("source")
    if not any(there):
        return predictions
    kept = np.array([source in sources for source in there])
    if not kept.any():
        known = ", ".join(sorted(set(there) - {""})) or "none"
        raise UsageError(
            f"no slice of {', '.join(sources)}: name the --main sources out of {known}"
        )
    return predictions.take(kept, f"{predictions.protocol}, slices of {', '.join(sources)}")


def four_classes(predictions: Predictions) -> dict[str, Rate | None]:
    """Accuracy per slice and per study, beside it the balanced one; and per slice without those of
    doubted label, where there are any."""
    groups = predictions.texts("group")
    studies = study_probabilities(
        predictions.probabilities, predictions.labels, predictions.texts("patient"), groups
    )

    def rate(p: Any, y: Any, g: Sequence[str]) -> Rate:
        names = predictions.class_names
        made = compute_metrics(p, y, names, g, protocol=predictions.protocol, split="test")
        return accuracy_of(made)

    certain = predictions.take(predictions.numbers("doubtful") == 0, predictions.protocol)
    some = 0 < len(certain.table) < len(predictions.table)
    return {
        "slices": rate(predictions.probabilities, predictions.labels, groups),
        "studies": None if studies is None else rate(*studies),
        "certain": rate(certain.probabilities, certain.labels, certain.texts("group"))
        if some
        else None,
    }


def tumor_types(predictions: Predictions) -> dict[str, Rate | None]:
    """Three classes on the tumour slices of one source, by the tumours' probabilities alone."""
    kept = np.array([s == TYPED_SOURCE for s in predictions.texts("source")])
    if not kept.any():
        return {"slices": None, "studies": None}
    part = predictions.take(kept, f"{predictions.protocol}, tumour slices of {TYPED_SOURCE}")
    probabilities = part.probabilities[:, [part.class_names.index(name) for name in TUMORS]]
    probabilities = np.maximum(probabilities, 1e-9)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = np.array([TUMORS.index(name) for name in part.texts("label")])
    groups = part.texts("group")
    studies = study_probabilities(probabilities, labels, part.texts("patient"), groups)

    def balanced(p: Any, y: Any, g: Sequence[str]) -> Rate:
        made = compute_metrics(p, y, TUMORS, g, protocol=part.protocol, split="test")
        return {"n": made["n"], "share": made["balanced_accuracy"],
                "interval95": made["interval95"]["balanced_accuracy"]}  # fmt: skip

    return {
        "slices": balanced(probabilities, labels, groups),
        "studies": None if studies is None else balanced(*studies),
    }


def by_source(predictions: Predictions, partial: Any) -> dict[str, Any]:
    """The figures of each source of a cross-validation, and of all together."""
    sources = np.array(predictions.texts("source"))
    each = {
        name: side_figures(
            predictions.take(sources == name, f"{predictions.protocol}, slices of {name}"),
            None if partial is None else partial[partial["source"] == name],
        )
        for name in sorted(set(sources.tolist()) - {""})
    }
    return each | {ALL: side_figures(predictions, partial)} if len(each) > 1 else each


def left_out(run: Run) -> tuple[str, dict[str, Any]]:
    """The source that a run was trained without, and its figures.

    Raises:
        UsageError: the run was tested on something else.
    """
    protocol = run.settings["protocol"]
    if not protocol.startswith(SOURCE):
        raise UsageError(f"--source {run.folder}: its protocol is {protocol}, not {SOURCE}NAME")
    name, predictions, partial = protocol.removeprefix(SOURCE), predictions_of(run), partial_of(run)
    untyped = None if partial is None else partial[partial["source"] == name]
    figures = side_figures(predictions, untyped)
    if figures["auc"] is None:  # one side only
        figures = side_figures(predictions, untyped, validation_scores(run))
    return name, figures


def sequences(tests: Mapping[str, Predictions], named: Named) -> list[dict[str, Any]]:
    """For each sequence that a table of DATA names, what is said of its slices.

    Args:
        tests: the predictions by what was tested.
    """
    collections, rows = collections_of(named.data), []
    for tested, predictions in tests.items():
        paths = predictions.texts("path")
        said, _ = read_group_tables(collections, paths, named.options["groups"])
        column = np.array([said.get(path, {}).get("sequence", "") for path in paths])
        none = np.array(predictions.texts("predicted")) == NO_TUMOR
        answered = np.array(predictions.texts("status")) == "ok"
        tumor = np.array(predictions.texts("label")) != NO_TUMOR
        groups = np.array(predictions.texts("group"))
        for sequence in sorted(set(column.tolist()) - {""}):
            for shows in sorted(set(tumor[column == sequence].tolist())):
                here = (column == sequence) & (tumor == shows)
                owners = groups[here].tolist()
                rows.append(
                    {
                        "tested": tested,
                        "sequence": sequence,
                        "tumor": shows,
                        "predicted_tumour_free": share_of(none[here], owners),
                        "answered_tumour_free": share_of((none & answered)[here], owners),
                        "answered_tumor": share_of((~none & answered)[here], owners),
                    }
                )
    return rows


def corruption_hits(
    predict: Callable[[npt.NDArray[np.uint8]], ModelOutputs],
    grays: Sequence[npt.NDArray[np.uint8]],
    labels: npt.NDArray[np.int64],
    options: Preprocess,
) -> dict[str, npt.NDArray[np.bool_]]:
    """For each corruption, which of the slices (whole pictures) are predicted rightly."""
    hits = {}
    for name, (_, change) in CORRUPTIONS.items():
        images = np.stack([preprocess(change(gray), options) for gray in grays])
        hits[name] = predict(images).logits.argmax(axis=1) == labels
    return hits


def fold_hits(
    run: Run, predictions: Predictions, archive: ImageArchive, corrupted: bool
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which slices a fold's network predicts rightly: `clean`, for each corruption where they are
    wanted, and `int8` where the run holds such a file.

    Raises:
        DataError: a slice that is not in the archive.
    """
    paths, labels, options = predictions.texts("path"), predictions.labels, run.preprocess
    read = dict(read_again(archive, paths))
    for path in paths:
        if path not in read:
            raise DataError(f"{path} is not in DATA: name all that {run.folder} was trained on")
    grays = [read[path] for path in paths]
    predict = open_trained(run).predict
    images = np.stack([preprocess(gray, options) for gray in grays])
    hits = {"clean": predict(images).logits.argmax(axis=1) == labels}
    if corrupted:
        hits |= corruption_hits(predict, grays, labels, options)
    exported = sorted((run.folder / "export").glob("*-int8.tflite"))
    if exported:
        predicted = predict_file(read_model(exported[0]), images).logits.argmax(axis=1)
        hits["int8"] = predicted == labels
    return hits


def seen_again(
    folds: Sequence[tuple[Run, Predictions]], archive: ImageArchive, corrupted: bool
) -> dict[str, Any]:
    """`clean`, `corruptions` and their mean, and `int8`; None of what was not measured."""
    each = [fold_hits(run, predictions, archive, corrupted) for run, predictions in folds]
    groups = [g for _, predictions in folds for g in predictions.texts("group")]
    names = [name for name in each[0] if all(name in hits for hits in each)]
    hits = {name: np.concatenate([fold[name] for fold in each]) for name in names}
    rates = {name: share_of(hit, groups) for name, hit in hits.items()}
    clean, int8 = rates.pop("clean"), rates.pop("int8", None)
    if int8 is not None:
        difference = hits["int8"].astype(float) - hits["clean"]
        int8["less_float"] = {
            "n": len(difference),
            "share": float(difference.mean()),
            "interval95": difference_interval(difference, groups),
        }
    return {
        "clean": clean,
        "corruptions": {
            name: {"strength": CORRUPTIONS[name][0], **rate} for name, rate in rates.items()
        }
        or None,
        "corruptions_mean": float(np.mean([rate["share"] for rate in rates.values()]))
        if rates
        else None,
        "int8": int8,
    }


def measure(
    folds: Run,
    sources: Sequence[Run],
    official: Run | None,
    main: Sequence[str],
    named: Named | None,
    corrupted: bool,
    heads: tuple[Path, Path] | None,
) -> dict[str, Any]:
    """Every figure of robust.json.

    Args:
        main: the sources of the main data set.
        named: DATA with its tables, or None.
        corrupted: whether corruptions are measured on it.
        heads: whole heads and their table, or None.

    Raises:
        UsageError: `folds` is no cross-validation, or a run is of another protocol. DataError: a
            run is not finished.
    """
    if not folds.settings.get("folds"):
        raise UsageError(
            f"FOLDS {folds.folder} is no cross-validation: btc-train --protocol grouped --folds 5"
        )
    pooled, partial = predictions_of(folds), partial_of(folds)
    of_main = of_sources(pooled, main)
    parts = [(part, predictions_of(part)) for part in map(Run.open, folds.model_folders)]
    tests = {"folds": pooled}
    tests |= {run.settings["protocol"]: predictions_of(run) for run in sources}
    nothing = dict.fromkeys(("clean", "corruptions", "corruptions_mean", "int8"))
    again = nothing if named is None else seen_again(
        [(part, of_sources(own, main)) for part, own in parts], open_data(named.data), corrupted
    )  # fmt: skip
    answers = {"all folds": folds}
    answers |= {part.folder.name.replace("-", " "): part for part, _ in parts}
    answers |= {run.settings["protocol"]: run for run in sources}
    return {
        "recipe": recipe_of(folds),
        "folds": len(parts),
        "main": list(main),
        "others": sorted(set(pooled.texts("source")) - {"", *main}),
        "grouped": four_classes(of_main),
        "tumor_types": tumor_types(of_main),
        "partial": None if partial is None else partial_metrics(partial),
        "by_source": by_source(pooled, partial),
        "left_out": dict(map(left_out, sources)),
        "sequences": None if named is None else sequences(tests, named),
        **again,
        "heads": None if heads is None else measure_heads(*heads, parts),
        "official": None if official is None else accuracy_of(official.metrics()),
        "answers": {tested: answers_of(run) for tested, run in answers.items()},
    }


def recipe_of(run: Run) -> dict[str, Any]:
    """What a run's figures belong to: its network and recipe, or its classical model; not for how
    long it was trained, nor on what."""
    training = run.settings["training"]
    if run.kind == CNN:
        settings = TrainSettings.from_json(training)  # with what a former version did not say
        own = {"network": settings.network, **asdict(settings.recipe)}
    else:
        own = {key: training[key] for key in ("model", "features")}
    return {"preprocess": run.preprocess.to_json(), **own}


def answers_of(run: Run) -> dict[str, Any]:
    """What a run's thresholds were chosen for, and what they gave on its test side: of each class,
    and of all. The folds together have no thresholds of their own."""
    settings, given = run.settings, run.metrics()["selective"]
    targets, bounds = settings.get("target_error") or {}, settings.get("error_bound") or {}
    return {
        "all": {key: given[key] for key in ("coverage", "error")},
        "classes": {
            label: {"target": targets.get(label), "bound": bounds.get(label), **rates}
            for label, rates in given["per_class"].items()
        },
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    tables = [
        _overall(result),
        _left_out(result["left_out"]),
        _by_source(result),
        _corruptions(result),
        _sequences(result["sequences"]),
        [] if result["heads"] is None else [*heads_table(result["heads"]), "", HEADS],
    ]
    return "\n\n".join("\n".join(lines) for lines in tables if lines) + "\n"


def _overall(result: dict[str, Any]) -> list[str]:
    grouped, types, int8 = result["grouped"], result["tumor_types"], result["int8"]
    partial, corruptions = result["partial"] or {}, result["corruptions"] or {}
    rows: list[tuple[str, Rate | None]] = [
        (f"{result['folds']} folds of groups, 4 classes, per slice", grouped["slices"]),
        ("the same, per study", grouped["studies"]),
        ("per slice, without slices of doubted label", grouped.get("certain")),
        (f"tumour type on the tumours of `{TYPED_SOURCE}`, balanced, per slice", types["slices"]),
        ("the same, per study", types["studies"]),
        ("untyped tumours of unseen groups predicted notumor", partial.get("outside")),
        ("… and answered", partial.get("outside_answered")),
    ]
    for name, side in result["left_out"].items():
        rows.append((f"trained without `{name}`, tested on it", side["right"]))
        rows.append(("… wrong and answered", side["wrong_answered"]))
    if corruptions:
        worst = min(corruptions, key=lambda name: corruptions[name]["share"])
        strength = corruptions[worst]["strength"]
        rows.append((f"worst corruption ({worst}: {strength})", corruptions[worst]))
    rows.append(("int8 files on the same slices", int8))
    lines = ["| measured on | n | % (95 % interval) |", "|---|--:|--:|"]
    lines += [f"| {name} | {f['n']} | {rate_in_words(f)} |" for name, f in rows if f]
    if int8 is not None:
        words = rate_in_words(int8["less_float"], signed=True)
        lines.append(f"| … less those of float32, points | {int8['n']} | {words} |")
    if result["official"]:
        official = result["official"]
        words = rate_in_words(official)
        lines.append(f"| official Testing folder, which leaks | {official['n']} | {words} |")
    if result["others"]:
        main = ", ".join(f"`{name}`" for name in result["main"])
        lines += ["", f"Slices of {main}; the trainings learned from other sources too."]
    return lines


def _left_out(found: Mapping[str, dict[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = sides_table(found, "trained without, tested on it, %")
    borrowed = [f"`{name}` {side['borrowed']}" for name, side in found.items() if side["borrowed"]]
    if borrowed:
        lines += ["", BORROWED.format(borrowed=", ".join(borrowed))]
    return lines


def _by_source(result: dict[str, Any]) -> list[str]:
    head, found = f"{result['folds']} folds of groups, by source, %", result["by_source"]
    return sides_table(found, head) if len(found) > 1 else []


def _corruptions(result: dict[str, Any]) -> list[str]:
    if result["corruptions"] is None:
        return ["Corruptions of the test folds were not measured."]
    lines = ["| corruption of the test folds | strength | accuracy % |", "|---|---|--:|",
             f"| none | | {rate_in_words(result['clean'])} |"]  # fmt: skip
    lines += [
        f"| {n} | {f['strength']} | {rate_in_words(f)} |" for n, f in result["corruptions"].items()
    ]
    return [*lines, f"| mean | | {percent(result['corruptions_mean'])} |"]


def _sequences(rows: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if not rows:
        return []
    lines = [
        "| sequence | tested by | slices | show | predicted notumor % | answered notumor % "
        "| answered as a tumour % |",
        "|---|---|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        cells = [row["sequence"], row["tested"], f"{row['predicted_tumour_free']['n']:,}"]
        cells.append("a tumour" if row["tumor"] else "none")
        said = ("predicted_tumour_free", "answered_tumour_free", "answered_tumor")
        lines.append(f"| {' | '.join([*cells, *(rate_in_words(row[key]) for key in said)])} |")
    return lines


BORROWED = (
    "A source of which all slices have a tumour, or none, borrows the other side of its AUC from "
    "the run's validation side: {borrowed}. Those are of other sources, and were not learned from; "
    "they chose the epoch, the temperature and the thresholds."
)
HEADS = (
    "Each head by the fold that was tested on that person, and by the first fold where the person "
    "is not in the data; slices without a head are left out."
)


def answers_markdown(answers: dict[str, Any]) -> str:
    """The table of thresholds: what was asked for, what the validation side supports, what came."""
    lines = ["| tested | predicted | asked for % | supported % | answered % | wrong % |",
             "|---|---|--:|--:|--:|--:|"]  # fmt: skip
    for tested, found in answers.items():
        rows = found["classes"] | {"all": found["all"]}
        for label, row in rows.items():
            asked = [percent(row.get(key)) for key in ("target", "bound")]
            cells = [rate_in_words(row[key]) for key in ("coverage", "error")]
            lines.append(f"| {' | '.join([tested, label, *asked, *cells])} |")
    return "\n".join([*lines, ""])


@click.command()
@click.argument("folds", type=EXISTING)
@click.argument("data", nargs=-1, type=EXISTING)
@click.option("--source", "sources", multiple=True, type=EXISTING, help="A run of source:NAME.")
@click.option("--official", type=EXISTING, help="A run of the official protocol.")
@click.option(
    "--main",
    multiple=True,
    default=MAIN,
    show_default=True,
    help="A source of the main data set: the overall figures and corruptions are of their slices.",
)
@click.option("--skip-corruptions", is_flag=True, help="They take the most time.")
@click.option("--heads", type=EXISTING, help="Zip or folder of whole heads.")
@click.option("--heads-table", type=EXISTING, help="Their CSV; default: beside or in them.")
@click.option("--no-card", is_flag=True, help="Pass over the cards of DATA.")
@out_option
def main(
    folds: Path, data: tuple[Path, ...], sources: tuple[Path, ...], official: Path | None,
    main: tuple[str, ...], skip_corruptions: bool, heads: Path | None, heads_table: Path | None,
    no_card: bool, out: Path,
) -> None:  # fmt: skip
    """Measure the recipe of finished runs: of FOLDS, and of each that an option names."""
    named = named_data(data, no_card) if data else None
    result = measure(
        Run.open(folds),
        [Run.open(run) for run in sources],
        None if official is None else Run.open(official),
        main,
        named,
        not skip_corruptions,
        None if heads is None else (heads, heads_table or table_beside(heads)),
    )
    publish(out, "robust", result, as_markdown(result))
    write_text(out / "answers.md", answers_markdown(result["answers"]))


def table_beside(heads: Path) -> Path:
    """The table of whole heads: heads.csv in their folder, NAME.csv beside NAME.zip."""
    return heads / "heads.csv" if heads.is_dir() else heads.with_suffix(".csv")


if __name__ == "__main__":
    run_command(main, "benchmarks.robust", extra="train")

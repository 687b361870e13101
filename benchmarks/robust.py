"""How a recipe holds up: on unseen groups, under corruptions, on a source that it never saw.

    python -m benchmarks.robust FOLDS SOURCE OFFICIAL DATA --out benchmarks/results

FOLDS is a finished group cross-validation, SOURCE a finished training with `--protocol
source:NAME`, OFFICIAL one on the Testing folder. The figures come from their predictions; for the
corruptions each fold's network sees its own test slices again, changed. Where a fold holds an
exported int8 file (`btc-export FOLDS/fold-1 --int8`, …), that is measured too. Writes robust.json,
robust.md, and answers.md with the thresholds of each run and what they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import accuracy_of, rate_in_words
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.labels import NO_TUMOR
from edge_runtime.model.load import read_model
from trainer.data.archive import ImageArchive, open_archive
from trainer.evaluation.intervals import difference_interval
from trainer.evaluation.metrics import compute_metrics, share_of, study_probabilities
from trainer.evaluation.predictions import Predictions, read_predictions
from trainer.models.outputs import ModelOutputs, open_trained, predict_file
from trainer.report.html import percent
from trainer.run import Run
from trainer.synthetic.corruptions import CORRUPTIONS

TUMORS = ("glioma", "meningioma", "pituitary")
TYPED_SOURCE = "cheng"
Rate = dict[str, Any]


def predictions_of(run: Run) -> Predictions:
    """A run's predictions on its test side."""
    return read_predictions(
        run.folder / "predictions.csv", run.labels, run.settings["protocol"], "test"
    )


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


def confident_errors(predictions: Predictions) -> dict[str, Rate]:
    """What is answered, wrong and answered, and tumours answered as tumour-free."""
    groups = predictions.texts("group")
    answered = np.array(predictions.texts("status")) == "ok"
    truth = np.array(predictions.texts("label"))
    predicted = np.array(predictions.texts("predicted"))
    tumor = truth != NO_TUMOR
    among = [g for g, t in zip(groups, tumor, strict=True) if t]
    return {
        "answered": share_of(answered, groups),
        "wrong_answered": share_of(answered & (truth != predicted), groups),
        "tumors_predicted_tumour_free": share_of((predicted == NO_TUMOR)[tumor], among),
        "tumors_answered_tumour_free": share_of((answered & (predicted == NO_TUMOR))[tumor], among),
    }


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


def corrupted_fold(run: Run, archive: ImageArchive) -> dict[str, npt.NDArray[np.bool_]]:
    """For each corruption, and `clean`, which of a run's test slices are predicted rightly;
    `int8` too where the run holds such a file."""
    predictions, options = predictions_of(run), run.preprocess
    grays = [decode(archive.read(path)) for path in predictions.texts("path")]
    predict, labels = open_trained(run).predict, predictions.labels
    images = np.stack([preprocess(gray, options) for gray in grays])
    hits = {"clean": predict(images).logits.argmax(axis=1) == labels}
    hits |= corruption_hits(predict, grays, labels, options)
    exported = sorted((run.folder / "export").glob("*-int8.tflite"))
    if exported:
        predicted = predict_file(read_model(exported[0]), images).logits.argmax(axis=1)
        hits["int8"] = predicted == labels
    return hits


def measure(folds: Run, shift: Run, official: Run, archive: ImageArchive) -> dict[str, Any]:
    """Every figure of robust.json.

    Raises:
        UsageError: `folds` is no cross-validation. DataError: a run is not finished.
    """
    if not folds.settings.get("folds"):
        raise UsageError(
            f"FOLDS {folds.folder} is no cross-validation: btc-train --protocol grouped --folds 5"
        )
    studies = folds.metrics()["per_study"]
    pooled, moved = predictions_of(folds), predictions_of(shift)
    parts = [Run.open(folder) for folder in folds.model_folders]
    each = [corrupted_fold(part, archive) for part in parts]
    groups = [g for part in parts for g in predictions_of(part).texts("group")]
    names = [name for name in each[0] if all(name in hits for hits in each)]
    hits = {name: np.concatenate([fold[name] for fold in each]) for name in names}
    corrupted = {name: share_of(hit, groups) for name, hit in hits.items()}
    int8 = corrupted.pop("int8", None)
    if int8 is not None:
        difference = hits["int8"].astype(float) - hits["clean"]
        int8["less_float"] = {
            "n": len(difference),
            "share": float(difference.mean()),
            "interval95": difference_interval(difference, groups),
        }
    clean = corrupted.pop("clean")
    return {
        "grouped": accuracy_of(folds.metrics()),
        "grouped_studies": accuracy_of(studies) if studies else None,
        "tumor_types": tumor_types(pooled),
        "shift": {"protocol": shift.settings["protocol"]} | accuracy_of(shift.metrics()),
        "partial": folds.metrics()["partial"],
        "partial_shift": shift.metrics()["partial"],
        "confident_grouped": confident_errors(pooled),
        "confident_shift": confident_errors(moved),
        "clean": clean,
        "corruptions": {
            name: {"strength": CORRUPTIONS[name][0], **f} for name, f in corrupted.items()
        },
        "corruptions_mean": float(np.mean([f["share"] for f in corrupted.values()])),
        "int8": int8,
        "official": accuracy_of(official.metrics()),
        "answers": {
            "all folds": answers_of(folds),
            **{part.folder.name.replace("-", " "): answers_of(part) for part in parts},
            shift.settings["protocol"]: answers_of(shift),
        },
    }


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
    shift = result["shift"]["protocol"].removeprefix("source:")
    worst = min(result["corruptions"], key=lambda name: result["corruptions"][name]["share"])
    moved, types = result["confident_shift"], result["tumor_types"]
    rows: list[tuple[str, Rate | None]] = [
        ("5 folds of groups, 4 classes, per slice", result["grouped"]),
        ("the same, per study", result["grouped_studies"]),
        ("tumour type on the tumours of `cheng`, balanced, per slice", types["slices"]),
        ("the same, per study", types["studies"]),
        (f"trained without `{shift}`, tested on it", result["shift"]),
        (f"… slices of `{shift}` that get an answer", moved["answered"]),
        ("… wrong and answered", moved["wrong_answered"]),
        ("… tumours predicted notumor", moved["tumors_predicted_tumour_free"]),
        ("… tumours predicted notumor and answered", moved["tumors_answered_tumour_free"]),
        ("untyped tumours of unseen groups predicted notumor", _part(result, "outside")),
        ("… and answered", _part(result, "outside_answered")),
        (
            f"worst corruption ({worst}: {result['corruptions'][worst]['strength']})",
            result["corruptions"][worst],
        ),
        ("int8 files on the same slices", result["int8"]),
        ("official Testing folder, which leaks", result["official"]),
    ]
    lines = ["| measured on | n | % (95 % interval) |", "|---|--:|--:|"]
    lines += [f"| {name} | {f['n']} | {rate_in_words(f)} |" for name, f in rows if f]
    lines += ["", "| corruption of the test folds | strength | accuracy % |", "|---|---|--:|",
              f"| none | | {rate_in_words(result['clean'])} |"]  # fmt: skip
    lines += [
        f"| {n} | {f['strength']} | {rate_in_words(f)} |" for n, f in result["corruptions"].items()
    ]
    return "\n".join([*lines, f"| mean | | {percent(result['corruptions_mean'])} |", ""])


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


def _part(result: dict[str, Any], key: str) -> Rate | None:
    return result["partial"][key] if result["partial"] else None


@click.command()
@click.argument("folds", type=EXISTING)
@click.argument("shift", type=EXISTING)
@click.argument("official", type=EXISTING)
@click.argument("data", type=EXISTING)
@out_option
def main(folds: Path, shift: Path, official: Path, data: Path, out: Path) -> None:
    """Measure the recipe of three finished runs on DATA."""
    result = measure(Run.open(folds), Run.open(shift), Run.open(official), open_archive(data))
    publish(out, "robust", result, as_markdown(result))
    write_text(out / "answers.md", answers_markdown(result["answers"]))


if __name__ == "__main__":
    run_command(main, "benchmarks.robust", extra="train")

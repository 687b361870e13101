"""The model card of a model file, from its metadata, its run and the committed results.

    python -m benchmarks.card MODEL RUN --out docs/model-card.md

RUN is the training that MODEL was exported from. Follows Mitchell et al., Model Cards for Model
Reporting, 2019. What it learned from is what the run says, in the words of the data's cards. The
tables of unseen groups and sources are those of `benchmarks.robust` in --results, if they are about
RUN's recipe, and the table of thresholds that of `benchmarks.rethreshold`, if it is about MODEL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from benchmarks.common.command import EXISTING, RESULTS
from benchmarks.common.formatting import NOTHING, metric_in_words, rate_in_words
from benchmarks.common.sides import predictions_of
from benchmarks.robust import as_markdown, recipe_of
from edge_runtime.commands.entry import run_command
from edge_runtime.files import write_text
from edge_runtime.labels import NO_TUMOR
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from edge_runtime.model.metadata import ModelInfo
from export.card import CALIBRATED, PEOPLE, PURPOSE, UNSEEN, about_data
from export.tflite.flatbuffer import read_tflite
from trainer.evaluation.predictions import Predictions
from trainer.report.html import percent
from trainer.run import Run

DETAILS = """# Model card: {tag}

**{intended_use}**

## The model

- A classifier of single brain MRI slices into {labels}; {size} × {size} gray pixels in, logits,
  {features} and class maps out. {scheme}, {kib} KiB, {macs:.1f} M multiply-accumulates.
- The network is the first eight blocks of EfficientNet-Lite0, the last two of them narrowed, with a
  map for each class, pooled by the log of the mean of its exponentials; a second head tells plane
  and sequence. It starts from weights trained on ImageNet's photographs (Apache License 2.0, see
  `pretrained/README.md`); stem and first two blocks keep them.
- Recipe `{recipe}`, {epochs} epochs, seed {seed}: `btc-train … --protocol {protocol}`, data
  digest `{data_digest}`. How it was found: [research.md](../benchmarks/research.md).
- SHA-256 `{digest}`. Licence {license}.

## Intended use

{purpose} Out of scope: other parts of the body,
whole volumes, children (the data does not say), other tumours than the three, and telling that
something else is wrong with a brain.

## Data and protocol

{data} Patients and near-duplicates stay on one side: {training:,} slices
trained, {validation:,} chose the epoch, temperature and thresholds, {test:,} of {test_groups}
groups were held out and chose nothing; [results.md](results.md#how-the-figures-come-about) tells
when they were looked at.

## Figures on the held-out groups

{accuracy} of slices right, {balanced} balanced.{study}

| class | precision % | recall % | specificity % | F1 % | slices |
|---|--:|--:|--:|--:|--:|
{by_class}

| source | from | accuracy % | slices |
|---|---|--:|--:|
{by_source}

It answers {coverage} of these slices, and {error} of the answers are wrong; it refuses {refused} as
unlike any slice seen in training. {heatmap}{partial}

## When it answers

{answers}

## The recipe on unseen groups, under corruptions and on an unseen source

{robust}
## Limits

- {unseen}
{limits}- {people}
- {calibrated}
"""

# What is known of the sources that the guides name.
SOURCES = {
    "cheng": "J. Cheng, brain tumor dataset, figshare 1512427 (CC BY 4.0): two hospitals, T1 with "
    "contrast",
    "br35h": "Br35H, by way of Kaggle (no licence was found stated); some slices that it labels "
    "tumour-free show lesions that look like tumours, and the labels were left as they are",
    "other": "the web, by way of the Brain Tumor MRI Dataset (M. Nickparvar, Kaggle, CC0)",
    "ixi": "IXI, brain-development.org (CC BY-SA 3.0): healthy people, T1 without contrast",
    "ms": "open_ms_data, Ljubljana (CC BY): patients with multiple sclerosis, T1, T2 and FLAIR",
}


ANSWERS = """\
A class is answered from the confidence on at which the validation slices support an error rate,
with {confidence} % confidence for each class by itself: by the binomial bound of selective
classification (Geifman and El-Yaniv, 2017), slices of a group counted as what they are worth
together.

| class | answered from | error rate asked for, % | supported, % |
|---|--:|--:|--:|
{rows}

The same slices chose the epoch, the temperature and, where the lowest rate was asked for that they
support, that rate too. It holds for slices like theirs, not for another scanner, and for single
slices. A study's answer has thresholds of its own (`study`, where the file has it), fitted on
heads of which those with a tumour are made: see the results on studies before trusting one.

{table}"""


def answers(info: ModelInfo, table: str) -> str:
    """From which confidence on each class is answered, and what that is worth.

    Args:
        table: of `benchmarks.rethreshold`, or nothing.
    """
    if info.confidence is None or not info.thresholds:
        return "The thresholds carry no guarantee."
    bounds, targets = info.error_bound or {}, info.target_error or {}
    rows = [
        f"| {label} | {'never' if level >= 1 else f'{level:.3f}'} | {percent(targets.get(label))} "
        f"| {percent(bounds.get(label))} |"
        for label, level in info.thresholds.items()
    ]
    return ANSWERS.format(
        confidence=f"{100 * info.confidence:g}", rows="\n".join(rows), table=table
    ).rstrip()


def by_source(run: Run) -> str:
    """The rows of the table of sources: what is known of each, and the figures of its slices; one
    that is not on the test side has none."""
    tested = run.metrics()["per_source"] or {}
    kept = (*run.validation_images().sources, *run.calibration_images().sources)
    rows = []
    for name in sorted({*tested, *kept} - {""}):
        figures = tested.get(name)
        accuracy = metric_in_words(figures, "accuracy", " %")
        count = f"{figures['n']:,}" if figures else "none"
        rows.append(f"| {name} | {SOURCES.get(name, NOTHING)} | {accuracy} | {count} |")
    return "\n".join(rows)


def limits(run: Run, predictions: Predictions) -> str:
    """Lines on sources of one side, and of which no people are known."""
    images = run.validation_images()
    labels = [run.labels[i] for i in images.labels]
    shown: dict[str, set[bool]] = {}
    for source, label in (
        *zip(images.sources, labels, strict=True),
        *zip(predictions.texts("source"), predictions.texts("label"), strict=True),
    ):
        shown.setdefault(source, set()).add(label != NO_TUMOR)
    unknown = {
        source
        for source, patient in zip(
            predictions.texts("source"), predictions.texts("patient"), strict=True
        )
        if not patient
    }
    lines = []
    tumors, none = (
        _named(s for s, sides in shown.items() if sides == {way}) for way in (True, False)
    )
    if tumors and none:
        lines.append(
            f"- Class and source go together: {tumors} gives tumours only, {none} none. The recipe "
            "loosens that tie; it does not cut it."
        )
    if unknown:
        lines.append(
            f"- Of {_named(unknown)} not every patient is known: groups are near-duplicates only."
        )
    return "".join(f"{line}\n" for line in lines)


def _named(sources: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(sources) if name)


def robustness(run: Run, results: Path) -> str:
    """The tables of `benchmarks.robust`, if they are about the run's recipe."""
    path = results / "robust.json"
    if path.is_file():
        result = json.loads(path.read_text("utf-8"))
        if result["recipe"] == recipe_of(run):
            words = "From trainings of the same recipe on other sides of the data:"
            return f"{words}\n\n{as_markdown(result)}"
    return "Not measured for this recipe.\n"


def describe(model: ModelFile, run: Run, robust: str, thresholds: str = "") -> str:
    """The card's text.

    Args:
        robust: see `robustness`.
        thresholds: table of `benchmarks.rethreshold`, or nothing.
    """
    metrics, settings, info = run.metrics(), run.settings, model.info
    predictions = predictions_of(run)
    study, heat, partial = (metrics.get(key) for key in ("per_study", "heatmap", "partial"))
    return DETAILS.format(
        tag=model.tag,
        intended_use=info.intended_use,
        purpose=PURPOSE,
        unseen=UNSEEN,
        people=PEOPLE,
        calibrated=CALIBRATED,
        labels=", ".join(info.labels),
        size=info.preprocess.size,
        features="the features before them" if "features" in info.outputs else "no features",
        scheme=info.quantization["scheme"],
        kib=round(model.bytes / 1024),
        macs=read_tflite(model.graph).macs / 1e6,
        recipe=settings["training"]["recipe"]["name"],
        epochs=settings["training"]["epochs"],
        seed=settings["seed"],
        protocol=settings["protocol"],
        data_digest=settings["data"]["sha256"],
        digest=model.sha256,
        license=info.license or "not stated",
        training=settings["data"]["training"],
        validation=settings["data"]["validation"],
        test=metrics["n"],
        test_groups=metrics["groups"],
        accuracy=metric_in_words(metrics, "accuracy", " %"),
        balanced=metric_in_words(metrics, "balanced_accuracy", " %"),
        study=f" Of {study['n']} studies, {metric_in_words(study, 'accuracy', ' %')}."
        if study else "",
        by_class="\n".join(_class_row(n, f) for n, f in metrics["per_class"].items()),
        data=about_data(run),
        by_source=by_source(run),
        limits=limits(run, predictions),
        coverage=_share(metrics["selective"]["coverage"]),
        error=_share(metrics["selective"]["error"]),
        refused=_share(metrics["unfamiliar"]),
        heatmap=f"The heatmap's peak lies in the tumour's box on {_share(heat)} of the slices "
        f"with a box (chance: {percent(heat['chance'])} %). " if heat else "",
        partial=f"Of {partial['n']} tumours of unknown type that it did not learn from, "
        f"{_share(partial['outside'])} are predicted tumour-free, "
        f"{_share(partial['outside_answered'])} with an answer." if partial else "",
        answers=answers(info, thresholds),
        robust=robust,
    )  # fmt: skip


def _class_row(name: str, class_metrics: dict[str, Any]) -> str:
    cells = [
        percent(class_metrics[key]) if key == "specificity" else metric_in_words(class_metrics, key)
        for key in ("precision", "recall", "specificity", "f1")
    ]
    return f"| {name} | {' | '.join(cells)} | {class_metrics['n']} |"


def _share(rate: dict[str, Any]) -> str:
    """In a sentence."""
    return "none" if rate["share"] is None else rate_in_words(rate, " %")


@click.command()
@click.argument("model", type=EXISTING)
@click.argument("run", type=EXISTING)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/model-card.md"))
def main(model: Path, run: Path, results: Path, out: Path) -> None:
    """Write the card of MODEL, which was exported from RUN."""
    file, opened, table = read_model(model), Run.open(run), results / "rethreshold.md"
    thresholds = table.read_text(encoding="utf-8") if table.is_file() else ""
    if file.tag not in thresholds:  # of another model
        thresholds = ""
    write_text(out, describe(file, opened, robustness(opened, results), thresholds))
    click.echo(out)


if __name__ == "__main__":
    run_command(main, "benchmarks.card", extra="export")

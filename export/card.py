"""README.md beside exported files: a model card in the form of the Hugging Face Hub.

A head in YAML, which machines read, and a text after Mitchell et al., Model Cards for Model
Reporting, 2019. Every figure is of metrics.json or of the gate. What `benchmarks.card` says of the
bundled model in the same words comes from here too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.files import write_text
from edge_runtime.model.metadata import INTENDED_USE
from trainer.evaluation.intervals import in_words
from trainer.report.html import percent, summary_line
from trainer.run import Run

NAME = "README.md"
LIBRARY = 'library_name: "btc-edge"'  # by which a card of ours is known
PURPOSE = """\
Research on classification at the edge, teaching, and as a baseline. Not a medical device: it must
not guide anyone's care, not even as a second opinion."""
UNSEEN = """\
A scanner, sequence or population that the sources above lack may be predicted as anything, with
  confidence; the check for out-of-distribution pictures refuses other kinds of picture, not other
  scanners."""
PEOPLE = "Nothing is known of performance by age, sex or origin: the data does not say."
CALIBRATED = "Probabilities are calibrated on validation slices of the same sources only."
SAID = {"title": "Data", "license": "Licences", "citation": "To cite", "url": "From"}
# The Hub's identifiers of licences that models have here; any other is told by its name.
LICENCES = ("apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit")
METRICS = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy"}

TEXT = """\
# {name} {version}

**{intended_use}**

A classifier of single brain MRI slices into {labels}. {figures}

## Files

Each was compared with the trained model on {held_out} held-out slices before it was written.

| file | agrees % | accuracy % | largest difference of a probability | KiB | SHA-256 |
|---|--:|--:|--:|--:|---|
{files}

    btc-edge classify SLICE --model {first}

## Intended use

{purpose}

## Data

{data}

## Limits

- {unseen}
- {people}
- {calibrated}
"""


def about_data(run: Run) -> str:
    """What a run learned from, in the words of the data's cards and by its counts."""
    data, partial = run.settings["data"], run.settings.get("partial")
    sentences = [f"{words}: {data[key]}." for key, words in SAID.items() if data.get(key)]
    sentences = sentences or ["No card of the data says what it is."]
    count = f"{data['images']:,} slices"
    if data.get("groups") is not None:
        count += f" in {data['groups']:,} groups"
    if partial:
        names = " or ".join(f"`{name}`" for name in partial["sets"])
        count += (
            f"; beside them {partial['images']:,} of which only {names} is known, learned from as "
            "one of several classes"
        )
    return " ".join([*sentences, f"{count}."])


def limits() -> list[str]:
    """What a model is not known to do, a sentence each on one line."""
    return [" ".join(sentence.split()) for sentence in (UNSEEN, PEOPLE, CALIBRATED)]


def _licence(text: str | None) -> dict[str, str]:
    if text is None:
        return {"license": "unknown"}
    known = text.lower()
    return {"license": known} if known in LICENCES else {"license": "other", "license_name": text}


def _head(run: Run, name: str, licence: str | None) -> dict[str, Any]:
    metrics = run.metrics()
    data = {
        "name": run.settings["data"].get("title") or "brain MRI slices",
        "type": "local",
        "split": metrics["split"],
        "args": {"protocol": metrics["protocol"], "slices": metrics["n"]},
    }
    figures = [
        {"type": key, "name": words, "value": metrics[key]}
        for key, words in METRICS.items()
        if metrics.get(key) is not None
    ]
    result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": figures}
    return {
        **_licence(licence),
        "library_name": "btc-edge",
        "pipeline_tag": "image-classification",
        "tags": ["mri", "brain-tumor", "medical-imaging", "edge", "research-use-only"],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }


def _file_row(entry: dict[str, Any]) -> str:
    spread = in_words(entry["interval95"], lambda end: f"{100 * end:+.1f}", " to ")
    return (
        f"| {entry['path']} | {percent(entry['agreement'], 2)} | {percent(entry['accuracy'], 2)} "
        f"({100 * entry['difference']:+.2f}; {spread}) | {entry['max_abs_probability']:.3f} "
        f"| {entry['bytes'] / 1024:.0f} | `{entry['sha256']}` |"
    )


def model_card(
    run: Run, files: Sequence[dict[str, Any]], name: str, version: str, licence: str | None
) -> str:
    """The card's text.

    Args:
        files: entries of export.json that passed, one or more.
        name, version, licence: the model's, as its files state them.
    """
    head = _head(run, name, licence)
    # A value as JSON is YAML too, and says its strings and numbers beyond doubt.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    metrics = run.metrics()
    figures = ""
    if "groups" in metrics:
        figures = "The trained model. " + summary_line(metrics)
    text = TEXT.format(
        name=name,
        version=version,
        intended_use=run.settings.get("intended_use") or INTENDED_USE,
        labels=", ".join(run.labels),
        figures=figures,
        held_out=files[0]["n"],
        files="\n".join(map(_file_row, files)),
        first=files[0]["path"],
        purpose=PURPOSE,
        data=about_data(run),
        unseen=UNSEEN,
        people=PEOPLE,
        calibrated=CALIBRATED,
    )
    return "\n".join(["---", *lines, "---", "", text])


def write_card(folder: Path, text: str) -> Path | None:
    """Write README.md, whole or not at all; None where one stands there that is not of
    `btc-export`, which stays as it is."""
    path = folder / NAME
    if path.exists():
        try:
            if LIBRARY not in path.read_text("utf-8").partition("\n---\n")[0].splitlines():
                return None
        except (OSError, UnicodeDecodeError):
            return None
    write_text(path, text)
    return path

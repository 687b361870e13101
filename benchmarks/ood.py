"""What a model refuses as unlike the slices it learned from, and what it should not.

    python -m benchmarks.ood MODEL RUN DATA... --untyped ZIP --out benchmarks/results

Real slices are those of RUN's test side in DATA; out-of-distribution pictures are drawn, or made
from the same slices by inverting and turning them. `--untyped` adds the folders of a zip whose
label is no class of the model (such as tumours of unknown type), with what was predicted for each
slice. Writes ood.json and ood.md.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, named_data, out_option, publish
from edge_runtime import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.collection import open_data
from trainer.data.layout import class_and_split
from trainer.data.reading import read_again
from trainer.data.tables import read_table
from trainer.synthetic.ood_pictures import CHANGED, DRAWN, draw_ood_pictures, tilt

EXTRA = {"half turn": 180.0, "tilted 45 degrees": 45.0, "tilted 135 degrees": 135.0}


def statuses(classifier: Classifier, pictures: list[np.ndarray]) -> Counter[str]:
    """How often each status is answered."""
    return Counter(a.status.value for a in classifier.classify_many(pictures))


def measure(classifier: Classifier, run: Path, archive: ImageArchive, count: int) -> dict[str, Any]:
    """Shares refused: of real slices, of each kind of picture, and of all kinds together.

    Raises:
        DataError: a slice that is not in the archive.
    """
    paths = [row["path"] for row in read_table(run / "predictions.csv", ("path",))]
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    names = [paths[i] for i in sorted(chosen)]
    slices = [gray for _, gray in read_again(archive, names)]
    if len(slices) < len(names):
        raise DataError(f"not all slices of {run} are in DATA: name all that it was trained on")
    kinds = {name: draw_ood_pictures(name, count) for name in DRAWN}
    kinds |= {name: [change(s) for s in slices] for name, change in CHANGED.items()}
    extra = {name: [tilt(s, degrees) for s in slices] for name, degrees in EXTRA.items()}
    refused = {
        name: statuses(classifier, pictures)["unfamiliar"] / len(pictures)
        for name, pictures in {"real slices": slices, **kinds, **extra}.items()
    }
    return {
        "model": classifier.model.tag,
        "count": len(slices),
        "real_refused": refused.pop("real slices"),
        "ood_refused": float(np.mean([refused[name] for name in kinds])),
        "kinds": {name: refused[name] for name in kinds},
        "beside": {name: refused[name] for name in extra},
    }


def classify_untyped(classifier: Classifier, archive: ImageArchive) -> dict[str, Any]:
    """What is predicted for slices of a label that the model does not know, by status."""
    predicted: dict[str, Counter[str]] = {}
    for name in archive.names():
        answer = classifier.classify(archive.read(name))
        label, _ = class_and_split(name)
        predicted.setdefault(label, Counter())[f"{answer.raw_label}, {answer.status.value}"] += 1
    return {label: dict(sorted(counts.items())) for label, counts in predicted.items()}


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    rows = ["| picture | refused % |", "|---|--:|"]
    rows += [f"| real slices of unseen groups | {100 * result['real_refused']:.1f} |"]
    rows += [f"| **all kinds below, mean** | **{100 * result['ood_refused']:.1f}** |"]
    rows += [f"| {name} | {100 * share:.1f} |" for name, share in result["kinds"].items()]
    rows += [f"| not counted: {n} | {100 * s:.1f} |" for n, s in result["beside"].items()]
    rows += ["", f"{result['count']} pictures of each kind; {result['model']}."]
    for label, counts in (result.get("untyped") or {}).items():
        total = sum(counts.values())
        parts = "; ".join(f"{name}: {n}" for name, n in counts.items())
        rows += ["", f"{total} slices labelled {label} were predicted: {parts}."]
    return "\n".join([*rows, ""])


@click.command()
@click.argument("model", type=EXISTING)
@click.argument("run", type=EXISTING)
@click.argument("data", nargs=-1, required=True, type=EXISTING)
@click.option("--untyped", type=EXISTING)
@click.option("--count", type=click.IntRange(10), default=300, show_default=True)
@out_option
def main(
    model: Path, run: Path, data: tuple[Path, ...], untyped: Path | None, count: int, out: Path
) -> None:
    """Measure what MODEL refuses, on the slices of DATA that RUN was tested on."""
    classifier = Classifier(model)
    result = measure(classifier, run, open_data(named_data(data).data), count)
    if untyped is not None:
        result["untyped"] = classify_untyped(classifier, open_archive(untyped))
    publish(out, "ood", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.ood", extra="train")

"""One answer for a study: what the rule for studies says of whole heads and of patients.

    python -m benchmarks.studies FOLDS DATA... --heads heads.zip --heads-table heads.csv

FOLDS is a cross-validation. Each head and each patient is judged once, by the fold that was tested
on that person; a head of nobody in the data by the first. The rule of a fold is fitted on what all
folds say of people whom they did not learn from, without everybody on this fold's test side; what
another fold says is moved to this one's level first, see `moved`. Heads with a tumour of a test
patient set into them are made, see `trainer.augmentation.made_heads`. They are the same for any
FOLDS of the same DATA: their tumours are taken from slices of one size, in the planes that the
bundled model tells. An even head is judged in each plane by itself, as a series
that was acquired in it, and as a whole in all three; of each healthy one also pairs of neighbouring
slices, as somebody might pick them.
Writes studies.json and studies.md.

With `--model FILE --out FILE` the rule of a fold is put into a model file of that fold's training,
which is written anew; its graph stays as it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, RESULTS, publish
from benchmarks.common.formatting import rate_in_words
from edge_runtime.commands.click_types import Command
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.decision.study import PAIR, StudyRule, study_answer
from edge_runtime.decision.view import View
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from trainer.augmentation.made_heads import Tumour
from trainer.commands.options import with_cards
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.heads import Head, persons_of, read_heads
from trainer.data.split import Indices, Split, fold_splits
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.metrics import share_of
from trainer.evaluation.study import (
    MISSED,
    KnownSeries,
    collect_heads,
    fit_study_rule,
    known_series,
    patients_of,
    seen_planes,
    tumours_of,
)
from trainer.models.outputs import Predict, open_trained, predict_file
from trainer.run import Run

TRIED = (0.05, 0.1, 0.15, 0.2)  # shares of made heads that a rule may call tumour-free
SAID = ("tumour-free", "uncertain", "tumour")

ENDS = (SAID[0], SAID[2])
DONORS = Preprocess(size=128)  # of the slices whose tumours are set into heads


@dataclass(frozen=True)
class Fold:
    """What a fold's model says of people whom it did not learn from.

    Attributes:
        labels, tumour_free, view: of the model.
        others, tested: series of heads and of patients of the validation and the test side.
        people: on the test side.
        level: the median log-odds of a tumour that the model gives tumour-free slices of its
            validation side.
    """

    labels: tuple[str, ...]
    tumour_free: tuple[str, ...]
    view: View | None
    others: list[KnownSeries]
    tested: list[KnownSeries]
    people: set[str]
    level: float


def level_of(predict: Predict, rule: DecisionRule, side: Dataset) -> float:
    """See `Fold.level`."""
    free = np.array([name in side.tumour_free for name in side.class_names])
    rows = np.flatnonzero(free[side.labels])
    if not rows.size:
        return 0.0
    by_label = np.maximum(rule.probabilities(predict(side.images[rows])), 1e-30)
    odds = np.log(by_label[:, ~free].sum(axis=1)) - np.log(by_label[:, free].sum(axis=1))
    return float(np.median(odds))


def moved(known: KnownSeries, by: float, tumour_free: Sequence[str]) -> KnownSeries:
    """A series with the log-odds of a tumour moved by so much; types keep their proportions.

    One training is surer than the next, of everything: heads of several folds lie on one scale
    only when each fold's own level is taken off.
    """

    def changed(answer: Prediction) -> Prediction:
        by_label = answer.probabilities or {}
        raised = {k: p if k in tumour_free else p * math.exp(by) for k, p in by_label.items()}
        whole = math.fsum(raised.values())
        return replace(answer, probabilities={k: p / whole for k, p in raised.items()})

    answers = known.answers
    return replace(known, answers=replace(answers, answers=tuple(map(changed, answers.answers))))


def people_of(data: Dataset, rows: Any) -> set[str]:
    """Whose some slices are."""
    return persons_of(name for i in rows for name in (data.groups[i], data.patients[i]))


def open_fold(run: Run) -> tuple[Predict, DecisionRule]:
    """The model file that was exported of a run, where there is one, else its trained model."""
    files = sorted((run.folder / "export").glob("*.tflite"))
    if not files:
        return open_trained(run).predict, DecisionRule.from_settings(run.settings)
    file = read_model(files[0])
    rule = DecisionRule.from_settings(vars(file.info))
    return lambda images: predict_file(file, images), rule


@dataclass(frozen=True)
class Source:
    """What made heads are made of.

    Attributes:
        archive, heads: whole heads.
        slices: the data in `DONORS`, of which tumours are taken.
        planes: what each slice looks like to the bundled model.
    """

    archive: ImageArchive
    heads: Sequence[Head]
    slices: Dataset
    planes: Sequence[str | None]

    def tumours(self, rows: Indices) -> dict[str, list[Tumour]]:
        """Those of some slices, by plane."""
        return tumours_of(self.slices.take(rows), [self.planes[i] for i in rows])


def open_source(heads: Path, table: Path, read: Callable[[Preprocess], Dataset]) -> Source:
    """Read the heads' table, and the data as donors and as the bundled model sees them.

    Args:
        read: the data, preprocessed.
    """
    file = read_model()
    rule = DecisionRule.from_settings(vars(file.info))
    seen = seen_planes(lambda images: predict_file(file, images), rule, read(file.info.preprocess))
    return Source(open_archive(heads), read_heads(table), read(DONORS), list(seen))


def measure_fold(run: Run, data: Dataset, split: Split, source: Source, first: bool) -> Fold:
    """Ask a fold's model about both sides.

    Args:
        first: whether heads of nobody in the data are this fold's.

    Raises:
        DataError: another split than the run's.
    """
    counts = [len(split.train), len(split.validation), len(split.test)]
    if counts != [run.settings["data"][side] for side in ("training", "validation", "test")]:
        raise DataError(f"{run.folder}: was trained on another split of other data")
    predict, rule = open_fold(run)
    everybody = people_of(data, range(len(data)))
    sides = []
    for number, rows in enumerate((split.validation, split.test)):
        side, people = data.take(rows), people_of(data, rows)
        planes = list(seen_planes(predict, rule, side))
        mine = [
            head
            for head in source.heads
            if head.subject in people or (first and number and head.subject not in everybody)
        ]
        found = known_series(patients_of(side, planes), predict, rule, run.labels)
        if mine:
            slices = collect_heads(
                source.archive, mine, source.tumours(rows), data.tumour_free, run.preprocess,
                run.settings["seed"],
            )  # fmt: skip
            found += known_series(slices, predict, rule, run.labels)
        sides.append(found)
    tested = people_of(data, split.test)
    level = level_of(predict, rule, data.take(split.validation))
    return Fold(run.labels, data.tumour_free, rule.view, sides[0], sides[1], tested, level)


def fold_of(file: ModelFile, runs: Sequence[Run]) -> int:
    """Which fold's training a model file is of, by the version that both state.

    Raises:
        UsageError: none.
    """
    for number, run in enumerate(runs):
        if run.version == file.info.version:
            return number
    raise UsageError(f"--model {file.tag}: no fold's training has this version")


def rule_of(folds: Sequence[Fold], number: int, missed: float = MISSED) -> StudyRule:
    """The rule of a fold: fitted without anybody on its test side."""
    mine = folds[number]

    def tested(each: KnownSeries) -> bool:
        return bool(persons_of((each.facts["person"], each.facts["tumour"])) & mine.people)

    pool = [
        each if n == number else moved(each, mine.level - fold.level, mine.tumour_free)
        for n, fold in enumerate(folds)
        for each in (fold.others if n == number else fold.others + fold.tested)
        if not tested(each) and each.facts["label"] in mine.labels
    ]
    return fit_study_rule(pool, mine.labels, mine.tumour_free, mine.view, missed)


def pairs_of(known: KnownSeries, rule: StudyRule) -> list[KnownSeries]:
    """Of a series three pairs of neighbours: from a quarter, a half and three quarters on of the
    slices that show most of the head, as studies of their own."""
    answers = known.answers.answers
    shares = [0.0 if a.facts is None else a.facts.head for a in answers]
    shown = [i for i, share in enumerate(shares) if share >= rule.head * max(shares)]
    if len(shown) < 4 * PAIR:
        return []
    facts = {**known.facts, "volume": ""}
    starts = [shown[len(shown) * quarter // 4] for quarter in (1, 2, 3)]
    return [
        KnownSeries(
            replace(known.answers, answers=answers[i : i + PAIR], volume=None, distance=None), facts
        )
        for i in starts
        if i + PAIR <= len(answers)
    ]


def judge(fold: Fold, rule: StudyRule) -> list[dict[str, Any]]:
    """The answer for each study of a fold's test side: a head in one plane, a whole head, or a
    patient."""
    studies: dict[Any, list[KnownSeries]] = defaultdict(list)
    for i, each in enumerate(fold.tested):
        facts = each.facts
        patient = facts["tumour"] and not facts["made"]
        if patient or not (facts["made"] and facts["volume"]):
            studies[facts["person"] if patient else i].append(each)
        if facts["label"] in fold.tumour_free:
            for n, pair in enumerate(pairs_of(each, rule)):
                studies["pair", i, n] = [pair]
        if facts["volume"]:
            studies[facts["person"], facts["volume"]].append(each)
    rows = []
    for key, series in studies.items():
        facts = series[0].facts
        picked = isinstance(key, tuple) and key[0] == "pair"
        whole = isinstance(key, tuple) and not picked
        answer = study_answer("study", None, [s.answers for s in series], rule, "", fold.view)
        patient = facts["tumour"] and not facts["made"]
        kind = "patient" if patient else "made" if facts["made"] else "healthy"
        if facts["label"] not in fold.labels:
            kind = "real"
        elif picked:
            kind = "pair"
        rows.append(
            {
                **{key: facts[key] for key in ("label", "person", "tumour", "sequence")},
                "plane": "" if patient or picked else "all" if whole else facts["plane"],
                "kind": kind,
                "slices": sum(len(s.answers.answers) for s in series),
                "said": said(answer, rule),
                "answer": answer.label,
                "guess": _guess(answer),
                "tumor": (answer.study or {})["tumor"],
                "reason": answer.reason,
            }
        )
    return rows


def judge_all(folds: Sequence[Fold], missed: float) -> tuple[list[StudyRule], list[dict[str, Any]]]:
    """The rule of each fold, and the answers for all test sides."""
    rules = [rule_of(folds, number, missed) for number in range(len(folds))]
    return rules, [
        row for fold, rule in zip(folds, rules, strict=True) for row in judge(fold, rule)
    ]


def said(answer: Prediction, rule: StudyRule) -> str:
    """One of SAID: a tumour of a type that is not sure is a tumour all the same."""
    tumor = (answer.study or {})["tumor"]
    if answer.status is Status.OK and answer.label in rule.tumour_free:
        return SAID[0]
    return SAID[2] if tumor is not None and tumor >= rule.tumor else SAID[1]


def _guess(answer: Prediction) -> str | None:
    found = (answer.study or {})["type"]
    return None if found is None else found["label"]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares, each with an interval over persons."""

    def shares(kind: str, plane: str | None = None) -> dict[str, Any]:
        of_plane = plane or "one plane"
        mine = [
            r
            for r in rows
            if r["kind"] == kind
            and of_plane in (r["plane"], "" if r["plane"] == "all" else "one plane")
        ]
        groups = [r["person"] for r in mine]
        return {
            "studies": len(mine),
            "persons": len(set(groups)),
            **{
                word: share_of(np.array([r["said"] == word for r in mine], bool), groups)
                for word in SAID
            },
        }

    patients = [r for r in rows if r["kind"] == "patient"]
    people = [r["person"] for r in patients]
    told = [r for r in patients if r["guess"] is not None]
    answered = [r for r in patients if r["answer"] is not None]
    return {
        "healthy": shares("healthy"),
        "made": shares("made"),
        "whole": {kind: shares(kind, "all") for kind in ("healthy", "made")},
        "pairs": shares("pair"),
        "patients": shares("patient")
        | {
            "type_told": share_of(np.array([r["guess"] is not None for r in patients]), people),
            "type_right": share_of(np.array([r["guess"] == r["label"] for r in patients]), people),
            "told_right": share_of(
                np.array([r["guess"] == r["label"] for r in told]), [r["person"] for r in told]
            ),
            "answered": share_of(np.array([r["answer"] is not None for r in patients]), people),
            "answered_right": share_of(
                np.array([r["answer"] == r["label"] for r in answered]),
                [r["person"] for r in answered],
            ),
        },
        "planes": {
            plane: {kind: shares(kind, plane) for kind in ("healthy", "made")}
            for plane in ("axial", "coronal", "sagittal")
        },
        "real": [r for r in rows if r["kind"] == "real"],
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| studies | n | persons | answered notumor % | uncertain % | a tumour % |",
        "|---|--:|--:|--:|--:|--:|",
    ]

    def row(words: str, shares: Mapping[str, Any]) -> None:
        cells = " | ".join(rate_in_words(shares[word]) for word in SAID)
        lines.append(f"| {words} | {shares['studies']} | {shares['persons']} | {cells} |")

    row("healthy heads, whole", result["whole"]["healthy"])
    row("the same with a tumour set in (made)", result["whole"]["made"])
    row("healthy heads, one plane each", result["healthy"])
    row("made, one plane each", result["made"])
    for plane, of in result["planes"].items():
        row(f"healthy heads, {plane}", of["healthy"])
        row(f"made, {plane}", of["made"])
    row("two neighbouring slices of a healthy head", result["pairs"])
    row("patients of Cheng's collection", result["patients"])
    of = result["patients"]
    lines += [
        "",
        f"Type of those patients: told {rate_in_words(of['type_told'], ' %')}, of these right "
        f"{rate_in_words(of['told_right'], ' %')}, of all patients "
        f"{rate_in_words(of['type_right'], ' %')}; answered "
        f"{rate_in_words(of['answered'], ' %')}, of these right "
        f"{rate_in_words(of['answered_right'], ' %')}. Real heads with a tumour:",
        "",
        "| head | plane | slices | evidence | said |",
        "|---|---|--:|--:|---|",
    ]
    for each in result["real"]:
        tumor = "–" if each["tumor"] is None else f"{each['tumor']:.2f}"
        lines.append(
            f"| {each['person']}, {each['sequence']} | {each['plane'] or 'as in the files'} "
            f"| {each['slices']} | {tumor} | {each['said']} |"
        )
    lines += [
        "",
        "Where the rule may call another share of the made heads tumour-free on the heads that it "
        "is fitted on:",
        "",
        "| studies | may be missed % | healthy heads answered notumor % | called a tumour % "
        "| made ones called tumour-free % | found % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for words in ("whole", "one plane"):
        for missed, of in result["tried"].items():
            shown = of["whole"] if words == "whole" else of
            cells = [rate_in_words(shown[k][word]) for k in ("healthy", "made") for word in ENDS]
            lines.append(f"| {words} | {100 * float(missed):g} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


@click.command(cls=Command)
@click.argument("folds", type=EXISTING)
@click.argument("data", nargs=-1, required=True, type=EXISTING)
@click.option("--heads", required=True, type=EXISTING, help="Zip or folder of volumes.")
@click.option("--heads-table", required=True, type=EXISTING, help="CSV of what they show.")
@click.option("--model", type=EXISTING, help="A file of a fold that gets its rule.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(
    folds: Path, data: tuple[Path, ...], heads: Path, heads_table: Path, model: Path | None,
    out: Path | None, results: Path,
) -> None:  # fmt: skip
    """Judge the rule for studies over the folds of a cross-validation."""
    whole = Run.open(folds)
    runs = [Run.open(folder) for folder in whole.model_folders]
    file = None if model is None else read_model(model)
    number = 0 if file is None else fold_of(file, runs)
    names = ("groups", "boxes", "tumour_free")
    options = dict.fromkeys((*names, "partial", "partial_groups")) | {"no_card": False}
    named = with_cards(data, options, names)

    @cache
    def read(options: Preprocess) -> Dataset:
        return read_dataset(
            named.data, options, class_names=runs[0].labels, groups_csv=named.options["groups"],
            boxes_csv=named.options["boxes"], tumour_free=named.options["tumour_free"],
        )  # fmt: skip

    slices = read(runs[0].preprocess)
    source = open_source(heads, heads_table, read)
    splits = fold_splits(slices, len(runs), whole.settings["seed"])
    asked = [
        measure_fold(run, slices, split, source, not number)
        for number, (run, split) in enumerate(zip(runs, splits, strict=True))
    ]
    rules, rows = judge_all(asked, MISSED)
    tried = {f"{missed:g}": summary(judge_all(asked, missed)[1]) for missed in TRIED}
    result = {
        "run": {key: whole.settings[key] for key in ("name", "created", "network", "seed")},
        "rules": [rule.to_json() for rule in rules],
        **summary(rows),
        "tried": {
            missed: {kind: of[kind] for kind in ("healthy", "made", "whole")}
            for missed, of in tried.items()
        },
        "rows": rows,
    }
    publish(results, "studies", result, as_markdown(result))
    if file is not None and out is not None:
        changed = replace(file.info, study=rules[number].to_json())
        packed = pack_model(file.graph, changed, file.format)
        write_bytes(out, packed)
        click.echo(parse_model(packed).tag)


if __name__ == "__main__":
    run_command(main, "benchmarks.studies", extra="train")

"""Fitting the rule for one answer from the slices of a study (`edge_runtime.decision.study`).

It is fitted on whole heads of people whom the model did not learn from: healthy ones, the same with
a tumour that was set into them (`trainer.augmentation.made_heads`: they are made, and no real
heads), and for the types the slices of patients with a tumour. The thresholds are the loosest at
which no more than a stated share of the heads is answered wrongly; what so few heads support with
confidence (Clopper and Pearson's bound, persons as units) stands beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.prediction import Prediction, SliceFacts, Status
from edge_runtime.decision.study import (
    SeriesAnswers,
    SeriesEvidence,
    StudyRule,
    in_run,
    judged,
    mean_of_types,
    runs_of,
    series_evidence,
)
from edge_runtime.decision.view import View
from edge_runtime.errors import DataError
from edge_runtime.files import replacing
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.head import head_share
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from trainer.augmentation.made_heads import Tumour, host_of, make_head, make_volumes
from trainer.data.archive import ImageArchive
from trainer.data.dataset import Dataset
from trainer.data.heads import Head, HeadSeries, cuts_of, series_of, volume_of
from trainer.data.npz import opened_npz
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.intervals import effective_size
from trainer.evaluation.selective import CONFIDENCE, choose_thresholds, error_bound
from trainer.evaluation.temperature import fit_temperature
from trainer.models.outputs import Predict

# See `StudyRule`; found on validation heads, see benchmarks/research.md.
WINDOW, CLIP, HEAD, BRAIN = 10.0, 6.0, 0.6, 140.0
FALSE_ALARMS, MISSED = 0.02, 0.1  # shares of healthy heads and of made ones
FEWEST_HEADS = 3  # healthy persons, and tumours: fewer tell nothing
MADE = 2  # heads with a tumour that are made of each healthy series, and of each volume
TYPE_TARGETS = (0.1, 0.15, 0.2)  # shares of wrong types: the first that is supported
FILE = "heads.npz"  # of a run: what its exported files fit their own rule on


class TooFewHeads(DataError):
    """What there is supports no rule; the model is as good without one."""


@dataclass(frozen=True)
class HeadSlices:
    """Series of whole heads, as a model sees them.

    Attributes:
        pixels: uint8 N×S×S.
        shares: of the pixels of each slice that show the head, see `head_share`; NaN unknown.
        rows: the slices of each series, in order; series may share slices.
        facts: of each series: `label`, `person`, `tumour` (whose it is), `plane`, `sequence` (as
            the table says), `distance` (mm, 0 unknown), `made`, `volume` (what tells a volume that
            is cut in all planes from others; empty for a series alone).
    """

    pixels: npt.NDArray[np.uint8]
    shares: npt.NDArray[np.float64]
    rows: tuple[npt.NDArray[np.int64], ...]
    facts: tuple[Mapping[str, Any], ...]

    def joined(self, other: HeadSlices) -> HeadSlices:
        """Both, of one size of pixels."""
        moved = tuple(rows + len(self.pixels) for rows in other.rows)
        return HeadSlices(
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.shares, other.shares]),
            self.rows + moved,
            self.facts + other.facts,
        )

    def save(self, path: Path) -> None:
        """Keep them as an NPZ file."""
        columns: dict[str, Any] = {k: np.array([each[k] for each in self.facts]) for k in FACTS}
        lengths = [len(rows) for rows in self.rows]
        with replacing(path) as part:
            np.savez_compressed(
                part, pixels=self.pixels, shares=self.shares, lengths=lengths,
                rows=np.concatenate(self.rows), **columns,
            )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> HeadSlices:
        """What `save` wrote.

        Raises:
            DataError: missing or damaged.
        """
        with opened_npz(path, f"{path}: no readable slices of heads") as file:
            ends = np.cumsum(file["lengths"])[:-1]
            columns = {key: file[key].tolist() for key in FACTS}
            rows = tuple(np.split(file["rows"], ends))
            facts = tuple(
                dict(zip(FACTS, each, strict=True)) for each in zip(*columns.values(), strict=True)
            )
            return cls(file["pixels"], file["shares"], rows, facts)


FACTS = ("label", "person", "tumour", "plane", "sequence", "distance", "made", "volume")


@dataclass(frozen=True)
class KnownSeries:
    """A series of which it is known what it shows.

    Attributes:
        answers: of a model.
        facts: see `HeadSlices`.
    """

    answers: SeriesAnswers
    facts: Mapping[str, Any]


def tumours_of(side: Dataset, planes: Sequence[str | None]) -> dict[str, list[Tumour]]:
    """By plane, the tumours that can be moved: each patient's slices of that plane with a box.

    Args:
        side: of the data; never the training side of the model that is judged.
        planes: what each slice looks like; where the data say, they count.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in range(len(side)):
        plane = side.planes[i] or planes[i]
        if plane and side.patients[i] and not np.isnan(side.boxes[i]).any():
            found[plane, side.patients[i]].append(i)
    tumours: dict[str, list[Tumour]] = defaultdict(list)
    for (plane, patient), rows in sorted(found.items()):
        label = side.class_names[int(np.bincount(side.labels[rows]).argmax())]
        if label not in side.tumour_free:
            slices, boxes = tuple(side.images[rows]), tuple(side.boxes[rows])
            tumours[plane].append(Tumour(patient, label, slices, boxes))
    return tumours


def collect_heads(
    archive: ImageArchive,
    heads: Iterable[Head],
    tumours: Mapping[str, Sequence[Tumour]],
    tumour_free: Sequence[str],
    options: Preprocess,
    seed: int,
) -> HeadSlices:
    """The slices of heads, and of those that are made of the healthy ones. One head is held at a
    time, beside what a model sees of the others.

    Args:
        tumours: by plane, see `tumours_of`; in a plane without any, none is made.

    Raises:
        DataError: a head that cannot be read. TooFewHeads: there is none.
    """
    pixels: list[npt.NDArray[np.uint8]] = []
    shares: list[float] = []
    rows, facts = [], []

    def add(grays: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
        """Their numbers; slices of a head that are alike count once."""
        numbers = []
        for gray in grays:
            content = gray.shape, gray.tobytes()
            if content not in seen:
                seen[content] = len(pixels)
                pixels.append(preprocess(gray, options))
                shares.append(head_share(gray))
            numbers.append(seen[content])
        return np.array(numbers, np.int64)

    for number, head in enumerate(heads):
        seen: dict[tuple[tuple[int, ...], bytes], int] = {}
        of_head = list(series_of(archive, head))
        whole = head.path if {s.plane for s in of_head} == set(PLANES) else ""
        for series in of_head:
            own = add(series.grays)
            known = {
                "label": head.label, "person": head.subject, "tumour": "", "plane": series.plane,
                "sequence": head.sequence, "distance": series.distance, "made": False,
                "volume": whole,
            }  # fmt: skip
            rows.append(own)
            facts.append(known)
            donors = tumours.get(series.plane, ())
            if head.label not in tumour_free or not donors or not series.pixel:
                continue
            rng = np.random.default_rng([seed, number, PLANES.index(series.plane)])
            host = host_of(series.grays, series.distance, series.pixel)
            for _ in range(MADE):
                tumour = donors[int(rng.integers(len(donors)))]
                made = make_head(host, tumour, rng)
                changed = own.copy()
                changed[list(made.slices)] = add(made.slices.values())
                rows.append(changed)
                facts.append(
                    known
                    | {"label": tumour.label, "tumour": tumour.patient, "made": True, "volume": ""}
                )
        if whole and head.label in tumour_free:
            for tumour, name, made_series in _made_volumes(
                archive, head, tumours.get("axial", ()), np.random.default_rng([seed, number])
            ):
                rows.append(add(made_series.grays))
                facts.append(
                    {"label": tumour.label, "person": head.subject, "tumour": tumour.patient,
                     "plane": made_series.plane, "sequence": head.sequence,
                     "distance": made_series.distance, "made": True, "volume": name}
                )  # fmt: skip
    if not rows:
        raise TooFewHeads("no whole head to fit the rule for studies on")
    return HeadSlices(np.stack(pixels), np.array(shares), tuple(rows), tuple(facts))


def _made_volumes(
    archive: ImageArchive, head: Head, donors: Sequence[Tumour], rng: np.random.Generator
) -> Iterator[tuple[Tumour, str, HeadSeries]]:
    """The cuts of the volumes that are made of a healthy one: whose tumour, what the volume is
    called, and the cut."""
    volume = volume_of(archive, head)
    if not donors or volume is None:
        return
    chosen = [donors[int(number)] for number in rng.integers(len(donors), size=MADE)]
    volumes = make_volumes(volume, chosen, rng)
    for copy, (tumour, made) in enumerate(zip(chosen, volumes, strict=False)):
        for series in cuts_of(made):
            yield tumour, f"{head.path} with tumour {copy + 1}", series


def patients_of(side: Dataset, planes: Sequence[str | None]) -> HeadSlices:
    """The patients with a tumour of a side of the data, as studies of a series for each plane.

    Args:
        planes: what each slice looks like; one that looks like none goes with the most of its
            patient. Nobody knows in which order a patient's slices lay.
    """
    owned: dict[str, list[int]] = defaultdict(list)
    for i in range(len(side)):
        if side.patients[i] and side.class_names[side.labels[i]] not in side.tumour_free:
            owned[side.patients[i]].append(i)
    rows, facts = [], []
    for patient, mine in sorted(owned.items()):
        told = {i: side.planes[i] or planes[i] or "" for i in mine}
        most = Counter(plane for plane in told.values() if plane).most_common(1)
        by_plane: dict[str, list[int]] = defaultdict(list)
        for i in mine:
            by_plane[told[i] or (most[0][0] if most else "")].append(i)
        label = side.class_names[int(np.bincount(side.labels[mine]).argmax())]
        for plane, chosen in sorted(by_plane.items()):
            rows.append(np.array(chosen, np.int64))
            facts.append(
                {"label": label, "person": patient, "tumour": patient, "plane": plane,
                 "sequence": "", "distance": 0.0, "made": False, "volume": ""}
            )  # fmt: skip
    return HeadSlices(side.images, np.full(len(side), np.nan), tuple(rows), tuple(facts))


def known_series(
    heads: HeadSlices, predict: Predict, rule: DecisionRule, labels: Sequence[str]
) -> list[KnownSeries]:
    """What a model answers on each series. The sequence is told by the model, as on a device whose
    file does not say it."""
    outputs = predict(heads.pixels)
    by_label, ood = rule.probabilities(outputs), rule.is_ood(outputs).tolist()
    seen = rule.seen(outputs)

    def answer(i: int) -> Prediction:
        best = labels[int(by_label[i].argmax())]
        share = float(heads.shares[i])
        return Prediction(
            input="",
            status=Status.UNFAMILIAR if ood[i] else Status.UNCERTAIN,
            label=None,
            raw_label=best,
            confidence=float(by_label[i].max()),
            probabilities=dict(zip(labels, by_label[i].tolist(), strict=True)),
            reason=None,
            sha256=None,
            model="",
            plane=seen[i].plane,
            sequence=seen[i].sequence,
            facts=None if np.isnan(share) else SliceFacts(share, (0.0, 0.0, 1.0, 1.0), None),
        )

    each = [answer(i) for i in range(len(heads.pixels))]
    return [
        KnownSeries(
            SeriesAnswers(
                facts["person"], None, facts["plane"] or None, None, facts["distance"] or None,
                tuple(each[i] for i in rows), volume=facts["volume"] or None,
            ),
            facts,
        )
        for rows, facts in zip(heads.rows, heads.facts, strict=True)
    ]  # fmt: skip


def fit_study_rule(
    known: Sequence[KnownSeries],
    labels: Sequence[str],
    tumour_free: Sequence[str],
    view: View | None,
    missed: float = MISSED,
) -> StudyRule:
    """Fit the rule on series that the model did not learn from.

    Args:
        missed: the share of made heads that may be called tumour-free.

    Raises:
        TooFewHeads: too few heads, or heads whose tumours the model does not tell from none.
    """
    types = [label for label in labels if label not in tumour_free]
    plain = StudyRule(
        tuple(tumour_free), WINDOW, CLIP, HEAD, BRAIN, 1.0, dict.fromkeys(PLANES, 0.0), 1.0, 0.0,
        None, 1.0, dict.fromkeys(types, 1.0), {},
    )  # fmt: skip
    looked = [(each, series_evidence(each.answers, plain, view)) for each in known]
    usable = [
        (each, of)
        for each, of in looked
        if of.score is not None and not (each.facts["made"] and each.facts["volume"])
    ]
    whole = [(k, of) for k, of in usable if k.facts["label"] in tumour_free or k.facts["made"]]
    made = np.array([k.facts["made"] for k, _ in whole], bool)
    persons = np.array([k.facts["person"] for k, _ in whole])
    tumours = {k.facts["tumour"] for k, _ in whole if k.facts["made"]}
    if len(set(persons[~made])) < FEWEST_HEADS or len(tumours) < FEWEST_HEADS:
        raise TooFewHeads(
            f"{len(set(persons[~made]))} healthy heads and {len(tumours)} tumours are too few to "
            f"fit the rule for studies; need {FEWEST_HEADS} of each that were not learned from"
        )
    slope, intercepts = _logistic(whole, made)
    fitted = replace(plain, slope=slope, intercepts=intercepts)
    evidence = np.array([fitted.evidence(of.score or 0.0, of.plane) for _, of in whole])
    tumor = _threshold(-evidence[~made], FALSE_ALARMS)
    no_tumor = _threshold(evidence[made], missed)
    fitted = replace(fitted, tumor=max(-tumor, no_tumor), no_tumor=min(no_tumor, -tumor))
    fitted = _with_types(fitted, usable, types)
    facts = _facts(fitted.tumor, fitted.no_tumor, evidence, made, persons, missed)
    fitted = replace(
        fitted, fitted={"confidence": CONFIDENCE, "tumours": len(tumours), **facts, "whole": None}
    )
    return _with_volumes(fitted, looked, missed)


def _with_volumes(
    rule: StudyRule, looked: Sequence[tuple[KnownSeries, SeriesEvidence]], missed: float
) -> StudyRule:
    """The rule with thresholds for volumes that are cut in all planes; without, where there are too
    few."""
    by_volume: dict[tuple[str, str], list[tuple[KnownSeries, SeriesEvidence]]] = defaultdict(list)
    for each, of in looked:
        known = each.facts["label"] in rule.tumour_free or each.facts["made"]
        if known and each.facts["volume"]:
            by_volume[each.facts["person"], each.facts["volume"]].append((each, of))
    whole = replace(rule, whole={"tumor": 1.0, "no_tumor": 0.0})
    found = []
    for (person, _), members in by_volume.items():
        units = judged([each.answers for each, _ in members], [of for _, of in members], whole)
        if len(units) == 1 and len(units[0].members) == len(PLANES):
            found.append((units[0].evidence, members[0][0].facts["made"], person))
    evidence = np.array([value for value, _, _ in found], np.float64)
    made = np.array([made for _, made, _ in found], bool)
    persons = np.array([person for _, _, person in found], np.str_)
    if min(len(set(persons[~made])), len(set(persons[made]))) < FEWEST_HEADS:
        return rule
    tumor = -_threshold(-evidence[~made], FALSE_ALARMS)
    no_tumor = _threshold(evidence[made], missed)
    ends = {"tumor": max(tumor, no_tumor), "no_tumor": min(tumor, no_tumor)}
    facts = _facts(ends["tumor"], ends["no_tumor"], evidence, made, persons, missed)
    return replace(rule, whole=ends, fitted={**rule.fitted, "whole": facts})


def _logistic(
    whole: Sequence[tuple[KnownSeries, SeriesEvidence]], made: npt.NDArray[np.bool_]
) -> tuple[float, dict[str, float]]:
    """Slope and a constant for each plane with heads of both kinds; each plane's heads of either
    kind weigh alike."""
    from sklearn.linear_model import LogisticRegression

    scores = np.array([of.score for _, of in whole], np.float64)
    planes = np.array([of.plane or "" for _, of in whole])
    both = [p for p in PLANES if made[planes == p].any() and (~made[planes == p]).any()]
    kept = np.isin(planes, both)
    if not both:
        raise TooFewHeads("no plane has healthy heads and made ones to fit the rule for studies on")
    weights = np.zeros(len(scores))
    for plane in both:
        for kind in (made, ~made):
            cell = (planes == plane) & kind
            weights[cell] = 1 / cell.sum()
    columns = [scores, *((planes == plane).astype(float) for plane in both)]
    model = LogisticRegression(C=100.0, fit_intercept=False, max_iter=1000)
    weights = weights[kept] * kept.sum() / weights[kept].sum()
    model.fit(np.column_stack(columns)[kept], made[kept], weights)
    slope, *constants = model.coef_[0].tolist()
    if slope <= 1e-3:
        raise TooFewHeads("the model does not tell made tumour heads from healthy ones")
    return slope, dict(zip(both, constants, strict=True))


def _threshold(evidence: npt.NDArray[np.float64], target: float) -> float:
    """The highest value below which no more than the target share lies: half way from the last
    that may to the first that may not."""
    rising = np.sort(evidence)
    allowed = int(target * len(rising))
    low = rising[allowed - 1] if allowed else rising[0] - abs(rising[0]) * 0.02
    return float((low + rising[allowed]) / 2)


def _with_types(
    rule: StudyRule,
    usable: Sequence[tuple[KnownSeries, SeriesEvidence]],
    types: Sequence[str],
) -> StudyRule:
    """The rule with the types' temperature and thresholds, chosen on patients' own slices and made
    heads in which a tumour is seen."""
    raw, labels, groups = [], [], []
    for each, of in usable:
        if (
            each.facts["label"] not in types
            or rule.evidence(of.score or 0.0, of.plane) < rule.tumor
        ):
            continue
        width = rule.width(each.answers.distance)
        found = [a for run in runs_of(of, width) for a in in_run(each.answers, of, run)]
        raw.append(mean_of_types(found, rule.tumour_free))
        labels.append(types.index(each.facts["label"]))
        groups.append(each.facts["tumour"])
    if len(set(labels)) < len(types):
        return rule  # no type is answered
    logits, truth = np.array(raw), np.array(labels, np.int64)
    temperature = fit_temperature(logits, truth)
    raised = np.exp(logits / temperature)
    chosen = choose_thresholds(
        raised / raised.sum(axis=1, keepdims=True), truth, types, groups,
        dict.fromkeys(types, TYPE_TARGETS),
    )  # fmt: skip
    thresholds = {label: each.threshold for label, each in chosen.items()}
    return replace(rule, temperature=temperature, types=thresholds)


def _facts(
    tumor: float,
    no_tumor: float,
    evidence: npt.NDArray[np.float64],
    made: npt.NDArray[np.bool_],
    persons: npt.NDArray[np.str_],
    missed: float,
) -> dict[str, Any]:
    """How the thresholds were found: observed shares of errors, and what is supported."""

    def error(
        wrong: npt.NDArray[np.bool_], of: npt.NDArray[np.str_], target: float
    ) -> dict[str, Any]:
        share = float(wrong.mean())
        size = effective_size(wrong, of.tolist())
        bound = float(error_bound(share * size, size, CONFIDENCE)) if size else 1.0
        return {
            "target": target, "share": share, "bound": bound,
            "series": len(wrong), "persons": len(set(of.tolist())),
        }  # fmt: skip

    return {
        "false_alarms": error(evidence[~made] >= tumor, persons[~made], FALSE_ALARMS),
        "missed": error(evidence[made] < no_tumor, persons[made], missed),
    }


def seen_planes(predict: Predict, rule: DecisionRule, side: Dataset) -> Iterator[str | None]:
    """What plane each slice looks like."""
    for seen in rule.seen(predict(side.images)):
        yield seen.plane

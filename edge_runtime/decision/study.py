"""One answer for one patient, from the answers for the slices.

Two rules. `pooled_answer` is that of model files without a field `study`: the mean log-probability
of the slices, whatever their order. `study_answer` is that of files with one, a `StudyRule`. A
whole head is a hundred slices of which a tumour shows in a few, and one odd slice is nearly always
among them; so the rule asks for evidence that persists: in each series the log-odds of a tumour,
slice by slice in their order, pass a running median of three (Tukey, Exploratory data analysis,
1977), which no single slice gets past, and their mean over some millimetres is taken where it is
highest. A logistic function of it, fitted on whole heads, is the evidence that the series shows a
tumour. A volume that was cut in all planes is judged at once, by the mean of their odds: what looks
odd in one plane rarely does in the others, and a tumour is there in all; it has thresholds of its
own. Where no series has three slices, as when somebody picked two, both must show a tumour, and
nothing is called tumour-free.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.decision.prediction import (
    Prediction,
    SliceFacts,
    Status,
    below_threshold,
    failure,
    probabilities,
    status_of,
)
from edge_runtime.decision.view import Seen, View
from edge_runtime.errors import ModelError
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.head import HEAD_SHARE
from edge_runtime.labels import NO_TUMOR, normalise_label

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

METHOD = "persistent-log-odds"
MEDIAN = 3  # slices: one odd one among them changes nothing
FEWEST = 3  # slices of a series that count; fewer cannot persist
PAIR = 2  # slices that can show a tumour, both of them, where no series has more; one cannot
BLIND = 2  # windows of neighbouring slices that cannot be judged: a tumour may hide there
MOST_MM = 1000.0
ENDS = ("tumor", "no_tumor")

Span = tuple[int, int]


@dataclass(frozen=True)
class StudyRule:
    """The parameters of the rule, fitted by `trainer.evaluation.study`.

    Attributes:
        tumour_free: labels that mean "no tumour".
        window: mm over which the evidence is averaged; FEWEST slices at least.
        clip: log-odds of a slice count for no more than that, either way.
        head: slices that show less than this part of the largest cross-section of the head in their
            series are left out: the ends of a head look like nothing that a model learned from.
        brain: mm below the topmost slice that shows the head; axial slices farther down are left
            out, since they show the neck. Only where the distance of slices is known.
        slope: of the logistic function.
        intercepts: its constant for each plane; of an unknown plane the highest.
        tumor: from this evidence on (0-1) a tumour is answered.
        no_tumor: below this evidence none is.
        temperature: divides the mean log-probabilities of the types.
        whole: `tumor` and `no_tumor` of volumes that are cut in all planes; None where the rule was
            fitted on none, so that each plane is judged by itself.
        types: label -> the confidence from which on this type is answered.
        fitted: how it was found, for readers: numbers of heads, target and bound of the errors.
    """

    tumour_free: tuple[str, ...]
    window: float
    clip: float
    head: float
    brain: float
    slope: float
    intercepts: Mapping[str, float]
    tumor: float
    no_tumor: float
    whole: Mapping[str, float] | None
    temperature: float
    types: Mapping[str, float]
    fitted: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The field `study` of `model.json`."""
        shape = asdict(self) | {"tumour_free": list(self.tumour_free)}
        return {"method": METHOD, **shape}

    @classmethod
    def from_json(cls, shape: Mapping[str, Any], labels: Sequence[str]) -> StudyRule:
        """Read what `to_json` wrote.

        Args:
            labels: the model's.

        Raises:
            ModelError: another method, or parameters that do not fit together or the model.
        """
        if shape.get("method") != METHOD:
            raise ModelError(
                f"the rule for studies {str(shape.get('method'))[:40]!r} is not known here: update "
                "btc-edge or export the model again"
            )
        try:
            return _checked(shape, labels)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(f"the rule for studies is damaged: {str(error)[:80]}") from None

    def width(self, distance: float | None) -> int:
        """How many slices the evidence is averaged over.

        Args:
            distance: mm between two slices; None where it is not known.
        """
        if distance is None or not distance > 0:
            return FEWEST
        return max(FEWEST, round(self.window / max(distance, self.window / 1000)))

    def evidence(self, score: float, plane: str | None) -> float:
        """The evidence (0-1) that a series of this score shows a tumour."""
        highest = max(self.intercepts.values())
        raised = self.slope * score + self.intercepts.get(plane or "", highest)
        return 1 / (1 + math.exp(-min(max(raised, -500.0), 500.0)))


def _checked(shape: Mapping[str, Any], labels: Sequence[str]) -> StudyRule:
    """Raises KeyError, TypeError, ValueError or AttributeError for what `to_json` cannot have
    written."""

    def number(name: str, low: float, high: float) -> float:
        value = shape[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(name)
        return float(value)

    def numbers(name: str, keys: Sequence[str], low: float, high: float) -> dict[str, float]:
        of = shape[name]
        if not isinstance(of, dict) or not all(key in keys for key in of):
            raise ValueError(name)
        if not all(type(v) in (int, float) and low <= v <= high for v in of.values()):
            raise ValueError(name)
        return {key: float(value) for key, value in of.items()}

    free = shape["tumour_free"]
    if not isinstance(free, list) or not free or not all(label in labels for label in free):
        raise ValueError("tumour_free")
    others = [label for label in labels if label not in free]
    rule = StudyRule(
        tumour_free=tuple(free),
        window=number("window", 0.1, MOST_MM),
        clip=number("clip", 0.1, 100),
        head=number("head", 0, 1),
        brain=number("brain", 1, MOST_MM),
        slope=number("slope", 1e-3, 1e3),
        intercepts=numbers("intercepts", PLANES, -1e3, 1e3),
        tumor=number("tumor", 0, 1),
        no_tumor=number("no_tumor", 0, 1),
        whole=None if shape["whole"] is None else numbers("whole", ENDS, 0, 1),
        temperature=number("temperature", 1e-3, 1e3),
        types=numbers("types", others, 0, 1),
        fitted=shape["fitted"],
    )
    if not rule.intercepts or rule.no_tumor > rule.tumor or not others:
        raise ValueError("sizes")
    if rule.whole is not None and (
        set(rule.whole) != set(ENDS) or rule.whole["no_tumor"] > rule.whole["tumor"]
    ):
        raise ValueError("whole")
    if set(rule.types) != set(others) or not isinstance(rule.fitted, dict):
        raise ValueError("types")
    return rule


@dataclass(frozen=True)
class SeriesAnswers:
    """The answers for the slices of a series, in their order in space.

    Attributes:
        name, uid: of the series.
        plane, sequence: as its file says; None where it does not.
        distance: mm between two slices; None where it is not known.
        answers: one for each slice, with its `facts`.
        reason: why the series is left out as a whole; None where it is not.
        volume: what tells the cuts of one volume from those of others; None for no such cut.
    """

    name: str
    uid: str | None
    plane: str | None
    sequence: str | None
    distance: float | None
    answers: tuple[Prediction, ...]
    reason: str | None = None
    volume: str | None = None


@dataclass(frozen=True)
class SeriesEvidence:
    """What the rule makes of a series.

    Attributes:
        plane, sequence: as the file says, else what most of its slices look like.
        counted: the slices that count, by number.
        smoothed: the log-odds of a tumour of those, by the running median.
        score: the highest mean over the window; None where the series does not count.
        blind: why a tumour may hide in it: so many neighbouring slices within the head cannot be
            judged, or there are fewer than FEWEST; None where none may.
        reason: why it does not count; None where it does.
    """

    plane: str | None
    sequence: str | None
    counted: tuple[int, ...]
    smoothed: tuple[float, ...]
    score: float | None
    blind: str | None
    reason: str | None


def series_evidence(
    series: SeriesAnswers, rule: StudyRule, view: View | None, fewest: int = FEWEST
) -> SeriesEvidence:
    """Look at one series by itself.

    Slices that could not be read, are out-of-distribution or show little of the head count for
    nothing, and copies of one file count as one where there are few. Its plane and sequence are
    those that the file states, else what most of the others look like; a series of which one was
    not validated does not count.

    Args:
        fewest: slices that must count. Of PAIR the score is the lower one's log-odds.
    """
    plane = series.plane or _most([a.plane for a in series.answers if _is_known(a)])
    within = _within_head(series, plane, rule)
    counted = tuple(i for i in within if _is_known(series.answers[i]))
    known = [series.answers[i] for i in counted]
    sequence = series.sequence or _most([a.sequence for a in known])
    smoothed = _running_median([_log_odds(a, rule) for a in known])
    width = rule.width(series.distance)
    pictures = len({(series.answers[i].sha256 or i, series.answers[i].slice) for i in counted})
    blind = None
    if _longest_gap(within, counted) >= BLIND * width:
        blind = "neighbouring slices within the head cannot be judged"
    if pictures < FEWEST:
        blind = f"{pictures} slices cannot rule one out"
    reason = series.reason
    if reason is None and 2 * len(counted) < len(within):
        reason = (
            f"{len(within) - len(counted)} of {len(within)} slices are unlike those that the model "
            "learned from"
        )
    if reason is None and pictures < fewest:
        reason = f"fewer than {fewest} slices that count"
    new = [] if view is None else view.unvalidated(Seen(plane, sequence))
    if reason is None and new:
        verb = "is" if {series.plane, series.sequence} & set(new) else "looks like"
        reason = f"{verb} {' and '.join(new)}, which the model was not validated for"
    score = None if reason is not None else max(_means(smoothed, width))
    return SeriesEvidence(plane, sequence, counted, smoothed, score, blind, reason)


class Judged(NamedTuple):
    """What is judged at once: a series, or a volume that is cut in all planes.

    Attributes:
        members: the series, by number.
        evidence: that it shows a tumour, 0 to 1.
        tumor, no_tumor: the thresholds for it.
        blind: why a tumour may hide in it; None where none may.
    """

    members: tuple[int, ...]
    evidence: float
    tumor: float
    no_tumor: float
    blind: str | None

    @property
    def rank(self) -> tuple[int, float]:
        """What speaks more for a tumour is higher; thresholds differ, so the verdict comes
        first."""
        return (self.evidence >= self.tumor) + (self.evidence >= self.no_tumor), self.evidence


def judged(
    series: Sequence[SeriesAnswers], looked: Sequence[SeriesEvidence], rule: StudyRule
) -> list[Judged]:
    """The evidence of each series that counts, the planes of a volume together where all do.

    A volume's evidence is by the mean of its planes' odds, so that one plane that is sure is not
    outvoted by two that see nothing.
    """
    evidence = {
        number: rule.evidence(of.score, of.plane)
        for number, of in enumerate(looked)
        if of.score is not None
    }
    volumes: dict[tuple[str | None, int], list[int]] = defaultdict(list)
    for number in evidence:
        volume = series[number].volume
        volumes[volume, number if volume is None else 0].append(number)
    found = []
    for members in volumes.values():
        planes = sorted(looked[number].plane or "" for number in members)
        if rule.whole is None or planes != sorted(PLANES):
            found += [
                Judged((n,), evidence[n], rule.tumor, rule.no_tumor, looked[n].blind)
                for n in members
            ]
            continue
        odds = [evidence[n] / max(1 - evidence[n], 1e-12) for n in members]
        mean = math.fsum(odds) / len(odds)
        found.append(
            Judged(
                tuple(members), mean / (1 + mean), rule.whole["tumor"], rule.whole["no_tumor"],
                looked[members[0]].blind if all(looked[n].blind for n in members) else None,
            )
        )  # fmt: skip
    return found


def _within_head(series: SeriesAnswers, plane: str | None, rule: StudyRule) -> list[int]:
    """The slices that show enough of the head, and not the neck; what could not be read may do
    so."""
    shares = [None if a.facts is None else a.facts.head for a in series.answers]
    shown = [i for i, share in enumerate(shares) if share is None or share >= HEAD_SHARE]
    largest = max((s for s in shares if s is not None), default=0.0)
    lowest = 0.0
    if plane == "axial" and series.distance is not None and shown:
        lowest = shown[-1] - rule.brain / max(series.distance, 1e-3)
    return [
        i
        for i in shown
        if i >= lowest and ((share := shares[i]) is None or share >= rule.head * largest)
    ]


def _is_known(answer: Prediction) -> bool:
    return answer.status not in (Status.ERROR, Status.UNFAMILIAR)


def _log_odds(answer: Prediction, rule: StudyRule) -> float:
    """Of any tumour against none, clipped."""
    by_label = answer.probabilities or {}
    none = math.fsum(p for label, p in by_label.items() if label in rule.tumour_free)
    some = math.fsum(p for label, p in by_label.items() if label not in rule.tumour_free)
    odds = math.log(max(some, 1e-30)) - math.log(max(none, 1e-30))
    return min(max(odds, -rule.clip), rule.clip)


def _running_median(values: Sequence[float]) -> tuple[float, ...]:
    """Of each value and its two neighbours; at an end, which has one, the lower of both."""
    last = len(values) - 1
    return tuple(
        min(values[max(i - 1, 0) : i + 2], default=value)
        if i in (0, last)
        else sorted(values[i - 1 : i + 2])[1]
        for i, value in enumerate(values)
    )


def _means(values: Sequence[float], width: int) -> list[float]:
    """Of each `width` neighbouring values; of all where there are fewer."""
    width = min(width, len(values))
    return [math.fsum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def _longest_gap(within: Sequence[int], counted: Sequence[int]) -> int:
    """Most neighbours among the slices `within` the head of which none is `counted`."""
    known, longest, gap = set(counted), 0, 0
    for i in within:
        gap = 0 if i in known else gap + 1
        longest = max(longest, gap)
    return longest


def study_answer(
    name: str,
    uid: str | None,
    series: Sequence[SeriesAnswers],
    rule: StudyRule,
    model: str,
    view: View | None = None,
    passed_over: Sequence[tuple[str, str]] = (),
    min_confidence: float = 0.0,
) -> Prediction:
    """One answer for the series of one patient.

    What speaks most for a tumour, a series or a volume, decides, so that nothing can outvote it.
    Between the two
    thresholds of the rule, and where no series counts or a tumour may hide among slices that cannot
    be judged, the answer is uncertain.

    Args:
        name, uid: of the study.
        rule: of the model.
        model: its name, for the answer.
        view: the model's, or None.
        passed_over: files that gave no slice, and why.
        min_confidence: below it no label is given.
    """
    answers = tuple(replace(a, facts=None) for s in series for a in s.answers)
    looked = [series_evidence(each, rule, view) for each in series]
    if all(of.score is None for of in looked):
        looked = [series_evidence(each, rule, view, PAIR) for each in series]
    shape = study_json(uid, series, looked, passed_over)
    if not any(a.status is not Status.ERROR for a in answers):
        error = failure(name, model, "no slice could be classified")
        return replace(error, slices=answers, study=shape)
    units = judged(series, looked, rule)
    deciding = max(units, key=lambda unit: unit.rank, default=None)
    tumor = None if deciding is None else deciding.evidence
    first = [0, *np.cumsum([len(each.answers) for each in series]).tolist()]
    runs = [
        (number, span)
        for number in sorted(n for unit in units for n in _speaking(unit, looked, rule))
        for span in runs_of(looked[number], rule.width(series[number].distance))
    ]
    types = _types([a for n, run in runs for a in in_run(series[n], looked[n], run)], rule)
    status, label, reason = _verdict(deciding, units, types, looked, rule)
    by_label = _by_label(answers, tumor, types, rule)
    raw_label = max(by_label, key=by_label.__getitem__)
    if label is not None:
        raw_label = label
        if by_label[label] < min_confidence:
            status, label = Status.UNCERTAIN, None
            reason = below_threshold(min_confidence, raw_label)
    readable = [a for a in answers if a.status is not Status.ERROR]
    best = None if types is None else max(types, key=types.__getitem__)
    return Prediction(
        input=name,
        status=status,
        label=label,
        raw_label=raw_label,
        confidence=by_label[raw_label],
        probabilities=by_label,
        reason=reason,
        sha256=None,
        model=model,
        slices=answers,
        plane=_most([a.plane for a in readable]),
        sequence=_most([a.sequence for a in readable]),
        study=shape
        | {
            "tumor": tumor,
            "type": None
            if best is None or types is None
            else {"label": best, "confidence": types[best]},
            "findings": [
                _finding(number, run, series[number], looked[number], first[number], rule)
                for number, run in runs
            ],
        },
    )


def study_json(
    uid: str | None,
    series: Sequence[SeriesAnswers],
    looked: Sequence[SeriesEvidence] | None,
    passed_over: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """What an answer's `study` says before anything is decided, see docs/shapes.md.

    Args:
        looked: what the rule makes of each series; None where the model has no rule.
    """
    first = np.cumsum([0, *(len(each.answers) for each in series)]).tolist()
    entries = []
    for number, each in enumerate(series):
        of = None if looked is None else looked[number]
        reason = each.reason if of is None else of.reason
        entries.append(
            {
                "uid": each.uid,
                "name": each.name,
                "plane": each.plane if of is None else of.plane,
                "sequence": each.sequence if of is None else of.sequence,
                "first": first[number],
                "slices": len(each.answers),
                "used": reason is None,
                "reason": reason,
            }
        )
    return {
        "uid": uid,
        "tumor": None,
        "type": None,
        "findings": [],
        "series": entries,
        "passed_over": [{"input": name, "reason": why} for name, why in passed_over],
    }


def _speaking(unit: Judged, looked: Sequence[SeriesEvidence], rule: StudyRule) -> Iterator[int]:
    """The series of it, by number, whose findings are told: of a volume in which a tumour cannot
    be ruled out, the planes that say so by themselves, or the one that says most."""
    if unit.evidence < unit.no_tumor:
        return
    of = {n: rule.evidence(looked[n].score or 0.0, looked[n].plane) for n in unit.members}
    most = max(of.values())
    yield from (n for n, value in of.items() if value >= min(rule.no_tumor, most))


def _verdict(
    deciding: Judged | None,
    units: Sequence[Judged],
    types: Mapping[str, float] | None,
    looked: Sequence[SeriesEvidence],
    rule: StudyRule,
) -> tuple[Status, str | None, str | None]:
    """Status, label and the reason of a status that is not ok."""
    if deciding is None:
        why = Counter(of.reason for of in looked if of.reason).most_common(1)
        reason = f"no series can be judged: {why[0][0] if why else 'there is none'}"
        outside = all("unlike" in (of.reason or "") for of in looked)
        return (Status.UNFAMILIAR if outside else Status.UNCERTAIN), None, reason
    tumor = deciding.evidence
    if tumor >= deciding.tumor and types is not None:
        best = max(types, key=types.__getitem__)
        if types[best] >= rule.types[best]:
            return Status.OK, best, None
        return Status.UNCERTAIN, None, "a tumour is seen, but not surely of which type"
    if tumor >= deciding.no_tumor:
        return (
            Status.UNCERTAIN,
            None,
            (
                f"the evidence of a tumour, {tumor:.3f}, is neither below {deciding.no_tumor:.3f} "
                f"nor from {deciding.tumor:.3f} on"
            ),
        )
    for unit in units:
        if unit.blind:
            return Status.UNCERTAIN, None, f"no tumour is seen, but {unit.blind}"
    return Status.OK, rule.tumour_free[0], None


def _by_label(
    answers: Sequence[Prediction],
    tumor: float | None,
    types: Mapping[str, float] | None,
    rule: StudyRule,
) -> dict[str, float]:
    """A probability of each label, in the model's order: of a tumour the evidence, divided by
    type; where there is none, as the slices say on average."""
    of_slices = [a.probabilities for a in answers if a.probabilities]
    labels = list(of_slices[0])
    mean = {label: math.fsum(p[label] for p in of_slices) / len(of_slices) for label in labels}
    if tumor is None:
        return mean
    sides = {True: 1 - tumor, False: tumor}
    whole = {
        side: math.fsum(mean[label] for label in labels if (label in rule.tumour_free) is side)
        for side in sides
    }

    def share(label: str) -> float:
        side = label in rule.tumour_free
        if not side and types is not None:
            return types[label]
        return mean[label] / whole[side] if whole[side] > 0 else 0.0

    return {label: sides[label in rule.tumour_free] * share(label) for label in labels}


def runs_of(of: SeriesEvidence, width: int) -> Iterator[Span]:
    """First and last place, among the slices that count, of each run of neighbours that speak for
    a tumour; of those within the highest window where there is none."""
    means = _means(of.smoothed, width)
    top = means.index(max(means))
    width = min(width, len(of.smoothed))
    best = (top, top + width - 1)
    runs: list[list[int]] = []
    for place, value in enumerate(of.smoothed):
        if value <= 0:
            continue
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    long = [(first, last) for first, last in runs if last - first + 1 >= FEWEST]
    reaches = [run for run in long if run[0] <= best[1] and run[1] >= best[0]]
    yield from long if reaches else sorted([*long, best])


def in_run(series: SeriesAnswers, of: SeriesEvidence, run: Span) -> list[Prediction]:
    """The answers of a run of `runs_of`."""
    return [series.answers[of.counted[place]] for place in range(run[0], run[1] + 1)]


def _types(answers: Sequence[Prediction], rule: StudyRule) -> dict[str, float] | None:
    """The probability of each type, if it is a tumour; None without slices that speak for one."""
    if not answers:
        return None
    raw = mean_of_types(answers, rule.tumour_free)
    shares = probabilities(raw, rule.temperature).tolist()
    return dict(zip(_of_types(answers[0], rule.tumour_free), shares, strict=True))


def mean_of_types(answers: Sequence[Prediction], tumour_free: Sequence[str]) -> Floats:
    """The mean log-probability of each type over some slices, if they show a tumour."""
    rows = [list(_of_types(answer, tumour_free).values()) for answer in answers]
    mean: Floats = np.log(np.maximum(np.array(rows, np.float64), 1e-7)).mean(axis=0)
    return mean


def _of_types(answer: Prediction, tumour_free: Sequence[str]) -> dict[str, float]:
    """What a slice's probabilities say of the types, if it is a tumour."""
    by_label = answer.probabilities or {}
    some = {label: p for label, p in by_label.items() if label not in tumour_free}
    whole = math.fsum(some.values())
    return {label: p / whole if whole > 0 else 1 / len(some) for label, p in some.items()}


def _finding(
    number: int, run: Span, series: SeriesAnswers, of: SeriesEvidence, first: int, rule: StudyRule
) -> dict[str, Any]:
    """A run as the answer's JSON tells it; the strongest slice is the one with the highest
    log-odds of its own among those of the highest median."""
    places = range(run[0], run[1] + 1)
    odds = {p: _log_odds(series.answers[of.counted[p]], rule) for p in places}
    strongest = of.counted[max(places, key=lambda p: (of.smoothed[p], odds[p], -p))]
    facts = series.answers[strongest].facts
    labels = list(series.answers[strongest].probabilities or {})
    return {
        "series": number,
        "first": first + of.counted[run[0]],
        "last": first + of.counted[run[1]],
        "slice": first + strongest,
        "box": None if facts is None else tumour_box(facts, labels, rule.tumour_free),
    }


def tumour_box(
    facts: SliceFacts, labels: Sequence[str], tumour_free: Sequence[str]
) -> list[float] | None:
    """Where the class maps of a slice speak most for a tumour.

    The cells that hang together with the highest one and reach half way up from the mean to it.

    Args:
        labels: of the maps, in their order.

    Returns:
        Left, top, width and height as fractions of the slice's own width and height; None without
        maps.
    """
    if facts.class_maps is None:
        return None
    maps = facts.class_maps.astype(np.float64)
    free = np.array([label in tumour_free for label in labels])
    heat = np.logaddexp.reduce(maps[..., ~free], axis=-1)
    heat = heat - np.logaddexp.reduce(maps[..., free], axis=-1)
    high = heat >= (heat.max() + heat.mean()) / 2
    start = np.unravel_index(int(heat.argmax()), heat.shape)
    cells = _connected(high, (int(start[0]), int(start[1])))
    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    left, top, right, bottom = facts.crop
    across, down = (right - left) / heat.shape[1], (bottom - top) / heat.shape[0]
    box = [
        min(max(side, 0.0), 1.0)
        for side in (
            left + min(columns) * across,
            top + min(rows) * down,
            left + (max(columns) + 1) * across,
            top + (max(rows) + 1) * down,
        )
    ]
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _connected(high: npt.NDArray[np.bool_], start: Span) -> set[Span]:
    """The true cells that hang together with `start`, side by side."""
    found, edge = {start}, [start]
    while edge:
        row, column = edge.pop()
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= r < high.shape[0] and 0 <= c < high.shape[1]
            if inside and high[r, c] and (r, c) not in found:
                found.add((r, c))
                edge.append((r, c))
    return found


def pooled(of_slices: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probabilities of a study: the mean log-probability of its slices (N×C), normalised. Of
    N×M×C those of M studies.

    The rule behind every figure "per study".
    """
    return probabilities(np.log(np.maximum(of_slices.astype(np.float64), 1e-7)).mean(axis=0))


def pooled_answer(
    name: str,
    answers: Sequence[Prediction],
    thresholds: Mapping[str, float | None],
    model: str,
    view: View | None = None,
) -> Prediction:
    """Pool the answers of one patient's slices.

    Slices that could not be read, are out-of-distribution or look like what the model was not
    validated for count for nothing. Where most are out-of-distribution, so is the study; where
    most of the others were not validated, it is not answered. A study is not reported as
    tumour-free while one of its slices is surely reported as a tumour: a tumour shows in a few
    slices of many, and the others would outvote them.

    Args:
        name: of the study, for the answer.
        answers: of its slices, with probabilities in the order of `thresholds`.
        thresholds: of each of the model's labels in their order, see `status_of`.
        model: name of the model, for the answer.
        view: the model's, or None.
    """
    readable = [a for a in answers if a.status is not Status.ERROR]
    if not readable:
        error = failure(name, model, "no slice could be classified")
        return replace(error, slices=tuple(answers))
    familiar = [a for a in readable if a.status is not Status.UNFAMILIAR]
    unvalidated = [_unvalidated(view, a) for a in familiar]
    known = [a for a, new in zip(familiar, unvalidated, strict=True) if not new]
    pool = known or familiar or readable
    labels = list(thresholds)
    by_label = pooled(np.array([list((a.probabilities or {}).values()) for a in pool], np.float64))
    best = int(by_label.argmax())
    label, confidence = labels[best], float(by_label[best])
    threshold = thresholds[label]
    is_ood = 2 * len(familiar) < len(readable) or not familiar
    validated = 2 * len(known) >= len(familiar) and bool(known)
    status = status_of(confidence, threshold, is_ood, validated)
    reason = None
    if status is Status.UNFAMILIAR:
        ood = len(readable) - len(familiar)
        reason = f"{ood} of {len(readable)} slices are unlike those that the model learned from"
    elif not validated:
        value, _ = Counter(chain.from_iterable(unvalidated)).most_common(1)[0]
        reason = (
            f"{len(familiar) - len(known)} of {len(readable)} slices look like what the model was "
            f"not validated for, such as {value}"
        )
    elif status is Status.UNCERTAIN:
        reason = below_threshold(threshold, label)
    elif normalise_label(label) == NO_TUMOR:
        tumour = sum(a.label is not None and normalise_label(a.label) != NO_TUMOR for a in known)
        if tumour:
            status = Status.UNCERTAIN
            reason = f"{tumour} of {len(readable)} slices are predicted as a tumour"
    return Prediction(
        input=name,
        status=status,
        label=label if status is Status.OK else None,
        raw_label=label,
        confidence=confidence,
        probabilities=dict(zip(labels, by_label.tolist(), strict=True)),
        reason=reason,
        sha256=None,
        model=model,
        slices=tuple(answers),
        plane=_most([a.plane for a in readable]),
        sequence=_most([a.sequence for a in readable]),
    )


def _unvalidated(view: View | None, answer: Prediction) -> list[str]:
    """What of a slice's plane and sequence the model was not validated for."""
    return [] if view is None else view.unvalidated(Seen(answer.plane, answer.sequence))


def _most(values: Sequence[str | None]) -> str | None:
    """The value that more than half of the slices have, or None."""
    if not values:
        return None
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None

"""Answering only when sure enough: thresholds for a stated error rate, and what they cost.

After Chow, On optimum recognition error and reject tradeoff (1970), and Geifman and El-Yaniv,
Selective classification for deep neural networks (2017), whose guarantee is meant: with the stated
confidence over draws of the validation side, no more than the target share of a class's answers is
wrong. Three things are done to make that hold:

- The error rate is bounded by the binomial tail (Clopper and Pearson), as in the paper, not taken
  as it was observed.
- Slices of a group err together. Errors and answers are divided by the design effect of the
  errors (`trainer.evaluation.intervals`), estimated over all classes' errors: one class has too
  few. Where there are no errors to estimate it from, groups count as units. Of a tumour-free class,
  whose errors cost most, its own errors are asked as well and the worse effect counts: without an
  error of its own, its groups are units.
- Thresholds are tried from the surest down, and the first that fails ends the search (fixed
  sequence testing, Angelopoulos et al., Learn then test, 2021), so that no share of the confidence
  is lost to the number of thresholds tried, as it is in the paper's union bound. Where the search
  begins and how far it steps depends on numbers of slices and groups only, and on how errors
  cluster.

What it does not cover: a tumour class whose errors come together more than those of the others
(its confidence may then be 0.8 where 0.9 is stated); that the validation side has also chosen a
network's best epoch and the temperature, so that it flatters the model a little; another scanner or
population than that of the validation side; and the confidence is that of each class by itself, not
of all of them at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import UsageError, did_you_mean
from edge_runtime.labels import NO_TUMOR, normalise_label
from trainer.evaluation.intervals import pooled_effect
from trainer.evaluation.metrics import share_of

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TUMOUR_FREE = 0.25  # of an asked rate, where the answer is no tumour: that error costs most
CONFIDENCE = 0.9
LOWEST = "lowest"  # the least error rate of a ladder that the validation side supports
LADDER = (0.002, 0.005, *(step / 100 for step in range(1, 31)))
LADDER_TUMOUR_FREE = tuple(rate for rate in LADDER if rate <= 0.1)
FORMER_TARGET = 0.02  # of runs before there were targets, where nothing else was asked for
STEP = 1.05  # each threshold that is tried answers so many times as many slices as the one before


@dataclass(frozen=True)
class Targets:
    """The error rates that thresholds are chosen for.

    Attributes:
        overall: of every class that is not named; a tumour-free class has TUMOUR_FREE of it. None
            is LOWEST: the lowest of LADDER that is supported, of a tumour-free class of
            LADDER_TUMOUR_FREE.
        classes: label -> its own target, or None.
        confidence: that a threshold keeps its target, 0-1.
    """

    overall: float | None = None
    classes: Mapping[str, float | None] = field(default_factory=dict)
    confidence: float = CONFIDENCE

    def resolve(
        self, labels: Sequence[str], tumour_free: Iterable[str] = ()
    ) -> dict[str, tuple[float, ...]]:
        """Label -> the rates that will do, the best first.

        Args:
            tumour_free: labels that mean "no tumour", besides the usual spellings of `notumor`.

        Raises:
            UsageError: a target for a label that is not there.
        """
        for name in self.classes:
            if name not in labels:
                raise UsageError(
                    f"--target-error {name}=…: no class of that name; there are "
                    f"{', '.join(labels)}{did_you_mean(name, labels)}"
                )
        free = tumour_free_among(labels, tumour_free)
        rates = {}
        for label in labels:
            asked = self.classes.get(label, self.overall)
            if asked is None:
                rates[label] = LADDER_TUMOUR_FREE if label in free else LADDER
            elif label in free and label not in self.classes:
                rates[label] = (asked * TUMOUR_FREE,)
            else:
                rates[label] = (asked,)
        return rates

    def __str__(self) -> str:
        named = {"": self.overall} | dict(self.classes)
        words = [
            f"{name}{'=' * bool(name)}{LOWEST if rate is None else f'{rate:g}'}"
            for name, rate in named.items()
        ]
        return f"{', '.join(words)} with a confidence of {self.confidence:g}"

    def to_json(self) -> dict[str, Any]:
        """The field `targets` of run.json."""
        return {
            "overall": self.overall,
            "classes": dict(self.classes),
            "confidence": self.confidence,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Targets:
        """What run.json asks for; a run of an older version has one `max_error` for all, which
        counts where it is not the one that nobody asked for."""
        asked = settings.get("targets")
        if asked is None:
            former = settings.get("max_error")
            if former is None or former == FORMER_TARGET:
                return cls()
            return cls(max(float(former), LADDER[0]))  # 0 asked for no error at all
        return cls(asked["overall"], dict(asked["classes"]), float(asked["confidence"]))


def tumour_free_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that run.json says to mean "no tumour"."""
    return tuple(settings.get("tumour_free") or ())


def tumour_free_among(labels: Iterable[str], named: Iterable[str] = ()) -> set[str]:
    """The labels that mean "no tumour": those named, and the usual spellings of `notumor`."""
    return {label for label in labels if normalise_label(label) == NO_TUMOR} | set(named)


def parse_targets(texts: Iterable[str], confidence: float, default: Targets) -> Targets:
    """`--target-error`, given once or more: `0.02`, or `notumor=0.005` for one class; LOWEST in
    place of a number.

    Args:
        default: what holds where nothing is given.

    Raises:
        UsageError: no share below 1, or a repeated one.
    """
    given: dict[str, float | None] = {}
    for text in texts:
        name, equals, number = (part.strip() for part in text.rpartition("="))
        name = normalise_label(name) if name else name
        if bool(name) != bool(equals):
            raise UsageError(f"--target-error {text!r}: name the class, as notumor=0.005")
        if name in given:
            raise UsageError(f"--target-error {text!r}: this target is given twice")
        given[name] = _share(text, number)
    whole = {"": default.overall} if "" not in given else {}
    classes = dict(default.classes) if whole else {}
    classes |= {name: value for name, value in given.items() if name}
    return Targets((whole | given)[""], classes, confidence)


def asked_targets(options: Mapping[str, Any], default: Targets) -> Targets:
    """The targets of a command's options `target_error`, `max_error` (its older name, for all
    classes) and `confidence`; `default` holds where they say nothing."""
    older = options["max_error"]
    texts = [*options["target_error"], *([] if older is None else [repr(older)])]
    confidence = options["confidence"]
    return parse_targets(texts, default.confidence if confidence is None else confidence, default)


def _share(text: str, number: str) -> float | None:
    if number == LOWEST:
        return None
    try:
        value = float(number)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise UsageError(
            f"--target-error {text!r}: give a share between 0 and 1, as 0.02, or {LOWEST}"
        )
    return value


@dataclass(frozen=True)
class Chosen:
    """What was found for one class.

    Attributes:
        threshold: an answer counts where its confidence is at least that (see `status_of`); 1
            means never.
        target: the error rate that was taken; the last one tried where the class is not answered.
        bound: the error rate that the data support at the threshold; where the class is not
            answered, the lowest at any threshold (None where validation never predicted it).
        slices, groups: validation slices of this prediction that are not refused, and their
            groups.
        effective: how many independent slices they are worth.
    """

    threshold: float
    target: float
    bound: float | None
    slices: int
    groups: int
    effective: float

    @property
    def answered(self) -> bool:
        """Whether the class is ever answered."""
        return self.threshold < 1

    def refusal(self, label: str) -> str | None:
        """Why the class is not answered, in one line; None where it is."""
        if self.answered:
            return None
        if self.bound is None:
            return f"{label}: not answered: no slice of the validation side is predicted so"
        size = f"{self.groups} group{'s' * (self.groups > 1)}"
        size += f" ({self.slices} slice{'s' * (self.slices > 1)})"
        return (
            f"{label}: not answered: {size} on the validation side support no error under "
            f"{100 * self.bound:.1f} %; {100 * self.target:.3g} % was asked for"
        )


HINT = (
    f"--target-error CLASS=SHARE asks for another share, CLASS={LOWEST} for the lowest that the "
    f"validation side supports, up to {100 * LADDER[-1]:g} % and "
    f"{100 * LADDER_TUMOUR_FREE[-1]:g} % of a tumour-free class"
)


def refusals(chosen: Mapping[str, Chosen]) -> list[str]:
    """A line for each class that is not answered."""
    lines = (each.refusal(label) for label, each in chosen.items())
    return [line for line in lines if line is not None]


def error_bound(errors: npt.ArrayLike, answers: npt.ArrayLike, confidence: float) -> Floats:
    """The error rate that is not exceeded with the stated confidence (Clopper and Pearson, The use
    of confidence or fiducial limits illustrated in the case of the binomial, 1934).

    Args:
        errors, answers: counts of independent slices, of any one shape; no whole numbers where
            they are effective ones (Korn and Graubard, 1998).
    """
    from scipy.special import betaincinv

    wrong, right = np.asarray(errors, float), np.subtract(answers, errors)
    bound: Floats = np.where(
        right > 0, betaincinv(wrong + 1, np.maximum(right, 1e-9), confidence), 1.0
    )
    return bound


def choose_thresholds(
    probabilities: Floats,
    labels: Labels,
    class_names: Sequence[str],
    groups: Sequence[str],
    targets: Mapping[str, Sequence[float]],
    confidence: float = CONFIDENCE,
    ood: Mask | None = None,
    strict: Container[str] = (),
    former: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Chosen]:
    """For each class the lowest confidence at which the validation side supports its target.

    Args:
        probabilities: N×C of the validation side.
        labels: N indices.
        groups: N names; what belongs together errs together.
        targets: label -> shares of wrong answers among those given (0-1), rising: the first that
            is supported is taken. Where there are several, the same slices choose, and the
            confidence is nominal (the simulation in the tests finds it kept).
        confidence: that the target is kept, for each class (0-1).
        ood: which of the N slices the device would refuse beforehand; None for none.
        strict: labels whose own errors must show how they cluster as well.
        former: label -> threshold and target that held for other outputs of the same graph. The
            threshold is kept, or raised as far as the target asks for, or chosen anew where none
            above it will do; where none will do at all, the next of the targets is taken. Where it
            is raised the confidence is nominal.
    """
    kept = np.ones(len(labels), bool) if ood is None else ~ood
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    predicted, level = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = predicted != labels
    # Errors that come together: those of one group with the same prediction.
    cells = (member * len(class_names) + predicted)[kept & wrong]
    bursts = np.bincount(cells).astype(np.float64)
    chosen = {}
    for c, name in enumerate(class_names):
        rows = np.flatnonzero(kept & (predicted == c))
        rows = rows[np.argsort(-level[rows], kind="stable")]
        own = np.bincount(member[rows][wrong[rows]]).astype(np.float64)
        known = [bursts, own] if name in strict else [bursts]
        ranked = _Ranked.of(level[rows], wrong[rows], member[rows], known)
        known_one = (former or {}).get(name)
        chosen[name] = _first_answered(ranked.tried(targets[name], known_one, confidence))
    return chosen


def _first_answered(tried: Iterable[Chosen]) -> Chosen:
    """The first that is answered, or the last."""
    for each in tried:
        if each.answered:
            break
    return each


@dataclass(frozen=True)
class _Ranked:
    """The predictions of one class on the validation side, the surest first.

    Attributes:
        level: n confidences, falling.
        size, errors: n effective numbers of answers, and of errors, down to each.
        possible: places of the last of equal confidences: these are answered together or not.
        groups: number of groups.
    """

    level: Floats
    size: Floats
    errors: Floats
    possible: Labels
    groups: int

    @classmethod
    def of(cls, level: Floats, wrong: Mask, member: Labels, bursts: Sequence[Floats]) -> _Ranked:
        """From n confidences, falling, whether each prediction is wrong, and numbers of groups.

        Args:
            bursts: numbers of errors that come together, each list another estimate of how they
                cluster: the worst one counts.
        """
        firsts = np.zeros(len(level))
        firsts[np.unique(member, return_index=True)[1]] = 1
        answers = np.arange(1, len(level) + 1)
        effects = [
            pooled_effect(
                float(np.square(each).sum()), float(each.sum()), answers / np.cumsum(firsts)
            )
            for each in bursts
        ]
        effect = np.maximum.reduce(effects)
        last = np.append(level[1:] < level[:-1], True)[: len(level)]
        return cls(
            level, answers / effect, np.cumsum(wrong) / effect, np.flatnonzero(last),
            int(firsts.sum()),
        )  # fmt: skip

    def tried(
        self, targets: Sequence[float], former: tuple[float, float] | None, confidence: float
    ) -> Iterator[Chosen]:
        """One after the other, the best first; see `choose_thresholds`."""
        if former is None:
            yield from (self.choose(target, confidence) for target in targets)
            return
        threshold, promised = former
        for target in (promised, *(rate for rate in targets if rate > promised)):
            kept = self.keep(threshold, target, confidence)
            yield self.choose(target, confidence) if kept is None else kept

    def keep(self, threshold: float, target: float, confidence: float) -> Chosen | None:
        """A threshold that is known, or the lowest above it that is supported; None where none
        is."""
        bounds = error_bound(self.errors, self.size, confidence)
        places = self.possible[self.level[self.possible] >= threshold]
        for place in places[::-1].tolist():
            if bounds[place] <= target:
                level = threshold if place == places[-1] else float(self.level[place])
                facts = len(self.level), self.groups, float(self.size[-1])
                return Chosen(level, target, float(bounds[place]), *facts)
        return None

    def choose(self, target: float, confidence: float) -> Chosen:
        """The lowest threshold that is supported."""
        if len(self.level) == 0:
            return Chosen(1.0, target, None, 0, 0, 0.0)
        bounds = error_bound(self.errors, self.size, confidence)
        facts = len(self.level), self.groups, float(self.size[-1])
        supported = None
        for place in _sequence(self.possible, self.size, target, confidence):
            if bounds[place] > target:
                break
            supported = place
        if supported is None:
            return Chosen(1.0, target, float(bounds[self.possible].min()), *facts)
        # Between the lowest confidence that is answered and the next one below.
        last = supported + 1 == len(self.level)
        threshold = 0.0 if last else float(self.level[supported : supported + 2].mean())
        return Chosen(threshold, target, float(bounds[supported]), *facts)


def _sequence(possible: Labels, size: Floats, target: float, confidence: float) -> list[int]:
    """Places of the thresholds to try, in order, down to all slices.

    They begin where the slices would bear one error, if that is within the surer half of them: a
    single odd slice then does not end the search. Otherwise where they would bear none. Empty where
    all of them would not bear even that.

    Args:
        possible: places, rising.
        size: effective number of slices answered at each place.
    """
    for errors, within in ((1.0, possible[-1] / 2), (0.0, possible[-1])):
        bearing = possible[error_bound(errors, size[possible], confidence) <= target]
        if bearing.size and bearing[0] <= within:
            break
    sequence, reached = [], 0.0
    for place in possible[possible >= bearing[0]].tolist() if bearing.size else ():
        if place + 1 >= reached or place == possible[-1]:
            sequence.append(place)
            reached = STEP * (place + 1)
    return sequence


def risk_coverage(probabilities: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Coverage and error rate (N each) when only the surest 1, 2, … N slices are answered."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(wrong) / answered


def selective_metrics(
    answered: Mask, correct: Mask, groups: Sequence[str], predicted: Sequence[str]
) -> dict[str, Any]:
    """How many slices get an answer and how many of those answers are wrong, of all slices and of
    those for which a class is predicted.

    Args:
        predicted: N labels, the best guesses.
    """
    names = np.asarray(predicted)
    per_class = {
        name: _answers(answered, correct, groups, names == name) for name in sorted(set(predicted))
    }
    return _answers(answered, correct, groups, np.ones(len(names), bool)) | {"per_class": per_class}


def _answers(answered: Mask, correct: Mask, groups: Sequence[str], among: Mask) -> dict[str, Any]:
    member = np.asarray(groups)
    given = answered & among
    return {
        "coverage": share_of(answered[among], member[among].tolist()),
        "error": share_of(~correct[given], member[given].tolist()),
    }

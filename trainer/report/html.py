"""The pictures and the page of a run: `report.html`, whole in itself, no network needed.

Every figure on the page stands in metrics.json: the template asks for it by its place there, and
the page keeps that place beside the figure (`<data data-key=… value=…>`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.decision.heatmap import overlay
from edge_runtime.files import write_text
from edge_runtime.imaging.preprocess import Preprocess, steps_in_words
from edge_runtime.model.metadata import INTENDED_USE
from trainer.evaluation.baselines import BASELINES
from trainer.evaluation.examples import Examples
from trainer.evaluation.importance import Importance
from trainer.evaluation.intervals import NOT_ESTIMABLE, in_words
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.saliency import METHODS
from trainer.report import charts
from trainer.report.display_names import model_name, model_noun
from trainer.report.templates import inline_picture, page_environment

if TYPE_CHECKING:
    import numpy.typing as npt

METRIC_NAMES = ("precision", "recall", "specificity", "f1", "auc", "average_precision")
HEADS = ("precision", "recall", "specificity", "F1", "ROC AUC", "PR AUC")


@dataclass(frozen=True)
class ReportData:
    """What a report is made of.

    Attributes:
        folder: where report.html and the pictures go.
        settings: of the run, as run.json holds them.
        histories: one list of epochs a training.
        predictions, metrics: of the side reported on.
        examples: with rows in the table of predictions.
        importance: of a classical model's features; None for a network, or where it is not known.
    """

    folder: Path
    settings: dict[str, Any]
    histories: Sequence[list[dict[str, float]]]
    predictions: Predictions
    metrics: dict[str, Any]
    examples: Examples
    importance: Importance | None = None


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text; a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def summary_line(metrics: dict[str, Any], unit: str = "slices") -> str:
    """Protocol, size, accuracy and interval in one sentence."""
    spread = in_words(metrics["interval95"]["accuracy"], percent)
    return (
        f"{metrics['split'].capitalize()} side, protocol '{metrics['protocol']}': "
        f"{metrics['n']} {unit} in {metrics['groups']} groups, "
        f"accuracy {percent(metrics['accuracy'])} % (95 % interval over groups "
        f"{spread}), balanced {percent(metrics['balanced_accuracy'])} %."
    )


def summary_lines(metrics: dict[str, Any]) -> list[str]:
    """What a terminal shows of metrics.json: the test side, its parts, the baselines."""
    lines = [summary_line(metrics)]
    for part, unit in (
        ("without_near_duplicates", "slices"),
        ("without_shared_groups", "slices"),
        ("without_doubtful", "slices"),
        ("per_study", "studies"),
    ):
        if metrics.get(part):
            lines.append(summary_line(metrics[part], unit))
    for name, baseline in (metrics.get("baselines") or {}).items():
        spread = in_words(baseline["interval95"]["accuracy"], percent)
        lines.append(
            f"Baseline, {BASELINES[name]}: accuracy {percent(baseline['accuracy'])} % "
            f"({spread}), balanced {percent(baseline['balanced_accuracy'])} %."
        )
    if words := only_class(metrics) or beside_baselines(metrics):
        lines.append(words)
    answered, refused = metrics.get("selective"), metrics.get("unfamiliar")
    if answered and refused:
        wrong = f", of which {percent(answered['error']['share'])} % wrong"
        lines.append(
            f"Answers {percent(answered['coverage']['share'])} % of the slices"
            f"{wrong if answered['error']['n'] else ''}; refuses {percent(refused['share'])} % "
            "as unlike those seen in training."
        )
        targets = answered.get("target_error") or {}
        for name, part in (answered.get("per_class") or {}).items():
            asked = f", {percent(targets[name])} % asked for" if name in targets else ""
            if part["error"]["n"]:
                spread = in_words(part["error"]["interval95"], percent)
                lines.append(
                    f"{name}: answers {percent(part['coverage']['share'])} % of "
                    f"{part['coverage']['n']} predictions, "
                    f"{percent(part['error']['share'])} % of them wrong ({spread}{asked})."
                )
    if partial := metrics.get("partial"):
        spread = in_words(partial["outside"]["interval95"], percent)
        lines.append(
            f"Of {partial['n']} partly labelled slices it did not learn from, "
            f"{percent(partial['outside']['share'])} % ({spread}) were "
            f"predicted outside their set, {percent(partial['outside_answered']['share'])} % with "
            "an answer."
        )
    return lines


def only_class(metrics: dict[str, Any]) -> str:
    """What figures on slices of one class mean, in one sentence; empty where there are several."""
    there = [name for name, figures in metrics["per_class"].items() if figures["n"]]
    if len(there) > 1:
        return ""
    return (
        f"All of them are {there[0]}: accuracy is the share that is recognised, and whoever always "
        f"says {there[0]} reaches 100 %. No figure here tells how well it is told from others."
    )


def beside_baselines(metrics: dict[str, Any]) -> str:
    """What the baselines say of the model, in one sentence."""
    baselines = metrics.get("baselines") or {}
    if not baselines:
        return ""
    name, best = max(baselines.items(), key=lambda item: item[1]["balanced_accuracy"])
    reached = f"{percent(best['balanced_accuracy'])} %"
    interval = metrics["interval95"]["balanced_accuracy"]
    if interval is None:
        return (
            f"The best baseline ({BASELINES[name]}) reaches {reached} balanced; whether the model "
            "beats it cannot be told from so few groups."
        )
    if interval[0] > best["balanced_accuracy"]:
        return f"It beats the best baseline ({BASELINES[name]}), which reaches {reached} balanced."
    return (
        f"It is not clearly better than a baseline: {BASELINES[name]} reaches {reached} balanced. "
        "On this protocol the model has shown nothing that such a method cannot do."
    )


def write_report(report: ReportData) -> None:
    """curves.png, confusion.png and report.html."""
    metrics, names = report.metrics, report.predictions.class_names
    folder, examples = report.folder, _examples(report)
    noun = model_noun(report.settings)
    if any(report.histories):
        charts.save_chart(charts.curves_chart(report.histories), folder / "curves.png")
    confusion = charts.confusion_chart(metrics["confusion"], names)
    charts.save_chart(confusion, folder / "confusion.png")
    page = (
        _environment(metrics)
        .get_template("report.html")
        .render(
            settings=report.settings,
            metrics=metrics,
            names=names,
            summary=summary_line(metrics),
            model=model_name(report.settings),
            noun=noun,
            only_class=only_class(metrics),
            beside_baselines=beside_baselines(metrics),
            intended_use=INTENDED_USE,
            metric_names=list(zip(METRIC_NAMES, HEADS, strict=True)),
            baselines=BASELINES,
            heat_method=METHODS.get(report.settings.get("heatmap") or "", ""),
            charts=_charts(report),
            steps=steps_in_words(Preprocess.from_json(report.settings["preprocess"])),
            examples=examples,
            one_a_class=_one_a_class(examples),
            ends=_ends(report.importance),
            plain_settings=_plain(report.settings),
        )
    )
    write_text(folder / "report.html", page)


def _environment(metrics: dict[str, Any]) -> Any:
    """Jinja with `num` and `span`, which show figures by their place in metrics.json."""
    from markupsafe import Markup

    def look_up(key: str) -> Any:
        value: Any = metrics
        for part in key.split("/"):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    def num(key: str, style: str = "percent") -> Markup:
        value = look_up(key)
        if value is None:
            return Markup('<span class="none">–</span>')
        text = percent(value) if style == "percent" else format(value, style)
        return Markup('<data data-key="{}" value="{}">{}</data>').format(key, repr(value), text)

    def span(key: str, style: str = "percent") -> Markup:
        if look_up(key) is None:
            return Markup('<span class="interval">{}</span>').format(NOT_ESTIMABLE)
        low, high = num(f"{key}/0", style), num(f"{key}/1", style)
        return Markup('<span class="interval">{}–{}</span>').format(low, high)

    environment = page_environment(Path(__file__).parent)
    environment.globals.update(num=num, span=span)
    return environment


def _charts(report: ReportData) -> dict[str, str]:
    """Name -> data URL."""
    predictions, metrics = report.predictions, report.metrics
    probabilities, labels = predictions.probabilities, predictions.labels
    selective = metrics.get("selective")
    chosen = None
    if selective and selective["error"]["share"] is not None:
        chosen = selective["coverage"]["share"], selective["error"]["share"]
    drawn = {
        "confusion": charts.confusion_chart(metrics["confusion"], predictions.class_names),
        "reliability": charts.reliability_chart(probabilities, labels),
        "coverage": charts.coverage_chart(probabilities, labels, chosen),
    }
    if len(np.unique(labels)) > 1:
        names = predictions.class_names
        drawn["ranking"] = charts.ranking_chart(probabilities, labels, names)
    if any(report.histories):
        drawn["curves"] = charts.curves_chart(report.histories)
    if importance := metrics.get("importance"):
        drawn["importance"] = charts.importance_chart(importance["sets"], importance["parts"])
    return {name: charts.inline_chart(figure) for name, figure in drawn.items()}


def _examples(report: ReportData) -> list[dict[str, Any]]:
    """The examples as the template takes them, in their order.

    The pictures are data URLs; the whole slice (`before`) and `heat` are None where there is
    none. The tumour's box is drawn once, on the last picture of an example.
    """
    kept, table = report.examples, report.predictions.table
    examples = []
    for i, row in enumerate(kept.rows):
        facts = table.iloc[int(row)]
        plain, box = _as_colour(kept.pixels[i]), kept.boxes[i]
        heat = None
        if kept.heat.shape[1:] != (1, 1):  # what stands for no heatmap
            heat = inline_picture(_with_box(overlay(kept.pixels[i], kept.heat[i]), box))
        before = kept.before[i]
        examples.append(
            {
                "wrong": facts["label"] != facts["predicted"],
                "status": facts.get("status", ""),
                **{key: facts[key] for key in ("path", "label", "predicted", "confidence")},
                "before": inline_picture(_as_colour(before)) if before.any() else None,
                "slice": inline_picture(_with_box(plain, box) if heat is None else plain),
                "heat": heat,
            }
        )
    return examples


def _one_a_class(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One example of each class to show the preprocessing on, right answers first; only those whose
    whole slice is known."""
    firsts: dict[str, dict[str, Any]] = {}
    for example in sorted(examples, key=lambda example: bool(example["wrong"])):
        if example["before"] is not None:
            firsts.setdefault(example["label"], example)
    return [firsts[label] for label in sorted(firsts)]


def _ends(importance: Importance | None) -> list[dict[str, Any]]:
    """The weightiest parts with the slices at both ends of their values, pictures as data URLs."""
    if importance is None:
        return []
    pictures = iter(importance.pixels)

    def shown(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [s | {"slice": inline_picture(_as_colour(next(pictures)))} for s in slices]

    return [
        part | {"lowest": shown(part["lowest"]), "highest": shown(part["highest"])}
        for part in importance.facts["pictures"]
    ]


def _as_colour(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(gray[..., None], 3, axis=2)


def _with_box(
    picture: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """The picture (S×S×3) with the tumour's box drawn, where there is one."""
    import cv2

    if np.isnan(box).any():
        return picture
    side = picture.shape[0]
    left, top, right, bottom = np.rint(np.clip(box, 0, 1) * (side - 1)).astype(int).tolist()
    boxed: npt.NDArray[np.uint8] = cv2.rectangle(
        picture.copy(), (left, top), (right, bottom), (255, 255, 120), 1
    )
    return boxed


def _plain(settings: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings as (name, text) rows; long lists, such as the check's parameters, are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict):
            rows += _plain(value, f"{before}{key} ")
        elif before + key == "network" and value is None:
            continue  # a classical model has none
        elif len(str(value)) <= 200:
            rows.append((before + key, "unknown" if value is None else str(value)))
    return rows

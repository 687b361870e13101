"""The pictures and the page of a run: `report.html`, whole in itself, no network needed.

Every figure on the page stands in metrics.json: the template asks for it by its place there, and
the page keeps that place beside the figure (`<data data-key=… value=…>`).
"""

from __future__ import annotations

import base64
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
from trainer.report.display_names import model_noun, model_words
from trainer.report.templates import page_environment

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
        outcome, metrics: of the side reported on.
        gallery: cases with rows in the outcome's table.
        importance: of a classical model's features; None for a network, or where it is not known.
    """

    folder: Path
    settings: dict[str, Any]
    histories: Sequence[list[dict[str, float]]]
    outcome: Predictions
    metrics: dict[str, Any]
    gallery: Examples
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
    """What a terminal shows of metrics.json: the test side, its parts, the controls."""
    lines = [summary_line(metrics)]
    for part, unit in (
        ("without_twins", "slices"), ("without_shared_groups", "slices"), ("per_study", "studies")
    ):  # fmt: skip
        if metrics.get(part):
            lines.append(summary_line(metrics[part], unit))
    for name, control in (metrics.get("controls") or {}).items():
        spread = in_words(control["interval95"]["accuracy"], percent)
        lines.append(
            f"Control, {BASELINES[name]}: accuracy {percent(control['accuracy'])} % "
            f"({spread}), balanced {percent(control['balanced_accuracy'])} %."
        )
    if metrics.get("controls"):
        lines.append(verdict(metrics))
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
                lines.append(
                    f"{name}: answers {percent(part['coverage']['share'])} % of "
                    f"{part['coverage']['n']} calls, {percent(part['error']['share'])} % of them "
                    f"wrong ({in_words(part['error']['interval95'], percent)}{asked})."
                )
    if partial := metrics.get("partial"):
        spread = in_words(partial["outside"]["interval95"], percent)
        lines.append(
            f"Of {partial['n']} partly labelled slices it did not learn from, "
            f"{percent(partial['outside']['share'])} % ({spread}) were "
            f"called outside their set, {percent(partial['outside_answered']['share'])} % with an "
            "answer."
        )
    return lines


def verdict(metrics: dict[str, Any]) -> str:
    """What the controls say of the model, in one sentence."""
    controls = metrics.get("controls") or {}
    if not controls:
        return ""
    name, best = max(controls.items(), key=lambda item: item[1]["balanced_accuracy"])
    reached = f"{percent(best['balanced_accuracy'])} %"
    interval = metrics["interval95"]["balanced_accuracy"]
    if interval is None:
        return (
            f"The best control ({BASELINES[name]}) reaches {reached} balanced; whether the model "
            "beats it cannot be told from so few groups."
        )
    if interval[0] > best["balanced_accuracy"]:
        return f"It beats the best control ({BASELINES[name]}), which reaches {reached} balanced."
    return (
        f"It is not clearly better than a control: {BASELINES[name]} reaches {reached} balanced. "
        "On this protocol the model has shown nothing that such a method cannot do."
    )


def write_report(material: ReportData) -> None:
    """curves.png, confusion.png and report.html."""
    metrics, names = material.metrics, material.outcome.class_names
    folder, cases = material.folder, _cases(material)
    noun = model_noun(material.settings)
    if any(material.histories):
        charts.save_figure(charts.curves_figure(material.histories), folder / "curves.png")
    confusion = charts.confusion_figure(metrics["confusion"], names)
    charts.save_figure(confusion, folder / "confusion.png")
    page = (
        _environment(metrics)
        .get_template("report.html")
        .render(
            settings=material.settings,
            metrics=metrics,
            names=names,
            summary=summary_line(metrics),
            model=model_words(material.settings),
            noun=noun,
            verdict=verdict(metrics),
            intended_use=INTENDED_USE,
            metric_names=list(zip(METRIC_NAMES, HEADS, strict=True)),
            controls=BASELINES,
            heat_method=METHODS.get(material.settings.get("heatmap") or "", ""),
            charts=_charts(material),
            steps=steps_in_words(Preprocess.from_json(material.settings["preprocess"])),
            examples=_examples(cases),
            cases=cases,
            ends=_ends(material.importance),
            plain_settings=_plain(material.settings),
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


def _charts(material: ReportData) -> dict[str, str]:
    """Name -> data URL."""
    outcome, metrics = material.outcome, material.metrics
    shares, labels, names = outcome.probabilities, outcome.labels, outcome.class_names
    selective = metrics.get("selective")
    chosen = None
    if selective and selective["error"]["share"] is not None:
        chosen = selective["coverage"]["share"], selective["error"]["share"]
    drawn = {
        "confusion": charts.confusion_figure(metrics["confusion"], names),
        "ranking": charts.ranking_figure(shares, labels, names),
        "reliability": charts.reliability_figure(shares, labels),
        "coverage": charts.coverage_figure(shares, labels, chosen),
    }
    if any(material.histories):
        drawn["curves"] = charts.curves_figure(material.histories)
    if importance := metrics.get("importance"):
        drawn["importance"] = charts.importance_figure(importance["sets"], importance["parts"])
    return {name: charts.inline_figure(figure) for name, figure in drawn.items()}


def _cases(material: ReportData) -> list[dict[str, Any]]:
    """The gallery's cases as the template takes them, in the gallery's order.

    The pictures are data URLs; the whole slice (`before`) and `heat` are None where there is
    none. The tumour's box is drawn once, on the last picture of a case.
    """
    gallery, table = material.gallery, material.outcome.table
    cases = []
    for i, row in enumerate(gallery.rows):
        facts = table.iloc[int(row)]
        plain, box = _as_colour(gallery.pixels[i]), gallery.boxes[i]
        heat = None
        if gallery.heat.shape[1:] != (1, 1):  # what stands for no heatmap
            heat = _inline_picture(_with_box(overlay(gallery.pixels[i], gallery.heat[i]), box))
        before = gallery.before[i]
        cases.append(
            {
                "wrong": facts["label"] != facts["predicted"],
                "status": facts.get("status", ""),
                **{key: facts[key] for key in ("path", "label", "predicted", "confidence")},
                "before": _inline_picture(_as_colour(before)) if before.any() else None,
                "slice": _inline_picture(_with_box(plain, box) if heat is None else plain),
                "heat": heat,
            }
        )
    return cases


def _examples(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One case of each class to show the preprocessing on, right answers first; only those whose
    whole slice is known."""
    firsts: dict[str, dict[str, Any]] = {}
    for case in sorted(cases, key=lambda case: bool(case["wrong"])):
        if case["before"] is not None:
            firsts.setdefault(case["label"], case)
    return [firsts[label] for label in sorted(firsts)]


def _ends(importance: Importance | None) -> list[dict[str, Any]]:
    """The weightiest parts with the slices at both ends of their values, pictures as data URLs."""
    if importance is None:
        return []
    pictures = iter(importance.pixels)

    def shown(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [s | {"slice": _inline_picture(_as_colour(next(pictures)))} for s in slices]

    return [
        told | {"lowest": shown(told["lowest"]), "highest": shown(told["highest"])}
        for told in importance.facts["pictures"]
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


def _inline_picture(picture: npt.NDArray[np.uint8]) -> str:
    import cv2

    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


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

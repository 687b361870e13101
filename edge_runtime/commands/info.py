"""`btc-edge info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import loading, next_command, to_the_reader
from edge_runtime.commands.options import allow_unsigned_option, model_option
from edge_runtime.errors import printable

if TYPE_CHECKING:
    from edge_runtime.model.metadata import ModelInfo


@click.command()
@model_option
@allow_unsigned_option
@click.option(
    "--format",
    "style",
    type=Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="JSON is in the schema of today's model.json, whatever the file's own.",
)
def info(model: Path | None, allow_unsigned: bool, style: str) -> None:
    """Print what a model says of itself."""
    with loading():
        from edge_runtime.imaging.preprocess import steps_in_words
        from edge_runtime.model.picked import read_chosen

    file = read_chosen(model, allow_unsigned=allow_unsigned).file
    if style == "json":
        click.echo(file.info.to_json())
        return
    about = file.info
    lines = [
        ("intended use", about.intended_use),
        ("model", f"{about.name} {about.version} ({file.format}, {about.scheme})"),
        ("size", f"{file.bytes / 1024:.0f} KiB, sha256 {file.sha256}"),
        ("created", about.created),
        ("labels", ", ".join(about.labels)),
        ("input", _input(about)),
        ("preprocessing", "; ".join(steps_in_words(about.preprocess))),
        ("temperature", f"{about.temperature:.3f}"),
        ("answers", _answers(about)),
        ("refuses", "pictures unlike the training slices" if about.ood else "nothing"),
        *_validated(about),
        *_studies(about),
        ("fitted with", _fitted_with(about)),
        ("trained on", _counts(about.data)),
        ("licence", about.license or "not stated"),
    ]
    lines += [("measured", _measured(metric)) for metric in about.metrics]
    with to_the_reader():
        for name, text in lines:
            click.echo(f"{name:<14} {printable(str(text))}")
    # Neither a folder nor a file without digest is anything that verify takes.
    if model is not None and model.is_file() and not allow_unsigned:
        next_command(["btc-edge", "verify", model])


def _input(about: ModelInfo) -> str:
    """What the graph takes."""
    tensor = f"{about.input['dtype']} {'x'.join(map(str, about.input['shape']))}"
    if about.features is None:
        return f"{tensor}, 0-255"
    return f"{tensor}, features of the preprocessed slice: {', '.join(about.features['sets'])}"


def _answers(about: ModelInfo) -> str:
    """From which confidence on a label is given, and how many of those answers may be wrong."""
    if about.thresholds is None:
        return "always"
    parts = []
    for label, level in about.thresholds.items():
        target = (about.target_error or {}).get(label)
        wrong = "" if target is None else f" (up to {100 * target:.3g} % wrong)"
        parts.append(f"{label} never" if level >= 1 else f"{label} from {level:.3f}{wrong}")
    if all(level >= 1 for level in about.thresholds.values()):
        pass
    elif about.confidence is not None:
        parts.append(
            f"each with {100 * about.confidence:g} % confidence for slices like the validation's"
        )
    elif about.max_error is not None:
        parts.append(f"chosen for {100 * about.max_error:.1f} % errors seen on validation")
    return ", ".join(parts)


def _validated(about: ModelInfo) -> list[tuple[str, str]]:
    """A line on the planes, and one on the sequences, that are answered and that are not.

    Raises:
        ModelError: a damaged `view`.
    """
    if about.view is None:
        return []
    from edge_runtime.decision.view import View

    view, lines = View.from_json(about.view), []
    for name, head in (("planes", view.plane), ("sequences", view.sequence)):
        if head is not None:
            text = ", ".join(head.validated) or "none"
            others = [value for value in head.labels if value not in head.validated]
            text += f"; never answered: {', '.join(others)}" if others else ""
            lines.append((name, text))
    return lines


def _studies(about: ModelInfo) -> list[tuple[str, str]]:
    """A line on the rule for studies, where there is one.

    Raises:
        ModelError: a damaged `study`.
    """
    if about.study is None:
        return []
    from edge_runtime.decision.study import StudyRule

    rule = StudyRule.from_json(about.study, about.labels)
    text = f"a tumour from evidence {rule.tumor:.3f} on, none below {rule.no_tumor:.3f}"
    return [("studies", text)]


def _fitted_with(about: ModelInfo) -> str:
    """The runtimes, each with the version, that temperature, thresholds and check hold for."""
    if about.fitted_with is None:
        return "unknown"
    parts = ["{runtime} {version}".format(**about.fitted_with)]
    for name, rule in (about.rules or {}).items():
        studies = about.study is None or "study" in rule
        parts.append(f"{name} {rule['version']}" + (" (but for studies)" if not studies else ""))
    return ", ".join(parts)


def _counts(data: Mapping[str, Any]) -> str:
    """The sizes that the model states of its data."""
    return ", ".join(f"{k} {v}" for k, v in data.items() if type(v) is int)


def _measured(metric: Mapping[str, Any]) -> str:
    """An entry of `metrics` in words; what the model does not say is left out or unknown."""
    text = "protocol {}, {} side, {} slices: ".format(
        *(metric.get(key, "unknown") for key in ("protocol", "split", "n"))
    )
    try:
        text += f"accuracy {100 * metric['accuracy']:.1f} %"
        interval = metric["interval95"]
        if interval is None:
            return text + " (95 % interval not estimable)" + _measured_on(metric)
        low, high = interval
        text += f" (95 % interval {100 * low:.1f}-{100 * high:.1f})"
    except (KeyError, TypeError, ValueError):
        text += "" if text.endswith("%") else "accuracy unknown"
    return text + _measured_on(metric)


def _measured_on(metric: Mapping[str, Any]) -> str:
    return f", on {metric['measured_on']}" if metric.get("measured_on") else ""

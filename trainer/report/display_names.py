"""What a report calls the model that it is about."""

from __future__ import annotations

from typing import Any

from trainer.features.extractor import DEEP
from trainer.models.kinds import KINDS
from trainer.run import CNN


def model_noun(settings: dict[str, Any]) -> str:
    """`network`, or `model` for a classical model."""
    return "network" if settings["model"] == CNN else "model"


def model_name(settings: dict[str, Any]) -> str:
    """The kind of a run's model in words.

    Args:
        settings: as run.json holds them.

    Returns:
        E.g. `edge network`, `SVM on histogram, hog`, `random forest on deep features`; without
        the features where they are not known.
    """
    if model_noun(settings) == "network":
        return f"{settings['network']} network"
    kind = str(settings["model"])
    sets = (settings.get("features") or {}).get("sets") or []
    named = ["deep features" if name == DEEP else str(name) for name in sets]
    title = KINDS[kind].title if kind in KINDS else kind
    return title + (f" on {', '.join(named)}" if named else "")

"""What former versions wrote, in the shapes and names of today: users keep their runs.

Everything that reads a file of a run passes through here, so that no other code knows an old name.
"""

from __future__ import annotations

from typing import Any

# run.json and metrics.json: field -> the name it has now, at whatever depth it stands.
FIELDS = {
    "test_with_twin": "test_with_near_duplicate",
    "without_twins": "without_near_duplicates",
    "controls": "baselines",
}
# predictions.csv.
COLUMNS = {"twin": "near_duplicate", "heat_in_box": "pointing_hit"}
NETWORKS = {"seed": "classic"}
RECIPE_FIELDS = {"start": "pretrained"}


def settings_of_today(settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json; a run of the first kind of model did not say which it was."""
    settings = {"model": "cnn"} | settings
    if settings.get("network") in NETWORKS:
        settings["network"] = NETWORKS[settings["network"]]
    if settings.get("data"):
        settings["data"] = _renamed(settings["data"], FIELDS)
    if training := settings.get("training"):
        settings["training"] = dict(training)
        if training.get("network") in NETWORKS:
            settings["training"]["network"] = NETWORKS[training["network"]]
        if "recipe" in training:
            settings["training"]["recipe"] = _renamed(training["recipe"], RECIPE_FIELDS)
    return settings


def metrics_of_today(metrics: dict[str, Any]) -> dict[str, Any]:
    """The content of a metrics.json."""
    metrics = _renamed(metrics, FIELDS)
    for part in ("without_near_duplicates", "without_shared_groups"):
        if metrics.get(part):
            metrics[part] = _renamed(metrics[part], FIELDS)
    if metrics.get("partial"):
        metrics["partial"] = _renamed(metrics["partial"], {"called": "predicted"})
    return metrics


def _renamed(shape: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A copy with some fields under their new names."""
    return {names.get(key, key): value for key, value in shape.items()}

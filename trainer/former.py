"""What former versions wrote, in the shapes and names of today: users keep their runs.

Everything that reads a file of a run passes through here, so that no other code knows an old name.
"""

from __future__ import annotations

from typing import Any

# Former name -> name of today.
NETWORKS = {"seed": "classic"}
SETTINGS_FIELDS = {"unfamiliar": "ood"}  # of run.json
DATA_FIELDS = {"test_with_twin": "test_with_near_duplicate"}  # of run.json
RECIPE_FIELDS = {"clear": "tumour_free_weight", "partial": "partial_labels", "start": "pretrained"}
METRICS_FIELDS = {"without_twins": "without_near_duplicates", "controls": "baselines"}
PARTIAL_FIELDS = {"called": "predicted"}  # of metrics.json
COLUMNS = {"twin": "near_duplicate", "heat_in_box": "pointing_hit"}  # of predictions.csv


def settings_of_today(settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json; a run of the first kind of model did not say which it was."""
    settings = _with_network({"model": "cnn"} | _renamed(settings, SETTINGS_FIELDS))
    if settings.get("data"):
        settings["data"] = _renamed(settings["data"], DATA_FIELDS)
    if training := settings.get("training"):
        settings["training"] = _with_network(training)
        if "recipe" in training:
            settings["training"]["recipe"] = _renamed(training["recipe"], RECIPE_FIELDS)
    return settings


def metrics_of_today(metrics: dict[str, Any]) -> dict[str, Any]:
    """The content of a metrics.json."""
    metrics = _renamed(metrics, METRICS_FIELDS)
    for part in ("without_near_duplicates", "without_shared_groups"):
        if metrics.get(part):
            metrics[part] = _renamed(metrics[part], METRICS_FIELDS)
    if metrics.get("partial"):
        metrics["partial"] = _renamed(metrics["partial"], PARTIAL_FIELDS)
    return metrics


def _with_network(shape: dict[str, Any]) -> dict[str, Any]:
    """A copy with today's name of the network, where it names one."""
    if "network" not in shape:
        return dict(shape)
    return shape | {"network": NETWORKS.get(shape["network"], shape["network"])}


def _renamed(shape: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A copy with some fields under their new names."""
    return {names.get(key, key): value for key, value in shape.items()}

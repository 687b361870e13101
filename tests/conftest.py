from __future__ import annotations

from pathlib import Path

import pytest

# Files that take long, the longest first.
LONGEST = (
    "tests/test_readme.py",
    "tests/device/test_environments.py",
    "tests/arm/test_arm.py",
    "tests/trainer/test_spread.py",
    "tests/trainer/test_training.py",
    "tests/device/test_hostile.py",
    "tests/trainer/models/test_strategy.py",
    "tests/test_container.py",
    "tests/archive/test_engine.py",
    "tests/export/test_oldest.py",
    "tests/test_other_data.py",
    "tests/test_cluster.py",
)
PLACES = {Path(__file__).parents[1] / name: place for place, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: where two processes share the work, neither waits at the end."""
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))

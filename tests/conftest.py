from __future__ import annotations

import pytest

LONGEST = ("test_readme.py", "test_environments.py", "test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: where two processes share the work, neither waits at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)

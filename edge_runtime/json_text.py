"""JSON that somebody else may have written, or altered."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

MOST_LEVELS = 100  # of lists and objects within each other; ours have less than ten


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or has more than 100 levels: what follows it, as `json.loads`
            does, would end with a RecursionError at some depth that depends on who called it.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return value
    raise ValueError("nested too deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

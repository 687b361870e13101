"""JSON that somebody else may have written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.json_text import MOST_LEVELS, parse_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES)
def test_it_says_what_json_says(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize("text", ["", "{", "\x00", "[1,]", b"\xff\xfe\xfd", "{'a': 1}"])
def test_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        parse_json(text)


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}"), ('[1, {"a": ', "}]")])
@pytest.mark.parametrize("levels", [1, MOST_LEVELS, MOST_LEVELS + 2, 900, 5000, 200_000])
def test_what_is_nested_too_deep_is_a_value_error(begin: str, end: str, levels: int) -> None:
    each = begin.count("[") + begin.count("{")
    times = -(-levels // each)
    text = begin * times + "1" + end * times
    if times * each <= MOST_LEVELS:
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(text)

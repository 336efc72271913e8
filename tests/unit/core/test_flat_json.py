"""Flat JSON: what is given, and called plain, is what Python's own writer gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.flat_json import flat_text, is_plain

TEXT = st.text(st.characters(codec="ascii"), max_size=6) | st.text(max_size=3)
NAMES = st.from_regex(r"\A[A-Za-z0-9_]{1,4}\Z") | TEXT
VALUES = TEXT | st.integers() | st.floats() | st.lists(TEXT, max_size=3) | st.none() | st.booleans()


@given(fields=st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_plain_is_what_the_json_module_writes(fields: dict[str, Any]) -> None:
    text = flat_text(fields)
    if text is None or not is_plain(text.compact.encode(), text.quotes):
        return
    assert text.spaced == json.dumps(fields)
    assert text.compact == json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert is_plain(text.spaced.encode(), text.quotes)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"z": "", "a": -5, "m": 0.25},
        {"cids": ["a", "b"], "none": [], "b": 2**70},
        {"one": "%s"},
    ],
    ids=str,
)
def test_ordinary_fields_are_plain(fields: dict[str, Any]) -> None:
    text = flat_text(fields)
    assert text is not None
    assert text.spaced == json.dumps(fields)
    assert is_plain(text.compact.encode(), text.quotes)


@pytest.mark.parametrize(
    "fields",
    [
        {"quote": 'a"b'},
        {"escape": "a\\b"},
        {"del": "\x7f"},
        {"line": "\n"},
        {"letter": "é"},
        {"in a list": ['"']},
        {"list": ['"']},
    ],
    ids=str,
)
def test_what_needs_an_escape_is_not_plain(fields: dict[str, Any]) -> None:
    text = flat_text(fields)
    assert text is None or not is_plain(text.compact.encode(), text.quotes)


@pytest.mark.parametrize(
    "value", [True, None, {}, [1], 1e16, 1e-5, float("nan"), float("inf")], ids=str
)
def test_values_that_writers_spell_differently_are_not_given(value: object) -> None:
    assert flat_text({"value": value}) is None

"""JSON is parsed only where its nesting has an end, whatever the process's recursion limit is."""

from __future__ import annotations

import sys

import pytest

from plugins.secure_chat.core.nesting import MAX_DEPTH, parse_json, too_deep


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("text", [b"[" * 1_000_000, b'{"a":' * 1_000_000, nested(MAX_DEPTH + 1)])
def test_what_nests_too_deeply_is_refused_under_any_recursion_limit(text: bytes) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000_000)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    finally:
        sys.setrecursionlimit(limit)


def test_brackets_inside_of_strings_and_beside_one_another_do_not_count() -> None:
    assert not too_deep(b'["' + b"[" * 1_000 + b'"]')
    assert not too_deep(b"[" + b",".join([b"[]"] * 1_000) + b"]")
    assert parse_json(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"a":1}x'])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)

"""Frames: what is parsed, what is refused and how, and what the server's frames look like."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.core.envelope import ChatMessage, validate
from plugins.secure_chat.core.frames import (
    CLIENT_FRAMES,
    Auth,
    Ping,
    ReceiptFrame,
    Resume,
    ack,
    delivered,
    encode_frame,
    error_frame,
    parse_frame,
    parse_object,
)
from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.errors import InvalidMessage, MalformedFrame, Refusal
from tests.plugin.chat_server import message

RECEIPT = Receipt(9, "an-id", "ab" * 64, "2025-12-15T00:00:00+00:00")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"AUTH","token":"t"}', Auth("t")),
        ('{"token":"t","type":"AUTH"}', Auth("t")),
        ('{"type":"RESUME","after":0}', Resume(0)),
        ('{"type":"RESUME","after":9007199254740991}', Resume(2**53 - 1)),
        ('{"type":"RECEIPT","kind":"read","position":1}', ReceiptFrame("read", 1)),
        (' { "type" : "PING" } ', Ping()),
        ('{"type":"P\\u0049NG"}', Ping()),
    ],
)
def test_a_control_frame_is_parsed(text: str, frame: object) -> None:
    assert parse_frame(text) == parse_frame(text.encode()) == frame


@pytest.mark.parametrize("spaced", [False, True])
def test_a_message_is_parsed_with_and_without_its_type(spaced: bool) -> None:
    sent = message("bob", 1)
    flat = json.dumps(sent, indent=2 if spaced else None)
    typed = json.dumps({"type": "CHAT_MESSAGE", **sent})
    for text in (flat, typed, flat.encode()):
        parsed = parse_frame(text)
        assert isinstance(parsed, ChatMessage)
        assert {name: getattr(parsed, name) for name in sent} == sent


@given(JSON)
@settings(max_examples=150)
def test_any_json_is_a_frame_or_a_refusal(value: Any) -> None:
    try:
        assert isinstance(parse_frame(json.dumps(value)), CLIENT_FRAMES)
    except (MalformedFrame, InvalidMessage):
        return


@given(st.binary(max_size=64) | st.text(max_size=64))
@settings(max_examples=150)
def test_any_bytes_are_a_frame_or_a_refusal(raw: str | bytes) -> None:
    try:
        parse_frame(raw)
    except (MalformedFrame, InvalidMessage):
        return


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 1_000_000])
def test_depth_is_refused_under_any_recursion_limit(text: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000_000)
    try:
        with pytest.raises(MalformedFrame):
            parse_frame(text)
        with pytest.raises(MalformedFrame):
            parse_object(text.encode(), Ping)
    finally:
        sys.setrecursionlimit(limit)


def test_text_that_has_no_utf_8_is_malformed() -> None:
    """No transport of ours hands such text on; another server's may."""
    with pytest.raises(MalformedFrame):
        parse_frame('{"type":"\ud800"}')


@given(st.sampled_from(sorted(message("b", 1))), JSON)
@settings(max_examples=150)
def test_a_field_of_any_value_is_valid_or_refused_without_quoting_it(
    field: str, value: Any
) -> None:
    canary = "canary-7c1f"
    sent = {**message("b", 1), field: [canary, value]}
    with pytest.raises(Refusal) as refusal:
        parse_frame(json.dumps(sent))
    assert canary not in str(refusal.value) + json.dumps(refusal.value.extra)


@pytest.mark.parametrize("field", sorted({**message("b", 1), "device": "", "sender": ""}))
def test_a_field_named_twice_is_refused_wherever_it_stands(field: str) -> None:
    sent = {**message("b", 1), "device": "d", "sender": "s"}
    text = json.dumps(sent)
    twin = f'"{field}": {json.dumps(sent[field])}'
    for doubled in ("{" + twin + ", " + text[1:], text[:-1] + ", " + twin + "}"):
        with pytest.raises(MalformedFrame):
            parse_frame(doubled)


def test_the_delivered_frame_has_all_of_the_senders_fields_unchanged() -> None:
    sent = message("bob", 3, signature="A" * 86 + "==", cids=["bafkrei" + "a" * 52], device="d")
    parsed = parse_frame(json.dumps(sent))
    assert isinstance(parsed, ChatMessage)
    envelope = validate(parsed, "alice")
    assert json.loads(delivered(envelope, RECEIPT)) == {
        **sent,
        "type": "CHAT_MESSAGE",
        "id": "an-id",
        "sender": "alice",
        "timestamp": RECEIPT.timestamp,
        "position": 9,
    }
    acked = json.loads(encode_frame(ack(envelope, RECEIPT, duplicate=False, gap=2)))
    assert acked == {
        "type": "ACK",
        "seq": 3,
        "hash": sent["hash"],
        "recipient": "bob",
        "device": "d",
        "id": "an-id",
        "position": 9,
        "event_hash": RECEIPT.event_hash,
        "timestamp": RECEIPT.timestamp,
        "duplicate": False,
        "gap": 2,
    }


@pytest.mark.parametrize("seq", [1, -(10**30), 10**30])
def test_an_error_about_a_message_says_which_however_odd_it_was(seq: int) -> None:
    parsed = parse_frame(json.dumps({**message("bob", 1), "seq": seq, "device": "d"}))
    assert isinstance(parsed, ChatMessage)
    answer = json.loads(encode_frame(error_frame(InvalidMessage("seq", "why"), parsed)))
    about = {"seq": seq, "recipient": "bob", "device": "d"}
    assert answer == {
        "type": "ERROR",
        "code": "invalid_message",
        "detail": "why",
        "field": "seq",
        **about,
    }

"""SecureMessageV2: the hash's known answers, its lack of ambiguity, and every validation rule."""

from __future__ import annotations

import base64
import hashlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.core import envelope
from plugins.secure_chat.core.envelope import (
    MAX_SEQ,
    ChatMessage,
    decode_base64,
    message_hash,
    validate,
)
from plugins.secure_chat.errors import HashMismatch, InvalidMessage, MessageTooLarge

KNOWN_ANSWERS = [
    (
        "fbPTkCtmhYbPLt7mVuHqX+Nte/PR",
        "AAAAAAAAAAAAAAAB",
        1,
        "gWCnciv/AJcfsu1Ao8BuiwMhdoApp79+330Uw9H5TFU=",
    ),
    (
        "U9E+vaVifUi3noWC/G1PjQ==",
        "AQIDBAUGBwgJCgsM",
        105,
        "ne4C3+4TQq4PQDxJayiqKLQQvVzHoOoLxenTjNWT3+w=",
    ),
    (
        "2IKOXfKUsl01i+1ri+uIu3/03sUPDe8u5ufBdvpOBU+e+sf5GmAbfYOb",
        "////////////////",
        4294967295,
        "v+SZYz+oPW44bWknqX532IN4AKgbMjuNrV+YMqjLUUg=",
    ),
]
WALLET = "0x" + "ab" * 20


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def frame(**fields: Any) -> ChatMessage:
    ciphertext, nonce, seq = bytes(range(32)), bytes(12), 1
    digest = hashlib.sha256(ciphertext + nonce + seq.to_bytes(8, "big")).digest()
    valid: dict[str, Any] = {
        "recipient": "bob",
        "ciphertext": b64(ciphertext),
        "nonce": b64(nonce),
        "seq": seq,
        "ts": 1.5,
        "hash": b64(digest),
    }
    return msgspec.convert({**valid, **fields}, ChatMessage)


@pytest.mark.parametrize(("ciphertext", "nonce", "seq", "digest"), KNOWN_ANSWERS)
def test_the_hash_has_the_hosts_known_answers(
    ciphertext: str, nonce: str, seq: int, digest: str
) -> None:
    found = message_hash(base64.b64decode(ciphertext), base64.b64decode(nonce), seq)
    assert b64(found) == digest
    sent = frame(ciphertext=ciphertext, nonce=nonce, seq=seq, hash=digest)
    assert validate(sent, WALLET).hash == digest


TUPLES = st.tuples(
    st.binary(max_size=40), st.binary(min_size=12, max_size=12), st.integers(1, MAX_SEQ)
)


@given(TUPLES, TUPLES)
@settings(max_examples=300)
def test_distinct_tuples_have_distinct_hash_inputs(
    one: tuple[bytes, bytes, int], other: tuple[bytes, bytes, int]
) -> None:
    assert (message_hash(*one) == message_hash(*other)) == (one == other)


@given(TUPLES, st.integers(0, 12))
@settings(max_examples=200)
def test_moving_bytes_over_a_border_changes_the_hash(
    given_tuple: tuple[bytes, bytes, int], shift: int
) -> None:
    ciphertext, nonce, seq = given_tuple
    joined = ciphertext + nonce
    moved = (joined[: len(ciphertext) + shift], joined[len(ciphertext) + shift :], seq)
    if shift == 0:
        assert message_hash(*moved) == message_hash(*given_tuple)
    else:
        with pytest.raises(ValueError, match="12 bytes"):
            message_hash(*moved)


@given(st.binary(max_size=100))
def test_canonical_base64_is_taken(data: bytes) -> None:
    assert decode_base64(b64(data), "f") == data


@given(st.text(alphabet="ABab01+/=-_ \n\u00e9", max_size=16))
@settings(max_examples=500)
def test_base64_is_taken_only_in_its_one_canonical_form(text: str) -> None:
    try:
        data = decode_base64(text, "f")
    except InvalidMessage:
        return
    assert b64(data) == text


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AAA==", "AB==", "AAB=", "AA==AA==", "A-__", "AAAA\n", " AAAA", "="]
)
def test_base64_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage):
        decode_base64(text, "f")


def test_a_valid_frame_becomes_its_envelope() -> None:
    sent = frame(recipient="0X" + "AB" * 20, device="d", sender=WALLET.upper().replace("X", "x"))
    envelope = validate(sent, WALLET)
    assert (envelope.sender, envelope.recipient, envelope.device) == (WALLET, WALLET, "d")
    assert (envelope.signature, envelope.cids, envelope.size) == ("", (), 32)
    assert envelope.stream == (WALLET, "d", WALLET)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": MAX_SEQ + 1}, "seq"),
        ({"nonce": b64(bytes(11))}, "nonce"),
        ({"nonce": b64(bytes(13))}, "nonce"),
        ({"ciphertext": b64(bytes(15))}, "ciphertext"),
        ({"hash": b64(bytes(31))}, "hash"),
        ({"recipient": "a b"}, "recipient"),
        ({"device": ""}, "device"),
        ({"sender": "mallory"}, "sender"),
        ({"signature": ""}, "signature"),
        ({"signature": b64(bytes(63))}, "signature"),
        ({"cids": []}, "cids"),
        ({"cids": ["bafkrei" + "a" * 52] * 2}, "cids"),
        ({"cids": [f"bafkrei{'a' * 50}{n:02}".replace("0", "b") for n in range(65)]}, "cids"),
        ({"ts": float("inf")}, "ts"),
        ({"ts": float("nan")}, "ts"),
        ({"ts": 10**400}, "ts"),
    ],
)
def test_each_rule_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        validate(frame(**fields), WALLET)
    assert refusal.value.field == field


def test_a_large_integer_ts_goes_on_as_the_double_that_javascript_reads() -> None:
    assert validate(frame(ts=2**53 + 1), WALLET).ts == float(2**53)
    assert validate(frame(ts=7), WALLET).ts == 7


@pytest.mark.parametrize("flipped", ["hash", "nonce", "ciphertext"])
def test_any_flipped_bit_is_a_mismatch(flipped: str) -> None:
    data = bytearray(base64.b64decode(getattr(frame(), flipped)))
    for bit in range(len(data) * 8):
        data[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(HashMismatch):
            validate(frame(**{flipped: b64(bytes(data))}), WALLET)
        data[bit >> 3] ^= 1 << (bit & 7)


def test_the_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return True

    monkeypatch.setattr(envelope, "hmac", SimpleNamespace(compare_digest=compare_digest))
    claimed, right = bytes(32), base64.b64decode(frame().hash)
    assert validate(frame(hash=b64(claimed)), WALLET).size == 32  # nothing else compares it
    assert compared == [(claimed, right)]


@pytest.mark.parametrize("excess", [1, 2, 3, 1000])
def test_the_limit_is_on_bytes_of_ciphertext(excess: int) -> None:
    with pytest.raises(MessageTooLarge):
        validate(frame(ciphertext=b64(bytes(32 + excess))), WALLET, 32)
    assert validate(frame(), WALLET, 32).size == 32

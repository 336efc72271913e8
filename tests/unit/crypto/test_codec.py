"""One value, one encoding; anything else is refused (C1)."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.crypto import attachments, envelope
from plugins.secure_chat.crypto.attachments import Attachment
from plugins.secure_chat.crypto.codec import (
    Reader,
    identifier,
    is_wallet,
    u32,
    wallet_bytes,
    wallet_text,
)
from plugins.secure_chat.crypto.devices import Certificate, Revocation
from plugins.secure_chat.crypto.envelope import Envelope
from plugins.secure_chat.crypto.errors import CryptoError, DecodeError, PostQuantumMissing
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.pqxdh import Handshake
from plugins.secure_chat.crypto.prekeys import Bundle, Kind, Publication
from plugins.secure_chat.crypto.ratchet import Header
from plugins.secure_chat.crypto.session import Wrapped
from tests.unit.crypto.people import connect, pair

DECODERS = (
    *(Identity, Certificate, Revocation, Publication, Bundle, Handshake, Header, Envelope),
    Attachment,
)


@given(st.sampled_from(DECODERS), st.binary(max_size=200))
def test_noise_is_a_decode_error_and_nothing_else(decoder: type, noise: bytes) -> None:
    with pytest.raises(DecodeError):
        decoder.decode(noise)  # type: ignore[attr-defined]


def test_every_value_refuses_a_byte_more_and_every_byte_less() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    alice.add("desk")
    alice.revoke("desk")
    values: list[tuple[type, bytes]] = [
        (Identity, alice.identity.encode()),
        (Certificate, alice.certificates[1].encode()),
        (Revocation, alice.revocations[0].encode()),
        (Bundle, directory.claim(bob.certificates[0].id).encode()),
        (Publication, bob["b"].publish_prekeys(1).encode()),
        (Handshake, Handshake(1, bytes(32), 1, Kind.LAST_RESORT_KEM, 2, 0, bytes(1088)).encode()),
        (Header, Header(bytes(32), 3, 4).encode()),
        (Attachment, attachments.seal(b"x", os.urandom)[0].encode()),
    ]
    for decoder, data in values:
        assert decoder.decode(data).encode() == data  # type: ignore[attr-defined]
        for broken in (data + b"\0", data[:-1], data[: len(data) // 2], b""):
            with pytest.raises(DecodeError):
                decoder.decode(broken)  # type: ignore[attr-defined]
    sealed = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0).ciphertext
    assert Envelope.decode(sealed).encode() == sealed
    for size in (0, 1, 2, 34, 66, 67, 68, 100, 3377, 3379, 3400, 4600):
        with pytest.raises((DecodeError, PostQuantumMissing)):
            Envelope.decode(sealed[:size])


@pytest.mark.parametrize("text", ["", "a" * 129, "a b", "ä", "a\n"])
def test_identifiers_that_the_wire_refuses_are_refused_here(text: str) -> None:
    with pytest.raises(DecodeError):
        identifier(text)
    raw = text.encode()[:255]
    with pytest.raises(DecodeError):
        Reader(bytes((len(raw),)) + raw).identifier()


ADDRESS = "0x" + "ab" * 20


@pytest.mark.parametrize(
    "text",
    [ADDRESS.upper(), "0x" + "AB" * 20, ADDRESS[:-1], ADDRESS + "a", ADDRESS + "\n", "ab" * 20],
)
def test_a_wallet_has_one_form(text: str) -> None:
    assert is_wallet(ADDRESS)
    assert wallet_text(wallet_bytes(ADDRESS)) == ADDRESS
    assert not is_wallet(text)
    with pytest.raises(DecodeError):
        wallet_bytes(text)


@given(st.binary(max_size=3000))
def test_padding_round_trips_and_hides_the_length(content: bytes) -> None:
    padded = envelope.pad(content)
    assert envelope.unpad(padded) == content
    assert len(padded) == envelope.padded_size(len(content) + 4)
    assert len(padded) <= max(256, (len(content) + 4) * 1.12)
    assert envelope.pad(bytes(len(content))).__len__() == len(padded)


def test_a_content_over_its_cap_is_refused_though_its_padding_is_right() -> None:
    framed = u32(envelope.MAX_CONTENT + 1) + bytes(envelope.MAX_CONTENT + 1)
    padded = framed.ljust(envelope.padded_size(len(framed)), b"\0")
    with pytest.raises(DecodeError):
        envelope.unpad(padded)


def test_an_envelope_has_at_most_four_hundred_wraps() -> None:
    one = Wrapped(bytes(16), None, Header(bytes(32), 0, 0), bytes(48))
    wraps = {number.to_bytes(16, "big"): one for number in range(1, envelope.MAX_WRAPS + 2)}
    payload = bytes(envelope.MIN_PADDED + 16)
    too_many = Envelope(bytes(32), bytes(32), b"", wraps, payload)
    with pytest.raises(DecodeError):
        Envelope.decode(too_many.encode())
    wraps.popitem()
    assert Envelope.decode(too_many.encode()).wraps == wraps


def test_the_largest_message_with_every_wrap_opening_a_session_fits_one_mebibyte() -> None:
    wrap = 16 + 1 + 16 + 1141 + 40 + 48
    padded = envelope.padded_size(envelope.MAX_CONTENT + 4)
    assert 3 + 64 + 1 + 3309 + 2 + envelope.MAX_WRAPS * wrap + padded + 16 <= 1 << 20


def test_flipping_any_byte_of_a_bundle_is_noticed() -> None:
    _alice, bob, directory = pair()
    data = directory.claim(bob.certificates[0].id).encode()
    for at in sorted({*range(40), *(os.urandom(1)[0] * 30 % len(data) for _ in range(60))}):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(CryptoError):
            Bundle.decode(bytes(broken)).verify(bob.certificates[0])

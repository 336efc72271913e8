"""What the ratchet promises: secrecy before a theft, recovery after it, and bounded work."""

from __future__ import annotations

import os
from array import array
from dataclasses import replace
from itertools import pairwise

import pytest

from plugins.secure_chat.crypto import primitives, ratchet
from plugins.secure_chat.crypto.codec import Reader
from plugins.secure_chat.crypto.errors import (
    DecryptError,
    Refused,
    Replayed,
    TooManySkipped,
)
from plugins.secure_chat.crypto.ratchet import Header, Ratchet

AD = b"AD"
Sent = tuple[Header, bytes]


def start() -> tuple[Ratchet, Ratchet]:
    root, signed = os.urandom(32), os.urandom(32)
    initiator = Ratchet.initiator(root, primitives.x25519_public(signed))
    return initiator, Ratchet.responder(root, signed)


def send(state: Ratchet, text: bytes = b"x") -> tuple[Sent, Ratchet]:
    header, sealed, state = state.encrypt(text, AD, os.urandom)
    return (header, sealed), state


def round_trip(one: Ratchet, other: Ratchet) -> tuple[Ratchet, Ratchet]:
    message, one = send(one)
    _, other = other.decrypt(*message, AD)
    message, other = send(other)
    _, one = one.decrypt(*message, AD)
    return one, other


def opens(state: Ratchet, message: Sent) -> bool:
    try:
        state.decrypt(*message, AD)
    except (DecryptError, Replayed):
        return False
    return True


def test_messages_before_a_theft_stay_secret_on_either_side() -> None:
    a, b = start()
    a, b = round_trip(a, b)
    past = []
    for _ in range(5):
        message, a = send(a)
        _, b = b.decrypt(*message, AD)
        past.append(message)
        message, b = send(b)
        _, a = a.decrypt(*message, AD)
        past.append(message)
    for message in past:
        assert not opens(a, message)
        assert not opens(b, message)
    # Nor by what the thief can compute: no key in the state is, or derives, a past message key.
    for stolen in (a, b):
        chains = [key for key in (stolen.sending, stolen.receiving, stolen.root) if key]
        for header, sealed in past:
            for chain in chains:
                for _ in range(20):
                    key, chain = ratchet.advance(chain)
                    with pytest.raises(DecryptError):
                        ratchet.unseal(key, sealed, AD + header.encode())


def test_after_a_theft_one_round_trip_locks_the_thief_out() -> None:
    a, b = start()
    a, b = round_trip(a, b)
    thief = b
    message, a = send(a)
    assert opens(thief, message), "the state stolen now reads on: the test has teeth"
    _, b = b.decrypt(*message, AD)
    a_after, b_after = round_trip(*round_trip(a, b))
    message, a_after = send(a_after)
    assert opens(b_after, message)
    assert not opens(thief, message)
    # The thief follows everything it can: it still cannot read what comes after.
    follower = thief
    for _ in range(3):
        first, b = send(b)
        _, a = a.decrypt(*first, AD)
        second, a = send(a)
        _, b = b.decrypt(*second, AD)
        assert not opens(follower, second)


def test_an_answer_is_secret_from_a_state_stolen_before_it() -> None:
    """The new key pair is drawn when sending: it was not in the stolen state."""
    a, b = start()
    message, a = send(a)
    _, b = b.decrypt(*message, AD)
    stolen = b
    (header, sealed), b = send(b, b"answer")

    def read_with(private: bytes) -> bytes:
        assert stolen.remote is not None
        _, chain = ratchet.step(stolen.root, primitives.x25519(private, stolen.remote))
        return ratchet.unseal(ratchet.advance(chain)[0], sealed, AD + header.encode())

    assert stolen.sending is None
    with pytest.raises(DecryptError):
        read_with(stolen.private)
    assert read_with(b.private) == b"answer", "with the new key it opens: the test has teeth"


def test_a_message_is_taken_once_and_failures_change_nothing() -> None:
    a, b = start()
    (header, sealed), a = send(a)
    before = b.encode()
    for at in range(len(sealed)):
        broken = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(DecryptError):
            b.decrypt(header, broken, AD)
    for other in (
        replace(header, number=1),
        replace(header, previous=1),
        replace(header, ratchet=os.urandom(32)),
    ):
        with pytest.raises(DecryptError):
            b.decrypt(other, sealed, AD)
    assert b.encode() == before
    _, b = b.decrypt(header, sealed, AD)
    with pytest.raises(Replayed):
        b.decrypt(header, sealed, AD)


def test_a_late_message_is_taken_once() -> None:
    a, b = start()
    late, a = send(a)
    message, a = send(a)
    _, b = b.decrypt(*message, AD)
    _, b = b.decrypt(*late, AD)
    with pytest.raises(Replayed):
        b.decrypt(*late, AD)


def test_the_gap_cap_holds_to_the_message() -> None:
    a, b = start()
    message, a = send(a)
    _, b = b.decrypt(*message, AD)
    messages = []
    for _ in range(ratchet.MAX_SKIP + 2):
        message, a = send(a)
        messages.append(message)
    assert opens(b, messages[ratchet.MAX_SKIP])
    with pytest.raises(TooManySkipped):
        b.decrypt(*messages[ratchet.MAX_SKIP + 1], AD)


def test_kept_keys_are_capped_and_the_oldest_go_first() -> None:
    a, b = start()
    messages = []
    for _ in range(ratchet.MAX_SKIPPED_KEPT + 11):
        message, a = send(a)
        messages.append(message)
    _, b = b.decrypt(*messages[-1], AD)
    assert len(b.skipped) == ratchet.MAX_SKIPPED_KEPT
    assert not opens(b, messages[9])
    assert opens(b, messages[10])
    assert len(b.encode()) < 36_000


def test_a_state_survives_encoding() -> None:
    a, b = start()
    lost, a = send(a)
    message, a = send(a)
    _, b = b.decrypt(*message, AD)
    for state in (a, b, *start()):
        reader = Reader(state.encode())
        assert Ratchet.read(reader) == state
        reader.end()
    again = Ratchet.read(Reader(b.encode()))
    assert opens(again, lost)


def test_the_responder_cannot_send_first() -> None:
    _, b = start()
    with pytest.raises(Refused):
        b.encrypt(b"x", AD, os.urandom)


def test_a_message_on_a_chain_that_was_never_begun_does_not_open() -> None:
    a, _ = start()
    message, a = send(a)
    header = replace(message[0], ratchet=a.remote or b"")
    with pytest.raises(DecryptError):
        a.decrypt(header, message[1], AD)


def test_a_chain_ends_with_the_last_number_that_a_header_can_hold() -> None:
    a, _ = start()
    _, a = send(a)
    last = replace(a, sent=ratchet.MAX_COUNTER - 1)
    (header, _), used_up = send(last)
    assert header.number == ratchet.MAX_COUNTER - 1
    with pytest.raises(Refused):
        send(used_up)


def test_a_state_used_twice_meets_no_key_and_nonce_twice() -> None:
    """A10, below the store: the same message key with other data gives another AEAD key."""
    key = os.urandom(32)
    one, two = ratchet._expand(key, b"message one"), ratchet._expand(key, b"message two")
    assert one[0] != two[0]
    assert one[1] != two[1]


def test_a_million_sends_meet_no_key_and_no_nonce_twice() -> None:
    """A10: every key and nonce of a million messages of one chain, as ``encrypt`` derives them.

    Compared by their first 64 bits: a chance match among a million is one in thirty million.
    """
    million = 1_000_000
    a, _ = start()
    (header, _), a = send(a)
    chain = a.sending
    assert chain is not None
    keys, nonces = array("Q"), array("Q")
    for number in range(million):
        message_key, chain = ratchet.advance(chain)
        authenticated = AD + replace(header, number=number + 1).encode()
        key, nonce = ratchet._expand(message_key, authenticated)
        keys.append(int.from_bytes(key[:8], "big"))
        nonces.append(int.from_bytes(nonce[:8], "big"))
    for drawn in (keys, nonces):
        ordered = sorted(drawn)
        assert all(one != other for one, other in pairwise(ordered))
    # The derivation above is the one that sends.
    (header, sealed), after = send(a, b"the first of them")
    assert a.sending is not None
    first_key, _ = ratchet.advance(a.sending)
    derived = ratchet._expand(first_key, AD + header.encode())
    assert primitives.unseal(*derived, sealed, AD + header.encode()) == b"the first of them"
    assert int.from_bytes(derived[0][:8], "big") == keys[0]
    assert after.sent == a.sent + 1

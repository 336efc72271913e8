"""Two devices and their sessions: opening, meeting half way, starting anew."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.envelope import (
    ADDRESS,
    Envelope,
    associated_data,
    encode_wraps,
    initiation_body,
)
from plugins.secure_chat.crypto.errors import DecryptError, UnknownPrekey, UnknownSession
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Messenger
from plugins.secure_chat.crypto.pqxdh import MAX_OPENED
from plugins.secure_chat.crypto.session import MAX_SESSIONS
from tests.unit.crypto.people import Directory, Person, acquaint, connect, pair


def talk(sender: Person, receiver: Person, text: bytes = b"x") -> Frame:
    """Seal from the one device to the other's, open it there, return the frame."""
    frame = _device(sender).seal(receiver.id, [receiver.roster], text, 1.0)
    assert _device(receiver).open(frame, sender.roster).content == text
    return frame


def _device(person: Person) -> Messenger:
    return next(iter(person.devices.values())).messenger


def opening(frame: Frame) -> bool:
    return any(one.handshake for one in Envelope.decode(frame.ciphertext).wraps.values())


def used(frame: Frame) -> bytes:
    return next(iter(Envelope.decode(frame.ciphertext).wraps.values())).session


def test_the_handshake_goes_along_until_the_peer_has_answered() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    assert opening(talk(alice, bob))
    assert opening(talk(alice, bob))
    assert not opening(talk(bob, alice))
    assert not opening(talk(alice, bob))


def test_a_session_opens_with_whichever_message_comes_first() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frames = [alice["a"].seal(bob.id, [bob.roster], b"%d" % i, 1.0) for i in range(3)]
    got = [bob["b"].open(frames[i], alice.roster) for i in (2, 0, 1)]
    assert [one.content for one in got] == [b"2", b"0", b"1"]
    assert [one.opened_session for one in got] == [True, False, False]


@pytest.mark.parametrize("bobs_clock", [999, 1000, 1001])
def test_both_open_at_once_and_converge_on_one_session(bobs_clock: int) -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory, now=1000)
    connect(bob["b"], [alice], directory, now=bobs_clock)
    one = alice["a"].seal(bob.id, [bob.roster], b"from a", 1.0)
    two = bob["b"].seal(alice.id, [alice.roster], b"from b", 1.0)
    assert used(one) != used(two)
    assert bob["b"].open(one, alice.roster).content == b"from a"
    assert alice["a"].open(two, bob.roster).content == b"from b"
    sessions = {used(talk(alice, bob)), used(talk(bob, alice)), used(talk(alice, bob))}
    assert len(sessions) == 1
    if bobs_clock != 1000:
        assert sessions == {used(two) if bobs_clock > 1000 else used(one)}
    else:
        assert sessions == {min(used(one), used(two))}


def test_a_reset_wins_and_what_is_still_under_way_opens() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    talk(alice, bob)
    talk(bob, alice)
    under_way = bob["b"].seal(alice.id, [alice.roster], b"old", 1.0)
    # The clock went back: the new session still ranks above.
    alice["a"].establish(bob.roster, directory.claim(bob.certificates[0].id), 5)
    ranked = alice["a"]._sessions(alice["a"]._store, bob.certificates[0].id).ranked
    assert [one.opened for one in ranked] == [1001, 1000], "and not by the chance of its id"
    fresh = talk(alice, bob)
    assert opening(fresh)
    assert alice["a"].open(under_way, bob.roster).content == b"old"
    assert used(talk(bob, alice)) == used(fresh)


def test_a_clock_at_its_end_still_opens_sessions() -> None:
    alice, bob, directory = pair()
    bundle = directory.claim(bob.certificates[0].id)
    for _ in range(2):
        alice["a"].establish(bob.roster, bundle, MAX_OPENED)
    assert opening(talk(alice, bob))


def test_sessions_are_capped_and_the_newest_survive() -> None:
    alice, bob, directory = pair()
    bob["b"].publish_prekeys(0)
    for now in range(MAX_SESSIONS + 3):
        alice["a"].establish(bob.roster, directory.claim(bob.certificates[0].id), 1000 + now)
        last = talk(alice, bob)
    kept = bob["b"]._sessions(bob["b"]._store, alice.certificates[0].id).ranked
    assert len(kept) == MAX_SESSIONS
    assert kept[0].id == used(last)
    assert [one.opened for one in kept] == [1006, 1005, 1004, 1003]


def test_a_wrap_of_no_known_session_is_refused_by_name() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    talk(alice, bob)
    talk(bob, alice)
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    inside = Envelope.decode(frame.ciphertext)
    wraps = {address: replace(one, session=os.urandom(16)) for address, one in inside.wraps.items()}
    forged = replace(frame, ciphertext=replace(inside, wraps=wraps).encode())
    with pytest.raises(UnknownSession):
        bob["b"].open(forged.signed(alice.devices["a"].keys.signing), alice.roster)
    assert bob["b"].open(frame, alice.roster).content == b"x"


def test_a_wrap_that_names_another_session_than_it_opens_is_refused() -> None:
    """Though its sender signs it with both keys: the id is the transcript's, not one's choice."""
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    inside, keys = Envelope.decode(frame.ciphertext), alice.devices["a"].keys
    data = associated_data(alice.id, "a", bob.id, 1, inside.previous)
    digest = primitives.sha256(data)

    def resigned(session: bytes | None) -> Frame:
        wraps = {
            address: replace(one, session=session or one.session)
            for address, one in inside.wraps.items()
        }
        body = initiation_body(digest, inside.commitment, encode_wraps(wraps))
        initiation = keys.sign(labels.INITIATION, body)[1]
        changed = replace(inside, wraps=wraps, initiation=initiation).encode()
        return replace(frame, ciphertext=changed).signed(keys.signing)

    with pytest.raises(DecryptError, match="another session"):
        bob["b"].open(resigned(os.urandom(16)), alice.roster)
    assert bob["b"].open(resigned(None), alice.roster).content == b"x"


def test_an_opening_replayed_after_the_one_time_keys_went_finds_no_prekey() -> None:
    """The same wrap in a new frame of the sender's own making: the second line behind streams."""
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frame = talk(alice, bob)
    store = bob["b"]._store
    gone = dict.fromkeys((*store.names(b"in/"), *store.names(b"session/")))
    store.commit(gone)
    with pytest.raises(UnknownPrekey):
        bob["b"].open(frame, alice.roster)


def test_a_key_wrapped_for_one_session_opens_in_no_other() -> None:
    """A3: two recipients, their wraps exchanged, in sessions long established."""
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1", "b2")
    acquaint(alice, bob)
    connect(alice["a"], [bob], directory)
    connect(bob["b1"], [alice], directory)
    first = alice["a"].seal(bob.id, [bob.roster], b"1", 1.0)
    for name in ("b1", "b2"):
        bob[name].open(first, alice.roster)
        reply = bob[name].seal(alice.id, [alice.roster], b"2", 1.0)
        alice["a"].open(reply, bob.roster)
    frame = alice["a"].seal(bob.id, [bob.roster], b"3", 1.0)
    assert not any(one.handshake for one in Envelope.decode(frame.ciphertext).wraps.values())
    inside = Envelope.decode(frame.ciphertext)
    b1, b2 = (one.id[:ADDRESS] for one in bob.certificates)
    crossed = {b1: inside.wraps[b2], b2: inside.wraps[b1]}
    forged = replace(frame, ciphertext=replace(inside, wraps=crossed).encode())
    with pytest.raises(UnknownSession):
        bob["b1"].open(forged.signed(alice.devices["a"].keys.signing), alice.roster)
    assert bob["b1"].open(frame, alice.roster).content == b"3"

"""Messages between people with many devices, through a server that may do what it likes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from plugins.secure_chat.core.envelope import MAX_SEQ
from plugins.secure_chat.crypto import envelope, primitives
from plugins.secure_chat.crypto.envelope import MAX_CONTENT, Envelope
from plugins.secure_chat.crypto.errors import (
    BadClassicalSignature,
    CommitmentMismatch,
    ContentTooLarge,
    CryptoError,
    DecryptError,
    NoSession,
    NotAddressed,
    NotCertified,
    Reflected,
    Refused,
    Replayed,
    StateRolledBack,
)
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Message, Messenger, Opened
from plugins.secure_chat.crypto.prekeys import MAX_ONE_TIME, Kind
from plugins.secure_chat.crypto.store import SessionStore
from plugins.secure_chat.crypto.streams import Continuity, Incoming
from tests.unit.crypto.people import (
    KEY,
    Device,
    Directory,
    Person,
    Storage,
    Witness,
    acquaint,
    connect,
    pair,
)


def established() -> tuple[Person, Person]:
    """Alice and Bob in a session that both have used."""
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    bob["b"].open(alice["a"].seal(bob.id, [bob.roster], b"1", 1.0), alice.roster)
    alice["a"].open(bob["b"].seal(alice.id, [alice.roster], b"2", 1.0), bob.roster)
    return alice, bob


def resigned(person: Person, frame: Frame, **changes: Any) -> Frame:
    """The frame altered and signed anew: what only its sender could do."""
    device = person.devices[frame.device]
    return replace(frame, **changes).signed(device.keys.signing)


def test_a_message_reaches_every_device_of_both_sides() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a1", "a2"), Person(directory, "b1", "b2", "b3")
    acquaint(alice, bob)
    connect(alice["a1"], [alice, bob], directory)
    frame = alice["a1"].seal(bob.id, [alice.roster, bob.roster], b"hello", 1.5)
    assert len(Envelope.decode(frame.ciphertext).wraps) == 4, "none for the sender itself"
    for messenger in (alice["a2"], bob["b1"], bob["b2"], bob["b3"]):
        opened = messenger.open(Frame.from_wire(frame.to_wire()), alice.roster)
        assert (opened.content, opened.ts, opened.seq) == (b"hello", 1.5, 1)
        assert (opened.sender, opened.recipient) == (alice.id, bob.id)
    with pytest.raises(Reflected):
        alice["a1"].open(frame, alice.roster)


def test_a_thread_of_a_hundred_members_with_two_devices_each() -> None:
    """200 wraps that open sessions, in one frame within the wire's limit."""
    directory = Directory()
    people = [Person(directory, "x", "y", one_time=0) for _ in range(100)]
    rosters = [person.roster for person in people]
    sender = people[0]["x"]
    for roster, person in zip(rosters, people, strict=True):
        sender.learn(roster)
        person["y"].learn(rosters[0])
    for roster in rosters:
        for certificate in sender.missing_sessions([roster]):
            sender.establish(roster, directory.claim(certificate.id), 1)
    frame = sender.seal("thread:1", rosters, b"to all", 1.0)
    assert len(Envelope.decode(frame.ciphertext).wraps) == 199
    assert len(frame.ciphertext) < 1 << 18
    for person in people[::9]:
        assert person["y"].open(frame, rosters[0]).content == b"to all"


def test_nothing_is_sealed_before_every_device_has_a_session() -> None:
    alice, bob, _ = pair()
    with pytest.raises(NoSession) as caught:
        alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    assert caught.value.certificates == (bob.certificates[0].id,)


def test_a_direct_message_is_never_encrypted_to_a_third_person() -> None:
    directory = Directory()
    alice, bob, eve = Person(directory, "a"), Person(directory, "b"), Person(directory, "e")
    acquaint(alice, bob, eve)
    connect(alice["a"], [bob, eve], directory)
    for rosters in ([bob.roster, eve.roster], [eve.roster], []):
        with pytest.raises(Refused):
            alice["a"].seal(bob.id, rosters, b"x", 1.0)


@pytest.mark.parametrize(
    ("move", "error"),
    [
        pytest.param({"recipient": "thread:1"}, DecryptError, id="to a thread"),
        pytest.param({"seq": 9}, DecryptError, id="to another number"),
        pytest.param({"nonce": bytes(12)}, DecryptError, id="under another nonce"),
    ],
)
def test_a_message_moved_does_not_open_even_with_its_senders_signature(
    move: dict[str, Any], error: type[CryptoError]
) -> None:
    """A3, below the signature: the associated data alone refuses it."""
    alice, bob = established()
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    before = bob.devices["b"].storage.blob
    with pytest.raises(error):
        bob["b"].open(resigned(alice, frame, **move), alice.roster)
    assert bob.devices["b"].storage.blob == before
    assert bob["b"].open(frame, alice.roster).content == b"x"


@pytest.mark.parametrize(
    "change",
    [
        {"device": "desk"},
        {"recipient": "thread:1"},
        {"ts": 2.0},
        {"seq": 9},
        {"nonce": bytes(12)},
        {"cids": ("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",)},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
    ids=str,
)
def test_whatever_a_server_changes_the_signature_shows(change: dict[str, Any]) -> None:
    alice, bob = established()
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    forged = replace(frame, **change)
    with pytest.raises(CryptoError):
        bob["b"].open(forged, alice.roster)
    if "device" not in change:
        with pytest.raises(BadClassicalSignature):
            bob["b"].open(forged, alice.roster)
    assert bob["b"].open(frame, alice.roster).content == b"x"


def test_flipping_any_byte_of_the_ciphertext_is_refused_and_changes_nothing() -> None:
    alice, bob = established()
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    before = bob.devices["b"].storage.blob
    for at in range(0, len(frame.ciphertext), 3):
        data = frame.ciphertext
        broken = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(CryptoError):
            bob["b"].open(resigned(alice, frame, ciphertext=broken), alice.roster)
    assert bob.devices["b"].storage.blob == before
    assert bob["b"].open(frame, alice.roster).content == b"x"


def test_one_ciphertext_cannot_hold_two_messages() -> None:
    """A11: the key that a wrap gives must be the one that was committed to."""
    alice, bob = established()
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    inside = Envelope.decode(frame.ciphertext)
    other = Envelope.decode(alice["a"].seal(bob.id, [bob.roster], b"y", 1.0).ciphertext)
    # The wrap authenticates the commitment, so to test the last line it must be bypassed: the
    # session opens the wrap with the honest commitment, the payload check sees the other one.
    session = bob["b"]._sessions(bob["b"]._store, alice.certificates[0].id)
    wrapped = next(iter(inside.wraps.values()))
    found = session.find(wrapped.session)
    assert found is not None
    data = envelope.associated_data(
        frame.sender, frame.device, frame.recipient, frame.seq, inside.previous
    )
    key, _ = found.unwrap(wrapped, primitives.sha256(data), inside.commitment)
    assert envelope.open_payload(key, frame.nonce, data, inside) == b"x"
    forged = replace(inside, commitment=other.commitment)
    with pytest.raises(CommitmentMismatch):
        envelope.open_payload(key, frame.nonce, data, forged)
    with pytest.raises(CommitmentMismatch):
        envelope.open_payload(os.urandom(32), frame.nonce, data, inside)


def test_drops_repeats_and_late_messages_are_told_apart() -> None:
    """A4 and A5."""
    alice, bob = established()
    frames = [alice["a"].seal(bob.id, [bob.roster], b"%d" % i, 1.0) for i in range(4)]
    see: Callable[[int], Continuity] = lambda i: (  # noqa: E731
        bob["b"].open(frames[i], alice.roster).continuity
    )
    assert see(0) is Continuity.CONTINUOUS
    assert see(2) is Continuity.GAP
    with pytest.raises(Replayed):
        see(2)
    assert see(1) is Continuity.LATE
    with pytest.raises(Replayed):
        see(1)
    bob.devices["b"].restart()
    with pytest.raises(Replayed):
        see(0)
    assert see(3) is Continuity.CONTINUOUS


def test_numbers_that_a_sender_passed_over_lawfully_are_no_gap() -> None:
    """The hash decides: the message before is the one we have, whatever its number."""
    how, stream = Incoming(3, b"h" * 32).take(7, b"h" * 32, b"i" * 32)
    assert how is Continuity.CONTINUOUS
    with pytest.raises(Replayed):
        stream.check(5)


def test_a_wrap_smuggled_into_another_conversation_is_not_opened() -> None:
    directory = Directory()
    mallory, bob, carol = (Person(directory, name) for name in "mbc")
    acquaint(mallory, bob, carol)
    connect(mallory["m"], [bob, carol], directory)
    frame = mallory["m"].seal("thread:1", [bob.roster, carol.roster], b"x", 1.0)
    with pytest.raises(NotAddressed):
        bob["b"].open(resigned(mallory, frame, recipient=carol.id), mallory.roster)


def test_a_direct_message_is_not_for_ones_own_devices_alone() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a1", "a2"), Person(directory, "b")
    acquaint(alice, bob)
    connect(alice["a1"], [alice, bob], directory)
    with pytest.raises(Refused):
        alice["a1"].seal(bob.id, [alice.roster], b"x", 1.0)


def test_a_message_is_for_one_to_four_hundred_other_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice, bob = established()
    with pytest.raises(Refused):
        alice["a"].seal("thread:1", [alice.roster], b"to nobody else", 1.0)
    monkeypatch.setattr(envelope, "MAX_WRAPS", 1)
    assert alice["a"].seal(bob.id, [bob.roster], b"x", 1.0).seq == 2
    carol = Person(bob.directory, "c")
    acquaint(alice, carol)
    connect(alice["a"], [carol], bob.directory)
    with pytest.raises(Refused):
        alice["a"].seal("thread:1", [bob.roster, carol.roster], b"x", 1.0)


def test_two_devices_with_one_address_are_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 bytes no two are found that meet; of none, all do."""
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1", "b2")
    acquaint(alice, bob)
    connect(alice["a"], [bob], directory)
    monkeypatch.setattr(f"{Messenger.__module__}.ADDRESS", 0)
    with pytest.raises(Refused):
        alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)


def test_a_streams_numbers_end() -> None:
    alice, bob = established()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"{Messenger.__module__}._FURTHEST", MAX_SEQ)
        alice["a"].fast_forward(bob.id, MAX_SEQ - 1)
    assert alice["a"].seal(bob.id, [bob.roster], b"the last", 1.0).seq == MAX_SEQ
    with pytest.raises(Refused):
        alice["a"].seal(bob.id, [bob.roster], b"one more", 1.0)


def test_a_number_that_no_device_comes_to_is_not_followed() -> None:
    alice, bob = established()
    for last in ((1 << 52) + 1, MAX_SEQ, 1 << 80):
        alice["a"].fast_forward(bob.id, last)
        assert alice["a"].seal(bob.id, [bob.roster], b"low", 1.0).seq < 10
    alice["a"].fast_forward(bob.id, 1 << 52)
    assert alice["a"].seal(bob.id, [bob.roster], b"high", 1.0).seq == (1 << 52) + 1


def test_a_stream_never_goes_back() -> None:
    alice, bob = established()
    alice["a"].seal(bob.id, [bob.roster], b"the second", 1.0)
    alice["a"].fast_forward(bob.id, 1)
    assert alice["a"].seal(bob.id, [bob.roster], b"the third", 1.0).seq == 3


def test_streams_of_devices_and_conversations_do_not_meet() -> None:
    """Each begins with 1; what differs is the sender, its device, or the recipient alone."""
    directory = Directory()
    alice, bob, carol = (
        Person(directory, "a1", "a2"),
        Person(directory, "b"),
        Person(directory, "a1"),
    )
    acquaint(alice, bob, carol)
    for sender in (alice["a1"], alice["a2"], carol["a1"]):
        connect(sender, [bob], directory)
        for recipient in (bob.id, "thread:1", "thread:2"):
            frame = sender.seal(recipient, [bob.roster], b"x", 1.0)
            assert frame.seq == 1
            person = carol if sender is carol["a1"] else alice
            assert bob["b"].open(frame, person.roster).continuity is Continuity.FIRST


def test_a_device_without_prekeys_can_be_left_out() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1", "b2")
    acquaint(alice, bob)
    connect(alice["a"], [bob], directory)
    b1, b2 = bob.certificates
    message = Message(bob.id, [bob.roster], b"x", 1.0, without=frozenset((b2.id,)))
    (frame,) = alice["a"].seal_many([message])
    assert list(Envelope.decode(frame.ciphertext).wraps) == [b1.id[: envelope.ADDRESS]]


def test_a_device_that_was_left_out_is_told_so() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1")
    acquaint(alice, bob)
    before = bob.roster
    connect(alice["a"], [bob], directory)
    bob.add("b2")
    acquaint(alice, bob)
    frame = alice["a"].seal(bob.id, [before], b"x", 1.0)
    with pytest.raises(NotAddressed):
        bob["b2"].open(frame, alice.roster)


def test_many_are_sealed_and_opened_with_one_commit_each() -> None:
    alice, bob = established()
    at = alice.devices["a"].witness.generation, bob.devices["b"].witness.generation
    frames = alice["a"].seal_many(Message(bob.id, [bob.roster], b"%d" % i, 1.0) for i in range(20))
    forged = replace(frames[7], ts=9.0)
    results = bob["b"].open_many(
        (one, alice.roster) for one in [*frames[:8], forged, *frames[8:], frames[0]]
    )
    good = [one.content for one in results if isinstance(one, Opened)]
    assert good == [b"%d" % i for i in range(20)]
    assert [type(one) for one in results if not isinstance(one, Opened)] == [
        BadClassicalSignature,
        Replayed,
    ]
    after = alice.devices["a"].witness.generation, bob.devices["b"].witness.generation
    assert after == (at[0] + 1, at[1] + 1)


def test_content_has_a_cap() -> None:
    alice, bob = established()
    frame = alice["a"].seal(bob.id, [bob.roster], bytes(MAX_CONTENT), 1.0)
    assert len(bob["b"].open(frame, alice.roster).content) == MAX_CONTENT
    with pytest.raises(ContentTooLarge):
        alice["a"].seal(bob.id, [bob.roster], bytes(MAX_CONTENT + 1), 1.0)


def test_one_time_secrets_go_with_their_first_use_and_signed_ones_with_the_second_rotation() -> (
    None
):
    alice, bob, directory = pair()
    store = bob["b"]._store
    before = set(store.names(b"prekey/"))
    connect(alice["a"], [bob], directory)
    first = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    bob["b"].open(first, alice.roster)
    gone = before - set(store.names(b"prekey/"))
    assert sorted(name[7] for name in gone) == [Kind.ONE_TIME, Kind.ONE_TIME_KEM]
    signed = {name for name in before if name[7] in (Kind.SIGNED, Kind.LAST_RESORT_KEM)}
    bob["b"].publish_prekeys(0, rotate=True)
    assert signed <= set(store.names(b"prekey/"))
    bob["b"].publish_prekeys(0, rotate=True)
    assert not signed & set(store.names(b"prekey/"))
    assert bob["b"].publish_prekeys(0).signed.id == bob["b"].publish_prekeys(1).signed.id


def test_no_prekey_gets_a_number_or_a_secret_of_another() -> None:
    alice, _, _ = pair()
    published = [alice["a"].publish_prekeys(2, rotate=at == 1) for at in range(3)]
    made = [one for each in published for one in (*each.one_time, *each.one_time_kem)]
    made += [one for each in published[1:2] for one in (each.signed, each.last_resort)]
    assert len({one.id for one in made}) == len(made) == 14
    assert len({one.key for one in made}) == 14


def test_one_time_secrets_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, _, _ = pair()
    monkeypatch.setattr(f"{Messenger.__module__}.MAX_ONE_TIME_KEPT", 5)
    store = alice["a"]._store
    published = [alice["a"].publish_prekeys(3) for _ in range(3)]
    for kind, made in (
        (Kind.ONE_TIME, [one for each in published for one in each.one_time]),
        (Kind.ONE_TIME_KEM, [one for each in published for one in each.one_time_kem]),
    ):
        kept = sorted(store.names(b"prekey/" + bytes((kind,))))
        assert [int.from_bytes(name[-4:], "big") for name in kept] == [one.id for one in made[-5:]]


@pytest.mark.parametrize("count", [-1, MAX_ONE_TIME + 1])
def test_a_publication_holds_no_more_prekeys_than_others_take(count: int) -> None:
    alice, _, _ = pair()
    with pytest.raises(Refused):
        alice["a"].publish_prekeys(count)


def test_a_device_is_made_once_and_of_its_own_keys() -> None:
    alice, bob, _ = pair()
    keys = alice.devices["a"].keys
    with pytest.raises(Refused):
        Messenger.create(alice.devices["a"].store(), keys, alice.roster, "a", os.urandom)
    with pytest.raises(NotCertified):
        Messenger.create(
            SessionStore(Storage(), Witness(), KEY, os.urandom), keys, bob.roster, "b", os.urandom
        )


def test_no_nonce_and_no_content_key_comes_twice() -> None:
    """A10: nonces are drawn inside; no interface takes one."""
    alice, bob = established()
    rosters = [bob.roster]
    frames = alice["a"].seal_many(Message(bob.id, rosters, b"same", 1.0) for _ in range(5_000))
    assert len({frame.nonce for frame in frames}) == 5_000
    inside = [Envelope.decode(frame.ciphertext) for frame in frames]
    assert len({one.commitment for one in inside}) == 5_000
    assert len({one.payload for one in inside}) == 5_000
    assert len({next(iter(one.wraps.values())).sealed for one in inside}) == 5_000


def test_after_an_old_backup_the_device_sends_only_once_it_has_begun_again() -> None:
    """A10 and A5: from restored state to talking again, and no replay is taken meanwhile."""
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b")
    acquaint(alice, bob)
    connect(alice["a"], [bob], directory)
    device: Device = alice.devices["a"]
    bob["b"].open(alice["a"].seal(bob.id, [bob.roster], b"1", 1.0), alice.roster)
    backup = device.storage.blob
    answer = bob["b"].seal(alice.id, [alice.roster], b"2", 1.0)
    alice["a"].open(answer, bob.roster)
    bob["b"].open(alice["a"].seal(bob.id, [bob.roster], b"3", 1.0), alice.roster)
    device.storage.blob = backup
    device.restart()
    restored: Messenger = alice["a"]
    with pytest.raises(StateRolledBack):
        restored.seal(bob.id, [bob.roster], b"again", 1.0)
    with pytest.raises(StateRolledBack):
        restored.open(answer, bob.roster)
    restored.begin_again()
    for prefix in (b"session/", b"prekey/"):
        assert not restored._store.names(prefix)
    with pytest.raises(CryptoError):
        restored.open(answer, bob.roster)
    published = restored.publish_prekeys(1, rotate=True)
    assert published.signed.id > 1 << 20
    directory.publish(published)
    restored.fast_forward(bob.id, 2)
    restored.establish(bob.roster, directory.claim(bob.certificates[0].id), 2_000)
    frame = restored.seal(bob.id, [bob.roster], b"4", 1.0)
    assert frame.seq == 3
    opened = bob["b"].open(frame, alice.roster)
    assert (opened.content, opened.continuity) == (b"4", Continuity.GAP)
    device.restart()
    assert alice["a"].seal(bob.id, [bob.roster], b"5", 1.0).seq == 4


def test_a_spoilt_message_in_a_batch_uses_up_no_prekey_of_the_sound_one_after_it() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    spoilt = replace(frame, ciphertext=frame.ciphertext[:-1] + bytes((frame.ciphertext[-1] ^ 1,)))
    spoilt = spoilt.signed(alice.devices["a"].keys.signing)
    refused, opened = bob["b"].open_many([(spoilt, alice.roster), (frame, alice.roster)])
    assert isinstance(refused, DecryptError)
    assert isinstance(opened, Opened)
    assert opened.content == b"x"

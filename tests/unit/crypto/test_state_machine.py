"""Sending, losing, reordering, repeating, restarting, tampering, swapping keys and restoring old
states, in any order.

Nothing is accepted twice, altered, or out of its conversation, and what is honest arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from plugins.secure_chat.crypto.errors import (
    CryptoError,
    IdentityChanged,
    NoSession,
    StateRolledBack,
    VerificationError,
)
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Succession
from plugins.secure_chat.crypto.session import MAX_SESSIONS
from tests.unit.crypto.people import Directory, Person, acquaint, connect

THREAD = "thread:1"
DEVICES = (("alice", "a1"), ("alice", "a2"), ("bob", "b1"), ("carol", "c1"))
Place = tuple[str, str]


@dataclass
class Sent:
    """What an honest device sealed, and who should be able to open it."""

    frame: Frame
    content: bytes
    sender: str
    to: frozenset[Place]


class Chat(RuleBasedStateMachine):
    places: tuple[Place, ...] = DEVICES

    @initialize()
    def start(self) -> None:
        self.directory = Directory()
        names: dict[str, list[str]] = {}
        for person, device in self.places:
            names.setdefault(person, []).append(device)
        self.people = {
            name: Person(self.directory, *devices, one_time=1) for name, devices in names.items()
        }
        acquaint(*self.people.values())
        self.rosters = {name: person.roster for name, person in self.people.items()}
        self.backups = {
            (person, device): self.people[person].devices[device].storage.blob
            for person, device in self.places
        }
        # Whoever has a wallet's key can make it another identity.
        self.strangers = {
            name: Person(Directory(), "s", wallet=person.wallet)
            for name, person in self.people.items()
        }
        self.sent: list[Sent] = []
        self.seen: set[tuple[Place, int]] = set()
        self.resets: dict[tuple[Place, Place], int] = {}
        self.now = 1000

    def place(self, index: int) -> Place:
        return self.places[index % len(self.places)]

    def _seal(self, sender: Place, recipient: str, members: set[str]) -> None:
        person = self.people[sender[0]]
        members = members | {sender[0]}
        connect(
            person[sender[1]],
            [self.people[name] for name in sorted(members)],
            self.directory,
            self.now,
        )
        to = frozenset(one for one in self.places if one[0] in members and one != sender)
        content = b"message %d" % len(self.sent)
        rosters = [self.rosters[name] for name in sorted(members)]
        frame = person[sender[1]].seal(recipient, rosters, content, float(len(self.sent)))
        self.sent.append(Sent(frame, content, sender[0], to))

    @rule(who=st.integers(0, 9), other=st.integers(0, 9))
    def write(self, who: int, other: int) -> None:
        sender = self.place(who)
        others = sorted(set(self.people) - {sender[0]})
        peer = others[other % len(others)]
        self._seal(sender, self.people[peer].id, {peer})

    @rule(who=st.integers(0, 9))
    def write_to_all(self, who: int) -> None:
        self._seal(self.place(who), THREAD, set(self.people))

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 99), where=st.integers(0, 9), recent=st.booleans())
    def deliver(self, which: int, where: int, recent: bool) -> None:
        """Any frame to any device, in any order, again and again."""
        index = (len(self.sent) - 1 - which % 4) if recent else which
        index %= len(self.sent)
        sent, place = self.sent[index], self.place(where)
        receiver = self.people[place[0]][place[1]]
        before = self.people[place[0]].devices[place[1]].storage.blob
        if place not in sent.to or (place, index) in self.seen:
            with pytest.raises(CryptoError):
                receiver.open(sent.frame, self.rosters[sent.sender])
            assert self.people[place[0]].devices[place[1]].storage.blob == before
            return
        opened = receiver.open(sent.frame, self.rosters[sent.sender])
        self.seen.add((place, index))
        assert opened.content == sent.content
        assert (opened.sender, opened.recipient) == (sent.frame.sender, sent.frame.recipient)

    @precondition(lambda self: self.sent)
    @rule(
        which=st.integers(0, 99),
        other=st.integers(0, 99),
        where=st.integers(0, 9),
        move=st.sampled_from(
            ("flip", "recipient", "thread", "seq", "device", "sender", "body", "ts", "nonce")
        ),
        at=st.integers(0, 10_000),
    )
    def tamper(self, which: int, other: int, where: int, move: str, at: int) -> None:
        """A server that alters a frame gets an error and changes nothing."""
        sent, place = self.sent[which % len(self.sent)], self.place(where)
        another = self.sent[other % len(self.sent)].frame
        frame, sender = sent.frame, sent.sender
        data = frame.ciphertext
        at %= len(data)
        names = sorted(self.people)
        if move == "sender":
            sender = names[at % len(names)]
        altered = {
            "flip": replace(frame, ciphertext=data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]),
            "recipient": replace(frame, recipient=self.people[names[at % len(names)]].id),
            "thread": replace(frame, recipient="thread:2"),
            "seq": replace(frame, seq=frame.seq + 1 + at),
            "device": replace(frame, device=place[1]),
            "sender": replace(frame, sender=self.people[sender].id),
            "body": replace(frame, ciphertext=another.ciphertext, nonce=another.nonce),
            "ts": replace(frame, ts=frame.ts + 1),
            "nonce": replace(frame, nonce=bytes(12)),
        }[move]
        if altered == frame:
            return
        device = self.people[place[0]].devices[place[1]]
        before = device.storage.blob
        with pytest.raises(CryptoError):
            device.messenger.open(altered, self.rosters[sender])
        assert device.storage.blob == before

    @rule(where=st.integers(0, 9))
    def restart(self, where: int) -> None:
        person, name = self.place(where)
        self.people[person].devices[name].restart()

    @rule(where=st.integers(0, 9), peer=st.integers(0, 9), step=st.integers(-5, 5))
    def reset(self, where: int, peer: int, step: int) -> None:
        """A new session, while messages of the old one may still be under way."""
        one, other = self.place(where), self.place(peer)
        pair = (min(one, other), max(one, other))
        if one == other or self.resets.get(pair, 0) >= MAX_SESSIONS - 2:
            return
        self.resets[pair] = self.resets.get(pair, 0) + 1
        self.now += step
        roster = self.rosters[other[0]]
        bundle = self.directory.claim(roster.device(other[1]).id)
        self.people[one[0]][one[1]].establish(roster, bundle, self.now)

    @rule(
        where=st.integers(0, 9),
        peer=st.integers(0, 9),
        other=st.integers(0, 9),
        lie=st.sampled_from(("another's", "no KEM", "other key", "unsigned KEM")),
    )
    def swap_prekeys(self, where: int, peer: int, other: int, lie: str) -> None:
        """A directory that hands out other keys than the device published opens no session."""
        place, (person, name) = self.place(where), self.place(peer)
        roster = self.rosters[person]
        honest = self.directory.claim(roster.device(name).id)
        assert honest.kem is not None
        third = self.place(other)
        elsewhere = self.directory.claim(self.rosters[third[0]].device(third[1]).id)
        spoilt = {
            "another's": replace(elsewhere, certificate=honest.certificate),
            "no KEM": replace(honest, kem=None),
            "other key": replace(honest, signed=replace(honest.signed, key=bytes(31) + b"\x09")),
            "unsigned KEM": replace(
                honest, kem=replace(honest.kem, post_quantum_signature=bytes(3309))
            ),
        }[lie]
        if spoilt.certificate == elsewhere.certificate:
            return
        device = self.people[place[0]].devices[place[1]]
        before = device.storage.blob
        with pytest.raises(VerificationError):
            device.messenger.establish(roster, spoilt, self.now)
        assert device.storage.blob == before

    @rule(where=st.integers(0, 9), peer=st.integers(0, 9))
    def swap_identity(self, where: int, peer: int) -> None:
        """Another identity of a known wallet stops all of it until a person accepts; none does."""
        place, (person, _) = self.place(where), self.place(peer)
        if place[0] == person:
            return
        stranger = self.strangers[person]
        device = self.people[place[0]].devices[place[1]]
        before = device.storage.blob
        assert device.messenger.learn(stranger.roster) is Succession.RESET
        with pytest.raises(IdentityChanged):
            device.messenger.seal(stranger.id, [stranger.roster], b"for whom?", 1.0)
        sealed = [one for one in self.sent if one.sender == person]
        if sealed:
            with pytest.raises(IdentityChanged):
                device.messenger.open(sealed[-1].frame, stranger.roster)
        assert device.storage.blob == before

    @precondition(lambda self: self.sent)
    @rule(where=st.integers(0, 9), peer=st.integers(0, 9))
    def restore_an_old_state(self, where: int, peer: int) -> None:
        """A backup sends nothing and opens nothing; then the newest state goes on as it was."""
        (person, name), other = self.place(where), self.place(peer)
        device = self.people[person].devices[name]
        newest, old = device.storage.blob, self.backups[person, name]
        if old == newest or other[0] == person:
            return
        device.storage.blob = old
        device.restart()
        roster = self.rosters[other[0]]
        with pytest.raises((StateRolledBack, NoSession)):
            device.messenger.seal(roster.wallet, [roster], b"again", 1.0)
        with pytest.raises(CryptoError):
            device.messenger.open(self.sent[-1].frame, self.rosters[self.sent[-1].sender])
        assert device.storage.blob == old
        device.storage.blob = newest
        device.restart()

    @rule(where=st.integers(0, 9))
    def back_up(self, where: int) -> None:
        person, name = self.place(where)
        self.backups[person, name] = self.people[person].devices[name].storage.blob

    @rule(where=st.integers(0, 9))
    def rotate(self, where: int) -> None:
        """Fresh one-time prekeys; the signed ones stay."""
        person, name = self.place(where)
        self.directory.publish(self.people[person][name].publish_prekeys(1))


class Pair(Chat):
    places = (("alice", "a1"), ("bob", "b1"))


for machine, examples in ((Chat, 25), (Pair, 25)):
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=40)

TestThreeParties = Chat.TestCase
TestTwoParties = Pair.TestCase

"""What a thief of a device's whole folder, and of its key, can read: nothing from before, and after
one round trip nothing new (forward secrecy and recovery of whole messages)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugins.secure_chat.crypto.envelope import Envelope
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.file_storage import FileStorage, FileWitness
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Messenger
from plugins.secure_chat.crypto.store import SessionStore
from tests.unit.crypto.people import KEY, Directory, Person, Witness, acquaint, connect


@dataclass
class Desk:
    """A person with one device, whose state lies in files."""

    person: Person
    folder: Path
    storage: FileStorage
    messenger: Messenger

    def seal(self, to: Desk, content: bytes) -> Frame:
        return self.messenger.seal(to.person.id, [to.person.roster], content, 1.0)

    def open(self, frame: Frame, sender: Desk) -> bytes:
        return self.messenger.open(frame, sender.person.roster).content

    def send(self, to: Desk, content: bytes) -> Frame:
        """Seal, and have it opened there."""
        frame = self.seal(to, content)
        assert to.open(frame, self) == content
        return frame


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[tuple[Desk, Desk]]:
    """Alice and Bob, who know each other; Alice has a session with Bob."""
    directory = Directory()
    people = Person(directory, "a"), Person(directory, "b")
    acquaint(*people)
    connect(people[0]["a"], [people[1]], directory)
    found = []
    for person, name in zip(people, "ab", strict=True):
        device, folder = person.devices[name], tmp_path / name
        storage = FileStorage(folder / "state")
        storage.write(device.storage.blob or b"")
        witness = FileWitness(tmp_path / f"{name} witness" / "generation")
        witness.advance(device.witness.generation)
        store = SessionStore(storage, witness, KEY, os.urandom)
        found.append(Desk(person, folder, storage, Messenger(store, os.urandom)))
    alice, bob = found
    yield alice, bob
    for desk in found:
        desk.storage.close()


class Thief:
    """Has a copy of every file of a device and the key to them, and believes no witness."""

    def __init__(self, desk: Desk, to: Path) -> None:
        self._loot = shutil.copytree(desk.folder, to)

    def opens(self, frame: Frame, sender: Desk) -> bool:
        """Whether any state in the loot opens it, however old; what was seen of a stream is no
        lock. The loot stays as it is."""
        states = sorted(self._loot.glob("state.[01]"))
        assert len(states) == 2
        return any(self._opens(path, frame, sender) for path in states)

    def _opens(self, path: Path, frame: Frame, sender: Desk) -> bool:
        alone = self._loot / "alone"
        alone.mkdir()
        shutil.copy(path, alone / "state.0")
        try:
            with FileStorage(alone / "state") as storage:
                witness = Witness()
                witness.generation = SessionStore(storage, witness, KEY, os.urandom).generation
                store = SessionStore(storage, witness, KEY, os.urandom)
                store.commit(dict.fromkeys(store.names(b"in/")))
                Messenger(store, os.urandom).open(frame, sender.person.roster)
        except CryptoError:
            return False
        finally:
            shutil.rmtree(alone)
        return True


def test_a_state_stolen_opens_nothing_from_before(desks: tuple[Desk, Desk], tmp_path: Path) -> None:
    """Not even the message that the last commit took, on the sender's and the receiver's device."""
    alice, bob = desks
    past: list[tuple[Frame, Desk]] = []
    for turn in range(4):
        frame = alice.seal(bob, b"to Bob")
        assert Thief(bob, tmp_path / f"teeth {turn}").opens(frame, alice), "unread: it has teeth"
        bob.open(frame, alice)
        past.append((frame, alice))
        for at, victim in enumerate(desks):
            thief = Thief(victim, tmp_path / f"loot {turn} {at}")
            assert not [1 for one, sender in past if thief.opens(one, sender)]
        past.append((bob.send(alice, b"to Alice"), bob))
    # Nor is a content key in the sender's files: what it sealed, it cannot open itself.
    for frame, sender in past:
        (wrapped,) = Envelope.decode(frame.ciphertext).wraps.values()
        for path in sender.folder.iterdir():
            assert wrapped.sealed not in path.read_bytes()


def test_after_one_round_trip_a_stolen_state_opens_nothing_new(
    desks: tuple[Desk, Desk], tmp_path: Path
) -> None:
    """Recovery: what a thief of either device reads on with ends when both have written once
    more."""
    alice, bob = desks
    alice.send(bob, b"1")
    bob.send(alice, b"2")
    of_alice, of_bob = (Thief(desk, tmp_path / f"loot {at}") for at, desk in enumerate(desks))
    assert of_alice.opens(bob.send(alice, b"still his"), bob), "at first: the test has teeth"
    assert of_bob.opens(alice.send(bob, b"and this"), alice), "at first: the test has teeth"
    bob.send(alice, b"an answer")
    for _ in range(3):
        assert not of_bob.opens(alice.send(bob, b"out of reach"), alice)
        assert not of_alice.opens(bob.send(alice, b"and this too"), bob)

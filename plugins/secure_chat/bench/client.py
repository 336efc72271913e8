"""What encryption costs a client: sealing, opening and handshakes, without a server or a socket.

One process, one thread. With the state in memory the figures are a second of CPU time, so what else
the machine does is not in them. With the state in files, as the client keeps it, each commit is two
syncs of the disk, and the figures are a second on the wall.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.owners import Owner, new_owner
from plugins.secure_chat.crypto import roster
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.file_storage import FileStorage, FileWitness
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Message, Messenger
from plugins.secure_chat.crypto.prekeys import Bundle
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.crypto.store import SessionStore, Storage, Witness

TARGET: Final = 2_000  # messages a second, each way, with one recipient device
BATCH: Final = 64  # messages a commit, as the client has them under load
CONTENT: Final = bytes(100)
THREAD: Final = "thread_" + "0" * 32
# Recipient devices: so many wallets, and devices of each.
SIZES: Final = ((1, 1), (1, 10), (100, 2))

Place = Callable[[str], tuple[Storage, Witness]]


class _Memory:
    """A blob that no disk holds."""

    def __init__(self) -> None:
        self._blob: bytes | None = None

    def read(self) -> bytes | None:
        return self._blob

    def write(self, blob: bytes) -> None:
        self._blob = blob


class _MemoryWitness:
    """A generation that no disk holds."""

    def __init__(self) -> None:
        self._generation = 0

    def read(self) -> int:
        return self._generation

    def advance(self, generation: int) -> None:
        self._generation = generation


@dataclass(frozen=True, slots=True)
class _Party:
    """A wallet's roster and the messengers of its devices."""

    roster: Roster
    messengers: tuple[Messenger, ...]


def client_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    costs: list[Cost] = []
    for wallets, devices in SIZES[:2] if quick else SIZES:
        count = max(20, (200 if quick else 4_000) // (wallets * devices))
        costs += _talk(wallets, devices, count, "in memory", _in_memory, time.process_time)
        if wallets > 1:
            continue  # files of 200 devices would measure how they are set up
        with ExitStack() as stack:

            def in_files(name: str, opened: ExitStack = stack) -> tuple[Storage, Witness]:
                return (
                    opened.enter_context(FileStorage(folder / name)),
                    opened.enter_context(FileWitness(folder / f"{name}-witness")),
                )

            costs += _talk(wallets, devices, count, "on disk", in_files, time.perf_counter)
        shutil.rmtree(folder)
    return costs + _handshakes(20 if quick else 200)


def _in_memory(_: str) -> tuple[Storage, Witness]:
    return _Memory(), _MemoryWitness()


def _talk(
    wallets: int, devices: int, count: int, where: str, place: Place, clock: Callable[[], float]
) -> list[Cost]:
    """Seal ``count`` messages for all devices, and open them on one, singly and in batches."""
    (sender,) = _parties([new_owner("sender")], "sender", place)
    owners = [new_owner(*(f"d{n}" for n in range(devices))) for _ in range(wallets)]
    others = _parties(owners, "other", place)
    _acquaint(sender, others)
    rosters = [one.roster for one in others]
    recipient = others[0].roster.wallet if wallets == 1 else THREAD
    reader, seal = others[0].messengers[0], sender.messengers[0]
    message = Message(recipient, rosters, CONTENT, 1.0)
    size = wallets * devices
    name = f"{size} recipient {'device' if size == 1 else 'devices'}, {where}"
    target = TARGET if size == 1 else None
    costs = []
    for batch in (1, BATCH):
        began = clock()
        frames = [
            frame for some in _pieces(count, batch) for frame in seal.seal_many([message] * some)
        ]
        sealed = clock()
        for at in range(0, count, batch):
            _opened(reader, frames[at : at + batch], sender.roster)
        opened = clock()
        each = "a commit each" if batch == 1 else f"{batch} a commit"
        goal = target if batch == BATCH else None
        costs += [
            Cost("client", f"sealed for {name}, {each}", count / (sealed - began), goal),
            Cost("client", f"opened, {name}, {each}", count / (opened - sealed), goal),
        ]
    return costs


def _pieces(count: int, size: int) -> Iterator[int]:
    for at in range(0, count, size):
        yield min(size, count - at)


def _opened(reader: Messenger, frames: Sequence[Frame], known: Roster) -> None:
    results = reader.open_many((frame, known) for frame in frames)
    if any(isinstance(one, CryptoError) for one in results):
        raise RuntimeError("a sound message did not open")


def _parties(owners: Sequence[Owner], name: str, place: Place) -> list[_Party]:
    parties = []
    for number, owner in enumerate(owners):
        known = roster.verify(owner.identity, [certificate for _, certificate in owner.devices])
        messengers = []
        for keys, certificate in owner.devices:
            files = place(f"{name}-{number}-{certificate.device}")
            store = SessionStore(*files, os.urandom(32), os.urandom)
            messengers.append(Messenger.create(store, keys, known, certificate.device, os.urandom))
        parties.append(_Party(known, tuple(messengers)))
    return parties


def _bundle(messenger: Messenger) -> Bundle:
    """What the directory would hand out for one handshake."""
    published = messenger.publish_prekeys(1)
    return Bundle(
        published.certificate, published.signed, published.one_time_kem[0], published.one_time[0]
    )


def _acquaint(sender: _Party, others: Sequence[_Party]) -> None:
    """Sessions between the sender and every other device, answered, so none is opening any more."""
    writes = sender.messengers[0]
    for party in others:
        writes.learn(party.roster)
        for messenger in party.messengers:
            messenger.learn(sender.roster)
            messenger.establish(sender.roster, _bundle(writes), 1)
            hello = messenger.seal(sender.roster.wallet, [sender.roster], CONTENT, 1.0)
            writes.open(hello, party.roster)
    wallets = [party.roster for party in others]
    recipient = wallets[0].wallet if len(wallets) == 1 else THREAD
    answer = writes.seal(recipient, wallets, CONTENT, 1.0)
    for party in others:
        for messenger in party.messengers:
            messenger.open(answer, sender.roster)


def _handshakes(count: int) -> list[Cost]:
    """New sessions: a bundle verified and answered to by one side, taken up by the other."""
    clock = time.process_time
    initiators = _parties([new_owner("d") for _ in range(count)], "initiator", _in_memory)
    (responder,) = _parties([new_owner("d")], "responder", _in_memory)
    answers = responder.messengers[0]
    bundles = [_bundle(answers) for _ in initiators]
    for one in initiators:
        one.messengers[0].learn(responder.roster)
        answers.learn(one.roster)
    began = clock()
    for one, bundle in zip(initiators, bundles, strict=True):
        one.messengers[0].establish(responder.roster, bundle, 1)
    established = clock()
    to = responder.roster.wallet
    frames = [one.messengers[0].seal(to, [responder.roster], CONTENT, 1.0) for one in initiators]
    sealed = clock()
    for one, frame in zip(initiators, frames, strict=True):
        answers.open(frame, one.roster)
    accepted = clock()
    known = responder.roster
    for _ in range(count):
        roster.verify(known.identity, known.certificates)
    verified = clock()
    return [
        Cost("client", "handshakes begun (bundle verified)", count / (established - began)),
        Cost("client", "first messages sealed", count / (sealed - established)),
        Cost("client", "handshakes taken up, first message opened", count / (accepted - sealed)),
        Cost("client", "rosters of one device verified", count / (verified - accepted)),
    ]

"""The key directory's costs: the check of signatures, publishing, claiming.

In this process, over a real ledger and mailbox in files, without HTTP. Statements are made before
the clock starts: making them is their owners' cost.
"""

from __future__ import annotations

import asyncio
import os
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.owners import new_owner
from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys
from plugins.secure_chat.crypto.file_storage import FileWitness
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.prekeys import Kind, PrekeySecret, Publication
from plugins.secure_chat.directory.directory import Directory, Limits
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.signatures import DeviceSignatures
from plugins.secure_chat.directory.store import DirectoryStore
from plugins.secure_chat.directory.verification import job, verify_batch
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.service import ChatService

GROUP: Final = 256  # messages that the check is given at once, as under load
ONE_TIME: Final = 20  # one-time prekeys of each kind in a publication
AT_ONCE: Final = 32  # requests under way
DEVICE: Final = "bench"
_UNLIMITED: Final = Limits(statements=1e9, statement_burst=10**9, claims=1e9, claim_burst=10**9)


@dataclass(frozen=True, slots=True)
class _Owner:
    """A wallet's statements, ready to be published."""

    wallet: str
    keys: DeviceKeys
    identity: Identity
    certificate: Certificate
    publication: Publication


def directory_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    folder.mkdir()
    owners = [_owner() for _ in range(8 if quick else 64)]
    return asyncio.run(_measure(folder, owners, 4 if quick else 64))


async def _measure(folder: Path, owners: Sequence[_Owner], groups: int) -> list[Cost]:
    journal = Journal.open(folder / "ledger.jsonl")
    mailbox = Mailbox.at(folder / "mailbox.sqlite")
    witness = FileWitness(folder / "claims")
    store, metrics = DirectoryStore(mailbox, witness), Metrics()
    entries = Entries(store)
    check = DeviceSignatures(entries, metrics, required=True)
    service = ChatService(
        JournalLedger(journal, owned=True),
        mailbox,
        metrics,
        rate=1e9,
        burst=10**9,
        monotonic=time.monotonic,
    )
    service.start()
    directory = Directory(service, store, entries, metrics, _UNLIMITED, time.monotonic)
    try:

        async def register(owner: _Owner) -> None:
            await directory.publish_identity(owner.wallet, owner.identity.encode())
            await directory.publish_device(owner.wallet, owner.certificate.encode())

        async def publish(owner: _Owner) -> None:
            body = owner.publication.encode()
            await directory.publish_prekeys(owner.wallet, DEVICE, body)

        async def claim(owner: _Owner) -> None:
            for _ in range(ONE_TIME):
                await directory.claim("claimer", owner.wallet, [DEVICE])

        statements = 2 * await _rate(register, owners)
        publications = await _rate(publish, owners)
        claims = ONE_TIME * await _rate(claim, owners)
        one_thread, all_cores = await _checks(check, owners[0], groups)
    finally:
        await service.stop()
        directory.close()
        await check.close()
        service.ledger.close()
        witness.close()
        mailbox.close()
    keys = 2 * ONE_TIME
    return [
        Cost("directory", "message signatures checked, one thread", one_thread),
        Cost("directory", "message signatures checked, as a server does", all_cores),
        Cost("directory", "statements published (identities, certificates)", statements),
        Cost("directory", f"publications of {keys} one-time prekeys", publications),
        Cost("directory", "prekey bundles claimed", claims),
    ]


async def _rate(work: Callable[[_Owner], Awaitable[None]], owners: Sequence[_Owner]) -> float:
    """``work`` a second over all owners, AT_ONCE of them under way."""
    waiting = iter(owners)

    async def one_after_the_other() -> None:
        for owner in waiting:
            await work(owner)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return len(owners) / (time.perf_counter() - began)


async def _checks(check: DeviceSignatures, owner: _Owner, groups: int) -> tuple[float, float]:
    """Signatures a second: in this thread alone, and as the server checks them."""
    envelopes = [_signed(owner, seq) for seq in range(1, GROUP + 1)]
    jobs = [job(owner.keys.public[0], envelope) for envelope in envelopes]
    began = time.perf_counter()
    for _ in range(groups):
        if not all(verify_batch(jobs)):
            raise RuntimeError("a sound signature was refused")
    alone = time.perf_counter() - began
    await check.verifiers.start()
    began = time.perf_counter()
    for _ in range(groups):
        if any(await check(envelopes)):
            raise RuntimeError("a sound message was refused")
    spread = time.perf_counter() - began
    return groups * GROUP / alone, groups * GROUP / spread


def _owner() -> _Owner:
    owner = new_owner(DEVICE)
    ((keys, certificate),) = owner.devices

    def secret(kind: Kind, number: int) -> PrekeySecret:
        return PrekeySecret.generate(kind, number, os.urandom)

    publication = Publication(
        certificate.id,
        secret(Kind.SIGNED, 1).publish(keys, certificate.id),
        secret(Kind.LAST_RESORT_KEM, 1).publish(keys, certificate.id),
        *(
            tuple(
                secret(kind, number).publish(keys, certificate.id)
                for number in range(1, ONE_TIME + 1)
            )
            for kind in (Kind.ONE_TIME, Kind.ONE_TIME_KEM)
        ),
    )
    return _Owner(owner.wallet, keys, owner.identity, certificate, publication)


def _signed(owner: _Owner, seq: int) -> Envelope:
    frame = Frame(owner.wallet, DEVICE, "bob", os.urandom(256), os.urandom(12), seq, 1.5)
    signed = frame.signed(owner.keys.signing)
    return Envelope(
        sender=owner.wallet,
        device=DEVICE,
        recipient="bob",
        ciphertext=b64encode(frame.ciphertext).decode(),
        nonce=b64encode(frame.nonce).decode(),
        seq=seq,
        ts=frame.ts,
        hash=b64encode(frame.hash).decode(),
        signature=b64encode(signed.signature).decode(),
        cids=(),
        size=len(frame.ciphertext),
    )

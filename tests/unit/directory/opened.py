"""A directory over a real ledger and mailbox in one process, without transport."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from plugins.secure_chat.crypto.file_storage import FileWitness
from plugins.secure_chat.directory.directory import Directory, Limits
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.signatures import DeviceSignatures
from plugins.secure_chat.directory.store import DirectoryStore
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.runtime import Index
from plugins.secure_chat.service import ChatService
from tests.unit.crypto.people import Person

LEDGER, MAILBOX = "ledger.jsonl", "mailbox.sqlite"
UNLIMITED = Limits(statements=1e6, statement_burst=10**6, claims=1e6, claim_burst=10**6)


@dataclass(frozen=True)
class Opened:
    """What a running chat has, as far as the directory goes."""

    directory: Directory
    store: DirectoryStore
    service: ChatService
    journal: Journal

    async def register(self, person: Person) -> None:
        """Publish a person's identity and certificates."""
        await self.directory.publish_identity(person.id, person.identity.encode())
        for certificate in person.certificates:
            await self.directory.publish_device(person.id, certificate.encode())


def lose_mailbox(path: Path) -> None:
    """Remove the mailbox of a chat that is not open."""
    for file in path.glob(f"{MAILBOX}*"):
        file.unlink()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Opened]:
    """Open what is in ``path``, as a start of the server does."""
    mailbox = Mailbox.at(path / MAILBOX)
    index = Index(mailbox)
    journal = Journal.open(path / LEDGER, verified=index.start, replay=index.replay)
    index.finish(journal.head)
    claims = FileWitness(path / "claims")
    store, metrics = DirectoryStore(mailbox, claims), Metrics()
    store.drop_handed_out()
    entries = Entries(store)
    signatures = DeviceSignatures(entries, metrics, required=False)
    service = ChatService(
        JournalLedger(journal, owned=True),
        mailbox,
        metrics,
        rate=1e6,
        burst=10**6,
        monotonic=time.monotonic,
        check=signatures,
    )
    service.start()
    directory = Directory(service, store, entries, metrics, UNLIMITED, time.monotonic)
    try:
        yield Opened(directory, store, service, journal)
    finally:
        await service.stop()
        directory.close()
        await signatures.close()
        service.ledger.close()
        claims.close()
        mailbox.close()

"""directory/entries: what is in memory is what the ledger has, also while it is being read."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from plugins.secure_chat.core.directory_entry import DirectoryEntry
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.crypto.file_storage import FileWitness
from plugins.secure_chat.directory import entries as module
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.store import DirectoryStore
from plugins.secure_chat.mailbox.store import Mailbox

ALICE, BOB = "0x" + "a1" * 20, "0x" + "b2" * 20


class SlowStore(DirectoryStore):
    """Says what it has read only when it is told to; ``read`` counts."""

    def __init__(self, path: Path) -> None:
        self.mailbox = Mailbox.at(path / "mailbox.sqlite")
        super().__init__(self.mailbox, FileWitness(path / "claims"))
        self.reading, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()
        self.read = 0
        self.found = DirectoryEntry()

    def entry(self, wallet: str) -> DirectoryEntry:
        self.read += 1
        found = self.found
        self.reading.set()
        self.may_answer.wait()
        return found


async def test_what_was_read_before_an_event_is_read_again_after_it(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    entries = Entries(store)
    store.may_answer.clear()
    early = asyncio.create_task(entries.one(ALICE))
    await asyncio.to_thread(store.reading.wait)
    identity = IdentityEvent(StatementKind.IDENTITY, "ab" * 32)
    store.found = DirectoryEntry().after(identity, 1, "hash")
    entries.forget(ALICE)
    store.may_answer.set()
    assert (await early).entry == store.found
    assert store.read == 2
    assert (await entries.one(ALICE)).entry == store.found
    assert store.read == 2
    store.mailbox.close()


async def test_what_was_known_is_read_again_when_it_changes_while_others_are_read(
    tmp_path: Path,
) -> None:
    store = SlowStore(tmp_path)
    entries = Entries(store)
    await entries.one(ALICE)
    store.may_answer.clear()
    store.reading.clear()
    both = asyncio.create_task(entries.of({ALICE, BOB}))
    await asyncio.to_thread(store.reading.wait)
    identity = IdentityEvent(StatementKind.IDENTITY, "ab" * 32)
    store.found = DirectoryEntry().after(identity, 1, "hash")
    entries.forget(ALICE)
    store.may_answer.set()
    found = await both
    assert set(found) == {ALICE, BOB}
    assert found[ALICE].entry == store.found
    store.mailbox.close()


async def test_what_is_logged_of_others_is_no_reason_to_read_again(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    entries = Entries(store)
    store.may_answer.clear()
    asking = asyncio.create_task(entries.one(ALICE))
    await asyncio.to_thread(store.reading.wait)
    entries.forget(BOB)
    store.may_answer.set()
    await asking
    await entries.one(ALICE)
    assert store.read == 1
    store.mailbox.close()


async def test_a_wallet_is_read_once_until_something_is_logged_of_it(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    entries = Entries(store)
    for _ in range(3):
        assert set(await entries.of({ALICE, BOB})) == {ALICE, BOB}
    assert store.read == 2
    entries.forget(BOB)
    await entries.of((ALICE, BOB))
    assert store.read == 3
    store.mailbox.close()


async def test_memory_is_bounded_and_the_longest_unused_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WALLETS", 2)
    store = SlowStore(tmp_path)
    entries = Entries(store)
    for wallet in (ALICE, BOB, ALICE, "carol", ALICE):
        await entries.one(wallet)
    assert store.read == 3
    await entries.one(BOB)
    assert store.read == 4
    store.mailbox.close()

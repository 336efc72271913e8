"""threads/book: the threads in use, in memory, whatever is forgotten and read again meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.secure_chat.core.thread import Change, Status, ThreadEvent
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.threads import book as shell
from plugins.secure_chat.threads.book import ThreadBook
from tests.unit.threads.test_index import begun, record

IDS = [f"thread_{n:032x}" for n in range(6)]


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    opened = Mailbox.at(tmp_path / "mailbox.sqlite")
    for position, thread in enumerate(IDS, 1):
        opened.store_event(record(position, begun(thread)))
    yield opened
    opened.close()


async def test_only_so_many_threads_stay_in_memory_and_the_oldest_go(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "MAX_THREADS", 2)
    book = ThreadBook(mailbox)
    with book.holding(IDS[0]):
        for thread in IDS[:4]:
            await book.load([thread, "a wallet"])
        assert [book.get(thread) is not None for thread in IDS] == [True, False, False, True] + [
            False
        ] * 2
    await book.load(IDS)  # a group may need more of them at once
    assert all(book.get(thread) for thread in IDS)
    assert book.wallets(IDS[0]) == ("bob", "alice")
    assert book.wallets("bob") == ("bob",)
    assert book.wallets("thread_" + "f" * 32) == ()


async def test_an_event_that_is_applied_while_the_thread_is_read_is_not_lost(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read saw the mailbox before the event; it is read again."""
    book = ThreadBook(mailbox)
    await book.load([IDS[1]])
    read = mailbox.thread_states
    loop = asyncio.get_running_loop()
    archived = ThreadEvent(Change.STATUS, IDS[0], "alice", status=Status.ARCHIVED)
    reads = []

    def read_and_be_late(ids: list[str], end: int | None) -> object:
        found = read(ids, end)
        reads.append(ids)
        if len(reads) == 1:
            mailbox.store_event(record(7, archived.draft()))
            asyncio.run_coroutine_threadsafe(_apply(), loop).result()
        return found

    async def _apply() -> None:
        assert book.apply(archived, 7) is None  # not in memory: it stands in the mailbox

    monkeypatch.setattr(mailbox, "thread_states", read_and_be_late)
    await book.fetch([IDS[0]], lambda: None)
    assert len(reads) == 2
    state = book.get(IDS[0])
    assert state is not None
    assert state.status is Status.ARCHIVED

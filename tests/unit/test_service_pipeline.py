"""Groups in a row: what is decided while an earlier group syncs, and what becomes of it."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine

from plugins.secure_chat.admission import SignatureCheck
from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.core.frames import Ack
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.errors import (
    LedgerUnavailable,
    NotAMember,
    OutcomeUnknown,
    Refusal,
    SequenceConflict,
)
from plugins.secure_chat.hub import Outbox
from plugins.secure_chat.ledger.file import AppendFile
from plugins.secure_chat.ledger.journal import Checkpoint, Journal
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.mailbox.engine import engine_at
from plugins.secure_chat.mailbox.store import Mailbox, Stored
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.receipts import Receipts
from plugins.secure_chat.runtime import Index
from plugins.secure_chat.service import MAX_UNSETTLED, ChatService, Outcome
from tests.unit.test_service import ALICE, BOB, envelope


class Disk(AppendFile):
    """A ledger file whose next syncs wait to be let go, and whose writes can be refused."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.held = threading.Event()  # somebody waits in a sync
        self.go = threading.Event()
        self.go.set()
        self.full = False
        self.broken = False

    def hold(self) -> None:
        self.held.clear()
        self.go.clear()

    def append(self, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(data)

    def sync(self) -> None:
        if not self.go.is_set():
            self.held.set()
            self.go.wait()
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        super().sync()


class FailingMailbox(Mailbox):
    """A mailbox that refuses the batches it is told to, once each."""

    refused_seqs: frozenset[int] = frozenset()
    failure: Exception = LedgerUnavailable("the mailbox's disk is full")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.go = threading.Event()  # stores wait for it
        self.go.set()
        self.vouched: list[tuple[int, list[int]]] = []  # checkpoints, and the rows of the moment

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        rows = sorted(self.hashes_between(0, 100), reverse=True)
        self.vouched.append((checkpoint.head.position, rows))
        super().set_checkpoint(checkpoint)

    def store(self, batch: Sequence[Stored], *, committed: int = 0) -> None:
        self.go.wait()
        if any(message.seq in self.refused_seqs for message in batch):
            self.refused_seqs = frozenset()
            raise self.failure
        super().store(batch, committed=committed)


@dataclass
class Running:
    service: ChatService
    journal: Journal
    disk: Disk
    mailbox: FailingMailbox
    answers: dict[int, list[Outcome]] = field(default_factory=dict)
    stopped: bool = False

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            await self.service.stop()

    def submit(self, message: Envelope) -> None:
        answers = self.answers.setdefault(message.seq, [])
        self.service.submit(message, None, answers.append)

    async def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until ``condition`` holds."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 -- threads make it true, too
                await asyncio.sleep(0)

    async def answered(self, *seqs: int) -> list[Outcome]:
        """The first answer to each of ``seqs``."""
        await self.until(lambda: all(self.answers.get(seq) for seq in seqs))
        return [self.answers[seq][0] for seq in seqs]

    async def stored(self, seq: int) -> None:
        """Return when the mailbox has the message: its group is on its way to the ledger."""
        stream = envelope(ALICE, BOB, seq).stream
        await self.until(lambda: self.mailbox.logged(stream, seq))

    async def hold_with(self, seq: int) -> None:
        """Submit a message and hold the disk while it syncs."""
        self.disk.hold()
        self.submit(envelope(ALICE, BOB, seq))
        await self.until(self.disk.held.is_set)
        await self.stored(seq)


@pytest.fixture(autouse=True)
def every_message_is_worth_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.secure_chat.service.ENOUGH", 1)


@asynccontextmanager
async def running(path: Path, check: SignatureCheck | None = None) -> AsyncIterator[Running]:
    disks: list[Disk] = []

    def open_disk(at: Path) -> Disk:
        disks.append(Disk(at))
        return disks[0]

    journal = Journal.open(path / "ledger.jsonl", open_file=open_disk)
    mailbox = FailingMailbox(engine_at(path / "mailbox.sqlite"))
    service = ChatService(
        JournalLedger(journal, owned=True),
        mailbox,
        Metrics(),
        rate=1e6,
        burst=10**6,
        monotonic=time.monotonic,
        check=check,
    )
    service.start()
    chat = Running(service, journal, disks[0], mailbox)
    try:
        yield chat
    finally:
        disks[0].go.set()
        mailbox.go.set()
        await chat.stop()
        service.ledger.close()
        mailbox.close()


def positions(outcomes: Sequence[Outcome]) -> list[int]:
    return [outcome.position for outcome in outcomes if isinstance(outcome, Ack)]


async def test_whoever_waits_for_a_group_that_failed_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        chat.submit(envelope(ALICE, BOB, 1))  # sent again while it syncs
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.stored(2)
        chat.disk.broken = True
        chat.disk.go.set()
        await chat.service.drained()
        told = {seq: [type(one) for one in answers] for seq, answers in chat.answers.items()}
        # Of the first nobody knows; the second was never written.
        assert told == {1: [OutcomeUnknown] * 2, 2: [LedgerUnavailable]}


async def test_what_a_full_disk_refused_is_new_when_it_is_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        chat.disk.full = True
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.service.drained()
        chat.disk.full = False
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.service.drained()
        refused, taken = chat.answers[1]
        assert isinstance(refused, LedgerUnavailable)
        assert isinstance(taken, Ack)
        assert (taken.position, taken.duplicate) == (1, False)


async def test_a_group_is_decided_while_the_one_before_it_syncs(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        inbox = Outbox(BOB)
        chat.service.hub.add(inbox)
        await chat.hold_with(1)
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.stored(2)
        # Neither is durable: neither is delivered or acknowledged.
        assert chat.answers == {1: [], 2: []}
        assert inbox.pending_bytes == 0
        assert chat.service.delivered_position == 0
        chat.disk.go.set()
        assert positions(await chat.answered(1, 2)) == [1, 2]
        first, second = inbox.take()
        assert b'"seq":1,' in first
        assert b'"seq":2,' in second


async def test_a_receipt_is_not_taken_for_what_is_not_shown_yet(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        with pytest.raises(NotAMember):
            await Receipts(chat.service).give(BOB, "read", 1)
        chat.disk.go.set()
        await chat.answered(1)
        await Receipts(chat.service).give(BOB, "read", 1)


async def test_groups_that_wait_for_the_disk_are_few_and_the_last_takes_all_the_rest(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        for seq in range(2, MAX_UNSETTLED + 1):
            chat.submit(envelope(ALICE, BOB, seq))
            await chat.stored(seq)
        for seq in range(MAX_UNSETTLED + 1, 100):
            chat.submit(envelope(ALICE, BOB, seq))
            await asyncio.sleep(0)
        assert chat.service.waiting == 99 - MAX_UNSETTLED
        chat.disk.go.set()
        assert positions(await chat.answered(*range(1, 100))) == list(range(1, 100))
        metrics = chat.service.metrics.exposition().decode()
        assert f"secure_chat_group_messages_count {MAX_UNSETTLED + 1}.0" in metrics


async def test_while_a_group_syncs_a_few_messages_wait_for_it_and_many_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.secure_chat.service.ENOUGH", 3)
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        for seq in (2, 3):
            chat.submit(envelope(ALICE, BOB, seq))
        for _ in range(10):
            await asyncio.sleep(0)
        assert chat.service.waiting == 2
        chat.submit(envelope(ALICE, BOB, 4))
        await chat.stored(4)
        assert chat.service.waiting == 0
        chat.submit(envelope(ALICE, BOB, 5))
        chat.disk.go.set()
        assert positions(await chat.answered(1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]


async def test_a_message_sent_again_while_it_syncs_gets_the_one_receipt(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        chat.mailbox.go.clear()
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: chat.journal.head.position == 1)
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: not chat.service.waiting)
        chat.mailbox.go.set()
        await chat.until(lambda: len(chat.answers[1]) == 2)
        first, again = chat.answers[1]
        assert isinstance(first, Ack)
        assert isinstance(again, Ack)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert (first.position, first.event_hash) == (again.position, again.event_hash)
        assert chat.journal.head.position == 1


async def test_a_message_sent_again_is_not_acknowledged_before_its_sync(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: not chat.service.waiting)
        chat.disk.broken = True
        chat.disk.go.set()
        await chat.until(lambda: len(chat.answers[1]) == 2)
        assert [type(outcome) for outcome in chat.answers[1]] == [OutcomeUnknown] * 2


async def test_another_message_with_the_number_of_one_that_syncs_conflicts(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        with pytest.raises(SequenceConflict):
            await chat.service.send(envelope(ALICE, BOB, 1, other=True))
        chat.disk.go.set()
        assert positions(await chat.answered(1)) == [1]


async def test_what_was_decided_on_top_of_a_group_that_fails_fails_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.stored(2)
        chat.submit(envelope(ALICE, BOB, 3))
        await chat.stored(3)
        chat.disk.full = True  # 1 is written and syncs; 2 and 3 will find no space
        chat.disk.go.set()
        kept, *refused = await chat.answered(1, 2, 3)
        assert positions([kept]) == [1]
        assert [type(outcome) for outcome in refused] == [LedgerUnavailable] * 2
        chat.disk.full = False
        again = [await chat.service.send(envelope(ALICE, BOB, seq)) for seq in (2, 3)]
        assert [(one.position, one.duplicate, one.gap) for one in again] == [
            (2, False, 0),
            (3, False, 0),
        ]
        assert sorted(chat.mailbox.hashes_between(0, 3)) == [1, 2, 3]


@pytest.mark.parametrize("written", [0, 1])
async def test_groups_that_a_kill_kept_from_the_ledger_are_no_reason_to_refuse_it(
    tmp_path: Path, written: int
) -> None:
    """The disk's state while three groups are under way: the mailbox has more than the ledger."""
    (tmp_path / "running").mkdir()
    async with running(tmp_path / "running") as chat:
        await chat.service.send(envelope(ALICE, BOB, 1))
        await chat.hold_with(2)
        for seq in (3, 4):
            chat.submit(envelope(ALICE, BOB, seq))
            await chat.stored(seq)
        killed = shutil.copytree(tmp_path / "running", tmp_path / "killed")
        chat.disk.go.set()
    ledger = killed / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    ledger.write_bytes(b"".join(lines[: 1 + written]))
    mailbox = Mailbox.at(killed / "mailbox.sqlite")
    assert sorted(mailbox.hashes_between(0, 9)) == [1, 2, 3, 4]
    index = Index(mailbox)
    journal = Journal.open(ledger, verified=index.start, replay=index.replay)
    index.finish(journal.head)
    journal.close()
    assert sorted(mailbox.hashes_between(0, 9)) == list(range(1, 2 + written))
    assert mailbox.last_seq(envelope(ALICE, BOB, 1).stream) == 1 + written
    mailbox.close()


async def test_nothing_behind_lost_ciphertext_is_shown_before_the_mailbox_has_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as chat:
        inbox = Outbox(BOB)
        chat.service.hub.add(inbox)
        await chat.hold_with(1)
        chat.mailbox.refused_seqs = frozenset((2,))
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.until(lambda: not chat.mailbox.refused_seqs)
        chat.submit(envelope(ALICE, BOB, 3))
        await chat.stored(3)
        chat.disk.go.set()
        kept, *refused = await chat.answered(1, 2, 3)
        assert positions([kept]) == [1]
        assert [type(outcome) for outcome in refused] == [LedgerUnavailable] * 2
        assert chat.service.delivered_position == 1
        again = [await chat.service.send(envelope(ALICE, BOB, seq)) for seq in (2, 3)]
        assert [(one.position, one.duplicate) for one in again] == [(2, True), (3, True)]
        frames = inbox.take()
        assert [b'"seq":%d,' % seq in frame for seq, frame in enumerate(frames, 1)] == [True] * 3
        assert chat.journal.head.position == 3


async def test_a_message_that_was_being_checked_when_those_before_it_failed_is_refused(
    tmp_path: Path,
) -> None:
    checked = asyncio.Event()

    async def check(envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        if envelopes[0].seq == 2:
            await checked.wait()
        return [None] * len(envelopes)

    async with running(tmp_path, check) as chat:
        chat.disk.full = True
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: not chat.service.waiting)
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.answered(1)
        chat.disk.full = False
        checked.set()
        refused = await chat.answered(1, 2)
        assert [type(outcome) for outcome in refused] == [LedgerUnavailable] * 2
        again = [await chat.service.send(envelope(ALICE, BOB, seq)) for seq in (1, 2)]
        assert [(one.position, one.gap) for one in again] == [(1, 0), (2, 0)]


class SecondGroupWaits:
    """A check that takes every signature; of the second group not before it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self._groups = 0

    async def __call__(self, envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        self._groups += 1
        if self._groups == 2:
            await self.go.wait()
        return [None] * len(envelopes)


async def test_a_message_sent_again_while_its_group_fails_gets_no_receipt(tmp_path: Path) -> None:
    check = SecondGroupWaits()
    async with running(tmp_path, check) as chat:
        chat.disk.full = True
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: not chat.service.waiting)
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.answered(1)
        # The mailbox still has the row of what the ledger refused.
        assert chat.mailbox.logged(envelope(ALICE, BOB, 1).stream, 1)
        check.go.set()
        await chat.until(lambda: len(chat.answers[1]) == 2)
        assert [type(outcome) for outcome in chat.answers[1]] == [LedgerUnavailable] * 2
        chat.disk.full = False
        again = await chat.service.send(envelope(ALICE, BOB, 1))
        assert (again.position, again.duplicate) == (1, False)


async def test_a_message_sent_again_while_its_ciphertext_is_lost_is_not_refused_for_good(
    tmp_path: Path,
) -> None:
    check = SecondGroupWaits()
    async with running(tmp_path, check) as chat:
        chat.mailbox.refused_seqs = frozenset((1,))
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.until(lambda: not chat.service.waiting)
        chat.submit(envelope(ALICE, BOB, 1))
        await chat.answered(1)
        check.go.set()
        await chat.until(lambda: len(chat.answers[1]) == 2)
        assert [type(outcome) for outcome in chat.answers[1]] == [LedgerUnavailable] * 2
        again = await chat.service.send(envelope(ALICE, BOB, 1))
        assert (again.position, again.duplicate) == (1, True)


async def test_a_mailbox_that_fails_by_a_defect_has_nothing_logged_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        chat.mailbox.failure = LookupError()
        chat.mailbox.refused_seqs = frozenset((1,))
        with pytest.raises(LedgerUnavailable):
            await chat.service.send(envelope(ALICE, BOB, 1))
        again = await chat.service.send(envelope(ALICE, BOB, 1))
        assert (again.position, again.duplicate) == (1, True)
        assert chat.journal.head.position == 1


@pytest.mark.parametrize("what", ["delivered", "MailboxWriter.store"])
async def test_a_defect_behind_a_commit_stops_the_ledger_and_has_nothing_logged_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise LookupError

    async with running(tmp_path) as chat:
        with monkeypatch.context() as patched:
            patched.setattr(f"plugins.secure_chat.service.{what}", fail)
            with pytest.raises(LedgerUnavailable):
                await chat.service.send(envelope(ALICE, BOB, 1))
        assert chat.service.why_not_ready()
        with pytest.raises(LedgerUnavailable):
            await chat.service.send(envelope(ALICE, BOB, 1))
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) <= 1


async def test_a_server_that_stops_takes_no_more_and_settles_what_syncs(tmp_path: Path) -> None:
    async with running(tmp_path) as chat:
        await chat.hold_with(1)
        stopping = asyncio.create_task(chat.stop())
        await asyncio.sleep(0)  # now it waits for the disk
        assert chat.service.why_not_ready() == ["the server is shutting down"]
        chat.submit(envelope(ALICE, BOB, 2))
        draft = EventDraft("NOTE", ALICE, {})
        event = asyncio.create_task(chat.service.log(lambda: draft, lambda _receipt: None))
        await asyncio.sleep(0)
        assert [type(answer) for answer in chat.answers[2]] == [LedgerUnavailable]
        assert event.done()
        assert isinstance(event.exception(), LedgerUnavailable)
        assert chat.answers[1] == []
        chat.disk.go.set()
        await stopping
        assert positions(chat.answers[1]) == [1]
        assert chat.journal.head.position == 1


async def test_a_checkpoint_vouches_for_rows_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.secure_chat.service.CHECKPOINT_EVERY", 1)
    async with running(tmp_path) as chat:
        chat.mailbox.refused_seqs = frozenset((2,))
        await chat.service.send(envelope(ALICE, BOB, 1))
        chat.mailbox.go.clear()
        chat.submit(envelope(ALICE, BOB, 2))
        await chat.until(lambda: chat.journal.head.position == 2)
        chat.submit(envelope(ALICE, BOB, 3))  # a checkpoint is due before it
        await chat.until(lambda: not chat.service.waiting)
        chat.mailbox.go.set()
        await chat.answered(2, 3)
    assert chat.mailbox.vouched
    for position, rows in chat.mailbox.vouched:
        assert rows == list(range(position, 0, -1))

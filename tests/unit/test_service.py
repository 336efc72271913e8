"""The sequencer's order of messages and other events, and what it asks of others."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plugins.secure_chat import service as service_module
from plugins.secure_chat.admission import Audience, SignatureCheck
from plugins.secure_chat.core.envelope import Envelope, message_hash
from plugins.secure_chat.core.frames import Ack
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.records import EventDraft, Receipt
from plugins.secure_chat.errors import (
    BadSignature,
    LedgerUnavailable,
    NotAMember,
    NotStored,
    OutcomeUnknown,
    Refusal,
)
from plugins.secure_chat.hub import Outbox
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.mailbox.store import Mailbox, StoredIdentityEvent
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.service import ChatService, Outcome

ALICE, BOB, CAROL, THREAD = "alice", "bob", "carol", "thread_1"


def envelope(
    sender: str, recipient: str, seq: int, signature: str = "", *, other: bool = False
) -> Envelope:
    """A message; another of the same number when ``other``."""
    ciphertext, nonce = bytes([other]) * 16, bytes(12)
    return Envelope(
        sender=sender,
        device="0",
        recipient=recipient,
        ciphertext=b64encode(ciphertext).decode(),
        nonce=b64encode(nonce).decode(),
        seq=seq,
        ts=0,
        hash=b64encode(message_hash(ciphertext, nonce, seq)).decode(),
        signature=signature,
        cids=(),
        size=16,
    )


def event(kind: str) -> EventDraft:
    return EventDraft("THREAD", ALICE, {"kind": kind})


@asynccontextmanager
async def running(
    path: Path, check: SignatureCheck | None = None, audience: Audience | None = None
) -> AsyncIterator[tuple[ChatService, Journal]]:
    journal = Journal.open(path / "ledger.jsonl")
    mailbox = Mailbox.at(path / "mailbox.sqlite")
    service = ChatService(
        JournalLedger(journal, owned=True),
        mailbox,
        Metrics(),
        rate=1e6,
        burst=10**6,
        monotonic=time.monotonic,
        check=check,
        audience=audience,
    )
    service.start()
    try:
        yield service, journal
    finally:
        await service.stop()
        service.ledger.close()
        mailbox.close()


class Members:
    """A thread whose members change with events, as an audience."""

    def __init__(self, *members: str) -> None:
        self.members = list(members)

    async def load(self, recipients: Collection[str]) -> None:
        """They are here."""

    def admit(self, envelope: Envelope) -> None:
        if envelope.sender not in self.members:
            raise NotAMember("not a member")

    def wallets(self, recipient: str) -> Sequence[str]:
        return self.members


def nothing(_receipt: Receipt) -> None:
    pass


async def test_events_and_messages_stand_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, journal):
        answers: list[Outcome] = []
        service.submit(envelope(ALICE, BOB, 1), None, answers.append)
        logged = asyncio.create_task(service.log(lambda: event("created"), nothing))
        await asyncio.sleep(0)  # the task puts its event into the pool
        service.submit(envelope(ALICE, BOB, 2), None, answers.append)
        receipt = await logged
        await service.send(envelope(ALICE, BOB, 3))
        types = [record.event_type for record in journal.read()]
    assert types == ["MESSAGE", "THREAD", "MESSAGE", "MESSAGE"]
    assert receipt.position == 2
    assert [answer.position for answer in answers if isinstance(answer, Ack)] == [1, 3]


async def test_an_event_is_applied_before_anything_behind_it_is_decided(tmp_path: Path) -> None:
    thread = Members(ALICE, BOB)
    async with running(tmp_path, audience=thread) as (service, _):
        outcomes: list[Outcome] = []
        service.submit(envelope(BOB, THREAD, 1), None, outcomes.append)
        removal = asyncio.create_task(
            service.log(lambda: event("removed"), lambda _: thread.members.remove(BOB))
        )
        await asyncio.sleep(0)
        service.submit(envelope(BOB, THREAD, 2), None, outcomes.append)
        await removal
        await service.send(envelope(ALICE, THREAD, 1))
    assert [type(outcome) for outcome in outcomes] == [Ack, NotAMember]


async def test_who_was_removed_still_gets_the_receipt_of_what_was_logged(tmp_path: Path) -> None:
    thread = Members(ALICE, BOB)
    async with running(tmp_path, audience=thread) as (service, _):
        first = await service.send(envelope(BOB, THREAD, 1))
        await service.log(lambda: event("removed"), lambda _: thread.members.remove(BOB))
        again = await service.send(envelope(BOB, THREAD, 1))
    assert again.duplicate
    assert again.position == first.position


async def test_an_event_that_is_refused_when_its_turn_comes_is_not_logged(tmp_path: Path) -> None:
    def refuse() -> EventDraft:
        raise NotAMember("not a member")

    async with running(tmp_path) as (service, journal):
        with pytest.raises(NotAMember):
            await service.log(refuse, nothing)
        assert journal.head.position == 0
        await service.send(envelope(ALICE, BOB, 1))


async def test_an_event_that_a_defect_met_is_unknown_once_it_may_be_logged(tmp_path: Path) -> None:
    def defect() -> EventDraft:
        raise LookupError

    def fails(_receipt: Receipt) -> None:
        raise LookupError

    async with running(tmp_path) as (service, journal):
        with pytest.raises(LedgerUnavailable) as before:
            await service.log(defect, nothing)
        assert (type(before.value), journal.head.position) == (LedgerUnavailable, 0)
        with pytest.raises(OutcomeUnknown):
            await service.log(lambda: event("created"), fails)
        assert journal.head.position == 1
        assert (await service.send(envelope(ALICE, BOB, 1))).position == 2


async def test_every_member_gets_a_thread_message_and_its_own_socket_does_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, audience=Members(ALICE, BOB, CAROL)) as (service, _):
        sockets = {name: Outbox(name) for name in (ALICE, BOB, CAROL, "mallory")}
        elsewhere = Outbox(ALICE)
        for outbox in (*sockets.values(), elsewhere):
            service.hub.add(outbox)
        acked = asyncio.Event()
        service.submit(envelope(ALICE, THREAD, 1), sockets[ALICE], lambda _: acked.set())
        await acked.wait()
        got = {name: outbox.pending_bytes > 0 for name, outbox in sockets.items()}
        assert got == {ALICE: False, BOB: True, CAROL: True, "mallory": False}
        assert elsewhere.pending_bytes


async def test_what_the_signature_check_refuses_is_answered_and_the_rest_is_logged(
    tmp_path: Path,
) -> None:
    async def check(envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        return [None if one.signature else BadSignature("not signed") for one in envelopes]

    async with running(tmp_path, check=check) as (service, journal):
        with pytest.raises(BadSignature):
            await service.send(envelope(ALICE, BOB, 1))
        assert (await service.send(envelope(ALICE, BOB, 2, "signed"))).position == 1
        assert journal.head.position == 1


async def test_observers_see_every_event_once_in_ledger_order(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def observer(drafts: Sequence[EventDraft], receipts: Sequence[Receipt]) -> None:
        for draft, receipt in zip(drafts, receipts, strict=True):
            seen.append((receipt.position, draft.event_type))

    async with running(tmp_path) as (service, _):
        service.observe(observer)
        await service.send(envelope(ALICE, BOB, 1))
        await service.log(lambda: event("created"), nothing)
        await service.send(envelope(ALICE, BOB, 1))  # a duplicate is no event
        await service.send(envelope(ALICE, BOB, 2))
    assert seen == [(1, "MESSAGE"), (2, "THREAD"), (3, "MESSAGE")]


async def test_an_observer_that_fails_does_not_keep_the_message_from_its_ack(
    tmp_path: Path,
) -> None:
    def observer(_drafts: Sequence[EventDraft], _receipts: Sequence[Receipt]) -> None:
        raise RuntimeError

    async with running(tmp_path) as (service, _):
        service.observe(observer)
        assert (await service.send(envelope(ALICE, BOB, 1))).position == 1
        assert (await service.log(lambda: event("created"), nothing)).position == 2


@pytest.mark.parametrize("task", ["sequencer", "settler"])
async def test_a_task_that_died_is_said_in_readiness(tmp_path: Path, task: str) -> None:
    async with running(tmp_path) as (service, _):
        assert service.why_not_ready() == []
        (died,) = (one for one in asyncio.all_tasks() if one.get_name() == task)
        died.cancel()
        await asyncio.wait((died,))
        (reason,) = service.why_not_ready()
        assert "restart to recover" in reason


async def test_a_server_that_shuts_down_logs_what_it_took_and_takes_no_more(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (service, journal):
        taken = asyncio.create_task(service.log(lambda: event("created"), nothing))
        await asyncio.sleep(0)
    assert (await taken).position == journal.head.position == 1
    with pytest.raises(LedgerUnavailable):
        await service.log(lambda: event("created"), nothing)


async def test_an_events_rows_are_stored_before_it_is_applied(tmp_path: Path) -> None:
    steps: list[str] = []
    async with running(tmp_path) as (service, _):
        receipt = await service.log(
            lambda: event("created"),
            lambda receipt: steps.append(f"applied {receipt.position}"),
            lambda receipt: steps.append(f"stored {receipt.position}"),
        )
    assert steps == ["stored 1", "applied 1"]
    assert receipt.position == 1


async def test_an_event_logged_and_not_stored_is_stored_and_applied_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    full = [True, True]

    def store(receipt: Receipt) -> None:
        if full and full.pop():
            raise LedgerUnavailable("the disk is full")
        steps.append(f"stored {receipt.position}")

    def apply(receipt: Receipt) -> None:
        steps.append(f"applied {receipt.position}")

    monkeypatch.setattr(service_module, "MEND_SECONDS", 3600)
    async with running(tmp_path) as (service, journal):
        with pytest.raises(NotStored, match="the disk is full") as logged:
            await service.log(lambda: event("created"), apply, store)
        assert logged.value.receipt.position == 1
        assert journal.head.position == 1
        assert steps == []
        with pytest.raises(LedgerUnavailable, match="the disk is full"):
            await service.send(envelope(ALICE, BOB, 1))
        assert (await service.send(envelope(ALICE, BOB, 1))).position == 2
        assert steps == ["stored 1", "applied 1"]


async def test_rows_of_an_event_that_the_ledger_refused_are_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, journal):
        journal.close()
        service.mailbox.store_identity_event(_registration(ALICE, Receipt(1, "id", "h", "")))
        with pytest.raises(LedgerUnavailable, match="closing"):
            await service.log(lambda: event("created"), nothing)
        assert service.mailbox.identity_events(ALICE) == []


def _registration(wallet: str, receipt: Receipt) -> StoredIdentityEvent:
    statement = IdentityEvent(StatementKind.IDENTITY, "ab" * 32)
    return StoredIdentityEvent(receipt.position, receipt.event_hash, wallet, statement)

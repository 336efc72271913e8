"""receipts: kept in groups, each told once, and refused one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugins.secure_chat import receipts
from plugins.secure_chat.errors import LedgerUnavailable, NotAMember
from plugins.secure_chat.hub import Outbox
from plugins.secure_chat.mailbox.store import Mailbox, MessageReceipt
from plugins.secure_chat.receipts import Receipts
from tests.unit.test_service import ALICE, BOB, envelope
from tests.unit.test_service_pipeline import Running, running

CAROL = "carol"
MESSAGES = 5


@dataclass
class Kept:
    chat: Running
    receipts: Receipts
    groups: list[list[MessageReceipt]]  # as they were written

    def told(self) -> list[tuple[int, str]]:
        """What the sender heard since."""
        frames = [json.loads(frame) for frame in self.alice.take()]
        return [(f["position"], f["kind"]) for f in frames if f["type"] == "RECEIPT"]

    def __post_init__(self) -> None:
        self.alice = Outbox(ALICE)
        self.chat.service.hub.add(self.alice)

    async def give(self, *given: tuple[str, str, int]) -> list[BaseException | None]:
        """Give all of ``given`` at once: what each raised."""
        return await asyncio.gather(
            *(self.receipts.give(*one) for one in given), return_exceptions=True
        )


@pytest.fixture
async def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    """After MESSAGES of Alice's to Bob."""
    groups: list[list[MessageReceipt]] = []
    original = Mailbox.add_receipts

    def watched(mailbox: Mailbox, given: Sequence[MessageReceipt]) -> set[MessageReceipt]:
        groups.append(list(given))
        return original(mailbox, given)

    monkeypatch.setattr(Mailbox, "add_receipts", watched)
    async with running(tmp_path) as chat:
        for seq in range(1, MESSAGES + 1):
            chat.submit(envelope(ALICE, BOB, seq))
        await chat.answered(*range(1, MESSAGES + 1))
        yield Kept(chat, Receipts(chat.service), groups)


async def test_those_that_come_while_one_is_written_are_one_group(kept: Kept) -> None:
    first = asyncio.create_task(kept.receipts.give(BOB, "delivered", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is on its way
    others = [(BOB, kind, seq) for seq in range(1, MESSAGES + 1) for kind in ("delivered", "read")]
    assert await kept.give(*others) == [None] * len(others)
    await first
    assert kept.groups[0] == [MessageReceipt(1, BOB, "delivered")]
    assert kept.groups[1:] == [[MessageReceipt(seq, BOB, kind) for _, kind, seq in others]]
    assert sorted(kept.told()) == sorted((seq, kind) for _, kind, seq in others)
    found = kept.chat.mailbox.receipts_for(ALICE, 0)
    assert sorted(found) == sorted((seq, BOB, kind) for _, kind, seq in others)


async def test_each_is_told_once_however_often_it_is_given(kept: Kept) -> None:
    assert await kept.give(*[(BOB, "read", 1)] * 3) == [None] * 3
    assert kept.told() == [(1, "read")]
    assert await kept.give((BOB, "read", 1)) == [None]
    assert kept.told() == []


async def test_one_that_is_not_the_recipient_s_costs_the_others_nothing(kept: Kept) -> None:
    wrong = [(CAROL, "read", 1), (ALICE, "read", 1), (BOB, "read", MESSAGES + 1)]
    outcomes = await kept.give(wrong[0], (BOB, "read", 2), *wrong[1:])
    assert [type(one) for one in outcomes] == [NotAMember, type(None), NotAMember, NotAMember]
    assert kept.told() == [(2, "read")]
    assert kept.chat.mailbox.receipts_for(ALICE, 0) == [(2, BOB, "read")]


async def test_what_is_not_kept_is_not_told(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_mailbox: Mailbox, _given: Sequence[MessageReceipt]) -> set[MessageReceipt]:
        raise LedgerUnavailable("the mailbox could not be written")

    with monkeypatch.context() as patched:
        patched.setattr(Mailbox, "add_receipts", full)
        outcomes = await kept.give((BOB, "read", 1), (BOB, "read", 2))
    assert [type(one) for one in outcomes] == [LedgerUnavailable] * 2
    assert kept.told() == []
    # And the next are kept again.
    assert await kept.give((BOB, "read", 1)) == [None]
    assert kept.told() == [(1, "read")]


async def test_who_stops_waiting_does_not_take_it_back(kept: Kept) -> None:
    given = asyncio.create_task(kept.receipts.give(BOB, "read", 1))
    await asyncio.sleep(0)
    given.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given
    assert await kept.give((BOB, "read", 2)) == [None]
    assert kept.told() == [(1, "read"), (2, "read")]


async def test_a_group_is_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_GROUP", 2)
    given = [(BOB, "read", seq) for seq in range(1, MESSAGES + 1)]
    assert await kept.give(*given) == [None] * MESSAGES
    assert [len(group) for group in kept.groups] == [2, 2, 1]
    assert kept.told() == [(seq, "read") for seq in range(1, MESSAGES + 1)]

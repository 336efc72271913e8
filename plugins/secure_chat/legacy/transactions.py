"""Keeping up the host's own legacy records: what the chat logged, as legacy transactions.

While both contracts are accepted the chat is the truth, and the host's records follow it, so that
its own route can answer again with nothing lost. Whatever they have not got, by ledger position, is
read from the mailbox and appended; so a crash, an outage or a while at another stage are made up
for in the same way as the last second is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from plugins.secure_chat.core.legacy_message import LEGACY_MESSAGE
from plugins.secure_chat.core.message_event import MESSAGE
from plugins.secure_chat.core.records import EventDraft, Receipt
from plugins.secure_chat.core.stage import WALLET
from plugins.secure_chat.core.thread import (
    THREAD,
    Change,
    Thread,
    ThreadEvent,
    is_thread,
)
from plugins.secure_chat.legacy.answers import shown_id
from plugins.secure_chat.legacy.contract import ENCRYPTED, OCTETS
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.service import ChatService
from plugins.secure_chat.threads.index import Entry, Written

log: Final = logging.getLogger(__name__)

PAGE: Final = 500
RETRY_SECONDS: Final = 1.0


class LegacyTransactions(Protocol):
    """The host's own record of its legacy route (hook ``atlas_legacy_transactions``). Blocking."""

    @property
    def mirrored_position(self) -> int:
        """The highest ``ledger_position`` of any bundle; 0 when none has one."""

    def append(self, bundles: Sequence[Mapping[str, Any]]) -> None:
        """Append bundles in order, durable on return."""


class Mirror:
    """Appends to the host's transactions what it has not got. On the event loop."""

    def __init__(self, service: ChatService, transactions: LegacyTransactions) -> None:
        self._service = service
        self._transactions = transactions
        self._cursor = 0  # what the mailbox has up to here is there
        self._due = 0  # the position of the last event of threads
        self._appending = threading.Lock()  # a task that is cancelled leaves its thread at work
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Append what is committed from now on, soon after it is."""
        self._service.observe(self._committed)
        self._task = asyncio.create_task(self._catch_up_when_woken(), name="legacy-mirror")

    async def stop(self) -> None:
        """Append the rest, after the service has stopped. What fails is made up for at a start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.catch_up()
        except Exception as error:  # noqa: BLE001 (the others must stop too)
            log.error("legacy.not_mirrored error=%s", type(error).__name__)

    async def catch_up(self) -> None:
        """Append all that is committed and not there. Raises what the host's records raise."""
        # What is delivered is stored, and so is all before it; the ledger may be ahead of that.
        mailbox, end = self._service.mailbox, self._service.delivered_position

        def some() -> bool:
            with self._appending:
                return append_some()

        def append_some() -> bool:
            cursor = self._cursor = max(self._cursor, self._transactions.mirrored_position)
            entries = mailbox.thread_entries(cursor, end, PAGE)
            bundles = bundles_of(mailbox, entries)
            if bundles:
                self._transactions.append(bundles)
            if entries:
                self._cursor = entries[-1].position
            elif cursor > self._transactions.mirrored_position:
                # What came last was imported from there. Saying so spares reading it again.
                self._transactions.append([_nothing(cursor)])
            return bool(entries)

        while await asyncio.to_thread(some):
            pass

    def _committed(self, drafts: Sequence[EventDraft], receipts: Sequence[Receipt]) -> None:
        due = [
            receipt.position
            for draft, receipt in zip(drafts, receipts, strict=True)
            if _is_of_threads(draft)
        ]
        if due:
            self._due = due[-1]
            self._wake.set()

    async def _catch_up_when_woken(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.catch_up()
                caught_up = self._due <= self._service.delivered_position
            except Exception as error:  # noqa: BLE001 (the chat goes on; it is tried again)
                log.error("legacy.not_mirrored error=%s", type(error).__name__)
                caught_up = False
            if not caught_up:  # the mailbox may lack what was logged
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)


def _is_of_threads(draft: EventDraft) -> bool:
    if draft.event_type == MESSAGE:
        return is_thread(draft.metadata["recipient"])
    return draft.event_type in (THREAD, LEGACY_MESSAGE)


def bundles_of(mailbox: Mailbox, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The transactions that say what ``entries`` of the ledger say. Blocking.

    What was imported came from such transactions and gives none.
    """
    states = mailbox.thread_states([entry.thread for entry in entries], None)
    texts = mailbox.details([entry.details for entry in entries if entry.details is not None])
    bundles = []
    for entry in entries:
        if _is_imported(entry):
            continue
        state, what = states[entry.thread], entry.what
        body: dict[str, Any] = json.loads(texts.get(entry.details or "", b"{}"))
        if isinstance(what, Written):
            operation = _message(what, state, body)
        else:
            operation = _change(mailbox, entry, what, state, body)
        bundles.append(
            {
                "bundle_hash": _bundle_id(entry, state),
                "creator_id": entry.wallet,
                "operations": [{"creator_id": entry.wallet, "nonce": entry.position, **operation}],
                "signature": "",
                "timestamp": entry.timestamp,
                "ledger_position": entry.position,
            }
        )
    return bundles


def _nothing(position: int) -> dict[str, Any]:
    return {
        "bundle_hash": f"position-{position}",
        "creator_id": WALLET,
        "operations": [],
        "signature": "",
        "timestamp": "",
        "ledger_position": position,
    }


def _is_imported(entry: Entry) -> bool:
    if isinstance(entry.what, Written):
        return entry.what.origin is not None
    return entry.what.provenance is not None


def _bundle_id(entry: Entry, state: Thread) -> str:
    """The id that the contract shows: a transaction's id is that of what it made."""
    made = isinstance(entry.what, ThreadEvent) and entry.what.change is Change.CREATED
    return shown_id(state) if made else entry.id


def _message(message: Written, state: Thread, body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "secure_chat_message_posted",
        "data": {
            "thread_id": shown_id(state),
            "content_hash": message.content,
            "content_size": message.size,
            "content_type": message.content_type or OCTETS,
            "message_type": message.message_type or ENCRYPTED,
            "metadata": body.get("metadata", {}),
            "timestamp": message.timestamp,
        },
    }


def _change(
    mailbox: Mailbox, entry: Entry, event: ThreadEvent, state: Thread, body: Mapping[str, Any]
) -> dict[str, Any]:
    if event.change is Change.CREATED:
        return {
            "type": "secure_chat_thread_created",
            "data": {
                "participants": list(event.members),
                "title": body.get("title"),
                "metadata": body.get("metadata", {}),
                "timestamp": entry.timestamp,
            },
        }
    data: dict[str, Any] = {"thread_id": shown_id(state), "timestamp": entry.timestamp}
    if event.status is not None:
        data["status"] = str(event.status)
    else:
        then = mailbox.thread_states([entry.thread], entry.position)[entry.thread]
        data["participants"] = list(then.members)
    return {"type": "secure_chat_thread_updated", "data": data}

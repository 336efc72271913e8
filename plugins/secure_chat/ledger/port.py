"""What the chat needs of a ledger, and how our journal gives it to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from plugins.secure_chat.core.records import EventDraft, Head, Receipt
from plugins.secure_chat.ledger.journal import Checkpoint, Journal

Alongside = Callable[[list[Receipt]], asyncio.Future[None]]


class Ledger(Protocol):
    """The one order of messages."""

    @property
    def path(self) -> Path:
        """The file, for whoever follows it. It is durable up to ``checkpoint``."""

    @property
    def announces(self) -> bool:
        """Whether whoever keeps it announces what is committed here (atlas_event_committed)."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The durable end."""

    @property
    def stopped(self) -> str | None:
        """Why nothing can be committed any more, or None."""

    def commit(
        self, drafts: Sequence[EventDraft], alongside: Alongside
    ) -> Awaitable[list[Receipt]]:
        """Begin to append ``drafts`` in order; awaited, it gives their receipts when durable.

        ``alongside`` is called with the receipts as soon as they are known, before or after the
        sync, and begins something; the receipts come when that has ended too, however it has.

        Raises, when awaited, LedgerUnavailable: nothing was appended; or OutcomeUnknown, after
        which ``stopped`` says why.
        """

    def stop(self, why: str) -> None:
        """Commit nothing more; ``stopped`` says why. From any thread."""

    def observe(self, observer: Callable[[], None]) -> None:
        """Have ``observer`` called, from any thread, whenever ``checkpoint`` has moved."""

    def close(self) -> None:
        """Release what this object opened."""


class JournalLedger:
    """Our own journal: the mailbox is written while the disk syncs."""

    announces: Final = False

    def __init__(self, journal: Journal, *, owned: bool) -> None:
        """``owned``: closing the chat closes the journal too."""
        self.journal = journal
        self._owned = owned
        self._observers: list[Callable[[int, int], None]] = []  # that the journal has from here

    @property
    def path(self) -> Path:
        return self.journal.path

    @property
    def checkpoint(self) -> Checkpoint:
        return self.journal.checkpoint

    @property
    def head(self) -> Head:
        return self.journal.head

    @property
    def stopped(self) -> str | None:
        return self.journal.stopped

    def commit(
        self, drafts: Sequence[EventDraft], alongside: Alongside
    ) -> Awaitable[list[Receipt]]:
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[list[Receipt]] = loop.create_future()
        try:
            staged = self.journal.stage(drafts)
            beside = alongside(staged.receipts)
        except Exception as error:  # noqa: BLE001 (raised where it is awaited)
            committed.set_exception(error)
            return committed
        under_way = 2

        def end(_one: object = None) -> None:
            nonlocal under_way
            under_way -= 1
            if under_way or committed.done():
                return
            if not beside.cancelled():
                beside.exception()  # seen: whoever began it asks when what was committed is durable
            error = staged.durable.exception()
            if error is None:
                committed.set_result(staged.receipts)
            else:
                committed.set_exception(error)

        def end_in_loop(_durable: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                loop.call_soon_threadsafe(end)

        beside.add_done_callback(end)
        staged.durable.add_done_callback(end_in_loop)
        return committed

    def stop(self, why: str) -> None:
        self.journal.stop(why)

    def observe(self, observer: Callable[[], None]) -> None:
        def moved(_groups: int, _bytes: int) -> None:
            observer()

        self._observers.append(moved)
        self.journal.observe(moved)

    def close(self) -> None:
        for observer in self._observers:
            self.journal.forget(observer)
        if self._owned:
            self.journal.close()

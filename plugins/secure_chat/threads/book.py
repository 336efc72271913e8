"""The threads in use, in memory, at the ledger's end: who may write to them and who gets it.

The state of a thread is the fold of its events (``core/thread.py``); here it is kept up as events
are applied, and read from the mailbox when it is not there. All of it is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.core.thread import Change, Thread, ThreadEvent, admit, fold, is_thread
from plugins.secure_chat.mailbox.store import Mailbox

MAX_THREADS: Final = 10_000  # kept in memory, of at most 101 members each; others are read again


class ThreadBook:
    """An Audience (``admission.py``) of wallets and threads."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._changed = 0  # the position of the last event that was applied

    async def load(self, recipients: Collection[str]) -> None:
        threads = [recipient for recipient in recipients if is_thread(recipient)]
        if threads:
            # The sequencer asks, so nothing of the ledger is on its way.
            await self.fetch(threads, lambda: None)

    def admit(self, envelope: Envelope) -> None:
        if is_thread(envelope.recipient):
            admit(self._threads.get(envelope.recipient), envelope.sender)

    def wallets(self, recipient: str) -> Sequence[str]:
        if not is_thread(recipient):
            return (recipient,)
        thread = self._threads.get(recipient)
        return () if thread is None else thread.members

    def get(self, thread: str) -> Thread | None:
        """The thread, once it was fetched; None when there is none."""
        return self._threads.get(thread)

    async def fetch(self, ids: Collection[str], end: Callable[[], int | None]) -> None:
        """Have those of ``ids`` that exist in memory.

        ``end``: up to which position events are durable; what stands behind it is not looked at.
        """
        missing = [thread for thread in ids if thread not in self._threads]
        while missing:
            seen, at = self._changed, end()
            found = await asyncio.to_thread(self._mailbox.thread_states, missing, at)
            if self._changed == seen:
                for thread, state in found.items():
                    self._threads.setdefault(thread, state)
                break
            # An event was applied meanwhile: to one of these, perhaps.
            missing = [thread for thread in missing if thread not in self._threads]
        for thread in ids:
            if thread in self._threads:
                self._threads.move_to_end(thread)
        self._forget_oldest(len(ids))

    def apply(self, event: ThreadEvent, position: int) -> Thread | None:
        """Take in an event that is durable: the thread after it.

        None when the thread is not in memory any more, as after a mailbox that could not be written
        for long; then it is read from there, and the event with it. Raises as ``fold`` for an event
        that was not decided on.
        """
        self._changed = position
        state = self._threads.get(event.thread)
        if state is None and event.change is not Change.CREATED:
            return None
        self._threads[event.thread] = fold(state, event, position)
        return self._threads[event.thread]

    @contextmanager
    def holding(self, thread: str) -> Iterator[None]:
        """Keep ``thread`` in memory, once it is there, until the block ends."""
        self._held[thread] += 1
        try:
            yield
        finally:
            self._held[thread] -= 1
            if not self._held[thread]:
                del self._held[thread]

    def _forget_oldest(self, at_least: int) -> None:
        surplus = len(self._threads) - max(MAX_THREADS, at_least)
        if surplus > 0:
            for thread in [t for t in self._threads if t not in self._held][:surplus]:
                del self._threads[thread]

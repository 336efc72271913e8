"""Adapters to a host's own GenesisLedger object: sync ``append_event`` or async ``append``.

The host's object stays the one writer of its file. Here each group is appended through it, the file
is synced, and what came to stand in the file is read back, verified and only then believed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from plugins.secure_chat.core.chain import follow
from plugins.secure_chat.core.dialects import Line
from plugins.secure_chat.core.records import EventDraft, Head, Receipt, Record
from plugins.secure_chat.errors import ConfigurationError, LedgerUnavailable, OutcomeUnknown
from plugins.secure_chat.ledger.file import WriterLock
from plugins.secure_chat.ledger.journal import Checkpoint, Journal
from plugins.secure_chat.ledger.port import Alongside

log: Final = logging.getLogger(__name__)


class _Append(Protocol):
    """Append one event through the host's object; the hash that the object gave it."""

    async def __call__(self, draft: EventDraft) -> str: ...


class HostLedger:
    """A host's ledger object as a Ledger. Made by ``adopt``."""

    def __init__(
        self,
        path: Path,
        append: _Append,
        checkpoint: Checkpoint,
        lock: WriterLock,
        *,
        announces: bool,
    ) -> None:
        """``lock`` is released by ``close``."""
        self.path = path
        self.announces = announces
        self._observers: list[Callable[[], None]] = []
        self._lock = lock
        self._append = append
        self._checkpoint = checkpoint
        self._stopped: str | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    @property
    def stopped(self) -> str | None:
        return self._stopped

    async def commit(self, drafts: Sequence[EventDraft], alongside: Alongside) -> list[Receipt]:
        async with self._one_at_a_time:
            if self._stopped is not None:
                raise LedgerUnavailable(self._stopped)
            try:
                hashes = [await self._append(draft) for draft in drafts]
                found = await asyncio.to_thread(self._read_back)
                receipts = [found[event_hash] for event_hash in hashes]
            except Exception as error:
                # Some of the group may stand in the file: nobody can tell before a restart.
                self._stopped = "the host's ledger failed; restart to recover"
                log.critical("ledger.host_failed error=%s", type(error).__name__)
                raise OutcomeUnknown(self._stopped) from error
        for observer in self._observers:
            observer()
        await asyncio.wait((alongside(receipts),))
        return receipts

    def observe(self, observer: Callable[[], None]) -> None:
        """Events that the host appends are seen with the next that is committed here."""
        self._observers.append(observer)

    def stop(self, why: str) -> None:
        self._stopped = self._stopped or f"the ledger stopped: {why}"
        log.critical("ledger.stopped reason=%s", why)

    def close(self) -> None:
        """The object is the host's; the lock beside its file is ours."""
        self._lock.release()

    def _read_back(self) -> dict[str, Receipt]:
        """Sync the file and verify what was appended since the checkpoint, whoever appended it."""
        head, offset = self._checkpoint.head, self._checkpoint.offset
        found: dict[str, Receipt] = {}
        with self.path.open("rb") as file:
            os.fdatasync(file.fileno())
            file.seek(offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                line = follow(text[:-1], head.position + 1, head.event_hash)
                if not isinstance(line, Line):
                    raise LedgerUnavailable(f"the host's ledger broke its own chain: {line.reason}")
                record = line.record
                head, offset = Head(record.position, record.event_hash), offset + len(text)
                found[record.event_hash] = Receipt(
                    record.position, record.event_id, record.event_hash, record.timestamp
                )
        self._checkpoint = Checkpoint(head, offset)
        return found


def adopt(ledger: Any, verified: Checkpoint, replay: Callable[[Record, int], None]) -> HostLedger:
    """Wrap a host's ledger object after verifying and, where torn, mending its file.

    Raises ConfigurationError for an object of neither interface, and what Journal.open raises.
    """
    path = getattr(ledger, "storage_path", None) or getattr(ledger, "filepath", None)
    if path is None:
        raise ConfigurationError("the host's ledger has neither storage_path nor filepath")
    path, append = Path(path), _appender(ledger)
    lock = WriterLock(path)
    try:
        # The journal verifies, mends and indexes; then it lets go, for the host is the writer.
        journal = Journal.open(path, verified=verified, replay=replay, lock=lock)
        journal.close()
    except BaseException:
        lock.release()
        raise
    announces = bool(getattr(ledger, "announces_events", False))
    return HostLedger(path, append, journal.checkpoint, lock, announces=announces)


def _appender(ledger: Any) -> _Append:
    sync_append = getattr(ledger, "append_event", None)
    if callable(sync_append):

        async def by_event(draft: EventDraft) -> str:
            event = await asyncio.to_thread(
                sync_append, draft.event_type, draft.wallet, draft.metadata, draft.signature
            )
            return str(event.hash)

        return by_event
    async_append = getattr(ledger, "append", None)
    if not inspect.iscoroutinefunction(async_append):
        raise ConfigurationError(
            "the host's ledger has neither append_event nor an async append: give "
            "atlas_ledger an object of either interface"
        )
    entry_type = _entry_type(async_append)

    async def by_entry(draft: EventDraft) -> str:
        metadata = dict(draft.metadata)
        if draft.signature:
            metadata["signature"] = draft.signature
        entry = entry_type(wallet=draft.wallet, event_type=draft.event_type, metadata=metadata)
        return str((await async_append(entry)).hash)

    return by_entry


def _entry_type(append: Any) -> Callable[..., Any]:
    """The class that the host's ``append`` takes: as annotated, or its module's GenesisEntry."""
    module = sys.modules[append.__module__]
    try:
        hints = typing.get_type_hints(append)
    except NameError:
        hints = {}
    hints.pop("return", None)
    annotated = next(iter(hints.values()), None)
    entry_type = annotated if isinstance(annotated, type) else getattr(module, "GenesisEntry", None)
    if entry_type is None:
        raise ConfigurationError("the host's ledger does not say what its append takes")
    return typing.cast("Callable[..., Any]", entry_type)

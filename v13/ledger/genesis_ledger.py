"""The host's GenesisLedger, with both of the interfaces it has had, over one durable journal.

``append_event`` (sync) and ``append`` (async) write the same file through the same writer, so that
instances cannot fork the chain; what the file looks like, and how it is made durable, is the
journal's. Here is only the translation, and who shares which writer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import BaseModel, Field

from plugins.secure_chat.core.chain import follow
from plugins.secure_chat.core.dialects import V1_EPOCH, Line, NotARecord, parse
from plugins.secure_chat.core.records import GENESIS_PREV_HASH, EventDraft, Receipt, Record
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.ledger.journal import START, Checkpoint, Journal

log: Final = logging.getLogger(__name__)

DEFAULT_PATH: Final = "genesis_ledger.jsonl"
_WINDOW: Final = 1 << 16  # bytes read from the end to find a record that was just appended


@dataclass(frozen=True, slots=True)
class GenesisEvent:
    """A record in the terms of the first interface (dialect v1)."""

    id: str
    wallet: str
    epoch: int
    event_type: str
    value: int | float | str  # as the file has it: an int in dialect v1
    metadata: dict[str, Any]
    hash: str
    prev_hash: str
    timestamp: str
    signature: str


class GenesisEntry(BaseModel):
    """A record in the terms of the second interface (dialects v2 to v7).

    The caller fills wallet, event_type and metadata; a signature is ``metadata["signature"]``. What
    ``append`` returns has the rest.
    """

    wallet: str
    event_type: str
    value: int | float | str = 0
    metadata: dict[str, Any] = Field(default_factory=dict)
    timestamp: str = ""
    hash: str = ""
    previous_hash: str = ""


class OnCommitted(Protocol):
    """Told of each event that this ledger object appended, once it is durable."""

    def __call__(
        self, *, position: int, event_type: str, wallet: str, metadata: dict[str, Any]
    ) -> object: ...


class GenesisLedger:
    """A ledger file. Opened at its first use; safe from any thread.

    Instances of one path in one process share one writer; another process gets LedgerLocked.
    Appends raise LedgerUnavailable when the event was not logged, and its subclass OutcomeUnknown
    when only the next start can tell. The plugin finds ``journal`` and commits groups through it.
    """

    def __init__(
        self,
        storage_path: str | os.PathLike[str] = DEFAULT_PATH,
        *,
        filepath: str | os.PathLike[str] | None = None,
        on_committed: OnCommitted | None = None,
    ) -> None:
        """``filepath``: the second interface's name for ``storage_path``."""
        self.storage_path = Path(storage_path if filepath is None else filepath)
        self.filepath = self.storage_path
        self._on_committed = on_committed
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._release: Callable[[], object] | None = None
        self._closed = False

    def open(
        self,
        verified: Checkpoint = START,
        replay: Callable[[Record, int], None] | None = None,
    ) -> Journal:
        """The journal, opened unless it is open; ``verified`` and ``replay`` are Journal.open's.

        ``replay`` is given the same records when the ledger was open before. Raises what
        Journal.open raises; LedgerUnavailable after ``close``.
        """
        with self._lock:
            if self._closed:
                raise LedgerUnavailable("the ledger is closed")
            replayed = False
            if self._journal is None:
                self._journal, key, replayed = _acquire(self.storage_path, verified, replay)
                # Neither host interface has a close, so one that is forgotten must release too.
                self._release = weakref.finalize(self, _release, key)
            if replay is not None and not replayed:
                self._journal.replay(verified, replay)
            return self._journal

    @property
    def journal(self) -> Journal:
        """The one writer of this file in this process."""
        return self._journal if self._journal is not None and not self._closed else self.open()

    def close(self) -> None:
        """Stop using the file; the last user in the process commits and unlocks it. Idempotent."""
        with self._lock:
            self._closed = True
            release = self._release
        if release is not None:
            release()

    # --- the first interface ----------------------------------------------------------------------

    def append_event(
        self,
        event_type: str,
        wallet: str,
        metadata: dict[str, Any],
        signature: str,
        value: int = 0,
    ) -> GenesisEvent:
        """Append, wait for the disk, and return the event as it stands in the file."""
        draft = EventDraft(event_type, wallet, metadata, signature, value)
        staged = self.journal.stage([draft])
        staged.durable.result()
        self._announce(draft, staged.receipts[0])
        return _event(self._record(staged.receipts[0]))

    def verify_integrity(self) -> bool:
        """Read the whole file: is every line a record, unaltered, that follows the one before?

        Works without opening the ledger. A missing file is a sound, empty ledger.
        """
        prev_hash = GENESIS_PREV_HASH
        end = None if self._journal is None else self._journal.checkpoint.offset
        for position, text in enumerate(_lines(self.storage_path, end), start=1):
            line = follow(text.removesuffix(b"\n"), position, prev_hash)
            if not isinstance(line, Line) or not text.endswith(b"\n"):
                return False
            prev_hash = line.record.event_hash
        return True

    def get_events_for_wallet(self, wallet: str) -> list[GenesisEvent]:
        """The wallet's events in ledger order. Reads the whole file."""
        return [_event(record) for record in self.journal.read() if record.wallet == wallet]

    # --- the second interface ---------------------------------------------------------------------

    async def append(self, entry: GenesisEntry) -> GenesisEntry:
        """As ``append_event``. Giving up the wait does not take the event back."""
        metadata = dict(entry.metadata)
        signature = metadata.get("signature")
        if isinstance(signature, str):
            del metadata["signature"]
        else:
            signature = ""
        draft = EventDraft(entry.event_type, entry.wallet, metadata, signature, _whole(entry.value))
        if self._journal is None:
            await asyncio.to_thread(self.open)
        staged = self.journal.stage([draft])
        await asyncio.wrap_future(staged.durable)
        self._announce(draft, staged.receipts[0])
        return _entry(await asyncio.to_thread(self._record, staged.receipts[0]))

    def read_all(self) -> list[GenesisEntry]:
        """Every entry in file order."""
        return [_entry(record) for record in self.journal.read()]

    # --- what the host adds -----------------------------------------------------------------------

    def has_events(self, wallet: str) -> bool:
        """Whether any event is this wallet's. Searches bytes, so a large file costs little.

        ``wallet`` must be made of characters that JSON writes as they are (an address is).
        """
        if json.dumps(wallet, ensure_ascii=True) != f'"{wallet}"':
            raise ValueError("not a plain wallet identifier")
        end = self.journal.checkpoint.offset
        if end == 0:
            return False
        with (
            self.storage_path.open("rb") as file,
            mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ) as ledger,
        ):
            return any(
                _is_in(ledger, f'"wallet":{space}"{wallet}"'.encode("ascii"), wallet)
                for space in (" ", "")
            )

    def _announce(self, draft: EventDraft, receipt: Receipt) -> None:
        """Tell the observer. It cannot fail an event that is committed."""
        if self._on_committed is None:
            return
        try:
            self._on_committed(
                position=receipt.position,
                event_type=draft.event_type,
                wallet=draft.wallet,
                metadata=draft.metadata,
            )
        except Exception:
            log.exception("ledger.observer_failed position=%d", receipt.position)

    def _record(self, receipt: Receipt) -> Record:
        """The record of a durable receipt as it stands in the file, looked for from the end."""
        end = self.journal.checkpoint.offset
        patterns = [f'"hash":{space}"{receipt.event_hash}"'.encode() for space in ("", " ")]
        size = _WINDOW
        with self.storage_path.open("rb") as file:
            while True:
                start = max(0, end - size)
                file.seek(start)
                block = file.read(end - start)
                at = max(block.rfind(pattern) for pattern in patterns)
                first = block.rfind(b"\n", 0, at) + 1 if at >= 0 else 0
                if first or (at >= 0 and start == 0):
                    return parse(block[first : block.index(b"\n", at)], receipt.position).record
                if start == 0:
                    raise LedgerUnavailable("a committed record is not in the file any more")
                size *= 4


# --- who shares which writer --------------------------------------------------------------------


@dataclass(slots=True)
class _Writer:
    journal: Journal
    users: int = 1


_writers: Final[dict[str, _Writer]] = {}
# Reentrant, for a forgotten instance may be collected, and so released, while the lock is held.
_writers_lock: Final = threading.RLock()


def _acquire(
    path: Path, verified: Checkpoint, replay: Callable[[Record, int], None] | None
) -> tuple[Journal, str, bool]:
    """The journal of the file behind ``path`` (links followed), and the key to release it by.

    And whether it was opened here, with ``replay``.
    """
    key = os.path.realpath(path)
    with _writers_lock:
        writer = _writers.get(key)
        if writer is not None:
            writer.users += 1
            if _writers.get(key) is writer:  # else its last user was collected in between
                return writer.journal, key, False
        journal = Journal.open(Path(key), verified=verified, replay=replay)
        _writers[key] = _Writer(journal)
        return journal, key, True


def _release(key: str) -> None:
    with _writers_lock:
        writer = _writers[key]
        writer.users -= 1
        if writer.users == 0:
            del _writers[key]
            writer.journal.close()


# --- translation --------------------------------------------------------------------------------


def _event(record: Record) -> GenesisEvent:
    return GenesisEvent(
        id=record.event_id,
        wallet=record.wallet,
        epoch=V1_EPOCH,
        event_type=record.event_type,
        value=record.value,
        metadata=record.metadata,
        hash=record.event_hash,
        prev_hash=record.prev_hash,
        timestamp=record.timestamp,
        signature=record.signature,
    )


def _entry(record: Record) -> GenesisEntry:
    metadata = record.metadata
    if record.signature and "signature" not in metadata:
        metadata = {**metadata, "signature": record.signature}
    return GenesisEntry(
        wallet=record.wallet,
        event_type=record.event_type,
        value=record.value,
        metadata=metadata,
        timestamp=record.timestamp,
        hash=record.event_hash,
        previous_hash=record.prev_hash,
    )


def _whole(value: float | str) -> int:
    """The amount as the journal takes it. Raises ValueError when it is not a whole number."""
    whole = int(value)
    if isinstance(value, float) and whole != value:
        raise ValueError("the value of an event is a whole number")
    return whole


def _lines(path: Path, end: int | None) -> Iterator[bytes]:
    """The file's lines with their newlines, up to byte ``end``."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if end is not None:
                end -= len(line)
                if end < 0:
                    return
            yield line


def _is_in(ledger: mmap.mmap, pattern: bytes, wallet: str) -> bool:
    """Whether a line with ``pattern`` is a record of ``wallet``: metadata may have such a key."""
    at = ledger.find(pattern)
    while at >= 0:
        first = ledger.rfind(b"\n", 0, at) + 1
        last = ledger.find(b"\n", at)
        try:
            if parse(ledger[first:last], 0).record.wallet == wallet:
                return True
        except NotARecord:
            log.error("ledger.unreadable_line offset=%d", first)
        at = ledger.find(pattern, last)
    return False

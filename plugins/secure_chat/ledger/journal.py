"""The journal: the one writer of a ledger file, with group commit and recovery.

Life of an append: ``stage`` encodes the events onto the chain and gives their receipts at once;
the writer thread takes all that is staged, makes one write and one sync of it, and then resolves
each ``durable``. While it syncs, the next group gathers. Nothing may be shown or acknowledged
before ``durable`` is done.

When a write finds the disk full, the file is cut back to what was durable and the group is refused:
its outcome is known. After any other failure the outcome is not known; the journal takes nothing
more, and the next ``open`` decides from the file (sunlight's rule: an unknown outcome is fatal).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from plugins.secure_chat.core.chain import follow
from plugins.secure_chat.core.dialects import (
    V1,
    Dialect,
    Line,
    NotARecord,
    encode_at,
    parse,
    timestamp,
)
from plugins.secure_chat.core.records import EMPTY, EventDraft, Head, Receipt, Record
from plugins.secure_chat.errors import LedgerBroken, LedgerUnavailable, OutcomeUnknown
from plugins.secure_chat.ledger.file import AppendFile, WriterLock

log: Final = logging.getLogger(__name__)

_READ_SIZE: Final = 1 << 20
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_TAKEN: Final = (
    "its file was moved, removed, or changed by another; put it back as it was and restart"
)
_NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place up to which the file was verified: after record ``head``, at byte ``offset``."""

    head: Head
    offset: int


START: Final = Checkpoint(EMPTY, 0)


@dataclass(frozen=True, slots=True)
class Staged:
    """Events on their way to the disk.

    ``receipts`` hold once ``durable`` is done. When ``durable`` raises LedgerUnavailable nothing of
    it is in the ledger; when it raises OutcomeUnknown nobody knows before the next start.
    """

    receipts: list[Receipt]
    durable: Future[None]


@dataclass(frozen=True, slots=True)
class _Group:
    data: bytes
    head: Head
    durable: Future[None]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _random_ids(count: int) -> list[str]:
    """UUIDs of version 4 (RFC 9562 section 5.4), as ``uuid`` gives in four times as long.

    All from one call for randomness: at each, the interpreter goes to another thread.
    """
    digits = os.urandom(16 * count).hex()
    return [
        f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}-"
        f"{_VARIANT[digits[at + 16]]}{digits[at + 17 : at + 20]}-{digits[at + 20 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]


class Journal:
    """Appends to one ledger file. Thread-safe. Made by ``open``."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        verified: Checkpoint = START,
        replay: Callable[[Record, int], None] | None = None,
        clock: Callable[[], datetime] = _utc_now,
        new_ids: Callable[[int], list[str]] = _random_ids,
        open_file: Callable[[Path], AppendFile] = AppendFile,
        lock: WriterLock | None = None,
    ) -> Journal:
        """Lock the file, verify it from ``verified`` on, recover a torn tail, and start the writer.

        ``lock``: the caller's, who keeps it; else the journal has one until it is closed.

        ``replay`` is given each record found after ``verified`` and the offset of its end. A
        checkpoint that the file does not bear out is not used: all is verified and replayed.
        Raises LedgerLocked, LedgerUnusable or LedgerBroken, and then leaves the file as it was.
        """
        with contextlib.ExitStack() as until_opened:
            if lock is None:
                own = WriterLock(path)
                until_opened.callback(own.release)
            file = open_file(path)
            until_opened.callback(file.close)
            if not _bears_out(file, verified):
                verified = START
            dialect, checkpoint = _recover(file, verified, replay)
            return cls(file, until_opened.pop_all(), dialect, checkpoint, clock, new_ids)

    def __init__(
        self,
        file: AppendFile,
        held: contextlib.ExitStack,
        dialect: Dialect,
        checkpoint: Checkpoint,
        clock: Callable[[], datetime],
        new_ids: Callable[[int], list[str]],
    ) -> None:
        self._file = file
        self._held = held  # file and lock, to be let go together
        self._dialect = dialect
        self._clock = clock
        self._new_ids = new_ids
        self._durable = checkpoint
        self._head = checkpoint.head  # of all that is staged
        self._waiting: list[_Group] = []
        self._wake = threading.Condition()
        self._closing = False
        self._stopped: str | None = None
        self._observers: tuple[Callable[[int, int], None], ...] = ()
        self._writer = threading.Thread(
            target=self._write_groups, name="ledger-writer", daemon=True
        )
        self._writer.start()

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def checkpoint(self) -> Checkpoint:
        """The durable end of the file."""
        return self._durable

    @property
    def head(self) -> Head:
        """The last durable record."""
        return self._durable.head

    @property
    def stopped(self) -> str | None:
        """Why the journal takes nothing more, or None."""
        return self._stopped

    def observe(self, observer: Callable[[int, int], None]) -> None:
        """Have ``observer(groups, bytes)`` called in the writer thread after each sync.

        It must be quick; what it raises is logged. It is kept until ``forget``.
        """
        with self._wake:
            self._observers = (*self._observers, observer)

    def forget(self, observer: Callable[[int, int], None]) -> None:
        """Call ``observer`` no more; it may be under way."""
        with self._wake:
            self._observers = tuple(one for one in self._observers if one is not observer)

    def stage(self, drafts: Sequence[EventDraft]) -> Staged:
        """Put ``drafts`` on the chain, in order and side by side. Raises LedgerUnavailable."""
        durable: Future[None] = Future()
        durable.set_running_or_notify_cancel()  # who stops waiting does not take the event back
        receipts: list[Receipt] = []
        lines: list[bytes] = []
        with self._wake:
            if self._stopped is not None:
                raise LedgerUnavailable(self._stopped)
            if self._closing:
                raise LedgerUnavailable("the ledger is closing")
            written_at = timestamp(self._dialect.family, self._clock())
            position, prev_hash = self._head.position, self._head.event_hash
            new_ids = self._new_ids(len(drafts))
            for draft, new_id in zip(drafts, new_ids, strict=True):
                position += 1
                line, event_id, prev_hash = encode_at(
                    self._dialect, draft, written_at, prev_hash, new_id
                )
                lines.append(line)
                receipts.append(Receipt(position, event_id, prev_hash, written_at))
            self._head = Head(position, prev_hash)
            self._waiting.append(_Group(b"".join(lines), self._head, durable))
            self._wake.notify()
        return Staged(receipts, durable)

    def append(self, draft: EventDraft) -> Receipt:
        """Append one event and wait until it is durable. Raises LedgerUnavailable."""
        staged = self.stage([draft])
        staged.durable.result()
        return staged.receipts[0]

    def read(self, after: int = 0, *, since: Checkpoint = START) -> Iterator[Record]:
        """The durable records after position ``after``, in order.

        ``since``: a checkpoint that the file bears out, from which on they are looked for.
        """
        lines = _lines(self._file, since.offset, self._durable.offset)
        for position, (line, _) in enumerate(lines, start=since.head.position + 1):
            if position > after:
                yield parse(line, position).record

    def bears_out(self, checkpoint: Checkpoint) -> bool:
        """Whether the record that ends at the checkpoint's offset is the one it names."""
        return _bears_out(self._file, checkpoint)

    def replay(self, verified: Checkpoint, replay: Callable[[Record, int], None]) -> None:
        """Give ``replay`` what ``open`` would have given it: for who comes when it is open."""
        end = self._durable
        if not _bears_out(self._file, verified):
            verified = START
        head = verified.head
        for text, line_end in _lines(self._file, verified.offset, end.offset):
            record = _verify(text, head).record
            replay(record, line_end)
            head = Head(record.position, record.event_hash)

    def close(self) -> None:
        """Commit what is staged, stop the writer and release the lock. Idempotent."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        self._writer.join()
        self._held.close()

    def stop(self, why: str) -> None:
        """Take nothing more and say why in ``stopped``. What waits for the disk is refused."""
        self._stop([], why)

    def _write_groups(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                groups, self._waiting = self._waiting, []
            if not groups:
                return
            data = b"".join([group.data for group in groups])
            try:
                self._file.append(data)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    self._cut_back(groups, error)
                else:
                    self._stop(groups, _failed(error))
                continue
            # crash point: the group is written; whether it is on the disk is not known
            try:
                self._file.sync()
            except OSError as error:
                self._stop(groups, _failed(error))
                continue
            end = self._durable.offset + len(data)
            if not self._file.is_in_place(end):
                self._stop(groups, _TAKEN)
                continue
            # crash point: committed; nobody has been told
            self._durable = Checkpoint(groups[-1].head, end)
            for observer in self._observers:
                try:
                    observer(len(groups), len(data))
                except Exception:
                    log.exception("ledger.observer_failed position=%d", self._durable.head.position)
            for group in groups:
                group.durable.set_result(None)

    def _cut_back(self, groups: list[_Group], error: OSError) -> None:
        """The disk is full: undo the write; refuse ``groups`` and what is staged behind them."""
        with self._wake:
            try:
                self._file.truncate(self._durable.offset)
            except OSError as cut_error:
                self._stop(groups, _failed(cut_error))
                return
            groups = groups + self._waiting
            self._waiting = []
            self._head = self._durable.head
        log.error("ledger.disk_full position=%d", self._durable.head.position)
        _refuse(groups, LedgerUnavailable(f"the ledger's disk is full: {error.strerror}"))

    def _stop(self, groups: list[_Group], why: str) -> None:
        """Refuse ``groups``, all that is staged behind them on the same chain, and all to come.

        What became of ``groups`` is not known; the others were never written.
        """
        with self._wake:
            waiting, self._waiting = self._waiting, []
            self._stopped = self._stopped or f"the ledger stopped: {why}"
        log.critical("ledger.stopped position=%d reason=%s", self._durable.head.position, why)
        _refuse(groups, OutcomeUnknown(self._stopped))
        _refuse(waiting, LedgerUnavailable(self._stopped))


def _failed(error: OSError) -> str:
    return f"a write failed ({error.strerror}); restart to recover"


def _refuse(groups: list[_Group], failure: LedgerUnavailable) -> None:
    for group in groups:
        group.durable.set_exception(failure)


def _bears_out(file: AppendFile, checkpoint: Checkpoint) -> bool:
    """Whether the record that ends at the checkpoint's offset is the one it names."""
    if checkpoint.offset == 0:
        return checkpoint == START
    if checkpoint.offset > file.size():
        return False
    last = _last_line(file, checkpoint.offset)
    try:
        line = parse(last, checkpoint.head.position)
    except NotARecord:
        return False
    return line.hash_is_right and line.record.event_hash == checkpoint.head.event_hash


def _last_line(file: AppendFile, end: int) -> bytes:
    """The line that ends at ``end`` (which is just after its newline), without the newline."""
    size = 4096
    while True:
        start = max(0, end - size)
        block = file.read_at(start, end - start)
        if not block.endswith(b"\n"):
            return b""
        cut = block.rfind(b"\n", 0, -1)
        if cut >= 0 or start == 0:
            return block[cut + 1 : -1]
        size *= 4


def _lines(file: AppendFile, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Each complete line in ``[start, end)`` without its newline, and the offset of its end."""
    pending = b""
    offset = start
    while offset < end:
        block = file.read_at(offset, min(_READ_SIZE, end - offset))
        if not block:
            return
        offset += len(block)
        lines = (pending + block).split(b"\n")
        pending = lines.pop()
        line_end = offset - len(pending) - sum(len(line) + 1 for line in lines)
        for line in lines:
            line_end += len(line) + 1
            yield line, line_end


def _recover(
    file: AppendFile, verified: Checkpoint, replay: Callable[[Record, int], None] | None
) -> tuple[Dialect, Checkpoint]:
    """Verify from ``verified`` to the end and mend a torn tail. Returns where to go on, and how."""
    size = file.size()
    head, offset = verified.head, verified.offset
    dialect = V1
    if offset:
        dialect = parse(_last_line(file, offset), head.position).dialect
    for text, end in _lines(file, offset, size):
        line = _verify(text, head)
        if replay is not None:
            replay(line.record, end)
        head, offset, dialect = Head(head.position + 1, line.record.event_hash), end, line.dialect
    if offset < size:
        torn = file.read_at(offset, size - offset)
        try:
            line = _verify(torn, head)
        except LedgerBroken:
            _cut_torn_tail(file, head, offset, torn)
        else:
            # The record is whole and only its newline is missing: completing it loses nothing.
            file.append(b"\n")
            file.sync()
            log.warning("ledger.tail_completed position=%d", head.position + 1)
            if replay is not None:
                replay(line.record, size + 1)
            head, offset = Head(head.position + 1, line.record.event_hash), size + 1
            dialect = line.dialect
    return dialect, Checkpoint(head, offset)


def _cut_torn_tail(file: AppendFile, head: Head, offset: int, torn: bytes) -> None:
    """Cut an unfinished last line off, after keeping its bytes in a file beside the ledger."""
    name = f"{file.path.name}.torn-{head.position + 1}-{hashlib.sha256(torn).hexdigest()[:8]}"
    kept = file.path.with_name(name)
    with contextlib.closing(AppendFile(kept)) as beside:
        beside.truncate(0)
        beside.append(torn)
        beside.sync()
    # crash point: kept and not cut; the next start does the same again
    file.truncate(offset)
    log.warning("ledger.torn_tail_cut line=%d bytes=%d kept=%s", head.position + 1, len(torn), name)


def _verify(text: bytes, head: Head) -> Line:
    """Parse the line that should follow ``head``. Raises LedgerBroken naming it."""
    position = head.position + 1
    line = follow(text, position, head.event_hash)
    if not isinstance(line, Line):
        raise LedgerBroken(position, line.reason)
    return line

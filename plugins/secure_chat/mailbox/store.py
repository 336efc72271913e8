"""Reading and writing the mailbox (SQLAlchemy Core). Blocking: callers run it off the event loop.

One thread writes; any thread reads. A message's position orders everything: within a stream it
rises with seq, so a wallet's messages are the merge of its streams.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import sqlite3
from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.legacy_message import LEGACY_MESSAGE
from plugins.secure_chat.core.records import EMPTY, Head, Receipt, Record
from plugins.secure_chat.core.sequence import Logged, Stream
from plugins.secure_chat.core.stage import STAGE, Stage
from plugins.secure_chat.core.thread import THREAD, Span, is_thread
from plugins.secure_chat.core.thread import Thread as GroupThread
from plugins.secure_chat.errors import DatabaseTaken, LedgerUnavailable, NotAMember
from plugins.secure_chat.ledger.journal import START, Checkpoint
from plugins.secure_chat.legacy import stages
from plugins.secure_chat.mailbox.claim import Claim, claim
from plugins.secure_chat.mailbox.engine import PREPARE_SQLITE, engine_at, file_of
from plugins.secure_chat.mailbox.rows import Setup, request
from plugins.secure_chat.mailbox.tables import (
    identity_events,
    ledger_committed,
    ledger_state,
    messages,
    receipts,
    streams,
)
from plugins.secure_chat.mailbox.wal import WriteAheadLog
from plugins.secure_chat.migrations.schema import refuse_unknown, upgrade
from plugins.secure_chat.threads import index
from plugins.secure_chat.threads.tables import thread_members

log: Final = logging.getLogger(__name__)

PAGE: Final = 200
MAX_ROWS_BYTES: Final = 4 << 20  # of ciphertext in a request to the process that writes rows
INDEXED_EVENTS: Final = frozenset((THREAD, LEGACY_MESSAGE, STAGE))

_CLEAR: Final = delete(messages).where(
    messages.c.position.between(bindparam("first"), bindparam("last"))
)
_ADVANCE: Final = (
    update(streams)
    .where(streams.c.id == bindparam("stream_id"))
    .where(streams.c.last_position < bindparam("last_position"))
    .values(last_seq=bindparam("last_seq"), last_position=bindparam("last_position"))
)
_VOUCH: Final = (
    update(ledger_committed)
    .where(ledger_committed.c.position < bindparam("committed"))
    .values(position=bindparam("committed"))
)


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message on its way into the mailbox; ``frame`` is None when only the ledger knows it."""

    stream: Stream
    seq: int
    hash: str
    receipt: Receipt
    frame: bytes | None
    size: int = 0  # of the ciphertext, bytes


@dataclass(frozen=True, slots=True)
class StoredIdentityEvent:
    """An IDENTITY event that says who is registered, and where the ledger has it."""

    position: int
    event_hash: str
    wallet: str
    event: IdentityEvent


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message read back: its place, and its frame unless it has expired."""

    position: int
    frame: bytes | None


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation of one wallet: with whom, and its newest message."""

    peer: str
    last_active: str
    msg_id: str
    position: int


class MessageReceipt(NamedTuple):
    """``wallet`` has delivered or read (``kind``) the message at ``position``."""

    position: int
    wallet: str
    kind: str


class Statement:
    """A statement of every commit, compiled once for the driver; its rows go there as they are.

    SQLAlchemy would look at each value on the way: half of the time that a row takes. The values
    must be what every driver takes: integers, strings, bytes and None.
    """

    def __init__(self, statement: ClauseElement, engine: Engine, *names: str) -> None:
        """``names``: of the bound values, in the order in which rows have them."""
        compiled = statement.compile(dialect=engine.dialect, column_keys=names)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 (what a DML statement compiles to)
        self._sql = compiled.string
        self._names = names
        self._places: list[int] | None = None  # of the driver's values in a row; None: by name
        if compiled.positiontup is not None:
            self._places = [names.index(name) for name in compiled.positiontup]
        self._as_they_are = self._places == list(range(len(names)))

    @property
    def sql(self) -> str:
        """As the driver takes it."""
        return self._sql

    def placed(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """``rows`` with the values in the driver's places; not for a driver that names them."""
        assert self._places is not None  # noqa: S101 (see above)
        if self._as_they_are:
            return rows
        at = itemgetter(*self._places)
        return [at(row) for row in rows]

    def execute(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Execute it once for each of ``rows``."""
        if self._places is not None:
            connection.exec_driver_sql(self._sql, self.placed(rows))
        else:
            named = [dict(zip(self._names, row, strict=True)) for row in rows]
            connection.exec_driver_sql(self._sql, named)


class Mailbox:
    """The mailbox in one database."""

    def __init__(self, engine: Engine, *, upgraded: bool = True) -> None:
        """The database is brought to this code's schema, or to be read as it is (``upgraded``).

        Raises DatabaseUnusable, and LedgerUnavailable when it cannot be read.
        """
        self._engine = engine
        self._stream_ids: dict[Stream, int] = {}
        self._claim: Claim | None = None
        self._not_written: str | None = None
        self._log: WriteAheadLog | None = None
        if engine.dialect.name == "sqlite":
            self._log = WriteAheadLog(file_of(engine))
        if upgraded:
            upgrade(engine)
        else:
            refuse_unknown(engine)
        self._insert = Statement(insert(messages), engine, *messages.c.keys())
        self._advance = Statement(_ADVANCE, engine, "stream_id", "last_seq", "last_position")
        self._vouch = Statement(_VOUCH, engine, "committed")
        with self.reading() as connection:
            self._highest: int = connection.scalar(select(func.max(messages.c.position))) or 0

    @classmethod
    def at(cls, path: Path) -> Mailbox:
        """A mailbox in an SQLite file."""
        return cls(engine_at(path))

    def close(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._engine.dispose()

    def claim(self) -> None:
        """Keep everybody else from indexing a ledger here, until this is closed.

        Raises DatabaseUnusable when somebody does.
        """
        if self._claim is None:
            self._claim = claim(self._engine)

    def hold(self) -> None:
        """Take the claim again where it was lost, as by a restart of the database.

        Raises LedgerUnavailable while that cannot be done, DatabaseTaken when it is too late.
        """
        if self._claim is not None:
            with self._noting_failure():
                self._claim.hold()

    @property
    def not_written(self) -> str | None:
        """Why the last write failed; None once one has not."""
        return self._not_written

    def write_again(self) -> None:
        """Write what is there. Raises LedgerUnavailable while nothing can be written."""
        self.set_checkpoint(self.checkpoint())

    def check(self) -> None:
        """Raise DatabaseTaken when the claimed database is known to be another's, or gone."""
        if self._claim is not None:
            self._claim.check()

    # -- writing: one thread ------------------------------------------------------------------

    def store(self, batch: Sequence[Stored], *, committed: int = 0) -> None:
        """Store ``batch`` durably; rows that stand at its positions are replaced.

        ``committed``: up to which position the ledger is durable now, which may be before the
        batch. Raises LedgerUnavailable, as every write here, when the database cannot take it (disk
        full, locked); then nothing of it is stored.
        """
        with self.writing() as connection:
            ids = self._store(connection, batch, self._stream_ids)
            self._vouch.execute(connection, [(committed,)])
        self._stream_ids.update(ids)

    def row_setup(self) -> tuple[str, bytes, Sequence[int]] | None:
        """For a process that writes rows: the database, its first request, and what to inherit.

        None when this database has no such process.
        """
        if self._log is None:
            return None
        statements = (self._advance.sql, self._insert.sql, self._vouch.sql)
        claim = () if self._claim is None else self._claim.descriptors
        return file_of(self._engine), request(Setup(PREPARE_SQLITE, statements)), claim

    def rows(self, batch: Sequence[Stored], *, committed: int) -> bytes | None:
        """What ``store`` would write, as a request to that process; the caller has it written.

        None when more is to be done than to add rows to streams that are known, or for too much.
        """
        if (
            batch[0].receipt.position <= self._highest
            or sum([message.size for message in batch]) > MAX_ROWS_BYTES
        ):
            return None
        ends: dict[Stream, Stored] = {message.stream: message for message in batch}
        advanced: list[tuple[Any, ...]] = []
        for stream, end in ends.items():
            stream_id = self._stream_ids.get(stream)
            if stream_id is None or is_thread(stream.recipient):
                return None
            advanced.append((stream_id, end.seq, end.receipt.position))
        self._highest = batch[-1].receipt.position
        return request(
            [
                self._advance.placed(advanced),
                self._insert.placed(_message_rows(batch, self._stream_ids)),
                self._vouch.placed([(committed,)]),
            ]
        )

    def store_identity_event(self, event: StoredIdentityEvent) -> None:
        """Index an IDENTITY event durably; a row that stands at its position is replaced."""
        with self.writing() as connection:
            at = identity_events.c.position == event.position
            connection.execute(delete(identity_events).where(at))
            _index_identities(connection, [event])

    def store_event(self, record: Record) -> None:
        """Index an event of threads or stages durably, beside its commit."""
        with self.writing() as connection:
            _index_events(connection, [record])

    def keep_details(self, digest: str, salt: bytes, body: bytes) -> None:
        """Keep a title and metadata durably, before the event that has their salted hash."""
        with self.writing() as connection:
            index.keep_details(connection, digest, salt, body)

    def rebuild(
        self,
        batch: Sequence[Stored],
        checkpoint: Checkpoint,
        *,
        identities: Sequence[StoredIdentityEvent] = (),
        events: Sequence[Record] = (),
        from_start: bool = False,
        first: bool = True,
    ) -> None:
        """Index what was read from the ledger up to ``checkpoint``; frames that match it stay.

        ``events``: what else it has of threads and stages. ``first``: of the batches of one
        reading.
        """
        known = {} if from_start else self._stream_ids
        with self.writing() as connection:
            start = 0
            if from_start:
                connection.execute(delete(streams))
            elif (row := connection.execute(select(ledger_state)).first()) is not None:
                start = row.position
            if first:
                # Rows that wait for a later batch keep their frames, but not their (stream, seq):
                # what the ledger has there may be another message.
                connection.execute(
                    update(messages)
                    .where(messages.c.position > start)
                    .values(stream_id=-messages.c.position)
                )
                _drop_events(connection, start)
            kept = _frames_at(connection, batch)
            span = messages.c.position.between(start + 1, checkpoint.head.position)
            connection.execute(delete(messages).where(span))
            found = [
                msgspec.structs.replace(message, frame=kept.get(message.receipt.event_hash))
                for message in batch
            ]
            ids = self._store(connection, found, known)
            span = identity_events.c.position.between(start + 1, checkpoint.head.position)
            connection.execute(delete(identity_events).where(span))
            _index_identities(connection, identities)
            _index_events(connection, events)
            _set_state(connection, checkpoint)
        self._stream_ids = {**known, **ids}

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Remember how far the ledger is verified and indexed."""
        with self.writing() as connection:
            _set_state(connection, checkpoint)

    def drop_after(self, position: int) -> None:
        """Forget rows after ``position``: the ledger does not have their messages."""
        with self.writing() as connection:
            connection.execute(delete(messages).where(messages.c.position > position))
            connection.execute(delete(receipts).where(receipts.c.position > position))
            connection.execute(delete(identity_events).where(identity_events.c.position > position))
            connection.execute(
                update(ledger_committed)
                .where(ledger_committed.c.position > position)
                .values(position=position)
            )
            _drop_events(connection, position)
            for row in connection.execute(
                select(streams.c.id).where(streams.c.last_position > position)
            ).all():
                newest = connection.execute(
                    select(messages.c.seq, messages.c.position)
                    .where(messages.c.stream_id == row.id)
                    .order_by(messages.c.seq.desc())
                    .limit(1)
                ).first()
                if newest is None:
                    connection.execute(delete(streams).where(streams.c.id == row.id))
                else:
                    connection.execute(
                        update(streams)
                        .where(streams.c.id == row.id)
                        .values(last_seq=newest.seq, last_position=newest.position)
                    )
        self._stream_ids = {}

    def expire(self, before: str) -> int:
        """Drop the frames of messages whose ledger timestamp sorts before ``before``; how many."""
        with self.writing() as connection:
            return connection.execute(
                update(messages)
                .where(messages.c.frame.is_not(None), messages.c.timestamp < before)
                .values(frame=None)
            ).rowcount

    def add_receipts(self, given: Sequence[MessageReceipt]) -> set[MessageReceipt]:
        """Keep receipts durably; those that were not known."""
        if not given:
            return set()
        positions = {receipt.position for receipt in given}
        with self.writing() as connection:
            known = connection.execute(select(receipts).where(receipts.c.position.in_(positions)))
            new = set(given) - {MessageReceipt(*row) for row in known}
            if new:
                connection.execute(insert(receipts), [receipt._asdict() for receipt in new])
        return new

    # -- reading ------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """How far the ledger was verified and indexed."""
        with self.reading() as connection:
            row = connection.execute(select(ledger_state)).first()
        return (
            START
            if row is None
            else Checkpoint(Head(row.position, row.event_hash), row.file_offset)
        )

    def committed(self) -> int:
        """Up to which position the ledger is known to have been durable."""
        with self.reading() as connection:
            return connection.scalar(select(ledger_committed.c.position)) or 0

    def last_seq(self, stream: Stream) -> int:
        """The last committed sequence number of ``stream``; 0 when it has none."""
        with self.reading() as connection:
            row = connection.execute(select(streams.c.last_seq).where(_is(stream))).first()
        return 0 if row is None else int(row.last_seq)

    def logged(self, stream: Stream, seq: int) -> tuple[Logged, bool] | None:
        """What ``stream`` has at ``seq``, and whether its frame is here."""
        with self.reading() as connection:
            row = connection.execute(
                select(messages)
                .join(streams, streams.c.id == messages.c.stream_id)
                .where(_is(stream), messages.c.seq == seq)
            ).first()
        if row is None:
            return None
        receipt = Receipt(row.position, row.event_id, row.event_hash, row.timestamp)
        return Logged(row.hash, receipt), row.frame is not None

    def missed(self, wallet: str, after: int, limit: int = PAGE) -> list[Waiting]:
        """The next ``limit`` messages to or from ``wallet`` after a position, in ledger order."""
        with self.reading() as connection:
            ids = connection.scalars(
                select(streams.c.id).where(
                    or_(streams.c.recipient == wallet, streams.c.sender == wallet),
                    streams.c.last_position > after,
                )
            ).all()
            pages = _pages(connection, ids, after=after, limit=limit)
            pages += _pages_of_threads(connection, wallet, after=after, limit=limit)
        return _merged(pages, limit)

    def history(
        self,
        wallet: str,
        peer: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = PAGE,
    ) -> list[Waiting]:
        """Messages between two wallets, or of a thread while ``wallet`` was in it, in ledger order:
        the first after ``after``, or the last before ``before``."""
        if is_thread(peer):
            return self._history_of_thread(wallet, peer, after=after, before=before, limit=limit)
        between = or_(
            (streams.c.sender == wallet) & (streams.c.recipient == peer),
            (streams.c.sender == peer) & (streams.c.recipient == wallet),
        )
        with self.reading() as connection:
            ids = connection.scalars(select(streams.c.id).where(between)).all()
            pages = _pages(connection, ids, after=after, before=before, limit=limit)
        return _merged(pages, limit, backwards=before is not None)

    def _history_of_thread(
        self, wallet: str, thread: str, *, after: int, before: int | None, limit: int
    ) -> list[Waiting]:
        with self.reading() as connection:
            spans = index.memberships(connection, wallet, thread)
            if not spans:
                raise NotAMember("you are not a member of such a thread")
            found = index.frames(
                connection, thread, spans[thread], after=after, before=before, limit=limit
            )
        return [Waiting(position, frame) for position, frame in found]

    def threads(
        self, wallet: str, *, end: int = 2**63 - 1, limit: int = 50, offset: int = 0
    ) -> list[Thread]:
        """The conversations of ``wallet``, newest first, by what there is up to ``end``."""
        with self.reading() as connection:
            rows = connection.execute(
                select(streams).where(
                    or_(streams.c.recipient == wallet, streams.c.sender == wallet)
                )
            ).all()
            newest: dict[str, int] = {}
            for row in rows:
                peer = row.recipient if row.sender == wallet else row.sender
                last = row.last_position
                if last > end:
                    last = _last_up_to(connection, row.id, end)
                if last and not is_thread(peer):
                    newest[peer] = max(newest.get(peer, 0), last)
            newest |= index.newest(connection, wallet, end)
            page = sorted(newest.items(), key=lambda item: -item[1])[offset : offset + limit]
            positions = [position for _, position in page]
            found = index.places(connection, positions)
            for row in connection.execute(
                select(messages.c.position, messages.c.timestamp, messages.c.event_id).where(
                    messages.c.position.in_(positions)
                )
            ):
                found[row.position] = (row.timestamp, row.event_id)
        return [Thread(peer, *found[position], position) for peer, position in page]

    def senders(self, given: Sequence[MessageReceipt]) -> dict[MessageReceipt, str]:
        """Of each receipt who sent the message; without those whose wallet it was not for."""
        positions = {receipt.position for receipt in given}
        with self.reading() as connection:
            rows = connection.execute(
                select(messages.c.position, streams.c.sender, streams.c.recipient)
                .join(streams, streams.c.id == messages.c.stream_id)
                .where(messages.c.position.in_(positions))
            )
            parties = {row.position: (row.sender, row.recipient) for row in rows}
            return {
                receipt: parties[receipt.position][0]
                for receipt in given
                if receipt.position in parties
                and _was_for(
                    connection, receipt.wallet, parties[receipt.position][1], receipt.position
                )
            }

    def thread_states(self, ids: Sequence[str], end: int | None) -> dict[str, GroupThread]:
        """The state of those of ``ids`` that exist, as of a position; of all when it is None."""
        with self.reading() as connection:
            return index.load(connection, ids, end)

    def thread_beginnings(self, ids: Sequence[str]) -> dict[str, tuple[str, bytes | None]]:
        """(when it began, title and metadata if they are here) of each of ``ids``."""
        with self.reading() as connection:
            found = index.beginnings(connection, ids)
            texts = index.bodies(
                connection,
                [one.event.details for one in found.values() if one.event.details is not None],
            )
        return {
            thread: (one.timestamp, texts.get(one.event.details or ""))
            for thread, one in found.items()
        }

    def thread_of_legacy_id(self, legacy: str) -> str | None:
        """The thread that had ``legacy`` for an id."""
        with self.reading() as connection:
            return index.by_legacy_id(connection, legacy)

    def posted(self, message: str) -> index.Posted | None:
        """What was posted here by the legacy contract with an id."""
        with self.reading() as connection:
            return index.posted(connection, message)

    def threads_of(
        self, wallet: str, *, end: int, limit: int, offset: int
    ) -> tuple[list[GroupThread], int]:
        """A page of the threads that ``wallet`` is in, the oldest first, and how many there are."""
        with self.reading() as connection:
            ids, total = index.threads_of(connection, wallet, end=end, limit=limit, offset=offset)
            states = index.load(connection, ids, end)
        return [states[thread] for thread in ids], total

    def written(
        self, thread: str, spans: Sequence[Span], *, end: int, before: str | None, limit: int
    ) -> tuple[list[index.Written], int]:
        """The last messages of both contracts in ``spans``, and how many there are."""
        with self.reading() as connection:
            return index.written(connection, thread, spans, end=end, before=before, limit=limit)

    def thread_entries(self, after: int, end: int, limit: int) -> list[index.Entry]:
        """What happened next to any thread, after a position and up to ``end``."""
        with self.reading() as connection:
            return index.entries(connection, after, end, limit)

    def event_id(self, position: int) -> str:
        """The id of the thread event at ``position``, which must be one."""
        with self.reading() as connection:
            return index.places(connection, [position])[position][1]

    def details(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Titles and metadata that are here, by their salted hash."""
        with self.reading() as connection:
            return index.bodies(connection, digests)

    def record_mismatch(self, route: str, difference: str, moment: str) -> None:
        """Count a read that the legacy route and the chat answered differently."""
        with self.writing() as connection:
            stages.record_mismatch(connection, route, difference, moment)

    def mismatches(self) -> list[stages.Mismatch]:
        """How the two have answered differently, and how often."""
        with self.reading() as connection:
            return stages.mismatches(connection)

    def stage(self) -> Stage | None:
        """The stage that the ledger's last move led to; None when it has none."""
        with self.reading() as connection:
            return stages.stage(connection)

    def receipts_for(self, wallet: str, after: int) -> list[tuple[int, str, str]]:
        """(position, wallet, kind) of receipts for what ``wallet`` sent after a position."""
        with self.reading() as connection:
            rows = connection.execute(
                select(receipts.c.position, receipts.c.wallet, receipts.c.kind)
                .join(messages, messages.c.position == receipts.c.position)
                .join(streams, streams.c.id == messages.c.stream_id)
                .where(streams.c.sender == wallet, receipts.c.position > after)
                .order_by(receipts.c.position)
            ).all()
        return [(row.position, row.wallet, row.kind) for row in rows]

    def identity_events(self, wallet: str) -> list[StoredIdentityEvent]:
        """What the ledger has of ``wallet``'s identity and devices, in its order; no prekeys."""
        with self.reading() as connection:
            rows = connection.execute(
                select(identity_events)
                .where(identity_events.c.wallet == wallet)
                .order_by(identity_events.c.position)
            ).all()
        return [
            StoredIdentityEvent(
                row.position,
                row.event_hash,
                row.wallet,
                IdentityEvent(StatementKind(row.kind), row.statement, row.device),
            )
            for row in rows
        ]

    def hashes_between(self, after: int, last: int) -> dict[int, str]:
        """The event hashes of the messages after one position and up to another, by position."""
        with self.reading() as connection:
            rows = connection.execute(
                select(messages.c.position, messages.c.event_hash).where(
                    messages.c.position.between(after + 1, last)
                )
            ).all()
        return {row.position: row.event_hash for row in rows}

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One moment of the database, whatever is committed while several statements run.

        Raises DatabaseTaken; what the database refuses is raised as LedgerUnavailable.
        """
        self.check()
        try:
            with self._engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # the driver would begin only at a write
                yield connection
        except DBAPIError as error:
            reason = f"the mailbox could not be read: {_reason(error)}"
            log.error("mailbox.not_read reason=%s", _reason(error))
            raise LedgerUnavailable(reason) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; what the database refuses is raised as LedgerUnavailable."""
        claimed = self._claim
        with (
            self._noting_failure(),
            self._engine.begin() if claimed is None else claimed.transaction() as connection,
        ):
            yield connection
        if self._not_written is not None:
            log.warning("mailbox.written_again")
            self._not_written = None
        if self._log is not None and self._log.is_long:
            with contextlib.closing(self._engine.raw_connection()) as checked_out:
                self._log.begin_anew(cast(sqlite3.Connection, checked_out.driver_connection))

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """What the database refuses is raised as LedgerUnavailable; logged while it is news."""
        try:
            yield
        except DatabaseTaken:
            raise  # for good: the ledger says it
        except LedgerUnavailable as unavailable:
            self._failed(unavailable.detail)
            raise
        except DBAPIError as error:
            detail = f"the mailbox could not be written: {_reason(error)}"
            self._failed(detail)
            raise LedgerUnavailable(detail) from error

    def _failed(self, why: str) -> None:
        if why != self._not_written:
            log.error("mailbox.not_written reason=%s", why)
        self._not_written = why

    def _store(
        self, connection: Connection, batch: Sequence[Stored], known: Mapping[Stream, int]
    ) -> dict[Stream, int]:
        """Write ``batch``'s rows and move its streams on; the ids of these streams."""
        if not batch:
            return {}
        ends: dict[Stream, Stored] = {message.stream: message for message in batch}
        ids: dict[Stream, int] = {}
        advanced: list[tuple[Any, ...]] = []
        for stream, end in ends.items():
            stream_id = known.get(stream)
            if stream_id is None:
                stream_id = connection.scalar(select(streams.c.id).where(_is(stream)))
            if stream_id is None:
                last = {"last_seq": end.seq, "last_position": end.receipt.position}
                inserted = connection.execute(insert(streams).values({**stream._asdict(), **last}))
                key = inserted.inserted_primary_key
                assert key is not None  # noqa: S101 (an insert of one row always has it)
                ids[stream] = key[0]
                continue
            ids[stream] = stream_id
            advanced.append((stream_id, end.seq, end.receipt.position))
        if advanced:
            self._advance.execute(connection, advanced)
        # A group that failed may have left rows here; a batch owns the whole of its range.
        first, last_row = batch[0].receipt.position, batch[-1].receipt.position
        if first <= self._highest:
            connection.execute(_CLEAR, {"first": first, "last": last_row})
        self._highest = max(self._highest, last_row)
        index.add_messages(
            connection, [_of_thread(m) for m in batch if is_thread(m.stream.recipient)]
        )
        self._insert.execute(connection, _message_rows(batch, ids))
        return ids


def _message_rows(batch: Sequence[Stored], ids: Mapping[Stream, int]) -> list[tuple[Any, ...]]:
    """In the order of the table's columns."""
    return [
        (
            message.receipt.position,
            ids[message.stream],
            message.seq,
            message.hash,
            message.receipt.event_id,
            message.receipt.event_hash,
            message.receipt.timestamp,
            message.frame,
        )
        for message in batch
    ]


def _was_for(connection: Connection, wallet: str, recipient: str, position: int) -> bool:
    """Whether the message at ``position``, to a wallet or a thread, was for ``wallet``."""
    if not is_thread(recipient):
        return recipient == wallet
    spans = index.memberships(connection, wallet, recipient, after=position)
    return any(span.covers(position) for span in spans.get(recipient, ()))


def _is(stream: Stream) -> Any:
    return (
        (streams.c.sender == stream.sender)
        & (streams.c.recipient == stream.recipient)
        & (streams.c.device == stream.device)
    )


def _of_thread(message: Stored) -> index.ThreadMessage:
    receipt = message.receipt
    return index.ThreadMessage(
        receipt.position,
        message.stream.recipient,
        message.stream.sender,
        receipt.event_id,
        a2b_base64(message.hash).hex(),
        message.size,
        receipt.timestamp,
    )


def _index_events(connection: Connection, events: Sequence[Record]) -> None:
    index.add_events(connection, events)
    stages.add_events(connection, events)


def _drop_events(connection: Connection, position: int) -> None:
    index.drop_after(connection, position)
    stages.drop_after(connection, position)


def _last_up_to(connection: Connection, stream_id: int, end: int) -> int:
    """The last position of a stream up to ``end``; 0 when there is none."""
    last = select(func.max(messages.c.position)).where(
        messages.c.stream_id == stream_id, messages.c.position <= end
    )
    return connection.scalar(last) or 0


def _pages(
    connection: Connection,
    stream_ids: Iterable[int],
    *,
    after: int,
    limit: int,
    before: int | None = None,
) -> list[list[Waiting]]:
    """A page of each stream, read by its own index; backwards when it is the last before one."""
    order = messages.c.seq if before is None else messages.c.seq.desc()

    def one(stream_id: int) -> list[Waiting]:
        query = select(messages.c.position, messages.c.frame).where(
            messages.c.stream_id == stream_id, messages.c.position > after
        )
        if before is not None:
            query = query.where(messages.c.position < before)
        rows = connection.execute(query.order_by(order).limit(limit))
        return [Waiting(row.position, row.frame) for row in rows]

    return [one(stream_id) for stream_id in stream_ids]


def _pages_of_threads(
    connection: Connection, wallet: str, *, after: int, limit: int
) -> list[list[Waiting]]:
    """A page of what others wrote to each thread while ``wallet`` was in it."""
    spans = index.memberships(connection, wallet, after=after)
    if not spans:
        return []
    lively = connection.scalars(
        select(streams.c.recipient)
        .where(
            streams.c.recipient.in_(
                select(thread_members.c.thread).where(thread_members.c.wallet == wallet)
            ),
            streams.c.last_position > after,
        )
        .distinct()
    )
    return [
        [
            Waiting(position, frame)
            for position, frame in index.frames(
                connection, thread, spans[thread], after=after, limit=limit, not_from=wallet
            )
        ]
        for thread in lively
        if thread in spans
    ]


def _merged(pages: list[list[Waiting]], limit: int, *, backwards: bool = False) -> list[Waiting]:
    """One page of several, in ledger order."""
    merged = heapq.merge(*pages, key=lambda message: message.position, reverse=backwards)
    page = list(islice(merged, limit))
    return page[::-1] if backwards else page


def _frames_at(connection: Connection, batch: Sequence[Stored]) -> dict[str, bytes]:
    """The frames stored at the batch's positions, by the hash of the record they belong to."""
    if not batch:
        return {}
    first, last = batch[0].receipt.position, batch[-1].receipt.position
    rows = connection.execute(
        select(messages.c.event_hash, messages.c.frame).where(
            messages.c.position.between(first, last), messages.c.frame.is_not(None)
        )
    )
    return {row.event_hash: row.frame for row in rows}


def _index_identities(connection: Connection, events: Sequence[StoredIdentityEvent]) -> None:
    if events:
        connection.execute(
            insert(identity_events),
            [
                {
                    "position": one.position,
                    "event_hash": one.event_hash,
                    "wallet": one.wallet,
                    "kind": one.event.kind.value,
                    "statement": one.event.id,
                    "device": one.event.device,
                }
                for one in events
            ],
        )


def _set_state(connection: Connection, checkpoint: Checkpoint) -> None:
    connection.execute(delete(ledger_state))
    if checkpoint.head != EMPTY:
        connection.execute(
            insert(ledger_state).values(
                id=1,
                position=checkpoint.head.position,
                event_hash=checkpoint.head.event_hash,
                file_offset=checkpoint.offset,
            )
        )


def _reason(error: DBAPIError) -> str:
    """The database's own name for what is wrong, without its text, which may quote values."""
    name = getattr(error.orig, "sqlite_errorname", None)  # SQLITE_FULL, SQLITE_BUSY and the like
    return name or type(error.orig).__name__

"""Reading and writing the tables of threads, on connections that the mailbox gives. Blocking.

What comes from the ledger is folded onto what the tables have, in order; an event that breaks a
rule is left out. Rows at positions that the ledger turned out not to have are taken out again, and
the memberships of their threads are worked out anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, delete, false, func, insert, or_, select

from plugins.secure_chat.core import legacy_message
from plugins.secure_chat.core import thread as thread_rules
from plugins.secure_chat.core.legacy_message import LEGACY_MESSAGE
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.thread import (
    THREAD,
    Span,
    Thread,
    ThreadEvent,
    admit,
    fold,
    fold_all,
)
from plugins.secure_chat.errors import Refusal
from plugins.secure_chat.mailbox.tables import messages
from plugins.secure_chat.threads.tables import (
    details,
    thread_events,
    thread_members,
    thread_messages,
)

log: Final = logging.getLogger(__name__)

_MANY: Final = 500  # values in one statement: below what any database takes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ThreadMessage:
    """A MESSAGE that went to a thread: where it stands, and what both contracts show of it."""

    position: int
    thread: str
    sender: str
    id: str
    content: str  # its hash, in hex
    size: int
    timestamp: str


@dataclass(frozen=True, slots=True)
class Written:
    """A message of a thread, of either contract, read back. ``message_type`` None: encrypted."""

    position: int
    sender: str
    id: str
    content: str
    size: int | None
    timestamp: str
    message_type: str | None
    content_type: str | None
    details: str | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Posted:
    """A message of the legacy contract in its thread; ``body``: its metadata if they are here."""

    thread: str
    written: Written
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to a thread or was written to it, in ledger order."""

    position: int
    thread: str
    wallet: str
    id: str
    timestamp: str
    details: str | None
    what: ThreadEvent | Written


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a thread came to be: the event that created it."""

    thread: str
    event: ThreadEvent
    event_id: str
    timestamp: str


# -- writing ---------------------------------------------------------------------------------------


def add_messages(connection: Connection, batch: Sequence[ThreadMessage]) -> None:
    """Put messages in; rows that stand at their positions are replaced."""
    if not batch:
        return
    _clear(connection, [message.position for message in batch])
    connection.execute(
        insert(thread_messages),
        [
            {
                "thread": m.thread,
                "position": m.position,
                "sender": m.sender,
                "id": m.id,
                "content": m.content,
                "size": m.size,
                "timestamp": m.timestamp,
            }
            for m in batch
        ],
    )


def add_events(connection: Connection, records: Sequence[Record]) -> None:
    """Fold THREAD and LEGACY_MESSAGE records, in ledger order, onto what is there."""
    parsed: list[tuple[Record, ThreadEvent | legacy_message.LegacyMessage]] = []
    for record in records:
        try:
            if record.event_type == THREAD:
                parsed.append((record, thread_rules.from_record(record)))
            elif record.event_type == LEGACY_MESSAGE:
                parsed.append((record, legacy_message.from_record(record)))
        except MalformedEvent as error:
            log.error("ledger.malformed_event position=%d reason=%s", record.position, error)
    if not parsed:
        return
    threads = load(connection, {event.thread for _, event in parsed})
    changed: dict[str, Thread] = {}
    events: list[dict[str, Any]] = []
    posted: list[dict[str, Any]] = []
    for record, event in parsed:
        thread = threads.get(event.thread)
        try:
            if isinstance(event, ThreadEvent):
                threads[event.thread] = changed[event.thread] = fold(thread, event, record.position)
                events.append(_event_row(record, event))
            else:
                if event.provenance is None:
                    admit(thread, event.sender)
                posted.append(_legacy_row(record, event))
        except Refusal as refused:
            # Nobody was told that it happened: our own are decided on before they are logged.
            log.error("ledger.event_refused position=%d code=%s", record.position, refused.code)
    if events:
        connection.execute(insert(thread_events), events)
        _write_members(connection, changed.values())
    if posted:
        _clear(connection, [row["position"] for row in posted])
        connection.execute(insert(thread_messages), posted)


def drop_after(connection: Connection, position: int) -> None:
    """Forget what stands after ``position``: the ledger does not have it."""
    later = thread_events.c.position > position
    touched = set(connection.scalars(select(thread_events.c.thread).where(later)))
    connection.execute(delete(thread_messages).where(thread_messages.c.position > position))
    if not touched:
        return
    connection.execute(delete(thread_events).where(later))
    for ids in _portions(sorted(touched)):
        connection.execute(delete(thread_members).where(thread_members.c.thread.in_(ids)))
        _write_members(connection, load(connection, ids).values())


def keep_details(connection: Connection, digest: str, salt: bytes, body: bytes) -> None:
    """Keep a title and metadata under their salted hash, before the event that names it."""
    known = select(details.c.hash).where(details.c.hash == digest)
    if connection.execute(known).first() is None:
        connection.execute(insert(details).values(hash=digest, salt=salt, body=body))


def _clear(connection: Connection, positions: Iterable[int]) -> None:
    for some in _portions(positions):
        connection.execute(delete(thread_messages).where(thread_messages.c.position.in_(some)))


def _write_members(connection: Connection, threads: Iterable[Thread]) -> None:
    """Replace the memberships of ``threads`` by what their state says."""
    threads = list(threads)
    for some in _portions(t.id for t in threads if t.position != t.created):
        connection.execute(delete(thread_members).where(thread_members.c.thread.in_(some)))
    rows = [
        {"thread": thread.id, "wallet": wallet, "joined": span.joined, "left": span.left}
        for thread in threads
        for wallet, spans in thread.spans.items()
        for span in spans
    ]
    if rows:
        connection.execute(insert(thread_members), rows)


def _event_row(record: Record, event: ThreadEvent) -> dict[str, Any]:
    return {
        "position": record.position,
        "thread": event.thread,
        "wallet": record.wallet,
        "event": json.dumps(record.metadata),
        "event_id": record.event_id,
        "timestamp": record.timestamp if event.provenance is None else event.provenance.moment,
        "legacy": event.legacy,
    }


def _legacy_row(record: Record, message: legacy_message.LegacyMessage) -> dict[str, Any]:
    origin = message.provenance
    return {
        "thread": message.thread,
        "position": record.position,
        "sender": message.sender,
        "id": record.event_id if message.id is None else message.id,
        "content": message.content,
        "size": message.size,
        "timestamp": record.timestamp if origin is None else origin.moment,
        "message_type": message.message_type,
        "content_type": message.content_type,
        "details": message.details,
        "origin": None if origin is None else origin.origin,
    }


# -- reading ---------------------------------------------------------------------------------------


def load(connection: Connection, ids: Iterable[str], end: int | None = None) -> dict[str, Thread]:
    """The state of those of ``ids`` that exist, as of the position ``end`` (None: of all)."""
    found: dict[str, list[tuple[int, ThreadEvent]]] = {}
    for some in _portions(sorted(ids)):
        query = select(thread_events).where(thread_events.c.thread.in_(some))
        if end is not None:
            query = query.where(thread_events.c.position <= end)
        for row in connection.execute(query.order_by(thread_events.c.position)):
            event = thread_rules.parse(row.wallet, json.loads(row.event))
            found.setdefault(row.thread, []).append((row.position, event))
    return {thread: fold_all(events) for thread, events in found.items()}


def by_legacy_id(connection: Connection, legacy: str) -> str | None:
    """The thread that had ``legacy`` for an id."""
    return connection.scalar(
        select(thread_events.c.thread)
        .where(thread_events.c.legacy == legacy)
        .order_by(thread_events.c.position)
        .limit(1)
    )


def posted(connection: Connection, message: str) -> Posted | None:
    """The message of the legacy contract with an id, unless it was imported."""
    row = connection.execute(
        select(thread_messages).where(
            thread_messages.c.id == message,
            thread_messages.c.message_type.is_not(None),
            thread_messages.c.origin.is_(None),
        )
    ).first()
    if row is None:
        return None
    texts = {} if row.details is None else bodies(connection, [row.details])
    return Posted(row.thread, _written(row), texts.get(row.details))


def beginnings(connection: Connection, ids: Iterable[str]) -> dict[str, Beginning]:
    """The event that created each of ``ids``."""
    found: dict[str, Beginning] = {}
    for some in _portions(sorted(ids)):
        for row in connection.execute(
            select(thread_events)
            .where(thread_events.c.thread.in_(some))
            .order_by(thread_events.c.position)
        ):
            if row.thread not in found:
                event = thread_rules.parse(row.wallet, json.loads(row.event))
                found[row.thread] = Beginning(row.thread, event, row.event_id, row.timestamp)
    return found


def bodies(connection: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """Titles and metadata that are here, by their salted hash; as ``details_body`` wrote them."""
    found: dict[str, bytes] = {}
    for some in _portions(sorted(digests)):
        for row in connection.execute(select(details).where(details.c.hash.in_(some))):
            found[row.hash] = bytes(row.body)
    return found


def memberships(
    connection: Connection, wallet: str, thread: str | None = None, *, after: int = 0
) -> dict[str, list[Span]]:
    """The memberships of ``wallet`` that lasted beyond a position, by thread: of one, or of all."""
    query = select(thread_members.c.thread, thread_members.c.joined, thread_members.c.left).where(
        thread_members.c.wallet == wallet,
        or_(thread_members.c.left.is_(None), thread_members.c.left > after),
    )
    if thread is not None:
        query = query.where(thread_members.c.thread == thread)
    found: dict[str, list[Span]] = {}
    for row in connection.execute(query.order_by(thread_members.c.joined)):
        found.setdefault(row.thread, []).append(Span(row.joined, row.left))
    return found


def newest(connection: Connection, wallet: str, end: int) -> dict[str, int]:
    """For each thread that ``wallet`` is or was in, the last position of it that it may see.

    What stands after ``end`` does not count.
    """
    inner = thread_messages.alias()
    seen = (
        select(func.max(inner.c.position))
        .where(
            inner.c.thread == thread_members.c.thread,
            inner.c.position <= end,
            or_(thread_members.c.left.is_(None), inner.c.position < thread_members.c.left),
        )
        .scalar_subquery()
    )
    rows = connection.execute(
        select(thread_members.c.thread, thread_members.c.joined, seen.label("seen")).where(
            thread_members.c.wallet == wallet, thread_members.c.joined <= end
        )
    )
    found: dict[str, int] = {}
    for row in rows:
        found[row.thread] = max(found.get(row.thread, 0), row.joined, row.seen or 0)
    return found


def places(connection: Connection, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
    """(timestamp, id) of what stands at those of ``positions`` that are a thread's."""
    found: dict[int, tuple[str, str]] = {}
    for some in _portions(positions):
        for table, key in (
            (thread_events, thread_events.c.event_id),
            (thread_messages, thread_messages.c.id),
        ):
            for row in connection.execute(
                select(table.c.position, table.c.timestamp, key.label("id")).where(
                    table.c.position.in_(some)
                )
            ):
                found[row.position] = (row.timestamp, row.id)
    return found


def frames(
    connection: Connection,
    thread: str,
    spans: Sequence[Span],
    *,
    after: int,
    before: int | None = None,
    limit: int,
    not_from: str | None = None,
) -> list[tuple[int, bytes | None]]:
    """(position, frame) of the encrypted messages in ``spans``, in ledger order.

    The first ``limit`` after a position, or the last before one. ``not_from`` leaves one sender's
    out.
    """
    table = thread_messages
    query = (
        select(table.c.position, messages.c.frame)
        .join(messages, messages.c.position == table.c.position)
        .where(_in_spans(thread, spans), table.c.position > after)
    )
    if not_from is not None:
        query = query.where(table.c.sender != not_from)
    if before is None:
        rows = connection.execute(query.order_by(table.c.position).limit(limit)).all()
    else:
        query = query.where(table.c.position < before).order_by(table.c.position.desc())
        rows = list(reversed(connection.execute(query.limit(limit)).all()))
    return [(row.position, row.frame) for row in rows]


def written(
    connection: Connection,
    thread: str,
    spans: Sequence[Span],
    *,
    end: int,
    before: str | None,
    limit: int,
) -> tuple[list[Written], int]:
    """The last ``limit`` messages of both contracts, oldest first, and how many there are.

    ``before``: only those whose timestamp sorts before it.
    """
    table = thread_messages
    chosen = and_(_in_spans(thread, spans), table.c.position <= end)
    if before is not None:
        chosen = and_(chosen, table.c.timestamp < before)
    total = connection.scalar(select(func.count()).select_from(table).where(chosen)) or 0
    rows = connection.execute(
        select(table).where(chosen).order_by(table.c.position.desc()).limit(limit)
    ).all()
    return [_written(row) for row in reversed(rows)], total


def entries(connection: Connection, after: int, end: int, limit: int) -> list[Entry]:
    """The next ``limit`` entries of any thread after a position and up to ``end``."""
    found: list[Entry] = []
    for table in (thread_events, thread_messages):
        rows = connection.execute(
            select(table)
            .where(table.c.position > after, table.c.position <= end)
            .order_by(table.c.position)
            .limit(limit)
        )
        found += [_entry_of(row) for row in rows]
    return sorted(found, key=lambda entry: entry.position)[:limit]


def threads_of(
    connection: Connection, wallet: str, *, end: int, limit: int, offset: int
) -> tuple[list[str], int]:
    """Ids of the threads that ``wallet`` is in, oldest thread first, and how many there are."""
    mine = and_(
        thread_members.c.wallet == wallet,
        thread_members.c.joined <= end,
        or_(thread_members.c.left.is_(None), thread_members.c.left > end),
    )
    total = connection.scalar(select(func.count()).select_from(thread_members).where(mine)) or 0
    created = (
        select(func.min(thread_events.c.position))
        .where(thread_events.c.thread == thread_members.c.thread)
        .scalar_subquery()
    )
    ids = connection.scalars(
        select(thread_members.c.thread).where(mine).order_by(created).limit(limit).offset(offset)
    ).all()
    return list(ids), total


def _in_spans(thread: str, spans: Sequence[Span]) -> ColumnElement[bool]:
    position = thread_messages.c.position
    return and_(
        thread_messages.c.thread == thread,
        or_(
            false(),
            *(
                position > span.joined
                if span.left is None
                else and_(position > span.joined, position < span.left)
                for span in spans
            ),
        ),
    )


def _entry_of(row: Any) -> Entry:
    """An entry from a row of ``thread_messages`` or of ``thread_events``."""
    if hasattr(row, "sender"):
        message = _written(row)
        where = (row.position, row.thread, row.sender, row.id, row.timestamp)
        return Entry(*where, message.details, message)
    event = thread_rules.parse(row.wallet, json.loads(row.event))
    where = (row.position, row.thread, row.wallet, row.event_id, row.timestamp)
    return Entry(*where, event.details, event)


def _written(row: Any) -> Written:
    return Written(
        row.position,
        row.sender,
        row.id,
        row.content,
        row.size,
        row.timestamp,
        row.message_type,
        row.content_type,
        row.details,
        row.origin,
    )


def _portions(values: Iterable[T]) -> Iterator[list[T]]:
    """``values`` in lists that are short enough for one statement."""
    rest = iter(values)
    while portion := list(islice(rest, _MANY)):
        yield portion

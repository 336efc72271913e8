"""Reading and writing the tables of an adoption, on the mailbox's database. Blocking.

What a batch did is one transaction, written after its events are in the ledger. A process that dies
in between finds the events in the ledger behind the position that is kept here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from plugins.secure_chat.adoption.records import thread_of
from plugins.secure_chat.adoption.tables import (
    adoption_records,
    adoption_refusals,
    adoption_sources,
    adoption_state,
)
from plugins.secure_chat.core.migration_event import NOTHING, Counts
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.ledger.journal import START, Checkpoint
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.threads.index import bodies
from plugins.secure_chat.threads.tables import details, thread_events

T = TypeVar("T")
_MANY: Final = 500  # values in one statement: below what any database takes


class Phase(StrEnum):
    """An export is read twice, so that messages may stand before their threads."""

    THREADS = "threads"
    REST = "rest"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an export is taken over: ``done`` records of it in this phase."""

    source: str
    name: str
    phase: Phase = Phase.THREADS
    done: int = 0
    counts: Counts = NOTHING


class Taken(NamedTuple):
    """A thing that was taken: where it stands, and where it came from."""

    key: bytes
    fingerprint: bytes
    source: str
    line: int
    position: int


class Refusal(NamedTuple):
    """A record, or the ``part`` of it counted from 0, that was not taken."""

    source: str
    line: int
    part: int
    reason: str


class AdoptionStore:
    """The tables of an adoption. Nothing is written before the first export is begun."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        with mailbox.reading() as connection:
            row = connection.execute(select(adoption_state)).first()
        self._seed = None if row is None else bytes(row.seed)
        self.checkpoint = (
            START
            if row is None
            else Checkpoint(Head(row.position, row.event_hash), row.file_offset)
        )

    @property
    def seed(self) -> bytes:
        """The secret of the salts of titles. There is one once an export is begun."""
        if self._seed is None:
            raise ValueError("no export is begun")
        return self._seed

    def progress(self) -> list[Progress]:
        """Every export that was begun."""
        with self._mailbox.reading() as connection:
            rows = connection.execute(select(adoption_sources).order_by("source")).all()
        return [
            Progress(
                row.source,
                row.name,
                Phase(row.phase),
                row.done,
                Counts(*(getattr(row, name) for name in Counts._fields)),
            )
            for row in rows
        ]

    def begin(self, source: str, name: str) -> Progress:
        """The export's progress; a new one starts at its beginning."""
        for progress in self.progress():
            if progress.source == source:
                return progress
        progress = Progress(source, name[:255])
        with self._mailbox.writing() as connection:
            connection.execute(insert(adoption_sources).values(_row(progress)))
            if self._seed is None:
                self._seed = secrets.token_bytes(32)
                values = {"id": 1, "seed": self._seed, **_place(START)}
                connection.execute(insert(adoption_state).values(values))
        return progress

    def taken(self, keys: Iterable[bytes]) -> dict[bytes, Taken]:
        """Those of ``keys`` that were taken before."""
        found: dict[bytes, Taken] = {}
        with self._mailbox.reading() as connection:
            for some in _portions(keys):
                query = select(adoption_records).where(adoption_records.c.key.in_(some))
                for row in connection.execute(query):
                    key = bytes(row.key)
                    found[key] = Taken(
                        key, bytes(row.fingerprint), row.source, row.line, row.position
                    )
        return found

    def threads_here(self, host_ids: Iterable[str]) -> set[str]:
        """Those of the host's ids whose thread the ledger has, whoever brought it."""
        ids = {thread_of(host_id): host_id for host_id in host_ids}
        found: set[str] = set()
        with self._mailbox.reading() as connection:
            for some in _portions(ids):
                query = select(thread_events.c.thread).where(thread_events.c.thread.in_(some))
                found.update(ids[thread] for thread in connection.scalars(query))
        return found

    def keep_details(self, bodies: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Keep titles and metadata as (hash, salt, body); those that are here stay."""
        rows = [{"hash": digest, "salt": salt, "body": body} for digest, salt, body in bodies]
        with self._mailbox.writing() as connection:
            if connection.dialect.name == "sqlite":
                connection.execute(sqlite.insert(details).on_conflict_do_nothing(), rows)
            else:
                connection.execute(postgresql.insert(details).on_conflict_do_nothing(), rows)

    def bodies(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Titles and metadata that are here, by their salted hash."""
        with self._mailbox.reading() as connection:
            return bodies(connection, digests)

    def commit(
        self,
        progress: Progress,
        taken: Sequence[Taken],
        refusals: Sequence[Refusal],
        checkpoint: Checkpoint,
    ) -> None:
        """Keep what a batch did; its events are in the ledger up to ``checkpoint``."""
        with self._mailbox.writing() as connection:
            if taken:
                connection.execute(insert(adoption_records), [one._asdict() for one in taken])
            if refusals:
                connection.execute(insert(adoption_refusals), [one._asdict() for one in refusals])
            connection.execute(
                update(adoption_sources)
                .where(adoption_sources.c.source == progress.source)
                .values(_row(progress))
            )
            connection.execute(update(adoption_state).values(_place(checkpoint)))
        self.checkpoint = checkpoint

    def refused(self, source: str, places: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of (line, part) that were refused."""
        found: set[tuple[int, int]] = set()
        column = adoption_refusals.c
        with self._mailbox.reading() as connection:
            for some in _portions(sorted({line for line, _ in places})):
                rows = connection.execute(
                    select(column.line, column.part).where(
                        column.source == source, column.line.in_(some)
                    )
                )
                found.update((row.line, row.part) for row in rows)
        return found

    def refusals(self) -> Iterator[Refusal]:
        """Every refusal, by export and line; a page of them in memory."""
        column = adoption_refusals.c
        order = (column.source, column.line, column.part)
        last: tuple[Any, ...] | None = None
        while True:
            query = select(adoption_refusals).order_by(*order).limit(_MANY)
            if last is not None:
                source, line, part = last
                query = query.where(
                    (column.source > source)
                    | ((column.source == source) & (column.line > line))
                    | ((column.source == source) & (column.line == line) & (column.part > part))
                )
            with self._mailbox.reading() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                yield Refusal(row.source, row.line, row.part, row.reason)
            if len(rows) < _MANY:
                return
            last = (rows[-1].source, rows[-1].line, rows[-1].part)

    def refusal_count(self) -> int:
        with self._mailbox.reading() as connection:
            count = connection.scalar(select(func.count()).select_from(adoption_refusals))
        return int(count or 0)


def _portions(values: Iterable[T]) -> Iterator[list[T]]:
    left = iter(values)
    while some := list(islice(left, _MANY)):
        yield some


class Rehearsal(AdoptionStore):
    """Tables of its own for deciding what would happen, on top of what has happened."""

    def __init__(self, mailbox: Mailbox, earlier: AdoptionStore | None) -> None:
        super().__init__(mailbox)
        self._earlier = earlier

    def taken(self, keys: Iterable[bytes]) -> dict[bytes, Taken]:
        keys = set(keys)
        before = {} if self._earlier is None else self._earlier.taken(keys)
        return before | super().taken(keys)

    def threads_here(self, host_ids: Iterable[str]) -> set[str]:
        return set() if self._earlier is None else self._earlier.threads_here(host_ids)

    def keep_details(self, bodies: Sequence[tuple[str, bytes, bytes]]) -> None:
        """A rehearsal keeps no text."""


def _place(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "position": checkpoint.head.position,
        "event_hash": checkpoint.head.event_hash,
        "file_offset": checkpoint.offset,
    }


def _row(progress: Progress) -> dict[str, Any]:
    return {
        "source": progress.source,
        "name": progress.name,
        "phase": str(progress.phase),
        "done": progress.done,
        **progress.counts._asdict(),
    }

"""The stage that a ledger is at and what the shadow stage saw, in their tables. Blocking."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from plugins.secure_chat.core import stage as rules
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.stage import STAGE, Stage
from plugins.secure_chat.legacy.tables import shadow_mismatches, stage_moves

log: Final = logging.getLogger(__name__)


def add_events(connection: Connection, records: Sequence[Record]) -> None:
    """Take STAGE records in; one that does not follow the stage before it changes nothing."""
    current: Stage | None = None
    for record in records:
        if record.event_type != STAGE:
            continue
        current = current or stage(connection)
        try:
            after = rules.from_record(record, current).after
        except MalformedEvent as error:
            log.error("ledger.malformed_event position=%d reason=%s", record.position, error)
            continue
        connection.execute(insert(stage_moves).values(position=record.position, stage=str(after)))
        current = after


def drop_after(connection: Connection, position: int) -> None:
    """Forget what stands after ``position``: the ledger does not have it."""
    connection.execute(delete(stage_moves).where(stage_moves.c.position > position))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Reads of a route that the host and the chat answered differently, in one way."""

    route: str
    difference: str
    count: int
    first_at: str
    last_at: str


def record_mismatch(connection: Connection, route: str, difference: str, moment: str) -> None:
    """Count one; there are as many rows as ways to differ."""
    table = shadow_mismatches
    counted = connection.execute(
        update(table)
        .where(table.c.route == route, table.c.difference == difference)
        .values(count=table.c["count"] + 1, last_at=moment)
    )
    if not counted.rowcount:
        connection.execute(
            insert(table).values(
                route=route, difference=difference, count=1, first_at=moment, last_at=moment
            )
        )


def mismatches(connection: Connection) -> list[Mismatch]:
    """All that was counted, by route."""
    table = shadow_mismatches
    rows = connection.execute(select(table).order_by(table.c.route, table.c.difference))
    return [
        Mismatch(row.route, row.difference, row._mapping["count"], row.first_at, row.last_at)
        for row in rows
    ]


def stage(connection: Connection) -> Stage | None:
    """Where the last move led; None when there was none."""
    found = connection.scalar(
        select(stage_moves.c.stage).order_by(stage_moves.c.position.desc()).limit(1)
    )
    return None if found is None else Stage(found)

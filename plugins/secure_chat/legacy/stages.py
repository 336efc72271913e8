"""The stage that a ledger is at, in the mailbox's tables. Blocking."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from plugins.secure_chat.core import stage as rules
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.stage import STAGE, Stage
from plugins.secure_chat.legacy.tables import stage_moves

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


def stage(connection: Connection) -> Stage | None:
    """Where the last move led; None when there was none."""
    found = connection.scalar(
        select(stage_moves.c.stage).order_by(stage_moves.c.position.desc()).limit(1)
    )
    return None if found is None else Stage(found)

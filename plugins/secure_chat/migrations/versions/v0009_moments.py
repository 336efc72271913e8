"""Times of imports as the contracts answer them, which earlier code kept as their sources did.

Only rows change; the ledger keeps the source's own time.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from plugins.secure_chat.core.provenance import moment_of

revision: Final = "0009"
down_revision: Final = "0008"

_PORTION: Final = 5_000


def upgrade() -> None:
    connection = op.get_bind()
    for name in ("thread_events", "thread_messages"):
        table = sa.table(name, sa.column("position"), sa.column("timestamp"))
        position, timestamp = table.c.position, table.c.timestamp
        change = table.update().where(position == sa.bindparam("at"))
        change = change.values(timestamp=sa.bindparam("moment"))
        reached = 0
        while rows := connection.execute(
            sa.select(position, timestamp)
            .where(position > reached)
            .order_by(position)
            .limit(_PORTION)
        ).all():
            reached = rows[-1].position
            found = ((row.position, row.timestamp, moment_of(row.timestamp)) for row in rows)
            changes = [{"at": at, "moment": moment} for at, was, moment in found if moment != was]
            if changes:
                connection.execute(change, changes)

"""Messages of the legacy contract by their ids, which can be those of requests' keys."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    posted = sa.text("message_type IS NOT NULL AND origin IS NULL")
    op.create_index(
        "ix_thread_messages_posted",
        "thread_messages",
        ["id"],
        sqlite_where=posted,
        postgresql_where=posted,
    )

"""Group threads, what was written to them, and the stages of the legacy route."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    position = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    time = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
    op.create_table(
        "thread_events",
        sa.Column("position", position, primary_key=True, autoincrement=False),
        sa.Column("thread", sa.String(39), nullable=False),
        sa.Column("wallet", sa.String(128), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("timestamp", sa.String(64), nullable=False),
        sa.Column("legacy", sa.String(256), nullable=True),
    )
    op.create_index("ix_thread_events_thread", "thread_events", ["thread", "position"])
    op.create_index("ix_thread_events_legacy", "thread_events", ["legacy"])
    op.create_table(
        "thread_members",
        sa.Column("thread", sa.String(39), primary_key=True),
        sa.Column("wallet", sa.String(128), primary_key=True),
        sa.Column("joined", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("left", sa.BigInteger, nullable=True),
    )
    op.create_index("ix_thread_members_wallet", "thread_members", ["wallet"])
    op.create_table(
        "thread_messages",
        sa.Column("thread", sa.String(39), primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sender", sa.String(128), nullable=False),
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("content", sa.String(128), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=True),
        sa.Column("timestamp", time, nullable=False),
        sa.Column("message_type", sa.String(128), nullable=True),
        sa.Column("content_type", sa.String(128), nullable=True),
        sa.Column("details", sa.String(64), nullable=True),
        sa.Column("origin", sa.String(16), nullable=True),
    )
    op.create_index("ix_thread_messages_position", "thread_messages", ["position"])
    op.create_table(
        "details",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "stage_moves",
        sa.Column("position", position, primary_key=True, autoincrement=False),
        sa.Column("stage", sa.String(16), nullable=False),
    )
    op.create_table(
        "shadow_mismatches",
        sa.Column("route", sa.String(64), primary_key=True),
        sa.Column("difference", sa.String(64), primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.String(40), nullable=False),
        sa.Column("last_at", sa.String(40), nullable=False),
    )

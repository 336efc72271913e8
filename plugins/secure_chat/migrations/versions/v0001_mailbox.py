"""The mailbox: streams, messages, receipts and how far the ledger is indexed.

What a start before Alembic made, wholly or in part, is taken over as it is.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    timestamp = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
    op.create_table(
        "streams",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("sender", sa.String(128), nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("recipient", sa.String(128), nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("sender", "recipient", "device", name="uq_streams"),
        if_not_exists=True,
    )
    op.create_index("ix_streams_recipient", "streams", ["recipient"], if_not_exists=True)
    op.create_table(
        "messages",
        sa.Column("position", row_id, primary_key=True, autoincrement=False),
        sa.Column("stream_id", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(44), nullable=False),
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("event_hash", sa.String(128), nullable=False),
        sa.Column("timestamp", timestamp, nullable=False),
        sa.Column("frame", sa.LargeBinary, nullable=True),
        sa.UniqueConstraint("stream_id", "seq", name="uq_messages_stream_seq"),
        if_not_exists=True,
    )
    op.create_table(
        "receipts",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("wallet", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(9), primary_key=True),
        if_not_exists=True,
    )
    op.create_table(
        "ledger_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("event_hash", sa.String(128), nullable=False),
        sa.Column("file_offset", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )

"""The directory: the index of IDENTITY events, published statements, and prekeys.

The code before knows none of these tables, and needs none: it logs no IDENTITY event.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "identity_events",
        sa.Column("position", row_id, primary_key=True, autoincrement=False),
        sa.Column("event_hash", sa.String(128), nullable=False),
        sa.Column("wallet", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("statement", sa.String(64), nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
    )
    op.create_index("ix_identity_events_wallet", "identity_events", ["wallet", "position"])
    op.create_table(
        "statements",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "prekey_publications",
        sa.Column("certificate", sa.String(64), primary_key=True),
        sa.Column("publication", sa.String(64), nullable=False),
        sa.Column("signed", sa.LargeBinary, nullable=False),
        sa.Column("last_resort", sa.LargeBinary, nullable=False),
        sa.Column("highest_one_time", sa.BigInteger, nullable=False),
        sa.Column("highest_one_time_kem", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "prekeys",
        sa.Column("certificate", sa.String(64), primary_key=True),
        sa.Column("kind", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("prekey", sa.LargeBinary, nullable=False),
    )

"""How far each export of a host's earlier chat is taken over, what was taken and what refused."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

_COUNTS: Final = (
    "records",
    "threads",
    "messages",
    "statuses",
    "duplicates",
    "mirrored",
    "plaintext",
    "refused",
)


def upgrade() -> None:
    op.create_table(
        "adoption_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("event_hash", sa.String(128), nullable=False),
        sa.Column("file_offset", sa.BigInteger, nullable=False),
        sa.Column("seed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "adoption_sources",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
    )
    op.create_table(
        "adoption_records",
        sa.Column("key", sa.LargeBinary(16), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(16), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("line", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "adoption_refusals",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("line", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.String(200), nullable=False),
    )

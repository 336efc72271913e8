"""The mailbox's tables. All but ``frame`` and ``receipts`` can be rebuilt from the ledger, and is.

``frame`` is the CHAT_MESSAGE as delivered (JSON, ciphertext inside); NULL once it has expired, or
when the row was rebuilt from the ledger, which never had it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata: Final = MetaData()
_ROW_ID: Final = BigInteger().with_variant(Integer, "sqlite")
# Compared with ``<``: by its bytes everywhere.
_TIMESTAMP: Final = String(40).with_variant(String(40, collation="C"), "postgresql")

streams: Final = Table(
    "streams",
    metadata,
    Column("id", _ROW_ID, primary_key=True),
    Column("sender", String(128), nullable=False),
    Column("device", String(128), nullable=False),
    Column("recipient", String(128), nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    UniqueConstraint("sender", "recipient", "device", name="uq_streams"),
    Index("ix_streams_recipient", "recipient"),
)

messages: Final = Table(
    "messages",
    metadata,
    Column("position", _ROW_ID, primary_key=True, autoincrement=False),
    Column("stream_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(44), nullable=False),
    Column("event_id", String(128), nullable=False),
    Column("event_hash", String(128), nullable=False),
    Column("timestamp", _TIMESTAMP, nullable=False),
    Column("frame", LargeBinary, nullable=True),
    UniqueConstraint("stream_id", "seq", name="uq_messages_stream_seq"),
)

receipts: Final = Table(
    "receipts",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("wallet", String(128), primary_key=True),
    Column("kind", String(9), primary_key=True),
)

identity_events: Final = Table(
    "identity_events",
    metadata,
    Column("position", _ROW_ID, primary_key=True, autoincrement=False),
    Column("event_hash", String(128), nullable=False),
    Column("wallet", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("statement", String(64), nullable=False),
    Column("device", String(128), nullable=False),
    Index("ix_identity_events_wallet", "wallet", "position"),
)

ledger_state: Final = Table(
    "ledger_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_hash", String(128), nullable=False),
    Column("file_offset", BigInteger, nullable=False),
)

# One row. The ledger was durable up to this position when something was stored last: what it must
# have at the next start. Rows of ``messages`` behind it may never have been committed.
ledger_committed: Final = Table(
    "ledger_committed",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)

# One row, in PostgreSQL: the token of whoever claimed the database last (``claim.py``).
database_claim: Final = Table(
    "database_claim",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("token", String(32), nullable=False),
)

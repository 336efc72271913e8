"""The mailbox as the code before Alembic made and used it: its tables and its statements.

Frozen: when the product changes, this does not.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData()
ROW_ID = BigInteger().with_variant(Integer, "sqlite")

Table(
    "streams",
    metadata,
    Column("id", ROW_ID, primary_key=True),
    Column("sender", String(128), nullable=False),
    Column("device", String(128), nullable=False),
    Column("recipient", String(128), nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    UniqueConstraint("sender", "recipient", "device", name="uq_streams"),
    Index("ix_streams_recipient", "recipient"),
)
Table(
    "messages",
    metadata,
    Column("position", ROW_ID, primary_key=True, autoincrement=False),
    Column("stream_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(44), nullable=False),
    Column("event_id", String(128), nullable=False),
    Column("event_hash", String(128), nullable=False),
    # In PostgreSQL only since Alembic, so there is no older schema of it than its first version.
    Column(
        "timestamp",
        String(40).with_variant(String(40, collation="C"), "postgresql"),
        nullable=False,
    ),
    Column("frame", LargeBinary, nullable=True),
    UniqueConstraint("stream_id", "seq", name="uq_messages_stream_seq"),
)
Table(
    "receipts",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("wallet", String(128), primary_key=True),
    Column("kind", String(9), primary_key=True),
)
Table(
    "ledger_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_hash", String(128), nullable=False),
    Column("file_offset", BigInteger, nullable=False),
)

WRITES = (
    "INSERT INTO streams (id, sender, device, recipient, last_seq, last_position) "
    "VALUES (1, 'alice', '0', 'bob', 1, 7)",
    "INSERT INTO messages (position, stream_id, seq, hash, event_id, event_hash, timestamp, frame)"
    " VALUES (7, 1, 1, 'h', 'id', 'eh', '2026-01-01T00:00:00+00:00', NULL)",
    "UPDATE streams SET last_seq=2, last_position=8 WHERE id=1 AND last_position < 8",
    "INSERT INTO receipts (position, wallet, kind) VALUES (7, 'bob', 'read')",
    "DELETE FROM ledger_state",
    "INSERT INTO ledger_state (id, position, event_hash, file_offset) VALUES (1, 7, 'eh', 700)",
)
READS = (
    "SELECT sender, device, recipient, last_seq, last_position FROM streams",
    "SELECT messages.position, frame FROM messages JOIN streams ON streams.id = stream_id "
    "WHERE sender = 'alice' AND seq = 1",
    "SELECT position, wallet, kind FROM receipts",
    "SELECT position, event_hash, file_offset FROM ledger_state",
)
WRITTEN = [
    ("alice", "0", "bob", 2, 8),
    (7, None),
    (7, "bob", "read"),
    (7, "eh", 700),
]


def write(connection: Connection) -> None:
    for statement in WRITES:
        connection.execute(text(statement))


def read(connection: Connection) -> list[Any]:
    return [tuple(row) for statement in READS for row in connection.execute(text(statement))]

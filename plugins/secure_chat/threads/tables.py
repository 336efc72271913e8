"""The tables of threads. All but ``details`` follow from the ledger.

``thread_events`` is the ledger's THREAD events that obey the rules; ``thread_members`` is what
their fold says of each membership; ``thread_messages`` is what was written to each thread, messages
of both contracts, so that a page of it is one range. ``details`` are titles and metadata, by their
salted hash.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text, text

from plugins.secure_chat.mailbox.tables import metadata

_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")
# Compared with ``<``: by its bytes everywhere.
_TIME: Final = String(64).with_variant(String(64, collation="C"), "postgresql")
_POSTED: Final = text("message_type IS NOT NULL AND origin IS NULL")

thread_events: Final = Table(
    "thread_events",
    metadata,
    Column("position", _POSITION, primary_key=True, autoincrement=False),
    Column("thread", String(39), nullable=False),
    Column("wallet", String(128), nullable=False),
    Column("event", Text, nullable=False),  # the metadata, JSON
    Column("event_id", String(128), nullable=False),
    Column("timestamp", String(64), nullable=False),
    Column("legacy", String(256), nullable=True),  # the id that it had before, where it begins
    Index("ix_thread_events_thread", "thread", "position"),
    Index("ix_thread_events_legacy", "legacy"),
)

thread_members: Final = Table(
    "thread_members",
    metadata,
    Column("thread", String(39), primary_key=True),
    Column("wallet", String(128), primary_key=True),
    Column("joined", BigInteger, primary_key=True, autoincrement=False),
    Column("left", BigInteger, nullable=True),
    Index("ix_thread_members_wallet", "wallet"),
)

thread_messages: Final = Table(
    "thread_messages",
    metadata,
    Column("thread", String(39), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("sender", String(128), nullable=False),
    Column("id", String(256), nullable=False),
    Column("content", String(128), nullable=False),  # a hash in hex, or an import's CID
    Column("size", BigInteger, nullable=True),
    Column("timestamp", _TIME, nullable=False),
    # Of LEGACY_MESSAGE alone; NULL says that it is an end-to-end encrypted MESSAGE.
    Column("message_type", String(128), nullable=True),
    Column("content_type", String(128), nullable=True),
    Column("details", String(64), nullable=True),
    Column("origin", String(16), nullable=True),
    Index("ix_thread_messages_position", "position"),
    # What is posted here by the legacy contract; it can have the id of a request's key.
    Index("ix_thread_messages_posted", "id", sqlite_where=_POSTED, postgresql_where=_POSTED),
)

details: Final = Table(
    "details",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

"""How far each export is taken over, what was taken and what was refused.

None of it is needed once the way is done; nothing in it is what a record says.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table

from plugins.secure_chat.core.migration_event import Counts
from plugins.secure_chat.mailbox.tables import metadata

adoption_state: Final = Table(
    "adoption_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The ledger's position up to which these tables know all that came from exports.
    Column("position", BigInteger, nullable=False),
    Column("event_hash", String(128), nullable=False),
    Column("file_offset", BigInteger, nullable=False),
    Column("seed", LargeBinary, nullable=False),  # of the salts of titles
)

adoption_sources: Final = Table(
    "adoption_sources",
    metadata,
    Column("source", String(64), primary_key=True),  # SHA-256 of the export
    Column("name", String(255), nullable=False),  # the file's, for reports
    Column("phase", String(8), nullable=False),
    Column("done", BigInteger, nullable=False),  # records of the export, in this phase
    *(Column(name, BigInteger, nullable=False) for name in Counts._fields),
)

adoption_records: Final = Table(
    "adoption_records",
    metadata,
    Column("key", LargeBinary(16), primary_key=True),  # of kind and host's id
    Column("fingerprint", LargeBinary(16), nullable=False),  # of what it says
    Column("source", String(64), nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

adoption_refusals: Final = Table(
    "adoption_refusals",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("reason", String(200), nullable=False),
)

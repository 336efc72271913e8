"""The directory's tables: what was published, byte for byte, and the prekeys that are left.

None of it can be rebuilt from the ledger, which has hashes only; which of it is in force can
(``identity_events``, of the mailbox). Ids are the hex digits that IDENTITY events have.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table

from plugins.secure_chat.mailbox.tables import metadata

statements: Final = Table(
    "statements",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

prekey_publications: Final = Table(
    "prekey_publications",
    metadata,
    Column("certificate", String(64), primary_key=True),
    Column("publication", String(64), nullable=False),
    Column("signed", LargeBinary, nullable=False),
    Column("last_resort", LargeBinary, nullable=False),
    # The highest number of each kind that ever came: no number is taken twice.
    Column("highest_one_time", BigInteger, nullable=False),
    Column("highest_one_time_kem", BigInteger, nullable=False),
)

prekeys: Final = Table(
    "prekeys",
    metadata,
    Column("certificate", String(64), primary_key=True),
    Column("kind", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("prekey", LargeBinary, nullable=False),
)

# One row: how many times prekeys were handed out. A witness beside the ledger counts along, so a
# database that was restored from a backup shows.
prekey_claims: Final = Table(
    "prekey_claims",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)

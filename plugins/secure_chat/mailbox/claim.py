"""The right to write a PostgreSQL database, which servers with ledgers of their own could share.

An SQLite file is in the data directory, beside the ledger, and the ledger's lock is enough.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from plugins.secure_chat.errors import DatabaseUnusable

_LOCK: Final = 0x61746C6174  # PostgreSQL's advisory lock, beside that of upgrades


class Claim:
    """Held until it is released, the process ends, or the database is restarted."""

    def __init__(self, engine: Engine) -> None:
        """Raises DatabaseUnusable when another holds it."""
        self._connection = None
        if engine.dialect.name != "postgresql":
            return
        try:
            # A session's own lock; in a transaction the connection would keep old rows alive.
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK})
        except DBAPIError as error:
            raise DatabaseUnusable("the database cannot be reached") from error
        connection.detach()  # not the pool's any more: closing it ends the session
        if not taken:
            connection.close()
            raise DatabaseUnusable(
                "another server or `secure-chat migrate` uses this database: stop it, or give each "
                "ledger its own database"
            )
        self._connection = connection

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

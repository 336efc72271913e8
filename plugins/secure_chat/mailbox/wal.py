"""SQLite's write-ahead log beside a mailbox: kept short by those who write.

SQLite begins its log anew by itself at a moment when nobody reads. While readers overlap there is
no such moment, and the log grows as long as they do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final

LONG_BYTES: Final = 64 << 20
READERS_MS: Final = 250  # that a commit waits for those who read a long log

KEEP_LONG_BYTES: Final = f"PRAGMA journal_size_limit={LONG_BYTES}"
"""For every writer's connection: a log that begins anew keeps no more of its file than this."""


class WriteAheadLog:
    """The log of one database, as one of its writers sees it."""

    def __init__(self, database: str) -> None:
        """``database``: the path of its file."""
        self._path = f"{database}-wal"
        self._enough = LONG_BYTES

    @property
    def is_long(self) -> bool:
        """Whether it is to begin anew. To be asked between two transactions."""
        try:
            return os.stat(self._path).st_size > self._enough
        except OSError:
            return False  # the next transaction says what is wrong

    def begin_anew(self, connection: sqlite3.Connection) -> None:
        """Wait a moment for those who read it; the next transaction then begins it anew.

        Who begins to read meanwhile is neither held up nor waited for. Who goes on reading is
        waited for again when it has become longer by as much. Does not fail: what was committed is
        durable without it.
        """
        with contextlib.suppress(sqlite3.Error):
            (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
            connection.execute(f"PRAGMA busy_timeout={READERS_MS}")
            try:
                (is_read, _, _) = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout={timeout}")
            self._enough = self._enough + LONG_BYTES if is_read else LONG_BYTES

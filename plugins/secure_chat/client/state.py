"""What a client must not forget: sequence numbers, the outbox, what it has received, its key.

One SQLite file for one wallet and device, every change synced to disk before it is relied upon, and
locked against a second process. Ciphertext waits here until it is acknowledged; plaintext never
does. The contact key is in it in the clear, so the file is its owner's alone (0600).
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from plugins.secure_chat.client.contact import ContactKey
from plugins.secure_chat.client.errors import StateUnusable

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS owner (
  one INTEGER PRIMARY KEY CHECK (one = 1), wallet TEXT NOT NULL, device TEXT NOT NULL,
  contact_key BLOB NOT NULL, position INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sent (recipient TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
  recipient TEXT NOT NULL, seq INTEGER NOT NULL, hash TEXT NOT NULL, frame TEXT NOT NULL,
  PRIMARY KEY (recipient, seq)) STRICT;
CREATE TABLE IF NOT EXISTS received (
  position INTEGER PRIMARY KEY, sender TEXT NOT NULL, device TEXT NOT NULL, seq INTEGER)
  STRICT;
CREATE INDEX IF NOT EXISTS received_stream ON received (sender, device, seq);
"""


@dataclass(frozen=True, slots=True)
class Unacknowledged:
    """A frame that goes out, unchanged, until the server has acknowledged it."""

    recipient: str
    seq: int
    hash: str
    frame: str


class ClientState:
    """The durable state of one wallet's device."""

    def __init__(self, path: Path, wallet: str, device: str = "0") -> None:
        """Open or create it. Raises StateUnusable."""
        self.wallet: Final = wallet
        self.device: Final = device
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StateUnusable(f"the state file cannot be opened: {error}") from None
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = EXTRA")
            self._db.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            self._db.execute(
                "INSERT OR IGNORE INTO owner VALUES (1, ?, ?, ?, 0)",
                (wallet, device, ContactKey.generate().secret()),
            )
            row = self._db.execute("SELECT * FROM owner").fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise StateUnusable(f"the state file cannot be used: {error}") from None
        if (row[1], row[2]) != (wallet, device):
            self._db.close()
            raise StateUnusable("the state file is another wallet's or another device's")
        self.contact_key: Final = ContactKey.from_bytes(row[3])
        self.position: int = row[4]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def next_seq(self, recipient: str) -> int:
        """The number that the next message to ``recipient`` has to have."""
        query = "SELECT last_seq FROM sent WHERE recipient = ?"
        row = self._db.execute(query, (recipient,)).fetchone()
        return int(row[0]) + 1 if row else 1

    def keep(self, message: Unacknowledged) -> None:
        """Use up its number and put it into the outbox. On return both are on disk."""
        with self._db:
            self._db.execute("BEGIN")
            self._raise_seq(message.recipient, message.seq)
            self._db.execute(
                "INSERT INTO outbox VALUES (?, ?, ?, ?)",
                (message.recipient, message.seq, message.hash, message.frame),
            )

    def outbox(self) -> list[Unacknowledged]:
        """All that has no ACK, in the order in which it must go out."""
        rows = self._db.execute("SELECT * FROM outbox ORDER BY recipient, seq")
        return [Unacknowledged(*row) for row in rows]

    def drop(self, recipient: str, seq: int) -> None:
        """It is acknowledged, or refused for good."""
        self._db.execute("DELETE FROM outbox WHERE recipient = ? AND seq = ?", (recipient, seq))

    def continue_above(self, recipient: str, seq: int) -> None:
        """Never again use a number up to ``seq``: the server has it."""
        self._raise_seq(recipient, seq)

    def _raise_seq(self, recipient: str, seq: int) -> None:
        self._db.execute(
            "INSERT INTO sent VALUES (?, ?) ON CONFLICT (recipient) "
            "DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            (recipient, seq),
        )

    def has_received(self, position: int) -> bool:
        query = "SELECT 1 FROM received WHERE position = ?"
        return self._db.execute(query, (position,)).fetchone() is not None

    def has_opened(self, sender: str, device: str, seq: int) -> bool:
        """Whether a message with this number was received before, wherever it stood."""
        query = "SELECT 1 FROM received WHERE sender = ? AND device = ? AND seq = ?"
        return self._db.execute(query, (sender, device, seq)).fetchone() is not None

    def received(
        self, position: int, sender: str, device: str, seq: int | None, *, resume_at: int
    ) -> None:
        """A message has been handled; a RESUME may from now on begin at ``resume_at``.

        ``seq`` is None for a refused one: what it claims of itself is not believed.
        """
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT OR IGNORE INTO received VALUES (?, ?, ?, ?)",
                (position, sender, device, seq),
            )
            self.resume_at(resume_at)

    def resume_at(self, position: int) -> None:
        """Everything up to ``position`` has been handled. Never goes back."""
        if position > self.position:
            self._db.execute("UPDATE owner SET position = ?", (position,))
            self.position = position

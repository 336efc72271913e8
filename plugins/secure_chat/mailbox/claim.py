"""The right to write a database, which servers with ledgers of their own could share.

Beside an SQLite file it is a lock on a file, as a ledger's. In PostgreSQL it is an advisory lock of
the session that writes: what ends the session ends the lock, and nothing is written without it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from plugins.secure_chat.errors import (
    DatabaseTaken,
    DatabaseUnusable,
    LedgerLocked,
    LedgerUnavailable,
    LedgerUnusable,
)
from plugins.secure_chat.ledger.file import WriterLock
from plugins.secure_chat.mailbox.engine import BESIDE, file_of
from plugins.secure_chat.mailbox.tables import database_claim

T = TypeVar("T")

LEFT_SECONDS: Final = 2.0  # that a server which was killed may still write
_MOVED: Final = (
    "a file of its database was moved, removed or replaced by another; put it back as it was and "
    "restart"
)
_LOCK: Final = 0x61746C6174  # PostgreSQL's advisory lock, beside that of upgrades
_IN_USE: Final = (
    "another server or `secure-chat migrate` uses this database: stop it, or give each ledger its "
    "own database"
)


class Claim(Protocol):
    """Held until it is released or the process ends."""

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction under the claim. Raises LedgerUnavailable or DatabaseTaken."""

    def check(self) -> None:
        """Raises DatabaseTaken once what was claimed is not there, or another has written to it.

        Quick: on the event loop too.
        """

    def hold(self) -> None:
        """Take the claim again where it was lost. Raises LedgerUnavailable or DatabaseTaken."""

    def release(self) -> None: ...

    @property
    def descriptors(self) -> Sequence[int]:
        """What a process inherits that is to hold it too."""


def claim(engine: Engine) -> Claim:
    """Raises DatabaseUnusable when another process has it."""
    return FileClaim(engine) if engine.dialect.name == "sqlite" else SessionClaim(engine)


class FileClaim:
    """An OS lock on ``<database>.lock``. It is never lost, but the files that it is for may be.

    What is written to files that are no longer at their paths ends with the process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        database = Path(file_of(engine)).resolve()  # whatever leads there
        try:
            lock = _awaited(lambda: _locked(database))
        except LedgerUnusable as error:
            raise DatabaseUnusable("the lock beside the database cannot be made") from error
        if lock is None:
            raise DatabaseUnusable(_IN_USE)
        self._lock = lock
        with engine.connect():  # SQLite has its files beside the database while one is open
            self._files = {
                path: there
                for path in (f"{database}{end}" for end in ("", *BESIDE))
                if (there := _identity(path)) is not None
            }

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection
        self.check()

    def check(self) -> None:
        for path, known in self._files.items():
            if _identity(path) != known:
                raise DatabaseTaken(_MOVED)

    def hold(self) -> None:
        self.check()

    def release(self) -> None:
        self._lock.release()

    @property
    def descriptors(self) -> Sequence[int]:
        return (self._lock.descriptor,)


def _identity(path: str) -> tuple[int, int] | None:
    """Of the file that a path leads to."""
    try:
        there = os.stat(path)
    except OSError:
        return None
    return there.st_dev, there.st_ino


def _locked(database: Path) -> WriterLock | None:
    try:
        return WriterLock(database)
    except LedgerLocked:
        return None


def _awaited(take: Callable[[], T]) -> T:
    """What ``take`` gives, asked again while it is nothing and a killed server may still write.

    Beside an SQLite file that is the process of ``rows.py``, in PostgreSQL its session: either ends
    in a moment.
    """
    until = time.monotonic() + LEFT_SECONDS
    while not (taken := take()) and time.monotonic() <= until:
        time.sleep(LEFT_SECONDS / 100)
    return taken


class SessionClaim:
    """An advisory lock of one session, in which everything is written. One thread at a time.

    Whoever takes it leaves a token. A session that was lost (the database was restarted) is
    replaced by another one only while the token is still there: nobody has written in between.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token = os.urandom(16).hex()
        self._taken: DatabaseTaken | None = None
        try:
            session = self._session = self._connected()
            if not _awaited(lambda: _lock(session)):
                session.close()
                raise DatabaseUnusable(_IN_USE)
            with session.begin():
                session.execute(delete(database_claim))
                session.execute(insert(database_claim).values(id=1, token=self._token))
        except DBAPIError as error:
            raise DatabaseUnusable("the database cannot be reached") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        self.hold()
        with self._session.begin():
            yield self._session

    def check(self) -> None:
        if self._taken is not None:
            raise self._taken

    def hold(self) -> None:
        self.check()
        # An invalidated connection would come back as another session, without the lock.
        if not (self._session.closed or self._session.invalidated):
            with contextlib.suppress(DBAPIError), self._session.begin():
                self._session.execute(text("SELECT 1"))
                return
        self._take_again()

    def release(self) -> None:
        if not (self._session.closed or self._session.invalidated):
            # The database ends a session some time after it is told to: the next may not wait.
            with contextlib.suppress(SQLAlchemyError), self._session.begin():
                self._session.execute(text("SELECT pg_advisory_unlock_all()"))
        self._session.close()

    @property
    def descriptors(self) -> Sequence[int]:
        return ()  # a session is one process's

    def _take_again(self) -> None:
        self._session.close()
        try:
            self._session = session = self._connected()
            locked = _lock(session)
            with session.begin():
                token = session.scalar(select(database_claim.c.token))
        except DBAPIError as error:
            raise LedgerUnavailable("the database cannot be reached") from error
        if token == self._token and locked:
            return
        session.close()
        if token == self._token:
            raise LedgerUnavailable("the database has not let go of this server's last session")
        self._taken = DatabaseTaken(
            "another server has written to its database since that was restarted: stop it, give "
            "each ledger its own database, and restart"
        )
        raise self._taken

    def _connected(self) -> Connection:
        connection = self._engine.connect()
        connection.detach()  # not the pool's any more: closing it ends the session
        return connection


def _lock(session: Connection) -> bool:
    with session.begin():
        return bool(session.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}))

"""Database engines for the mailbox: SQLite in a file, or PostgreSQL; both durable at commit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from plugins.secure_chat.errors import ConfigurationError
from plugins.secure_chat.mailbox.wal import KEEP_LONG_BYTES

FILE_NAME: Final = "mailbox.sqlite"
BESIDE: Final = ("-wal", "-shm")
"""What follows the name of an SQLite file in those that are beside it while it is in use."""
PREPARE_SQLITE: Final = (
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    KEEP_LONG_BYTES,
)
"""What every connection to an SQLite file begins with, in whichever process."""


def database(url: str, data_dir: Path) -> Engine:
    """The database of ``url``, or the SQLite file in ``data_dir`` when it is empty."""
    return engine_for(url) if url else engine_at(data_dir / FILE_NAME)


def database_to_read(url: str, data_dir: Path) -> Engine | None:
    """As ``database``, for what only reads: an SQLite file is not made, nor asked to be writable.

    None when there is no such file.
    """
    path = _file_named(_parsed(url)) if url else data_dir / FILE_NAME
    if path is None:
        return engine_for(url)
    return engine_to_read(path) if path.exists() else None


def engine_at(path: Path) -> Engine:
    """An SQLite file: WAL, and every commit synced before it returns. Created when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o640)  # as the ledger; SQLite's other files take it over
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        hide_parameters=True,  # they are ciphertext and wallets; errors must not show them
        connect_args={"check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def engine_to_read(path: Path) -> Engine:
    """An SQLite file that is there, for reading, also on a file system that cannot be written.

    There SQLite cannot make the files that it keeps beside a database in use. Are there none, the
    database is whole in its one file and nobody changes it; else what is in them is read with it.
    """
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return engine_at(path)
    alone = not any(path.with_name(path.name + end).exists() for end in BESIDE)
    how = {"immutable": "1"} if alone else {"mode": "ro"}
    name = f"file:{quote(os.fsencode(path.absolute()))}"
    url = URL.create("sqlite", database=name, query={"uri": "true", **how})
    return create_engine(url, hide_parameters=True)


def engine_for(url: str) -> Engine:
    """The database of a URL, ``postgresql://…`` or ``sqlite:///PATH``. Raises ConfigurationError.

    The text of the error holds no part of the URL: there may be a password in it.
    """
    parsed = _parsed(url)
    path = _file_named(parsed)
    if path is not None:
        return engine_at(path)
    try:
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            # What one request reads is of one moment, as in an SQLite transaction.
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,  # a restarted database costs a reconnect, not a request
        )
    except ModuleNotFoundError:
        raise ConfigurationError(
            "PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'"
        ) from None


def _parsed(url: str) -> URL:
    """The URL of a database that the mailbox can be in. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("SECURE_CHAT_DATABASE_URL is not a database URL") from None
    backend = parsed.get_backend_name()
    # An option of SQLite's driver would be passed over; a path with a ? would be another path.
    is_file = backend == "sqlite" and parsed.database and not parsed.query
    if not (is_file or backend == "postgresql"):
        raise ConfigurationError(
            "SECURE_CHAT_DATABASE_URL must be postgresql://… or sqlite:///PATH"
        )
    return parsed


def _file_named(url: URL) -> Path | None:
    """The file of an SQLite URL; None for PostgreSQL."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def file_of(engine: Engine) -> str:
    """The path of an SQLite database that ``engine_at`` made."""
    assert engine.url.database is not None  # noqa: S101 (engine_at gave it)
    return engine.url.database


def _prepare_sqlite(connection: Any, _: Any) -> None:
    for statement in PREPARE_SQLITE:
        connection.execute(statement)

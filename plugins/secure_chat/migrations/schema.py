"""Bringing a database to the schema that this code has, or refusing it. Blocking.

All missing versions are one transaction: a database is of the old schema or of the new one, never
in between, wherever the process dies. Databases from before Alembic have no version and are taken
as version 0. One that is a single version ahead is used as it is, for each version works with the
code before it; so a deployment can be taken back.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, inspect, text
from sqlalchemy.exc import DBAPIError

from plugins.secure_chat.errors import DatabaseUnusable

log: Final = logging.getLogger(__name__)

HERE: Final = Path(__file__).parent
# Every module that defines tables on the one MetaData.
TABLE_MODULES: Final = (
    "plugins.secure_chat.mailbox.tables",
    "plugins.secure_chat.directory.tables",
    "plugins.secure_chat.threads.tables",
    "plugins.secure_chat.legacy.tables",
    "plugins.secure_chat.adoption.tables",
)
_FIRST: Final = {
    "streams": ("id", "sender", "device", "recipient", "last_seq", "last_position"),
    "messages": (
        "position",
        "stream_id",
        "seq",
        "hash",
        "event_id",
        "event_hash",
        "timestamp",
        "frame",
    ),
    "receipts": ("position", "wallet", "kind"),
    "ledger_state": ("id", "position", "event_hash", "file_offset"),
}
_UPGRADE_LOCK: Final = 0x61746C6173  # PostgreSQL's advisory lock: "atlas"


def tables() -> MetaData:
    """The schema as the code has it: every table of every module."""
    for module in TABLE_MODULES:
        importlib.import_module(module)
    metadata: MetaData = importlib.import_module(TABLE_MODULES[0]).metadata
    return metadata


def newest() -> int:
    """The schema version of this code."""
    return max(int(path.stem[1:5]) for path in (HERE / "versions").glob("v*.py"))


def version(connection: Connection) -> int:
    """The schema version of the database; 0 when it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return 0
    stored = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return 0 if stored is None else _number(str(stored))


def upgrade(engine: Engine) -> None:
    """Bring the database to this code's schema. Raises DatabaseUnusable, and then changes nothing.

    Safe when several processes start at once: one upgrades, the others wait for it.
    """
    try:
        with engine.connect() as connection:
            if _is_usable(version(connection)):
                return
        with engine.begin() as connection:
            _lock(connection)
            found = version(connection)
            if _is_usable(found):
                return
            if found == 0:
                _must_be_ours(connection)
            command.upgrade(_config(connection), "head")
            log.info("schema.upgraded from=%04d to=%04d", found, newest())
    except DBAPIError as error:
        raise DatabaseUnusable(f"the database cannot be used: {first_line(error)}") from error


def refuse_unknown(engine: Engine) -> None:
    """Raise DatabaseUnusable for a schema that this code cannot read; change nothing."""
    try:
        with engine.connect() as connection:
            _is_usable(version(connection))
    except DBAPIError as error:
        raise DatabaseUnusable(f"the database cannot be used: {first_line(error)}") from error


def drift(engine: Engine) -> list[Any]:
    """How the database differs from the schema that the code has; empty when it does not."""
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, tables()))


def _is_usable(found: int) -> bool:
    """Whether nothing has to be done. Raises DatabaseUnusable when nothing can."""
    known = newest()
    if found > known + 1:
        raise DatabaseUnusable(
            f"the database has schema {found:04d} and this code knows {known:04d}: start the code "
            "that wrote it, or the one just before"
        )
    if found == known + 1:
        log.warning("schema.one_ahead database=%04d code=%04d", found, known)
    return found >= known


def _number(stored: str) -> int:
    if not (stored.isascii() and stored.isdigit()):
        raise DatabaseUnusable("the database is under another program's Alembic; give it its own")
    return int(stored)


def _must_be_ours(connection: Connection) -> None:
    """A database without a version is empty, or one that a start before Alembic has made."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    for table, columns in _FIRST.items():
        if table in present and {c["name"] for c in inspector.get_columns(table)} != set(columns):
            raise DatabaseUnusable(
                f"the database has a table {table!r} that is not the chat's; give it its own"
            )


def _lock(connection: Connection) -> None:
    """Keep other upgrades out until the transaction ends, and do not wait for ever."""
    if connection.dialect.name == "sqlite":
        # Without it Python's driver would let each CREATE TABLE be a transaction of its own.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Waiting for the lock must not fix what is seen after it.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def first_line(error: DBAPIError) -> str:
    """The driver's own sentence; it names no row."""
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]

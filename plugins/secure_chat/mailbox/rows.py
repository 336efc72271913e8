"""Writing rows of messages in a process of its own: the loop of that process.

A request is a four-byte length and a MessagePack text. The first is a Setup; every other one is a
transaction: for each of the statements, in their order, the rows that it is executed with. Its
answer is one byte, once it is durable. Whatever fails ends the process before it answers, and so
does the end of its input: who started it writes again what has no answer. Run as ``python -m
plugins.secure_chat.mailbox.rows DATABASE``; who starts it is ``writer.py``.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from plugins.secure_chat.child_process import HEADER, framed, ignore_signals
from plugins.secure_chat.mailbox.wal import WriteAheadLog

STORED: Final = b"\x01"
# What is written between two checkpoints of SQLite's log: one to four thousand pages of it.
CHECKPOINT_BYTES: Final = 4 << 20
TRANSACTION_BYTES: Final = 16 << 10  # and more, whatever is in it: it writes whole pages
READ_BYTES: Final = 1 << 20


class Setup(msgspec.Struct, array_like=True, frozen=True):
    """What is executed first, and the statements of every transaction."""

    prepare: tuple[str, ...]
    statements: tuple[str, ...]


_SETUP: Final = msgspec.msgpack.Decoder(Setup)
_TRANSACTION: Final[msgspec.msgpack.Decoder[list[list[Any]]]] = msgspec.msgpack.Decoder(
    list[list[Any]]
)


def request(body: Setup | list[list[tuple[Any, ...]]]) -> bytes:
    return framed(msgspec.msgpack.encode(body))


def write_rows(
    database: sqlite3.Connection, log: WriteAheadLog, requests: int, answers: int
) -> None:
    """Write until the input ends.

    ``database`` is in autocommit, ``log`` is its; the others are descriptors.

    What has come by the time is one transaction, however many requests that is.
    Raises sqlite3.Error.
    """
    setup: Setup | None = None
    written = 0
    for bodies in _arriving(requests):
        if setup is None:
            setup = _SETUP.decode(bodies.pop(0))
            for statement in setup.prepare:
                database.execute(statement)
            # The log is copied into the database after an answer, not before it.
            database.execute("PRAGMA wal_autocheckpoint=0")
            if not bodies:
                continue
        database.execute("BEGIN IMMEDIATE")
        for body in bodies:
            for statement, rows in zip(setup.statements, _TRANSACTION.decode(body), strict=True):
                database.executemany(statement, rows)
            written += len(body)
        database.execute("COMMIT")
        # crash point: durable, and no answer
        os.write(answers, STORED * len(bodies))
        written += TRANSACTION_BYTES
        if written >= CHECKPOINT_BYTES:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            written = 0
        if log.is_long:
            log.begin_anew(database)


def _arriving(requests: int) -> Iterator[list[bytes]]:
    """The bodies of the requests that have come whole, each time that there are some."""
    pending = bytearray()
    while data := os.read(requests, READ_BYTES):
        pending += data
        bodies, at = [], 0
        while len(pending) - at >= HEADER.size:
            end = at + HEADER.size + HEADER.unpack_from(pending, at)[0]
            if end > len(pending):
                break
            bodies.append(bytes(pending[at + HEADER.size : end]))
            at = end
        del pending[:at]
        if bodies:
            yield bodies


def main() -> None:
    ignore_signals()
    gc.disable()  # nothing here makes cycles
    try:
        database = sqlite3.connect(sys.argv[1], isolation_level=None)
        log = WriteAheadLog(sys.argv[1])
        write_rows(database, log, sys.stdin.fileno(), sys.stdout.fileno())
    except (sqlite3.Error, OSError):
        os._exit(1)  # without a text: it might quote a row
    os._exit(0)


if __name__ == "__main__":
    main()

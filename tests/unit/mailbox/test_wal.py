"""mailbox/wal: SQLite's log stays short behind readers, whoever writes; nobody is held up long."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plugins.secure_chat.mailbox import wal
from plugins.secure_chat.mailbox.rows import STORED
from plugins.secure_chat.mailbox.store import Mailbox, Stored
from plugins.secure_chat.mailbox.wal import LONG_BYTES, WriteAheadLog
from tests.unit.mailbox.test_store import AB
from tests.unit.mailbox.test_writer import answered, batch, requests_of

FRAME = os.urandom(1 << 20)
COUNT = 8
BATCHES = [
    [msgspec.structs.replace(one, frame=FRAME) for one in batch(first, AB, count=COUNT)]
    for first in range(3, 200, COUNT)
]
BATCH_BYTES = 9 << 20  # that a batch takes of the log, and more
LONGER = LONG_BYTES // (COUNT << 20) + 1  # batches that make a log longer by its bound


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mailbox.sqlite"


@pytest.fixture
def mailbox(path: Path) -> Iterator[Mailbox]:
    made = Mailbox.at(path)
    made.store(batch(1, AB, count=2))
    yield made
    made.close()


def log_bytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


def begin_to_read(path: Path) -> sqlite3.Connection:
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone()
    return reader


Write = Callable[[Mailbox, Path, Sequence[Sequence[Stored]]], list[int]]


def by_thread(mailbox: Mailbox, path: Path, batches: Sequence[Sequence[Stored]]) -> list[int]:
    """Write ``batches``; the sizes of the log after each."""
    sizes = []
    for one in batches:
        mailbox.store(one, committed=0)
        sizes.append(log_bytes(path))
    return sizes


def by_process(mailbox: Mailbox, path: Path, batches: Sequence[Sequence[Stored]]) -> list[int]:
    """The same by the loop of the process, which reads when it has done all that it read before."""
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        yield requests_of(mailbox, batches[0])
        for one in batches[1:]:
            sizes.append(log_bytes(path))
            yield mailbox.rows(one, committed=0) or b""
        sizes.append(log_bytes(path))

    assert answered(path, pieces()) == STORED * len(batches)
    return sizes


@pytest.mark.parametrize("write", [by_thread, by_process])
def test_a_long_log_waits_for_its_readers_and_begins_anew(
    mailbox: Mailbox, path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = begin_to_read(path)
    original = WriteAheadLog.begin_anew

    def while_a_reader_ends(self: WriteAheadLog, connection: sqlite3.Connection) -> None:
        ending = threading.Thread(target=reader.close)
        ending.start()
        original(self, connection)
        ending.join()

    monkeypatch.setattr(wal, "READERS_MS", 60_000)
    monkeypatch.setattr(WriteAheadLog, "begin_anew", while_a_reader_ends)
    sizes = write(mailbox, path, BATCHES)
    assert LONG_BYTES < max(sizes) < LONG_BYTES + BATCH_BYTES
    assert sizes[-1] == LONG_BYTES  # its file gave back what it had more


@pytest.mark.parametrize("write", [by_thread, by_process])
def test_a_reader_that_goes_on_does_not_hold_up_who_writes(
    mailbox: Mailbox, path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "READERS_MS", 0)
    with contextlib.closing(begin_to_read(path)) as reader:
        sizes = write(mailbox, path, BATCHES)
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (2,)
    assert sizes[-1] > 2 * LONG_BYTES
    assert mailbox.missed("bob", BATCHES[-1][-2].receipt.position)


def test_a_log_is_long_from_its_bound_on(mailbox: Mailbox, path: Path) -> None:
    log = WriteAheadLog(str(path))
    with contextlib.closing(begin_to_read(path)), pytest.MonkeyPatch.context() as patched:
        patched.setattr(WriteAheadLog, "begin_anew", lambda *_: None)
        for one in BATCHES[:LONGER]:
            assert log.is_long == (log_bytes(path) > LONG_BYTES)
            mailbox.store(one)
    assert log.is_long


class Patient(sqlite3.Connection):
    """Tells each statement and how long it may wait for others, ms."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.executed: list[tuple[str, int]] = []

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self.executed.append((sql, super().execute("PRAGMA busy_timeout").fetchone()[0]))
        return super().execute(sql, *values)


def test_who_goes_on_reading_is_waited_for_again_when_it_is_longer_by_as_much(
    mailbox: Mailbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "READERS_MS", 1)
    log = WriteAheadLog(str(path))
    long = []
    with (
        contextlib.closing(begin_to_read(path)),
        contextlib.closing(sqlite3.connect(path, factory=Patient)) as writer,
    ):
        writer.execute("PRAGMA busy_timeout=5000")
        for one in BATCHES[: 2 * LONGER]:
            mailbox.store(one)
            long.append(log.is_long)
            if log.is_long:
                log.begin_anew(writer)
                assert not log.is_long
        # Nobody else who is in the way is waited for so shortly.
        assert writer.execute("PRAGMA busy_timeout").fetchone() == (5000,)
    assert long.count(True) == 2
    assert ("PRAGMA wal_checkpoint(RESTART)", 1) in writer.executed


def test_a_log_that_cannot_begin_anew_fails_nobody(mailbox: Mailbox, path: Path) -> None:
    log = WriteAheadLog(str(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA busy_timeout=5000")
        writer.execute("BEGIN IMMEDIATE")  # in a transaction SQLite refuses it
        log.begin_anew(writer)
        assert writer.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_a_log_that_is_not_there_is_not_long(tmp_path: Path) -> None:
    assert not WriteAheadLog(str(tmp_path / "none.sqlite")).is_long


def test_a_log_that_began_anew_is_long_from_the_same_bound_on(
    mailbox: Mailbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "READERS_MS", 1)
    log = WriteAheadLog(str(path))
    batches = iter(BATCHES)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        for _ in range(2):
            with contextlib.closing(begin_to_read(path)):
                while not log.is_long:
                    mailbox.store(next(batches))
            assert log_bytes(path) < LONG_BYTES + BATCH_BYTES
            log.begin_anew(writer)
            mailbox.store(next(batches))
            assert log_bytes(path) == LONG_BYTES

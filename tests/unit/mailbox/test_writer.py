"""mailbox/writer: the same rows by the thread and by the process, in order, whatever ends when."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from plugins.secure_chat.core.sequence import Stream
from plugins.secure_chat.core.thread import thread_id
from plugins.secure_chat.errors import DatabaseTaken, DatabaseUnusable, LedgerUnavailable
from plugins.secure_chat.ledger.journal import START
from plugins.secure_chat.mailbox import claim, store, writer
from plugins.secure_chat.mailbox.rows import STORED, Setup, request, write_rows
from plugins.secure_chat.mailbox.store import Mailbox, Stored
from plugins.secure_chat.mailbox.wal import WriteAheadLog
from plugins.secure_chat.mailbox.writer import MailboxWriter
from tests.unit.mailbox.test_store import AB, BA, stored

PATIENCE = 60.0
ROWS = 40  # of a batch: more than a process is started for


def taken_unexpectedly(why: str) -> None:
    raise AssertionError(why)


def batch(first: int, *streams: Stream, count: int = ROWS) -> list[Stored]:
    """Messages at positions from ``first`` on, the streams in turns."""
    return [
        stored(position, streams[position % len(streams)], position)
        for position in range(first, first + count)
    ]


def rows(path: Path) -> dict[str, list[Any]]:
    """All that commits of messages write."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()  # noqa: S608
            for table in ("messages", "streams", "ledger_committed")
        }


def by_thread(path: Path, *batches: Sequence[Stored]) -> dict[str, list[Any]]:
    """What the thread alone makes of ``batches``, each vouching for the ones before."""
    mailbox = Mailbox.at(path)
    for one in batches:
        mailbox.store(one, committed=one[0].receipt.position - 1)
    mailbox.close()
    return rows(path)


@pytest.fixture(autouse=True)
def a_slow_machine_is_no_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ANSWER_SECONDS", PATIENCE)


class Opened:
    """A mailbox whose process runs and knows the streams AB and BA: positions 1 and 2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mailbox = Mailbox.at(path)
        self.mailbox.claim()
        self.writer = MailboxWriter(self.mailbox, taken=taken_unexpectedly)

    async def start(self) -> None:
        await self.store(batch(1, AB, BA, count=2))
        await self.writer.start()
        assert self.pid != os.getpid()

    @property
    def pid(self) -> int:
        assert self.writer.process is not None
        return self.writer.process

    def store(self, one: Sequence[Stored]) -> asyncio.Future[None]:
        return self.writer.store(one, committed=one[0].receipt.position - 1)

    async def close(self) -> None:
        await self.writer.close()
        self.mailbox.close()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path / "mailbox.sqlite")
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first positions of the batches that this process writes."""
    written: list[int] = []
    original = Mailbox.store

    def watched(self: Mailbox, one: Sequence[Stored], *, committed: int = 0) -> None:
        written.append(one[0].receipt.position)
        original(self, one, committed=committed)

    monkeypatch.setattr(Mailbox, "store", watched)
    return written


async def patiently(awaitable: Awaitable[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        await awaitable


BATCHES = (batch(1, AB, BA, count=2), batch(3, AB), batch(43, AB, BA), batch(83, BA, count=1))


async def test_the_process_writes_the_rows_that_the_thread_would(
    opened: Opened, threads: list[int], tmp_path: Path
) -> None:
    await patiently(opened.store(BATCHES[1]))
    begun = [opened.store(one) for one in BATCHES[2:]]  # the one waits behind the other
    await patiently(asyncio.wait_for(asyncio.gather(*begun), PATIENCE))  # type: ignore[arg-type]
    assert threads == []
    assert rows(opened.path) == by_thread(tmp_path / "other.sqlite", *BATCHES)
    assert opened.mailbox.committed() == 82


def test_it_does_so_in_the_server_s_own_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "mailbox.sqlite"

    async def run() -> None:
        made = Opened(path)
        try:
            await made.start()
            for one in BATCHES[1:3]:
                await patiently(made.store(one))
            pid = made.pid
            os.kill(pid, signal.SIGKILL)
            await patiently(made.store(BATCHES[3]))
        finally:
            await made.close()

    uvloop.run(run())
    assert rows(path) == by_thread(tmp_path / "other.sqlite", *BATCHES)


def test_what_comes_while_the_end_of_the_process_is_not_known_yet_is_written(
    tmp_path: Path,
) -> None:
    """The server's event loop closes the pipe first, and raises where that is written to."""
    path = tmp_path / "mailbox.sqlite"
    batches = [batch(first, AB) for first in range(3, 400, ROWS)]

    async def run() -> int:
        made = Opened(path)
        try:
            await made.start()
            pid = made.pid
            os.kill(pid, signal.SIGKILL)
            # The loop is to know of it afterwards.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
            coming = iter(batches)
            begun = [made.store(next(coming))]
            while made.writer.process is not None:
                begun.append(made.store(next(coming)))
                await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*begun)
            return len(begun)
        finally:
            await made.close()

    count = uvloop.run(run())
    assert rows(path) == by_thread(tmp_path / "other.sqlite", BATCHES[0], *batches[:count])


def test_a_process_that_ends_at_once_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true = shutil.which("true")
    assert true is not None
    monkeypatch.setattr(sys, "executable", true)

    async def have_it_ended() -> None:
        # The loop is to know of it afterwards.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222

    async def start_and_store() -> None:
        opened = Opened(tmp_path / "mailbox.sqlite")
        try:
            await opened.store(BATCHES[0])
            async with asyncio.TaskGroup() as both:
                both.create_task(opened.writer.start())
                both.create_task(have_it_ended())
            for one in BATCHES[1:]:
                await patiently(opened.store(one))
            assert opened.writer.process is None
        finally:
            await opened.close()

    uvloop.run(start_and_store())
    assert [record.getMessage() for record in caplog.records] == [
        "mailbox.without_process error=ended"
    ]
    assert rows(tmp_path / "mailbox.sqlite") == by_thread(tmp_path / "other.sqlite", *BATCHES)


async def test_each_commit_of_the_process_is_synced(opened: Opened) -> None:
    setup = opened.mailbox.row_setup()
    assert setup is not None
    assert b"PRAGMA synchronous=FULL" in setup[1]
    assert b"PRAGMA journal_mode=WAL" in setup[1]


async def test_what_comes_is_written_in_its_order_and_never_by_both_at_once(
    opened: Opened, threads: list[int], tmp_path: Path
) -> None:
    """While the process stands still nothing else is written; what follows goes to the thread."""
    order: list[str] = []
    os.kill(opened.pid, signal.SIGSTOP)
    at_process = opened.store(BATCHES[1])
    changes = [opened.writer.change(lambda name=name: order.append(name)) for name in "ab"]  # type: ignore[misc]
    behind = opened.store(BATCHES[2])
    last = opened.writer.change(lambda: order.append("c"))
    await asyncio.sleep(0)
    assert not any(one.done() for one in (at_process, *changes, behind, last))
    assert (order, threads) == ([], [])
    os.kill(opened.pid, signal.SIGCONT)
    await patiently(last)
    assert all(one.done() for one in (at_process, *changes, behind))
    assert (order, threads) == (["a", "b", "c"], [43])
    # With nothing before it, the next goes to the process again.
    await patiently(opened.store(BATCHES[3]))
    assert threads == [43]
    assert rows(opened.path) == by_thread(tmp_path / "other.sqlite", *BATCHES)


@pytest.mark.parametrize("stopped", [True, False], ids=["before it writes", "at any moment"])
async def test_what_a_killed_process_did_not_answer_for_is_written_by_the_thread(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, stopped: bool
) -> None:
    pid = opened.pid
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    begun = [opened.store(one) for one in BATCHES[1:]]
    change = opened.writer.change(lambda: opened.mailbox.set_checkpoint(START))
    if not stopped:
        await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    await patiently(change)
    assert all(one.done() and one.exception() is None for one in begun)
    assert opened.writer.process is None
    assert "mailbox.without_process error=ended" in caplog.text
    assert rows(opened.path) == by_thread(tmp_path / "other.sqlite", *BATCHES)


async def test_one_answer_may_be_for_many(opened: Opened, threads: list[int]) -> None:
    await patiently(opened.store(BATCHES[1]))
    os.kill(opened.pid, signal.SIGSTOP)
    begun = [opened.store(one) for one in BATCHES[2:]]
    os.kill(opened.pid, signal.SIGCONT)
    for one in begun:
        await patiently(one)
    assert threads == []


async def test_who_stops_waiting_takes_nothing_back(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(opened.pid, signal.SIGSTOP)
    begun = [opened.store(one) for one in BATCHES[1:]]
    changed = opened.writer.change(lambda: None)
    for left in (*begun[:2], changed):
        left.cancel()
    os.kill(opened.pid, signal.SIGCONT)
    await patiently(begun[2])
    await patiently(opened.writer.change(lambda: None))
    assert not caplog.records
    assert rows(opened.path) == by_thread(tmp_path / "other.sqlite", *BATCHES)


async def test_another_process_goes_on_where_one_was_killed(
    opened: Opened, threads: list[int], tmp_path: Path
) -> None:
    os.kill(opened.pid, signal.SIGSTOP)
    unanswered = opened.store(BATCHES[1])
    os.kill(opened.pid, signal.SIGKILL)
    await patiently(unanswered)
    await opened.writer.start()
    await patiently(opened.store(BATCHES[2]))
    assert threads == [3]
    assert rows(opened.path) == by_thread(tmp_path / "other.sqlite", *BATCHES[:3])


async def test_a_process_that_ends_before_it_is_known_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: list[int]
) -> None:
    made = Opened(tmp_path / "mailbox.sqlite")
    await made.store(BATCHES[0])
    loop = asyncio.get_running_loop()
    original = loop.subprocess_exec

    async def until_it_has_ended(*values: Any, **options: Any) -> Any:
        begun = await original(*values, **options)
        os.kill(begun[0].get_pid(), signal.SIGKILL)
        await begun[1]._exited
        return begun

    monkeypatch.setattr(loop, "subprocess_exec", until_it_has_ended)
    await made.writer.start()
    assert made.writer.process is None
    await patiently(made.store(BATCHES[1]))
    await made.close()
    assert threads == [1, 3]


async def test_a_loop_that_refuses_to_start_a_process_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError  # uvloop's, when loops of two threads start one at the same time

    made = Opened(tmp_path / "mailbox.sqlite")
    await made.store(BATCHES[0])
    monkeypatch.setattr(asyncio.get_running_loop(), "subprocess_exec", refused)
    await made.writer.start()
    assert made.writer.process is None
    assert "mailbox.without_process error=RuntimeError" in caplog.text
    await made.close()


async def test_a_process_that_hangs_is_ended(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, threads: list[int]
) -> None:
    monkeypatch.setattr(writer, "ANSWER_SECONDS", 0.01)
    os.kill(opened.pid, signal.SIGSTOP)
    await patiently(opened.store(BATCHES[1]))
    assert threads == [3]


async def test_what_the_process_cannot_write_is_said_by_the_thread(opened: Opened) -> None:
    with contextlib.closing(sqlite3.connect(opened.path)) as database, database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON messages "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    begun = [opened.store(one) for one in BATCHES[1:3]]
    for refused in begun:
        with pytest.raises(LedgerUnavailable, match="could not be written"):
            await patiently(refused)
    with contextlib.closing(sqlite3.connect(opened.path)) as database, database:
        database.execute("DROP TRIGGER full")
    assert len(rows(opened.path)["messages"]) == 2
    for one in BATCHES[1:3]:
        await patiently(opened.store(one))
    assert len(rows(opened.path)["messages"]) == 2 + 2 * ROWS


async def test_the_thread_writes_what_is_more_than_rows_of_known_streams(
    opened: Opened, threads: list[int]
) -> None:
    new = Stream("alice", "0", "carol")
    group = Stream("alice", "0", thread_id(bytes(16)))
    digest = base64.b64encode(bytes(32)).decode()
    await patiently(opened.store(batch(3, AB, new)))
    await patiently(opened.store(batch(3, AB, new)))  # again: rows that stand there are replaced
    assert threads == [3, 3]
    await patiently(opened.store(batch(43, AB, new)))  # now it is known
    assert threads == [3, 3]
    for first in (83, 123):
        to_group = [msgspec.structs.replace(one, hash=digest) for one in batch(first, AB, group)]
        await patiently(opened.store(to_group))
    assert threads == [3, 3, 83, 123]


async def test_rows_of_many_bytes_stay_here(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ROWS_BYTES", 100)
    large = [Stored(AB, 3, "hash", stored(3, AB, 3).receipt, b"frame", size=101)]
    fitting = [Stored(AB, 3, "hash", stored(3, AB, 3).receipt, b"frame", size=100)]
    assert opened.mailbox.rows(large, committed=0) is None
    assert opened.mailbox.rows(fitting, committed=0) is not None


async def test_the_process_is_started_for_many_messages_only(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "mailbox.sqlite")
    try:
        await opened.store(batch(1, AB, count=writer.MANY - 1))
        assert opened.writer.process is None
        begun = opened.store(batch(100, AB, count=writer.MANY))
        (starting,) = (t for t in asyncio.all_tasks() if t.get_name() == "mailbox-process")
        await asyncio.gather(begun, starting)
        first = opened.pid
        await patiently(opened.store(batch(200, AB, count=writer.MANY)))
        assert opened.pid == first
        # After it has failed it is not tried again at once.
        os.kill(first, signal.SIGKILL)
        await patiently(opened.store(batch(300, AB)))
        await patiently(opened.store(batch(400, AB)))
        await asyncio.sleep(0)
        assert opened.writer.process is None
    finally:
        await opened.close()


async def test_without_a_process_the_thread_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(tmp_path / "mailbox.sqlite")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    await opened.writer.start()
    await patiently(opened.store(batch(1, AB)))
    assert opened.writer.process is None
    assert "mailbox.without_process error=FileNotFoundError" in caplog.text
    assert len(rows(opened.path)["messages"]) == ROWS
    await opened.close()


async def test_closing_writes_what_was_begun_and_leaves_no_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(tmp_path / "mailbox.sqlite")
    await opened.start()
    pid = opened.pid
    with caplog.at_level(logging.WARNING):
        begun = opened.store(BATCHES[1])
        await opened.close()
    assert begun.done()
    assert len(rows(opened.path)["messages"]) == 2 + ROWS
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not caplog.records


@pytest.mark.parametrize("turns", range(8))
async def test_closing_while_the_process_is_started_leaves_none(tmp_path: Path, turns: int) -> None:
    opened = Opened(tmp_path / "mailbox.sqlite")
    begun = opened.store(batch(1, AB))
    for _ in range(turns):
        await asyncio.sleep(0)
    await patiently(begun)
    await patiently(asyncio.ensure_future(opened.close()))
    other = Mailbox.at(tmp_path / "mailbox.sqlite")
    other.claim()  # nobody else holds it
    other.close()
    assert len(rows(opened.path)["messages"]) == ROWS


async def test_closing_ends_a_process_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ANSWER_SECONDS", 0.01)
    opened = Opened(tmp_path / "mailbox.sqlite")
    await opened.start()
    pid = opened.pid
    os.kill(pid, signal.SIGSTOP)
    await patiently(asyncio.ensure_future(opened.close()))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_service_manager_s_signals_do_not_end_the_process(
    opened: Opened, threads: list[int]
) -> None:
    await patiently(opened.store(BATCHES[1]))  # it has set up its signals
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(opened.pid, number)
    await patiently(opened.store(BATCHES[2]))
    assert threads == []


async def test_a_database_that_another_has_taken_is_told_of(tmp_path: Path) -> None:
    told: list[str] = []
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    own = MailboxWriter(mailbox, taken=told.append)

    def change() -> None:
        raise DatabaseTaken("another")

    with pytest.raises(DatabaseTaken):
        await own.change(change)
    assert told == ["another"]
    await own.close()
    mailbox.close()


# -- the process's own loop -------------------------------------------------------------------


def requests_of(mailbox: Mailbox, *batches: Sequence[Stored]) -> bytes:
    setup = mailbox.row_setup()
    assert setup is not None
    made = [mailbox.rows(one, committed=0) for one in batches]
    assert all(made)
    return b"".join([setup[1], *(one or b"" for one in made)])


@pytest.fixture
def known(tmp_path: Path) -> Mailbox:
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    mailbox.store(BATCHES[0])
    return mailbox


def answered(path: Path, pieces: Iterable[bytes]) -> bytes:
    """What the loop answers when its input comes in ``pieces``, each read for itself."""
    answers_read, answers = os.pipe()
    reads = chain(pieces, (b"",))
    original = os.read

    def read(descriptor: int, size: int) -> bytes:
        return next(reads) if descriptor == -1 else original(descriptor, size)

    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(os, "read", read)
        write_rows(database, WriteAheadLog(str(path)), -1, answers)
    os.close(answers)
    with open(answers_read, "rb") as given:
        return given.read()


Cut = Callable[[bytes], list[bytes]]


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: [data],
        lambda data: [data[:3], data[3:50], data[50:5000], data[5000:]],
        lambda data: [data[at : at + 1] for at in range(len(data))],
    ],
    ids=["at once", "in pieces", "byte by byte"],
)
def test_requests_are_taken_however_they_arrive(known: Mailbox, tmp_path: Path, cut: Cut) -> None:
    data = requests_of(known, *BATCHES[1:])
    known.close()
    assert answered(tmp_path / "mailbox.sqlite", cut(data)) == STORED * 3
    found = rows(tmp_path / "mailbox.sqlite")["messages"]
    assert found == by_thread(tmp_path / "other.sqlite", *BATCHES)["messages"]


def test_a_request_that_is_not_whole_is_not_written(known: Mailbox, tmp_path: Path) -> None:
    data = requests_of(known, BATCHES[1], BATCHES[2])
    known.close()
    assert answered(tmp_path / "mailbox.sqlite", [data[:-1]]) == STORED
    assert len(rows(tmp_path / "mailbox.sqlite")["messages"]) == 2 + ROWS


def test_rows_that_are_durable_and_not_answered_for_do_not_stand_twice(
    known: Mailbox, tmp_path: Path
) -> None:
    for one in BATCHES[1:]:
        answered(tmp_path / "mailbox.sqlite", [requests_of(known, one)])
        known.store(one, committed=one[0].receipt.position - 1)  # as if there was no answer
    known.close()
    assert rows(tmp_path / "mailbox.sqlite") == by_thread(tmp_path / "other.sqlite", *BATCHES)


def test_the_process_is_set_up_as_it_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sqlite")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        reads, writes = os.pipe()
        os.write(writes, request(Setup(("PRAGMA synchronous=EXTRA",), ())))
        os.close(writes)
        write_rows(database, WriteAheadLog(path), reads, -1)
        os.close(reads)
        assert database.execute("PRAGMA synchronous").fetchone() == (3,)
        # It copies the log after it has answered; a commit is not to wait for that.
        assert database.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_no_input_is_no_error(tmp_path: Path) -> None:
    assert answered(tmp_path / "mailbox.sqlite", []) == b""


def test_the_log_is_copied_into_the_database_now_and_then(known: Mailbox, tmp_path: Path) -> None:
    path = tmp_path / "mailbox.sqlite"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("plugins.secure_chat.mailbox.rows.CHECKPOINT_BYTES", 1)
        before = path.stat().st_size
        answered(path, [requests_of(known, *BATCHES[1:3])])
    assert path.stat().st_size > before
    known.close()


def test_the_log_stays_short_however_little_a_commit_writes(known: Mailbox, tmp_path: Path) -> None:
    ones = [batch(position, AB, count=1) for position in range(3, 603)]
    pieces = [requests_of(known), *(known.rows(one, committed=0) or b"" for one in ones)]
    assert answered(tmp_path / "mailbox.sqlite", pieces) == STORED * len(ones)
    assert (tmp_path / "mailbox.sqlite-wal").stat().st_size < 5 << 20
    known.close()


def test_a_process_says_nothing_of_what_it_was_given(tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "plugins.secure_chat.mailbox.rows", str(tmp_path / "x.sqlite")),
        input=request([[("secret",)]]),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert b"secret" not in done.stdout + done.stderr


# -- the claim --------------------------------------------------------------------------------


async def test_nobody_claims_a_database_before_a_killed_server_s_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LEFT_SECONDS", 0.05)
    one = Opened(tmp_path / "mailbox.sqlite")
    await one.start()
    os.kill(one.pid, signal.SIGSTOP)
    begun = one.store(BATCHES[1])
    one.mailbox.close()  # as a kill would: the server's descriptors are gone
    other = Mailbox.at(tmp_path / "mailbox.sqlite")
    with pytest.raises(DatabaseUnusable):
        other.claim()
    monkeypatch.setattr(claim, "LEFT_SECONDS", PATIENCE)
    claiming = asyncio.create_task(asyncio.to_thread(other.claim))
    os.kill(one.pid, signal.SIGCONT)
    await one.writer.close()
    await patiently(claiming)
    assert begun.done()
    other.close()

"""F11: the mailbox is gone, behind, or holds what the ledger does not. The ledger decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.core.sequence import Stream
from plugins.secure_chat.mailbox.store import Mailbox, Stored
from tests.faults.server import LEDGER, MAILBOX, Server, message, receive, resume, send

pytestmark = pytest.mark.fault

BEFORE = 10  # messages that the older copy of the mailbox has
ALL = 20
TEXTS = [message("bob", seq) for seq in range(1, ALL + 1)]
OLDER = "older.sqlite"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory after ALL messages, with a copy of the mailbox at BEFORE beside."""
    data = tmp_path_factory.mktemp("history") / "data"

    async def make() -> None:
        with Server(data) as server:
            async with server.socket("alice") as connection:
                for text in TEXTS[:BEFORE]:
                    assert (await send(connection, text))["type"] == "ACK"
                with (
                    contextlib.closing(sqlite3.connect(data / MAILBOX)) as live,
                    contextlib.closing(sqlite3.connect(data / OLDER)) as copy,
                ):
                    live.backup(copy)
                for text in TEXTS[BEFORE:]:
                    assert (await send(connection, text))["type"] == "ACK"
            assert server.terminate() == 0

    asyncio.run(make())
    return data


@pytest.fixture
def data(history: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    shutil.copytree(history, copy)
    return copy


def drop_mailbox(data: Path) -> None:
    for path in data.glob(MAILBOX + "*"):
        path.unlink()


def seqs(frames: list[dict[str, Any]]) -> list[int]:
    return [frame["seq"] for frame in frames]


async def test_f11_a_deleted_mailbox_is_rebuilt_and_heals_as_messages_are_sent_again(
    data: Path,
) -> None:
    drop_mailbox(data)
    with Server(data) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
            assert (replayed, resumed["complete"], resumed["position"]) == ([], False, ALL)
            async with server.rest("bob") as rest:
                answer = await rest.get("/threads/alice/messages")
                threads = await rest.get("/threads")
            assert answer.json() == {"messages": [], "missing": ALL}
            assert [t["position"] for t in threads.json()] == [ALL]
            # The sequence state is the ledger's.
            assert (await send(alice, message("bob", 5)))["code"] == "sequence_conflict"
            # A message sent again keeps its receipt, and its ciphertext is here again.
            healed = await send(alice, TEXTS[4])
            assert (healed["type"], healed["duplicate"], healed["position"]) == ("ACK", True, 5)
            live = await receive(bob)
            assert live["ciphertext"] == json.loads(TEXTS[4])["ciphertext"]
            replayed, resumed = await resume(bob)
            assert (seqs(replayed), resumed["complete"]) == ([5], False)
            for text in TEXTS:
                assert (await send(alice, text))["duplicate"]
            live_again = [await receive(bob) for _ in range(ALL - 1)]
            assert seqs(live_again) == [seq for seq in range(1, ALL + 1) if seq != 5]
            replayed, resumed = await resume(bob)
            assert (seqs(replayed), resumed["complete"]) == (list(range(1, ALL + 1)), True)
    assert len((data / LEDGER).read_bytes().splitlines()) == ALL


async def test_f11_a_mailbox_behind_the_ledger_gives_what_it_has_and_says_so(data: Path) -> None:
    drop_mailbox(data)
    (data / OLDER).rename(data / MAILBOX)
    with Server(data) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
            assert (seqs(replayed), resumed["complete"]) == (list(range(1, BEFORE + 1)), False)
            # Nothing is missing for who has seen the first messages and misses none of the rest.
            assert (await resume(bob, after=ALL))[1]["complete"]
            again = await send(alice, TEXTS[-1])
            assert (again["duplicate"], again["position"]) == (True, ALL)
            fresh = await send(alice, message("bob", ALL + 1))
            assert (fresh["duplicate"], fresh["position"]) == (False, ALL + 1)


async def test_f11_rows_that_the_ledger_lacks_are_never_shown(data: Path) -> None:
    """An older ledger was accepted; and a crash left rows of a group never logged."""
    lines = (data / LEDGER).read_bytes().splitlines(keepends=True)
    (data / LEDGER).write_bytes(b"".join(lines[:BEFORE]))
    mailbox = Mailbox.at(data / MAILBOX)
    for position in (ALL + 1, ALL + 7):
        receipt = Receipt(position, "never", "never", "2026-01-01T00:00:00+00:00")
        mailbox.store(
            [Stored(Stream("carol", "0", "bob"), position, "never", receipt, b'{"never":1}')]
        )
    mailbox.close()
    with Server(data, accept_ledger_at=str(BEFORE)) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
            assert (seqs(replayed), resumed["complete"]) == (list(range(1, BEFORE + 1)), True)
            assert resumed["position"] == BEFORE
            async with server.rest("bob") as rest:
                threads = (await rest.get("/threads")).json()
            assert [(t["peer"], t["position"]) for t in threads] == [("alice", BEFORE)]
            # Numbers after the ledger's end are free again.
            fresh = await send(alice, message("bob", BEFORE + 1))
            assert (fresh["type"], fresh["position"]) == ("ACK", BEFORE + 1)
            assert not fresh["duplicate"]
            assert (await receive(bob))["hash"] == fresh["hash"]


async def test_f11_rows_of_a_group_that_a_crash_kept_from_the_ledger_are_forgotten(
    data: Path,
) -> None:
    mailbox = Mailbox.at(data / MAILBOX)
    receipt = Receipt(ALL + 1, "never", "never", "2026-01-01T00:00:00+00:00")
    mailbox.store([Stored(Stream("alice", "0", "bob"), ALL + 1, "never", receipt, b"{}")])
    mailbox.close()
    with Server(data) as server:
        async with server.socket("alice") as alice:
            fresh = await send(alice, message("bob", ALL + 1))
    assert (fresh["type"], fresh["position"]) == ("ACK", ALL + 1), fresh


async def test_a_mailbox_that_can_be_neither_read_nor_written_is_told_by_its_name(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            assert (await send(alice, TEXTS[0]))["type"] == "ACK"
            with contextlib.closing(sqlite3.connect(data / MAILBOX, timeout=60)) as database:
                database.execute("ALTER TABLE messages RENAME TO elsewhere")
            for _ in range(2):
                refused = await send(alice, TEXTS[1])
                assert refused["code"] == "ledger_unavailable"
                assert refused["detail"] == "the mailbox could not be written: SQLITE_ERROR"
            assert (await receive(bob))["seq"] == 1
            await bob.send(json.dumps({"type": "RESUME", "after": 0}))
            unread = await receive(bob)
            assert (unread["type"], unread["code"]) == ("ERROR", "ledger_unavailable")
            assert unread["detail"] == "the mailbox could not be read: SQLITE_ERROR"
            with pytest.raises(ConnectionClosed, match="1011"):
                await receive(bob)
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as host:
                ready = await host.get("/health/ready")
                assert ready.status_code == 503
                assert ready.json()["reasons"] == [refused["detail"]]
                with contextlib.closing(sqlite3.connect(data / MAILBOX, timeout=60)) as database:
                    database.execute("ALTER TABLE elsewhere RENAME TO messages")
                # Nobody writes, and it is noticed.
                while (await host.get("/health/ready")).status_code != 200:
                    pass
            assert (await send(alice, TEXTS[1]))["type"] == "ACK"
        assert server.terminate() == 0
    said = server.log()
    assert "Traceback" not in said
    assert said.count("mailbox.not_written") == said.count("mailbox.written_again") == 1

"""The mailbox's files are moved, removed or replaced under a running server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from tests.faults.server import (
    LEDGER,
    MAILBOX,
    PATIENCE,
    Server,
    ledger_messages,
    message,
    resume,
    send,
)

pytestmark = pytest.mark.fault

WHY = "a file of its database was moved, removed or replaced"


def removed(file: Path) -> None:
    file.unlink()


def renamed(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replaced_by_its_copy(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    copy.rename(file)


async def until_a_process_writes_rows(server: Server, connection: ClientConnection) -> int:
    """Send messages in numbers until there is one; the next number."""
    seq = 1
    while not server.row_writers():
        texts = [message("bob", number) for number in range(seq, seq + 64)]
        for text in texts[1:]:
            await connection.send(text)
        assert (await send(connection, texts[0]))["type"] in ("ACK", "ERROR")
        for _ in texts[1:]:
            await connection.recv()
        seq += len(texts)
    return seq


@pytest.mark.parametrize("writer", ["thread", "process"])
@pytest.mark.parametrize(
    ("happens", "end"),
    [(removed, ""), (replaced_by_its_copy, ""), (renamed, "-wal"), (removed, "-shm")],
)
async def test_a_mailbox_file_taken_from_a_running_server_stops_it_without_an_ack(
    tmp_path: Path, happens: Callable[[Path], None], end: str, writer: str
) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        async with server.socket("alice") as alice:
            seq = 1
            if writer == "process":
                seq = await until_a_process_writes_rows(server, alice)
            assert (await send(alice, message("bob", seq)))["type"] == "ACK"
            happens(data / (MAILBOX + end))
            for later in (seq + 1, seq + 2):
                refused = await send(alice, message("bob", later))
                assert (refused["type"], refused["code"]) == ("ERROR", "ledger_unavailable")
                assert WHY in refused["detail"]
        async with httpx.AsyncClient(
            base_url=server.url, timeout=PATIENCE, trust_env=False
        ) as host:
            ready = await host.get("/health/ready")
        assert ready.status_code == 503
        (reason,) = ready.json()["reasons"]
        assert WHY in reason
        assert server.terminate() == 0


async def test_put_back_and_restarted_everything_acknowledged_is_there(tmp_path: Path) -> None:
    data, texts = tmp_path / "data", [message("bob", seq) for seq in (1, 2)]
    with Server(data) as server:
        async with server.socket("alice") as alice:
            assert (await send(alice, texts[0]))["type"] == "ACK"
            renamed(data / MAILBOX)
            assert (await send(alice, texts[1]))["type"] == "ERROR"
        server.kill()
    (data / "elsewhere").rename(data / MAILBOX)
    with Server(data) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            again = await send(alice, texts[1])
            assert (again["type"], again["position"]) == ("ACK", 2)
            replayed, resumed = await resume(bob)
    assert [frame["ciphertext"] for frame in replayed] == [
        json.loads(text)["ciphertext"] for text in texts
    ]
    assert resumed["complete"]
    assert len(ledger_messages(data / LEDGER)) == 2


async def test_it_is_noticed_when_nobody_writes(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        removed(server.data_dir / MAILBOX)
        async with httpx.AsyncClient(
            base_url=server.url, timeout=PATIENCE, trust_env=False
        ) as host:
            while (ready := await host.get("/health/ready")).status_code == 200:
                pass
    assert WHY in ready.text

"""The ledger's file is moved, removed, replaced or changed under a running server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from plugins.secure_chat.audit import audit_ledger
from tests.faults.server import LEDGER, PATIENCE, Server, message, refused_start, resume, send

pytestmark = pytest.mark.fault


def renamed(ledger: Path) -> None:
    ledger.rename(ledger.with_name("elsewhere.jsonl"))


def removed(ledger: Path) -> None:
    ledger.unlink()


def replaced_by_its_copy(ledger: Path) -> None:
    copy = ledger.with_name("copy.jsonl")
    shutil.copyfile(ledger, copy)
    copy.rename(ledger)


def emptied(ledger: Path) -> None:
    ledger.write_bytes(b"")


def written_by_another(ledger: Path) -> None:
    last = ledger.read_bytes().splitlines(keepends=True)[-1]
    with ledger.open("ab") as file:
        file.write(last)


@pytest.mark.parametrize(
    "happens", [renamed, removed, replaced_by_its_copy, emptied, written_by_another]
)
async def test_a_ledger_file_taken_from_a_running_server_stops_it_without_an_ack(
    tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        async with server.socket("alice") as alice:
            first = await send(alice, message("bob", 1))
            assert first["type"] == "ACK"
            happens(data / LEDGER)
            for seq in (2, 3):
                refused = await send(alice, message("bob", seq))
                assert (refused["type"], refused["code"]) == ("ERROR", "ledger_unavailable")
                assert "its file was moved, removed, or changed" in refused["detail"]
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as host:
            ready = await host.get(f"{server.url}/health/ready")
        assert ready.status_code == 503
        assert "its file was moved" in json.dumps(ready.json()["reasons"])


async def test_no_second_server_starts_beside_the_first_not_even_when_the_file_was_moved(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        async with server.socket("alice") as alice:
            await send(alice, message("bob", 1))
        for _ in range(2):
            code, said = refused_start(data)
            assert code == 2
            assert "another process writes this ledger" in said
            if (data / LEDGER).exists():
                renamed(data / LEDGER)
        assert not (data / LEDGER).exists()


async def test_put_back_and_restarted_everything_acknowledged_is_there(tmp_path: Path) -> None:
    data, text = tmp_path / "data", message("bob", 2)
    with Server(data) as server:
        async with server.socket("alice") as alice:
            await send(alice, message("bob", 1))
            renamed(data / LEDGER)
            assert (await send(alice, text))["type"] == "ERROR"
        server.kill()
    (data / "elsewhere.jsonl").rename(data / LEDGER)
    with Server(data) as server:
        async with server.socket("alice") as alice:
            again = await send(alice, text)
        assert (again["type"], again["position"]) == ("ACK", 2)
        async with server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
    assert [frame["seq"] for frame in replayed] == [1, 2]
    assert resumed["complete"]
    assert audit_ledger(data / LEDGER).sound

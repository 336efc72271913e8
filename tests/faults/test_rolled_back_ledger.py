"""A ledger that lacks what was acknowledged is refused, until the operator accepts it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.server import (
    LEDGER,
    PATIENCE,
    Server,
    ledger_messages,
    message,
    refused_start,
    resume,
    send,
)

pytestmark = pytest.mark.fault

SENT = 4
KEPT = 2
TEXTS = [message("bob", seq) for seq in range(1, SENT + 1)]


def cut(data: Path) -> None:
    lines = (data / LEDGER).read_bytes().splitlines(keepends=True)
    (data / LEDGER).write_bytes(b"".join(lines[:KEPT]))


def removed(data: Path) -> None:
    (data / LEDGER).unlink()


async def another(data: Path) -> None:
    """A sound ledger of the same length, with other messages."""
    elsewhere = data.with_name("elsewhere")
    with Server(elsewhere) as server:
        async with server.socket("alice") as alice:
            for seq in range(1, SENT + 1):
                await send(alice, message("bob", seq))
        server.terminate()
    (data / LEDGER).write_bytes((elsewhere / LEDGER).read_bytes())


async def acknowledged(data: Path, end: Callable[[Server], object]) -> None:
    with Server(data) as server:
        async with server.socket("alice") as alice:
            for text in TEXTS:
                assert (await send(alice, text))["type"] == "ACK"
        end(server)


# A server that is killed leaves no checkpoint of these: what it stored is all that tells.
@pytest.mark.parametrize(
    ("end", "change"),
    [
        (Server.terminate, cut),
        (Server.terminate, removed),
        (Server.kill, cut),
        (Server.kill, another),
    ],
)
async def test_a_ledger_without_what_was_acknowledged_refuses_to_start_and_loses_nothing(
    tmp_path: Path, end: Callable[[Server], object], change: Callable[[Path], object]
) -> None:
    data = tmp_path / "data"
    await acknowledged(data, end)
    right = (data / LEDGER).read_bytes()
    if change is another:
        await another(data)
    else:
        change(data)
    found = 0 if change is removed else KEPT if change is cut else SENT
    code, said = refused_start(data)
    assert code == 2
    (line,) = (text for text in said.splitlines() if text.startswith("secure-chat: "))
    assert f"has {found} records" in line
    # Who was killed did not live to note that the last one was durable, too.
    known = SENT - 1 if end is Server.kill else SENT
    assert f"in which {known} were acknowledged" in line
    assert f"SECURE_CHAT_ACCEPT_LEDGER_AT={found}" in line
    assert "Traceback" not in said
    # It stays refused, and another number accepts nothing.
    assert refused_start(data, accept_ledger_at=str(found + 1))[0] == 2
    # With the right file back everything is there.
    (data / LEDGER).write_bytes(right)
    with Server(data) as server:
        async with server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
    assert [json.loads(text)["hash"] for text in TEXTS] == [frame["hash"] for frame in replayed]
    assert resumed["complete"]


@pytest.mark.parametrize("change", [cut, removed])
async def test_an_operator_may_go_on_with_a_ledger_that_lost_some_and_the_log_says_so(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    data = tmp_path / "data"
    await acknowledged(data, Server.terminate)
    change(data)
    found = len(ledger_messages(data / LEDGER)) if (data / LEDGER).exists() else 0
    with Server(data, accept_ledger_at=str(found)) as server:
        assert f"ledger.accepted position={found} acknowledged={SENT}" in server.log()
        async with server.socket("alice") as alice:
            again = await send(alice, TEXTS[-1])
        assert (again["position"], again["duplicate"]) == (found + 1, False)
        async with server.socket("bob") as bob:
            replayed, _ = await resume(bob)
        assert [frame["position"] for frame in replayed] == list(range(1, found + 2))
        server.kill()
    # Once accepted, it is the ledger: the next start asks for nothing.
    with Server(data) as server:
        async with server.socket("bob") as bob:
            assert len((await resume(bob))[0]) == found + 1


async def test_the_log_that_signed_for_more_stays_stopped_until_a_new_one_is_begun(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    await acknowledged(data, Server.terminate)
    cut(data)
    said = f"signed checkpoint of {SENT} records"
    for seq in (SENT, 2 * SENT):  # also when the ledger has come past the place again
        with Server(data, accept_ledger_at=str(KEPT)) as server:
            async with server.socket("alice") as alice:
                for number in range(SENT):
                    answer = await send(alice, message("bob", seq + number))
                    assert answer["type"] == "ACK"
            assert said in json.dumps((await until(server, "/health/ready", 503))["reasons"])
            checkpoint = await until(server, "/v1/chat/ledger/checkpoint", 503)
            assert said in checkpoint["detail"]
            server.terminate()
    (data / "log.key").rename(tmp_path / "old.key")
    (data / "transparency").rename(tmp_path / "old")
    with Server(data) as server:
        assert await until(server, "/health/ready", 200) == {"status": "ready"}
        async with server.rest("alice") as alice_asks:
            (await alice_asks.get("/ledger/inclusion/3")).raise_for_status()


async def until(server: Server, path: str, status: int) -> dict[str, Any]:
    """The answer at ``path`` once it has that status; the log follows the ledger by itself."""
    async with (
        asyncio.timeout(PATIENCE),
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as host,
    ):
        while (answer := await host.get(path)).status_code != status:  # noqa: ASYNC110 -- polled
            await asyncio.sleep(0.05)  # between two looks
    found: dict[str, Any] = answer.json()
    return found


async def test_a_group_that_was_never_committed_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Killed while the ledger syncs: the mailbox may have one group more than the ledger."""
    data = tmp_path / "data"
    await acknowledged(data, Server.kill)
    lines = (data / LEDGER).read_bytes().splitlines(keepends=True)
    (data / LEDGER).write_bytes(b"".join(lines[:-1]))
    with Server(data) as server:
        async with server.socket("bob") as bob:
            assert len((await resume(bob))[0]) == SENT - 1

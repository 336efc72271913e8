"""F8, F9: a consumer that stops reading, and hundreds that come back at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.faults.server import PATIENCE, Server, message, receive, resume, send

pytestmark = pytest.mark.fault

OUTBOX = 1 << 20
MESSAGES, SIZE = 250, 96 << 10  # 32 MB of frames: far more than outbox and socket buffers take
RECONNECTS = 400


@contextlib.asynccontextmanager
async def connections_fall_to(server: Server, count: int) -> AsyncIterator[None]:
    """Run the body, then wait until the server has only ``count`` connections."""
    yield
    async with (
        httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client,
        asyncio.timeout(PATIENCE),
    ):
        while True:
            text = (await client.get(server.url + "/metrics")).text
            (line,) = (
                found
                for found in text.splitlines()
                if "connections" in found and not found.startswith("#")
            )
            if float(line.split()[-1]) <= count:
                return
            await asyncio.sleep(0.02)  # between two looks at a condition


async def to_the_end(connection: ClientConnection) -> None:
    while True:
        await receive(connection)


async def test_f8_a_stalled_consumer_is_closed_4408_and_resumes_with_everything(
    tmp_path: Path,
) -> None:
    with Server(tmp_path / "data", outbox_bytes=str(OUTBOX)) as server:
        async with server.socket("alice") as alice:
            await send(alice, message("bob", 1, size=SIZE))
            before = server.resident_bytes()
            peak = before
            async with server.socket("bob", max_queue=1) as stalled:
                async with connections_fall_to(server, 1):
                    for seq in range(2, MESSAGES + 1):
                        answer = await send(alice, message("bob", seq, size=SIZE))
                        assert answer["type"] == "ACK"  # the others go on
                        peak = max(peak, server.resident_bytes())
                with pytest.raises(ConnectionClosed) as closed:
                    await to_the_end(stalled)
            assert peak - before < 24 << 20
            # Cut off without a close frame where sending took longer than the server lingers.
            assert closed.value.rcvd is None or closed.value.rcvd.code == 4408
        async with server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
        assert [m["seq"] for m in replayed] == list(range(1, MESSAGES + 1))
        assert resumed["complete"]


async def test_f9_hundreds_of_reconnects_at_once_lose_nothing(tmp_path: Path) -> None:
    wallets = [f"wallet{number}" for number in range(RECONNECTS)]
    with Server(tmp_path / "data") as server:
        async with server.socket("alice") as alice:

            async def to_all(seq: int) -> None:
                for wallet in wallets:
                    await alice.send(message(wallet, seq))

            async def acknowledged() -> None:
                for _ in wallets:
                    assert (await receive(alice))["type"] == "ACK"

            for seq in (1, 2):
                await to_all(seq)
                await acknowledged()
            start, all_back = asyncio.Event(), asyncio.Event()
            back: list[str] = []

            async def come_back(wallet: str) -> list[int]:
                """RESUME, then live frames until the third and the fourth message are here."""
                await start.wait()
                async with server.socket(wallet) as connection:
                    replayed, resumed = await resume(connection)
                    assert resumed["complete"]
                    back.append(wallet)
                    if len(back) == RECONNECTS:
                        all_back.set()
                    seen = [m["seq"] for m in replayed]
                    while not {3, 4} <= set(seen):
                        frame = await receive(connection)
                        assert frame["type"] == "CHAT_MESSAGE"
                        seen.append(frame["seq"])
                    return seen

            coming = [asyncio.create_task(come_back(wallet)) for wallet in wallets]
            start.set()
            await asyncio.gather(to_all(3), acknowledged())  # while they connect and resume
            async with asyncio.timeout(PATIENCE):
                await all_back.wait()
            await asyncio.gather(to_all(4), acknowledged())  # only live delivery brings it
            seen = await asyncio.gather(*coming)
    # A live copy may come before the replay that has it too; nothing else may be there.
    for wallet_saw in seen:
        assert sorted(set(wallet_saw)) == [1, 2, 3, 4]
        assert wallet_saw.count(4) == 1

"""An open loop sends what is due, whatever is answered, and counts from when it was due."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from plugins.secure_chat.bench.half_load import half_load_costs
from plugins.secure_chat.bench.load import WARM_UP, Pair, Plan, Seen, run
from plugins.secure_chat.bench.workload import receiver

MESSAGES = 10
PER_SECOND = 50.0
SPREAD = (MESSAGES - 1) / PER_SECOND  # seconds from the first message to the last


class StandIn:
    """A server that answers at once, or, when it stalls, nothing before all messages are there."""

    def __init__(self, *, stalls: bool) -> None:
        self.stalls = stalls
        self.come = asyncio.Semaphore(0)

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.send('{"type":"READY"}')
        assert connection.request is not None
        if connection.request.headers["Authorization"] == "Bearer sender":
            unanswered = 0
            for number in range(1, MESSAGES + 1):
                await connection.recv()
                unanswered += 1
                if not self.stalls or number == MESSAGES:
                    for _ in range(unanswered):
                        await connection.send('{"type":"ACK"}')
                        self.come.release()
                    unanswered = 0
        else:
            for _ in range(MESSAGES):
                await self.come.acquire()
                await connection.send('{"type":"CHAT_MESSAGE"}')
        await connection.wait_closed()


async def measured(*, stalls: bool) -> Seen:
    async with serve(StandIn(stalls=stalls), "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        pairs = [Pair("sender", "receiver", receiver(0))]
        return await run(Plan(port, pairs, 1, MESSAGES, 1, per_second=PER_SECOND))


async def test_nothing_is_sent_before_it_is_due() -> None:
    began = time.perf_counter()
    await measured(stalls=False)
    assert time.perf_counter() - began >= SPREAD


async def test_a_server_that_stalls_makes_late_what_was_due_meanwhile() -> None:
    seen = await measured(stalls=True)
    counted = range(int(WARM_UP * MESSAGES), MESSAGES)
    stalled = [SPREAD - number / PER_SECOND for number in counted]
    for latencies in (seen.to_ack, seen.to_delivery):
        assert len(latencies) == len(stalled)
        assert all(late >= least for late, least in zip(latencies, stalled, strict=True))


async def test_an_open_loop_ends_when_the_server_fails() -> None:
    connections: list[ServerConnection] = []

    async def fail(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.send('{"type":"READY"}')
        async for _ in connection:
            for one in connections:
                one.transport.close()

    async with serve(fail, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        plan = Plan(port, [Pair("s", "r", receiver(0))], 1, 2, 1, per_second=0.001)
        with pytest.raises(RuntimeError, match="a connection was lost"):
            await run(plan)


def test_half_load_is_measured_on_servers_that_run(tmp_path: Path) -> None:
    costs = half_load_costs(tmp_path / "half load", quick=True)
    assert len({cost.what for cost in costs}) == len(costs) == 6
    assert all(cost.value > 0 for cost in costs)
    assert [cost.target for cost in costs if cost.at_most] == [20.0, 20.0]

"""What grows with a server's ledger and its connections, and what must not.

Servers in processes of their own, as for the main table: one on a ledger of many records, one on an
empty ledger.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.load import handshake
from plugins.secure_chat.bench.rounds import one_round
from plugins.secure_chat.bench.servers import OURS, Server, running
from plugins.secure_chat.bench.workload import Scenario, receiver
from plugins.secure_chat.core.dialects import V1, Family, encode_at, timestamp
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import GENESIS_PREV_HASH

START_SECONDS: Final = 5.0
"""A start on a million records that were verified before."""
IDLE_KIB: Final = 24.0
"""Of the server's memory for each idle connection."""
SAME: Final = 0.9
"""Messages a second on a long ledger over those on an empty one; the rest is noise."""
ROUNDS: Final = 3
STREAMS: Final = 1_000
AT_ONCE: Final = 50  # handshakes under way
CONNECT_SECONDS: Final = 120
_SECTION: Final = "scale"


def scale_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    records, connections = (5_000, 200) if quick else (1_000_000, 5_000)
    load = Scenario(50, 64, 3_200 if quick else 16_000)
    long_ledger = folder / "long"
    long_ledger.mkdir(parents=True)
    _write_ledger(long_ledger / "genesis_ledger.jsonl", records)
    began = time.perf_counter()
    with running(OURS, long_ledger):
        first = time.perf_counter() - began
    began = time.perf_counter()
    with running(OURS, long_ledger) as long:
        again = time.perf_counter() - began
        with running(OURS, folder / "empty") as empty:
            ratio = _ratio(long, empty, load, 1 if quick else ROUNDS)
    each = _idle_bytes(folder / "idle", connections) / 1024
    return [
        Cost(_SECTION, f"records indexed, first start on {records:,}", records / first),
        Cost(
            _SECTION,
            f"start on {records:,} records that were verified before",
            again,
            START_SECONDS,
            " s",
            at_most=True,
        ),
        Cost(_SECTION, f"messages on {records:,} records, over those on none", ratio, SAME, ""),
        Cost(
            _SECTION,
            f"memory of an idle connection, of {connections:,}",
            each,
            IDLE_KIB,
            " KiB",
            at_most=True,
        ),
    ]


def _write_ledger(ledger: Path, count: int) -> None:
    """``count`` messages of v1 in STREAMS streams, of wallets that no scenario uses."""
    written_at = timestamp(Family.V1, datetime.now(UTC))
    digest, nonce = b64encode(bytes(32)).decode(), b64encode(bytes(12)).decode()
    prev_hash = GENESIS_PREV_HASH
    with ledger.open("wb") as file:
        for number in range(count):
            seq, stream = divmod(number, STREAMS)
            wallet = f"wallet_{stream}"
            event = MessageEvent(wallet, "0", "wallet_x", digest, nonce, seq + 1, number, 256)
            line, _, prev_hash = encode_at(
                V1, event.draft(""), written_at, prev_hash, f"{number:032x}"
            )
            file.write(line)


def _ratio(long: Server, empty: Server, load: Scenario, rounds: int) -> float:
    """Messages a second on ``long`` over those on ``empty``: the median over neighbours in time."""
    ratios = []
    for number in range(rounds):
        first_seq = 1 + number * load.messages
        one, other = one_round(long, load, first_seq), one_round(empty, load, first_seq)
        ratios.append(one.per_second / other.per_second)
    return statistics.median(ratios)


def _idle_bytes(folder: Path, connections: int) -> float:
    """What each of ``connections`` authenticated sockets adds to a server's memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 100
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(
            f"{connections} connections need {wanted} open files; {hard} are allowed"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))  # servers too
    try:
        with running(OURS, folder) as server:
            return asyncio.run(_connect_all(server, connections))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _connect_all(server: Server, connections: int) -> float:
    waiting = iter(range(connections))
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> None:
        for number in waiting:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writers.append(writer)
            writer.write(handshake(server.token(receiver(number)), server.port))
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError("the server refused a connection")
            await reader.readuntil(b'"type":"READY"')

    before = server.memory()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.gather(*(connect() for _ in range(AT_ONCE)))
        return (server.memory() - before) / connections
    finally:
        for writer in writers:
            writer.close()

"""A thousand connections that say nothing, and a server whose memory never held what was said."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plugins.secure_chat.core.envelope import message_hash
from tests.faults.server import Server, message, receive, send

pytestmark = pytest.mark.fault

IDLE = 1000
AT_ONCE = 100
MEMORY_EACH = 128 << 10  # bytes: far above what is measured, far below a leak
CANARY = b"canary: the nightingale sings at four, tell nobody"


async def test_a_thousand_idle_connections_are_held_and_one_of_them_gets_its_message(
    tmp_path: Path,
) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    with Server(tmp_path / "data") as server:
        before = server.resident_bytes()
        async with AsyncExitStack() as stack:

            async def connected(number: int) -> None:
                async with gate:
                    socket = await stack.enter_async_context(server.socket(f"idle{number}"))
                    sockets[number] = socket

            sockets: dict[int, object] = {}
            async with asyncio.TaskGroup() as tasks:
                for number in range(IDLE):
                    tasks.create_task(connected(number))
            assert len(sockets) == IDLE
            assert (server.resident_bytes() - before) / IDLE < MEMORY_EACH
            async with server.socket("sender") as sender, server.socket("idle7") as other:
                answer = await send(sender, message("idle7", 1))
                assert answer["type"] == "ACK"
                delivered = await receive(other)
                assert delivered["position"] == answer["position"]


async def test_the_plaintext_is_nowhere_in_the_servers_memory(tmp_path: Path) -> None:
    nonce = os.urandom(12)
    ciphertext = AESGCM(AESGCM.generate_key(256)).encrypt(nonce, CANARY, None)
    frame = {
        "recipient": "reader",
        "ciphertext": base64.b64encode(ciphertext).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "seq": 1,
        "ts": 1.5,
        "hash": base64.b64encode(message_hash(ciphertext, nonce, 1)).decode(),
    }
    with Server(tmp_path / "data") as server:
        async with server.socket("writer") as writer, server.socket("reader") as reader:
            answer = await send(writer, json.dumps(frame))
            assert answer["type"] == "ACK"
            await receive(reader)
            memory = writable_memory(server.process.pid)
    assert answer["id"].encode() in memory, "the scan must be able to find what is there"
    for form in (CANARY, base64.b64encode(CANARY)[:-4], CANARY.hex().encode()):
        assert form not in memory


def writable_memory(pid: int) -> bytes:
    """What the process can write to, as it is now."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None or "[v" in line:
                continue
            start, end = (int(text, 16) for text in area.groups())
            try:
                memory.seek(start)
                parts.append(memory.read(end - start))
            except OSError:
                continue  # a mapping that went away meanwhile
    return b"\0".join(parts)

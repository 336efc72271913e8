"""The world around a browser under test: a server process with the built client, and Bob in Python.

    python -m tests.client.world

JSON lines in, JSON lines out, until its input ends. The first line says where the server is, and
where its log. What cannot be done in PATIENCE is answered with an ``error``.

- ``{"do": "bob"}``: his wallet; he begins to listen.
- ``{"do": "bob anew"}``: the same wallet, on a new device with a new identity.
- ``{"do": "say", "to": …, "text": …}``: he writes; answered with the position.
- ``{"do": "hear"}``: the next text that he gets, and from whom.
- ``{"do": "restart"}``: the server ends by SIGTERM and starts again on the same port and data.
- ``{"do": "kept"}``: what the server keeps on its disk, as one hexadecimal text.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plugins.secure_chat.client import ChatClient, Device, WalletKey, wallet_login
from tests.faults.server import Server
from tests.kept_port import KeptPort

PASSPHRASE = "a passphrase of a test"
PATIENCE = 180.0  # seconds that only a failing test waits; a restart is an end and a start


class World:
    """Answers requests, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = KeptPort()
        self._server = self._started()
        self._key = WalletKey(secrets.token_bytes(32))
        self._devices = 0
        self._bob: ChatClient | None = None
        self._open = AsyncExitStack()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def log(self) -> Path:
        return self._server.log_path

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "bob"}:
                return {"wallet": await self._begin(reset=False)}
            case {"do": "bob anew"}:
                await self._open.aclose()
                return {"wallet": await self._begin(reset=True)}
            case {"do": "say", "to": to, "text": text}:
                receipt = await self._client.send(to, text.encode())
                return {"position": receipt.position}
            case {"do": "hear"}:
                message = await self._client.receive()
                return {"from": message.sender, "text": message.content.decode()}
            case {"do": "restart"}:
                await asyncio.to_thread(self._restart)
                return {}
            case {"do": "kept"}:
                return {"hex": await asyncio.to_thread(self._kept)}
        raise ValueError("no such request")

    async def close(self) -> None:
        await self._open.aclose()
        self._server.terminate()
        self._port.close()

    @property
    def _client(self) -> ChatClient:
        assert self._bob is not None
        return self._bob

    async def _begin(self, *, reset: bool) -> str:
        self._devices += 1
        folder = self._folder / f"bob-{self._devices}"
        device = Device.open(folder, self._key, PASSPHRASE, reset=reset)
        self._open.enter_context(device)
        client = ChatClient(self.url, device, wallet_login(self.url, self._key))
        self._bob = await self._open.enter_async_context(client)
        return client.wallet

    def _started(self) -> Server:
        options = ("--with-client", "--port", str(self._port.number))
        return Server(self._folder / "server", options=options)

    def _restart(self) -> None:
        assert self._server.terminate() == 0
        self._server = self._started()

    def _kept(self) -> str:
        files = sorted(path for path in (self._folder / "server").rglob("*") if path.is_file())
        return b"".join(path.read_bytes() for path in files).hex()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            say({"url": world.url, "log": str(world.log)})
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                try:
                    async with asyncio.timeout(PATIENCE):
                        answer = await world.answer(json.loads(line))
                except TimeoutError:
                    answer = {"error": f"not done in {PATIENCE:.0f} s: {line.strip()}"}
                say(answer)
        finally:
            await world.close()


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve())

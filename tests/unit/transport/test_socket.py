"""The socket's shell over a peer that takes nothing: it ends all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from plugins.secure_chat.core.frames import Limits
from plugins.secure_chat.errors import Close
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transport import socket
from plugins.secure_chat.transport.socket import Chat, _Connection
from plugins.secure_chat.transport.tokens import Principal
from tests.unit.test_service import running

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent

TURNS = 30  # of the event loop: more than an ending takes that waits for nobody


class Stalled:
    """A FrameStream whose peer says nothing and takes nothing, not even the close."""

    def __init__(self) -> None:
        self.closing: list[int] = []

    async def serve(self, session: Callable[[], Awaitable[None]]) -> None:
        await session()

    async def receive_many(self) -> Sequence[ASGIReceiveEvent]:
        never: asyncio.Future[Sequence[ASGIReceiveEvent]]
        never = asyncio.get_running_loop().create_future()
        return await never

    def send_now(self, texts: Sequence[bytes]) -> bool:
        return False

    async def send_many(self, texts: Sequence[bytes]) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self, code: int) -> None:
        self.closing.append(code)
        await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("code", [Close.RESTART, Close.TOO_SLOW, Close.TOKEN_EXPIRED])
async def test_a_session_ends_though_its_peer_takes_neither_what_is_queued_nor_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Close
) -> None:
    assert socket.CLOSE_SECONDS == 2.0
    monkeypatch.setattr(socket, "CLOSE_SECONDS", 0.0)
    async with running(tmp_path) as (service, _):
        limits = Limits(max_ciphertext=1 << 20, rate=1.0, burst=1)
        chat = SimpleNamespace(service=service, settings=Settings(), limits=limits)
        peer = Stalled()
        connection = _Connection(peer, cast(Chat, chat), Principal("bob", 2e9), None)
        session = asyncio.create_task(connection.run())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        (outbox,) = service.hub.all()
        outbox.close(code, b"the last word")
        for _ in range(TURNS):
            await asyncio.sleep(0)
        ended = session.done()
        session.cancel()
        await asyncio.wait((session,))
        assert ended
        assert peer.closing == [code]
        assert service.hub.count == 0

"""uvicorn's sans-IO WebSocket protocol over a corked transport: fewer, larger writes.

Frames that one connection sends within one turn of the event loop travel in one write; a frame
never waits for another turn's. Nothing of the chat is known here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# asyncio's own high-water mark: with more than this the transport below must see it at once, so
# that it can push back before the next frame.
MAX_CORKED: Final = 64 << 10


class CorkedTransport(asyncio.Transport):
    """Gathers writes until the end of the loop's turn. All else is the transport's below."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._corked: list[bytes | bytearray | memoryview] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._corked:
            self._loop.call_soon(self.flush)
        self._corked.append(data)
        self._size += len(data)
        if self._size >= MAX_CORKED:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered; nothing when there is nothing."""
        if self._corked:
            data = self._corked[0] if len(self._corked) == 1 else b"".join(self._corked)
            self._corked, self._size = [], 0
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._corked, self._size = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class CorkedProtocol(WebSocketsSansIOProtocol):
    """For ``uvicorn.Config(ws=...)``, by name or as it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CorkedTransport(cast(asyncio.Transport, transport), self.loop))

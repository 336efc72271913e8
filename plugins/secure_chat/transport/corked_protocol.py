"""uvicorn's sans-IO WebSocket protocol over a corked transport: fewer, larger writes; sure endings.

Frames that one connection sends within one turn of the event loop travel in one write; a frame
never waits for another turn's. A close frame is written even while the peer reads nothing. The peer
has LINGER_SECONDS to answer it, and as long again to take what is left; then it is cut off. When
the server stops, the application is told by ``websocket.disconnect`` with code 1012 and may still
send what it owes, and its close. Nothing of the chat is known here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

# asyncio's own high-water mark: with more than this the transport below must see it at once, so
# that it can push back before the next frame.
MAX_CORKED: Final = 64 << 10
LINGER_SECONDS: Final = 5.0  # for a peer to answer a close frame, or to take what is left
# SO_LINGER on, for no time: the kernel drops what the peer did not take and resets.
_RESET: Final = struct.pack("ii", 1, 0)


class CorkedTransport(asyncio.Transport):
    """Gathers writes until the end of the loop's turn, and cuts off who outstays a close.

    All else is the transport's below.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._corked: list[bytes | bytearray | memoryview] = []
        self._size = 0
        self._lost = False
        self._cut: asyncio.TimerHandle | None = None

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
        """Close once the peer has taken all; it has LINGER_SECONDS for that."""
        self.flush()
        self._transport.close()
        if self._cut is None and not self._lost:
            self._cut = self._loop.call_later(LINGER_SECONDS, self._cut_off)

    def lost(self) -> None:
        """The connection has ended: there is nothing to cut off."""
        self._lost = True
        if self._cut is not None:
            self._cut.cancel()

    def _cut_off(self) -> None:
        """Without the reset the kernel would go on offering what the peer does not take."""
        connection = self.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_SECONDS
        self._stopping = False
        application = self.app

        async def closed_at_the_end(scope: Any, receive: Any, send: Any) -> None:
            try:
                await application(scope, receive, send)
            finally:
                if self._stopping and not self.close_sent:
                    super(CorkedProtocol, self).shutdown()

        self.app = closed_at_the_end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CorkedTransport(cast(asyncio.Transport, transport), self.loop))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cast(CorkedTransport, self.transport).lost()

    def shutdown(self) -> None:
        """The server stops. Who is connected is closed by the application, or when it returns."""
        if self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self._stopping = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012})
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.close_sent:
            # The library has refused a request it cannot take (a header over 8 KiB: 431, a URL:
            # 414); uvicorn would leave the answer there, and the client without one.
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            # It is short and the last: it need not wait until the peer reads, if it ever does.
            self.writable.set()
        await super().send(message)

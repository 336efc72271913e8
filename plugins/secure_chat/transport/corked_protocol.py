"""uvicorn's sans-IO WebSocket protocol, with fewer and larger reads and writes, and sure endings.

Whole text frames are cut out of what came in one loop, and go to the application together. All
other frames, and all that is unusual about one, are left to ``websockets``, byte for byte. Frames
that one connection sends within one turn of the event loop travel in one write; a frame never waits
for another turn's. A close frame is written even while the peer reads nothing. The peer has
LINGER_SECONDS to answer it, and as long again to take what is left; then it is cut off. When the
server stops, the application is told by ``websocket.disconnect`` with code 1012 and may still send
what it owes, and its close. A session that the application hands over is run below the framework,
whose layers and the request are let go: they are most of an idle connection's memory. Nothing of
the chat is known here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import OPEN

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler where it was installed
    from websockets.utils import apply_mask

from plugins.secure_chat.transport.frame_stream import EXTENSION

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

# asyncio's own high-water mark: with more than this the transport below must see it at once, so
# that it can push back before the next frame.
MAX_CORKED: Final = 64 << 10
LINGER_SECONDS: Final = 5.0  # for a peer to answer a close frame, or to take what is left
# SO_LINGER on, for no time: the kernel drops what the peer did not take and resets.
_RESET: Final = struct.pack("ii", 1, 0)
_END_OF_HEAD: Final = b"\r\n\r\n"
# The first two bytes of frames (RFC 6455 section 5.2).
_FIN_TEXT: Final = 0x81
_MASKED: Final = 0x80
_SIZE_16: Final = 126  # the size is in the two bytes that follow
_SIZE_64: Final = 127


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


def frame_end(data: bytes, at: int) -> int | None:
    """Where the frame that starts at ``at`` ends, be it beyond ``data``; None: it does not say yet.

    Of frames that are against the rules it gives something: whoever parses them refuses them.
    """
    left = len(data) - at
    if left < 2:
        return None
    size, header = data[at + 1] & 0x7F, 2
    if size >= _SIZE_16:
        header = 4 if size == _SIZE_16 else 10
        if left < header:
            return None
        size = int.from_bytes(data[at + 2 : at + header], "big")
    return at + header + (4 if data[at + 1] & _MASKED else 0) + size


def text_frames(texts: Sequence[bytes]) -> bytes:
    """``texts`` as unmasked, unfragmented text frames, one after the other."""
    parts: list[bytes] = []
    for text in texts:
        size = len(text)
        if size < _SIZE_16:
            parts.append(bytes((_FIN_TEXT, size)))
        elif size < 1 << 16:
            parts.append(struct.pack("!BBH", _FIN_TEXT, _SIZE_16, size))
        else:
            parts.append(struct.pack("!BBQ", _FIN_TEXT, _SIZE_64, size))
        parts.append(text)
    return b"".join(parts)


class CorkedProtocol(WebSocketsSansIOProtocol):
    """For ``uvicorn.Config(ws=...)``, by name or as it is. It is a FrameStream."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_SECONDS
        self._largest: int = self.config.ws_max_size
        self._received: deque[ASGIReceiveEvent] = deque()  # out of the queue, not asked for yet
        self._header = b""  # what has come of one that is not whole
        self._owed = 0  # bytes of a frame that ``websockets`` has the beginning of
        self._all_to_websockets = False
        self._stopping = False
        self._session: Callable[[], Awaitable[None]] | None = None
        self._application = self.app
        self.app = self._run

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

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        """The application, then the session it has handed over; at a stop, the close."""
        try:
            await self._application(scope, receive, send)
            if self._session is not None:
                del scope, receive, send
                self._forget_request()
                await self._session()
        finally:
            self._session = None
            self.app = self._application  # without the cycle it is freed at once
            if self._stopping and not self.close_sent and not self.disconnected:
                super().shutdown()

    async def serve(self, session: Callable[[], Awaitable[None]]) -> None:
        self._session = session

    def _forget_request(self) -> None:
        """Let go what only the handshake needs."""
        del self.scope
        # websockets' parser keeps both for good.
        self.request.headers.clear()
        self.response.headers.clear()

    # -- in -----------------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions = cast("dict[str, object]", self.scope["extensions"])
            extensions[EXTENSION] = self

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._take_head(data)
        elif self.conn.state is OPEN and not self._all_to_websockets:
            self._take_frames(data)
        else:
            # Before the answer to the handshake, or while closing. From here on ``websockets``
            # alone knows where the next frame begins.
            self._all_to_websockets = True
            data, self._header = self._header + data, b""
            super().data_received(data)

    def _take_head(self, data: bytes) -> None:
        """The handshake's request, or a part of it, which may have frames behind it."""
        seen = self._header + data
        end = seen.find(_END_OF_HEAD)
        self._all_to_websockets = end not in (-1, len(seen) - len(_END_OF_HEAD))
        self._header = seen[1 - len(_END_OF_HEAD) :] if end == -1 else b""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.close_sent:
            # The library has refused a request it cannot take (a header over 8 KiB: 431, a URL:
            # 414); uvicorn would leave the answer there, and the client without one.
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def _take_frames(self, data: bytes) -> None:
        """Cut the plain frames out of ``data``; hand each other one, or its beginning, over."""
        at = min(self._owed, len(data))
        if at:
            self._owed -= at
            super().data_received(data[:at])
        if self._header:
            data, self._header = self._header + data, b""
        end = len(data)
        plain = self._may_be_plain()
        events: list[ASGIReceiveEvent] = []
        while at < end:
            if plain and end - at >= 8 and data[at] == _FIN_TEXT and data[at + 1] & _MASKED:
                size, start = data[at + 1] & 0x7F, at + 6
                if size == _SIZE_16:
                    size, start = (data[at + 2] << 8) | data[at + 3], at + 8
                stop = start + size
                if size != _SIZE_64 and stop <= end and size <= self._largest:
                    unmasked = apply_mask(data[start:stop], data[start - 4 : start])
                    try:
                        text = unmasked.decode()
                    except UnicodeDecodeError:
                        pass  # refused below
                    else:
                        events.append({"type": "websocket.receive", "text": text})
                        at = stop
                        continue
            frame_stop = frame_end(data, at)
            if frame_stop is None:
                self._header = data[at:]
                break
            self._give(events)
            events = []
            self._owed = max(0, frame_stop - end)
            super().data_received(data[at:frame_stop])
            at = frame_stop
            plain = self._may_be_plain()
        self._give(events)

    def _may_be_plain(self) -> bool:
        """Whether the next frame may be a message of its own."""
        return self.conn.state is OPEN and self.conn.current_size is None

    def _give(self, events: list[ASGIReceiveEvent]) -> None:
        """To the application; nothing more is read before it has taken all, as uvicorn does."""
        if events:
            self.queue.put_nowait(cast("ASGIReceiveEvent", events))
            if not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()

    async def receive(self) -> ASGIReceiveEvent:
        if not self._received:
            self._received.extend(await self.receive_many())
        return self._received.popleft()

    async def receive_many(self) -> Sequence[ASGIReceiveEvent]:
        if self._received:
            events = list(self._received)
            self._received.clear()
            return events
        item: Any = await self.queue.get()
        events = []
        while True:
            events += item if isinstance(item, list) else (item,)
            if self.queue.empty() or events[-1]["type"] == "websocket.disconnect":
                break
            item = self.queue.get_nowait()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return events

    # -- out ----------------------------------------------------------------------------------

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            # It is short and the last: it need not wait until the peer reads, if it ever does.
            self.writable.set()
        await super().send(message)

    def send_now(self, texts: Sequence[bytes]) -> bool:
        if self.disconnected or self.conn.state is not OPEN or not self.writable.is_set():
            return False
        self.transport.write(text_frames(texts))
        return True

    async def send_many(self, texts: Sequence[bytes]) -> None:
        await self.writable.wait()
        if self.disconnected or self.conn.state is not OPEN:
            raise ClientDisconnected
        self.transport.write(text_frames(texts))

    async def close(self, code: int) -> None:
        if self.close_sent:
            raise ClientDisconnected
        await self.send({"type": "websocket.close", "code": code, "reason": ""})

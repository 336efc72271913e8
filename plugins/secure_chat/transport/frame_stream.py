"""One socket's frames, many at a time where the server can: a port, and how to find what it is.

ASGI hands frames over one by one, through three layers of a framework; under load that costs more
than all that is done with them. A server that knows better offers a FrameStream of its own as an
extension of the scope (``corked_protocol.py``). Under any other the frames go one by one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from starlette.websockets import WebSocket, WebSocketDisconnect

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent

EXTENSION: Final = "atlas.frame_stream"


@runtime_checkable
class FrameStream(Protocol):
    """A socket after its handshake."""

    async def serve(self, session: Callable[[], Awaitable[None]]) -> None:
        """Run ``session``; the socket is closed when it ends. Must be the last that is awaited.

        May return before: a server that can runs it once the framework has returned, whose layers
        would otherwise be kept for each socket. So ``session`` must hold nothing of the framework.
        """

    async def receive_many(self) -> Sequence[ASGIReceiveEvent]:
        """What has come, at least one event, in order; waits for it. Nothing follows a disconnect.

        They are ASGI's ``websocket.receive`` and ``websocket.disconnect``.
        """

    def send_now(self, texts: Sequence[bytes]) -> bool:
        """Send each of ``texts`` (UTF-8) as a text frame if that can be done without waiting.

        False: nothing was sent; ``send_many`` waits, or says that the connection is closed.
        """

    async def send_many(self, texts: Sequence[bytes]) -> None:
        """The same, once the peer has taken what was sent before.

        Raises OSError when the connection is closed.
        """

    async def close(self, code: int) -> None:
        """Say ``code`` and close. Raises OSError when the connection is closed."""


class OneByOne:
    """A FrameStream over any ASGI server."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def serve(self, session: Callable[[], Awaitable[None]]) -> None:
        await session()

    async def receive_many(self) -> Sequence[Any]:
        return (await self._websocket.receive(),)

    def send_now(self, texts: Sequence[bytes]) -> bool:
        return False  # ASGI has nothing of the kind

    async def send_many(self, texts: Sequence[bytes]) -> None:
        try:
            for text in texts:
                await self._websocket.send_text(text.decode())
        except (RuntimeError, WebSocketDisconnect) as closed:
            raise ConnectionError("the socket is closed") from closed

    async def close(self, code: int) -> None:
        try:
            await self._websocket.close(code)
        except (RuntimeError, WebSocketDisconnect) as closed:
            raise ConnectionError("the socket is closed") from closed


def frame_stream(websocket: WebSocket) -> FrameStream:
    """The server's own, where it has one."""
    offered = (websocket.scope.get("extensions") or {}).get(EXTENSION)
    return offered if isinstance(offered, FrameStream) else OneByOne(websocket)

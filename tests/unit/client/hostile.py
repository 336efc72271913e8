"""A server that does what it likes: it stands before a real one, and sees, alters, keeps back or
repeats what passes through it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.plugin.chat_server import NO_TLS

Json = dict[str, Any]


class Hostile:
    """``lie(path, answer)`` may alter what REST answers, ``deliver(frame)`` says which frames the
    client gets for one of the server's. ``requests`` and ``frames`` are what the client sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._outer: asyncio.Server | None = None
        self._inner: Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._sockets: set[ServerConnection] = set()
        self.lie: Callable[[str, Json], Json] = lambda _, answer: answer
        self.deliver: Callable[[Json], Sequence[Json]] = lambda frame: (frame,)
        self.requests: list[tuple[str, bytes]] = []
        self.frames: list[Json] = []

    async def start(self) -> None:
        self._inner = await serve(
            self._relay, "127.0.0.1", 0, compression=None, max_size=None, ping_interval=None
        )
        self._outer = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._outer is not None
        assert self._inner is not None
        self._outer.close()
        self.cut()
        self._inner.close()
        await self._inner.wait_closed()
        await self._outer.wait_closed()

    @property
    def url(self) -> str:
        assert self._outer is not None
        return f"http://127.0.0.1:{self._outer.sockets[0].getsockname()[1]}"

    def keep_back(self, *kinds: str) -> None:
        """From now on the client gets none of these frames; ``None`` of all kinds."""
        self.deliver = lambda frame: () if frame["type"] in kinds else (frame,)

    def honest(self) -> None:
        self.lie = lambda _, answer: answer
        self.deliver = lambda frame: (frame,)

    async def show(self, *frames: Json) -> None:
        """Send frames of our own making to every client."""
        for socket in self._sockets:
            for frame in frames:
                await socket.send(json.dumps(frame))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each connection is one request, or a WebSocket."""
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                await self._join(head, reader, writer)
            else:
                await self._answer(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # cut, or the client is gone
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _join(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert self._inner is not None
        port = next(iter(self._inner.sockets)).getsockname()[1]
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        to_writer.write(head)
        await asyncio.gather(_pass(reader, to_writer), _pass(to_reader, writer))

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request, *lines = head.decode().split("\r\n")
        method, path, _ = request.split(" ")
        headers = dict(line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((f"{method} {path}", body))
        wanted = ("authorization", "content-type")
        async with httpx.AsyncClient(trust_env=False, timeout=60, verify=NO_TLS) as http:
            answer = await http.request(
                method,
                f"http://127.0.0.1:{self._port}{path}",
                content=body,
                headers={name: headers[name] for name in wanted if name in headers},
            )
        text = answer.content
        if answer.is_success and answer.headers["content-type"] == "application/json":
            text = json.dumps(self.lie(path, answer.json())).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: %s\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s"
            % (answer.status_code, answer.headers["content-type"].encode(), len(text), text)
        )
        await writer.drain()

    async def _relay(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        bearer = {"Authorization": socket.request.headers["Authorization"]}
        url = f"ws://127.0.0.1:{self._port}{socket.request.path}"
        self._sockets.add(socket)
        try:
            async with connect(
                url,
                additional_headers=bearer,
                proxy=None,
                compression=None,
                max_size=None,
                open_timeout=60,
                ping_interval=None,
            ) as server:
                await asyncio.gather(self._up(socket, server), self._down(socket, server))
        except (ConnectionClosed, OSError):
            pass  # one of the two is gone: so is the other
        finally:
            self._sockets.discard(socket)

    async def _up(self, socket: ServerConnection, server: Any) -> None:
        async for raw in socket:
            self.frames.append(json.loads(raw))
            await server.send(raw)
        await server.close()

    async def _down(self, socket: ServerConnection, server: Any) -> None:
        async for raw in server:
            for frame in self.deliver(json.loads(raw)):
                await socket.send(json.dumps(frame))
        await socket.close(server.close_code or 1001)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # cut, or the other side is gone: both ends of the pair close below
    finally:
        writer.close()

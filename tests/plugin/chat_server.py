"""A host that serves the chat as ``secure-chat serve`` does, and the smallest client of its socket.

The client here knows the wire and nothing else: it is not the product's, so that the two cannot be
wrong alike. What is served by another host is in ``test_foreign_host.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import uvicorn
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from plugins.secure_chat.cli.serve import LARGEST_FRAME
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transport.corked_protocol import CorkedProtocol
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

SECRET: Final = "a secret that guards nothing but these tests"
PLUGIN: Final = "plugins.secure_chat.plugin"
ALICE: Final = "0x" + "a1" * 20
BOB: Final = "0x" + "b2" * 20
CAROL: Final = "0x" + "c3" * 20
# For clients of HTTP: whose certificates they would believe is not read from the disk for each.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
WAIT: Final = 60.0  # seconds: only a failing test waits this long


def token(wallet: str, *, seconds: float = 3600, secret: str = SECRET, **claims: object) -> str:
    """A token of ``wallet`` that expires in ``seconds``."""
    given = {"sub": wallet, "scope": "user", "exp": time.time() + seconds, **claims}
    return jwt.encode(given, secret, "HS256")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def message(
    recipient: str, seq: int, ciphertext: bytes | None = None, **fields: object
) -> dict[str, Any]:
    """A valid CHAT_MESSAGE without its type; ``fields`` replace or add."""
    ciphertext = os.urandom(64) if ciphertext is None else ciphertext
    nonce = os.urandom(12)
    digest = hashlib.sha256(ciphertext + nonce + seq.to_bytes(8, "big", signed=True)).digest()
    return {
        "recipient": recipient,
        "ciphertext": b64(ciphertext),
        "nonce": b64(nonce),
        "seq": seq,
        "ts": 1765809007.25,
        "hash": b64(digest),
        **fields,
    }


class Peer:
    """One socket: JSON in and out."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def take_little(self) -> None:
        """Have the kernel keep 64 KiB for it: else that grows with the speed of reading, by far."""
        self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)

    def send(self, frame: Mapping[str, object] | str) -> None:
        self.connection.send(frame if isinstance(frame, str) else json.dumps(frame))

    def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.connection.recv(timeout=WAIT))
        return frame

    def ask(self, frame: Mapping[str, object] | str) -> dict[str, Any]:
        self.send(frame)
        return self.receive()

    def until(self, kind: str) -> list[dict[str, Any]]:
        """All frames up to the first of ``kind``, that one included."""
        frames = [self.receive()]
        while frames[-1]["type"] != kind:
            frames.append(self.receive())
        return frames

    def silent(self) -> bool:
        """Whether nothing is on its way: the next thing that comes is the answer to a PING."""
        return self.ask({"type": "PING"}) == {"type": "PONG"}

    def closed(self, *, at_once: bool = False) -> tuple[list[dict[str, Any]], int]:
        """What still comes until the server closes, and its close code.

        ``at_once``: what has happened is the end already, so that a PING is not answered any more.
        """
        frames = []
        if at_once:
            with suppress(ConnectionClosed):
                self.send({"type": "PING"})
        try:
            while True:
                frames.append(self.receive())
                assert not at_once or frames[-1]["type"] != "PONG", "the connection goes on"
        except ConnectionClosed as end:
            return frames, 1006 if end.rcvd is None else end.rcvd.code


@dataclass
class ChatServer:
    """A serving app."""

    app: FastAPI
    port: int
    data_dir: Path
    http: httpx.Client
    stop: Callable[[], None]
    """Begin to stop, as SIGTERM does; the end of the block waits for it."""
    open_connections: Callable[[], int]
    """TCP connections that the server has not let go of."""
    served: Callable[[], int]
    """Requests and sockets that the app has not done with."""

    @property
    def ledger(self) -> Path:
        return self.data_dir / "genesis_ledger.jsonl"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/chat/ws"

    def refuses_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=WAIT).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # the listener was closed in the middle of it
        return False

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return when ``condition`` holds; it is looked at again and again for WAIT seconds."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, f"never seen: {what}"
            time.sleep(0.01)  # between two looks

    @contextmanager
    def peer(
        self,
        wallet: str,
        *,
        bearer: str | None = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
        anonymous: bool = False,
        greeted: bool = True,
    ) -> Iterator[Peer]:
        """A socket of ``wallet``; READY has been taken when ``greeted``."""
        given = dict(headers or {})
        if not anonymous:
            given["Authorization"] = f"Bearer {bearer or token(wallet)}"
        with connect(
            self.url + query,
            additional_headers=given,
            subprotocols=[Subprotocol(name) for name in subprotocols or []] or None,
            compression=None,
            max_size=None,
            proxy=None,
            open_timeout=WAIT,
            ping_interval=None,
        ) as connection:
            peer = Peer(connection)
            if greeted:
                assert peer.receive()["type"] == "READY"
            yield peer

    def authorization(self, wallet: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token(wallet)}"}

    def get(self, path: str, wallet: str, **parameters: Any) -> httpx.Response:
        headers = self.authorization(wallet)
        return self.http.get(path, headers=headers, params=parameters or None)

    def post(self, wallet: str, body: Mapping[str, object] | bytes) -> httpx.Response:
        headers = self.authorization(wallet)
        content = body if isinstance(body, bytes) else json.dumps(body)
        return self.http.post("/v1/chat/messages", headers=headers, content=content)

    def so_many(self, stage: str) -> float:
        """Messages that have come to ``stage``, as the metrics count them."""
        return self._metric(f'secure_chat_messages_total{{stage="{stage}"}} ')

    def refusals(self, code: str) -> float:
        """What was refused with ``code``, as the metrics count it."""
        return self._metric(f'secure_chat_refusals_total{{code="{code}"}} ')

    def _metric(self, name: str) -> float:
        """The value of one time series; 0 when there is none yet."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger.read_bytes().splitlines()]


class RawSocket:
    """A WebSocket by hand, for frames that no library would send."""

    def __init__(self, server: ChatServer, wallet: str, bearer: str | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
        self._socket.sendall(
            f"GET /v1/chat/ws HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\n"
            f"Authorization: Bearer {bearer or token(wallet)}\r\n\r\n".encode()
        )
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            self.head += self._socket.recv(1)

    def send(self, first_byte: int, payload: bytes) -> None:
        """One masked frame under an all-zero mask; lengths below 126."""
        self._socket.sendall(bytes([first_byte, 0x80 | len(payload)]) + bytes(4) + payload)

    def send_at_once(self, *frames: Mapping[str, object]) -> None:
        """Text frames of 126 to 65535 bytes, in one piece."""
        payloads = [json.dumps(frame).encode().ljust(126) for frame in frames]
        self._socket.sendall(
            b"".join(b"\x81\xfe" + struct.pack("!H", len(p)) + bytes(4) + p for p in payloads)
        )

    def announce(self, length: int) -> None:
        """The head of a text frame of ``length`` bytes."""
        self._socket.sendall(b"\x81\xff" + struct.pack("!Q", length) + bytes(4))

    def cut_off(self) -> bool:
        """Whether the server resets the connection although nothing is read from it."""
        poll = select.poll()
        poll.register(self._socket, 0)  # errors and the end are told without being asked for
        try:
            return bool(poll.poll(WAIT * 1000))
        finally:
            self._socket.close()

    def hang_up(self) -> None:
        self._socket.close()

    def close_code(self) -> int:
        """Read on to the close frame; its code."""
        return self.closed()[1]

    def closed(self) -> tuple[list[dict[str, Any]], int]:
        """What still comes until the server closes, and its close code."""
        frames: list[dict[str, Any]] = []
        while True:
            first, length = self._exactly(2)
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            payload = self._exactly(length)
            if first & 0x0F == 8:
                self._socket.close()
                return frames, int.from_bytes(payload[:2], "big")
            frames.append(json.loads(payload))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the server hung up without a close frame"
            data += part
        return data


class _Server(uvicorn.Server):
    """uvicorn, which says when it has started or given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()

    def begin_to_stop(self) -> None:
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.decided.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # how uvicorn ends its process; this one is the test's
            self.should_exit = True
        self.decided.set()


class DidNotStart(RuntimeError):
    """The app refused to start; its log says why."""


@contextmanager
def serving(
    app: FastAPI,
    data_dir: Path,
    ws: Any = "websockets-sansio",
) -> Iterator[ChatServer]:
    """Serve ``app`` on a free port of 127.0.0.1 until the block ends; then drain and stop.

    ``ws`` is uvicorn's: its own protocol, as any adopter has it, or the product's.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws=ws,
            ws_max_size=LARGEST_FRAME,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            ws_ping_interval=None,  # a socket by hand answers none
            timeout_graceful_shutdown=int(WAIT),
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        port = listener.getsockname()[1]
        try:
            server.decided.wait()
            if not server.started:
                raise DidNotStart
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=WAIT, trust_env=False, verify=NO_TLS) as http:
                state = server.server_state
                yield ChatServer(
                    app,
                    port,
                    data_dir,
                    http,
                    server.begin_to_stop,
                    lambda: len(state.connections),
                    lambda: len(state.tasks),
                )
        finally:
            server.begin_to_stop()
            thread.join()


@contextmanager
def chat_server(
    data_dir: Path,
    *,
    ws: Any = CorkedProtocol,
    **settings: Any,
) -> Iterator[ChatServer]:
    """Our stand-in host with the chat; ``settings`` are the chat's own."""
    app = create_app(
        HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": data_dir}),
        [PLUGIN],
        plugin_settings={"secure_chat": Settings(**settings)},
    )
    with serving(app, data_dir, ws) as server:
        yield server

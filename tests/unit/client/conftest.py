"""Real servers in processes of their own, and a relay that can lose what passes through it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.client import (
    Backoff,
    ChatClient,
    ClientState,
    ContactCard,
    Refused,
    StaticSession,
    TokenSource,
    WalletKey,
    wallet_login,
)

ROOT = Path(__file__).resolve().parents[3]
STOP_SECONDS = 60


class Server:
    """``secure-chat serve``, which can be killed and started again on its old port."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "JWT_SECRET": secrets.token_hex(32),
            **environment,
        }
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        """Returns when it listens."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *(sys.executable, "-m", "plugins.secure_chat", "serve"),
                    *("--port", str(self._port), "--data-dir", str(self.folder / "data")),
                ),
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=ROOT,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), (self.folder / "server.log").read_text()
        self._port = int(line.rsplit(":", 1)[1])

    def kill(self) -> None:
        """As the kernel does it to a process out of memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(STOP_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    @property
    def ledger(self) -> Path:
        return self.folder / "data" / "genesis_ledger.jsonl"

    def messages(self) -> list[dict[str, Any]]:
        """The MESSAGE events in the ledger."""
        records = [json.loads(line) for line in self.ledger.read_bytes().splitlines()]
        return [record for record in records if record["event_type"] == "MESSAGE"]


class Person:
    """A wallet and its device's state file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = WalletKey(secrets.token_bytes(32))
        self.refused: list[Refused] = []
        self.state = ClientState(path, self.key.wallet)

    @property
    def wallet(self) -> str:
        return self.key.wallet

    def card(self) -> ContactCard:
        return self.state.contact_key.card(self.key)

    def restart(self) -> None:
        """As a new process would find the state."""
        self.state.close()
        self.state = ClientState(self.path, self.wallet)

    def session(self, other: Person) -> StaticSession:
        return StaticSession(self.state.contact_key, self.wallet, other.card())

    def client(self, url: str, *others: Person, tokens: TokenSource | None = None) -> ChatClient:
        return ChatClient(
            url,
            tokens or wallet_login(url, self.key),
            self.state,
            sessions={other.wallet: self.session(other) for other in others},
            backoff=Backoff(0.02, 0.2),
            on_refused=self.refused.append,
        )


class Relay:
    """A TCP relay before a server: it can withhold answers, and cut every connection."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.withholds_answers = False

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        assert self._listener is not None
        return f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers |= {writer, to_writer}
        await asyncio.gather(
            self._pass(reader, to_writer, answers=False),
            self._pass(to_reader, writer, answers=True),
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if not (answers and self.withholds_answers):
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass  # cut, or the other side is gone: both ends of the pair close below
        finally:
            writer.close()
            self._writers.discard(writer)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server; environment variables by name."""
    with ExitStack() as stack:

        def start(**environment: str) -> Server:
            server = Server(tmp_path, **environment)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests that leave it running and do not count what is in its ledger."""
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    relay = Relay(server.port)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Person, Person, Person]]:
    """Alice, Bob and Mallory."""
    found = tuple(Person(tmp_path / f"{name}.sqlite") for name in ("alice", "bob", "mallory"))
    yield found  # type: ignore[misc]
    for person in found:
        person.state.close()

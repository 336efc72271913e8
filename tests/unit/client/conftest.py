"""Real servers in processes of their own, and people with wallets and devices."""

from __future__ import annotations

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
    Contact,
    Device,
    Enrolment,
    Refused,
    TokenSource,
    WalletKey,
    wallet_login,
)
from tests.kept_port import KeptPort
from tests.unit.client.hostile import Hostile

ROOT = Path(__file__).resolve().parents[3]
STOP_SECONDS = 60
COMMAND = (sys.executable, "-m", "plugins.secure_chat", "serve")


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
        self._kept = KeptPort()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._kept.number

    def start(self) -> None:
        """Returns when it listens."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *COMMAND,
                    *("--port", str(self.port), "--data-dir", str(self.folder / "data")),
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

    def kill(self) -> None:
        """As the kernel does it to a process out of memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Stop for good: the port is anybody's."""
        self.stop()
        self._kept.close()

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
    """A wallet and one device of it."""

    def __init__(
        self,
        folder: Path,
        key: WalletKey | None = None,
        *,
        reset: bool = False,
        endorsed_by: Person | None = None,
    ) -> None:
        """Unless ``endorsed_by`` a device of the same wallet, the first of a new identity."""
        self.folder = folder
        own = key or WalletKey(secrets.token_bytes(32))
        self.key: WalletKey = endorsed_by.key if endorsed_by is not None else own
        self.unlock = secrets.token_bytes(32)
        self.refused: list[Refused] = []
        self.changes: list[Contact] = []
        if endorsed_by is None:
            self.device = self._open(reset=reset)
            return
        places = {"witness": folder / "witness"}
        enrolment = Enrolment(folder / "device", self.wallet, self.unlock, **places)
        self.device = enrolment.finish(endorsed_by.device.endorse(enrolment.request), self.key)

    @property
    def wallet(self) -> str:
        return self.key.wallet

    def _open(self, *, reset: bool = False) -> Device:
        return Device.open(
            self.folder / "device",
            self.key,
            self.unlock,
            witness=self.folder / "witness",
            reset=reset,
        )

    def restart(self) -> None:
        """As a new process would find the state."""
        self.device.close()
        self.device = self._open()

    def client(self, url: str, *, tokens: TokenSource | None = None, **options: Any) -> ChatClient:
        given: dict[str, Any] = {
            "backoff": lambda: Backoff(0.02, 0.2),
            "on_refused": self.refused.append,
            "on_identity_change": self.changes.append,
            **options,
        }
        return ChatClient(url, self.device, tokens or wallet_login(url, self.key), **given)

    @property
    def reasons(self) -> list[type]:
        """Why messages were refused."""
        return [type(refused.reason) for refused in self.refused]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server; environment variables by name."""
    with ExitStack() as stack:

        def start(**environment: str) -> Server:
            server = Server(tmp_path, **environment)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests that leave it running and do not count what is in its ledger."""
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.close()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


@pytest.fixture
async def hostile(server: Server) -> AsyncIterator[Hostile]:
    """Before ``server``."""
    hostile = Hostile(server.port)
    await hostile.start()
    yield hostile
    await hostile.stop()


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Person, Person, Person]]:
    """Alice, Bob and Mallory."""
    found = tuple(Person(tmp_path / name) for name in ("alice", "bob", "mallory"))
    yield found  # type: ignore[misc]
    for person in found:
        person.device.close()

"""The server as an operator runs it, in a process of its own that a test may kill, and its clients.

Here are starting, ending and talking; what must hold is in the tests.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
from websockets.asyncio.client import ClientConnection, connect

from plugins.secure_chat.core.envelope import message_hash

SECRET: Final = "a secret of forty bytes for these tests!"
PATIENCE: Final = 60.0  # seconds that a step may take before the test fails
LEDGER: Final = "genesis_ledger.jsonl"
MAILBOX: Final = "mailbox.sqlite"


def command(data_dir: Path, *options: str) -> tuple[str, ...]:
    serve = (sys.executable, "-m", "plugins.secure_chat", "serve", "--port", "0")
    return (*serve, "--data-dir", str(data_dir), *options)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """For a server; ``settings``: SECURE_CHAT_ variables, in lower case."""
    return {
        **os.environ,
        "JWT_SECRET": SECRET,
        "SECURE_CHAT_RATE_PER_SECOND": "1e9",
        "SECURE_CHAT_BURST": "1000000000",
        **{f"SECURE_CHAT_{name.upper()}": value for name, value in settings.items()},
    }


def refused_start(data_dir: Path, *options: str, **settings: str) -> tuple[int, str]:
    """Start a server that must not start: its exit code, and what it wrote to stderr."""
    with subprocess.Popen(
        command(data_dir, *options),
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        started = "listening" in process.stdout.readline()
        if started:
            process.kill()
        _, said = process.communicate(timeout=PATIENCE)
    assert not started
    return process.returncode, said


class Server:
    """One process of ``secure-chat serve``. End it by ``kill``, ``terminate`` or ``with``."""

    def __init__(
        self,
        data_dir: Path,
        *,
        options: tuple[str, ...] = (),
        before_exec: Callable[[], None] | None = None,
        **settings: str,
    ) -> None:
        """Returns when it listens. ``settings``: SECURE_CHAT_ variables, in lower case."""
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            command(data_dir, *options),
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(settings),
            preexec_fn=before_exec,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if "listening on http://" not in line:
            self.kill()
            raise AssertionError(f"the server did not start: {self.log()}")
        self.url = line.split()[-1]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def log(self) -> str:
        return self.log_path.read_text()[-4000:]

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any further."""
        self.process.kill()
        self._reap()

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        return code

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    def row_writers(self) -> list[int]:
        """The processes of its own that write rows of messages: one, once many have come."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        pids = [pid for task in tasks for pid in (task / "children").read_text().split()]
        return [
            int(pid)
            for pid in pids
            if b"secure_chat.mailbox.rows" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    @asynccontextmanager
    async def socket(self, wallet: str, **options: Any) -> AsyncIterator[ClientConnection]:
        """A connection that has had its READY."""
        async with connect(
            self.url.replace("http", "ws") + "/v1/chat/ws",
            additional_headers=authorization(wallet),
            proxy=None,
            **{
                "compression": None,
                "open_timeout": PATIENCE,
                "ping_interval": None,  # who stalls answers none
                "close_timeout": 2,
                "max_size": 1 << 22,
                **options,
            },
        ) as connection:
            assert (await receive(connection))["type"] == "READY"
            yield connection

    def rest(self, wallet: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"{self.url}/v1/chat",
            headers=authorization(wallet),
            timeout=PATIENCE,
            trust_env=False,
        )


def authorization(wallet: str) -> dict[str, str]:
    claims = {"sub": wallet, "scope": "user", "exp": int(time.time()) + 3600}
    return {"Authorization": "Bearer " + jwt.encode(claims, SECRET, "HS256")}


def message(recipient: str, seq: int, *, size: int = 64) -> str:
    """A valid CHAT_MESSAGE as its text; every call makes another ciphertext."""
    ciphertext, nonce = os.urandom(size), os.urandom(12)
    fields = {
        "recipient": recipient,
        "ciphertext": base64.b64encode(ciphertext).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "seq": seq,
        "ts": 1_767_225_600.0 + seq,
        "hash": base64.b64encode(message_hash(ciphertext, nonce, seq)).decode(),
    }
    return json.dumps(fields)


async def receive(connection: ClientConnection) -> dict[str, Any]:
    """The next frame; ConnectionClosed is raised when the connection has ended."""
    async with asyncio.timeout(PATIENCE):
        frame: dict[str, Any] = json.loads(await connection.recv())
    return frame


async def send(connection: ClientConnection, text: str) -> dict[str, Any]:
    """Send one message and return what answers it: ACK or ERROR."""
    await connection.send(text)
    while True:
        frame = await receive(connection)
        if frame["type"] in ("ACK", "ERROR"):
            return frame


async def resume(connection: ClientConnection, after: int = 0) -> tuple[list[dict[str, Any]], Any]:
    """RESUME: the messages replayed, and the RESUMED that ends them."""
    await connection.send(json.dumps({"type": "RESUME", "after": after}))
    replayed: list[dict[str, Any]] = []
    while True:
        frame = await receive(connection)
        if frame["type"] == "RESUMED":
            return replayed, frame
        if frame["type"] == "CHAT_MESSAGE":
            replayed.append(frame)


def ledger_messages(path: Path) -> list[dict[str, Any]]:
    """The MESSAGE records of a ledger in dialect v1, each with its ``position``."""
    found = []
    for position, line in enumerate(path.read_bytes().splitlines(), start=1):
        record = json.loads(line)
        if record["event_type"] == "MESSAGE":
            found.append({**record, "position": position})
    return found

"""The servers under measurement as processes: starting, their CPU time, their metrics, stopping."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt

OURS: Final = "ours"
RELAY: Final = "relay"
PROTOTYPE: Final = "prototype"
SIGNED: Final = "signed"  # ours, when every message is signed by a registered device
NAMES: Final = (RELAY, PROTOTYPE, OURS, SIGNED)
_OF_OURS: Final = (OURS, SIGNED)
STOP_SECONDS: Final = 15
_LISTENING: Final = re.compile(r"listening on http://[^ ]*:([0-9]+)")
_TOKEN_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``secret`` signs tokens for ours; baselines take the wallet itself."""

    name: str
    process: subprocess.Popen[str]
    port: int
    secret: str

    @property
    def is_ours(self) -> bool:
        return self.name in _OF_OURS

    def token(self, wallet: str) -> str:
        if not self.is_ours:
            return wallet
        claims = {"sub": wallet, "scope": "user", "exp": time.time() + _TOKEN_SECONDS}
        return jwt.encode(claims, self.secret, "HS256")

    def cpu_seconds(self) -> float:
        """CPU time so far of all its threads, and of the processes that it started: user and system
        (proc(5), fields 14 and 15)."""
        root = Path(f"/proc/{self.process.pid}")
        children = [
            child for task in root.glob("task/*/children") for child in task.read_text().split()
        ]
        processes = [root, *(Path(f"/proc/{child}") for child in children)]
        return sum(cpu_of_stat((process / "stat").read_text()) for process in processes)

    def memory(self) -> int:
        """Bytes of it that are resident (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+([0-9]+) kB$", status, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the {self.name} server has ended")
        return int(found[1]) << 10

    def groups(self) -> tuple[float, float]:
        """(group commits, messages in them) so far; zeros for a server that has none."""
        if not self.is_ours:
            return 0.0, 0.0
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return groups_of_metrics(answer.read().decode())


def cpu_of_stat(text: str) -> float:
    """Seconds of CPU in the text of /proc/PID/stat; the name in it may hold anything."""
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def groups_of_metrics(text: str) -> tuple[float, float]:
    """(group commits, messages in them) from an exposition of the server's metrics."""
    found = dict(re.findall(r"^secure_chat_group_messages_(count|sum) (\S+)$", text, re.MULTILINE))
    return float(found.get("count", 0)), float(found.get("sum", 0))


@contextlib.contextmanager
def running(name: str, directory: Path) -> Iterator[Server]:
    """Start server ``name`` with its files in ``directory``; stop it at the end.

    Raises RuntimeError when it does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_hex(32)
    environment = {
        **os.environ,
        "JWT_SECRET": secret,
        # The limits are not what is measured.
        "SECURE_CHAT_RATE_PER_SECOND": "1e9",
        "SECURE_CHAT_BURST": "1000000000",
        "SECURE_CHAT_REQUIRE_SIGNATURES": "true" if name == SIGNED else "false",
    }
    environment.pop("GENESIS_LEDGER_PATH", None)
    module = "plugins.secure_chat" if name in _OF_OURS else "plugins.secure_chat.bench.baseline"
    arguments = (
        ["serve", "--port", "0", "--data-dir", str(directory)]
        if name in _OF_OURS
        else [name, str(directory)]
    )
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 (our own modules)
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        match = _LISTENING.search(process.stdout.readline())
        if match is None:
            raise RuntimeError(f"the {name} server did not start; see {directory / 'server.log'}")
        yield Server(name, process, int(match[1]), secret)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

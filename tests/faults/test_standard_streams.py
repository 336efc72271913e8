"""A server is started without its standard streams, or with an output that takes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.faults.server import PATIENCE, authorization, command, environment, message
from tests.kept_port import KeptPort

pytestmark = pytest.mark.fault

STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def port() -> Iterator[int]:
    kept = KeptPort()
    yield kept.number
    kept.close()


def started(closed: tuple[str, ...], *server: str) -> subprocess.Popen[bytes]:
    with Path("/dev/full").open("wb") as full:
        return subprocess.Popen(
            server,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if closed else full,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(close, [STANDARD[name] for name in closed]),
        )


@pytest.mark.parametrize(
    "closed", [("stdin",), ("stdin", "stderr"), ("stdout",), ("stdin", "stdout", "stderr"), ()]
)
async def test_a_server_without_standard_streams_serves_and_ends_well(
    tmp_path: Path, closed: tuple[str, ...], port: int
) -> None:
    """None closed: stdout takes nothing."""
    data = tmp_path / "data"
    process = started(closed, *command(data), "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as client:
            while True:
                assert process.poll() is None
                try:
                    await client.get("/health/ready")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.1)  # it starts meanwhile
            opened = Path(f"/proc/{process.pid}/fd")
            assert [os.readlink(opened / str(STANDARD[name])) for name in closed] == [
                os.devnull for _ in closed
            ]
            sent = await client.post(
                "/v1/chat/messages", headers=authorization("alice"), content=message("bob", 1)
            )
        assert sent.is_success, sent.text
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    finally:
        process.kill()
        process.wait()

"""A ledger that is shorter than what was seen durable is not taken silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.server import LEDGER, Server, message, send

pytestmark = pytest.mark.fault


async def test_a_start_on_a_cut_ledger_says_that_it_is_not_what_was_seen(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        async with server.socket("sender") as sender:
            for seq in range(1, 5):
                assert (await send(sender, message("reader", seq)))["type"] == "ACK"
        server.terminate()
    with Server(data) as server:
        assert "ledger.not_what_was_seen" not in server.log()
        server.terminate()
    ledger = data / LEDGER
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    with Server(data) as server:
        assert "ledger.not_what_was_seen" in server.log()

"""What a start reads of its ledger: what is new at once, the rest behind the running server."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest

from tests.plugin.chat_server import ALICE, BOB, PLUGIN, SECRET, chat_server, message, serving
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

LEDGER = "genesis_ledger.jsonl"


def _history(data: Path, count: int) -> None:
    """``count`` messages, and a checkpoint behind them."""
    with chat_server(data) as server, server.peer(ALICE) as alice:
        for seq in range(1, count + 1):
            assert alice.ask(message(BOB, seq))["type"] == "ACK"


def test_an_older_part_that_does_not_verify_stops_the_running_ledger(tmp_path: Path) -> None:
    _history(tmp_path, 100)
    ledger = tmp_path / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(ALICE.encode(), ALICE.replace("a1a1", "a1a2", 1).encode())
    ledger.write_bytes(b"".join(lines))
    with chat_server(tmp_path) as server, server.peer(ALICE) as alice:

        def stopped() -> bool:
            return server.http.get("/health/ready").status_code == 503

        server.wait_for(stopped, "not ready")
        (reason,) = server.http.get("/health/ready").json()["reasons"][:1]
        assert "its older part does not verify: line 3 (index 2)" in reason
        refused = alice.ask(message(BOB, 101))
        assert (refused["code"], refused["detail"]) == ("ledger_unavailable", reason)
    assert ledger.read_bytes() == b"".join(lines)


def test_an_older_part_that_verifies_is_read_to_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _history(tmp_path, 100)
    caplog.set_level(logging.INFO, "plugins.secure_chat")
    with chat_server(tmp_path) as server, server.peer(ALICE) as alice:
        assert alice.ask(message(BOB, 101))["position"] == 101
        server.wait_for(
            lambda: "ledger.history_verified position=100" in caplog.text,
            "the older part verified",
        )
        assert server.http.get("/health/ready").status_code == 200


def test_a_ledger_that_another_plugin_opened_first_is_indexed_all_the_same(tmp_path: Path) -> None:
    _history(tmp_path, 3)
    for name in tmp_path.glob("mailbox.sqlite*"):
        name.unlink()  # so that all of it must come from the ledger

    hookimpl = pluggy.HookimplMarker("atlas")

    class Early:
        @hookimpl
        def atlas_start(self, host: SimpleNamespace) -> None:
            host.hook.atlas_ledger().append_event("LOGIN", ALICE, {"source": "early"}, "")

    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    with (
        serving(create_app(settings, [Early(), PLUGIN]), tmp_path) as server,
        server.peer(ALICE) as alice,
    ):
        assert alice.ask(message(BOB, 3))["code"] == "sequence_conflict"
        assert alice.ask(message(BOB, 4))["position"] == 5

"""The fixtures that are shipped to plugin authors do what their module says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pluggy
import pytest
from fastapi import APIRouter, WebSocket
from websockets.sync.client import connect

from v13.ATLAS.src.plugins.testing import HostDidNotStart, StartHost, Wallet

hookimpl = pluggy.HookimplMarker("atlas")


class Echo:
    """A plugin with one route of each kind."""

    @hookimpl
    def atlas_routes(self) -> list[APIRouter]:
        router = APIRouter()

        @router.get("/hello")
        def hello() -> dict[str, str]:
            return {"hello": "world"}

        @router.websocket("/echo")
        async def echo(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(await websocket.receive_text())
            await websocket.close()

        return [router]


def test_a_started_host_answers_over_http_and_websocket(start_host: StartHost) -> None:
    host = start_host([Echo()])
    assert host.http.get("/hello").json() == {"hello": "world"}
    with connect(host.ws_url("/echo"), proxy=None) as socket:
        socket.send("over there")
        assert socket.recv() == "over there"


def test_a_made_wallet_logs_in_and_the_ledger_has_it(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    host = start_host()
    wallet = make_wallet()
    assert host.login(wallet).count(".") == 2
    assert wallet.address in host.ledger_path.read_text()
    assert make_wallet().address != wallet.address


def test_a_host_started_after_a_stop_continues_the_same_ledger(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    first = start_host()
    first.login(make_wallet())
    first.stop()
    second = start_host()
    second.login(make_wallet())
    assert len(second.ledger_path.read_text().splitlines()) == 2


def test_a_plugin_that_fails_to_start_is_told_to_the_test(start_host: StartHost) -> None:
    class Failing:
        @hookimpl
        def atlas_start(self) -> None:
            raise OSError("no such disk")

    with pytest.raises(HostDidNotStart):
        start_host([Failing()])


def test_files_stay_in_the_temporary_directory(start_host: StartHost, tmp_path: Path) -> None:
    host = start_host()
    assert host.settings.data_dir.is_relative_to(tmp_path)
    assert host.ledger_path.is_relative_to(tmp_path)

"""A foreign application chats by the one call of docs/adopting.md, with its own user lookup."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy
from fastapi import FastAPI
from fastapi.testclient import TestClient

from plugins.secure_chat.audit import audit_ledger
from tests.plugin.sealed import sealed_frame
from v13.ATLAS.src.plugins.hookspecs import Principal
from v13.ATLAS.src.plugins.install import install

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

hookimpl = pluggy.HookimplMarker("atlas")


class OwnUsers:
    """The host's opaque tokens: the user's id behind a word."""

    @hookimpl
    def atlas_authenticate(self, token: str) -> Principal | None:
        if not token.startswith("ascon1."):
            return None
        return Principal(token.removeprefix("ascon1."), time.time() + 60, frozenset({"user"}))


def test_one_call_installs_chat_and_keeps_the_hosts_own_lifespan(tmp_path: Path) -> None:
    life: list[str] = []

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[None]:
        life.append("up")
        yield
        life.append("down")

    app = FastAPI(lifespan=own)
    ledger = tmp_path / "genesis_ledger.jsonl"
    install(app, [OwnUsers()], data_dir=tmp_path, ledger_path=ledger)
    alice, bob = "user_" + "a" * 32, "wallet_alice"
    with TestClient(app) as client:
        headers = {"Authorization": f"Bearer ascon1.{bob}"}
        with client.websocket_connect("/v1/chat/ws", headers=headers) as socket:
            assert socket.receive_json()["type"] == "READY"
            posted = client.post(
                "/v1/chat/messages",
                json=sealed_frame(recipient=bob, seq=1),
                headers={"Authorization": f"Bearer ascon1.{alice}"},
            )
            assert posted.status_code == 201
            delivered = socket.receive_json()
        assert (delivered["sender"], delivered["position"]) == (alice, 1)
    assert life == ["up", "down"]
    assert audit_ledger(ledger).sound


def test_a_token_that_no_verifier_knows_is_refused(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, [OwnUsers()], data_dir=tmp_path, ledger_path=tmp_path / "ledger.jsonl")
    with TestClient(app) as client:
        answer = client.get("/v1/chat/threads", headers={"Authorization": "Bearer other"})
    assert answer.status_code == 401

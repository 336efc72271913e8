"""A foreign application chats by the steps of docs/adopting.md, with its own users and ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from websockets.sync.client import connect

from plugins.secure_chat.audit import audit_ledger
from tests.plugin.chat_server import WAIT, Peer
from tests.plugin.sealed import sealed_frame
from tests.plugin.test_foreign_host import LEDGERS
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


ROOT = Path(__file__).parents[2]
STEPS = (ROOT / "docs" / "adopting.md").read_text()
OWN_MODULE = """
import os
import time
from pathlib import Path
from types import SimpleNamespace

from fastapi import FastAPI

from tests.plugin.test_foreign_host import LEDGERS


def our_lookup(token):
    if token.startswith("ours."):
        user = token.removeprefix("ours.")
        return SimpleNamespace(id=user, expires_at=time.time() + 600, scopes=["user"])
    return None


our_genesis_ledger = LEDGERS[os.environ["OUR_LEDGER"]]("genesis_ledger.jsonl")
app = FastAPI()
"""


def step(pattern: str) -> str:
    """What the document has there, once."""
    (found,) = re.findall(pattern, STEPS, re.DOTALL)
    return textwrap.dedent(found)


@contextmanager
def the_documents_host(directory: Path, ledger: str) -> Iterator[str]:
    """A process made by steps 3 to 5, word for word; the address where it listens."""
    services, install_line = re.findall(r"```python\n(.*?)```", STEPS, re.DOTALL)[:2]
    parts = [
        step(r"with `(from [^`]+ import install)`"),
        OWN_MODULE,
        textwrap.dedent(services),
        textwrap.dedent(install_line),
    ]
    (directory / "your").mkdir()
    (directory / "your" / "main.py").write_text("\n".join(parts))
    command = step(r"\n       (uvicorn your\.main:app .*?)\n\n").replace("\\\n", " ").split()
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", "0"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{directory}:{ROOT}", "OUR_LEDGER": ledger},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"running on http://([\d.:]+)", line):
                yield found[1]
                return
        pytest.fail("the document's host did not start: " + "".join(log))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)


@pytest.mark.parametrize("ledger", LEDGERS)
def test_the_documents_steps_word_for_word_make_a_foreign_application_chat(
    tmp_path: Path, ledger: str
) -> None:
    with the_documents_host(tmp_path, ledger) as address:

        def peer(user: str) -> Peer:
            headers = {"Authorization": f"Bearer ours.{user}"}
            url = f"ws://{address}/v1/chat/ws"
            return Peer(connect(url, additional_headers=headers, proxy=None, open_timeout=WAIT))

        alice, bob = peer("user_alice"), peer("user_bob")
        with alice.connection, bob.connection:
            assert [one.receive()["type"] for one in (alice, bob)] == ["READY", "READY"]
            ack = alice.ask(sealed_frame(recipient="user_bob", seq=1))
            assert (ack["type"], ack["position"]) == ("ACK", 1)
            assert bob.receive()["sender"] == "user_alice"
            assert alice.connection.response is not None
            assert "permessage-deflate" not in str(alice.connection.response.headers)
    path = tmp_path / "genesis_ledger.jsonl"
    assert audit_ledger(path).sound
    assert json.loads(path.read_text())["wallet"] == "user_alice"

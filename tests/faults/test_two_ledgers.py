"""Two servers with ledgers of their own are given one database."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from plugins.secure_chat import runtime
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox
from tests import postgres
from tests.faults.server import LEDGER, PATIENCE, Server, authorization, refused_start
from tests.plugin.chat_server import ALICE, BOB, chat_server, message

pytestmark = pytest.mark.fault


def thread(server: Server, wallet: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/chat/threads",
        headers=authorization(wallet),
        json={"members": ["friend"]},
        timeout=PATIENCE,
        trust_env=False,
    )


def test_the_second_server_is_refused_and_the_first_goes_on(
    tmp_path: Path, database_url: str
) -> None:
    with Server(tmp_path / "one", database_url=database_url) as one:
        assert thread(one, "alice").status_code == 201
        code, said = refused_start(tmp_path / "two", database_url=database_url)
        assert code == 2
        assert "give each ledger its own database" in said
        assert "Traceback" not in said
        assert (tmp_path / "two" / LEDGER).read_bytes() == b""
        assert thread(one, "alice").status_code == 201
        one.process.send_signal(signal.SIGKILL)
    with Server(tmp_path / "one", database_url=database_url) as one:  # the claim died with it
        assert thread(one, "alice").status_code == 201


@pytest.mark.postgres
def test_a_database_that_was_restarted_is_claimed_again_though_nobody_writes(
    tmp_path: Path, own_cluster: postgres.Cluster
) -> None:
    with chat_server(tmp_path / "one", database_url=own_cluster.url) as server:
        first = server.post(ALICE, message(BOB, 1))
        assert first.status_code == 201
        own_cluster.stop()
        own_cluster.start()
        server.wait_for(lambda: postgres.locks(own_cluster.url) == 1, "the claim")
        code, said = refused_start(tmp_path / "two", database_url=own_cluster.url)
        assert (code, "give each ledger its own database" in said) == (2, True)
        assert server.post(ALICE, message(BOB, 2)).status_code == 201
        assert server.http.get("/health/ready").status_code == 200


@pytest.mark.postgres
def test_a_database_that_another_server_took_meanwhile_stops_the_first(
    tmp_path: Path, own_cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_HOLD_SECONDS", 3600)  # so that the other is first
    with chat_server(tmp_path, database_url=own_cluster.url) as server:
        assert server.post(ALICE, message(BOB, 1)).status_code == 201
        own_cluster.stop()
        own_cluster.start()
        other = Mailbox(engine_for(own_cluster.url))
        other.claim()
        other.close()
        # The first is logged, for nothing was known then; from then on nothing is.
        refused = server.post(ALICE, message(BOB, 2))
        logged = server.ledger.read_bytes()
        again = server.post(ALICE, message(BOB, 3))
        for answer in (refused, again):
            assert answer.status_code == 503
        assert "another server has written to its database" in again.json()["detail"]
        assert server.http.get("/health/ready").status_code == 503
        assert server.get(f"/v1/chat/threads/{BOB}/messages", ALICE).status_code == 503
        assert server.ledger.read_bytes() == logged

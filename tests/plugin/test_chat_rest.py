"""REST beside the socket: the same messages and codes, every refusal a problem, and no 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    WAIT,
    ChatServer,
    chat_server,
    message,
    token,
)

EXAMPLES = 15
# Their parameters are names, and no name is wrong before it is looked up.
TAKE_NOTHING_WRONG = (
    ("GET", "/v1/chat/ledger/head"),
    ("GET", "/v1/chat/threads/{thread}"),
    ("DELETE", "/v1/chat/threads/{thread}/members/{member}"),
    ("GET", "/secure-chat/threads/{thread_id}"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    limits = {"rate_per_second": 1e6, "burst": 1_000_000}
    with chat_server(tmp_path_factory.mktemp("chat"), **limits) as server:
        yield server


def test_a_posted_message_is_acknowledged_delivered_and_known_again(server: ChatServer) -> None:
    sent = message(BOB, 1)
    with server.peer(BOB) as bob, server.peer(ALICE) as alice:
        created = server.post(ALICE, sent)
        assert created.status_code == 201
        receipt = created.json()
        for peer in (bob, alice):
            frame = peer.receive()
            assert (frame["sender"], frame["position"]) == (ALICE, receipt["position"])
        again = server.post(ALICE, {"type": "CHAT_MESSAGE", **sent})
        assert again.status_code == 200
        assert again.json() == {**receipt, "duplicate": True}
        assert alice.ask(sent) == {**receipt, "duplicate": True}
        assert bob.silent()
    conflict = server.post(ALICE, message(BOB, 1))
    assert (conflict.status_code, conflict.json()["code"]) == (409, "sequence_conflict")
    assert server.post(ALICE, message(BOB, 3)).json()["gap"] == 1
    replayed = server.post(ALICE, message(BOB, 2))
    assert (replayed.status_code, replayed.json()["code"]) == (409, "replayed_sequence")
    assert replayed.json()["last_seq"] == 3


@pytest.mark.parametrize("frame", [{"type": "PING"}, {"type": "AUTH", "token": "t"}])
def test_only_messages_can_be_posted(server: ChatServer, frame: dict[str, Any]) -> None:
    problem = server.post(ALICE, frame)
    assert (problem.status_code, problem.json()["code"]) == (400, "malformed_frame")


def test_threads_are_newest_first_and_history_is_paged_in_ledger_order(server: ChatServer) -> None:
    owner = "history-owner"
    positions = [
        server.post(owner, message(peer, seq)).json()["position"]
        for seq in (1, 2, 3)
        for peer in ("first", "second")
    ]
    mine, theirs = positions[0::2], positions[1::2]
    threads = server.get("/v1/chat/threads", owner).json()
    assert [(t["peer"], t["position"]) for t in threads] == [
        ("second", theirs[-1]),
        ("first", mine[-1]),
    ]
    assert {"peer", "last_active", "msg_id"} <= set(threads[0])
    assert len(server.get("/v1/chat/threads", owner, limit=1, offset=1).json()) == 1

    def page(wallet: str, **parameters: int) -> list[int]:
        peer = "first" if wallet == owner else owner
        found = server.get(f"/v1/chat/threads/{peer}/messages", wallet, **parameters)
        return [frame["position"] for frame in found.json()["messages"]]

    assert page(owner) == page("first") == mine
    assert page(owner, limit=2) == mine[:2]
    assert page(owner, after=mine[0]) == mine[1:]
    assert page(owner, before=mine[2], limit=1) == mine[1:2]
    assert page(owner, after=mine[0], before=mine[2]) == mine[1:2]
    assert page(owner, after=mine[2]) == []


def test_the_head_is_that_of_the_ledger(server: ChatServer) -> None:
    receipt = server.post(CAROL, message(BOB, 1)).json()
    head = server.get("/v1/chat/ledger/head", CAROL).json()
    assert head == {"position": receipt["position"], "event_hash": receipt["event_hash"]}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/threads?limit=abc", "limit"),
        ("/v1/chat/threads?limit=0", "limit"),
        ("/v1/chat/threads?limit=201", "limit"),
        ("/v1/chat/threads?offset=-1", "offset"),
        ("/v1/chat/threads/bob/messages?after=-1", "after"),
        ("/v1/chat/threads/bob/messages?before=0", "before"),
        ("/v1/chat/threads/bob/messages?after=9007199254740993", "after"),
        ("/v1/chat/threads/bob/messages?after=1e400", "after"),
        ("/v1/chat/threads/a%20b/messages", "peer"),
        (f"/v1/chat/threads/{'a' * 129}/messages", "peer"),
    ],
)
def test_a_bad_parameter_is_a_problem_that_names_it(
    server: ChatServer, path: str, field: str
) -> None:
    problem = server.http.get(path, headers={"Authorization": f"Bearer {token(ALICE)}"})
    assert problem.status_code == 422
    assert problem.headers["content-type"] == "application/problem+json"
    body = problem.json()
    assert (body["code"], body["field"], body["status"]) == ("invalid_message", field, 422)
    assert "abc" not in body["detail"]


def test_without_a_token_every_route_is_a_problem(server: ChatServer) -> None:
    for method, path in (
        ("POST", "/v1/chat/messages"),
        ("GET", "/v1/chat/threads"),
        ("GET", "/v1/chat/threads/bob/messages"),
        ("GET", "/v1/chat/ledger/head"),
    ):
        for header in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}):
            problem = server.http.request(method, path, headers=header)
            assert problem.status_code == 401
            assert problem.headers["content-type"] == "application/problem+json"
            assert problem.headers["www-authenticate"] == "Bearer"
            assert problem.json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/messages"),
        ("GET", "/v1/chat/threads"),
        ("GET", "/v1/chat/threads/{peer}/messages"),
        ("GET", "/v1/chat/ledger/head"),
        ("PUT", "/v1/chat/identity"),
        ("POST", "/v1/chat/devices"),
        ("POST", "/v1/chat/revocations"),
        ("PUT", "/v1/chat/devices/{device}/prekeys"),
        ("GET", "/v1/chat/devices/{device}/prekeys"),
        ("GET", "/v1/chat/identities/{wallet}"),
        ("POST", "/v1/chat/identities/{wallet}/claim"),
        ("POST", "/v1/chat/threads"),
        ("GET", "/v1/chat/threads/{thread}"),
        ("POST", "/v1/chat/threads/{thread}/members"),
        ("DELETE", "/v1/chat/threads/{thread}/members/{member}"),
        ("PUT", "/v1/chat/threads/{thread}/status"),
        ("POST", "/secure-chat/threads"),
        ("GET", "/secure-chat/threads"),
        ("GET", "/secure-chat/threads/{thread_id}"),
        ("POST", "/secure-chat/messages"),
        ("GET", "/secure-chat/threads/{thread_id}/messages"),
        ("PUT", "/secure-chat/threads/{thread_id}/status"),
    ],
)
def test_nothing_that_the_schema_allows_or_forbids_is_a_server_error(
    server: ChatServer, method: str, path: str
) -> None:
    schema = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())
    operation = schema[path][method]
    seen: set[int] = set()

    modes = [schemathesis.GenerationMode.POSITIVE]
    if (method, path) not in TAKE_NOTHING_WRONG:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            answer = case.call(
                base_url=str(server.http.base_url).rstrip("/"),
                headers={"Authorization": f"Bearer {token(ALICE)}"},
                timeout=WAIT,
            )
            seen.add(answer.status_code)
            assert answer.status_code < 500
            if answer.status_code in (401, 409, 413, 422, 429):
                assert answer.headers["content-type"] == ["application/problem+json"]

        ask()
    assert seen

"""The legacy contract, the same at every stage: fields, statuses, order of fields and of lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.legacy import contract
from tests.plugin.chat_server import ALICE, BOB, CAROL, token
from tests.regression.legacy_server import LegacyClient, at_stage, detail_of

ANSWERING = (Stage.LEGACY, Stage.SHADOW, Stage.DUAL, Stage.V2)
THREAD = [
    "thread_id",
    "creator_id",
    "participants",
    "created_at",
    "status",
    "metadata",
    "transaction_id",
]
MESSAGE = [
    "message_id",
    "thread_id",
    "sender_id",
    "content_hash",
    "content_size",
    "timestamp",
    "message_type",
    "transaction_id",
]


@pytest.fixture(scope="module", params=ANSWERING)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LegacyClient]:
    stage: Stage = request.param
    with at_stage(tmp_path_factory.mktemp(stage), stage) as (_, client):
        yield client


@pytest.fixture(params=["/secure-chat", "/api/v1/secure-chat"])
def legacy(request: pytest.FixtureRequest, server: LegacyClient) -> LegacyClient:
    """A client of each of the contract's paths."""
    return LegacyClient(server.http, request.param)


def fields(answer: httpx.Response) -> list[str]:
    """The answer's fields in the order in which they stand."""
    pairs: list[tuple[str, Any]] = json.loads(answer.text, object_pairs_hook=list)
    return [name for name, _ in pairs]


def is_a_moment(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None


def test_a_thread_is_created(legacy: LegacyClient) -> None:
    body = {"participants": [BOB], "title": "T", "metadata": {"purpose": "test", "n": [1, None]}}
    answer = legacy.ask(ALICE, "POST", "/threads", body)
    assert answer.status_code == 201
    assert fields(answer) == THREAD
    thread = answer.json()
    assert thread["creator_id"] == ALICE
    assert thread["participants"] == [BOB, ALICE]
    assert thread["status"] == "ACTIVE"
    assert thread["metadata"] == {"purpose": "test", "n": [1, None]}
    assert thread["transaction_id"] == thread["thread_id"]
    assert is_a_moment(thread["created_at"])
    for member in (ALICE, BOB):
        shown = legacy.ask(member, "GET", f"/threads/{thread['thread_id']}")
        assert (shown.status_code, fields(shown)) == (200, THREAD)
        assert shown.json() == thread


def test_participants_keep_their_order_and_the_creator_comes_last_unless_named(
    legacy: LegacyClient,
) -> None:
    assert legacy.create(ALICE, "zoe", "adam")["participants"] == ["zoe", "adam", ALICE]
    assert legacy.create(ALICE, ALICE, "adam")["participants"] == [ALICE, "adam"]
    assert legacy.create(ALICE, ALICE)["participants"] == [ALICE]
    mixed = legacy.create(ALICE, BOB.replace("b", "B"), BOB, "Mixed", "mixed")
    assert mixed["participants"] == [BOB, "Mixed", "mixed", ALICE]


def test_metadata_and_title_may_be_left_out(legacy: LegacyClient) -> None:
    assert legacy.create(ALICE, BOB)["metadata"] == {}
    assert legacy.create(ALICE, BOB, title=None, metadata=None)["metadata"] == {}


def test_a_hundred_participants_are_the_most(legacy: LegacyClient) -> None:
    names = [f"wallet_{n}" for n in range(101)]
    assert legacy.create(ALICE, *names[:100])["participants"] == [*names[:100], ALICE]
    assert legacy.create(names[7], *names[:100])["participants"] == names[:100]
    for participants in ([], names, [ALICE, *names[:100]]):
        refused = legacy.ask(ALICE, "POST", "/threads", {"participants": participants})
        assert refused.status_code == 422
        detail_of(refused)


def test_a_message_is_posted_and_listed(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    body = {
        "thread_id": thread,
        "content_hash": "aB" * 32,
        "content_size": 1 << 20,
        "content_type": "image/png",
        "message_type": "file",
        "metadata": {"kind": "unit-test"},
    }
    answer = legacy.ask(BOB, "POST", "/messages", body)
    assert answer.status_code == 201
    assert fields(answer) == MESSAGE
    message = answer.json()
    assert message["sender_id"] == BOB
    for field in ("thread_id", "content_hash", "content_size", "message_type"):
        assert message[field] == body[field]
    assert message["transaction_id"] == message["message_id"]
    assert is_a_moment(message["timestamp"])
    listed = legacy.ask(ALICE, "GET", f"/threads/{thread}/messages")
    assert (listed.status_code, fields(listed)) == (200, ["messages", "total", "thread_id"])
    assert listed.json() == {"messages": [message], "total": 1, "thread_id": thread}
    assert list(json.loads(listed.text)["messages"][0]) == MESSAGE
    assert legacy.post(ALICE, thread)["message_type"] == "text"


def test_messages_come_in_order_and_a_page_is_the_last_ones(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    posted = [legacy.post((ALICE, BOB)[n % 2], thread, f"{n:x}") for n in range(6)]
    assert legacy.messages(ALICE, thread)["messages"] == posted
    page = legacy.messages(BOB, thread, limit=2)
    assert (page["messages"], page["total"]) == (posted[-2:], 6)
    earlier = legacy.messages(BOB, thread, limit=2, before=posted[4]["timestamp"])
    assert (earlier["messages"], earlier["total"]) == (posted[2:4], 4)
    assert legacy.messages(BOB, thread, limit=10**6)["messages"] == posted
    assert legacy.messages(BOB, thread, before="0")["messages"] == []


def test_a_page_has_a_hundred_entries_when_no_number_is_asked_for(server: LegacyClient) -> None:
    assert contract.LARGEST_PAGE == 1_000
    thread = server.create(ALICE, BOB)["thread_id"]
    posted = [server.post(ALICE, thread, f"{n % 16:x}") for n in range(101)]
    shown = server.messages(ALICE, thread)
    assert (shown["messages"], shown["total"]) == (posted[1:], 101)
    made = [server.create("of-many", BOB) for _ in range(101)]
    listed = server.threads("of-many")
    assert (listed["threads"], listed["total"]) == (made[:100], 101)


def test_threads_are_listed_oldest_first_in_pages(legacy: LegacyClient) -> None:
    owner = f"owner{legacy.prefix.count('/')}"
    made = [legacy.create(owner, BOB) for _ in range(3)]
    other = legacy.create(CAROL, owner)
    listed = legacy.ask(owner, "GET", "/threads")
    assert (listed.status_code, fields(listed)) == (200, ["threads", "total"])
    assert listed.json() == {"threads": [*made, other], "total": 4}
    assert list(json.loads(listed.text)["threads"][0]) == THREAD
    page = legacy.threads(owner, limit=2, offset=1)
    assert page == {"threads": made[1:], "total": 4}
    assert legacy.threads(owner, offset=4) == {"threads": [], "total": 4}
    assert legacy.threads("nobody") == {"threads": [], "total": 0}


def test_the_creator_sets_the_status(legacy: LegacyClient) -> None:
    created = legacy.create(ALICE, BOB, title="T", metadata={"a": 1})
    thread = created["thread_id"]
    for status in ("ARCHIVED", "DRAFT", "ACTIVE", "ACTIVE"):
        changed = legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status=status)
        assert (changed.status_code, fields(changed)) == (200, ["status", "transaction_id"])
        assert changed.json()["status"] == "updated"
        assert changed.json()["transaction_id"]
        assert legacy.thread(BOB, thread) == {**created, "status": status}
        posting = legacy.ask(
            BOB,
            "POST",
            "/messages",
            {"thread_id": thread, "content_hash": "a" * 64, "content_size": 1},
        )
        assert posting.status_code == (201 if status == "ACTIVE" else 422)
    refused = legacy.ask(BOB, "PUT", f"/threads/{thread}/status", status="ARCHIVED")
    assert refused.status_code == 403
    detail_of(refused)


def test_deleted_is_final(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    assert legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status="DELETED").is_success
    again = legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status="ACTIVE")
    assert again.status_code == 422
    assert legacy.thread(BOB, thread)["status"] == "DELETED"


@pytest.mark.parametrize("status", ["OPEN", "active", "", None])
def test_a_status_that_there_is_not_is_422(legacy: LegacyClient, status: str | None) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    refused = legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status=status)
    assert refused.status_code == 422
    detail_of(refused)


def test_who_is_no_participant_is_refused(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    body = {"thread_id": thread, "content_hash": "a" * 64, "content_size": 1}
    for method, path, given in (
        ("GET", f"/threads/{thread}", None),
        ("GET", f"/threads/{thread}/messages", None),
        ("PUT", f"/threads/{thread}/status?status=ACTIVE", None),
        ("POST", "/messages", body),
    ):
        refused = legacy.ask(CAROL, method, path, given)
        assert refused.status_code == 403, (method, path)
        detail_of(refused)


@pytest.mark.parametrize("thread", ["0" * 64, "thread_" + "0" * 32, "dummy-thread", "x" * 300])
def test_an_unknown_thread_is_404(legacy: LegacyClient, thread: str) -> None:
    body = {"thread_id": thread, "content_hash": "a" * 64, "content_size": 1}
    for method, path, given in (
        ("GET", f"/threads/{thread}", None),
        ("GET", f"/threads/{thread}/messages", None),
        ("PUT", f"/threads/{thread}/status?status=ACTIVE", None),
        ("POST", "/messages", body),
    ):
        refused = legacy.ask(ALICE, method, path, given)
        assert refused.status_code == 404, (method, path)
        detail_of(refused)


def test_without_a_token_every_route_is_401(legacy: LegacyClient) -> None:
    for method, path in (
        ("POST", "/threads"),
        ("GET", "/threads"),
        ("GET", "/threads/x"),
        ("POST", "/messages"),
        ("GET", "/threads/x/messages"),
        ("PUT", "/threads/x/status?status=ACTIVE"),
    ):
        refused = legacy.ask(None, method, path, {} if method == "POST" else None)
        assert refused.status_code == 401, (method, path)
        assert refused.headers["www-authenticate"] == "Bearer"
        detail_of(refused)
        bad = legacy.http.request(
            method, legacy.prefix + path, headers={"Authorization": "Bearer abc"}, json={}
        )
        assert bad.status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"content_hash": "a" * 63},
        {"content_hash": "a" * 65},
        {"content_hash": "g" * 64},
        {"content_hash": "a" * 64 + "\n"},
        {"content_hash": None},
        {"content_size": 0},
        {"content_size": -1},
        {"content_size": (1 << 20) + 1},
        {"content_size": "large"},
        {"message_type": 7},
    ],
    ids=lambda change: next(f"{name}={str(value)[-9:]!r}" for name, value in change.items()),
)
def test_a_message_that_breaks_the_contract_is_422(
    legacy: LegacyClient, change: dict[str, Any]
) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    body = {"thread_id": thread, "content_hash": "a" * 64, "content_size": 1, **change}
    refused = legacy.ask(ALICE, "POST", "/messages", body)
    assert refused.status_code == 422
    detail_of(refused)
    assert legacy.messages(ALICE, thread)["total"] == 0


def test_a_hash_is_64_hex_digits_and_nothing_else(server: LegacyClient) -> None:
    """Of either case. Every other printable character is tried, at each end, and a digit that is
    not ASCII."""
    thread = server.create(ALICE, BOB)["thread_id"]
    body = {"thread_id": thread, "content_size": 1}
    for hashed in ("0123456789abcdef" * 4, "0123456789ABCDEF" * 4):
        posted = server.ask(ALICE, "POST", "/messages", {**body, "content_hash": hashed})
        assert posted.json()["content_hash"] == hashed
    others = sorted(set(map(chr, range(32, 127))) - set("0123456789abcdefABCDEF"))
    for other in (*others, "\u0663", "\uff11", "\0"):
        for hashed in ("a" * 63 + other, other + "a" * 63):
            refused = server.ask(ALICE, "POST", "/messages", {**body, "content_hash": hashed})
            assert refused.status_code == 422, hashed
    assert server.messages(ALICE, thread)["total"] == 2


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/threads", {"limit": 0}),
        ("/threads", {"limit": "many"}),
        ("/threads", {"offset": -1}),
        ("/threads/x/messages", {"limit": 0}),
    ],
)
def test_a_page_that_there_is_not_is_422(
    legacy: LegacyClient, path: str, parameters: dict[str, Any]
) -> None:
    assert legacy.ask(ALICE, "GET", path, **parameters).status_code == 422


@pytest.mark.parametrize("content", [b"{", b"[" * 50_000, b"\xff"])
def test_a_body_that_is_no_json_is_400(legacy: LegacyClient, content: bytes) -> None:
    headers = {"Authorization": f"Bearer {token(ALICE)}", "Content-Type": "application/json"}
    for path in ("/threads", "/messages"):
        refused = legacy.http.post(legacy.prefix + path, headers=headers, content=content)
        assert refused.status_code == 400
        detail_of(refused)


def test_fields_that_the_contract_does_not_have_are_passed_over(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB, colour="red")
    assert list(thread) == THREAD
    assert list(legacy.post(ALICE, thread["thread_id"], colour="red")) == MESSAGE


def test_ids_are_plain_text_of_one_form(legacy: LegacyClient) -> None:
    thread = legacy.create(ALICE, BOB)["thread_id"]
    message = legacy.post(ALICE, thread)["message_id"]
    for identifier in (thread, message):
        assert re.fullmatch(r"[A-Za-z0-9_.:-]{16,128}", identifier)

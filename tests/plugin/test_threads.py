"""Group threads through the host: who may do what, who sees what, and that the ledger says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.records import Record
from plugins.secure_chat.core.thread import MAX_PARTICIPANTS
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.mailbox.store import Mailbox
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    ChatServer,
    Peer,
    chat_server,
    message,
    token,
)
from tests.plugin.conftest import GiveReceipt

DAVE = "0x" + "d4" * 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ChatServer]:
    with chat_server(tmp_path) as server:
        yield server


def ask(
    server: ChatServer, wallet: str, method: str, path: str = "", body: Any = None
) -> httpx.Response:
    return server.http.request(
        method,
        f"/v1/chat/threads{path}",
        headers={"Authorization": f"Bearer {token(wallet)}"},
        json=body,
    )


def create(server: ChatServer, *members: str, by: str = ALICE, **fields: Any) -> str:
    created = ask(server, by, "POST", body={"members": list(members), **fields})
    assert created.status_code == 201, created.text
    thread: str = created.json()["thread"]
    return thread


def history(server: ChatServer, wallet: str, thread: str, **parameters: int) -> list[int]:
    found = server.get(f"/v1/chat/threads/{thread}/messages", wallet, **parameters)
    assert found.status_code == 200, found.text
    return [frame["position"] for frame in found.json()["messages"]]


def missed(server: ChatServer, wallet: str, after: int = 0) -> list[int]:
    """Positions of what RESUME replays."""
    with server.peer(wallet) as peer:
        peer.send({"type": "RESUME", "after": after})
        return [f["position"] for f in peer.until("RESUMED") if f["type"] == "CHAT_MESSAGE"]


def sent(server: ChatServer, wallet: str, recipient: str, seq: int) -> int:
    answer = server.post(wallet, message(recipient, seq))
    assert answer.status_code == 201, answer.text
    position: int = answer.json()["position"]
    return position


def test_a_thread_is_created_logged_and_shown_to_its_members_only(server: ChatServer) -> None:
    made = ask(
        server,
        ALICE,
        "POST",
        body={"members": [BOB.upper().replace("0X", "0x")], "title": "Plans", "metadata": {"a": 1}},
    )
    assert made.status_code == 201
    thread = made.json()
    assert (thread["creator"], thread["members"]) == (ALICE, [BOB, ALICE])
    assert (thread["status"], thread["title"], thread["metadata"]) == ("ACTIVE", "Plans", {"a": 1})
    for member in (ALICE, BOB):
        assert ask(server, member, "GET", f"/{thread['thread']}").json() == thread
    for stranger, path in ((CAROL, thread["thread"]), (ALICE, "thread_" + "0" * 32), (ALICE, "x")):
        refused = ask(server, stranger, "GET", f"/{path}")
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    for stranger, path in ((CAROL, thread["thread"]), (ALICE, "thread_" + "0" * 32)):
        refused = ask(server, stranger, "GET", f"/{path}/messages")
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")


def test_the_ledger_has_members_and_a_hash_and_never_the_title(server: ChatServer) -> None:
    thread = create(server, BOB, title="a secret title", metadata={"topic": "secret metadata"})
    (record,) = server.records()
    assert (record["event_type"], record["wallet"], record["value"]) == ("THREAD", ALICE, 0)
    metadata = record["metadata"]
    assert (metadata["kind"], metadata["thread"]) == ("created", thread)
    assert metadata["members"] == [BOB, ALICE]
    assert len(bytes.fromhex(metadata["details"])) == 32
    assert b"secret" not in server.ledger.read_bytes()
    again = create(server, BOB, title="a secret title", metadata={"topic": "secret metadata"})
    assert server.records()[-1]["metadata"]["thread"] == again
    assert server.records()[-1]["metadata"]["details"] != metadata["details"]


def test_a_message_to_a_thread_reaches_every_member(
    server: ChatServer, give_receipt: GiveReceipt
) -> None:
    thread = create(server, BOB, CAROL)
    with (
        server.peer(ALICE) as alice,
        server.peer(ALICE) as alices_other,
        server.peer(BOB) as bob,
        server.peer(CAROL) as carol,
        server.peer(DAVE) as dave,
    ):
        receipt = alice.ask(message(thread, 1))
        assert receipt["type"] == "ACK"
        for peer in (bob, carol, alices_other):
            frame = peer.receive()
            assert (frame["type"], frame["sender"], frame["recipient"], frame["position"]) == (
                "CHAT_MESSAGE",
                ALICE,
                thread,
                receipt["position"],
            )
        assert dave.silent()
        assert alice.silent()
        assert give_receipt(dave, receipt["position"]) == ["not_a_member"]
        assert give_receipt(bob, receipt["position"]) == []
        assert alice.receive()["wallet"] == BOB
    assert [missed(server, w) for w in (ALICE, BOB, CAROL, DAVE)] == [
        [receipt["position"]],
        [receipt["position"]],
        [receipt["position"]],
        [],
    ]


def test_only_members_of_an_active_thread_write_to_it(server: ChatServer) -> None:
    thread = create(server, BOB)
    unknown = "thread_" + "f" * 32
    for wallet, recipient in ((CAROL, thread), (ALICE, unknown)):
        refused = server.post(wallet, message(recipient, 1))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    sent(server, BOB, thread, 1)
    for status in ("ARCHIVED", "DRAFT"):
        assert ask(server, ALICE, "PUT", f"/{thread}/status", {"status": status}).is_success
        refused = server.post(BOB, message(thread, 2))
        assert (refused.status_code, refused.json()["field"]) == (422, "recipient")
    assert ask(server, ALICE, "PUT", f"/{thread}/status", {"status": "ACTIVE"}).is_success
    sent(server, BOB, thread, 2)


def test_a_message_to_a_thread_is_a_stream_of_its_own(server: ChatServer) -> None:
    thread = create(server, BOB)
    frame = message(thread, 5)
    first = server.post(ALICE, frame)
    again = server.post(ALICE, frame)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "duplicate": True, "gap": 0}
    assert server.post(ALICE, message(thread, 4)).json()["code"] == "replayed_sequence"
    sent(server, ALICE, BOB, 1)


def test_a_removed_member_sees_nothing_after_its_removal(
    server: ChatServer, give_receipt: GiveReceipt
) -> None:
    thread = create(server, BOB, CAROL)
    before = sent(server, ALICE, thread, 1)
    resent = message(thread, 1)
    by_bob = server.post(BOB, resent).json()["position"]
    with server.peer(BOB) as bob:
        removed = ask(server, ALICE, "DELETE", f"/{thread}/members/{BOB}")
        assert removed.json()["members"] == [CAROL, ALICE]
        notice = bob.receive()
        assert (notice["type"], notice["kind"], notice["members"]) == (
            "THREAD",
            "member_removed",
            [CAROL, ALICE],
        )
        after = sent(server, ALICE, thread, 2)
        assert bob.silent()
        refused = bob.ask(message(thread, 2))
        assert refused["code"] == "not_a_member"
        assert bob.ask(resent)["duplicate"] is True
        assert give_receipt(bob, after) == ["not_a_member"]
    assert missed(server, BOB) == history(server, BOB, thread) == [before, by_bob]
    assert missed(server, CAROL) == history(server, CAROL, thread) == [before, by_bob, after]
    assert ask(server, BOB, "GET", f"/{thread}").status_code == 403
    (item,) = server.get("/v1/chat/threads", BOB).json()
    assert (item["peer"], item["position"]) == (thread, by_bob)


def test_a_new_member_sees_nothing_from_before_it_came(
    server: ChatServer, give_receipt: GiveReceipt
) -> None:
    thread = create(server, BOB)
    before = sent(server, ALICE, thread, 1)
    added = ask(server, ALICE, "POST", f"/{thread}/members", {"members": [CAROL]})
    assert added.json()["members"] == [BOB, ALICE, CAROL]
    seen = sent(server, ALICE, thread, 2)
    with server.peer(CAROL) as carol:
        assert give_receipt(carol, before) == ["not_a_member"]
        assert give_receipt(carol, seen) == []
    assert missed(server, CAROL) == history(server, CAROL, thread) == [seen]


def test_who_comes_back_sees_both_stays_and_nothing_between(server: ChatServer) -> None:
    thread = create(server, BOB)
    first = sent(server, ALICE, thread, 1)
    assert ask(server, BOB, "DELETE", f"/{thread}/members/{BOB}").status_code == 200
    sent(server, ALICE, thread, 2)
    ask(server, ALICE, "POST", f"/{thread}/members", {"members": [BOB]})
    third = sent(server, ALICE, thread, 3)
    assert missed(server, BOB) == history(server, BOB, thread) == [first, third]
    assert history(server, BOB, thread, before=third, limit=1) == [first]
    assert history(server, BOB, thread, after=first) == [third]


def test_what_only_the_creator_may_do(server: ChatServer) -> None:
    thread = create(server, BOB, CAROL)
    for method, path, body in (
        ("POST", "/members", {"members": [DAVE]}),
        ("POST", "/members", {"members": [CAROL]}),
        ("DELETE", f"/members/{CAROL}", None),
        ("DELETE", f"/members/{DAVE}", None),
        ("PUT", "/status", {"status": "ARCHIVED"}),
        ("PUT", "/status", {"status": "ACTIVE"}),
    ):
        for wallet in (BOB, DAVE):
            refused = ask(server, wallet, method, f"/{thread}{path}", body)
            assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    leaving = ask(server, ALICE, "DELETE", f"/{thread}/members/{ALICE}")
    assert (leaving.status_code, leaving.json()["code"]) == (422, "invalid_message")
    assert ask(server, BOB, "DELETE", f"/{thread}/members/{BOB}").json()["members"] == [
        CAROL,
        ALICE,
    ]
    assert len(server.records()) == 2


def test_deleted_is_final(server: ChatServer) -> None:
    thread = create(server, BOB)
    sent(server, ALICE, thread, 1)
    assert ask(server, ALICE, "PUT", f"/{thread}/status", {"status": "DELETED"}).is_success
    for method, path, body in (
        ("PUT", "/status", {"status": "ACTIVE"}),
        ("POST", "/members", {"members": [CAROL]}),
        ("DELETE", f"/members/{BOB}", None),
    ):
        refused = ask(server, ALICE, method, f"/{thread}{path}", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_message")
    assert server.post(ALICE, message(thread, 2)).status_code == 422


def test_asking_again_for_what_is_so_logs_nothing(server: ChatServer) -> None:
    thread = create(server, BOB)
    for method, path, body in (
        ("POST", "/members", {"members": [BOB]}),
        ("DELETE", f"/members/{CAROL}", None),
        ("PUT", "/status", {"status": "ACTIVE"}),
    ):
        assert ask(server, ALICE, method, f"/{thread}{path}", body).json()["members"] == [
            BOB,
            ALICE,
        ]
    assert len(server.records()) == 1


def begin(
    server: ChatServer, key: str, *names: str, by: str = ALICE, **fields: Any
) -> httpx.Response:
    return server.http.post(
        "/v1/chat/threads",
        headers={"Authorization": f"Bearer {token(by)}", "Idempotency-Key": key},
        json={"members": list(names), "title": "T", **fields},
    )


def test_a_thread_that_is_begun_again_is_the_one_that_is_there(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Mailbox, record: Record) -> None:
        raise LedgerUnavailable("the database cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "store_event", full)
        first = begin(server, "k", BOB)
        assert first.status_code == 201  # it is logged, and only the mailbox is behind
        assert begin(server, "k", BOB).status_code == 503
        assert len(server.records()) == 1
    made = begin(server, "k", BOB)
    assert made.status_code == 201
    assert (made.json()["thread"], made.json()["title"]) == (
        server.records()[0]["metadata"]["thread"],
        "T",
    )
    assert begin(server, "k", BOB).json() == made.json() == first.json()
    assert len(server.records()) == 1
    others = [begin(server, "l", BOB), begin(server, "k", ALICE, by=BOB)]
    ids = {one.json()["thread"] for one in (made, *others)}
    assert len(ids) == 3


def test_how_a_thread_with_a_key_began_is_read_once(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(server, "k", BOB)
    beginnings, reads = Mailbox.thread_beginnings, []

    def counted(self: Mailbox, ids: Sequence[str]) -> dict[str, tuple[str, bytes | None]]:
        reads.append(list(ids))
        return beginnings(self, ids)

    monkeypatch.setattr(Mailbox, "thread_beginnings", counted)
    for count, key in enumerate(("k", "l"), start=1):
        assert begin(server, key, BOB).status_code == 201
        assert len(reads) == count


@pytest.mark.parametrize(
    "changed",
    [
        {"members": [CAROL]},
        {"members": [BOB, CAROL]},
        {"title": "U"},
        {"title": None},
        {"metadata": {"a": 2}},
        {"metadata": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_key_that_was_used_for_another_thread_is_refused(
    server: ChatServer, changed: dict[str, Any]
) -> None:
    sent: dict[str, Any] = {"members": [BOB], "title": "T", "metadata": {"a": 1}}
    first = begin(server, "k", **sent)
    refused = begin(server, "k", **{**sent, **changed})
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    assert len(server.records()) == 1
    assert begin(server, "k", **sent).content == first.content


def test_a_thread_that_has_changed_since_is_found_by_its_key(server: ChatServer) -> None:
    made = begin(server, "k", BOB).json()["thread"]
    assert ask(server, ALICE, "POST", f"/{made}/members", {"members": [CAROL]}).is_success
    assert ask(server, ALICE, "DELETE", f"/{made}/members/{BOB}").is_success
    again = begin(server, "k", BOB)
    assert (again.json()["thread"], again.json()["members"]) == (made, [ALICE, CAROL])
    assert begin(server, "k", CAROL).status_code == 422
    assert len(server.records()) == 3


def test_the_order_in_which_members_are_named_makes_no_other_thread(server: ChatServer) -> None:
    made = begin(server, "k", BOB, CAROL).json()
    assert made["members"] == [BOB, CAROL, ALICE]
    for again in (begin(server, "k", CAROL, BOB), begin(server, "k", ALICE, BOB, CAROL)):
        assert again.json() == made
    assert len(server.records()) == 1


def test_a_key_of_another_wallet_opens_nothing(server: ChatServer) -> None:
    made = begin(server, "k", BOB, CAROL).json()["thread"]
    assert begin(server, "k", CAROL, ALICE, by=BOB).json()["thread"] != made
    assert ask(server, BOB, "DELETE", f"/{made}/members/{BOB}").is_success
    assert len(begin(server, "k", BOB, CAROL).json()["members"]) == 2


@pytest.mark.parametrize("key", ["", "k" * 129, "tab\tkey", "\xe9"])
def test_a_bad_key_is_refused_and_nothing_logged(server: ChatServer, key: str) -> None:
    refused = server.http.post(
        "/v1/chat/threads",
        headers=[
            (b"Authorization", f"Bearer {token(ALICE)}".encode()),
            (b"Idempotency-Key", key.encode("latin-1")),
        ],
        json={"members": [BOB]},
    )
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    assert not server.records()


def test_a_thread_has_up_to_100_participants(server: ChatServer) -> None:
    """100 named at once, and the creator besides, as the legacy contract has it."""
    names = [f"wallet_{n}" for n in range(101)]
    assert MAX_PARTICIPANTS == 100
    for members in ([], names, [ALICE, *names[:100]], [BOB, "no name"], ["thread_" + "0" * 32]):
        refused = ask(server, ALICE, "POST", body={"members": members})
        assert (refused.status_code, refused.json()["field"]) == (422, "members")
    among = ask(server, names[7], "POST", body={"members": names[:100]})
    assert among.json()["members"] == names[:100]
    thread = create(server, *names[:-1])
    assert ask(server, ALICE, "GET", f"/{thread}").json()["members"] == [*names[:-1], ALICE]
    full = ask(server, ALICE, "POST", f"/{thread}/members", {"members": names[-1:]})
    assert (full.status_code, full.json()["field"]) == (422, "members")
    assert ask(server, ALICE, "DELETE", f"/{thread}/members/{names[0]}").is_success
    assert ask(server, ALICE, "POST", f"/{thread}/members", {"members": names[-1:]}).is_success


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ("{", 400, "malformed_frame", None),
        (
            '{"members": ["bob"], "metadata": {"a": %s' % ("[" * 50_000),
            400,
            "malformed_frame",
            None,
        ),
        (
            '{"members": ["bob"], "metadata": {"a": ' + "[" * 32 + "]" * 32 + "}}",
            422,
            "invalid_message",
            "metadata",
        ),
        ("{}", 422, "invalid_message", "members"),
        ('{"members": "bob"}', 422, "invalid_message", "members"),
        ('{"members": ["bob"], "more": 1}', 422, "invalid_message", "unknown"),
        ('{"members": ["bob"], "metadata": []}', 422, "invalid_message", "metadata"),
        (
            '{"members": ["bob"], "title": "%s"}' % ("t" * (16 << 10)),
            413,
            "message_too_large",
            None,
        ),
        (
            '{"members": ["bob"], "title": "%s"}' % ("t" * (64 << 10)),
            413,
            "message_too_large",
            None,
        ),
    ],
)
def test_a_bad_body_is_a_problem(
    server: ChatServer, body: str, status: int, code: str, field: str | None
) -> None:
    headers = {"Authorization": f"Bearer {token(ALICE)}"}
    refused = server.http.post("/v1/chat/threads", headers=headers, content=body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.json().get("field") == field
    assert server.ledger.read_bytes() == b""


def test_the_list_of_conversations_has_threads_too_newest_first(server: ChatServer) -> None:
    silent = create(server, BOB)
    with_bob = sent(server, BOB, ALICE, 1)
    thread = create(server, BOB, by=CAROL)
    last = sent(server, CAROL, thread, 1)
    items = server.get("/v1/chat/threads", BOB).json()
    assert [(item["peer"], item["position"]) for item in items] == [
        (thread, last),
        (ALICE, with_bob),
        (silent, 1),
    ]
    assert all(item["last_active"] and item["msg_id"] for item in items)


def test_threads_follow_from_the_ledger_alone(tmp_path: Path) -> None:
    """Without its database all is known but titles and ciphertext."""
    with chat_server(tmp_path) as server:
        thread = create(server, BOB, title="gone with the database")
        sent(server, ALICE, thread, 1)
        ask(server, ALICE, "POST", f"/{thread}/members", {"members": [CAROL]})
        ask(server, BOB, "DELETE", f"/{thread}/members/{BOB}")
        sent(server, CAROL, thread, 1)
        known = ask(server, ALICE, "GET", f"/{thread}").json()
        conversations = server.get("/v1/chat/threads", BOB).json()
        listed = server.get(f"/secure-chat/threads/{thread}/messages", ALICE).json()
        assert [one["content_size"] for one in listed["messages"]] == [64, 64]
    for file in tmp_path.glob("mailbox.sqlite*"):
        file.unlink()
    with chat_server(tmp_path) as server:
        assert ask(server, ALICE, "GET", f"/{thread}").json() == {**known, "title": None}
        assert server.get("/v1/chat/threads", BOB).json() == conversations
        assert server.get(f"/secure-chat/threads/{thread}/messages", ALICE).json() == listed
        assert server.post(BOB, message(thread, 1)).json()["code"] == "not_a_member"
        found = server.get(f"/v1/chat/threads/{thread}/messages", ALICE).json()
        assert found == {"messages": [], "missing": 2}
        sent(server, ALICE, thread, 2)


def test_a_restart_knows_the_threads_and_their_titles(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        thread = create(server, BOB, title="kept")
        seen = sent(server, ALICE, thread, 1)
        known = ask(server, BOB, "GET", f"/{thread}").json()
    with chat_server(tmp_path) as server:
        assert ask(server, BOB, "GET", f"/{thread}").json() == known
        assert history(server, BOB, thread) == missed(server, BOB) == [seen]
        sent(server, BOB, thread, 1)


def test_a_wallet_cannot_have_a_threads_name(server: ChatServer) -> None:
    thread = create(server, BOB)
    assert server.get("/v1/chat/threads", thread).json()["code"] == "unauthorized"


def test_every_member_hears_of_every_change(server: ChatServer) -> None:
    with server.peer(ALICE) as alice, server.peer(BOB) as bob, server.peer(CAROL) as carol:
        thread = create(server, BOB)
        ask(server, ALICE, "POST", f"/{thread}/members", {"members": [CAROL]})
        ask(server, BOB, "DELETE", f"/{thread}/members/{BOB}")
        ask(server, ALICE, "PUT", f"/{thread}/status", {"status": "ARCHIVED"})

        def heard(peer: Peer, count: int) -> list[tuple[str, int]]:
            notices = [peer.receive() for _ in range(count)]
            assert all(n["type"] == "THREAD" and n["thread"] == thread for n in notices)
            return [(n["kind"], n["position"]) for n in notices]

        changes = [("created", 1), ("member_added", 2), ("left", 3), ("status", 4)]
        assert heard(alice, 4) == changes
        assert heard(bob, 3) == changes[:3]
        assert heard(carol, 3) == changes[1:]
        for peer in (alice, bob, carol):
            assert peer.silent()


def test_membership_at_a_message_is_that_of_the_ledgers_order(server: ChatServer) -> None:
    """Messages race with removals and returns: what is logged stands where its sender was in."""
    thread = create(server, BOB)
    seqs = iter(range(1, 10_000))
    with server.peer(BOB) as bob:
        for _ in range(10):
            for change in (
                ("DELETE", f"/{thread}/members/{BOB}", None),
                ("POST", f"/{thread}/members", {"members": [BOB]}),
            ):
                for _ in range(5):
                    bob.send(message(thread, next(seqs)))
                assert ask(server, ALICE, *change).is_success
        bob.send({"type": "PING"})
        bob.until("PONG")
    member, logged = False, 0
    for position, line in enumerate(server.ledger.read_bytes().splitlines(), 1):
        record = parse(line, position).record
        if record.event_type == "THREAD":
            member = BOB in record.metadata["members"] and record.metadata["kind"] != (
                "member_removed"
            )
        else:
            assert member, f"line {position} was logged while its sender was out"
            logged += 1
    assert logged > 0

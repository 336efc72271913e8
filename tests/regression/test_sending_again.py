"""A request of the legacy contract is sent again: what is logged, and what its caller knows."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.records import Record
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.ledger.file import AppendFile
from plugins.secure_chat.mailbox.store import Mailbox
from tests.plugin.chat_server import ALICE, BOB, CAROL, ChatServer, token
from tests.regression.legacy_server import LegacyClient, at_stage, move_stage

WRITING = (Stage.DUAL, Stage.V2)


@pytest.fixture(params=WRITING)
def served(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[ChatServer, LegacyClient]]:
    with at_stage(tmp_path, request.param) as server:
        yield server


def send(
    legacy: LegacyClient, thread: str, key: str | None, by: str = ALICE, **fields: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token(by)}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    body = {"thread_id": thread, "content_hash": "a" * 64, "content_size": 42, **fields}
    return legacy.http.post(f"{legacy.prefix}/messages", headers=headers, json=body)


def logged(server: ChatServer, kind: str = "LEGACY_MESSAGE") -> int:
    return sum(record["event_type"] == kind for record in server.records())


def cannot_be_written(self: Mailbox, record: Record) -> None:
    raise LedgerUnavailable("the database cannot be written")


def test_a_message_that_is_sent_again_with_its_key_is_the_one_that_is_there(
    served: tuple[ChatServer, LegacyClient],
) -> None:
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    first = send(legacy, thread, "k", metadata={"note": 1}, message_type="file")
    again = send(legacy, thread, "k", metadata={"note": 1}, message_type="file")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert logged(server) == 1
    assert legacy.messages(BOB, thread)["messages"] == [first.json()]
    assert first.json()["transaction_id"] == first.json()["message_id"]
    other = legacy.create(ALICE, BOB)["thread_id"]
    different = (
        send(legacy, thread, "l"),
        send(legacy, thread, "k", by=BOB),
        send(legacy, other, "m"),
        send(legacy, thread, None),
        send(legacy, thread, None),
    )
    assert {one.status_code for one in different} == {201}
    assert len({one.json()["message_id"] for one in (first, *different)}) == 6
    assert logged(server) == 6
    assert audit_ledger(server.ledger).sound


@pytest.mark.parametrize(
    "changed",
    [
        {"thread_id": "another"},
        {"content_hash": "b" * 64},
        {"content_size": 43},
        {"content_type": "image/png"},
        {"message_type": "text"},
        {"metadata": {"note": 2}},
        {"metadata": {}},
        {"metadata": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_key_that_was_used_for_another_message_is_refused(
    served: tuple[ChatServer, LegacyClient], changed: dict[str, Any]
) -> None:
    server, legacy = served
    thread, other = (legacy.create(ALICE, BOB)["thread_id"] for _ in range(2))
    sent: dict[str, Any] = {
        "content_type": "text/plain",
        "message_type": "file",
        "metadata": {"note": 1},
    }
    first = send(legacy, thread, "k", **sent)
    if "thread_id" in changed:
        changed = {"thread_id": other}
    refused = send(legacy, thread, "k", **{**sent, **changed})
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    assert logged(server) == 1
    assert send(legacy, thread, "k", **sent).content == first.content


def test_a_key_of_a_message_without_metadata_is_refused_for_one_that_has_some(
    served: tuple[ChatServer, LegacyClient],
) -> None:
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    first = send(legacy, thread, "k")
    assert send(legacy, thread, "k", metadata={"note": 1}).status_code == 422
    assert send(legacy, thread, "k", metadata={}).content == first.content
    assert logged(server) == 1


def test_a_key_is_no_way_around_the_rules(served: tuple[ChatServer, LegacyClient]) -> None:
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    assert send(legacy, thread, "k").status_code == 201
    assert send(legacy, thread, "k", by=CAROL).status_code == 403
    assert send(legacy, "0" * 64, "k").status_code == 404
    refused = send(legacy, thread, "k" * 129)
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    assert logged(server) == 1


def test_many_at_once_with_one_key_are_logged_once(served: tuple[ChatServer, LegacyClient]) -> None:
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: send(legacy, thread, "k"), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert logged(server) == 1


@pytest.mark.parametrize("key", [None, "k"])
def test_what_is_logged_is_answered_201_also_when_the_mailbox_is_behind(
    served: tuple[ChatServer, LegacyClient], monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """503 says that nothing was logged, to a caller that will send again."""
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "store_event", cannot_be_written)
        answer = send(legacy, thread, key)
        assert answer.status_code == 201
        assert logged(server) == 1
        refused = send(legacy, thread, key)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert logged(server) == 1
    again = send(legacy, thread, key)
    assert again.status_code == 201
    assert logged(server) == (2 if key is None else 1)
    assert (again.json() == answer.json()) == (key is not None)
    assert answer.json() in legacy.messages(BOB, thread)["messages"]


def test_a_thread_that_is_logged_is_answered_201_also_when_the_mailbox_is_behind(
    served: tuple[ChatServer, LegacyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, legacy = served
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "store_event", cannot_be_written)
        made = legacy.create(ALICE, BOB, title="T", metadata={"a": 1})
    server.wait_for(
        lambda: legacy.ask(BOB, "GET", f"/threads/{made['thread_id']}").is_success,
        "the mailbox to be level with the ledger",
    )
    assert legacy.thread(BOB, made["thread_id"]) == made
    assert server.get(f"/v1/chat/threads/{made['thread_id']}", BOB).json()["title"] == "T"
    assert logged(server, "THREAD") == 1


def test_what_was_logged_is_shown_once_the_mailbox_can_be_written(
    served: tuple[ChatServer, LegacyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to write for it, and the host's own records get it too."""
    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "store_event", cannot_be_written)
        answer = send(legacy, thread, None)
        assert answer.status_code == 201
    server.wait_for(
        lambda: legacy.messages(BOB, thread)["messages"] == [answer.json()],
        "the message to be listed",
    )


def test_a_message_sent_again_after_a_restart_is_the_one_that_is_there(tmp_path: Path) -> None:
    """Its caller saw no answer; the ledger knows the message, whatever became of the mailbox."""
    with at_stage(tmp_path, Stage.DUAL) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        first = send(legacy, thread, "k", metadata={"lost": "with the mailbox"})
    for file in tmp_path.glob("mailbox.sqlite*"):
        file.unlink()
    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        again = send(legacy, thread, "k", metadata={"lost": "with the mailbox"})
        assert again.content == first.content
        assert logged(server) == 1
    move_stage(tmp_path, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path) as (_, legacy):  # the host's own route, from its own records
        assert legacy.messages(BOB, thread)["messages"] == [first.json()]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("what", ["/messages", "/threads"])
def test_where_nobody_knows_whether_it_was_logged_the_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, what: str
) -> None:
    def cannot_sync(self: AppendFile) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def ask() -> httpx.Response:
        if what == "/messages":
            return send(legacy, thread, key)
        headers = {"Authorization": f"Bearer {token(ALICE)}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        body = {"participants": [CAROL]}
        return legacy.http.post(legacy.prefix + what, headers=headers, json=body)

    with at_stage(tmp_path, Stage.V2) as (server, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        with monkeypatch.context() as patch:
            patch.setattr(AppendFile, "sync", cannot_sync)
            unknown = ask()
        count = len(server.records())
        if key is None:
            assert unknown.status_code == 500
            assert unknown.json()["type"] == "urn:atlas:secure-chat:problem:outcome_unknown"
            assert "retry-after" not in unknown.headers
        else:  # it may be sent again
            assert unknown.status_code == 503
        assert "deprecation" in unknown.headers
        refused = ask()
        assert refused.status_code == 503  # nothing is taken any more, and this is known
        assert len(server.records()) == count


def test_what_a_full_disk_refused_is_logged_once_when_it_is_sent_again(
    served: tuple[ChatServer, LegacyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AppendFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server, legacy = served
    thread = legacy.create(ALICE, BOB)["thread_id"]
    with monkeypatch.context() as patch:
        patch.setattr(AppendFile, "append", full)
        assert send(legacy, thread, None).status_code == 503
    assert send(legacy, thread, None).status_code == 201
    assert logged(server) == legacy.messages(BOB, thread)["total"] == 1

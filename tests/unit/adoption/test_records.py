"""adoption/records: what each shape of the host's brings, and why the others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.secure_chat.adoption.records import (
    Brought,
    Kind,
    Left,
    Refused,
    key_of,
    may_bring_a_thread,
    meaning,
    thread_of,
)
from plugins.secure_chat.core.thread import Status
from tests import exports
from tests.exports import digest, wallet


def only(value: Any) -> Brought:
    found = meaning(value)
    assert isinstance(found, list)
    (one,) = found
    return one


def test_a_thread_of_the_route_has_its_creator_as_member() -> None:
    found = only(exports.route_thread(1, members=2))
    assert (found.kind, found.origin, found.id) == (Kind.THREAD, "route", digest("thread 1"))
    assert found.wallet == wallet(1)
    assert found.members == (wallet(2), wallet(3), wallet(1))
    assert found.at == "1765800001"
    assert found.body is not None
    assert json.loads(found.body) == {"title": "thread 1", "metadata": {"topic": 1}}


def test_a_message_of_the_route_is_its_hash_and_size() -> None:
    found = only(exports.route_message(5, 2))
    assert (found.kind, found.wallet, found.thread) == (
        Kind.MESSAGE,
        wallet(4),
        digest("thread 2"),
    )
    assert (found.content, found.size) == (digest("content 5"), 105)
    assert (found.content_type, found.message_type) == ("text/plain", "text")
    assert found.body is None


def test_a_change_of_status_of_the_route() -> None:
    found = only(exports.route_status(1, 2, "ARCHIVED"))
    assert (found.kind, found.thread, found.status) == (
        Kind.STATUS,
        digest("thread 2"),
        Status.ARCHIVED,
    )


def test_a_bundle_of_several_operations_brings_them_in_order() -> None:
    first, second = exports.route_thread(1), exports.route_message(1, 1)
    first["operations"] += second["operations"]
    found = meaning(first)
    assert isinstance(found, list)
    assert [one.kind for one in found] == [Kind.THREAD, Kind.MESSAGE]
    assert [one.id for one in found] == [first["bundle_hash"], first["bundle_hash"] + ".1"]


def test_the_route_and_the_engine_say_the_same_of_the_same() -> None:
    """An overlap of both exports is recognised, though they write times differently."""
    route, engine = only(exports.route_thread(1)), only(exports.engine_thread(1))
    assert (route.key, route.fingerprint) == (engine.key, engine.fingerprint)
    route, engine = only(exports.route_message(1, 1)), only(exports.engine_message(1, 1))
    assert (route.key, route.fingerprint) == (engine.key, engine.fingerprint)
    other = only(exports.route_message(1, 1, content_size=7))
    assert (route.key == other.key, route.fingerprint == other.fingerprint) == (True, False)


def test_a_thread_of_the_engine_brings_its_status() -> None:
    found = meaning(exports.engine_thread(1, status="ARCHIVED"))
    assert isinstance(found, list)
    assert [one.kind for one in found] == [Kind.THREAD, Kind.STATUS]
    assert found[1].status is Status.ARCHIVED


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("THREAD_CREATED", exports.engine_thread(1)),
        ("MESSAGE_POSTED", exports.engine_message(1, 1)),
    ],
)
def test_events_of_the_engine_bring_their_objects(kind: str, data: dict[str, Any]) -> None:
    assert only(exports.engine_event(kind, data)) == only(data)


def test_an_update_of_the_engine_is_a_change_of_status() -> None:
    data = {"thread_id": digest("thread 1"), "status": "DELETED", "updated_by": wallet(1)}
    found = only(exports.engine_event("THREAD_UPDATED", data))
    assert (found.status, found.wallet, found.at) == (Status.DELETED, wallet(1), "1765800000")


def test_v14_brings_conversations_and_messages_by_cid() -> None:
    thread = only(exports.conversation(1))
    assert (thread.kind, thread.origin, thread.id) == (Kind.THREAD, "v14", "conv_1")
    assert thread.members == ("wallet_1", "wallet_2")
    message = only(exports.conversation_message(2, 1))
    assert (message.thread, message.size, message.at) == ("conv_1", None, "1765800002.25")
    assert message.content.startswith("bafkrei")
    assert message.body is not None
    assert json.loads(message.body)["metadata"] == {
        "status": "read",
        "reply_to_message_id": "msg_1",
        "encryption_metadata": {"nonce": 2},
    }


def test_addresses_are_one_wallet_in_any_case() -> None:
    bundle = exports.route_thread(1)
    bundle["operations"][0]["creator_id"] = "0xABCDEF" + "0" * 34
    assert only(bundle).wallet == "0xabcdef" + "0" * 34


def test_a_row_in_clear_is_counted_and_nothing_of_it_is_kept() -> None:
    assert meaning(exports.plaintext(1)) is Left.PLAINTEXT


def test_what_the_chat_wrote_itself_is_left_out() -> None:
    assert meaning({**exports.route_thread(1), "ledger_position": 17}) is Left.MIRRORED


def test_a_thread_keeps_an_id_of_ours_and_gets_one_for_any_other() -> None:
    ours = "thread_" + "0" * 32
    assert thread_of(ours) == ours
    assert thread_of("conv_1") == thread_of("conv_1") != thread_of("conv_2")
    assert thread_of("conv_1").startswith("thread_")
    assert key_of(Kind.THREAD, "x") != key_of(Kind.MESSAGE, "x")


@pytest.mark.parametrize(
    "value",
    [
        exports.route_thread(1),
        exports.engine_thread(1),
        exports.engine_event("THREAD_CREATED", exports.engine_thread(1)),
        {"event_type": "THREAD_CREATED", "payload": exports.engine_thread(1)},
        exports.conversation(1),
    ],
)
def test_no_record_that_brings_a_thread_is_passed_over(value: dict[str, Any]) -> None:
    assert may_bring_a_thread(value)
    assert only(value).kind is Kind.THREAD


@pytest.mark.parametrize(
    "value",
    [
        exports.route_message(1, 1),
        exports.route_status(1, 1, "ACTIVE"),
        exports.engine_message(1, 1),
        exports.engine_event("MESSAGE_POSTED", exports.engine_message(1, 1)),
        exports.conversation_message(1, 1),
        exports.plaintext(1),
        17,
        {"operations": 17, "data": 17},
        {"operations": [17, {"data": 17}]},
    ],
)
def test_what_brings_no_thread_is_passed_over(value: Any) -> None:
    assert not may_bring_a_thread(value)


def without(value: dict[str, Any], *path: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(value))
    at: Any = copy
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return copy


ROUTE_DATA = ("operations", 0, "data")
SECRET = exports.CANARY


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (17, "it is not an object"),
        ({}, "its fields are those of no record"),
        ({"a": SECRET}, "its fields are those of no record"),
        (without(exports.route_message(1, 1), *ROUTE_DATA, "content_hash"), "content_hash is miss"),
        (without(exports.route_message(1, 1), *ROUTE_DATA, "timestamp"), "timestamp is missing"),
        (without(exports.route_thread(1), *ROUTE_DATA, "participants"), "participants is missing"),
        (without(exports.engine_message(1, 1), "sender_id"), "sender_id is missing"),
        (without(exports.conversation(1), "created_by"), "created_by is missing"),
        (exports.route_message(1, 1, content_hash=SECRET), "content_hash is not 64 hex digits"),
        (exports.route_message(1, 1, content_size=-1), "content_size is not from 0"),
        (exports.route_message(1, 1, content_size=(1 << 20) + 1), "content_size is not from 0"),
        (exports.route_message(1, 1, content_size="7"), "content_size is missing, of the wrong"),
        (exports.route_message(1, 1, content_size=True), "content_size is missing, of the wrong"),
        (exports.route_message(1, 1, content_type="é"), "content_type is not printable ASCII"),
        (exports.route_message(1, 1, message_type="x" * 129), "message_type is not printable"),
        (exports.route_message(1, 1, timestamp=True), "timestamp is missing, of the wrong"),
        (exports.route_message(1, 1, timestamp="x" * 65), "timestamp is not printable"),
        (exports.route_message(1, 1, timestamp=""), "timestamp is empty"),
        (exports.route_message(1, 1, thread_id=""), "thread_id is empty"),
        (exports.route_message(1, 1, body=SECRET), "it has a field that is not known"),
        ({**exports.route_thread(1), SECRET: 1}, "it has a field that is not known"),
        ({**exports.route_thread(1), "operations": []}, "it brings nothing"),
        (exports.bundle("a", wallet(1), "poll", {}), "one of its operations is not of the chat"),
        (exports.route_thread(1, members=0), "participants is not a list of 1 to 100"),
        (exports.route_thread(1, members=102), "participants is not a list of 1 to 100"),
        (exports.route_status(1, 1, SECRET), "status is not known"),
        (exports.engine_thread(1, status=SECRET), "status is not known"),
        (exports.engine_thread(1, creator_id=f"a {SECRET}"), "creator_id must match"),
        (exports.engine_thread(1, participants=["thread_" + "0" * 32]), "participants has the"),
        (exports.engine_thread(1, thread_id="x" * 257), "thread_id is not printable ASCII"),
        ({**exports.conversation_message(1, 1), "content_cid": SECRET}, "content_cid is not a CID"),
        (exports.engine_event("THREAD_CREATED", {"text": SECRET}), "a field that is not known"),
        ({"event_type": "THREAD_CREATED", "data": SECRET}, "data is missing"),
    ],
)
def test_an_unfit_record_is_refused_without_saying_what_is_in_it(value: Any, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        meaning(value)
    assert reason in str(refused.value)
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) <= 200

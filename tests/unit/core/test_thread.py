"""core/thread: the THREAD event's shape, the rules one by one, and the fold into memberships."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.provenance import Provenance
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.thread import (
    Change,
    Status,
    Thread,
    ThreadEvent,
    admit,
    details_body,
    details_hash,
    fold,
    fold_all,
    from_record,
    is_thread,
    legacy_thread_id,
    thread_id,
)
from plugins.secure_chat.errors import InvalidMessage, NotAMember, Refusal

T = "thread_" + "0a" * 16
CREATED = ThreadEvent(Change.CREATED, T, "alice", ("bob", "alice"))
HISTORY = Provenance("route", "ab" * 32, 7, "2025-12-15T00:00:00+00:00")


def record(event: ThreadEvent, **changes: Any) -> Record:
    draft = event.draft()
    metadata = {**draft.metadata, **changes.pop("metadata", {})}
    values = {"event_type": "THREAD", "wallet": draft.wallet, "value": 0, **changes}
    return Record(
        position=1,
        event_id="id",
        metadata={key: value for key, value in metadata.items() if value is not ...},
        signature="",
        timestamp="",
        event_hash="",
        prev_hash="",
        **values,
    )


def test_only_ids_of_the_one_form_are_threads() -> None:
    assert is_thread(T)
    assert is_thread(thread_id(bytes(16)))
    for other in ("thread_" + "0A" * 16, "thread_" + "0" * 31, T + "0", T + "\n", "0x" + "a" * 40):
        assert not is_thread(other)
    with pytest.raises(ValueError, match="16 bytes"):
        thread_id(bytes(15))


def test_a_legacy_id_gives_one_thread_for_ever() -> None:
    label = b"atlas/secure-chat/v2/legacy-thread"
    hashed = b"\0\0\0\x22" + label + b"\0\0\0\6conv_1"
    assert legacy_thread_id("conv_1") == "thread_" + hashlib.sha256(hashed).hexdigest()[:32]
    assert legacy_thread_id("conv_2") != legacy_thread_id("conv_1")


def test_details_are_hashed_with_their_salt() -> None:
    body = details_body("Plans", {"b": 1, "a": "ü"})
    assert body == b'{"metadata":{"a":"\\u00fc","b":1},"title":"Plans"}'
    assert details_hash(bytes(16), body) != details_hash(bytes(15) + b"\1", body)
    with pytest.raises(ValueError, match="salt"):
        details_hash(b"", body)


EVENTS = [
    CREATED,
    replace(CREATED, details="cd" * 32, legacy="any old id", provenance=HISTORY),
    ThreadEvent(Change.ADDED, T, "alice", ("carol",)),
    ThreadEvent(Change.REMOVED, T, "alice", ("bob",)),
    ThreadEvent(Change.LEFT, T, "bob"),
    ThreadEvent(Change.STATUS, T, "alice", status=Status.ARCHIVED),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.change))
def test_an_event_reads_as_it_was_written(event: ThreadEvent) -> None:
    assert from_record(record(event)) == event


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (CREATED, {"event_type": "MESSAGE"}),
        (CREATED, {"value": 1}),
        (CREATED, {"wallet": "0x" + "A" * 40}),
        (CREATED, {"metadata": {"kind": "made"}}),
        (CREATED, {"metadata": {"kind": ...}}),
        (CREATED, {"metadata": {"thread": "thread_1"}}),
        (CREATED, {"metadata": {"more": 1}}),
        (CREATED, {"metadata": {"status": "ACTIVE"}}),
        (CREATED, {"metadata": {"members": ...}}),
        (CREATED, {"metadata": {"members": []}}),
        (CREATED, {"metadata": {"members": "bob"}}),
        (CREATED, {"metadata": {"members": ["bob", "bob"]}}),
        (CREATED, {"metadata": {"members": ["0x" + "A" * 40]}}),
        (CREATED, {"metadata": {"members": [T]}}),
        (CREATED, {"metadata": {"members": [f"w{n}" for n in range(102)]}}),
        (CREATED, {"metadata": {"details": "AB" * 32}}),
        (CREATED, {"metadata": {"legacy": ""}}),
        (CREATED, {"metadata": {"origin": "route"}}),
        (CREATED, {"metadata": {**HISTORY._asdict(), "origin": "elsewhere"}}),
        (CREATED, {"metadata": {**HISTORY._asdict(), "source": "AB" * 32}}),
        (CREATED, {"metadata": {**HISTORY._asdict(), "line": 0}}),
        (CREATED, {"metadata": {**HISTORY._asdict(), "line": True}}),
        (CREATED, {"metadata": {**HISTORY._asdict(), "at": ""}}),
        (EVENTS[4], {"metadata": {"members": ["bob"]}}),
        (EVENTS[5], {"metadata": {"status": "OPEN"}}),
        (EVENTS[5], {"metadata": {"status": 1}}),
    ],
)
def test_a_record_that_breaks_the_shape_is_malformed(
    event: ThreadEvent, changes: dict[str, Any]
) -> None:
    with pytest.raises(MalformedEvent):
        from_record(record(event, **changes))


def begun() -> Thread:
    return fold(None, CREATED, 10)


def test_a_member_is_one_strictly_between_coming_and_going() -> None:
    thread = begun()
    fold(thread, ThreadEvent(Change.ADDED, T, "alice", ("carol",)), 20)
    fold(thread, ThreadEvent(Change.LEFT, T, "carol"), 30)
    fold(thread, ThreadEvent(Change.ADDED, T, "alice", ("carol",)), 40)
    in_it = [position for position in range(50) if thread.had("carol", position)]
    assert in_it == [*range(21, 30), *range(41, 50)]
    assert not thread.had("alice", 10)
    assert thread.had("alice", 11)
    assert thread.members == ("bob", "alice", "carol")


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (CREATED, InvalidMessage),
        (ThreadEvent(Change.ADDED, T, "bob", ("carol",)), NotAMember),
        (ThreadEvent(Change.ADDED, T, "carol", ("carol",)), NotAMember),
        (ThreadEvent(Change.ADDED, T, "alice", ("carol", "bob")), InvalidMessage),
        (ThreadEvent(Change.ADDED, T, "alice", tuple(f"w{n}" for n in range(100))), InvalidMessage),
        (ThreadEvent(Change.REMOVED, T, "bob", ("alice",)), NotAMember),
        (ThreadEvent(Change.REMOVED, T, "alice", ("carol",)), InvalidMessage),
        (ThreadEvent(Change.REMOVED, T, "alice", ("alice",)), InvalidMessage),
        (ThreadEvent(Change.LEFT, T, "alice"), InvalidMessage),
        (ThreadEvent(Change.LEFT, T, "carol"), NotAMember),
        (ThreadEvent(Change.STATUS, T, "bob", status=Status.DELETED), NotAMember),
    ],
)
def test_what_breaks_a_rule_is_refused_and_changes_nothing(
    event: ThreadEvent, error: type[Refusal]
) -> None:
    thread = begun()
    with pytest.raises(error):
        fold(thread, event, 11)
    assert thread == begun()
    assert fold_all([(10, CREATED), (11, event)]) == begun()


def test_nothing_happens_to_a_deleted_thread() -> None:
    thread = fold(begun(), ThreadEvent(Change.STATUS, T, "alice", status=Status.DELETED), 11)
    for event in (*EVENTS[2:], ThreadEvent(Change.STATUS, T, "alice", status=Status.ACTIVE)):
        with pytest.raises(InvalidMessage):
            fold(thread, event, 12)


def test_nothing_happens_to_no_thread() -> None:
    for event in EVENTS[2:]:
        with pytest.raises(NotAMember):
            fold(None, event, 1)
    with pytest.raises(InvalidMessage):
        fold(None, replace(CREATED, members=("bob",)), 1)
    with pytest.raises(ValueError, match="creates"):
        fold_all([(1, EVENTS[4])])


def test_history_is_folded_without_the_rules() -> None:
    """An import knows what was, not whether it was allowed."""
    thread = begun()
    fold(
        thread, ThreadEvent(Change.STATUS, T, "bob", status=Status.DELETED, provenance=HISTORY), 11
    )
    fold(thread, ThreadEvent(Change.ADDED, T, "bob", ("carol", "bob"), provenance=HISTORY), 12)
    assert (thread.status, thread.members) == (Status.DELETED, ("bob", "alice", "carol"))


@pytest.mark.parametrize(
    ("wallet", "status", "error"),
    [
        ("bob", Status.ACTIVE, None),
        ("carol", Status.ACTIVE, NotAMember),
        ("bob", Status.DRAFT, InvalidMessage),
        ("bob", Status.ARCHIVED, InvalidMessage),
        ("bob", Status.DELETED, InvalidMessage),
        ("carol", Status.DELETED, NotAMember),
    ],
)
def test_members_write_while_a_thread_is_active(
    wallet: str, status: Status, error: type[Refusal] | None
) -> None:
    thread = replace(begun(), status=status)
    if error is None:
        assert admit(thread, wallet) is thread
    else:
        with pytest.raises(error):
            admit(thread, wallet)
    with pytest.raises(NotAMember):
        admit(None, wallet)


WALLETS = ("alice", "bob", "carol", "dave")


@st.composite
def changes(draw: st.DrawFn) -> ThreadEvent:
    change = draw(st.sampled_from(Change))
    return ThreadEvent(
        change,
        T,
        draw(st.sampled_from(WALLETS)),
        members=tuple(draw(st.lists(st.sampled_from(WALLETS), min_size=1, unique=True)))
        if change in (Change.CREATED, Change.ADDED, Change.REMOVED)
        else (),
        status=draw(st.sampled_from(Status)) if change is Change.STATUS else None,
    )


@given(st.lists(changes(), max_size=30))
def test_the_fold_is_what_sets_of_members_say(events: list[ThreadEvent]) -> None:
    """Beside a model that knows only who is in: rules are asked of it, positions are counted."""
    members: set[str] | None = None
    creator, deleted = "", False
    was_in: dict[int, set[str]] = {}
    happened: list[tuple[int, ThreadEvent]] = []
    for position, event in enumerate(events, 1):
        was_in[position] = set()  # at the event itself nobody's message stands
        by_creator = members is not None and event.wallet == creator and not deleted
        named = set(event.members)
        if event.change is Change.CREATED:
            allowed = members is None and event.wallet in named
        elif event.change is Change.ADDED:
            allowed = by_creator and not named & (members or set())
        elif event.change is Change.REMOVED:
            allowed = by_creator and named <= (members or set()) - {creator}
        elif event.change is Change.LEFT:
            allowed = event.wallet in (members or set()) - {creator} and not deleted
        else:
            allowed = by_creator
        happened.append((position, event))
        if not allowed:
            was_in[position] = set(members or ())
            continue
        if event.change is Change.CREATED:
            members, creator = named, event.wallet
        elif event.change is Change.ADDED:
            members = (members or set()) | named
        elif event.change in (Change.REMOVED, Change.LEFT):
            members = (members or set()) - (named or {event.wallet})
        else:
            deleted = event.status is Status.DELETED
        was_in[position] = set()
    if members is None:
        return
    thread = fold_all(happened)
    assert set(thread.members) == members
    for wallet in members:
        assert thread.had(wallet, len(events) + 1)
    for position, inside in was_in.items():
        for wallet in inside:
            assert thread.had(wallet, position), (wallet, position)

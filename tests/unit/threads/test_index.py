"""threads/index: what the ledger says of threads, in tables that can be rebuilt and cut back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from plugins.secure_chat.core.legacy_message import LegacyMessage
from plugins.secure_chat.core.provenance import Provenance
from plugins.secure_chat.core.records import EventDraft, Head, Receipt, Record
from plugins.secure_chat.core.sequence import Stream
from plugins.secure_chat.core.stage import Stage, StageMove
from plugins.secure_chat.core.thread import Change, Span, Status, ThreadEvent, details_body
from plugins.secure_chat.errors import NotAMember
from plugins.secure_chat.ledger.journal import Checkpoint
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox, MessageReceipt, Stored, Waiting

T, U = "thread_" + "0a" * 16, "thread_" + "0b" * 16
HISTORY = Provenance("route", "ab" * 32, 7, "2025-12-15T00:00:00+00:00")


@pytest.fixture
def mailbox(database_url: str) -> Iterator[Mailbox]:
    opened = Mailbox(engine_for(database_url))
    yield opened
    opened.close()


def record(position: int, draft: EventDraft) -> Record:
    return Record(
        position=position,
        event_id=f"id{position}",
        event_type=draft.event_type,
        wallet=draft.wallet,
        value=0,
        metadata=draft.metadata,
        signature="",
        timestamp=f"2026-01-01T00:00:{position:02}+00:00",
        event_hash=f"hash{position}",
        prev_hash="",
    )


def begun(thread: str = T, *, details: str | None = None, legacy: str | None = None) -> EventDraft:
    members = ("bob", "alice")
    event = ThreadEvent(Change.CREATED, thread, "alice", members, details=details, legacy=legacy)
    return event.draft()


def change(kind: Change, *members: str, by: str = "alice", to: Status | None = None) -> EventDraft:
    return ThreadEvent(kind, T, by, members, status=to).draft()


def posted(sender: str, provenance: Provenance | None = None) -> EventDraft:
    hashed = LegacyMessage(sender, T, "ab" * 32, 5, "text/plain", "text", provenance=provenance)
    return hashed.draft()


def message(position: int, sender: str, seq: int) -> Stored:
    receipt = Receipt(
        position, f"id{position}", f"hash{position}", f"2026-01-01T00:00:{position:02}+00:00"
    )
    digest = "A" * 43 + "="
    return Stored(Stream(sender, "0", T), seq, digest, receipt, b"frame%d" % position, 64)


EVENTS = [
    record(1, begun()),
    record(3, posted("bob")),
    record(4, change(Change.REMOVED, "bob")),
    record(6, change(Change.ADDED, "carol", "bob")),
    record(8, change(Change.LEFT, by="carol")),
    record(9, change(Change.STATUS, to=Status.ARCHIVED)),
]
MESSAGES = [message(2, "alice", 1), message(5, "alice", 2), message(7, "carol", 1)]


def fill(mailbox: Mailbox) -> None:
    """As it goes while messages and changes are committed one after another."""
    everything: list[tuple[int, Record | Stored]] = [(e.position, e) for e in EVENTS]
    everything += [(m.receipt.position, m) for m in MESSAGES]
    for _, one in sorted(everything, key=lambda item: item[0]):
        if isinstance(one, Stored):
            mailbox.store([one])
        else:
            mailbox.store_event(one)


def seen(mailbox: Mailbox) -> object:
    """All that can be asked of threads."""
    (state,) = mailbox.thread_states([T], None).values()
    wallets = ("alice", "bob", "carol", "dave")
    every = [Span(0)]
    return (
        state,
        [mailbox.missed(wallet, 0) for wallet in wallets],
        [mailbox.threads(wallet) for wallet in wallets],
        [mailbox.threads_of(wallet, end=99, limit=9, offset=0) for wallet in wallets],
        mailbox.senders([MessageReceipt(at, w, "read") for w in wallets for at in range(10)]),
        mailbox.written(T, every, end=99, before=None, limit=99),
        mailbox.thread_entries(0, 99, 99),
        mailbox.stage(),
    )


@pytest.mark.parametrize(
    ("end", "alice", "bob"),
    [(0, 0, 0), (1, 1, 1), (2, 2, 2), (4, 3, 3), (5, 5, 3), (6, 5, 6), (99, 7, 7)],
)
def test_the_list_of_conversations_is_as_of_a_position(
    mailbox: Mailbox, end: int, alice: int, bob: int
) -> None:
    fill(mailbox)
    for wallet, position in (("alice", alice), ("bob", bob)):
        found = [(one.peer, one.position) for one in mailbox.threads(wallet, end=end)]
        assert found == ([(T, position)] if position else [])


def test_what_a_wallet_gets_of_a_thread_is_what_was_written_while_it_was_in_it(
    mailbox: Mailbox,
) -> None:
    fill(mailbox)
    frames = {at: Waiting(at, b"frame%d" % at) for at in (2, 5, 7)}
    assert mailbox.missed("alice", 0) == mailbox.history("alice", T) == list(frames.values())
    assert mailbox.missed("bob", 0) == mailbox.history("bob", T) == [frames[2], frames[7]]
    assert mailbox.missed("carol", 0) == mailbox.history("carol", T) == [frames[7]]
    assert mailbox.missed("dave", 0) == []
    with pytest.raises(NotAMember):
        mailbox.history("dave", T)
    assert mailbox.history("bob", T, before=7) == [frames[2]]
    assert mailbox.history("bob", T, after=2, limit=1) == [frames[7]]


def test_a_message_is_for_those_who_were_in_the_thread_there(mailbox: Mailbox) -> None:
    """Who came back, or came later, has nothing to do with what was written without it."""
    fill(mailbox)
    for position, members in (
        (2, ["alice", "bob"]),
        (5, ["alice"]),
        (7, ["alice", "bob", "carol"]),
    ):
        asked = [MessageReceipt(position, wallet, "read") for wallet in ("alice", "bob", "carol")]
        assert [receipt.wallet for receipt in mailbox.senders(asked)] == members


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("before", [0, 5, 9])
def test_rebuilding_gives_what_was_there(mailbox: Mailbox, parts: int, before: int) -> None:
    """From a checkpoint at any place, in one batch or several, over rows that stand already."""
    fill(mailbox)
    known = seen(mailbox)
    if before:
        mailbox.set_checkpoint(Checkpoint(Head(before, f"hash{before}"), before))
    cuts = range(before, 9, -(-(9 - before) // parts) or 1)
    for part, start in enumerate(cuts):
        end = cuts[part + 1] if part + 1 < len(cuts) else 9
        mailbox.rebuild(
            [m for m in MESSAGES if start < m.receipt.position <= end],
            Checkpoint(Head(end, f"hash{end}"), end),
            events=[e for e in EVENTS if start < e.position <= end],
            from_start=before == 0 and part == 0,
            first=part == 0,
        )
    assert seen(mailbox) == known


@pytest.mark.parametrize("kept", range(1, 10))
def test_what_the_ledger_does_not_have_is_taken_back(
    mailbox: Mailbox, kept: int, database_url: str
) -> None:
    fill(mailbox)
    mailbox.drop_after(kept)
    cut = seen(mailbox)
    mailbox.drop_after(0)
    assert mailbox.thread_states([T], None) == {}
    assert mailbox.threads("alice") == []
    everything: list[Record | Stored] = [*EVENTS, *MESSAGES]
    for one in sorted(everything, key=_position):
        if _position(one) <= kept:
            if isinstance(one, Stored):
                mailbox.store([one])
            else:
                mailbox.store_event(one)
    assert seen(mailbox) == cut


def _position(one: Record | Stored) -> int:
    return one.receipt.position if isinstance(one, Stored) else one.position


@pytest.mark.parametrize(
    "wrong",
    [
        [change(Change.ADDED, "dave", by="bob")],
        [begun()],
        [posted("dave")],
        [EventDraft("THREAD", "alice", {"kind": "created", "thread": "thread_1"})],
        [EventDraft("LEGACY_MESSAGE", "alice", {"thread": T})],
        [EventDraft("STAGE", "secure-chat", {"from": "legacy", "to": "v2"})],
        [EventDraft("THREAD", "alice", {"kind": "left", "thread": U})],
    ],
)
def test_an_event_that_breaks_a_rule_changes_nothing(
    mailbox: Mailbox, wrong: Sequence[EventDraft], caplog: pytest.LogCaptureFixture
) -> None:
    fill(mailbox)
    known = seen(mailbox)
    for draft in wrong:
        mailbox.store_event(record(10, draft))
    assert seen(mailbox) == known
    assert "position=10" in caplog.text


def test_history_is_taken_as_it_was(mailbox: Mailbox) -> None:
    """What was imported is shown with the source's time, whoever wrote it."""
    mailbox.store_event(record(1, begun(legacy="conv-1")))
    mailbox.store_event(record(2, posted("stranger", HISTORY)))
    ((shown,), total) = mailbox.written(T, [Span(0)], end=9, before=None, limit=9)
    assert (shown.sender, shown.timestamp, shown.origin) == ("stranger", HISTORY.at, "route")
    assert total == 1
    assert mailbox.thread_of_legacy_id("conv-1") == T
    assert mailbox.thread_of_legacy_id("conv-2") is None


def test_threads_are_listed_by_their_beginning_whenever_one_came_to_them(mailbox: Mailbox) -> None:
    mailbox.store_event(record(1, begun(U)))
    mailbox.store_event(record(2, begun(T)))
    mailbox.store_event(record(3, change(Change.ADDED, "carol")))
    late = ThreadEvent(Change.ADDED, U, "alice", ("carol",))
    mailbox.store_event(record(4, late.draft()))
    listed, total = mailbox.threads_of("carol", end=9, limit=1, offset=0)
    assert ([state.id for state in listed], total) == ([U], 2)
    assert [s.id for s in mailbox.threads_of("carol", end=9, limit=9, offset=1)[0]] == [T]


def test_nothing_is_listed_before_it_is_durable(mailbox: Mailbox) -> None:
    fill(mailbox)
    assert mailbox.thread_states([T], 0) == {}
    assert mailbox.thread_states([T], 5)[T].members == ("alice",)
    assert mailbox.threads_of("carol", end=5, limit=9, offset=0) == ([], 0)
    assert mailbox.threads_of("carol", end=7, limit=9, offset=0)[1] == 1
    found, total = mailbox.written(T, [Span(0)], end=4, before=None, limit=9)
    assert ([one.position for one in found], total) == ([2, 3], 2)
    assert [entry.position for entry in mailbox.thread_entries(3, 6, 9)] == [4, 5, 6]
    assert [entry.position for entry in mailbox.thread_entries(0, 9, 2)] == [1, 2]


def test_details_are_kept_once_under_their_hash(mailbox: Mailbox) -> None:
    body = details_body("T", {})
    for _ in range(2):
        mailbox.keep_details("cd" * 32, bytes(16), body)
    mailbox.store_event(record(1, begun(details="cd" * 32)))
    mailbox.store_event(record(2, begun(U, details="ef" * 32)))
    found = mailbox.thread_beginnings([T, U])
    assert (found[T][1], found[U][1]) == (body, None)


def test_the_stage_is_where_the_last_move_led(mailbox: Mailbox) -> None:
    assert mailbox.stage() is None
    mailbox.store_event(record(1, StageMove(Stage.DUAL, Stage.V2).draft()))
    mailbox.store_event(record(2, StageMove(Stage.V2, Stage.DUAL).draft()))
    assert mailbox.stage() is Stage.DUAL
    mailbox.drop_after(1)
    assert mailbox.stage() is Stage.V2


def test_ways_to_differ_are_counted(mailbox: Mailbox) -> None:
    for moment in ("1", "2", "3"):
        mailbox.record_mismatch("GET /threads", "total", moment)
    mailbox.record_mismatch("GET /threads", "shape", "4")
    assert [(m.difference, m.count, m.first_at, m.last_at) for m in mailbox.mismatches()] == [
        ("shape", 1, "4", "4"),
        ("total", 3, "1", "3"),
    ]

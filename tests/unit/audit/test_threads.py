"""audit/threads: a message to a thread is held to its members, a move to the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.chain import Defect
from plugins.secure_chat.core.legacy_message import LegacyMessage
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.provenance import Provenance
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.core.stage import Stage, StageMove
from plugins.secure_chat.core.thread import Change, Status, ThreadEvent
from plugins.secure_chat.ledger.journal import Journal

T, U = "thread_" + "0a" * 16, "thread_" + "0b" * 16
HISTORY = Provenance("route", "ab" * 32, 7, "2025-12-15T00:00:00+00:00")
BEGUN = ThreadEvent(Change.CREATED, T, "alice", ("bob", "alice")).draft()
OTHER = EventDraft("LOGIN", "carol", {"source": "test"})


def wrote(sender: str, seq: int, recipient: str = T) -> EventDraft:
    event = MessageEvent(sender, "0", recipient, "A" * 43 + "=", "A" * 16, seq, 0, 16)
    return event.draft("")


def change(kind: Change, *members: str, by: str = "alice", to: Status | None = None) -> EventDraft:
    return ThreadEvent(kind, T, by, members, status=to).draft()


def posted(sender: str, *, imported: bool = False) -> EventDraft:
    provenance = HISTORY if imported else None
    message = LegacyMessage(sender, T, "ab" * 32, 1, "text/plain", "text", provenance=provenance)
    return message.draft()


def ledger_of(path: Path, drafts: Sequence[EventDraft]) -> Path:
    journal = Journal.open(path / "ledger.jsonl")
    journal.stage(drafts).durable.result()
    journal.close()
    return journal.path


SOUND = [
    OTHER,
    BEGUN,
    wrote("bob", 1),
    wrote("alice", 1),
    change(Change.REMOVED, "bob"),
    wrote("alice", 2),
    change(Change.ADDED, "bob", "carol"),
    wrote("bob", 2),
    posted("carol"),
    change(Change.LEFT, by="carol"),
    posted("carol", imported=True),
    change(Change.STATUS, to=Status.ARCHIVED),
    wrote("dave", 1, "bob"),
    change(Change.STATUS, to=Status.ACTIVE),
    wrote("bob", 3),
    change(Change.STATUS, to=Status.DELETED),
]


@pytest.mark.parametrize("chunk_size", [1, 1000, 4 << 20])
def test_threads_that_obey_their_rules_are_sound(tmp_path: Path, chunk_size: int) -> None:
    report = audit_ledger(ledger_of(tmp_path, SOUND), chunk_size=chunk_size)
    assert report.sound, report.finding
    assert report.records == len(SOUND)


@pytest.mark.parametrize(
    ("drafts", "index", "reason"),
    [
        ([wrote("bob", 1)], 0, "a message to a thread that does not exist"),
        ([BEGUN, wrote("alice", 1, U)], 1, "a message to a thread that does not exist"),
        ([wrote("bob", 1), BEGUN], 0, "its sender was not a member"),
        ([BEGUN, wrote("carol", 1)], 1, "its sender was not a member"),
        ([BEGUN, wrote("carol", 1), change(Change.ADDED, "carol")], 1, "was not a member"),
        ([BEGUN, change(Change.REMOVED, "bob"), wrote("bob", 1)], 2, "was not a member"),
        ([BEGUN, change(Change.LEFT, by="bob"), wrote("bob", 1)], 2, "was not a member"),
        ([BEGUN, change(Change.STATUS, to=Status.DRAFT), wrote("bob", 1)], 2, "was not active"),
        ([BEGUN, change(Change.STATUS, to=Status.DELETED), wrote("bob", 1)], 2, "was not active"),
        ([BEGUN, change(Change.ADDED, "carol", by="bob")], 1, "only the thread's creator"),
        ([BEGUN, BEGUN], 1, "the thread exists"),
        ([BEGUN, posted("carol")], 1, "not a member"),
        ([posted("carol")], 0, "not a member"),
        ([BEGUN, change(Change.STATUS, to=Status.ARCHIVED), posted("bob")], 2, "not active"),
        ([StageMove(Stage.DUAL, Stage.RETIRED).draft()], 0, "no move between neighbouring stages"),
        (
            [
                StageMove(Stage.DUAL, Stage.V2).draft(),
                StageMove(Stage.DUAL, Stage.SHADOW).draft(),
            ],
            1,
            "does not start at the stage before it",
        ),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 4 << 20])
def test_the_line_that_breaks_a_rule_is_named(
    tmp_path: Path, drafts: list[EventDraft], index: int, reason: str, chunk_size: int
) -> None:
    report = audit_ledger(ledger_of(tmp_path, [*drafts, OTHER]), chunk_size=chunk_size)
    assert report.finding is not None
    assert report.finding.defect in (Defect.HISTORY, Defect.EVENT)
    assert reason in report.finding.reason
    assert (report.finding.index, report.records) == (index, index)


def test_what_hosts_write_to_look_like_threads_is_no_thread(tmp_path: Path) -> None:
    """A wallet may be called anything but this; ``thread_1`` is a wallet."""
    drafts = [wrote("bob", 1, "thread_1"), wrote("bob", 1, "Thread_" + "0a" * 16)]
    assert audit_ledger(ledger_of(tmp_path, drafts)).sound

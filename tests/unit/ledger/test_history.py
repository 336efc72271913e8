"""ledger/history: what a start took on trust is read behind it; what is wrong stops the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.secure_chat.core.records import EventDraft, Head
from plugins.secure_chat.ledger.history import HistoryCheck
from plugins.secure_chat.ledger.journal import Checkpoint, Journal
from plugins.secure_chat.ledger.port import JournalLedger


def checked(path: Path, before: Callable[[Checkpoint], Checkpoint]) -> str | None:
    """Why a ledger of three records stopped, when ``before`` has made what it trusted."""
    journal = Journal.open(path)
    for number in range(3):
        journal.append(EventDraft("NOTE", "alice", {"number": number}))
    check = HistoryCheck(JournalLedger(journal, owned=True), before(journal.checkpoint))
    check.start()
    check.stop()
    stopped = journal.stopped
    journal.close()
    return stopped


def test_what_leads_to_the_checkpoint_stops_nothing(tmp_path: Path) -> None:
    assert checked(tmp_path / "ledger.jsonl", lambda end: end) is None


@pytest.mark.parametrize(
    "lie",
    [
        lambda end: Checkpoint(Head(3, "f" * 128), end.offset),
        lambda end: Checkpoint(Head(2, end.head.event_hash), end.offset),
        lambda end: Checkpoint(end.head, end.offset - 1),
    ],
    ids=["another hash", "another position", "in the middle of a line"],
)
def test_a_history_that_leads_elsewhere_stops_the_ledger(
    tmp_path: Path, lie: Callable[[Checkpoint], Checkpoint]
) -> None:
    stopped = checked(tmp_path / "ledger.jsonl", lie)
    assert stopped is not None
    assert "line 3 (index 2): does not lead to the record verified before" in stopped


def test_a_file_that_cannot_be_read_stops_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"

    def take_away(end: Checkpoint) -> Checkpoint:
        path.rename(tmp_path / "elsewhere")
        return end

    stopped = checked(path, take_away)
    assert stopped is not None
    assert "cannot be read: No such file or directory" in stopped

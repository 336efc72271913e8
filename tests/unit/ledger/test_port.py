"""ledger/port: a chat on a journal that others keep comes and goes, and the journal stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.ledger.port import JournalLedger


def test_who_has_closed_is_told_no_more_by_a_journal_that_stays_open(tmp_path: Path) -> None:
    """Else a host that starts and stops chats on one ledger would keep all of them."""
    told: list[str] = []

    def listener(name: str) -> Callable[[], None]:
        return lambda: told.append(name)

    journal = Journal.open(tmp_path / "ledger.jsonl")
    for name in ("first", "second"):
        ledger = JournalLedger(journal, owned=False)
        ledger.observe(listener(name))
        journal.append(EventDraft("NOTE", "alice", {}))
        ledger.close()
    journal.append(EventDraft("NOTE", "alice", {}))
    journal.close()
    assert told == ["first", "second"]

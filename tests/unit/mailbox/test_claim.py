"""mailbox/claim: one process at a time indexes a ledger in a database."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from plugins.secure_chat.core.records import EMPTY
from plugins.secure_chat.errors import DatabaseTaken, DatabaseUnusable, LedgerUnavailable
from plugins.secure_chat.mailbox import claim
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.runtime import Index
from tests import postgres


def test_one_process_indexes_a_ledger_in_a_database(database_url: str) -> None:
    one, other = Mailbox(engine_for(database_url)), Mailbox(engine_for(database_url))
    Index(one).finish(EMPTY)
    Index(one).finish(EMPTY)  # its own again
    with pytest.raises(DatabaseUnusable, match="give each ledger its own"):
        Index(other).finish(EMPTY)
    other.checkpoint()  # reading is free
    one.close()
    Index(other).finish(EMPTY)
    other.close()


def test_a_link_to_a_database_leads_to_its_lock_and_closing_twice_lets_go_once(
    tmp_path: Path,
) -> None:
    one = Mailbox.at(tmp_path / "mailbox.sqlite")
    one.claim()
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "mailbox.sqlite")
    other = Mailbox.at(tmp_path / "link.sqlite")
    with pytest.raises(DatabaseUnusable, match="give each ledger its own"):
        other.claim()
    one.close()
    other.claim()
    one.close()  # its descriptor's number may be another file's by now
    third = Mailbox.at(tmp_path / "mailbox.sqlite")
    with pytest.raises(DatabaseUnusable):
        third.claim()
    other.close()
    third.close()


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_files_that_are_not_at_their_paths_any_more_are_neither_written_nor_read(
    tmp_path: Path, end: str
) -> None:
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    mailbox.claim()
    mailbox.record_mismatch("GET /threads", "total", "now")
    mailbox.hold()
    (tmp_path / f"mailbox.sqlite{end}").unlink()
    for use in (
        lambda: mailbox.record_mismatch("GET /threads", "total", "now"),
        mailbox.mismatches,
        mailbox.hold,
    ):
        with pytest.raises(DatabaseTaken, match="moved, removed or replaced"):
            use()
    mailbox.close()


@pytest.mark.postgres
def test_a_claim_that_a_restart_of_the_database_ended_is_taken_again(
    own_cluster: postgres.Cluster,
) -> None:
    mailbox = Mailbox(engine_for(own_cluster.url))
    mailbox.claim()
    own_cluster.stop()
    with pytest.raises(LedgerUnavailable, match="cannot be reached"):
        mailbox.record_mismatch("GET /threads", "total", "now")
    own_cluster.start()
    assert postgres.locks(own_cluster.url) == 0
    mailbox.record_mismatch("GET /threads", "total", "now")
    assert postgres.locks(own_cluster.url) == 1
    assert [one.count for one in mailbox.mismatches()] == [1]
    own_cluster.stop()
    own_cluster.start()
    mailbox.hold()
    assert postgres.locks(own_cluster.url) == 1
    mailbox.close()


@pytest.mark.postgres
def test_a_database_that_another_took_after_a_restart_is_let_alone(
    own_cluster: postgres.Cluster,
) -> None:
    mailbox, other = Mailbox(engine_for(own_cluster.url)), Mailbox(engine_for(own_cluster.url))
    mailbox.claim()
    own_cluster.stop()
    own_cluster.start()
    other.claim()
    other.record_mismatch("GET /threads", "theirs", "now")
    other.close()  # it has gone again, and what it wrote is there
    for _ in range(2):
        with pytest.raises(DatabaseTaken, match="another server has written"):
            mailbox.record_mismatch("GET /threads", "total", "now")
    with pytest.raises(DatabaseTaken):
        mailbox.mismatches()
    mailbox.close()
    found = Mailbox(engine_for(own_cluster.url))
    assert [one.difference for one in found.mismatches()] == ["theirs"]
    found.close()


@pytest.mark.postgres
def test_who_closes_has_let_go_when_that_returns(
    new_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends a session some time after it was told to."""
    monkeypatch.setattr(claim, "LEFT_SECONDS", 0.0)
    for _ in range(20):
        mailbox = Mailbox(engine_for(new_postgres))
        mailbox.claim()
        mailbox.close()


@pytest.mark.postgres
def test_the_session_of_a_server_that_was_killed_is_waited_for(
    new_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(new_postgres)
    left = engine.connect()
    left.execute(text("SELECT pg_advisory_lock(:key)"), {"key": claim._LOCK})
    lock, tries = claim._lock, []

    def watched(session: Connection) -> bool:
        tries.append(lock(session))
        if len(tries) == 1:
            left.close()
            engine.dispose()
        return tries[-1]

    monkeypatch.setattr(claim, "_lock", watched)
    monkeypatch.setattr(claim, "LEFT_SECONDS", 60.0)
    mailbox = Mailbox(engine_for(new_postgres))
    mailbox.claim()
    mailbox.close()
    assert (tries[0], tries[-1]) == (False, True)


@pytest.mark.postgres
def test_a_session_that_the_database_still_has_is_waited_for(own_cluster: postgres.Cluster) -> None:
    """As after a broken connection: the lock is there, and nobody has written."""
    mailbox = Mailbox(engine_for(own_cluster.url))
    mailbox.claim()
    own_cluster.stop()
    own_cluster.start()
    engine = create_engine(own_cluster.url)
    with engine.connect() as last, last.begin():
        last.execute(text("SELECT pg_advisory_lock(:key)"), {"key": 0x61746C6174})
        with pytest.raises(LedgerUnavailable, match="not let go"):
            mailbox.hold()
    engine.dispose()
    mailbox.hold()
    mailbox.close()

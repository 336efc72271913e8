"""mailbox/store: what is kept for whom, in ledger order, and the index that the ledger rebuilds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.records import Head, Receipt
from plugins.secure_chat.core.sequence import Logged, Stream
from plugins.secure_chat.errors import ConfigurationError, LedgerUnavailable
from plugins.secure_chat.ledger.journal import START, Checkpoint
from plugins.secure_chat.mailbox.engine import engine_at, engine_for
from plugins.secure_chat.mailbox.store import (
    Mailbox,
    MessageReceipt,
    Stored,
    StoredIdentityEvent,
    Waiting,
)
from plugins.secure_chat.mailbox.tables import messages

AB = Stream("alice", "0", "bob")
BA = Stream("bob", "0", "alice")
AC = Stream("alice", "0", "carol")
A2B = Stream("alice", "phone", "bob")


def receipt(position: int, ledger: str = "") -> Receipt:
    stamp = f"2026-01-01T00:00:{position:02}+00:00"
    return Receipt(position, f"id{ledger}{position}", f"event{ledger}{position}", stamp)


def stored(
    position: int, stream: Stream, seq: int, *, frame: bytes | None = b"?", ledger: str = ""
) -> Stored:
    body = b"frame%d" % position if frame == b"?" else frame
    return Stored(stream, seq, f"hash{ledger}{stream.device}{seq}", receipt(position, ledger), body)


def checkpoint(position: int, ledger: str = "") -> Checkpoint:
    return Checkpoint(Head(position, f"event{ledger}{position}"), position * 100)


def frame(position: int) -> Waiting:
    return Waiting(position, b"frame%d" % position)


@pytest.fixture
def mailbox(database_url: str) -> Iterator[Mailbox]:
    opened = Mailbox(engine_for(database_url))
    yield opened
    opened.close()


def conversation() -> list[Stored]:
    return [
        stored(1, AB, 1),
        stored(2, BA, 1),
        stored(3, AC, 1),
        stored(4, AB, 2),
        stored(6, A2B, 1),
        stored(7, BA, 5),
    ]


@pytest.mark.parametrize("name", ["plain", "a?mode=ro", "a#b", "a%20b"])
def test_the_database_is_in_the_directory_that_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mailbox.sqlite"
    Mailbox.at(path).close()
    assert path.stat().st_size
    assert os.listdir(tmp_path) == [name]


def test_every_commit_to_sqlite_is_synced(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "mailbox.sqlite")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()


@pytest.mark.postgres
def test_every_commit_to_postgresql_is_synced(new_postgres: str) -> None:
    engine = engine_for(new_postgres)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == (
            "repeatable read"
        )
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://u:s3cret@host/db", "sqlite://", "sqlite:///s3cret?mode=ro"]
)
def test_a_url_of_another_database_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        engine_for(url)
    assert "s3cret" not in str(refused.value)


def test_an_empty_mailbox_knows_nothing(mailbox: Mailbox) -> None:
    assert mailbox.checkpoint() == START
    assert mailbox.last_seq(AB) == 0
    assert mailbox.logged(AB, 1) is None
    assert mailbox.missed("alice", 0) == []
    assert mailbox.threads("alice") == []
    assert mailbox.senders([MessageReceipt(1, "bob", "read")]) == {}
    assert mailbox.hashes_between(0, 100) == {}


def test_a_wallet_gets_what_it_sent_and_received_in_ledger_order(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    assert mailbox.missed("alice", 0) == [frame(p) for p in (1, 2, 3, 4, 6, 7)]
    assert mailbox.missed("bob", 2) == [frame(p) for p in (4, 6, 7)]
    assert mailbox.missed("carol", 0) == [frame(3)]
    assert mailbox.missed("carol", 3) == []
    assert mailbox.missed("mallory", 0) == []


def test_pages_join_without_loss_or_repeat(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    read: list[Waiting] = []
    while page := mailbox.missed("alice", read[-1].position if read else 0, limit=2):
        assert len(page) <= 2
        read += page
    assert read == mailbox.missed("alice", 0)


def test_history_is_of_two_wallets_forwards_and_backwards(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    assert mailbox.history("alice", "bob") == [frame(p) for p in (1, 2, 4, 6, 7)]
    assert mailbox.history("bob", "alice", after=2, limit=2) == [frame(4), frame(6)]
    assert mailbox.history("bob", "alice", before=7, limit=2) == [frame(4), frame(6)]
    assert mailbox.history("bob", "alice", before=1) == []
    assert mailbox.history("bob", "carol") == []


def test_threads_come_newest_first(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    threads = mailbox.threads("alice")
    assert [(t.peer, t.position, t.msg_id) for t in threads] == [
        ("bob", 7, "id7"),
        ("carol", 3, "id3"),
    ]
    assert [t.peer for t in mailbox.threads("alice", limit=1, offset=1)] == ["carol"]


def test_the_sequence_state_is_per_sender_device_and_recipient(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    assert [mailbox.last_seq(s) for s in (AB, BA, AC, A2B)] == [2, 5, 1, 1]
    assert mailbox.logged(BA, 5) == (Logged("hash05", receipt(7)), True)
    assert mailbox.logged(BA, 3) is None
    assert mailbox.logged(Stream("alice", "0", "mallory"), 1) is None


def test_what_was_stored_is_there_after_reopening(database_url: str) -> None:
    first = Mailbox(engine_for(database_url))
    first.store(conversation())
    first.set_checkpoint(checkpoint(7))
    first.close()
    again = Mailbox(engine_for(database_url))
    assert again.checkpoint() == checkpoint(7)
    assert again.missed("bob", 0) == [frame(p) for p in (1, 2, 4, 6, 7)]
    again.close()


def test_a_second_mailbox_on_the_database_sees_each_commit(
    database_url: str, mailbox: Mailbox
) -> None:
    other = Mailbox(engine_for(database_url))
    mailbox.store([stored(1, AB, 1)])
    assert other.last_seq(AB) == 1
    other.close()


def test_storing_again_replaces_what_stood_at_the_positions(mailbox: Mailbox) -> None:
    """A group that failed leaves rows; the group that takes its positions owns them."""
    mailbox.store([stored(1, AB, 1), stored(2, AC, 1)])
    mailbox.store([stored(1, BA, 1), stored(2, AB, 1)])
    assert mailbox.missed("carol", 0) == []
    assert [w.position for w in mailbox.missed("bob", 0)] == [1, 2]


def test_ciphertext_that_comes_back_to_an_old_place_sets_no_stream_back(mailbox: Mailbox) -> None:
    mailbox.rebuild([stored(p, AB, p, frame=None) for p in (1, 2, 3)], checkpoint(3))
    mailbox.store([stored(1, AB, 1)])
    assert mailbox.last_seq(AB) == 3
    assert [thread.position for thread in mailbox.threads("bob")] == [3]
    assert mailbox.missed("bob", 0) == [frame(1), Waiting(2, None), Waiting(3, None)]
    assert mailbox.missed("bob", 2) == [Waiting(3, None)]


def test_expired_ciphertext_is_gone_and_its_place_is_told(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    assert mailbox.expire(receipt(3).timestamp) == 2
    assert mailbox.expire(receipt(3).timestamp) == 0
    assert mailbox.missed("alice", 0)[:3] == [Waiting(1, None), Waiting(2, None), frame(3)]
    found = mailbox.logged(AB, 1)
    assert found == (Logged("hash01", receipt(1)), False)


def test_receipts_are_kept_once_and_told_to_the_sender(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    read, delivered = (MessageReceipt(1, "bob", kind) for kind in ("read", "delivered"))
    other = MessageReceipt(4, "bob", "delivered")
    assert mailbox.add_receipts([]) == set()
    assert mailbox.add_receipts([read]) == {read}
    assert mailbox.add_receipts([read]) == set()
    assert mailbox.add_receipts([read, delivered, other, other]) == {delivered, other}
    assert sorted(mailbox.receipts_for("alice", 0)) == [
        (1, "bob", "delivered"),
        (1, "bob", "read"),
        (4, "bob", "delivered"),
    ]
    assert mailbox.receipts_for("alice", 1) == [(4, "bob", "delivered")]
    assert mailbox.receipts_for("bob", 0) == []


def test_a_receipt_is_the_recipient_s_to_give(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    asked = [
        MessageReceipt(position, wallet, "read")
        for position in (1, 2, 5, 8)  # nothing is at the last two
        for wallet in ("alice", "bob", "carol")
    ]
    assert mailbox.senders(asked) == {
        MessageReceipt(1, "bob", "read"): "alice",
        MessageReceipt(2, "alice", "read"): "bob",
    }


def test_what_the_ledger_lacks_is_forgotten(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    mailbox.add_receipts([MessageReceipt(7, "alice", "read")])
    mailbox.drop_after(3)
    assert [w.position for w in mailbox.missed("alice", 0)] == [1, 2, 3]
    assert [mailbox.last_seq(s) for s in (AB, BA, AC, A2B)] == [1, 1, 1, 0]
    assert mailbox.receipts_for("bob", 0) == []
    assert [t.position for t in mailbox.threads("bob")] == [2]
    mailbox.store([stored(4, A2B, 1), stored(5, AB, 2)])
    assert [mailbox.last_seq(s) for s in (AB, A2B)] == [2, 1]


def test_dropping_everything_leaves_an_empty_mailbox(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    mailbox.drop_after(0)
    assert mailbox.missed("alice", 0) == []
    assert mailbox.threads("alice") == []


def from_ledger(count: int) -> list[Stored]:
    return [stored(m.receipt.position, m.stream, m.seq, frame=None) for m in conversation()][:count]


def test_an_index_rebuilt_from_the_ledger_keeps_frames_that_match(mailbox: Mailbox) -> None:
    mailbox.store(conversation())
    before = mailbox.missed("alice", 0)
    mailbox.rebuild(from_ledger(6), checkpoint(7), from_start=True)
    assert mailbox.missed("alice", 0) == before
    assert mailbox.checkpoint() == checkpoint(7)
    assert [mailbox.last_seq(s) for s in (AB, BA, AC, A2B)] == [2, 5, 1, 1]


def test_an_index_rebuilt_without_frames_says_that_they_are_gone(mailbox: Mailbox) -> None:
    mailbox.rebuild(from_ledger(6), checkpoint(7), from_start=True)
    assert mailbox.missed("carol", 0) == [Waiting(3, None)]
    assert mailbox.logged(AB, 2) == (Logged("hash02", receipt(4)), False)


def test_frames_of_another_ledger_are_never_shown_as_this_ones(mailbox: Mailbox) -> None:
    mailbox.store([stored(p, AB, p, ledger="old") for p in range(1, 6)])
    mailbox.set_checkpoint(checkpoint(5, "old"))
    mailbox.rebuild(from_ledger(2), checkpoint(2), from_start=True)
    mailbox.drop_after(2)
    assert mailbox.missed("alice", 0) == [Waiting(1, None), Waiting(2, None)]
    assert mailbox.last_seq(AB) == 1


def test_rebuilding_in_parts_is_rebuilding_at_once(mailbox: Mailbox) -> None:
    """Rows further on, of streams in another order, are not in the way of the first part."""
    mailbox.store([stored(1, AC, 1, ledger="old"), stored(5, AC, 2, ledger="old")])
    mailbox.store([stored(6, A2B, 1)])
    mailbox.set_checkpoint(checkpoint(6, "old"))
    whole = [stored(p, AB, p, frame=None) for p in range(1, 6)]
    whole.append(stored(6, A2B, 1, frame=None))
    mailbox.rebuild(whole[:2], checkpoint(2), from_start=True)
    mailbox.rebuild(whole[2:4], checkpoint(4))
    mailbox.rebuild(whole[4:], checkpoint(6))
    assert mailbox.missed("bob", 0) == [Waiting(p, None) for p in range(1, 6)] + [frame(6)]
    assert [mailbox.last_seq(s) for s in (AB, A2B, AC)] == [5, 1, 0]


def registered(
    position: int, wallet: str, device: str = "", ledger: str = ""
) -> StoredIdentityEvent:
    kind = StatementKind.DEVICE if device else StatementKind.IDENTITY
    event = IdentityEvent(kind, f"{position:064x}", device)
    return StoredIdentityEvent(position, f"event{ledger}{position}", wallet, event)


def test_identity_events_are_kept_for_each_wallet_in_ledger_order(mailbox: Mailbox) -> None:
    first, second = registered(1, "alice"), registered(4, "alice", "phone")
    for event in (second, registered(2, "bob"), first, second):
        mailbox.store_identity_event(event)
    assert mailbox.identity_events("alice") == [first, second]
    mailbox.drop_after(1)
    assert mailbox.identity_events("alice") == [first]
    assert mailbox.identity_events("bob") == []


def test_identity_events_follow_from_the_ledger(mailbox: Mailbox) -> None:
    for position in (1, 2, 5):
        mailbox.store_identity_event(registered(position, "alice", ledger="old"))
    mailbox.rebuild([], checkpoint(3), identities=[registered(2, "alice")], from_start=True)
    mailbox.rebuild([], checkpoint(4), identities=[registered(4, "alice", "a")], first=False)
    mailbox.drop_after(4)
    assert mailbox.identity_events("alice") == [
        registered(2, "alice"),
        registered(4, "alice", "a"),
    ]


def test_what_one_reading_sees_is_of_one_moment(database_url: str, mailbox: Mailbox) -> None:
    """A page is read stream by stream: a commit in between must not leave a hole in it."""
    other = Mailbox(engine_for(database_url))
    mailbox.store([stored(1, AB, 1), stored(2, BA, 1)])
    with mailbox.reading() as connection:
        count = select(func.count()).select_from(messages)
        before = connection.scalar(count)
        other.store([stored(3, AB, 2), stored(4, BA, 2)])
        assert connection.scalar(count) == before == 2
    assert len(mailbox.missed("alice", 0)) == 4
    other.close()


def test_a_database_that_cannot_be_written_is_said_without_its_values(tmp_path: Path) -> None:
    opened = Mailbox.at(tmp_path / "mailbox.sqlite")
    with opened._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")
    secret = stored(1, Stream("alice", "0", "s3cret"), 1)
    with pytest.raises(LedgerUnavailable) as refused:
        opened.store([secret])
    assert "s3cret" not in refused.value.detail
    opened.close()

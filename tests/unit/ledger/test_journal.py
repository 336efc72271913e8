"""ledger/journal: what was durable stays, what was torn goes, and one process writes."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.records import EMPTY, EventDraft, Head, Record
from plugins.secure_chat.errors import (
    LedgerBroken,
    LedgerLocked,
    LedgerUnavailable,
    LedgerUnusable,
    OutcomeUnknown,
)
from plugins.secure_chat.ledger.file import AppendFile
from plugins.secure_chat.ledger.journal import START, Checkpoint, Journal
from tests.ledgers import writers
from tests.ledgers.writers import DIALECTS, Ledger


def draft(number: int) -> EventDraft:
    return EventDraft("NOTE", "alice", {"number": number})


def write(path: Path, count: int) -> list[Record]:
    """A ledger of ``count`` notes, closed again; its records."""
    journal = Journal.open(path)
    for number in range(count):
        journal.append(draft(number))
    records = list(journal.read())
    journal.close()
    return records


def reopen(path: Path) -> list[Record]:
    """Open, read everything, close: what a restart sees."""
    journal = Journal.open(path)
    try:
        return list(journal.read())
    finally:
        journal.close()


def test_an_observer_that_fails_stops_no_commit(tmp_path: Path) -> None:
    def fail(_groups: int, _bytes: int) -> None:
        raise LookupError

    told: list[int] = []
    journal = Journal.open(tmp_path / "ledger.jsonl")
    journal.observe(fail)
    journal.observe(lambda groups, _bytes: told.append(groups))
    for number in range(2):
        journal.stage([draft(number)]).durable.result(timeout=60)
    assert told == [1, 1]
    assert journal.stopped is None
    journal.close()


def test_a_new_ledger_is_empty_and_private_to_owner_and_group(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "deep" / "ledger.jsonl")
    assert journal.head == EMPTY
    assert journal.checkpoint == START
    assert journal.stopped is None
    assert journal.path.stat().st_mode & 0o007 == 0
    journal.close()
    journal.close()


def test_receipts_name_the_line_that_holds_the_event(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    journal = Journal.open(path)
    receipts = [journal.append(draft(number)) for number in range(3)]
    records = list(journal.read())
    assert [receipt.position for receipt in receipts] == [1, 2, 3]
    assert [record.event_hash for record in records] == [r.event_hash for r in receipts]
    assert [record.event_id for record in records] == [r.event_id for r in receipts]
    assert [record.metadata["number"] for record in records] == [0, 1, 2]
    assert list(journal.read(after=2)) == records[2:]
    assert journal.head == Head(3, receipts[-1].event_hash)
    assert journal.checkpoint.offset == path.stat().st_size
    journal.close()
    assert audit_ledger(path).sound


def test_a_group_stands_side_by_side_and_in_order(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "ledger.jsonl")
    first = journal.stage([draft(number) for number in range(5)])
    second = journal.stage([draft(5)])
    first.durable.result()
    second.durable.result()
    journal.close()
    assert [receipt.position for receipt in first.receipts + second.receipts] == [1, 2, 3, 4, 5, 6]
    assert [r.metadata["number"] for r in reopen(tmp_path / "ledger.jsonl")] == [0, 1, 2, 3, 4, 5]


def test_many_appends_share_one_sync(tmp_path: Path) -> None:
    class Held(AppendFile):
        """Its first sync waits until it may go on."""

        def sync(self) -> None:
            syncs.append(self.size())
            if len(syncs) == 1:
                syncing.set()
                may_go_on.wait(60)
            super().sync()

    syncs: list[int] = []
    syncing, may_go_on = threading.Event(), threading.Event()
    groups: list[int] = []
    journal = Journal.open(tmp_path / "ledger.jsonl", open_file=Held)
    journal.observe(lambda count, _size: groups.append(count))
    staged = [journal.stage([draft(0)])]
    assert syncing.wait(60)  # the writer has taken the first group
    staged += [journal.stage([draft(number)]) for number in range(1, 50)]
    may_go_on.set()
    for one in staged:
        one.durable.result(60)
    journal.close()
    assert groups == [1, 49]
    assert len(syncs) == 2


def test_closing_commits_what_is_staged_and_then_takes_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "ledger.jsonl")
    staged = journal.stage([draft(number) for number in range(100)])
    journal.close()
    assert staged.durable.done()
    with pytest.raises(LedgerUnavailable, match="closing"):
        journal.stage([draft(100)])
    assert len(reopen(tmp_path / "ledger.jsonl")) == 100


def test_a_record_whose_newline_alone_is_missing_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    records = write(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert reopen(path) == records
    assert path.read_bytes() == whole


def test_a_bad_line_before_the_last_refuses_to_start_and_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"alice", b"mallo")
    altered = b"".join(lines)
    path.write_bytes(altered)
    with pytest.raises(LedgerBroken) as refused:
        Journal.open(path)
    assert refused.value.line == 2
    assert path.read_bytes() == altered


def test_a_complete_bad_last_line_is_tampering_and_not_a_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 2)
    altered = path.read_bytes() + b'{"wallet":"alice"}\n'
    path.write_bytes(altered)
    with pytest.raises(LedgerBroken) as refused:
        Journal.open(path)
    assert refused.value.line == 3
    assert path.read_bytes() == altered


def test_a_file_that_is_no_ledger_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"my diary\nday one\n")
    with pytest.raises(LedgerBroken) as refused:
        Journal.open(path)
    assert refused.value.line == 1
    assert path.read_bytes() == b"my diary\nday one\n"


def test_a_directory_in_its_place_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="cannot be opened"):
        Journal.open(tmp_path)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ledger_is_continued_in_its_own_dialect(tmp_path: Path, dialect: str) -> None:
    path = tmp_path / "ledger.jsonl"
    before = Ledger()
    for number in (1, 2, 3):
        before.add(dialect, writers.secure_message(number))
    path.write_bytes(b"".join(before.lines))
    journal = Journal.open(path)
    journal.append(draft(4))
    journal.close()
    journal = Journal.open(path, verified=journal.checkpoint)  # nothing has to be read
    journal.append(draft(5))
    journal.close()
    report = audit_ledger(path)
    assert report.sound, report.finding
    assert report.records == 5
    assert len([name for name, count in report.dialects.items() if count]) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ledger_whose_one_line_had_to_be_completed_keeps_its_dialect(
    tmp_path: Path, dialect: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(Ledger().add(dialect, writers.secure_message(1)).data[:-1])
    journal = Journal.open(path)
    journal.append(draft(2))
    journal.close()
    report = audit_ledger(path)
    assert (report.sound, report.records) == (True, 2)
    assert len([name for name, count in report.dialects.items() if count]) == 1


def test_a_checkpoint_spares_what_was_verified(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    records = write(path, 5)
    ends = [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    after_three = Checkpoint(Head(3, records[2].event_hash), sum(ends[:3]))
    replayed: list[tuple[int, int]] = []
    journal = Journal.open(
        path, verified=after_three, replay=lambda r, end: replayed.append((r.position, end))
    )
    assert journal.head == Head(5, records[4].event_hash)
    journal.close()
    assert replayed == [(4, sum(ends[:4])), (5, sum(ends))]


@pytest.mark.parametrize(
    "lie",
    [
        lambda good: Checkpoint(Head(3, "f" * 128), good.offset),
        lambda good: Checkpoint(good.head, good.offset - 1),
        lambda good: Checkpoint(good.head, good.offset + 1_000_000),
    ],
    ids=["another hash", "not at a line's end", "beyond the file"],
)
def test_a_checkpoint_that_the_file_does_not_bear_out_is_not_used(
    tmp_path: Path, lie: Callable[[Checkpoint], Checkpoint]
) -> None:
    path = tmp_path / "ledger.jsonl"
    records = write(path, 5)
    end = sum(len(line) for line in path.read_bytes().splitlines(keepends=True)[:3])
    replayed: list[int] = []
    journal = Journal.open(
        path,
        verified=lie(Checkpoint(Head(3, records[2].event_hash), end)),
        replay=lambda record, _: replayed.append(record.position),
    )
    journal.close()
    assert replayed == [1, 2, 3, 4, 5]


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    journal = Journal.open(path)
    journal.append(draft(1))
    with pytest.raises(LedgerLocked, match="another process"):
        Journal.open(path)
    journal.append(draft(2))
    journal.close()
    assert len(reopen(path)) == 2


@pytest.mark.parametrize("way", ["lock file removed", "other name"])
def test_a_second_writer_is_refused_however_it_comes_to_the_file(tmp_path: Path, way: str) -> None:
    path = tmp_path / "ledger.jsonl"
    with closing(Journal.open(path)):
        if way == "other name":
            (tmp_path / "other.jsonl").symlink_to(path)
            path = tmp_path / "other.jsonl"
        else:
            path.with_name("ledger.jsonl.lock").unlink()
        with pytest.raises(LedgerLocked):
            Journal.open(path)


def test_a_copy_of_the_right_size_in_the_files_place_is_not_taken_for_it(tmp_path: Path) -> None:
    class Replaced(AppendFile):
        """Put aside for a copy of itself as soon as it is synced."""

        def sync(self) -> None:
            super().sync()
            copy = self.path.with_name("copy")
            shutil.copyfile(self.path, copy)
            copy.rename(self.path)

    journal = Journal.open(tmp_path / "ledger.jsonl", open_file=Replaced)
    with pytest.raises(OutcomeUnknown, match="moved, removed, or changed"):
        journal.append(draft(1))
    assert journal.stopped is not None
    journal.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_refuses_the_group_and_takes_the_next(tmp_path: Path, number: int) -> None:
    class Full(AppendFile):
        """Writes half and then finds no space, while ``full``."""

        full = False

        def append(self, data: bytes) -> None:
            if self.full:
                super().append(data[: len(data) // 2])
                raise OSError(number, "full")
            super().append(data)

    path = tmp_path / "ledger.jsonl"
    files: list[Full] = []

    def open_file(at: Path) -> AppendFile:
        files.append(Full(at))
        return files[-1]

    journal = Journal.open(path, open_file=open_file)
    first = journal.append(draft(1))
    files[0].full = True
    with pytest.raises(LedgerUnavailable, match="full") as refused:
        journal.append(draft(2))
    assert not isinstance(refused.value, OutcomeUnknown)
    assert journal.stopped is None
    assert path.stat().st_size == journal.checkpoint.offset
    files[0].full = False
    third = journal.append(draft(3))
    journal.close()
    assert (first.position, third.position) == (1, 2)
    assert [record.metadata["number"] for record in reopen(path)] == [1, 3]
    assert audit_ledger(path).sound


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_changes_no_order(tmp_path: Path, hours: int) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    times = iter([noon, noon + timedelta(hours=hours), noon + timedelta(seconds=1)])
    path = tmp_path / "ledger.jsonl"
    journal = Journal.open(path, clock=lambda: next(times))
    receipts = [journal.append(draft(number)) for number in (1, 2, 3)]
    journal.close()
    stamps = [datetime.fromisoformat(receipt.timestamp) for receipt in receipts]
    assert stamps[1] - stamps[0] == timedelta(hours=hours)
    assert [record.metadata["number"] for record in reopen(path)] == [1, 2, 3]
    assert audit_ledger(path).sound


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; from pathlib import Path;"
        "from plugins.secure_chat.ledger.journal import Journal;"
        "Journal.open(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(LedgerLocked):
            Journal.open(path)
        holder.kill()
        holder.wait()
        Journal.open(path).close()


def test_copies_of_a_ledger_go_their_own_ways(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", 2)
    shutil.copy(tmp_path / "one.jsonl", tmp_path / "two.jsonl")
    one, two = Journal.open(tmp_path / "one.jsonl"), Journal.open(tmp_path / "two.jsonl")
    assert one.append(draft(7)).event_hash != two.append(draft(8)).event_hash
    one.close()
    two.close()


def test_event_ids_are_random_uuids_of_version_4(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path / "ledger.jsonl")) as journal:
        receipts = journal.stage([draft(number) for number in range(200)]).receipts
    ids = {uuid.UUID(receipt.event_id) for receipt in receipts}
    assert len(ids) == 200
    assert {(one.version, one.variant) for one in ids} == {(4, uuid.RFC_4122)}
    assert all(str(uuid.UUID(receipt.event_id)) == receipt.event_id for receipt in receipts)
    assert len({str(one)[19] for one in ids}) == 4  # each variant digit that the RFC allows

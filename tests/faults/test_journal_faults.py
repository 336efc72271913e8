"""F2, F3, F4, F6, F7 on the journal: real bytes, real system calls, two real processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.errors import LedgerLocked, LedgerUnavailable, OutcomeUnknown
from plugins.secure_chat.ledger.file import AppendFile
from plugins.secure_chat.ledger.journal import Journal, Staged

pytestmark = pytest.mark.fault


def draft(number: int) -> EventDraft:
    return EventDraft("NOTE", "alice", {"number": number})


def numbers(path: Path) -> list[int]:
    """What a restart finds, in order."""
    journal = Journal.open(path)
    try:
        return [record.metadata["number"] for record in journal.read()]
    finally:
        journal.close()


def test_f2_a_cut_at_every_byte_of_the_last_record_costs_that_record_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    journal = Journal.open(whole)
    for number in range(3):
        journal.append(draft(number))
    journal.close()
    data = whole.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(data)):
        path = tmp_path / f"{cut}" / "ledger.jsonl"
        path.parent.mkdir()
        path.write_bytes(data[:cut])
        # Only the missing newline leaves a record that is provably whole.
        survivors = [0, 1, 2] if cut == len(data) - 1 else [0, 1]
        assert numbers(path) == survivors, cut
        assert path.read_bytes() == (data if len(survivors) == 3 else data[:start]), cut
        kept = [p.read_bytes() for p in path.parent.glob("*.torn-*")]
        torn = data[start:cut]
        assert kept == ([torn] if torn and len(survivors) == 2 else []), cut
        if cut % 8 == 0:
            after = Journal.open(path)
            assert after.append(draft(9)).position == len(survivors) + 1
            after.close()
            assert numbers(path) == [*survivors, 9]
    assert audit_ledger(path).sound


class FailsOnce(AppendFile):
    """The real file; the ``nth`` call of ``method`` fails with EIO, before or after its effect.

    ``half`` writes a part first, as a dying disk does.
    """

    method, nth, effect = "", 0, "none"

    def _count(self, method: str, effect: Callable[[], None], half: Callable[[], None]) -> None:
        if method != self.method:
            effect()
            return
        FailsOnce.nth -= 1
        if FailsOnce.nth != 0:
            effect()
            return
        if self.effect == "whole":
            effect()
        elif self.effect == "half":
            half()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def append(self, data: bytes) -> None:
        whole, half = super().append, data[: len(data) // 2]
        self._count("append", lambda: whole(data), lambda: whole(half))

    def sync(self) -> None:
        whole = super().sync
        self._count("sync", whole, lambda: None)


def arm(method: str, nth: int, effect: str) -> None:
    FailsOnce.method, FailsOnce.nth, FailsOnce.effect = method, nth, effect


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("effect", ["none", "half", "whole"])
@pytest.mark.parametrize("method", ["append", "sync"])
def test_f3_a_write_or_sync_that_fails_once_is_never_acknowledged(
    tmp_path: Path, method: str, nth: int, effect: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    arm(method, nth, effect)
    journal = Journal.open(path, open_file=FailsOnce)
    acknowledged = [journal.append(draft(number)) for number in range(nth - 1)]
    failed = journal.stage([draft(nth - 1)])
    journal.close()  # its writer has ended: whom it has not told by now it never tells
    assert failed.durable.done()
    with pytest.raises(OutcomeUnknown, match="restart"):
        failed.durable.result()
    # The disk is well again, but nobody knows what it holds: nothing more is taken.
    with pytest.raises(LedgerUnavailable, match="stopped") as refused:
        journal.stage([draft(99)])
    assert type(refused.value) is LedgerUnavailable  # it is known that this one is not there
    assert journal.stopped is not None
    assert journal.head.position == len(acknowledged)

    found = numbers(path)
    assert found[: len(acknowledged)] == list(range(nth - 1))
    assert 99 not in found
    assert len(found) <= nth
    again = Journal.open(path)
    for receipt, record in zip(acknowledged, again.read(), strict=False):
        assert (record.position, record.event_hash) == (receipt.position, receipt.event_hash)
    assert again.append(draft(50)).position == len(found) + 1
    again.close()
    assert audit_ledger(path).sound


@dataclass
class Gate:
    """Where a write waits until it may go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def pass_through(self) -> None:
        self.reached.set()
        self.open.wait(60)


def staged_while_the_first_is_written(journal: Journal, gate: Gate) -> list[Staged]:
    """Twenty groups: the first at the gate, the others behind it on the same chain."""
    staged = [journal.stage([draft(0)])]
    assert gate.reached.wait(60)
    staged += [journal.stage([draft(number)]) for number in range(1, 20)]
    gate.open.set()
    return staged


@pytest.mark.parametrize(
    ("method", "effect"),
    [("append", "none"), ("append", "half"), ("append", "whole"), ("sync", "whole")],
)
def test_f3_all_that_was_staged_behind_the_failure_fails_with_it(
    tmp_path: Path, method: str, effect: str
) -> None:
    path, gate = tmp_path / "ledger.jsonl", Gate()

    class Held(FailsOnce):
        def append(self, data: bytes) -> None:
            gate.pass_through()
            super().append(data)

    arm(method, 1, effect)
    journal = Journal.open(path, open_file=Held)
    staged = staged_while_the_first_is_written(journal, gate)
    journal.close()
    assert all(one.durable.done() for one in staged)
    first, *behind = [one.durable.exception() for one in staged]
    assert isinstance(first, OutcomeUnknown)
    assert {type(one) for one in behind} == {LedgerUnavailable}  # never written
    assert numbers(path) in ([], [0])
    assert audit_ledger(path).sound


def test_f4_what_was_staged_behind_a_refused_group_is_refused_with_it(tmp_path: Path) -> None:
    """There is space again for the second write: it must not follow a record that is not there."""
    path, gate = tmp_path / "ledger.jsonl", Gate()

    class FullOnce(AppendFile):
        full = True

        def append(self, data: bytes) -> None:
            gate.pass_through()
            if self.full:
                self.full = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().append(data)

        def truncate(self, size: int) -> None:
            super().truncate(size)
            cut.set()

    cut = threading.Event()
    journal = Journal.open(path, open_file=FullOnce)
    staged = staged_while_the_first_is_written(journal, gate)
    assert cut.wait(60)
    fresh = journal.stage([draft(99)])
    journal.close()
    assert all(one.durable.done() for one in (*staged, fresh))
    for one in staged:
        with pytest.raises(LedgerUnavailable, match="full"):
            one.durable.result()
    assert fresh.durable.exception() is None
    assert fresh.receipts[0].position == 1
    assert journal.stopped is None
    assert numbers(path) == [99]
    assert audit_ledger(path).sound


class CannotCut(AppendFile):
    """A disk that is full, and then does not even let the file be cut back."""

    def append(self, data: bytes) -> None:
        super().append(data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_f3_a_full_disk_that_cannot_be_cut_back_stops_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    journal = Journal.open(path, open_file=CannotCut)
    with pytest.raises(OutcomeUnknown):
        journal.append(draft(1))
    with pytest.raises(LedgerUnavailable):
        journal.append(draft(2))
    journal.close()
    assert numbers(path) == []


def test_f3_a_failure_while_recovering_leaves_a_ledger_that_recovers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    journal = Journal.open(path)
    journal.append(draft(0))
    journal.append(draft(1))
    journal.close()
    path.write_bytes(path.read_bytes()[:-30])

    class NoCut(AppendFile):
        def truncate(self, size: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output"):
        Journal.open(path, open_file=NoCut)
    assert numbers(path) == [0]  # and the lock was released


_APPEND_FOREVER = """
import sys
from pathlib import Path
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.errors import LedgerLocked
from plugins.secure_chat.ledger.journal import Journal
try:
    journal = Journal.open(Path(sys.argv[1]))
except LedgerLocked as refused:
    print("refused", refused, flush=True)
    sys.exit(3)
print("writing", flush=True)
for line in sys.stdin:
    journal.append(EventDraft("NOTE", "bob", {"number": int(line)}))
    print(line, end="", flush=True)
"""


def test_f6_a_second_process_is_refused_and_the_ledger_does_not_fork(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", _APPEND_FOREVER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "writing\n"
        first.stdin.write("1\n")
        assert first.stdout.readline() == "1\n"
        second = subprocess.run(
            command, input="2\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 3
        assert "another process writes this ledger" in second.stdout
        with pytest.raises(LedgerLocked):
            Journal.open(path)
        first.stdin.write("3\n")
        assert first.stdout.readline() == "3\n"
        first.stdin.close()
        first.wait(60)
    assert numbers(path) == [1, 3]
    assert audit_ledger(path).sound


@pytest.mark.parametrize("hours", [1, -1])
def test_f7_a_clock_an_hour_off_changes_no_order(tmp_path: Path, hours: int) -> None:
    path = tmp_path / "ledger.jsonl"
    off = timedelta(0)
    journal = Journal.open(path, clock=lambda: datetime.now(UTC) + off)
    before = journal.append(draft(0))
    off = timedelta(hours=hours)
    jumped = journal.append(draft(1))
    off = timedelta(0)
    after = journal.append(draft(2))
    journal.close()
    assert (jumped.timestamp > after.timestamp) == (hours > 0)
    assert (jumped.timestamp < before.timestamp) == (hours < 0)
    assert [r.position for r in (before, jumped, after)] == [1, 2, 3]
    # And over a restart with the clock still off.
    again = Journal.open(path, clock=lambda: datetime.now(UTC) - timedelta(hours=hours))
    assert again.append(draft(3)).position == 4
    again.close()
    assert numbers(path) == [0, 1, 2, 3]
    assert audit_ledger(path).sound


def test_f4_a_size_limit_of_the_process_is_a_clear_refusal(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: a real write that the kernel cuts short, errno EFBIG."""
    path = tmp_path / "ledger.jsonl"
    code = """
import resource, sys
from pathlib import Path
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.ledger.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
journal.append(EventDraft("NOTE", "a", {"number": 0}))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.checkpoint.offset + 100, hard))
try:
    journal.append(EventDraft("NOTE", "a", {"number": 1}))
except LedgerUnavailable as refused:
    print(type(refused).__name__, journal.stopped)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(journal.append(EventDraft("NOTE", "a", {"number": 2})).position)
journal.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["LedgerUnavailable None", "2"], done.stderr
    assert numbers(path) == [0, 2]
    assert audit_ledger(path).sound

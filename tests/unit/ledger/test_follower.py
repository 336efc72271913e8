"""ledger/follower.py: what is derived is kept current, and nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.secure_chat.ledger import follower as follower_module
from plugins.secure_chat.ledger.follower import LedgerFollower
from plugins.secure_chat.transparency.keys import CheckpointSigner
from plugins.secure_chat.transparency.log import Published, TransparencyLog, TreeDamaged

SIGNER = CheckpointSigner("example.com/ledger", b"\x01" * 32, b"\x02" * 32)
PATIENCE = 60.0
"""Seconds after which a test says that something never happened."""


class WatchedLog(TransparencyLog):
    """The real log; it tells of every publish, and can be held or made to fail before one."""

    def __init__(self, ledger: Path, directory: Path) -> None:
        super().__init__(ledger, directory, SIGNER, clock=lambda: 1.0)
        self.told = threading.Condition()
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.at_the_gate = threading.Event()
        self.failures: list[Exception] = []
        self.opened = 0

    def open(self, position: int) -> None:
        self.opened += 1
        super().open(position)

    def publish(self) -> Published:
        self.at_the_gate.set()
        assert self.go.wait(PATIENCE)
        if self.failures:
            with self.told:
                self.told.notify_all()
            raise self.failures.pop(0)
        published = super().publish()
        with self.told:
            self.sizes.append(published.checkpoint.size)
            self.told.notify_all()
        return published

    def wait_for(self, size: int) -> None:
        with self.told:
            assert self.told.wait_for(lambda: size in self.sizes, PATIENCE)


class Case:
    def __init__(self, directory: Path) -> None:
        self.ledger = directory / "ledger.jsonl"
        self.ledger.touch()
        self.log = WatchedLog(self.ledger, directory / "log")
        self.follower = LedgerFollower("transparency log", self.log, interval=0.0)
        self.count = 0

    def append(self, count: int) -> int:
        with self.ledger.open("ab") as file:
            for _ in range(count):
                self.count += 1
                file.write(b"record %d\n" % self.count)
        return self.count


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.log.go.set()
    case.follower.stop()


def test_what_was_notified_is_published(case: Case) -> None:
    case.follower.start(case.append(3))
    case.log.wait_for(3)
    case.follower.notify(case.append(300))
    case.log.wait_for(303)
    assert case.follower.failure is None


def test_stopping_publishes_what_was_notified_before(case: Case) -> None:
    case.follower.start(case.append(3))
    case.follower.notify(case.append(4))
    case.follower.stop()
    assert case.log.published is not None
    assert case.log.published.checkpoint.size == 7
    case.follower.stop()


def test_telling_the_log_never_waits_for_it(case: Case) -> None:
    case.log.go.clear()
    case.follower.start(case.append(1))
    assert case.log.at_the_gate.wait(PATIENCE)
    told = threading.Event()

    def commit() -> None:
        for _ in range(1_000):
            case.follower.notify(case.append(1))
        told.set()

    thread = threading.Thread(target=commit)
    thread.start()
    assert told.wait(PATIENCE), "a commit waited for the log"
    thread.join()
    case.log.go.set()
    case.log.wait_for(1_001)


class HeldClock:
    """A clock that stands still and tells when it is looked at."""

    def __init__(self) -> None:
        self.looked = threading.Condition()
        self.looks = 0

    def __call__(self) -> float:
        with self.looked:
            self.looks += 1
            self.looked.notify_all()
        return 0.0

    def wait_for(self, looks: int) -> None:
        with self.looked:
            assert self.looked.wait_for(lambda: self.looks >= looks, PATIENCE)


def test_commits_during_an_interval_share_a_checkpoint(tmp_path: Path) -> None:
    """An interval that does not end has its first checkpoint, and one when it is stopped."""
    case, clock = Case(tmp_path), HeldClock()
    follower = LedgerFollower("transparency log", case.log, interval=10.0, monotonic=clock)
    follower.start(case.append(1))
    clock.wait_for(2)
    for _ in range(19):
        follower.notify(case.append(1))
    follower.stop()
    assert case.log.sizes == [1, 20]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), TreeDamaged("tile")])
def test_a_log_that_failed_is_opened_again_and_catches_up(case: Case, failure: Exception) -> None:
    case.log.failures = [failure, failure]
    case.follower.start(case.append(300))
    case.log.wait_for(300)
    assert case.log.opened == 3
    case.follower.stop()
    assert case.follower.failure is None
    assert case.log.check() == []


def test_what_fails_for_long_counts_as_stopped_and_is_tried_again_all_the_same(case: Case) -> None:
    case.log.failures = [OSError(28, "No space left on device")] * (follower_module.PATIENCE + 5)
    case.follower.start(case.append(3))
    with case.log.told:
        assert case.log.told.wait_for(lambda: case.follower.stopped is not None, PATIENCE)
        assert "No space left" in str(case.follower.stopped)
    case.log.failures.clear()
    case.log.wait_for(3)
    case.follower.stop()
    assert case.follower.stopped is None


def test_a_rewritten_history_stops_the_signing_and_is_said(case: Case) -> None:
    case.follower.start(case.append(300))
    case.log.wait_for(300)
    case.follower.stop()
    case.ledger.write_bytes(b"another\n" * 200)
    again = LedgerFollower("transparency log", case.log, interval=0.0)
    again.start(200)
    again._thread.join(PATIENCE)
    assert not again._thread.is_alive()
    assert again.failure is not None
    assert "300" in again.failure
    again.notify(201)
    again.stop()
    assert set(case.log.sizes) == {300}


def test_a_damaged_tile_that_a_reader_met_is_mended(case: Case, tmp_path: Path) -> None:
    case.follower.start(case.append(300))
    case.log.wait_for(300)
    tile = tmp_path / "log" / "tile" / "0" / "000"
    tile.write_bytes(bytes(256 * 32))
    with pytest.raises(TreeDamaged):
        case.log.inclusion(7)
    case.follower.repair()
    case.follower.notify(case.append(1))
    case.log.wait_for(301)
    case.follower.stop()
    assert case.log.check() == []
    case.log.inclusion(7)


def test_a_damaged_tile_that_signing_met_is_mended(case: Case, tmp_path: Path) -> None:
    case.follower.start(case.append(300))
    case.log.wait_for(300)
    case.log.go.clear()
    case.log.at_the_gate.clear()
    case.follower.notify(case.append(400))
    assert case.log.at_the_gate.wait(PATIENCE)
    tile = tmp_path / "log" / "tile" / "0" / "001"
    tile.write_bytes(tile.read_bytes()[:-32] + bytes(32))  # needed to prove 700 from 300
    case.log.go.set()
    case.log.wait_for(700)
    case.follower.stop()
    assert case.log.check() == []


def test_following_takes_a_small_share_while_commits_come_in(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    follower = LedgerFollower("log", case.log, interval=0, monotonic=lambda: now[0])
    waits: list[float] = []
    monkeypatch.setattr(follower._wake, "wait", waits.append)
    follower.breathe(0.010)
    follower.notify(5)
    follower.breathe(0.010)
    now[0] += 0.2  # a long group is on its way to the disk
    follower.breathe(0.010)
    now[0] += 0.1
    follower.breathe(0.010)
    idle, busy = pytest.approx(0.010 * 3 / 7), pytest.approx(0.190)
    assert waits == [idle, busy, busy, idle]


def test_stopping_waits_for_no_breath(case: Case) -> None:
    breathing = threading.Event()

    def out_of_breath(position: int) -> None:
        breathing.set()
        case.follower.breathe(1e6)

    case.log.advance = out_of_breath  # type: ignore[method-assign]
    case.follower.start(case.append(1))
    assert breathing.wait(PATIENCE)
    case.follower.stop(PATIENCE)
    assert not case.follower._thread.is_alive()


async def test_who_waits_for_a_position_is_told_when_it_is_published(case: Case) -> None:
    case.follower.start(case.append(3))
    assert await case.follower.reached(3, PATIENCE)
    assert await case.follower.reached(2, 0.0), "what is published already needs no waiting"
    assert not await case.follower.reached(4, 0.0)
    case.log.go.clear()
    waiting = asyncio.ensure_future(case.follower.reached(7, PATIENCE))
    case.follower.notify(case.append(4))
    await asyncio.to_thread(case.log.at_the_gate.wait, PATIENCE)
    assert not waiting.done()
    assert case.follower.lag() == 4
    case.log.go.set()
    assert await waiting
    assert case.follower.lag() == 0
    assert case.log.sizes[-1] == 7


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_stopped_for_another_reason_says_so(case: Case) -> None:
    case.log.failures = [ZeroDivisionError()]
    case.follower.start(case.append(3))
    case.follower._thread.join(PATIENCE)
    assert case.follower.failure is not None

"""rewards/book.py: a running server's rewards are those of a recomputation, after any stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import plugins.secure_chat.rewards.book as book_module
from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import Head, Record
from plugins.secure_chat.core.rewards import RULES, Epoch, OutOfOrder, message_of
from plugins.secure_chat.rewards.book import NoSuchEpoch, RewardBook
from plugins.secure_chat.rewards.ledger import fold_ledger
from tests.ledgers import writers
from tests.ledgers.writers import Ledger

RULES_OF_TEN = RULES._replace(epoch_records=10, warm_up=1)


def written(exchanges: int, recipient: int = 2) -> Ledger:
    ledger = Ledger()
    for seq in range(1, exchanges + 1):
        ledger.add("v1", writers.secure_message(seq, recipient=recipient))
        ledger.add("v1", writers.secure_message(seq, sender=recipient, recipient=1))
    return ledger


def records_of(ledger: Ledger) -> list[Record]:
    return [
        parse(line.removesuffix(b"\n"), position).record
        for position, line in enumerate(ledger.lines, start=1)
    ]


def reader(ledger: Ledger) -> Callable[[int], Iterator[Record]]:
    return lambda after: iter(records_of(ledger)[after:])


def head_of(ledger: Ledger, position: int | None = None) -> Head:
    records = records_of(ledger)
    if position is None:
        position = len(records)
    return Head(position, records[position - 1].event_hash)


def book(directory: Path, **named: object) -> RewardBook:
    return RewardBook(directory, rules=RULES_OF_TEN, **named)  # type: ignore[arg-type]


def recomputed(tmp_path: Path, ledger: Ledger, position: int) -> list[bytes]:
    path = tmp_path / "recomputed.jsonl"
    path.write_bytes(ledger.data)
    folded = fold_ledger(path, head_of(ledger, position), rules=RULES_OF_TEN)
    return [each.statement for each in folded]


def test_at_every_position_the_book_is_what_a_recomputation_is(tmp_path: Path) -> None:
    ledger = written(17)
    live = book(tmp_path / "book")
    for record in records_of(ledger):
        live.take(record, message_of(record))
        expected = recomputed(tmp_path, ledger, record.position)
        assert [live.statement(number) for number in range(len(expected))] == expected
        assert live.statement() == expected[-1]


@pytest.mark.parametrize("stop", range(35))
def test_a_book_stopped_anywhere_goes_on_as_if_it_had_not(tmp_path: Path, stop: int) -> None:
    ledger = written(17)
    first = book(tmp_path / "book")
    for record in records_of(ledger)[:stop]:
        first.take(record, message_of(record))
    again = book(tmp_path / "book")
    assert again.head.position == stop - stop % 10, "closed epochs are not read again"
    again.catch_up(reader(ledger), head_of(ledger))
    expected = recomputed(tmp_path, ledger, 34)
    assert [again.statement(number) for number in range(4)] == expected


@pytest.mark.parametrize("damage", ["cut", "another", "statement", "rules", "basis"])
def test_what_was_carried_over_and_does_not_fit_is_computed_anew(
    tmp_path: Path, damage: str
) -> None:
    ledger = written(17)
    directory = tmp_path / "book"
    book(directory).catch_up(reader(ledger), head_of(ledger))
    carried = directory / "carried-over.json"
    if damage == "cut":
        carried.write_bytes(carried.read_bytes()[:40])
    elif damage == "another":
        ledger = written(17, recipient=3)
    elif damage == "statement":
        (directory / "epoch-00000001.json").unlink()
    elif damage == "rules":
        carried.write_bytes(carried.read_bytes().replace(b'"rules":"', b'"rules":"0'))
    else:
        path = directory / "epoch-00000000.json"
        path.write_bytes(path.read_bytes().replace(b"as-logged", b"checked"))
    again = book(directory)
    again.catch_up(reader(ledger), head_of(ledger))
    assert [again.statement(number) for number in range(4)] == recomputed(tmp_path, ledger, 34)


@pytest.mark.parametrize("length", [20, 25])
def test_a_ledger_that_was_rolled_back_is_computed_anew(tmp_path: Path, length: int) -> None:
    ledger = written(17)
    book(tmp_path / "book").catch_up(reader(ledger), head_of(ledger))
    shorter = Ledger(ledger.lines[:length])
    again = book(tmp_path / "book")
    again.catch_up(reader(shorter), head_of(shorter))
    expected = recomputed(tmp_path, shorter, length)
    assert [again.statement(number) for number in range(len(expected))] == expected
    with pytest.raises(NoSuchEpoch):
        again.statement(len(expected))


def test_a_ledger_that_does_not_lead_to_its_head_is_refused(tmp_path: Path) -> None:
    ledger = written(5)
    with pytest.raises(OutOfOrder):
        book(tmp_path / "book").catch_up(reader(ledger), Head(10, "0" * 128))
    with pytest.raises(OutOfOrder):
        book(tmp_path / "book").catch_up(reader(ledger), Head(11, ledger.head))


def test_a_record_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    live = book(tmp_path / "book")
    records = records_of(written(5))
    live.take(records[0], message_of(records[0]))
    with pytest.raises(OutOfOrder):
        live.take(records[2], message_of(records[2]))


def test_a_full_disk_costs_no_commit_and_no_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = written(17)
    live = book(tmp_path / "book")
    records = records_of(ledger)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(book_module, "_replace", full)
        for record in records[:15]:
            live.take(record, message_of(record))
    for record in records[15:]:
        live.take(record, message_of(record))
    expected = recomputed(tmp_path, ledger, 34)
    assert [live.statement(number) for number in range(4)] == expected
    again = book(tmp_path / "book")
    assert again.head.position == 0, "nothing may be carried over past a statement that is missing"
    again.catch_up(reader(ledger), head_of(ledger))
    assert [again.statement(number) for number in range(4)] == expected


def test_a_wallets_own_line_is_the_one_in_the_statement(tmp_path: Path) -> None:
    ledger = written(17)
    live = book(tmp_path / "book")
    live.catch_up(reader(ledger), head_of(ledger))
    for epoch in (0, 1, 3, None):
        lines = json.loads(live.statement(epoch))["wallets"]
        assert [live.line(line["wallet"], epoch) for line in lines] == lines
        assert live.line("nobody", epoch) is None
    assert lines


@pytest.mark.parametrize("epoch", [-1, 4, 1_000])
def test_an_epoch_that_has_not_come_has_no_statement(tmp_path: Path, epoch: int) -> None:
    ledger = written(17)
    live = book(tmp_path / "book")
    live.catch_up(reader(ledger), head_of(ledger))
    with pytest.raises(NoSuchEpoch):
        live.statement(epoch)
    with pytest.raises(NoSuchEpoch):
        live.line(writers.wallet(1), epoch)


def test_a_statement_that_was_deleted_is_said_to_be_gone(tmp_path: Path) -> None:
    ledger = written(17)
    live = book(tmp_path / "book")
    live.catch_up(reader(ledger), head_of(ledger))
    (tmp_path / "book" / "epoch-00000001.json").unlink()
    with pytest.raises(NoSuchEpoch, match="gone"):
        live.statement(1)


def test_observers_see_each_epoch_as_it_closes(tmp_path: Path) -> None:
    seen: list[Epoch] = []
    ledger = written(17)
    live = book(tmp_path / "book", observers=[seen.append])
    live.catch_up(reader(ledger), head_of(ledger))
    assert [epoch.number for epoch in seen] == [0, 1, 2]
    assert [epoch.head.position for epoch in seen] == [10, 20, 30]
    assert [signal.wallet for signal in live.signals()] == [writers.wallet(1), writers.wallet(2)]


def test_a_check_of_signatures_decides_what_counts(tmp_path: Path) -> None:
    def never(record: Record, event: MessageEvent) -> bool | None:
        return None

    ledger = written(4)
    live = book(tmp_path / "book", check_signature=never)
    live.catch_up(reader(ledger), head_of(ledger))
    body = json.loads(live.statement())
    assert (body["signatures"], body["totals"]["unverified"]) == ("checked", 8)
    assert body["wallets"] == []

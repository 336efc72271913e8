"""rewards/book.py: a running server's rewards are those of a recomputation, after any stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plugins.secure_chat.rewards.book as book_module
from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import CHR, RULES
from plugins.secure_chat.errors import LedgerUnusable
from plugins.secure_chat.rewards.book import NoSuchEpoch, RewardBook
from plugins.secure_chat.rewards.ledger import fold_ledger
from tests.ledgers import writers
from tests.ledgers.writers import Ledger

RULES_OF_TEN = RULES._replace(epoch_records=10, warm_up=1)


def written(exchanges: int, recipient: int = 2) -> Ledger:
    """Two wallets register, and each sends the other so many messages."""
    ledger = Ledger()
    ledger.add_all("v1", [*writers.registration(1), *writers.registration(recipient)])
    for seq in range(1, exchanges + 1):
        ledger.add("v1", writers.secure_message(seq, recipient=recipient))
        ledger.add("v1", writers.secure_message(seq, sender=recipient, recipient=1))
    return ledger


LONG = written(15)  # 34 records: three closed epochs, and four records of the next


class Case:
    """A ledger file, and books on it that share a directory."""

    def __init__(self, directory: Path, ledger: Ledger = LONG) -> None:
        self.path = directory / "ledger.jsonl"
        self.directory = directory / "book"
        self.write(ledger)

    def write(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.path.write_bytes(ledger.data)

    def book(self) -> RewardBook:
        return RewardBook(self.path, self.directory, rules=RULES_OF_TEN)

    def opened(self, position: int | None = None) -> RewardBook:
        book = self.book()
        book.open(len(self.ledger.lines) if position is None else position)
        return book

    def book_anew(self, position: int | None = None) -> RewardBook:
        """One that has nothing to take up."""
        book = RewardBook(self.path, self.directory / "anew", rules=RULES_OF_TEN)
        book.open(len(self.ledger.lines) if position is None else position)
        return book

    def recomputed(self, position: int | None = None) -> list[bytes]:
        position = len(self.ledger.lines) if position is None else position
        head = Head(0, writers.ZEROS)
        if position:
            line = self.ledger.lines[position - 1].removesuffix(b"\n")
            head = Head(position, parse(line, position).record.event_hash)
        folded = fold_ledger(self.path, head, rules=RULES_OF_TEN)
        return [each.statement for each in folded]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def statements(book: RewardBook, count: int) -> list[bytes]:
    return [book.statement(number) for number in range(count)]


def test_at_every_position_the_book_is_what_a_recomputation_is(case: Case) -> None:
    live = case.opened(0)
    for position in range(1, 35):
        live.advance(position)
        expected = case.recomputed(position)
        assert statements(live, len(expected)) == expected
        assert live.statement() == expected[-1]
        assert live.head.position == position


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["advance", "restart", "publish and restart"]), st.integers(0, 12)
        ),
        max_size=12,
    )
)
def test_any_batching_and_any_restarts_make_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    case = Case(tmp_path_factory.mktemp("book"))
    position, live = 0, case.opened(0)
    for step, records in steps:
        position = min(34, position + records)
        if step == "advance":
            live.advance(position)
        else:
            if step == "publish and restart":
                live.publish()
            live = case.opened(position)
        expected = case.recomputed(position)
        assert statements(live, len(expected)) == expected
        assert live.features() == case.book_anew(position).features()


@pytest.mark.parametrize("stop", range(35))
def test_a_book_stopped_anywhere_goes_on_as_if_it_had_not(case: Case, stop: int) -> None:
    first = case.opened(stop)
    first.publish()
    again = case.book()
    again.open(stop - stop % 10)
    assert again.head.position == stop - stop % 10
    again = case.opened()
    assert statements(again, 4) == case.recomputed()
    assert again.features() == case.book_anew().features()


def test_closed_epochs_are_not_read_again(case: Case) -> None:
    case.opened(34).publish()
    spoilt = [b"spoilt" + line[6:] for line in LONG.lines[:29]] + LONG.lines[29:]
    case.path.write_bytes(b"".join(spoilt))
    assert case.opened().head.position == 34


@pytest.mark.parametrize("damage", ["cut", "another", "statement", "rules", "offset", "features"])
def test_what_was_carried_over_and_does_not_fit_is_computed_anew(case: Case, damage: str) -> None:
    case.opened().publish()
    carried = case.directory / "carried-over.json"
    if damage == "cut":
        carried.write_bytes(carried.read_bytes()[:40])
    elif damage == "another":
        case.write(written(15, recipient=3))
    elif damage == "statement":
        (case.directory / "epoch-00000001.json").unlink()
    elif damage == "rules":
        stored = json.loads(carried.read_bytes())
        stored["state"] = stored["state"].replace('"rules":"', '"rules":"0')
        carried.write_text(json.dumps(stored))
    else:
        stored = json.loads(carried.read_bytes())
        stored[damage] = stored["offset"] - 1 if damage == "offset" else [["wallet"]]
        carried.write_text(json.dumps(stored))
    again = case.opened()
    assert statements(again, 4) == case.recomputed()
    assert again.features() == case.book_anew().features()


def test_distrusting_it_computes_everything_anew(case: Case) -> None:
    live = case.opened()
    live.publish()
    path = case.directory / "epoch-00000000.json"
    path.write_bytes(path.read_bytes().replace(b'"paid":2', b'"paid":3'))
    live.distrust()
    live.open(34)
    live.publish()
    assert statements(case.opened(), 4) == case.recomputed()


def test_another_ledger_that_ends_where_the_last_epoch_did_is_computed_anew(case: Case) -> None:
    case.opened(30).publish()
    case.write(Ledger(written(15, recipient=3).lines[:30]))
    again = case.opened()
    assert statements(again, 4) == case.recomputed()


def test_what_was_not_written_of_another_ledger_never_is(case: Case) -> None:
    live = case.opened(34)
    case.write(Ledger(LONG.lines[:12]))
    live.open(12)
    live.publish()
    assert [path.name for path in sorted(case.directory.glob("epoch-*"))] == ["epoch-00000000.json"]


@pytest.mark.parametrize("length", [20, 25])
def test_a_ledger_that_was_rolled_back_is_computed_anew(case: Case, length: int) -> None:
    case.opened().publish()
    case.write(Ledger(LONG.lines[:length]))
    again = case.opened()
    expected = case.recomputed()
    assert statements(again, len(expected)) == expected
    with pytest.raises(NoSuchEpoch):
        again.statement(len(expected))


def test_a_ledger_that_ends_before_its_head_or_does_not_follow_is_refused(case: Case) -> None:
    with pytest.raises(LedgerUnusable, match="34 of 35"):
        case.opened(35)
    live = case.opened(10)
    case.write(Ledger(LONG.lines[:10] + LONG.lines[11:]))
    with pytest.raises(LedgerUnusable, match="11 does not follow"):
        live.advance(20)


def test_a_disk_that_fails_costs_no_statement_and_is_tried_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    live = case.opened(15)
    with monkeypatch.context() as patch:
        patch.setattr(book_module, "_replace", full)
        with pytest.raises(OSError, match="space"):
            live.publish()
    live.advance(34)
    assert statements(live, 4) == case.recomputed()
    assert not (case.directory / "carried-over.json").exists()
    live.publish()
    case.path.write_bytes(case.ledger.data)
    assert statements(case.opened(), 4) == case.recomputed()


def test_a_wallets_own_line_is_the_one_in_the_statement(case: Case) -> None:
    live = case.opened()
    live.publish()
    for epoch in (0, 1, 3, None):
        said = json.loads(live.statement(epoch))
        lines, _ = said.pop("wallets"), said.pop("totals")
        for line in lines:
            assert live.extract(line["wallet"], epoch) == {**said, "line": line}
        assert live.extract("nobody", epoch) == {**said, "line": None}
    assert lines


@pytest.mark.parametrize("epoch", [-1, 4, 1_000])
def test_an_epoch_that_has_not_come_has_no_statement(case: Case, epoch: int) -> None:
    live = case.opened()
    live.publish()
    with pytest.raises(NoSuchEpoch):
        live.statement(epoch)
    with pytest.raises(NoSuchEpoch):
        live.extract(writers.wallet(1), epoch)
    with pytest.raises(NoSuchEpoch):
        live.features(epoch)


def test_a_statement_that_was_deleted_is_said_to_be_gone(case: Case) -> None:
    live = case.opened()
    live.publish()
    (case.directory / "epoch-00000001.json").unlink()
    with pytest.raises(NoSuchEpoch, match="gone"):
        live.statement(1)


def test_features_are_those_of_the_epoch_or_of_all_of_them(case: Case) -> None:
    live = case.opened()
    live.publish()
    one, two = writers.wallet(1), writers.wallet(2)
    assert live.features(0) == {one: (2 * CHR, CHR, CHR), two: (2 * CHR, CHR, 0)}
    assert live.features(3) == {one: (1 * CHR, CHR, 0), two: (1 * CHR, CHR, 0)}
    by_epoch = [live.features(number) for number in range(4)]
    assert live.features() == {
        wallet: tuple(sum(features[wallet][i] for features in by_epoch) for i in range(3))
        for wallet in (one, two)
    }
    assert list(live.features()) == [one, two]

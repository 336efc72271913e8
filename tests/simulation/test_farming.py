"""A22: farming with a thousand wallets earns less for a message than friendship does."""

from __future__ import annotations

import pytest

from plugins.secure_chat.core.rewards import RULES
from tests.simulation.farming import (
    BEST,
    DOCUMENT,
    Kind,
    Outcome,
    document_with,
    most_for_a_message,
    outcomes,
    table,
)


@pytest.fixture(scope="module")
def rows() -> list[Outcome]:
    return outcomes()


def of_kind(rows: list[Outcome], kind: Kind) -> list[Outcome]:
    found = [row for row in rows if row.scenario.kind is kind]
    assert found, "a claim about no scenario is no claim"
    return found


def test_the_first_row_is_what_the_others_are_measured_by(rows: list[Outcome]) -> None:
    assert rows[0].scenario.kind is Kind.HONEST
    assert rows[0].paid > 0


def test_self_sends_one_way_and_unsigned_messages_earn_nothing(rows: list[Outcome]) -> None:
    for row in of_kind(rows, Kind.NOTHING):
        assert row.messages >= 50_000, row.scenario.name
        assert row.paid == 0, row.scenario.name


def test_a_ring_earns_less_for_a_message_than_an_honest_pair(rows: list[Outcome]) -> None:
    for row in of_kind(rows, Kind.RING):
        assert row.wallets == 1_000, row.scenario.name
        assert row.per_message < rows[0].per_message, row.scenario.name


def test_nobody_earns_more_than_the_stated_limits(rows: list[Outcome]) -> None:
    for row in rows:
        assert row.paid <= most_for_a_message() * row.messages, row.scenario.name
        assert row.most <= RULES.cap, row.scenario.name


def test_what_takes_one_wallet_to_its_cap_earns_a_thousand_no_more(rows: list[Outcome]) -> None:
    """One wallet reaches its cap with BEST messages of its own; so many of a ring's earn less."""
    assert most_for_a_message() * BEST <= RULES.cap
    for row in rows:
        assert row.per_message * BEST <= RULES.cap, row.scenario.name


def test_posing_as_friends_earns_what_friends_earn_and_no_more(rows: list[Outcome]) -> None:
    pairs = of_kind(rows, Kind.POSING)[-1]
    assert pairs.per_message == most_for_a_message()


def test_the_table_in_the_document_is_this_one(rows: list[Outcome]) -> None:
    document = DOCUMENT.read_text()
    assert document == document_with(table(rows), document), (
        "docs/rewards.md has another table: python -m tests.simulation.farming --write"
    )

"""What the figures are made of: ranks, medians, ratios within a round, and the targets."""

from __future__ import annotations

import pytest

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.figures import (
    Round,
    latency_targets,
    median_round,
    percentile,
    rows,
)


def a_round(per_second: float, group: float | None = None) -> Round:
    return Round(per_second, 1, 2, 3, 4, 5, 0.5, group)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_measured_by_its_nearest_rank(
    share: float, expected: int
) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_one_wild_round_does_not_move_the_median() -> None:
    found = median_round([a_round(100, 8), a_round(9_999, 900), a_round(110, 9)])
    assert (found.per_second, found.group) == (110, 9)


def test_a_server_without_groups_has_none() -> None:
    assert median_round([a_round(1), a_round(2)]).group is None


def test_ratios_are_taken_between_neighbours_in_time_and_not_between_medians() -> None:
    # The machine slowed down tenfold in the last rounds, for both: the ratio is 1/2 throughout.
    measured = {
        "relay": [a_round(1000), a_round(100), a_round(100)],
        "ours": [a_round(500), a_round(50), a_round(50)],
    }
    relay, ours = rows("1×64", measured)
    assert relay.over_relay is None
    assert ours.over_relay == 0.5


def test_only_our_rows_of_the_named_scenarios_have_a_target() -> None:
    measured = {
        "relay": [a_round(2)],
        "prototype": [a_round(1)],
        "ours": [a_round(1.6)],
        "signed": [a_round(1)],
    }
    met = {
        (row.scenario, row.server): row.met
        for name in ("1×1", "1×64", "50×64")
        for row in rows(name, measured)
        if row.target is not None or row.met is not None
    }
    assert met == {
        ("1×64", "ours"): True,
        ("50×64", "ours"): True,
        ("1×64", "signed"): True,
        ("50×64", "signed"): False,
    }


def test_a_target_may_be_an_upper_limit() -> None:
    assert Cost("s", "w", 2.0).met is None
    assert Cost("s", "w", 2.0, 2.0).met is True
    assert Cost("s", "w", 1.9, 2.0).met is False
    assert Cost("s", "w", 2.0, 2.0, " KiB", at_most=True).met is True
    assert Cost("s", "w", 2.1, 2.0, " KiB", at_most=True).met is False


def test_the_latency_targets_follow_the_disk() -> None:
    assert latency_targets(240) == (490, 1720)

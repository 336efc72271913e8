"""The token bucket: never more than burst and rate allow, and its waits are true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.budget import MAX_BUDGETS, Budget, Budgets
from plugins.secure_chat.errors import RateLimited


def test_a_burst_is_granted_at_once_and_then_the_rate() -> None:
    budget = Budget(rate=4.0, burst=3, tokens=3, updated=100.0)
    assert [budget.spend(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]
    assert budget.spend(100.125) == 0.125
    assert budget.spend(100.25) == 0.0
    assert budget.spend(100.25) == 0.25


def test_no_more_than_the_burst_is_saved_up() -> None:
    budget = Budget(rate=4.0, burst=3, tokens=0, updated=0.0)
    assert [budget.spend(1e6) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]


def test_a_clock_that_steps_back_neither_takes_nor_gives() -> None:
    budget = Budget(rate=1.0, burst=2, tokens=2, updated=100.0)
    assert budget.spend(50.0) == 0.0
    assert budget.tokens == 1.0
    assert budget.is_full(51.0)
    assert not budget.is_full(50.5)


@given(
    st.integers(1, 20),
    st.integers(1, 50),
    st.lists(st.integers(0, 512), min_size=1, max_size=80),
)
def test_grants_stay_within_burst_and_rate_and_waits_are_exact(
    rate: int, burst: int, steps: list[int]
) -> None:
    budget = Budget(float(rate), burst, burst, 0.0)
    now, granted = 0.0, 0
    for step in steps:
        now += step / 256  # exact in binary, so that the bounds are too
        wait = budget.spend(now)
        granted += wait == 0.0
        assert granted <= burst + now * rate
        assert 0.0 <= wait <= 1 / rate
    wait = budget.spend(now)
    if wait:
        assert budget.spend(now + wait + 1e-9) == 0.0


def test_each_name_has_a_budget_of_its_own_and_a_refusal_takes_nothing() -> None:
    budgets = Budgets(rate=2.0, burst=4)
    budgets.spend("alice", 0.0, 3)
    with pytest.raises(RateLimited) as limited:
        budgets.spend("alice", 0.0, 2)
    assert limited.value.retry_after == 0.5
    budgets.spend("alice", 0.0)
    budgets.spend("bob", 0.0, 4)


def test_budgets_that_are_full_are_forgotten_and_no_others() -> None:
    budgets = Budgets(rate=1.0, burst=2)
    budgets.spend("busy", 1e6, 2)
    for number in range(MAX_BUDGETS):
        budgets.spend(str(number), 0.0)
    budgets.spend("one more", 1e6)
    assert set(budgets._budgets) == {"busy", "one more"}

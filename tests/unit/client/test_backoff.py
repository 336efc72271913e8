"""Waiting before the next connection."""

from __future__ import annotations

import random

from plugins.secure_chat.client.backoff import Backoff


def test_waits_are_drawn_from_zero_to_a_limit_that_doubles_up_to_the_longest() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    backoff = Backoff(1.0, 10.0, uniform)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert {low for low, _ in asked} == {0.0}
    backoff.succeeded()
    assert backoff.next() == 1


def test_two_clients_do_not_wait_alike() -> None:
    first, second = (Backoff(1.0, 10.0, random.Random(seed).uniform) for seed in (1, 2))
    assert [first.next() for _ in range(5)] != [second.next() for _ in range(5)]


def test_a_thousand_failures_still_give_a_wait() -> None:
    backoff = Backoff(1.0, 10.0)
    assert all(0 <= backoff.next() <= 10 for _ in range(1000))

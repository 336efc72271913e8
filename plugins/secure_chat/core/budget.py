"""Token buckets: how many requests a wallet may still make. The clock is the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.errors import RateLimited

MAX_BUDGETS: Final = 100_000  # above it, those that are full are forgotten: they say nothing


@dataclass(slots=True)
class Budget:
    """``rate`` requests a second on average, ``burst`` at once. Times are in seconds."""

    rate: float
    burst: int
    tokens: float
    updated: float

    def spend(self, now: float, requests: int = 1) -> float:
        """Take so many requests. Returns 0.0 when they are granted, else the seconds to wait."""
        elapsed = now - self.updated
        if elapsed > 0.0:  # a clock that steps back must not drain the bucket
            tokens = self.tokens + elapsed * self.rate
            self.tokens = tokens if tokens < self.burst else float(self.burst)
        self.updated = now
        if self.tokens >= requests:
            self.tokens -= requests
            return 0.0
        return (requests - self.tokens) / self.rate

    def is_full(self, now: float) -> bool:
        """Whether forgetting this bucket would change nothing."""
        return self.tokens + max(0.0, now - self.updated) * self.rate >= self.burst


class Budgets:
    """A budget for each name that asks."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._budgets: dict[str, Budget] = {}

    def spend(self, name: str, now: float, requests: int = 1) -> None:
        """Take so many requests, at most a burst, from the budget of ``name``.

        Raises RateLimited, and then takes nothing.
        """
        budget = self._budgets.get(name)
        if budget is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._forget_full(now)
            budget = self._budgets[name] = Budget(self._rate, self._burst, self._burst, now)
        wait = budget.spend(now, requests)
        if wait:
            raise RateLimited(round(wait, 3))

    def _forget_full(self, now: float) -> None:
        for name in [name for name, budget in self._budgets.items() if budget.is_full(now)]:
            del self._budgets[name]

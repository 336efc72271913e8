"""A token bucket: how many requests a wallet may still make. The clock is the caller's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """``rate`` requests a second on average, ``burst`` at once. Times are in seconds."""

    rate: float
    burst: int
    tokens: float
    updated: float

    def spend(self, now: float) -> float:
        """Take one request. Returns 0.0 when it is granted, else the seconds to wait."""
        # A clock that steps back must not drain the bucket.
        elapsed = max(0.0, now - self.updated)
        self.tokens = min(float(self.burst), self.tokens + elapsed * self.rate)
        self.updated = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate

    def is_full(self, now: float) -> bool:
        """Whether forgetting this bucket would change nothing."""
        return self.tokens + max(0.0, now - self.updated) * self.rate >= self.burst

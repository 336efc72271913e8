"""How long to wait before connecting again: exponential, capped, with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final


class Backoff:
    """Waits drawn evenly from 0 to a limit that doubles, so that clients do not come all at once.

    ``uniform(low, high)`` is the randomness; it decides nothing secret.
    """

    def __init__(
        self,
        first: float = 0.25,
        longest: float = 30.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """``first`` and ``longest`` are seconds."""
        self._first: Final = first
        self._longest: Final = longest
        self._uniform: Final = uniform
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        limit = min(self._longest, self._first * 2 ** min(self._failures, 32))
        self._failures += 1
        return self._uniform(0.0, limit)

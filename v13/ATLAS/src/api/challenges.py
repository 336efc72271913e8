"""Login challenges: what a wallet is asked to sign, good for one attempt and five minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

PREFIX: Final = "Sign this message to login to ATLAS: "
RANDOM_BYTES: Final = 16
LIFETIME: Final = 300  # seconds


class Challenge(NamedTuple):
    """``nonce`` is the exact text to sign; ``timestamp`` the Unix second it was made in."""

    nonce: str
    timestamp: int


class ChallengeRefused(Exception):
    """No open challenge of this text was made for this wallet."""


class TooManyChallenges(Exception):
    """The store is full. ``retry_after``: seconds until the oldest challenge makes room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many logins are open")
        self.retry_after = retry_after


class _Open(NamedTuple):
    wallet: str
    expires_at: float


class Challenges:
    """The open challenges of one host. Thread-safe.

    A full store refuses new challenges: throwing old ones out instead would let a flood of requests
    break the logins of others.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        random_hex: Callable[[int], str],
        largest: int,
    ) -> None:
        """``random_hex(n)``: 2n hex digits, unpredictable. ``largest``: how many it holds."""
        self._now = now
        self._random_hex = random_hex
        self._largest = largest
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}  # in the order of making, hence of expiry

    def __len__(self) -> int:
        return len(self._open)

    def make(self, wallet: str) -> Challenge:
        """A new challenge for ``wallet``, beside any it has. Raises TooManyChallenges."""
        now = self._now()
        with self._lock:
            self._drop_expired(now)
            if len(self._open) >= self._largest:
                oldest = next(iter(self._open.values()))
                raise TooManyChallenges(max(1, int(oldest.expires_at - now) + 1))
            nonce = PREFIX + self._random_hex(RANDOM_BYTES)
            self._open[nonce] = _Open(wallet.lower(), now + LIFETIME)
        return Challenge(nonce, int(now))

    def redeem(self, nonce: str, wallet: str) -> None:
        """Use the challenge up, whatever comes of the login. Raises ChallengeRefused."""
        with self._lock:
            challenge = self._open.pop(nonce, None)
        if (
            challenge is None
            or challenge.expires_at <= self._now()
            or challenge.wallet != wallet.lower()
        ):
            raise ChallengeRefused

    def _drop_expired(self, now: float) -> None:
        while self._open:
            nonce, challenge = next(iter(self._open.items()))
            if challenge.expires_at > now:
                return
            del self._open[nonce]

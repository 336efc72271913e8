"""Login tokens: HS256 JWTs, issued after a login and verified at every request and connection.

The algorithm is pinned, ``exp`` and ``sub`` are required, and time is a parameter. Nothing here
logs a token or puts one into an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

import jwt

from v13.ATLAS.src.plugins.errors import ConfigurationError
from v13.ATLAS.src.plugins.hookspecs import InvalidToken, Principal

ALGORITHM: Final = "HS256"
LONGEST_TOKEN: Final = 4096  # characters; ours have about 200
_LATEST: Final = 2**53  # seconds; beyond it a float is no longer exact
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_ADDRESS: Final = re.compile(r"0[xX][0-9a-fA-F]{40}", re.ASCII)


class TokenAuthority:
    """Issues and verifies the host's tokens with one key."""

    def __init__(self, key: bytes, *, ttl: int, now: Callable[[], float]) -> None:
        """``ttl`` in seconds; ``now`` gives Unix seconds. Raises ConfigurationError."""
        self._key = key
        self._ttl = ttl
        self._now = now
        try:
            self.issue("probe")
        except jwt.InvalidKeyError:
            # PyJWT refuses what looks like a public key, for anyone could sign with that.
            raise ConfigurationError(
                "JWT_SECRET is an asymmetric key or a certificate; set a random text"
            ) from None

    def issue(self, wallet: str, scope: str = "user") -> str:
        """A token for ``wallet`` with the space-separated ``scope``, valid from now for the ttl."""
        issued_at = int(self._now())
        claims = {"sub": wallet, "scope": scope, "iat": issued_at, "exp": issued_at + self._ttl}
        return jwt.encode(claims, self._key, ALGORITHM)

    @staticmethod
    def is_ours(token: str) -> bool:
        """Whether it has the shape of a JWT; other kinds are for other verifiers."""
        return token.count(".") == 2 and token.startswith("ey")

    def verify(self, token: str) -> Principal:
        """Who the token speaks for. Raises InvalidToken.

        Steps: (1) length, (2) signature under the pinned algorithm, with required claims present,
        (3) the times, without leeway, (4) subject and scope. ``iat`` is not compared with the
        clock: a clock set back must not log everybody out. The caller must still end what it
        allowed when ``expires_at`` passes.
        """
        if len(token) > LONGEST_TOKEN:
            raise InvalidToken("the token is too long")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,  # step 3, by our clock
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            # ValueError: characters that no encoding takes. RecursionError: a header without end,
            # which PyJWT 2.15 turns into its own error and 2.10, that hosts use, may not.
            raise InvalidToken("the token is malformed or its signature is wrong") from None
        now = self._now()
        expires_at = _seconds(claims["exp"])
        if expires_at <= now:
            raise InvalidToken("the token has expired")
        if "nbf" in claims and _seconds(claims["nbf"]) > now:
            raise InvalidToken("the token is not valid yet")
        subject = claims["sub"]
        if not isinstance(subject, str) or _SUBJECT.fullmatch(subject) is None:
            raise InvalidToken("the token's subject is no identifier")
        if _ADDRESS.fullmatch(subject) is not None:
            subject = subject.lower()
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise InvalidToken("the token's scope is not a string")
        return Principal(subject, expires_at, frozenset(scope.split()))


def _seconds(claim: object) -> float:
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise InvalidToken("a time in the token is not a number")
    if not -_LATEST <= claim <= _LATEST or math.isnan(claim):
        raise InvalidToken("a time in the token is out of range")
    return float(claim)

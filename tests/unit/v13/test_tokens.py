"""Tokens at their borders, with a clock that stands still. Forgeries: tests/plugin."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator

import jwt
import pytest

from v13.ATLAS.src.api.tokens import TokenAuthority
from v13.ATLAS.src.plugins.hookspecs import InvalidToken

KEY = b"a key of at least thirty-two bytes"
NOW = 1_000_000.0


class Clock:
    time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> TokenAuthority:
    return TokenAuthority(KEY, ttl=60, now=clock)


def signed(**claims: object) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60, **claims}, KEY, "HS256")


def test_a_token_is_good_until_the_second_it_expires_in_and_not_in_it(
    tokens: TokenAuthority, clock: Clock
) -> None:
    token = tokens.issue("alice")
    clock.time += 59.999
    assert tokens.verify(token).expires_at == NOW + 60
    clock.time = NOW + 60
    with pytest.raises(InvalidToken, match="expired"):
        tokens.verify(token)


def test_a_token_becomes_good_in_the_second_it_names(tokens: TokenAuthority) -> None:
    assert tokens.verify(signed(nbf=NOW)).wallet == "alice"
    with pytest.raises(InvalidToken, match="not valid yet"):
        tokens.verify(signed(nbf=NOW + 0.001))


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """A library that is imported for another test may have raised it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion_limit")
@pytest.mark.parametrize(
    "token",
    [
        pytest.param(
            base64.urlsafe_b64encode(b'{"":' + b"[" * 2_000).rstrip(b"=").decode() + ".e30.e30",
            id="a header without end",
        ),
        pytest.param("ey\udc00.e30.e30", id="half a surrogate"),
        pytest.param("eyJ\u00e4.e30.e30", id="not ASCII"),
        pytest.param("eyJ9.\x00.e30", id="a zero byte"),
        pytest.param("..", id="nothing"),
        pytest.param("", id="empty"),
    ],
)
def test_what_no_parser_likes_is_refused_and_nothing_else_is_raised(
    tokens: TokenAuthority, token: str
) -> None:
    with pytest.raises(InvalidToken, match="malformed"):
        tokens.verify(token)


def test_only_what_looks_like_a_jwt_is_ours(tokens: TokenAuthority) -> None:
    assert tokens.is_ours(tokens.issue("alice"))
    for other in ("", "ascon1.abc.def", "ey", "ey.ey", "ey.ey.ey.ey", "0x" + "ab" * 20):
        assert not tokens.is_ours(other)

"""What a token must be to be taken, through requests to a route that asks the hook (threat A12)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pluggy
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, HTTPException, Request

from v13.ATLAS.src.plugins.testing import SECRET, RunningHost, StartHost, Wallet, running_host
from v13.ATLAS.src.settings import KNOWN_DEFAULT_SECRET

hookimpl = pluggy.HookimplMarker("atlas")
WALLET = "0x" + "ab" * 20


class WhoAmI:
    """A plugin that asks the host who a bearer is, as the chat does."""

    @hookimpl
    def atlas_routes(self, host: Any) -> list[APIRouter]:
        router = APIRouter()

        @router.get("/whoami")
        async def whoami(request: Request) -> dict[str, object]:
            token = request.headers["authorization"].removeprefix("Bearer ")
            try:
                principal = host.hook.atlas_authenticate(token=token)
            except PermissionError as refused:
                raise HTTPException(401, str(refused)) from None
            if principal is None:
                raise HTTPException(401, "nobody knows this token")
            return {
                "wallet": principal.wallet,
                "expires_at": principal.expires_at,
                "scopes": sorted(principal.scopes),
            }

        return [router]


@pytest.fixture
def host(start_host: StartHost) -> RunningHost:
    return start_host([WhoAmI()])


@pytest.fixture(scope="module")
def strict_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """One host for all the tokens that it must refuse; its clock is not moved."""
    with running_host(tmp_path_factory.mktemp("host"), [WhoAmI()]) as host:
        yield host


def whoami(host: RunningHost, token: str | bytes) -> httpx.Response:
    encoded = token.encode("utf-8") if isinstance(token, str) else token
    return host.http.get("/whoami", headers=[(b"Authorization", b"Bearer " + encoded)])


def signed(claims: dict[str, object], key: str = SECRET, **header: Any) -> str:
    return jwt.encode(claims, key, header.pop("algorithm", "HS256"), headers=header or None)


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_fresh_token_speaks_for_its_wallet_until_it_expires(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    token = host.login(wallet)
    answer = whoami(host, token)
    assert answer.status_code == 200
    claims = jwt.decode(token, options={"verify_signature": False})
    assert answer.json() == {
        "wallet": wallet.address,
        "expires_at": claims["exp"],
        "scopes": ["user"],
    }
    host.clock.move(24 * 3600 - 5)
    assert whoami(host, token).status_code == 200
    host.clock.move(5)
    assert whoami(host, token).status_code == 401


def test_a_clock_set_back_logs_nobody_out(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    token = host.login(make_wallet())
    host.clock.move(-3600)
    assert whoami(host, token).status_code == 200


def test_a_token_without_iat_as_older_hosts_issue_it_is_taken(host: RunningHost) -> None:
    claims = {"sub": WALLET, "scope": "user", "exp": int(host.clock()) + 60}
    assert whoami(host, signed(claims)).json()["wallet"] == WALLET


def test_the_wallet_of_a_token_is_in_lower_case(host: RunningHost) -> None:
    claims = {"sub": "0x" + "AB" * 20, "exp": host.clock() + 60}
    assert whoami(host, signed(claims)).json() == {
        "wallet": WALLET,
        "expires_at": claims["exp"],
        "scopes": [],
    }


def test_scopes_are_words(host: RunningHost) -> None:
    token = host.token("wallet_alice", scope="user  auditor")
    assert whoami(host, token).json()["scopes"] == ["auditor", "user"]
    assert whoami(host, token).json()["wallet"] == "wallet_alice"


RSA_KEY = rsa.generate_private_key(65537, 2048)


def public_key() -> str:
    return (
        RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )


def hs256_by_hand(claims: dict[str, object], key: str) -> str:
    """PyJWT refuses to sign with a public key; an attacker does not."""
    head = part({"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
    return head + "." + part(hmac.digest(key.encode(), head.encode(), hashlib.sha256))


def forgeries(now: float) -> dict[str, str]:
    good: dict[str, object] = {"sub": WALLET, "scope": "user", "exp": int(now) + 600}
    sound = signed(good)
    head, payload, signature = sound.split(".")
    return {
        "alg none": jwt.encode(good, "", "none"),
        "alg none, signature kept": f"{part({'alg': 'none'})}.{payload}.{signature}",
        "alg None": f"{part({'alg': 'None'})}.{payload}.",
        "no alg": f"{part({'typ': 'JWT'})}.{payload}.{signature}",
        "HS384": signed(good, SECRET + "x" * 16, algorithm="HS384"),
        "HS384 with the secret": signed(good, SECRET.ljust(48), algorithm="HS384"),
        "RS256": jwt.encode(good, RSA_KEY, "RS256"),
        "HS256 with a public key": hs256_by_hand(good, public_key()),
        "wrong secret": signed(good, "x" * 32),
        "default secret": hs256_by_hand(good, KNOWN_DEFAULT_SECRET),
        "empty secret": hs256_by_hand(good, ""),
        "no exp": signed({"sub": WALLET}),
        "null exp": signed({"sub": WALLET, "exp": None}),
        "exp now": signed(good | {"exp": int(now)}),
        "exp past": signed(good | {"exp": int(now) - 1}),
        "exp a string": hs256_by_hand(good | {"exp": str(int(now) + 600)}, SECRET),
        "exp true": hs256_by_hand(good | {"exp": True}, SECRET),
        "exp infinite": hs256_by_hand(good | {"exp": float("inf")}, SECRET),
        "exp not a number": hs256_by_hand(good | {"exp": float("nan")}, SECRET),
        "exp beyond floats": hs256_by_hand(good | {"exp": 10**400}, SECRET),
        "exp a list": hs256_by_hand(good | {"exp": [1]}, SECRET),
        "no sub": signed({"exp": int(now) + 600}),
        "empty sub": signed(good | {"sub": ""}),
        "sub a number": hs256_by_hand(good | {"sub": 7}, SECRET),
        "sub of other characters": signed(good | {"sub": "a b"}),
        "sub too long": signed(good | {"sub": "a" * 129}),
        "scope a list": hs256_by_hand(good | {"scope": ["admin"]}, SECRET),
        "nbf in the future": signed(good | {"nbf": int(now) + 300}),
        "nbf a string": hs256_by_hand(good | {"nbf": "0"}, SECRET),
        "nbf true": hs256_by_hand(good | {"nbf": True}, SECRET),
        "for another audience": signed(good | {"aud": "somebody else"}),
        "an unknown critical header": signed(good, crit=["exp"]),
        "huge": signed(good | {"padding": "x" * 5_000}),
        "changed payload": f"{head}.{part(good | {'sub': '0x' + 'cd' * 20})}.{signature}",
        "changed signature": sound[:-4] + ("AAAA" if sound[-4:] != "AAAA" else "BBBB"),
        "cut signature": sound[:-4],
        "no signature": f"{head}.{payload}.",
        "deep header": f"{part(b'[' * 2_500)}.{payload}.{signature}",
        "header a list": f"{part([])}.{payload}.{signature}",
        "header no JSON": f"{part(b'{')}.{payload}.{signature}",
        "header no UTF-8": f"{part(bytes([0xFF, 0xFE]))}.{payload}.{signature}",
        "payload a list": hs256_by_hand([good], SECRET),  # type: ignore[arg-type]
        "not base64": "ey!.ey!.ey!",
        "two parts": f"{head}.{payload}",
        "four parts": f"{sound}.{signature}",
        "a session token of another kind": "ascon1.abc.def",
        "spaces": sound + " ",
        "a wallet": WALLET,
    }


# The names are needed when tests are collected, the tokens when they run.
@pytest.mark.parametrize("name", sorted(forgeries(0)))
def test_a_forged_or_spoiled_token_is_refused(
    strict_host: RunningHost, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = forgeries(strict_host.clock())[name]
    if name == "spaces":  # HTTP takes the space away; ask the hook itself
        with pytest.raises(PermissionError):
            strict_host.app.state.host.hook.atlas_authenticate(token=token)
        return
    answer = whoami(strict_host, token)
    assert answer.status_code == 401
    assert token not in answer.text
    assert token not in caplog.text


def test_bytes_that_are_no_ascii_are_refused(host: RunningHost) -> None:
    assert whoami(host, "eyJä.eyJä.ä").status_code == 401
    assert whoami(host, b"ey\xff.ey\xff.\xff").status_code == 401


def test_a_token_of_the_longest_length_is_still_taken(host: RunningHost) -> None:
    claims = {"sub": WALLET, "exp": int(host.clock()) + 60, "padding": ""}
    while len(signed(claims)) < 4096:
        claims["padding"] = str(claims["padding"]) + "x"
    assert len(signed(claims)) == 4096
    assert whoami(host, signed(claims)).status_code == 200
    claims["padding"] = str(claims["padding"]) + "x"
    assert whoami(host, signed(claims)).status_code == 401


def test_a_token_of_another_host_is_refused(start_host: StartHost) -> None:
    ours = start_host([WhoAmI()])
    token = ours.token("alice")
    ours.stop()
    theirs = start_host([WhoAmI()], jwt_secret="another secret of at least 32 bytes")
    assert whoami(theirs, token).status_code == 401

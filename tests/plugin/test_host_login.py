"""Logging in with a wallet, through real requests (threat A17)."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.address import to_checksum_address

from v13.ATLAS.src.plugins.testing import SECRET, RunningHost, StartHost, Wallet, running_host

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


@pytest.fixture
def host(start_host: StartHost) -> RunningHost:
    return start_host()


@pytest.fixture(scope="module")
def strict_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """One host for all the logins that it must refuse: its ledger stays empty."""
    with running_host(tmp_path_factory.mktemp("host"), []) as host:
        yield host


def challenge(host: RunningHost, wallet: str) -> str:
    answer = host.http.post("/v1/auth/challenge", json={"wallet": wallet})
    assert answer.status_code == 200
    nonce: str = answer.json()["nonce"]
    return nonce


def connect(host: RunningHost, **body: object) -> httpx.Response:
    return host.http.post("/v1/auth/connect-wallet", json=body)


def events(host: RunningHost) -> list[dict[str, object]]:
    if not host.ledger_path.exists():
        return []
    return [json.loads(line) for line in host.ledger_path.read_text().splitlines()]


def assert_refused(answer: httpx.Response, status: int, *secrets: str) -> None:
    """A problem, without a word of what was sent, and nothing in the ledger."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}
    for secret in secrets:
        assert secret not in answer.text


def test_a_wallet_logs_in_and_the_token_has_the_hosts_claims(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    assert nonce.startswith("Sign this message to login to ATLAS: ")
    assert len(bytes.fromhex(nonce.rsplit(" ", 1)[1])) == 16
    answer = connect(host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"token", "profile_exists"}
    claims = jwt.decode(answer.json()["token"], SECRET, algorithms=["HS256"])
    assert claims["sub"] == wallet.address
    assert claims["scope"] == "user"
    assert claims["exp"] - claims["iat"] == 24 * 3600


def test_a_challenge_says_when_it_was_made(host: RunningHost) -> None:
    answer = host.http.post("/v1/auth/challenge", json={"wallet": "0x" + "ab" * 20})
    assert set(answer.json()) == {"nonce", "timestamp"}
    assert abs(answer.json()["timestamp"] - host.clock()) < 60


def test_a_wallet_of_another_library_logs_in(host: RunningHost) -> None:
    account = Account.create()
    nonce = challenge(host, account.address)
    signature = account.sign_message(encode_defunct(text=nonce)).signature.hex()
    answer = connect(host, wallet=account.address, signature=signature, nonce=nonce)
    assert answer.status_code == 200


def test_the_case_of_an_address_does_not_matter_and_the_token_has_the_lower_one(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, to_checksum_address(wallet.address))
    answer = connect(
        host,
        wallet="0X" + wallet.address[2:].upper(),
        signature=wallet.sign(nonce).removeprefix("0x").upper(),
        nonce=nonce,
    )
    assert answer.status_code == 200
    claims = jwt.decode(answer.json()["token"], SECRET, algorithms=["HS256"])
    assert claims["sub"] == wallet.address
    assert events(host)[0]["wallet"] == wallet.address


def test_a_login_is_in_the_ledger_before_its_token_is_given(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    host.login(wallet)
    (event,) = events(host)
    assert event["event_type"] == "LOGIN"
    assert event["wallet"] == wallet.address
    assert event["metadata"] == {"source": "api_auth"}
    assert event["signature"] == ""


def test_a_referral_is_in_the_ledger_with_its_code(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    host.login(wallet, referral_code="FRIEND-7")
    assert [(e["event_type"], e["metadata"]) for e in events(host)] == [
        ("REFERRAL_USE", {"referral_code": "FRIEND-7"}),
        ("LOGIN", {"source": "api_auth"}),
    ]


def test_a_profile_exists_from_the_second_login_on_and_after_a_restart(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    known = []
    for _ in range(2):
        host = start_host()
        for _ in range(2):
            nonce = challenge(host, wallet.address)
            answer = connect(host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce)
            known.append(answer.json()["profile_exists"])
        host.stop()
    assert known == [False, True, True, True]


def test_a_challenge_cannot_be_used_twice(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    signature = wallet.sign(nonce)
    for expected in (200, 401):
        answer = connect(host, wallet=wallet.address, signature=signature, nonce=nonce)
        assert answer.status_code == expected
    assert_refused(answer, 401, signature, nonce)
    assert len(events(host)) == 1


def test_of_many_concurrent_uses_of_a_challenge_one_logs_in(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    signature = wallet.sign(nonce)

    def attempt(_: int) -> int:
        return connect(host, wallet=wallet.address, signature=signature, nonce=nonce).status_code

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(attempt, range(16))) == [200] + [401] * 15
    assert len(events(host)) == 1


@pytest.mark.parametrize(("age", "status"), [(299, 200), (300, 401)])
def test_a_challenge_expires_after_300_seconds(
    host: RunningHost, make_wallet: Callable[[], Wallet], age: int, status: int
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    host.clock.move(age)
    answer = connect(host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce)
    assert answer.status_code == status


def test_a_challenge_of_another_host_or_none_is_refused(
    strict_host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    for nonce in (
        "Sign this message to login to ATLAS: " + "0" * 32,
        "Sign this message to login to EVIL: " + "0" * 32,
    ):
        answer = connect(
            strict_host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce
        )
        assert_refused(answer, 401, nonce)
    assert events(strict_host) == []


def test_a_signature_over_any_other_text_is_refused(
    strict_host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    for other in (
        lambda nonce: nonce.replace("ATLAS", "EVIL"),
        lambda nonce: nonce.rsplit(" ", 1)[1],
        lambda nonce: nonce + " ",
        lambda nonce: nonce.upper(),
        lambda nonce: "",
    ):
        nonce = challenge(strict_host, wallet.address)
        signature = wallet.sign(other(nonce))
        answer = connect(strict_host, wallet=wallet.address, signature=signature, nonce=nonce)
        assert_refused(answer, 401, signature, nonce)
    assert events(strict_host) == []


def test_another_wallets_signature_is_refused(
    strict_host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    victim, thief = make_wallet(), make_wallet()
    nonce = challenge(strict_host, victim.address)
    signature = thief.sign(nonce)
    answer = connect(strict_host, wallet=victim.address, signature=signature, nonce=nonce)
    assert_refused(answer, 401, signature, nonce)
    nonce = challenge(strict_host, victim.address)
    answer = connect(strict_host, wallet=thief.address, signature=thief.sign(nonce), nonce=nonce)
    assert_refused(answer, 401, nonce)
    assert events(strict_host) == []


def _high_s(signature: str) -> str:
    high = ORDER - int(signature[66:130], 16)
    v = 27 + 28 - int(signature[130:], 16)
    return signature[:66] + f"{high:064x}{v:02x}"


@pytest.mark.parametrize(
    ("status", "spoil"),
    [
        pytest.param(401, _high_s, id="high s"),
        pytest.param(401, lambda s: s[:-2] + "02", id="v 2"),
        pytest.param(401, lambda s: s[:-2] + "1d", id="v 29"),
        pytest.param(401, lambda s: s[:-2] + "25", id="v 37, EIP-155"),
        pytest.param(401, lambda s: s[:-2] + ("1c" if s.endswith("1b") else "1b"), id="other v"),
        pytest.param(401, lambda s: "0x" + "0" * 130, id="zeros"),
        pytest.param(401, lambda s: "0x" + "f" * 128 + "1b", id="out of the field"),
        pytest.param(422, lambda s: s[:-2], id="short"),
        pytest.param(422, lambda s: s + "00", id="long"),
        pytest.param(422, lambda s: s[:-1], id="odd digits"),
        pytest.param(422, lambda s: s[:-2] + "zz", id="no hex"),
        pytest.param(422, lambda s: s + "\n", id="a newline behind"),
        pytest.param(422, lambda s: "0x" + "１" * 130, id="digits of another script"),
        pytest.param(422, lambda s: "", id="empty"),
        pytest.param(422, lambda s: None, id="null"),
        pytest.param(422, lambda s: [s], id="a list"),
        pytest.param(422, lambda s: 1, id="a number"),
        pytest.param(422, lambda s: "x" * 100_000, id="huge"),
    ],
)
def test_a_spoiled_signature_is_refused(
    strict_host: RunningHost,
    make_wallet: Callable[[], Wallet],
    status: int,
    spoil: Callable[[str], object],
) -> None:
    wallet = make_wallet()
    nonce = challenge(strict_host, wallet.address)
    spoiled = spoil(wallet.sign(nonce))
    answer = connect(strict_host, wallet=wallet.address, signature=spoiled, nonce=nonce)
    assert_refused(answer, status, *([spoiled] if isinstance(spoiled, str) and spoiled else []))
    assert events(strict_host) == []


@pytest.mark.parametrize(
    "wallet",
    ["", "0x", "0x" + "a" * 39, "0x" + "a" * 41, "a" * 40, "0x" + "g" * 40, None, 7,
     "0x" + "a" * 40 + "\n", "wallet_alice", "0x" + "a" * 100_000, True],
)  # fmt: skip
def test_a_wallet_that_is_no_address_gets_no_challenge(
    strict_host: RunningHost, wallet: object
) -> None:
    answer = strict_host.http.post("/v1/auth/challenge", json={"wallet": wallet})
    assert_refused(answer, 422)
    assert len(answer.text) < 500


@pytest.mark.parametrize("code", ["", "a b", "x" * 65, "<script>", "a\n", 7, ["a"], {"a": 1}, "ä"])
def test_a_malformed_referral_code_is_refused(
    strict_host: RunningHost, make_wallet: Callable[[], Wallet], code: object
) -> None:
    wallet = make_wallet()
    nonce = challenge(strict_host, wallet.address)
    answer = connect(
        strict_host,
        wallet=wallet.address,
        signature=wallet.sign(nonce),
        nonce=nonce,
        referral_code=code,
    )
    assert_refused(answer, 422)
    assert events(strict_host) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 422, id="empty"),
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(b"[]", 422, id="a list"),
        pytest.param(b'{"wallet": "\xff"}', 400, id="no UTF-8"),
        pytest.param(b'{"wallet": "\\ud800"}', 400, id="half a surrogate"),
        pytest.param(b'{"wallet": NaN}', 400, id="NaN"),
        pytest.param(b'{"wallet": 1' + b"0" * 5_000 + b"}", 400, id="a huge number"),
        pytest.param(b'{"wallet":' + b"[" * 100_000, 400, id="deep lists"),
        pytest.param(b'{"wallet":' * 100_000, 400, id="deep objects"),
    ],
)
def test_a_body_that_is_no_request_is_refused_and_the_host_goes_on(
    strict_host: RunningHost, body: bytes, status: int
) -> None:
    answer = strict_host.http.post(
        "/v1/auth/challenge", content=body, headers={"Content-Type": "application/json"}
    )
    assert_refused(answer, status)
    assert challenge(strict_host, "0x" + "ab" * 20)


def test_a_deep_body_does_not_end_a_process_whose_recursion_limit_was_raised(
    strict_host: RunningHost,
) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        answer = strict_host.http.post(
            "/v1/auth/connect-wallet",
            content=b'{"wallet":' * 300_000,
            headers={"Content-Type": "application/json"},
        )
    finally:
        sys.setrecursionlimit(limit)
    assert_refused(answer, 400)


def test_a_body_beyond_the_limit_is_refused_while_it_arrives(start_host: StartHost) -> None:
    host = start_host(largest_body=10_000)
    address = (host.http.base_url.host, host.http.base_url.port)
    with socket.create_connection(address, timeout=60) as unfinished:
        unfinished.sendall(
            b"POST /v1/auth/challenge HTTP/1.1\r\nHost: host\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            + 2
            * (b"1770\r\n" + b" " * 6_000 + b"\r\n")
        )
        # The body has no end, yet there is an answer.
        assert unfinished.recv(65_536).startswith(b"HTTP/1.1 413 ")
    fits = b'{"wallet": "0x' + b"ab" * 20 + b'"}'
    for padding, status in ((0, 200), (1, 413)):
        answer = host.http.post(
            "/v1/auth/challenge",
            content=fits.ljust(10_000 + padding),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == status


def test_an_unknown_field_is_refused_without_repeating_it(strict_host: RunningHost) -> None:
    answer = strict_host.http.post(
        "/v1/auth/challenge", json={"wallet": "0x" + "ab" * 20, "eyJhbGciOi": "eyJzdWIiOi"}
    )
    assert_refused(answer, 422, "eyJ")


def test_a_flood_of_challenges_is_refused_and_open_logins_still_succeed(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    host = start_host(open_challenges=5)
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    flood = [
        host.http.post("/v1/auth/challenge", json={"wallet": "0x" + "ab" * 20}) for _ in range(6)
    ]
    assert [answer.status_code for answer in flood] == [200] * 4 + [503] * 2
    assert_refused(flood[-1], 503)
    assert 0 < int(flood[-1].headers["retry-after"]) <= 300
    answer = connect(host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce)
    assert answer.status_code == 200
    host.clock.move(300)
    assert challenge(host, wallet.address)


def test_a_ledger_that_takes_nothing_refuses_the_login(
    host: RunningHost, make_wallet: Callable[[], Wallet]
) -> None:
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    host.app.state.host.hook.atlas_ledger().close()
    answer = connect(host, wallet=wallet.address, signature=wallet.sign(nonce), nonce=nonce)
    assert_refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_no_log_line_has_a_token_a_nonce_or_a_signature(
    host: RunningHost, make_wallet: Callable[[], Wallet], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wallet = make_wallet()
    nonce = challenge(host, wallet.address)
    signature = wallet.sign(nonce)
    secrets = [nonce.rsplit(" ", 1)[1], signature[2:]]
    for _ in range(2):
        answer = connect(host, wallet=wallet.address, signature=signature, nonce=nonce)
        secrets.append(answer.json().get("token", signature))
    host.stop()
    for secret in secrets:
        assert secret not in caplog.text

"""Who gets in, for how long, and what they see: tokens, Origin, expiry, threads, receipts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.errors import ConfigurationError
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.transport import socket as socket_shell
from plugins.secure_chat.transport.tokens import KNOWN_SECRET, check_secret
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    PLUGIN,
    SECRET,
    WAIT,
    ChatServer,
    RawSocket,
    chat_server,
    message,
    token,
)
from tests.plugin.conftest import GiveReceipt
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins.testing import MovableClock
from v13.ATLAS.src.settings import HostSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat"), origins=["https://app.example"]) as server:
        yield server


def _part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _claims(**claims: object) -> dict[str, object]:
    return {"sub": ALICE, "scope": "user", "exp": int(time.time()) + 600, **claims}


def _unsigned() -> str:
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(_claims())}."


def _signed_with_a_public_key() -> str:
    """HS256 with what an RS256 verifier would hold: the key confusion of RFC 8725 section 2.1."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _signed_with(pem)


def _signed_with(key: bytes) -> str:
    """HS256 by hand, with keys that PyJWT would not sign with."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(_claims())}"
    return f"{signed}.{_part(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def _without(claim: str) -> str:
    claims = {name: value for name, value in _claims().items() if name != claim}
    return jwt.encode(claims, SECRET, "HS256")


REFUSED: dict[str, Callable[[], str]] = {
    "alg none": _unsigned,
    "HS256 with a public key": _signed_with_a_public_key,
    "HS512 with the right secret": lambda: jwt.encode(_claims(), SECRET.ljust(64), "HS512"),
    "no exp": lambda: _without("exp"),
    "no sub": lambda: _without("sub"),
    "exp passed": lambda: token(ALICE, seconds=-1),
    "exp is a word": lambda: jwt.encode(_claims(exp="tomorrow"), SECRET, "HS256"),
    "exp is infinite": lambda: jwt.encode(_claims(exp=float("inf")), SECRET, "HS256"),
    "exp is not a number": lambda: jwt.encode(_claims(exp=float("nan")), SECRET, "HS256"),
    "nbf ahead": lambda: token(ALICE, nbf=time.time() + 300),
    "huge": lambda: token(ALICE, filler="x" * 3_500),
    "another secret": lambda: token(ALICE, secret="x" * 40),
    "the known default secret": lambda: _signed_with(KNOWN_SECRET.encode()),
    "sub is no identifier": lambda: token("a wallet with spaces"),
    "sub is empty": lambda: token(""),
    "one character changed": lambda: token(ALICE)[:-3] + "AAA",
    "words": lambda: "not-a-token",
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_token_that_must_not_count_is_refused_everywhere(
    server: ChatServer, make: Callable[[], str]
) -> None:
    bad = make()
    with (
        pytest.raises(InvalidStatus) as before_accept,
        server.peer(ALICE, bearer=bad, greeted=False),
    ):
        pass
    assert before_accept.value.response.status_code == 403
    problem = server.http.get("/v1/chat/threads", headers={"Authorization": f"Bearer {bad}"})
    assert problem.status_code == 401
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.headers["www-authenticate"] == "Bearer"
    assert problem.json()["code"] == "unauthorized"
    assert bad not in problem.text
    with server.peer(ALICE, anonymous=True, greeted=False) as peer:
        peer.send({"type": "AUTH", "token": bad})
        frames, code = peer.closed(at_once=True)
    assert [frame["code"] for frame in frames] == ["unauthorized"]
    assert code == 1008


def test_who_is_refused_before_accept_is_closed_1008(tmp_path: Path) -> None:
    """HTTP shows the peer a 403 for it; the server that runs the app is told the code."""
    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    good, bad = token(ALICE), token(ALICE, seconds=-1)
    with TestClient(create_app(settings, [PLUGIN])) as client:
        for bearer, origin in ((bad, None), (good, "https://evil.example")):
            headers = {"Authorization": f"Bearer {bearer}"}
            if origin is not None:
                headers["Origin"] = origin
            with (
                pytest.raises(WebSocketDisconnect) as refused,
                client.websocket_connect("/v1/chat/ws", headers=headers),
            ):
                pass
            assert refused.value.code == 1008


def test_every_refusal_is_counted_by_its_code(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        with pytest.raises(InvalidStatus), server.peer(ALICE, bearer="words", greeted=False):
            pass
        assert server.refusals("unauthorized") == 1
        with server.peer(ALICE, anonymous=True, greeted=False) as peer:
            peer.send({"type": "PING"})
            assert peer.closed(at_once=True)[1] == 1008
        assert server.refusals("unauthorized") == 2
        assert server.http.get("/v1/chat/threads").status_code == 401
        assert server.refusals("unauthorized") == 3
        with server.peer(ALICE) as peer:
            assert peer.ask("no frame")["code"] == "malformed_frame"
            assert server.refusals("malformed_frame") == 1
            peer.send({"type": "AUTH", "token": "words"})
            assert peer.closed(at_once=True)[1] == 1008
        assert server.refusals("unauthorized") == 4
        with server.peer(ALICE, query="?device=no+name", greeted=False) as peer:
            assert peer.closed(at_once=True)[1] == 1008
        assert server.refusals("invalid_message") == 1


@pytest.mark.parametrize("secret", ["", KNOWN_SECRET, "x" * 31])
def test_a_secret_that_could_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
        check_secret(secret, insecure_dev=False)
    check_secret(secret, insecure_dev=True)


def test_a_token_is_taken_from_the_subprotocol_which_is_not_echoed(server: ChatServer) -> None:
    offered = ["atlas.chat.v2", f"bearer.{token(ALICE)}"]
    with server.peer(ALICE, anonymous=True, subprotocols=offered) as alice:
        assert alice.connection.subprotocol == "atlas.chat.v2"
        assert alice.silent()


def test_a_token_is_taken_from_the_query_until_that_is_switched_off(
    server: ChatServer, tmp_path: Path
) -> None:
    query = f"?token={token(ALICE)}"
    with server.peer(ALICE, anonymous=True, query=query) as alice:
        assert alice.silent()
    assert server.http.get(f"/v1/chat/threads{query}").status_code == 200
    with chat_server(tmp_path, query_token=False) as strict:
        assert strict.http.get(f"/v1/chat/threads{query}").status_code == 401
        with strict.peer(ALICE, anonymous=True, query=query, greeted=False) as alice:
            assert alice.ask({"type": "PING"})["code"] == "unauthorized"


def test_the_header_goes_before_the_subprotocol_and_that_before_the_query(
    server: ChatServer,
) -> None:
    offered = [f"bearer.{token(BOB)}"]
    query = f"?token={token(CAROL)}"
    with server.peer(ALICE, subprotocols=offered, query=query, greeted=False) as peer:
        assert peer.receive()["wallet"] == ALICE
    with server.peer(
        ALICE, anonymous=True, subprotocols=offered, query=query, greeted=False
    ) as peer:
        assert peer.receive()["wallet"] == BOB


def test_an_auth_frame_first_opens_the_connection(server: ChatServer) -> None:
    with server.peer(ALICE, anonymous=True, greeted=False) as alice:
        ready = alice.ask({"type": "AUTH", "token": token(ALICE)})
        assert (ready["type"], ready["wallet"]) == ("READY", ALICE)
        assert alice.ask(message(BOB, 1, device="auth-first"))["type"] == "ACK"


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (json.dumps({"type": "PING"}), "unauthorized"),
        (json.dumps(message(BOB, 1)), "unauthorized"),
        ("nonsense", "malformed_frame"),
    ],
)
def test_any_other_first_frame_is_refused_and_closed_1008(
    server: ChatServer, first: str, code: str
) -> None:
    with server.peer(ALICE, anonymous=True, greeted=False) as peer:
        peer.send(first)
        frames, closed = peer.closed(at_once=True)
    assert [frame["code"] for frame in frames] == [code]
    assert closed == 1008


def test_silence_instead_of_auth_ends_after_five_seconds(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert socket_shell.AUTH_SECONDS == 5.0
    monkeypatch.setattr(socket_shell, "AUTH_SECONDS", 0.2)
    with server.peer(ALICE, anonymous=True, greeted=False) as peer:
        frames, code = peer.closed()
    assert [frame["code"] for frame in frames] == ["unauthorized"]
    assert code == 1008


# -- expiry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status"),
    [
        pytest.param({"bearer": "x" * 9000}, 431, id="header"),
        pytest.param({"anonymous": True, "query": "?token=" + "x" * 9000}, 414, id="query"),
    ],
)
def test_a_token_that_is_too_long_is_refused_with_an_answer(
    server: ChatServer, given: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused, server.peer(ALICE, greeted=False, **given):
        pass
    assert refused.value.response.status_code == status


HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovableClock:
    """What sockets take for the time. Tokens are checked by the time it is."""
    clock = MovableClock()
    monkeypatch.setattr(socket_shell, "time", SimpleNamespace(time=clock))
    return clock


def test_nothing_comes_after_the_tokens_expiry(server: ChatServer, clock: MovableClock) -> None:
    with (
        server.peer(BOB, bearer=token(BOB, seconds=HOUR)) as bob,
        server.peer(ALICE, bearer=token(ALICE, seconds=2 * HOUR)) as alice,
    ):
        assert alice.ask(message(BOB, 1, device="expiry"))["type"] == "ACK"
        assert bob.receive()["type"] == "CHAT_MESSAGE"
        clock.move(HOUR)
        assert alice.ask(message(BOB, 2, device="expiry"))["type"] == "ACK"
        frames, code = bob.closed(at_once=True)
    assert [frame["code"] for frame in frames] == ["unauthorized"]
    assert code == 4401


def test_what_waits_for_a_slow_peer_is_not_sent_after_the_expiry(
    tmp_path: Path, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many large messages leave the outbox at once; the peer has read none when its token ends."""
    count, buffered = 30, 20  # of 1.4 MB; the buffers of both ends of a socket take fewer
    may_commit = threading.Event()
    commit = JournalLedger.commit

    async def held(ledger: JournalLedger, *what: Any) -> list[Receipt]:
        await asyncio.to_thread(may_commit.wait, WAIT)
        return await commit(ledger, *what)

    monkeypatch.setattr(JournalLedger, "commit", held)
    monkeypatch.setattr(socket_shell, "CLOSE_SECONDS", WAIT)
    with (
        chat_server(tmp_path, outbox_bytes=1 << 30) as server,
        server.peer(ALICE, bearer=token(ALICE, seconds=3 * HOUR)) as alice,
    ):
        bob = RawSocket(server, BOB, token(BOB, seconds=2 * HOUR))
        for seq in range(1, count + 1):
            alice.send(message(BOB, seq, bytes(1 << 20)))
        assert alice.silent()  # all of it was taken, and none is committed
        may_commit.set()
        assert {alice.receive()["type"] for _ in range(count)} == {"ACK"}
        clock.move(HOUR)
        taken = server.so_many("received")
        bob.send_at_once({"type": "AUTH", "token": token(BOB, seconds=HOUR)})  # it is over at once
        server.wait_for(lambda: server.so_many("received") == taken + 1, "the token")
        frames, code = bob.closed()
    kinds = [frame["type"] for frame in frames]
    assert kinds.count("CHAT_MESSAGE") < buffered
    assert (kinds[-1], frames[-1]["code"], code) == ("ERROR", "unauthorized", 4401)


class StepsBack:
    """The time it is, but for the next few times that it is asked: then it is HOUR ahead."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> float:
        if self.ahead == 0:
            return time.time()
        self.ahead -= 1
        return time.time() + HOUR


def test_a_clock_that_steps_back_at_the_expiry_ends_the_connection_all_the_same(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not sent, for the token had expired, must not be missing in a socket that lives."""
    clock = StepsBack()
    monkeypatch.setattr(socket_shell, "time", SimpleNamespace(time=clock))
    bob = RawSocket(server, BOB, token(BOB, seconds=HOUR / 2))
    only_bob = "\nsecure_chat_connections 1.0\n"
    server.wait_for(lambda: only_bob in server.http.get("/metrics").text, "his socket")
    clock.ahead = 2  # the answer is ready, and not sent: the token has expired
    bob.send_at_once({"type": "PING"})
    server.wait_for(lambda: clock.ahead == 0, "the clock looked at")
    bob.send_at_once({"type": "AUTH", "token": "of nobody"})  # whatever lives yet ends here
    frames, code = bob.closed()
    assert [frame.get("code", frame["type"]) for frame in frames] == ["READY", "unauthorized"]
    assert code == 4401


def test_a_socket_that_says_nothing_ends_with_its_token(
    server: ChatServer, clock: MovableClock
) -> None:
    with server.peer(ALICE, bearer=token(ALICE, seconds=2 * HOUR)) as alice:
        clock.move(HOUR - 0.2)
        # Its timer was set for two hours; the one of the new token is over in a moment.
        alice.send({"type": "AUTH", "token": token(ALICE, seconds=HOUR)})
        frames, code = alice.closed()
    assert frames.pop()["code"] == "unauthorized"
    assert {frame["type"] for frame in frames} <= {"READY"}  # unless it was over by then
    assert code == 4401


def test_a_fresh_token_extends_the_connection(server: ChatServer, clock: MovableClock) -> None:
    with server.peer(ALICE, bearer=token(ALICE, seconds=HOUR)) as alice:
        fresh = {"type": "AUTH", "token": token(ALICE, seconds=3 * HOUR)}
        assert alice.ask(fresh)["type"] == "READY"
        clock.move(2 * HOUR)
        assert alice.silent()


@pytest.mark.parametrize("fresh", [lambda: token(BOB), lambda: token(ALICE, seconds=-1)])
def test_a_refresh_with_anothers_or_an_old_token_ends_the_connection(
    server: ChatServer, fresh: Callable[[], str]
) -> None:
    with server.peer(ALICE) as alice:
        alice.send({"type": "AUTH", "token": fresh()})
        frames, code = alice.closed(at_once=True)
    assert [frame["code"] for frame in frames] == ["unauthorized"]
    assert code == 1008


# -- Origin ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "https://app.example.evil.example",
        "http://app.example",
        "https://app.example:8443",
        "file://",
        "http://127.0.0.1",
    ],
)
def test_a_foreign_page_is_refused_before_accept_even_with_a_good_token(
    server: ChatServer, origin: str
) -> None:
    with (
        pytest.raises(InvalidStatus) as before_accept,
        server.peer(ALICE, headers={"Origin": origin}, greeted=False),
    ):
        pass
    assert before_accept.value.response.status_code == 403


def test_the_own_and_an_allowed_page_may_connect(server: ChatServer) -> None:
    for origin in (f"http://127.0.0.1:{server.port}", "https://app.example"):
        with server.peer(ALICE, headers={"Origin": origin}) as alice:
            assert alice.silent()
    of_no_page = {"Origin": f"ftp://127.0.0.1:{server.port}"}
    with pytest.raises(InvalidStatus), server.peer(ALICE, headers=of_no_page, greeted=False):
        pass


# -- logs ------------------------------------------------------------------------------------------


def test_no_log_line_holds_a_token_or_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given, refused = token(ALICE), token(ALICE, seconds=-5)
    sent = message(BOB, 1)
    with chat_server(tmp_path) as server:
        with server.peer(ALICE, anonymous=True, query=f"?token={given}") as alice:
            alice.ask(sent)
            alice.ask("{")
        with (
            pytest.raises(InvalidStatus),
            server.peer(ALICE, anonymous=True, query=f"?token={refused}", greeted=False),
        ):
            pass
        server.get("/v1/chat/threads", ALICE)
    of_the_server = [
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    ]
    assert any("ledger.open" in line for line in of_the_server)  # the capture works
    for secret in (given.rsplit(".", 1)[1], refused.rsplit(".", 1)[1], sent["ciphertext"]):
        assert secret not in "\n".join(of_the_server)


def test_the_served_process_writes_no_token_to_its_log(tmp_path: Path) -> None:
    given, refused = token(ALICE), token(ALICE, seconds=-5)
    environment = {**os.environ, "JWT_SECRET": SECRET}
    process = subprocess.Popen(
        f"{sys.executable} -m plugins.secure_chat serve --port 0 --data-dir {tmp_path}/d".split(),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([\d.]+:\d+)", line)
        assert found is not None, line
        address = found[1]
        url = f"ws://{address}/v1/chat/ws?token="
        with connect(url + given, proxy=None, open_timeout=WAIT, ping_interval=None) as alice:
            assert json.loads(alice.recv(timeout=WAIT))["type"] == "READY"
            alice.send("{")
            assert json.loads(alice.recv(timeout=WAIT))["code"] == "malformed_frame"
        with pytest.raises(InvalidStatus), connect(url + refused, proxy=None, open_timeout=WAIT):
            pass
        for secret in (given, refused):
            path = f"http://{address}/v1/chat/threads?token={secret}"
            httpx.get(path, timeout=WAIT, trust_env=False)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    assert "ledger.open" in err
    for secret in (given, refused):
        assert secret.rsplit(".", 1)[1] not in out + err
    assert "/v1/chat/ws" not in out + err


# -- whose is what (A18) ---------------------------------------------------------------------------


def test_nobody_sees_the_threads_or_messages_of_others(
    server: ChatServer, give_receipt: GiveReceipt
) -> None:
    eve = "0x" + "ee" * 20
    with server.peer(ALICE) as alice:
        position = alice.ask(message(BOB, 1, device="private"))["position"]
    assert [t["peer"] for t in server.get("/v1/chat/threads", ALICE).json()].count(BOB) == 1
    assert server.get("/v1/chat/threads", eve).json() == []
    for peer in (ALICE, BOB, eve):
        found = server.get(f"/v1/chat/threads/{peer}/messages", eve)
        assert found.json() == {"messages": [], "missing": 0}
    with server.peer(eve) as spy:
        assert spy.ask({"type": "RESUME", "after": 0})["type"] == "RESUMED"
        assert give_receipt(spy, position) == ["not_a_member"]
    with server.peer(BOB) as bob:
        bob.send({"type": "RESUME", "after": 0})
        frames = bob.until("RESUMED")
    assert position in [frame.get("position") for frame in frames]

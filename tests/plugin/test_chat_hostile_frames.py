"""Whatever a peer sends is answered, and the connection and the process go on (threat A16)."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    PLUGIN,
    SECRET,
    ChatServer,
    RawSocket,
    b64,
    chat_server,
    message,
    serving,
)
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    limits = {"burst": 1_000_000, "rate": 1_000_000}
    with chat_server(tmp_path_factory.mktemp("chat"), **limits) as server:
        yield server


def text_of(**fields: str) -> str:
    """A flat frame whose members are given as JSON text; valid where nothing is given."""
    valid = {name: json.dumps(value) for name, value in message("hostile", 1).items()}
    members = (f"{json.dumps(name)}:{value}" for name, value in {**valid, **fields}.items())
    return "{" + ",".join(members) + "}"


MALFORMED = {
    "empty": "",
    "no JSON": "x",
    "two objects": "{}{}",
    "an array": "[]",
    "a string": '"CHAT_MESSAGE"',
    "null": "null",
    "deep arrays": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": "[" * 50_000 + "]" * 50_000,
    "deep inside a field": text_of(cids="[" * 50_000 + "]" * 50_000),
    "NaN": text_of(ts="NaN"),
    "Infinity": text_of(ts="-Infinity"),
    "5,000 digits": text_of(seq="9" * 5_000),
    "a key twice": text_of(seq='1,"seq":2'),
    "a key twice, once escaped": text_of(seq='1,"s\\u0065q":2'),
    "a control key twice": '{"type":"PING","type":"AUTH","token":"x"}',
    "lone surrogate in a value": text_of(recipient='"\\ud800"'),
    "lone surrogate in a key": '{"\\udfff":1}',
    "unknown type": '{"type":"SHOUT"}',
    "type of the server": '{"type":"ACK"}',
    "type is a number": '{"type":7}',
    "a NUL outside a string": "{\0}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_frame_is_malformed_and_the_connection_goes_on(
    server: ChatServer, text: str
) -> None:
    with server.peer(ALICE) as alice:
        answer = alice.ask(text)
        assert (answer["type"], answer["code"]) == ("ERROR", "malformed_frame")
        assert alice.silent()


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_frame_is_a_problem_in_rest(server: ChatServer, text: str) -> None:
    answer = server.post(ALICE, text.encode())
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_frame")


def _invalid() -> dict[str, tuple[dict[str, Any], str]]:
    valid = message("hostile", 1)
    cases: dict[str, tuple[dict[str, Any], str]] = {
        f"no {field}": ({k: v for k, v in valid.items() if k != field}, field) for field in valid
    }
    wrong: dict[str, list[Any]] = {
        "seq": [0, -1, 2**53, 2**64, 10**30, True, 1.0, 1.5, "1", None],
        "ts": ["1", None, True, 10**400],
        "nonce": [b64(bytes(11)), b64(bytes(13)), "", "A" * 15, "AAAAAAAAAAAAAAA-", 7, "é" * 16],
        "ciphertext": [b64(bytes(15)), "", "====", "QUJD\n" * 8, "QQ" * 16 + "Q", "QR==" * 1, None],
        "hash": [b64(bytes(31)), b64(bytes(33)), "", "not base64", valid["hash"][:-1], 1],
        "recipient": ["", "a" * 129, "a b", "a\n", "ä", "a/b", "\0", 1, ["a"]],
        "device": ["", "a" * 129, "phone 1", 0],
        "sender": [BOB, "", 1],
        "signature": ["", b64(bytes(63)), b64(bytes(65)), "client_sig_placeholder", 1],
        "cids": [[], ["x"], ["bafkrei" + "a" * 52] * 2, ["bafkrei" + "a" * 51], "bafkrei", [1], {}],
    }
    for field, values in wrong.items():
        for number, value in enumerate(values):
            cases[f"{field} {number}"] = ({**valid, field: value}, field)
    cases["an unknown field"] = ({**valid, "plaintext": "hello"}, "unknown")
    cases["a prototype's field"] = ({**valid, "__proto__": {}}, "unknown")
    cases["RESUME before the ledger"] = ({"type": "RESUME", "after": -1}, "after")
    cases["RESUME beyond any ledger"] = ({"type": "RESUME", "after": 2**63}, "after")
    cases["RESUME far beyond"] = ({"type": "RESUME", "after": 2**70}, "after")
    cases["RESUME without after"] = ({"type": "RESUME"}, "after")
    cases["RESUME after a fraction"] = ({"type": "RESUME", "after": 1.5}, "after")
    cases["RECEIPT for nothing"] = ({"type": "RECEIPT", "kind": "read", "position": 0}, "position")
    receipt = {"type": "RECEIPT", "kind": "read", "position": 2**70}
    cases["RECEIPT far beyond"] = (receipt, "position")
    cases["RECEIPT of no kind"] = ({"type": "RECEIPT", "kind": "seen", "position": 1}, "kind")
    cases["PING with more"] = ({"type": "PING", "pong": 1}, "unknown")
    cases["AUTH without a token"] = ({"type": "AUTH"}, "token")
    return cases


INVALID = _invalid()


@pytest.mark.parametrize(("frame", "field"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_field_is_named_and_the_connection_goes_on(
    server: ChatServer, frame: dict[str, Any], field: str
) -> None:
    records = len(server.records())
    with server.peer(ALICE) as alice:
        answer = alice.ask(frame)
        assert (answer["code"], answer["field"]) == ("invalid_message", field)
        assert alice.silent()
    if "type" not in frame:
        problem = server.post(ALICE, frame)
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.status_code == 422
        assert (problem.json()["code"], problem.json()["field"]) == ("invalid_message", field)
    assert len(server.records()) == records


@pytest.mark.parametrize("field", ["seq", "nonce", "ciphertext", "hash"])
def test_a_hash_over_other_bytes_is_refused(server: ChatServer, field: str) -> None:
    frame = message("mismatch", 1)
    other = message("mismatch", 2)
    frame[field] = other[field]
    with server.peer(ALICE) as alice:
        answer = alice.ask(frame)
    assert (answer["code"], answer["seq"]) == ("hash_mismatch", frame["seq"])
    problem = server.post(ALICE, frame)
    assert (problem.status_code, problem.json()["code"]) == (422, "hash_mismatch")


def test_the_largest_ciphertext_is_taken_and_one_byte_more_is_not(server: ChatServer) -> None:
    largest = os.urandom(MIB)
    with server.peer(ALICE) as alice, server.peer("large") as large:
        assert alice.ask(message("large", 1, largest))["type"] == "ACK"
        assert large.receive()["ciphertext"] == b64(largest)
        for excess in (1, 2, 3, 4096):
            answer = alice.ask(message("large", 2, largest + bytes(excess)))
            assert answer["code"] == "message_too_large"
            problem = server.post(ALICE, message("large", 2, largest + bytes(excess)))
            assert (problem.status_code, problem.json()["code"]) == (413, "message_too_large")
        assert server.post(ALICE, message("large", 2, largest)).status_code == 201


def test_a_body_over_the_limit_is_refused_while_it_arrives(server: ChatServer) -> None:
    problem = server.post(ALICE, b" " * (3 * MIB))
    assert problem.headers["content-type"] == "application/problem+json"
    assert (problem.status_code, problem.json()["code"]) == (413, "message_too_large")


def test_a_body_over_the_hosts_own_limit_is_the_same_problem(tmp_path: Path) -> None:
    given = {"jwt_secret": SECRET, "data_dir": tmp_path, "largest_body": 1000}
    app = create_app(HostSettings.model_validate(given), [PLUGIN])
    with serving(app, tmp_path) as server:
        problem = server.post(ALICE, b" " * 1001)
        assert problem.headers["content-type"] == "application/problem+json"
        assert (problem.status_code, problem.json()["code"]) == (413, "message_too_large")
        assert server.refusals("message_too_large") == 1


def test_a_binary_frame_is_malformed_and_the_connection_goes_on(server: ChatServer) -> None:
    with server.peer(ALICE) as alice:
        alice.connection.send(json.dumps(message("binary", 1)).encode())
        assert alice.receive()["code"] == "malformed_frame"
        assert alice.silent()


@pytest.mark.parametrize(
    ("first_byte", "payload", "code"),
    [
        pytest.param(0x81, b'{"type":"\xff"}', 1007, id="invalid UTF-8"),
        pytest.param(0x81, b"\xed\xa0\x80", 1007, id="a surrogate in UTF-8"),
        pytest.param(0x83, b"", 1002, id="an opcode that does not exist"),
        pytest.param(0xC1, b"\x00", 1002, id="compressed without having agreed to it"),
        pytest.param(0x80, b"x", 1002, id="a continuation of nothing"),
    ],
)
def test_a_broken_frame_ends_its_connection_and_no_other(
    server: ChatServer, first_byte: int, payload: bytes, code: int
) -> None:
    with server.peer(ALICE) as other:
        raw = RawSocket(server, ALICE)
        raw.send(first_byte, payload)
        assert raw.close_code() == code
        assert other.silent()


def test_a_frame_over_the_limit_closes_1009_and_only_that_connection(server: ChatServer) -> None:
    with server.peer(ALICE) as other:
        raw = RawSocket(server, ALICE)
        raw.announce(3 * MIB)  # refused by its length, before the payload comes
        assert raw.close_code() == 1009
        assert other.silent()


def test_compression_is_not_agreed_to_so_nothing_can_be_inflated(server: ChatServer) -> None:
    raw = RawSocket(server, ALICE)
    raw.hang_up()
    assert b"101 Switching Protocols" in raw.head
    assert b"permessage-deflate" not in raw.head


def test_a_peer_that_vanishes_or_goes_away_leaves_nothing_behind(server: ChatServer) -> None:
    with server.peer(CAROL) as carol:
        carol.connection.close(1001)
    RawSocket(server, CAROL).hang_up()
    with server.peer(ALICE) as alice:
        assert alice.ask(message(CAROL, 1))["type"] == "ACK"


def test_memory_stays_flat_under_large_garbage(server: ChatServer) -> None:
    garbage = "[" * MIB
    with server.peer(ALICE) as alice:
        for _ in range(5):
            alice.ask(garbage)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(60):
            assert alice.ask(garbage)["code"] == "malformed_frame"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 30 * 1024  # KiB, where 60 MiB have passed


def test_storage_that_fails_is_said_and_no_silence(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("broken")
    with chat_server(data) as server, server.peer(ALICE) as alice, server.peer(BOB) as bob:
        assert alice.ask(message(BOB, 1))["position"] == 1
        assert bob.receive()["position"] == 1
        with sqlite3.connect(data / "mailbox.sqlite") as database:
            for (table,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall():
                database.execute(f'DROP TABLE "{table}"')
        database.close()
        assert alice.ask({"type": "RESUME", "after": 0})["code"] == "ledger_unavailable"
        assert alice.closed(at_once=True) == ([], 1011)
        receipt = {"type": "RECEIPT", "kind": "read", "position": 1}
        assert bob.ask(receipt)["code"] == "ledger_unavailable"
        assert bob.silent()
        problem = server.get("/v1/chat/threads", ALICE)
        assert problem.status_code == 503
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.json()["code"] == "ledger_unavailable"
        with server.peer(CAROL) as carol:
            assert carol.silent()
            assert carol.ask(message(BOB, 1))["code"] == "ledger_unavailable"
        refused = server.post(CAROL, message(BOB, 1))
        assert (refused.status_code, refused.json()["code"]) == (503, "ledger_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert (server.refusals("internal"), server.refusals("ledger_unavailable")) == (0, 5)

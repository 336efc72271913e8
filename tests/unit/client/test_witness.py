"""client/witness.py: a real server is held to its ACKs; one that lies is found out.

The lies are told by something between client and server that changes real answers.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat import evidence
from plugins.secure_chat.client.errors import LoginRefused, ServerUnreachable
from plugins.secure_chat.client.login import Token, Tokens
from plugins.secure_chat.client.witness import LedgerWatch
from plugins.secure_chat.core.note import Checkpoint, parse_proof
from plugins.secure_chat.crypto.errors import StateUnreadable
from plugins.secure_chat.transparency.keyfile import open_signer
from plugins.secure_chat.transparency.keys import CheckpointSigner
from plugins.secure_chat.transparency.witness import Alarm
from plugins.secure_chat.transport import evidence as rest
from tests.plugin.chat_server import ALICE, BOB, CAROL, ChatServer, chat_server, message, token
from tests.unit.client.conftest import Person, Server
from tests.unit.client.hostile import Hostile

LOG = "example.com/ledger"
WAIT = 60.0  # seconds: only a failing test waits this long


@dataclass(frozen=True)
class Acknowledged:
    """An ACK, as the client keeps it."""

    position: int
    event_hash: str
    recipient: str
    seq: int
    hash: str


Lie = Callable[[str, httpx.Response], httpx.Response | None]


class BetweenThem(httpx.AsyncBaseTransport):
    """Passes requests on to the server, and may change what comes back."""

    def __init__(self) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self.lie: Lie = lambda path, answer: None
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        self.asked.append(path.removeprefix("/v1/chat/ledger/"))
        answer = await self._real.handle_async_request(request)
        await answer.aread()
        return self.lie(path, answer) or answer

    async def aclose(self) -> None:
        await self._real.aclose()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "LOG_INTERVAL", 0.02)  # proofs at once, so that tests are short
        patch.setattr(rest, "FOLLOW_SECONDS", 3600.0)  # and however long they take
        with chat_server(folder, log_name=LOG, rate_per_second=1e6, burst=10**6) as server:
            yield server


SEQ: dict[str, int] = {}


def send(server: ChatServer, recipient: str = BOB) -> Acknowledged:
    SEQ[recipient] = seq = SEQ.get(recipient, 0) + 1
    ack = server.post(ALICE, message(recipient, seq)).raise_for_status().json()
    names = ("position", "event_hash", "recipient", "seq", "hash")
    return Acknowledged(**{name: ack[name] for name in names})


async def own_token() -> Token:
    return Token(token(ALICE), None)


class Case:
    def __init__(self, server: ChatServer, path: Path) -> None:
        self.server, self.path = server, path
        self.between = BetweenThem()
        self.watches: list[LedgerWatch] = []

    def watch(self, **given: Any) -> LedgerWatch:
        url = f"http://127.0.0.1:{self.server.port}"
        watch = LedgerWatch(url, Tokens(own_token), self.path, transport=self.between, **given)
        self.watches.append(watch)
        return watch


@pytest.fixture
async def case(watched: ChatServer, tmp_path: Path) -> AsyncIterator[Case]:
    case = Case(watched, tmp_path / "witness.json")
    yield case
    for watch in case.watches:
        await watch.close()


async def test_an_acknowledged_message_is_proven_and_checkpoints_join(case: Case) -> None:
    watch = case.watch()
    first = await watch.prove(send(case.server))
    receipts = [send(case.server) for _ in range(3)]
    for receipt in receipts:
        seen = await watch.prove(receipt)
        assert seen.size >= receipt.position
    assert seen.size > first.size
    assert watch.checkpoint == seen
    assert any(path.startswith("consistency?") for path in case.between.asked)
    assert await watch.check() == seen


async def test_what_was_seen_survives_and_an_old_checkpoint_is_no_alarm(case: Case) -> None:
    watch = case.watch()
    seen = await watch.prove(send(case.server))
    await watch.close()
    again = case.watch()
    assert again.checkpoint == seen
    assert (await again.prove(send(case.server))).size > seen.size


async def test_what_is_noted_is_proven_behind_the_senders_back(case: Case) -> None:
    watch = case.watch()
    alarms: list[Alarm] = []
    running = asyncio.create_task(watch.run(alarms.append))
    receipts = [send(case.server) for _ in range(3)]
    for receipt in receipts:
        watch.note(receipt)
    wrong = replace(receipts[0], event_hash="0" * 128)
    watch.note(wrong)
    await asyncio.wait_for(watch.settled(), WAIT)
    assert [str(alarm) for alarm in alarms] == [
        "the record at this position is not the one that was acknowledged"
    ]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_not_proven_is_asked_for_after_a_restart(case: Case) -> None:
    await case.watch().check()
    watch = case.watch()
    receipt = send(case.server)
    watch.note(receipt)
    await watch.close()
    again = case.watch()
    assert again.unproven == 1
    running = asyncio.create_task(again.run(lambda alarm: None))
    await asyncio.wait_for(again.settled(), WAIT)
    assert f"inclusion/{receipt.position}" in case.between.asked
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# -- what a lying server shows ---------------------------------------------------------------------


def about(name: str, change: Callable[[bytes], bytes]) -> Lie:
    """Change the answers to one kind of request."""

    def lie(path: str, answer: httpx.Response) -> httpx.Response | None:
        if f"/ledger/{name}" not in path:
            return None
        return httpx.Response(answer.status_code, content=change(answer.content))

    return lie


def denied(path: str, answer: httpx.Response) -> httpx.Response | None:
    return httpx.Response(422, json={}) if "/inclusion/" in path else None


def without_record(proof: bytes) -> bytes:
    return parse_proof(proof).with_extra(b"").encode()


def of_another_record(proof: bytes) -> bytes:
    parsed = parse_proof(proof)
    changed = parsed.extra.replace(b'"size": 64', b'"size": 65')
    assert changed != parsed.extra
    return parsed.with_extra(changed).encode()


def with_another_hash(proof: bytes) -> bytes:
    parsed = parse_proof(proof)
    hashes = (bytes(32), *parsed.hashes[1:])
    return replace(parsed, hashes=hashes).encode()


STRANGER = CheckpointSigner(LOG, b"\x05" * 32, b"\x06" * 32)


def signed_by_a_stranger(proof: bytes) -> bytes:
    note = STRANGER.sign(Checkpoint(LOG, 10**6, bytes(32)), 1).encode()
    return replace(parse_proof(proof), checkpoint=note).encode()


LIES: dict[str, Lie] = {
    "it denies the record": denied,
    "it shows no record": about("inclusion", without_record),
    "it shows another record": about("inclusion", of_another_record),
    "the proof leads elsewhere": about("inclusion", with_another_hash),
    "a stranger signed": about("inclusion", signed_by_a_stranger),
    "it is no proof": about("inclusion", lambda _: b"hello"),
    "the proof between two checkpoints is wrong": about(
        "consistency",
        lambda _: json.dumps({"hashes": [base64.b64encode(bytes(32)).decode()]}).encode(),
    ),
    "the proof between two checkpoints is none": about("consistency", lambda _: b"{}"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lie_about_the_ledger_is_an_alarm(case: Case, lie: Lie) -> None:
    watch = case.watch()
    before = await watch.prove(send(case.server))
    case.between.lie = lie
    with pytest.raises(Alarm):
        await watch.prove(send(case.server))
    assert watch.checkpoint == before, "what a liar shows is not remembered"


@pytest.mark.parametrize("field", ["event_hash", "hash", "seq", "recipient", "position"])
async def test_an_ack_of_something_else_is_an_alarm(case: Case, field: str) -> None:
    send(case.server)
    receipt = send(case.server)
    said: Any = getattr(receipt, field)
    other = said - 1 if isinstance(said, int) else "0" * len(said)
    watch = case.watch()
    with pytest.raises(Alarm):
        await watch.prove(replace(receipt, **{field: other}))  # type: ignore[arg-type]
    await watch.prove(receipt)


async def test_a_ledger_that_was_forked_is_an_alarm(case: Case) -> None:
    """The log's own key signs another history: only who saw the first one can tell."""
    watch = case.watch()
    seen = await watch.prove(send(case.server))
    signer = open_signer(case.server.data_dir / "log.key", LOG)
    for size in (seen.size, seen.size + 5):
        note = signer.sign(Checkpoint(LOG, size, b"\x07" * 32), 1).encode()
        case.between.lie = about("checkpoint", lambda _, note=note: note)  # type: ignore[misc]
        with pytest.raises(Alarm, match=r"disagree|denies"):
            await watch.check()


async def test_keys_are_pinned(case: Case) -> None:
    watch = case.watch()
    await watch.prove(send(case.server))
    await watch.close()
    other = [str(STRANGER.ed25519_key), str(STRANGER.ml_dsa_key)]
    with pytest.raises(Alarm, match="keys"):
        case.watch(keys=other)
    shown = case.server.http.get("/v1/chat/ledger/keys").text.split()
    assert case.watch(keys=shown).checkpoint == watch.checkpoint
    case.path.unlink()
    with pytest.raises(Alarm):
        await case.watch(keys=other).prove(send(case.server))


async def test_a_server_out_of_reach_or_busy_is_no_alarm(case: Case) -> None:
    watch = case.watch()
    receipt = send(case.server)
    for status in (429, 500, 503, 404):
        case.between.lie = lambda path, answer, status=status: httpx.Response(status)  # type: ignore[misc]
        with pytest.raises(ServerUnreachable):
            await watch.prove(receipt)
    case.between.lie = lambda path, answer: httpx.Response(401)
    with pytest.raises(LoginRefused):
        await watch.prove(receipt)

    def unplugged(path: str, answer: httpx.Response) -> httpx.Response | None:
        raise httpx.ConnectError("unplugged")

    case.between.lie = unplugged
    with pytest.raises(ServerUnreachable):
        await watch.check()

    def garbled(path: str, answer: httpx.Response) -> httpx.Response | None:
        stream = httpx.ByteStream(b"no gzip")
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=stream)

    case.between.lie = garbled
    with pytest.raises(ServerUnreachable):
        await watch.check()


async def test_no_answer_is_too_odd_to_be_an_alarm(case: Case) -> None:
    """What a server sends must not end the watching, or lying would pay."""
    watch = case.watch()
    await watch.prove(send(case.server))
    receipt = send(case.server)
    case.between.lie = lambda path, answer: (
        httpx.Response(200, content=b"[" * 200_000) if "/consistency" in path else None
    )
    with pytest.raises(Alarm, match="cannot be read"):
        await watch.prove(receipt)
    for huge in (10**20 - 1, 1 << 63):
        case.between.lie = about("checkpoint", partial(cosignature_first, huge))
        with pytest.raises(Alarm, match="checkpoint"):
            await watch.check()


def cosignature_first(size: int, note: bytes) -> bytes:
    """A checkpoint of another size, and the signature over the size as eight bytes comes first."""
    text, _, signatures = note.decode().rpartition("\n\n")
    origin, _, root = text.split("\n")
    lines = reversed(signatures.rstrip("\n").split("\n"))
    return ("\n".join((origin, str(size), root, "", *lines)) + "\n").encode()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 200_000, b'{"keys": 1}'])
async def test_a_damaged_file_is_said_and_kept(case: Case, damage: bytes) -> None:
    watch = case.watch()
    await watch.prove(send(case.server))
    await watch.close()
    assert case.watch().checkpoint == watch.checkpoint
    case.path.write_bytes(damage)
    with pytest.raises(StateUnreadable):
        case.watch()
    assert case.path.read_bytes() == damage


async def test_anothers_message_cannot_be_proven_as_ones_own(case: Case) -> None:
    theirs = case.server.post(CAROL, message(BOB, 1)).raise_for_status().json()
    names = ("position", "event_hash", "recipient", "seq", "hash")
    with pytest.raises(Alarm, match="does not show"):
        await case.watch().prove(Acknowledged(**{name: theirs[name] for name in names}))


# -- in a client -----------------------------------------------------------------------------------

People = tuple[Person, Person, Person]


async def test_a_client_has_its_acknowledged_messages_proven(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    alarms: list[Alarm] = []
    given: dict[str, Any] = {"ledger_watch": tmp_path / "watch.json", "on_alarm": alarms.append}
    async with bob.client(shared_server.url), alice.client(shared_server.url, **given) as client:
        receipts = [await client.send(bob.wallet, b"hello") for _ in range(3)]
        assert client.watch is not None
        await asyncio.wait_for(client.watch.settled(), WAIT)
        seen = client.watch.checkpoint
    assert seen is not None
    assert seen.size >= receipts[-1].position
    assert alarms == []


async def test_a_client_that_was_told_another_record_raises_the_alarm(
    hostile: Hostile, people: People, tmp_path: Path
) -> None:
    def another_hash(frame: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**frame, "event_hash": "0" * 128} if frame["type"] == "ACK" else frame]

    alice, bob, _ = people
    alarms: list[Alarm] = []
    given: dict[str, Any] = {"ledger_watch": tmp_path / "watch.json", "on_alarm": alarms.append}
    hostile.deliver = another_hash
    async with bob.client(hostile.url), alice.client(hostile.url, **given) as client:
        await client.send(bob.wallet, b"hello")
        assert client.watch is not None
        await asyncio.wait_for(client.watch.settled(), WAIT)
    assert [str(alarm) for alarm in alarms] == [
        "the record at this position is not the one that was acknowledged"
    ]

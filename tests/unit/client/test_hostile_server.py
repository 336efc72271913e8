"""What a server that lies, drops, repeats, moves and reads along gets out of an honest client.

Threat rows A1, A3, A4, A5, A7, A9 and A11, each through the real client and a real server behind a
hostile one. What the protocol library refuses by itself is in ``tests/unit/crypto``.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from plugins.secure_chat.client import ChatClient, Continuity, Received, wallet_login
from plugins.secure_chat.client.errors import (
    IdentityTaken,
    NoIdentity,
    ProtocolViolation,
    WrongSafetyNumber,
)
from plugins.secure_chat.crypto import envelope
from plugins.secure_chat.crypto.devices import Certificate
from plugins.secure_chat.crypto.errors import (
    BadClassicalSignature,
    BadWalletSignature,
    CommitmentMismatch,
    DecodeError,
    HashMismatch,
    IdentityChanged,
    NotCertified,
    PostQuantumMissing,
    Refused,
    Replayed,
    VerificationError,
)
from plugins.secure_chat.crypto.messenger import Message
from plugins.secure_chat.crypto.prekeys import Bundle
from tests.unit.client.conftest import Person, Server
from tests.unit.client.hostile import Hostile, Json

People = tuple[Person, Person, Person]
PATIENCE = 60.0


@pytest.fixture
def server(shared_server: Server) -> Server:
    """No test here counts what is in the ledger."""
    return shared_server


async def _next(client: ChatClient) -> Received:
    async with asyncio.timeout(PATIENCE):
        return await client.receive()


def _text(data: bytes) -> str:
    return b64encode(data).decode()


# -- the directory lies (A7, A9) ------------------------------------------------------------------


@dataclass
class Lies:
    """What a server can make up: it has everyone's public statements, and Mallory's keys."""

    bob: Person
    mallory: Person

    def swapped_identity(self, answer: Json) -> None:
        statement = self.mallory.device.identity
        assert statement is not None
        answer |= {
            "identity": _text(statement.encode()),
            "certificates": [_text(self.mallory.device.certificate.encode())],
        }

    def identity_with_another_key(self, answer: Json) -> None:
        statement, other = self.bob.device.identity, self.mallory.device.identity
        assert statement is not None
        assert other is not None
        body = replace(statement.body, post_quantum=other.body.post_quantum)
        answer["identity"] = _text(replace(statement, body=body).encode())

    def ghost_device(self, answer: Json) -> None:
        answer["certificates"].append(_text(self._ghost().encode()))

    def _ghost(self) -> Certificate:
        honest, keys = self.bob.device.certificate, self.mallory.device.certificate.body
        body = replace(
            honest.body,
            device="ghost",
            signing=keys.signing,
            agreement=keys.agreement,
            post_quantum=keys.post_quantum,
            endorser=honest.id,
        )
        return replace(honest, body=body, endorsement=(bytes(64), bytes(3309)))

    def another_wallets_devices(self, answer: Json) -> None:
        answer["certificates"] = [_text(self.mallory.device.certificate.encode())]

    def no_identity(self, answer: Json) -> None:
        answer |= {"identity": None, "certificates": []}

    def noise(self, answer: Json) -> None:
        answer["identity"] = "AAAA"

    def no_list(self, answer: Json) -> None:
        del answer["certificates"]


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (Lies.swapped_identity, VerificationError),
        (Lies.identity_with_another_key, BadWalletSignature),
        (Lies.ghost_device, BadWalletSignature),
        (Lies.another_wallets_devices, NotCertified),
        (Lies.no_identity, NoIdentity),
        (Lies.noise, ProtocolViolation),
        (Lies.no_list, ProtocolViolation),
    ],
)
async def test_a_lie_about_a_wallet_stops_sending_to_it_and_nothing_leaves(
    server: Server,
    hostile: Hostile,
    people: People,
    lie: Callable[[Lies, Json], None],
    error: type[Exception],
) -> None:
    alice, bob, mallory = people
    lies = Lies(bob, mallory)

    def lying(path: str, answer: Json) -> Json:
        if path.endswith(bob.wallet):
            lie(lies, answer)
        return answer

    async with bob.client(server.url) as b, alice.client(hostile.url) as a:
        hostile.lie = lying
        with pytest.raises(error):
            await a.send(bob.wallet, b"for Bob alone")
        assert not [frame for frame in hostile.frames if frame["type"] == "CHAT_MESSAGE"]
        hostile.honest()
        await a.send(bob.wallet, b"after the lie")
        assert (await _next(b)).content == b"after the lie"


def _without_kem(bundle: Bundle, _: Bundle) -> Bundle:
    return replace(bundle, kem=None)


def _without_post_quantum_signature(bundle: Bundle, _: Bundle) -> Bundle:
    assert bundle.kem is not None
    return replace(bundle, kem=replace(bundle.kem, post_quantum_signature=bytes(3309)))


def _another_signed_prekey(bundle: Bundle, other: Bundle) -> Bundle:
    return replace(bundle, signed=replace(bundle.signed, key=other.signed.key))


def _of_another_device(_: Bundle, other: Bundle) -> Bundle:
    return other


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_without_kem, PostQuantumMissing),
        (_without_post_quantum_signature, VerificationError),
        (_another_signed_prekey, BadClassicalSignature),
        (_of_another_device, NotCertified),
    ],
)
async def test_a_spoilt_bundle_opens_no_session(
    server: Server,
    hostile: Hostile,
    people: People,
    spoil: Callable[[Bundle, Bundle], Bundle],
    error: type[Exception],
) -> None:
    """A9 above all: without its post-quantum part there is no session at all."""
    alice, bob, mallory = people

    async with (
        bob.client(server.url) as b,
        mallory.client(server.url),
        alice.client(hostile.url) as a,
    ):
        (other,) = await a._directory.claim(mallory.wallet, [mallory.device.id])

        def lying(path: str, answer: Json) -> Json:
            for item in answer.get("bundles", ()):
                honest = Bundle.decode(b64decode(item["bundle"]))
                item["bundle"] = _text(spoil(honest, other).encode())
            return answer

        hostile.lie = lying
        with pytest.raises(error):
            await a.send(bob.wallet, b"for Bob alone")
        hostile.lie = lambda _, answer: answer | ({"bundles": []} if "bundles" in answer else {})
        with pytest.raises(Refused):
            await a.send(bob.wallet, b"for nobody")
        assert not [frame for frame in hostile.frames if frame["type"] == "CHAT_MESSAGE"]
        hostile.honest()
        await a.send(bob.wallet, b"after the lie")
        assert (await _next(b)).content == b"after the lie"


async def test_a_revocation_once_seen_counts_though_the_server_forgets_it(
    server: Server, hostile: Hostile, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    stolen = Person(tmp_path / "stolen", endorsed_by=bob)

    def forgetting(path: str, answer: Json) -> Json:
        return answer | ({"revocations": []} if "revocations" in answer else {})

    async with bob.client(server.url) as b, alice.client(hostile.url) as a:
        async with stolen.client(server.url):
            pass
        assert set((await a.contact(bob.wallet)).devices) == {bob.device.id, stolen.device.id}
        await b.revoke(stolen.device.id, bob.key)
        assert (await a.contact(bob.wallet)).devices == (bob.device.id,)
        hostile.lie = forgetting
        assert (await a.contact(bob.wallet)).devices == (bob.device.id,)
        await a.send(bob.wallet, b"to the one that is left")
    sent = [frame for frame in hostile.frames if frame["type"] == "CHAT_MESSAGE"]
    wraps = envelope.Envelope.decode(b64decode(sent[-1]["ciphertext"])).wraps
    assert list(wraps) == [bob.device.certificate.id[: envelope.ADDRESS]]
    stolen.device.close()


async def test_a_changed_identity_stops_everything_until_a_person_has_compared_it(
    server: Server, people: People, tmp_path: Path
) -> None:
    """A7: whoever has the wallet's key can say so; a person decides whether it is still Bob."""
    alice, bob, _ = people
    async with bob.client(server.url) as b, alice.client(server.url) as a:
        await a.send(bob.wallet, b"to the Bob that is known")
        assert (await _next(b)).content == b"to the Bob that is known"
        before = await a.contact(bob.wallet)
        assert before.safety_number == (await b.contact(alice.wallet)).safety_number
        assert not before.changed
        newcomer = Person(tmp_path / "newcomer", bob.key)
        with pytest.raises(IdentityTaken):
            await newcomer.client(server.url).connect()
        newcomer.device.close()
        newcomer = Person(tmp_path / "reset", bob.key, reset=True)
        async with newcomer.client(server.url) as n:
            await n.send(alice.wallet, b"it is me, on a new phone")
            await n.send(alice.wallet, b"hello?")
            after = await a.contact(bob.wallet)
            assert after.changed
            assert after.safety_number != before.safety_number
            with pytest.raises(IdentityChanged):
                await a.send(bob.wallet, b"secret")
            with pytest.raises(WrongSafetyNumber):
                await a.accept(bob.wallet, before.safety_number)
            assert after.safety_number == (await n.contact(alice.wallet)).safety_number
            while alice.reasons != [IdentityChanged] * 2:
                await a.contact(bob.wallet)
            assert [change.safety_number for change in alice.changes] == [after.safety_number]
            await a.accept(bob.wallet, after.safety_number)
            # What came meanwhile was held, and is given now.
            assert (await _next(a)).content == b"it is me, on a new phone"
            assert (await _next(a)).content == b"hello?"
            await a.send(bob.wallet, b"glad to hear")
            assert (await _next(n)).content == b"glad to hear"
        assert not (await a.contact(bob.wallet)).changed
    newcomer.device.close()


# -- messages are dropped, moved and repeated (A3, A4, A5) ----------------------------------------


class Shelf:
    """Keeps what was delivered to Bob, and passes on what it is told to."""

    def __init__(self, hostile: Hostile) -> None:
        self.taken: list[Json] = []
        self.open = True
        hostile.deliver = self._deliver

    def _deliver(self, frame: Json) -> tuple[Json, ...]:
        if frame["type"] != "CHAT_MESSAGE":
            return (frame,)
        self.taken.append(frame)
        return (frame,) if self.open else ()


async def test_what_is_dropped_shows_as_a_gap_and_what_is_late_as_late(
    server: Server, hostile: Hostile, people: People
) -> None:
    """A4: numbers and the hash of the message before show what a server keeps back."""
    alice, bob, _ = people
    shelf = Shelf(hostile)
    async with bob.client(hostile.url) as b, alice.client(server.url) as a:
        await a.send(bob.wallet, b"1")
        assert (await _next(b)).continuity is Continuity.FIRST
        shelf.open = False
        await a.send(bob.wallet, b"2")
        await a.send(bob.wallet, b"3")
        while len(shelf.taken) < 3:
            await b.contact(alice.wallet)
        await hostile.show(shelf.taken[2])
        third = await _next(b)
        assert (third.content, third.continuity) == (b"3", Continuity.GAP)
        await hostile.show(shelf.taken[1])
        second = await _next(b)
        assert (second.content, second.continuity) == (b"2", Continuity.LATE)
        shelf.open = True
        await a.send(bob.wallet, b"4")
        assert (await _next(b)).continuity is Continuity.CONTINUOUS
    assert bob.refused == []


async def test_a_message_shown_again_is_not_given_again_also_after_a_restart(
    server: Server, hostile: Hostile, people: People
) -> None:
    """A5: at its place it is ignored; at a new one it is refused, and told."""
    alice, bob, _ = people
    shelf = Shelf(hostile)
    async with alice.client(server.url) as a:
        async with bob.client(hostile.url) as b:
            await a.send(bob.wallet, b"pay 1")
            assert (await _next(b)).content == b"pay 1"
            await hostile.show(shelf.taken[0], shelf.taken[0])
            await hostile.show(shelf.taken[0] | {"position": 900})
            await a.send(bob.wallet, b"next")
            assert (await _next(b)).content == b"next"
        assert [(one.position, type(one.reason)) for one in bob.refused] == [(900, Replayed)]
        bob.restart()
        async with bob.client(hostile.url) as b:
            await hostile.show(shelf.taken[0] | {"position": 901})
            await a.send(bob.wallet, b"after the restart")
            assert (await _next(b)).content == b"after the restart"
        assert [one.position for one in bob.refused] == [900, 901]


def _flip(text: str, at: int) -> str:
    data = bytearray(b64decode(text))
    data[at] ^= 1
    return _text(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f, w: {"recipient": w["mallory"]}, id="recipient"),
        pytest.param(lambda f, w: {"recipient": "thread_" + "0" * 32}, id="thread"),
        pytest.param(lambda f, w: {"sender": w["mallory"]}, id="sender"),
        pytest.param(lambda f, w: {"device": "other"}, id="device"),
        pytest.param(lambda f, w: {"seq": f["seq"] + 1}, id="seq"),
        pytest.param(lambda f, w: {"ts": f["ts"] + 1}, id="ts"),
        pytest.param(lambda f, w: {"cids": ["bafkrei" + "a" * 52]}, id="cids"),
        pytest.param(lambda f, w: {"ciphertext": _flip(f["ciphertext"], -1)}, id="payload"),
        pytest.param(lambda f, w: {"ciphertext": _flip(f["ciphertext"], 40)}, id="commitment"),
        pytest.param(lambda f, w: {"nonce": _flip(f["nonce"], 0)}, id="nonce"),
        pytest.param(lambda f, w: {"hash": _flip(f["hash"], 0)}, id="hash"),
        pytest.param(lambda f, w: {"signature": _flip(f["signature"], 9)}, id="signature"),
        pytest.param(lambda f, w: {"signature": ""}, id="no signature"),
    ],
)
async def test_a_message_that_was_moved_or_altered_is_refused_and_the_honest_one_still_opens(
    server: Server, hostile: Hostile, people: People, change: Callable[[Json, Json], Json]
) -> None:
    """A3: to another recipient, conversation, sender, device or number; or any of its bytes."""
    alice, bob, mallory = people
    shelf = Shelf(hostile)
    async with (
        bob.client(hostile.url) as b,
        mallory.client(server.url),
        alice.client(server.url) as a,
    ):
        shelf.open = False
        await a.send(bob.wallet, b"honest")
        while not shelf.taken:
            await b.contact(alice.wallet)
        (frame,) = shelf.taken
        await hostile.show({**frame, **change(frame, {"mallory": mallory.wallet})}, frame)
        received = await _next(b)
    assert (received.content, received.sender) == (b"honest", alice.wallet)
    assert len(bob.refused) == 1
    assert isinstance(
        bob.refused[0].reason,
        BadClassicalSignature | HashMismatch | NotCertified | DecodeError,
    ), bob.refused


async def test_ones_own_message_is_not_taken_for_the_peers(
    server: Server, hostile: Hostile, people: People
) -> None:
    """A5: reflection."""
    alice, bob, _ = people
    async with bob.client(server.url) as b, alice.client(hostile.url) as a:
        await a.send(bob.wallet, b"I owe you 5")
        sent = next(frame for frame in hostile.frames if frame["type"] == "CHAT_MESSAGE")
        shown = sent | {"id": "x", "position": 800, "timestamp": ""}
        swapped = {"sender": bob.wallet, "recipient": alice.wallet, "device": bob.device.id}
        await hostile.show(shown, shown | swapped | {"position": 801})
        await b.send(alice.wallet, b"honest")
        assert (await _next(a)).content == b"honest"
    assert alice.reasons == [BadClassicalSignature]


async def test_a_key_that_the_sender_did_not_commit_to_opens_nothing(
    server: Server, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11: a sender cannot make one ciphertext of which two devices read different things."""
    alice, bob, _ = people
    honest = envelope.content_keys

    def two_faced(key: bytes, digest: bytes) -> tuple[bytes, bytes]:
        payload, _ = honest(key, digest)
        return payload, bytes(32)

    async with bob.client(server.url) as b, alice.client(server.url) as a:
        await a.send(bob.wallet, b"before")
        assert (await _next(b)).content == b"before"
        with monkeypatch.context() as patch:
            patch.setattr(envelope, "content_keys", two_faced)
            rosters, without = await a._prepared((bob.wallet,))
            two = Message(bob.wallet, rosters, b"two things", 1.0, without=without)
            (sealed,) = alice.device.seal([two])
        await _post(server, alice, sealed.frame)
        alice.device.settle(bob.wallet, sealed.seq)
        await a.send(bob.wallet, b"after")
        assert (await _next(b)).content == b"after"
    assert bob.reasons == [CommitmentMismatch]


async def _post(server: Server, person: Person, frame: bytes) -> None:
    """Send a frame of our making by REST, as a client that obeys nothing would."""
    token = await wallet_login(server.url, person.key)()
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        answer = await http.post(
            f"{server.url}/v1/chat/messages",
            content=frame,
            headers={"Authorization": f"Bearer {token.value}"},
        )
    assert answer.status_code == 201, answer.text


# -- what the server sees, and what it says (A1) --------------------------------------------------


async def test_nothing_that_is_secret_leaves_the_client(
    server: Server, hostile: Hostile, people: People, tmp_path: Path
) -> None:
    """A1, at the wire: every request and frame of a whole life, searched for contents and keys."""
    alice, bob, _ = people
    canary = b"a canary that only Bob may see"
    second = Person(tmp_path / "second", endorsed_by=alice)
    async with bob.client(server.url) as b, alice.client(hostile.url) as a:
        async with second.client(hostile.url) as s:
            await s.send(bob.wallet, canary)
        await a.contact(alice.wallet)
        await a.send(bob.wallet, canary)
        assert [(await _next(b)).content for _ in range(2)] == [canary] * 2
        await a.revoke(second.device.id, alice.key)
    sent = b"\n".join(
        [body for _, body in hostile.requests]
        + [path.encode() for path, _ in hostile.requests]
        + [json.dumps(frame).encode() for frame in hostile.frames]
    )
    secrets: list[bytes] = [canary]
    for person in (alice, second):
        records = person.device._store._records
        secrets += [value for name, value in records.items() if name.startswith(b"prekey/")]
        keys = person.device.messenger._keys
        secrets += [keys.signing, keys.agreement, keys.post_quantum, person.unlock]
    held = alice.device._identity()
    assert held is not None
    secrets.append(held[0].seed)
    assert len(secrets) > 100
    decoded = _every_base64(sent)
    for secret in secrets:
        assert secret not in sent
        assert secret.hex().encode() not in sent
        assert secret not in decoded
    second.device.close()


def _every_base64(sent: bytes) -> bytes:
    """All quoted strings of JSON that are base64, decoded, one after the other."""
    found = []
    for text in sent.split(b'"'):
        try:
            found.append(b64decode(text, validate=True))
        except ValueError:
            continue
    return b"\n".join(found)


async def test_frames_that_this_client_does_not_know_are_passed_over(
    server: Server, hostile: Hostile, people: People
) -> None:
    alice, bob, _ = people
    async with bob.client(hostile.url) as b, alice.client(server.url) as a:
        await hostile.show({"type": "SOMETHING_NEW", "field": 1}, {"type": "THREAD"})
        await a.send(bob.wallet, b"still here")
        assert (await _next(b)).content == b"still here"
        assert b.connections == 1


@pytest.mark.parametrize("frame", [{"type": "ACK"}, {"type": "READY", "wallet": 5}, {"no": "type"}])
async def test_a_frame_that_is_none_ends_the_client_with_its_reason(
    server: Server, hostile: Hostile, people: People, frame: Json
) -> None:
    _, bob, _ = people
    async with bob.client(hostile.url) as b:
        await hostile.show(frame)
        with pytest.raises(ProtocolViolation):
            await _next(b)


async def test_an_ack_of_another_message_is_not_believed(
    server: Server, hostile: Hostile, people: People
) -> None:
    alice, bob, _ = people

    def forging(frame: Json) -> tuple[Json, ...]:
        return (frame | {"hash": _text(bytes(32))} if frame["type"] == "ACK" else frame,)

    async with bob.client(server.url), alice.client(hostile.url) as a:
        hostile.deliver = forging
        with pytest.raises(ProtocolViolation):
            await a.send(bob.wallet, b"really there?")

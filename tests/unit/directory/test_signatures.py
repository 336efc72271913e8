"""directory/signatures: every message's own verdict, whatever thread gave it."""

from __future__ import annotations

import random
from base64 import b64encode
from pathlib import Path

import msgspec
import pytest

from plugins.secure_chat.core.envelope import Envelope, message_hash
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.signatures import DeviceSignatures
from plugins.secure_chat.errors import BadSignature, UnknownDevice
from plugins.secure_chat.metrics import Metrics
from tests.unit.crypto.people import Directory, Person
from tests.unit.directory.opened import lose_mailbox, opened


def envelope(person: Person, device: str, seq: int, *, sound: bool = True) -> Envelope:
    ciphertext, nonce = bytes(16), seq.to_bytes(12, "big")
    frame = Frame(person.id, device, "bob", ciphertext, nonce, seq, 1.5)
    signature = frame.signed(person.devices[device].keys.signing).signature
    if not sound:
        signature = bytes((signature[0] ^ 1,)) + signature[1:]
    return Envelope(
        sender=person.id,
        device=device,
        recipient="bob",
        ciphertext=b64encode(ciphertext).decode(),
        nonce=b64encode(nonce).decode(),
        seq=seq,
        ts=1.5,
        hash=b64encode(message_hash(ciphertext, nonce, seq)).decode(),
        signature=b64encode(signature).decode(),
        cids=(),
        size=16,
    )


@pytest.mark.parametrize("count", [1, 3, 4, 15, 16, 17, 100, 333])
async def test_each_message_of_a_batch_gets_its_own_verdict(tmp_path: Path, count: int) -> None:
    person = Person(Directory(), "a", "b")
    chance = random.Random(count)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        check = DeviceSignatures(Entries(chat.store), Metrics(), required=False)
        kinds = [chance.choice(("good", "bad", "unsigned", "ghost")) for _ in range(count)]
        batch = []
        for seq, kind in enumerate(kinds, start=1):
            one = envelope(person, "ab"[seq % 2], seq, sound=kind != "bad")
            changes = {"unsigned": {"signature": ""}, "ghost": {"device": "ghost"}}.get(kind, {})
            batch.append(msgspec.structs.replace(one, **changes))
        verdicts = await check(batch)
        await check.close()
    expected = {"good": type(None), "ghost": UnknownDevice}
    assert [type(one) for one in verdicts] == [expected.get(kind, BadSignature) for kind in kinds]


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (64, 4)])
async def test_processes_are_as_many_as_cores_may_be_used_and_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, processes: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(cores)))
    async with opened(tmp_path) as chat:
        check = DeviceSignatures(Entries(chat.store), Metrics(), required=False)
        await check.verifiers.start()
        assert len(check.verifiers.processes) == processes
        await check.close()


async def test_no_field_of_a_message_is_another_than_its_device_signed(tmp_path: Path) -> None:
    person = Person(Directory(), "a", "b")
    cid = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    frame = Frame(person.id, "a", "bob", bytes(16), bytes(12), 7, 2.5, (cid,))
    signed = msgspec.structs.replace(
        envelope(person, "a", 7),
        nonce=b64encode(frame.nonce).decode(),
        ts=frame.ts,
        hash=b64encode(frame.hash).decode(),
        cids=frame.cids,
        signature=b64encode(frame.signed(person.devices["a"].keys.signing).signature).decode(),
    )
    changes: list[dict[str, object]] = [
        {"device": "b"},
        {"recipient": "carol"},
        {"nonce": b64encode(bytes(11) + b"\1").decode()},
        {"seq": 8},
        {"ts": 2.75},
        {"hash": b64encode(bytes(32)).decode()},
        {"cids": ()},
    ]
    batch = [signed, *(msgspec.structs.replace(signed, **change) for change in changes)]
    async with opened(tmp_path) as chat:
        await chat.register(person)
        check = DeviceSignatures(Entries(chat.store), Metrics(), required=False)
        verdicts = await check(batch)
        await check.close()
    assert verdicts[0] is None
    assert [type(one) for one in verdicts[1:]] == [BadSignature] * len(changes)


@pytest.mark.parametrize("required", [False, True])
async def test_a_wallet_that_never_registered_signs_only_where_it_must(
    tmp_path: Path, required: bool
) -> None:
    person = Person(Directory(), "a")
    async with opened(tmp_path) as chat:
        check = DeviceSignatures(Entries(chat.store), Metrics(), required=required)
        (verdict,) = await check([envelope(person, "a", 1)])
        await check.close()
    assert isinstance(verdict, UnknownDevice) == required
    assert (verdict is None) != required


async def test_what_is_logged_of_a_wallet_is_seen_by_the_next_message(tmp_path: Path) -> None:
    person = Person(Directory(), "a", "b")
    async with opened(tmp_path) as chat:
        await chat.register(person)
        assert (await chat.service.send(envelope(person, "b", 1))).seq == 1
        person.certificates.reverse()
        person.revoke("b")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        with pytest.raises(UnknownDevice):
            await chat.service.send(envelope(person, "b", 2))
        assert (await chat.service.send(envelope(person, "a", 1))).seq == 1


async def test_what_was_logged_before_a_revocation_keeps_its_receipt(tmp_path: Path) -> None:
    person = Person(Directory(), "a", "b")
    async with opened(tmp_path) as chat:
        await chat.register(person)
        sent = envelope(person, "b", 1)
        first = await chat.service.send(sent)
        person.certificates.reverse()
        person.revoke("b")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        again = await chat.service.send(sent)
        assert (again.duplicate, again.position) == (True, first.position)
        with pytest.raises(UnknownDevice):
            await chat.service.send(envelope(person, "b", 2))


async def test_a_lost_frame_is_not_replaced_by_one_that_its_device_did_not_sign(
    tmp_path: Path,
) -> None:
    person = Person(Directory(), "a")
    async with opened(tmp_path) as chat:
        await chat.register(person)
        sent = envelope(person, "a", 1)
        await chat.service.send(sent)
    lose_mailbox(tmp_path)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        forged = msgspec.structs.replace(sent, ts=99.0)  # the hash does not cover it
        assert (await chat.service.send(forged)).duplicate
        (waiting,) = await chat.service.missed(person.id, 0)
        assert waiting.frame is None
        assert (await chat.service.send(sent)).duplicate
        (waiting,) = await chat.service.missed(person.id, 0)
        assert waiting.frame is not None
        assert b'"ts":1.5' in waiting.frame

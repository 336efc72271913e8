"""The key directory through the host: who may publish what, and what follows from it."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat.crypto import devices, identity, labels
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys, Revocation
from plugins.secure_chat.crypto.identity import Identity, PostQuantumKey
from plugins.secure_chat.crypto.prekeys import Bundle, Kind, Publication
from plugins.secure_chat.crypto.roster import MAX_CERTIFICATES, Roster, verify
from tests.plugin.chat_server import ALICE, ChatServer, chat_server, message, token
from tests.plugin.registrants import Registrant

SECP256K1 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    limits = {"rate_per_second": 1e6, "burst": 1_000_000}
    with chat_server(tmp_path_factory.mktemp("chat"), **limits) as server:
        yield server


def listing(server: ChatServer, wallet: str, asker: str = ALICE) -> dict[str, Any]:
    answer = server.get(f"/v1/chat/identities/{wallet}", asker)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def roster_of(listed: dict[str, Any]) -> Roster:
    """What a client makes of a listing; raises when a signature in it does not verify."""
    return verify(
        Identity.decode(base64.b64decode(listed["identity"])),
        [Certificate.decode(base64.b64decode(one)) for one in listed["certificates"]],
        [Revocation.decode(base64.b64decode(one)) for one in listed["revocations"]],
    )


def assert_refused(answer: httpx.Response, status: int, code: str, **members: object) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {name: answer.json()[name] for name in members} == members


# -- publishing -----------------------------------------------------------------------------------


def test_what_is_published_is_listed_byte_for_byte_and_logged_as_hashes(
    server: ChatServer,
) -> None:
    alice = Registrant(server, "phone")
    created = alice.publish_identity()
    assert created.status_code == 201
    assert created.json()["id"] == alice.identity.id.hex()
    device = alice.publish_device("phone")
    assert device.status_code == 201
    prekeys = alice.publish_prekeys("phone")
    assert (prekeys.status_code, prekeys.json()) == (200, {"one_time": 3, "one_time_kem": 3})

    listed = listing(server, alice.id)
    assert base64.b64decode(listed["identity"]) == alice.identity.encode()
    assert [base64.b64decode(one) for one in listed["certificates"]] == [
        alice.certificates[0].encode()
    ]
    assert listed["position"] == device.json()["position"]
    assert (listed["history"], listed["revocations"], listed["missing"]) == ([], [], [])
    assert roster_of(listed).active == tuple(alice.certificates)

    records = [one for one in server.records() if one["wallet"] == alice.id]
    certificate = alice.certificates[0].id.hex()
    assert [(one["event_type"], one["metadata"]) for one in records[:2]] == [
        ("IDENTITY", {"kind": "identity", "id": alice.identity.id.hex()}),
        ("IDENTITY", {"kind": "device", "id": certificate, "device": "phone"}),
    ]
    assert set(records[2]["metadata"]) == {"kind", "id", "device"}
    assert created.json()["event_hash"] == records[0]["hash"]


def test_an_unknown_wallet_is_an_empty_listing(server: ChatServer) -> None:
    assert listing(server, "0x" + "0f" * 20) == {
        "wallet": "0x" + "0f" * 20,
        "identity": None,
        "history": [],
        "certificates": [],
        "revocations": [],
        "missing": [],
        "position": 0,
    }


def test_publishing_again_is_known_and_logs_nothing(server: ChatServer) -> None:
    alice = Registrant(server, "phone").register()
    alice.revoke("phone")
    first = alice.publish_revocation()
    logged = len(server.records())
    for again in (alice.publish_identity(), alice.publish_device("phone")):
        assert again.status_code == 200
    again = alice.publish_revocation()
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(server.records()) == logged
    bob = Registrant(server, "phone").register()
    logged = len(server.records())
    assert bob.publish_prekeys("phone").json() == {"one_time": 3, "one_time_kem": 3}
    assert len(server.records()) == logged


def _high_s(signature: bytes) -> bytes:
    s = SECP256K1 - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))


def _flip(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


IDENTITY_DEFECTS: dict[str, tuple[Callable[[Registrant], bytes], str]] = {
    "a high s": (
        lambda a: replace(
            a.identity, wallet_signature=_high_s(a.identity.wallet_signature)
        ).encode(),
        "bad_signature",
    ),
    "v out of range": (
        lambda a: replace(
            a.identity, wallet_signature=a.identity.wallet_signature[:64] + b"\x1d"
        ).encode(),
        "bad_signature",
    ),
    "another wallet's signature": (
        lambda a: replace(
            a.identity,
            wallet_signature=Registrant(a.server).wallet.sign(a.identity.body.text),
        ).encode(),
        "bad_signature",
    ),
    "a login's signature": (
        lambda a: replace(
            a.identity,
            wallet_signature=a.wallet.sign("Sign this message to login to ATLAS: " + "0" * 32),
        ).encode(),
        "bad_signature",
    ),
    "no post-quantum signature": (
        lambda a: replace(a.identity, post_quantum_signature=bytes(3309)).encode(),
        "bad_signature",
    ),
    "cut short": (lambda a: a.identity.encode()[:-1], "invalid_message"),
    "a byte more": (lambda a: a.identity.encode() + b"\0", "invalid_message"),
    "another version": (lambda a: b"\x01" + a.identity.encode()[1:], "invalid_message"),
    "empty": (lambda a: b"", "invalid_message"),
    "another wallet's": (lambda a: Registrant(a.server).identity.encode(), "invalid_message"),
}


@pytest.mark.parametrize(("make", "code"), IDENTITY_DEFECTS.values(), ids=IDENTITY_DEFECTS)
def test_an_identity_without_both_proofs_of_its_own_wallet_is_refused_and_not_logged(
    server: ChatServer, make: Callable[[Registrant], bytes], code: str
) -> None:
    alice = Registrant(server)
    answer = alice.call("PUT", "/identity", identity=make(alice))
    assert_refused(answer, 422, code)
    assert listing(server, alice.id)["identity"] is None
    assert alice.id not in {record["wallet"] for record in server.records()}


def _certificate(person: Registrant, **changes: Any) -> bytes:
    return replace(person.certificates[0], **changes).encode()


def _with_keys_of_others(person: Registrant) -> bytes:
    """A certificate for keys that whoever publishes it does not have."""
    theirs = DeviceKeys.generate(os.urandom)
    body = devices.describe(person.identity, "theirs", theirs)
    mine = DeviceKeys.generate(os.urandom)
    return devices.certify(body, person.wallet.sign(body.text), person.post_quantum, mine).encode()


CERTIFICATE_DEFECTS: dict[str, tuple[Callable[[Registrant], bytes], str]] = {
    "no device signature": (
        lambda a: _certificate(a, device_signature=bytes(64)),
        "bad_signature",
    ),
    "no post-quantum device signature": (
        lambda a: _certificate(a, device_post_quantum_signature=bytes(3309)),
        "bad_signature",
    ),
    "no identity signature": (
        lambda a: _certificate(a, identity_signature=bytes(3309)),
        "bad_signature",
    ),
    "the wallet's signature of its identity": (
        lambda a: _certificate(a, wallet_signature=a.identity.wallet_signature),
        "bad_signature",
    ),
    "keys of others": (_with_keys_of_others, "bad_signature"),
    "another wallet's": (
        lambda a: Registrant(a.server, "phone").certificates[0].encode(),
        "invalid_message",
    ),
    "an identity statement": (lambda a: a.identity.encode(), "invalid_message"),
}


@pytest.mark.parametrize(("make", "code"), CERTIFICATE_DEFECTS.values(), ids=CERTIFICATE_DEFECTS)
def test_a_device_without_every_proof_of_possession_is_refused_and_not_logged(
    server: ChatServer, make: Callable[[Registrant], bytes], code: str
) -> None:
    alice = Registrant(server, "phone")
    alice.publish_identity()
    logged = len(server.records())
    assert_refused(alice.call("POST", "/devices", certificate=make(alice)), 422, code)
    assert listing(server, alice.id)["certificates"] == []
    assert len(server.records()) == logged


def test_nobody_publishes_for_another_wallet_however_sound_the_statement(
    server: ChatServer,
) -> None:
    alice, mallory = Registrant(server, "phone", "laptop"), Registrant(server, "phone").register()
    alice.publish_identity()
    alice.publish_device("phone")
    alice.revoke("phone")
    logged = len(server.records())
    for method, path, field, statement in (
        ("PUT", "/identity", "identity", alice.identity),
        ("POST", "/devices", "certificate", alice.certificates[1]),
        ("POST", "/revocations", "revocation", alice.revocations[0]),
    ):
        answer = mallory.call(method, path, **{field: statement.encode()})
        assert_refused(answer, 422, "invalid_message", field=field)
    alices = alice.publications[alice.certificates[0].id].encode()
    answer = mallory.call("PUT", "/devices/phone/prekeys", publication=alices)
    assert_refused(answer, 422, "invalid_message", field="publication")
    assert len(server.records()) == logged
    assert alice.publish_device("laptop").status_code == 201
    assert alice.publish_revocation().status_code == 201


def test_a_certificate_needs_the_identity_in_force(server: ChatServer) -> None:
    alice = Registrant(server, "phone")
    assert_refused(alice.publish_device("phone"), 422, "invalid_message", field="certificate")
    alice.publish_identity()
    before = alice.certificates[0].encode()
    alice.renew(bless=True)
    alice.publish_identity()
    answer = alice.call("POST", "/devices", certificate=before)
    assert_refused(answer, 422, "invalid_message", field="certificate")
    assert alice.publish_device("phone").status_code == 201


def test_every_further_device_is_endorsed_by_one_in_force(server: ChatServer) -> None:
    alice = Registrant(server, "phone", "laptop")
    alice.publish_identity()
    # Not before the device that endorses it.
    assert_refused(alice.publish_device("laptop"), 422, "invalid_message")
    assert alice.publish_device("phone").status_code == 201
    keys = DeviceKeys.generate(os.urandom)
    ghost = alice.certificate("ghost", keys, endorse=False)
    answer = alice.call("POST", "/devices", certificate=ghost.encode())
    assert_refused(answer, 422, "invalid_message")
    forged = replace(alice.certificate("forged", keys), endorsement=(bytes(64), bytes(3309)))
    answer = alice.call("POST", "/devices", certificate=forged.encode())
    assert_refused(answer, 422, "bad_signature")
    assert alice.publish_device("laptop").status_code == 201
    # Nor by a device that has been revoked since.
    alice.revoke("phone")
    alice.publish_revocation()
    late = alice.certificate("late", keys)
    assert_refused(
        alice.call("POST", "/devices", certificate=late.encode()), 422, "invalid_message"
    )
    assert [one.device for one in roster_of(listing(server, alice.id)).active] == ["laptop"]


def test_a_device_name_is_taken_once_for_an_identity(server: ChatServer) -> None:
    alice = Registrant(server, "phone", "laptop").register()
    other = alice.certificate("laptop", DeviceKeys.generate(os.urandom))
    answer = alice.call("POST", "/devices", certificate=other.encode())
    assert_refused(answer, 422, "invalid_message")
    alice.revoke("laptop")
    assert alice.publish_revocation().status_code == 201
    answer = alice.call("POST", "/devices", certificate=other.encode())
    assert_refused(answer, 422, "invalid_message")


def test_an_identity_has_at_most_64_certificates(server: ChatServer) -> None:
    alice = Registrant(server, "first")
    alice.publish_identity()
    alice.publish_device("first")
    for number in range(1, MAX_CERTIFICATES + 1):
        certificate = alice.certificate(f"device{number}", alice.devices["first"].keys)
        answer = alice.call("POST", "/devices", certificate=certificate.encode())
        if number < MAX_CERTIFICATES:
            assert answer.status_code == 201
    assert_refused(answer, 422, "invalid_message", field="certificate")
    assert len(roster_of(listing(server, alice.id)).active) == MAX_CERTIFICATES


# -- rotation, reset, revocation ------------------------------------------------------------------


@pytest.mark.parametrize("bless", [True, False], ids=["rotated", "reset"])
def test_a_new_identity_ends_the_devices_of_the_old_one_and_keeps_its_history(
    server: ChatServer, bless: bool
) -> None:
    alice = Registrant(server, "phone").register()
    before = alice.renew(bless=bless)
    assert alice.publish_identity().status_code == 201
    listed = listing(server, alice.id)
    assert base64.b64decode(listed["identity"]) == alice.identity.encode()
    assert [base64.b64decode(one) for one in listed["history"]] == [before.encode()]
    assert listed["certificates"] == []
    bob = Registrant(server)
    assert_refused(bob.claim(alice.id, ["phone"]), 403, "unknown_device")
    with server.peer(alice.id) as peer:
        assert peer.ask(alice.signed("phone", ALICE, 1))["code"] == "unknown_device"
        assert alice.publish_device("phone").status_code == 201
        assert peer.ask(alice.signed("phone", ALICE, 1))["type"] == "ACK"


def test_a_statement_that_was_replaced_does_not_come_back(server: ChatServer) -> None:
    alice = Registrant(server)
    alice.publish_identity()
    before = alice.renew(bless=True)
    alice.publish_identity()
    answer = alice.call("PUT", "/identity", identity=before.encode())
    assert_refused(answer, 422, "invalid_message", field="identity")
    assert base64.b64decode(listing(server, alice.id)["identity"]) == alice.identity.encode()


def test_a_blessing_that_the_old_key_did_not_give_is_refused(server: ChatServer) -> None:
    alice = Registrant(server)
    alice.publish_identity()
    alice.post_quantum = PostQuantumKey(os.urandom(32))  # who has the wallet, and not the old key
    alice.renew(bless=True)
    assert_refused(alice.publish_identity(), 422, "bad_signature")
    body = alice.identity.body
    unblessed = identity.vouch(body, alice.wallet.sign(body.text), alice.post_quantum)
    answer = alice.call("PUT", "/identity", identity=unblessed.encode())
    assert answer.status_code == 201  # a reset: clients ask a person


def test_a_revoked_device_cannot_send_and_its_sockets_are_logged_out(server: ChatServer) -> None:
    alice = Registrant(server, "phone", "laptop", "tablet").register()
    with (
        server.peer(alice.id) as phone,
        server.peer(alice.id, query="?device=phone") as silent,
        server.peer(alice.id, query="?device=laptop") as laptop,
        server.peer(alice.id) as unnamed,
    ):
        assert phone.ask(alice.signed("phone", ALICE, 1))["type"] == "ACK"
        for other in (silent, laptop, unnamed):
            other.receive()
        alice.certificates.reverse()  # the phone endorsed the others and is not needed for this
        alice.revoke("phone")
        assert alice.publish_revocation().status_code == 201
        for ended in (phone, silent):
            frames, code = ended.closed(at_once=True)
            assert [(one["type"], one["code"], one["device"]) for one in frames] == [
                ("ERROR", "unknown_device", "phone")
            ]
            assert code == 1008
        refused = laptop.ask(alice.signed("phone", ALICE, 2))
        assert (refused["code"], refused["detail"]) == (
            "unknown_device",
            "the device has been revoked",
        )
        assert laptop.ask(alice.signed("laptop", ALICE, 1))["type"] == "ACK"
        assert unnamed.receive()["device"] == "laptop"
        assert unnamed.silent()
    with server.peer(alice.id, query="?device=phone", greeted=False) as again:
        frames, code = again.closed(at_once=True)
        assert ([one["code"] for one in frames], code) == (["unknown_device"], 1008)
    answer = server.post(alice.id, alice.signed("phone", ALICE, 3))
    assert_refused(answer, 403, "unknown_device")


@pytest.mark.parametrize("bless", [True, False])
def test_devices_that_a_new_identity_left_behind_are_logged_out(
    server: ChatServer, bless: bool
) -> None:
    alice = Registrant(server, "phone", "laptop").register()
    with (
        server.peer(alice.id, query="?device=phone") as phone,
        server.peer(alice.id, query="?device=laptop") as laptop,
        server.peer(alice.id) as written,
        server.peer(alice.id) as unnamed,
    ):
        assert written.ask(alice.signed("laptop", ALICE, 1))["type"] == "ACK"
        for other in (phone, laptop, unnamed):
            other.receive()
        alice.renew(bless=bless)
        assert alice.publish_identity().status_code == 201
        # Nobody is left behind before there is a device that went on.
        assert phone.silent()
        assert laptop.silent()
        assert alice.publish_device("phone").status_code == 201
        for ended in (laptop, written):
            frames, code = ended.closed(at_once=True)
            assert [(one["type"], one["code"], one["device"]) for one in frames] == [
                ("ERROR", "unknown_device", "laptop")
            ]
            assert code == 1008
        assert phone.ask(alice.signed("phone", ALICE, 1))["type"] == "ACK"
        assert unnamed.receive()["device"] == "phone"
        with server.peer(alice.id, query="?device=laptop", greeted=False) as again:
            frames, code = again.closed(at_once=True)
            assert ([one["code"] for one in frames], code) == (["unknown_device"], 1008)
        # Endorsed again it is a device like any other, and nobody is logged out for it.
        assert alice.publish_device("laptop").status_code == 201
        assert phone.silent()
        assert unnamed.silent()
    with server.peer(alice.id, query="?device=laptop") as back:
        assert back.ask(alice.signed("laptop", ALICE, 2))["type"] == "ACK"


def test_a_wallets_first_identity_leaves_nobody_behind(server: ChatServer) -> None:
    alice = Registrant(server, "phone", "laptop")
    with server.peer(alice.id, query="?device=laptop") as laptop:
        alice.publish_identity()
        assert alice.publish_device("phone").status_code == 201
        assert laptop.silent()
        with server.peer(alice.id, query="?device=laptop") as another:
            assert another.silent()


def test_a_revocation_needs_its_signatures_and_a_certificate_in_the_directory(
    server: ChatServer,
) -> None:
    alice = Registrant(server, "phone", "laptop")
    alice.publish_identity()
    alice.publish_device("phone")
    alice.revoke("laptop")
    assert_refused(alice.publish_revocation(), 403, "unknown_device")
    alice.revoke("phone")
    sound = alice.revocations[-1]
    for defect in (
        replace(sound, wallet_signature=alice.certificates[0].wallet_signature),
        replace(sound, identity_signature=bytes(3309)),
    ):
        answer = alice.call("POST", "/revocations", revocation=defect.encode())
        assert_refused(answer, 422, "bad_signature")
    body = replace(sound.body, certificate=bytes(32))
    of_no_certificate = Revocation(
        body,
        alice.wallet.sign(body.text),
        alice.post_quantum.sign(labels.DEVICE_REVOCATION, body.encoded),
    )
    answer = alice.call("POST", "/revocations", revocation=of_no_certificate.encode())
    assert_refused(answer, 403, "unknown_device")
    assert listing(server, alice.id)["revocations"] == []
    assert alice.publish_revocation().status_code == 201
    listed = listing(server, alice.id)
    assert [base64.b64decode(one) for one in listed["revocations"]] == [sound.encode()]
    assert roster_of(listed).active == ()


def test_a_device_that_says_no_name_is_refused_at_the_socket(server: ChatServer) -> None:
    with server.peer(ALICE, query="?device=a%20b", greeted=False) as peer:
        frames, code = peer.closed(at_once=True)
    assert ([(one["code"], one["field"]) for one in frames], code) == (
        [("invalid_message", "device")],
        1008,
    )


def test_a_start_without_the_statements_that_the_ledger_has_says_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with chat_server(tmp_path) as server:
        alice = Registrant(server, "phone", "laptop").register()
    with chat_server(tmp_path):
        assert "directory.statements_missing" not in caplog.text
    for file in tmp_path.glob("mailbox.sqlite*"):
        file.unlink()
    with chat_server(tmp_path) as server:
        assert "directory.statements_missing count=3" in caplog.text
        assert len(listing(server, alice.id)["missing"]) == 3


# -- signatures of messages -----------------------------------------------------------------------


def test_a_registered_wallets_messages_are_taken_only_when_a_device_in_force_signed_them(
    server: ChatServer,
) -> None:
    alice = Registrant(server, "phone", "laptop").register()
    unsigned = alice.signed("phone", ALICE, 2)
    del unsigned["signature"]
    other_use = alice.devices["phone"].keys.sign(b"atlas/secure-chat/v2/one-time-prekey", b"")[0]
    laptops = alice.signed("laptop", ALICE, 2)
    sound = alice.signed("phone", ALICE, 2, cids=("bafkrei" + "a" * 52,), ts=-0.0)
    defects = {
        "unsigned": (unsigned, "bad_signature"),
        "of another use": (
            {**sound, "signature": base64.b64encode(other_use).decode()},
            "bad_signature",
        ),
        "of another device": ({**laptops, "device": "phone"}, "bad_signature"),
        "of another seq": (
            {**message(ALICE, 2), "device": "phone", "signature": sound["signature"]},
            "bad_signature",
        ),
        "another ts": ({**sound, "ts": 1}, "bad_signature"),
        "another recipient": ({**sound, "recipient": "bob"}, "bad_signature"),
        "fewer cids": ({k: v for k, v in sound.items() if k != "cids"}, "bad_signature"),
        "no such device": ({**sound, "device": "desk"}, "unknown_device"),
    }
    logged = len(server.records())
    with server.peer(alice.id) as peer:
        for name, (frame, code) in defects.items():
            assert peer.ask(frame)["code"] == code, name
        assert len(server.records()) == logged
        assert peer.ask(sound)["position"] == logged + 1
    assert server.records()[-1]["signature"] == sound["signature"]


def test_a_wallet_without_devices_may_write_unsigned_until_it_registers_one(
    server: ChatServer,
) -> None:
    alice = Registrant(server, "phone")
    with server.peer(alice.id) as peer:
        assert peer.ask(message(ALICE, 1))["type"] == "ACK"
        alice.register()
        assert peer.ask(message(ALICE, 2))["code"] == "unknown_device"
        assert peer.ask({**message(ALICE, 2), "device": "phone"})["code"] == "bad_signature"
        # Revoking the last device does not open the door again.
        alice.revoke("phone")
        alice.publish_revocation()
        assert peer.ask(message(ALICE, 2))["code"] == "unknown_device"


def test_signatures_can_be_required_of_every_wallet(tmp_path: Path) -> None:
    with chat_server(tmp_path, require_signatures=True) as strict:
        assert_refused(strict.post(ALICE, message("bob", 1)), 403, "unknown_device")
        bob = Registrant(strict, "phone").register()
        assert strict.post(bob.id, bob.signed("phone", ALICE, 1)).status_code == 201


def test_verdicts_come_back_in_the_order_of_arrival(server: ChatServer) -> None:
    """A window of messages, good and bad ones mixed, some checked in other threads."""
    alice = Registrant(server, "phone").register()
    bad = {**alice.signed("phone", ALICE, 1), "ts": 99}
    with server.peer(alice.id) as peer:
        expected = []
        for seq in range(1, 201):
            if seq % 5 == 0:
                peer.send({**bad, **message(ALICE, seq), "signature": bad["signature"]})
                expected.append(("ERROR", seq))
            else:
                peer.send(alice.signed("phone", ALICE, seq))
                expected.append(("ACK", seq))
        answers = [peer.receive() for _ in expected]
    for kind in ("ACK", "ERROR"):
        told = [one["seq"] for one in answers if one["type"] == kind]
        assert told == [seq for was, seq in expected if was == kind]
    positions = [one["position"] for one in answers if one["type"] == "ACK"]
    assert positions == sorted(positions)


# -- prekeys --------------------------------------------------------------------------------------


def bundles(answer: httpx.Response) -> dict[str, Bundle]:
    assert answer.status_code == 200, answer.text
    return {
        one["device"]: Bundle.decode(base64.b64decode(one["bundle"]))
        for one in answer.json()["bundles"]
    }


def test_a_claim_gives_each_one_time_prekey_once_and_then_the_last_resort(
    server: ChatServer,
) -> None:
    alice = Registrant(server, "phone", one_time=3).register()
    bob = Registrant(server)
    found = [bundles(bob.claim(alice.id, ["phone"]))["phone"] for _ in range(5)]
    for bundle in found:
        bundle.verify(alice.certificates[0])  # both signatures, and a KEM prekey in any case
    kems = [bundle.kem for bundle in found if bundle.kem is not None]
    assert [kem.kind for kem in kems] == [Kind.ONE_TIME_KEM] * 3 + [Kind.LAST_RESORT_KEM] * 2
    assert len({kem.id for kem in kems[:3]}) == 3
    one_time = [bundle.one_time.id for bundle in found if bundle.one_time is not None]
    assert len(set(one_time)) == len(one_time) == 3
    stock = alice.call("GET", "/devices/phone/prekeys").json()
    assert stock == {"one_time": 0, "one_time_kem": 0}


@pytest.mark.parametrize("kind", ["one_time", "one_time_kem"])
def test_a_wallet_is_told_when_a_claim_leaves_few_prekeys(server: ChatServer, kind: str) -> None:
    alice = Registrant(server, "phone", one_time=30)
    alice.publish_identity()
    alice.publish_device("phone")
    whole = alice.publications[alice.certificates[0].id]
    few = replace(whole, **{kind: getattr(whole, kind)[:21]}).encode()
    published = alice.call("PUT", "/devices/phone/prekeys", publication=few)
    assert published.json() == {"one_time": 30, "one_time_kem": 30, kind: 21}
    bob = Registrant(server)
    with server.peer(alice.id) as peer:
        bob.claim(alice.id, ["phone"])
        assert peer.silent()
        bob.claim(alice.id, ["phone"])
        peer.send({"type": "PING"})
        assert peer.until("PONG")[:-1] == [
            {"type": "PREKEYS_LOW", "device": "phone", "one_time": 28, "one_time_kem": 28, kind: 19}
        ]


def test_what_the_directory_does_is_counted(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        alice = Registrant(server, "phone", one_time=1).register()
        bob = Registrant(server)
        for _ in range(3):
            bob.claim(alice.id, ["phone"])
        server.post(alice.id, alice.signed("phone", ALICE, 1))
        server.post(alice.id, {**alice.signed("phone", ALICE, 2), "ts": 9})
        text = server.http.get("/metrics").text
    for line in (
        'secure_chat_directory_statements_total{kind="identity"} 1.0',
        'secure_chat_directory_statements_total{kind="device"} 1.0',
        'secure_chat_directory_statements_total{kind="prekeys"} 1.0',
        'secure_chat_prekey_claims_total{kem="one_time"} 1.0',
        'secure_chat_prekey_claims_total{kem="last_resort"} 2.0',
        'secure_chat_signatures_total{verdict="good"} 1.0',
        'secure_chat_signatures_total{verdict="bad"} 1.0',
    ):
        assert line in text


def test_claims_are_limited_by_claimer_and_by_target(tmp_path: Path) -> None:
    with chat_server(tmp_path, claim_burst=64, claims_per_second=1e-3) as server:
        alice, carol = (Registrant(server, "a", "b", one_time=1).register() for _ in "ac")
        bob, dave = (Registrant(server, "a", one_time=1).register() for _ in "bd")
        for _ in range(32):
            assert bob.claim(alice.id, ["a", "b"]).status_code == 200
        limited = bob.claim(carol.id, ["a"])
        assert_refused(limited, 429, "rate_limited")
        assert int(limited.headers["retry-after"]) > 0
        assert_refused(dave.claim(alice.id, ["a"]), 429, "rate_limited")
        assert dave.claim(carol.id, ["a"]).status_code == 200


def test_publishing_is_limited(tmp_path: Path) -> None:
    """Statements of every kind, and of prekeys also their number, have one budget a wallet."""
    with chat_server(tmp_path, statement_burst=21, statements_per_second=1e-3) as server:
        alice = Registrant(server, "phone", one_time=5)
        publish: dict[str, Callable[[], httpx.Response]] = {
            "identity": alice.publish_identity,
            "device": lambda: alice.publish_device("phone"),
            "prekeys": lambda: alice.publish_prekeys("phone"),
            "revocation": alice.publish_revocation,
        }
        # One each for the first two; one for the publication, and one for its ten prekeys.
        for kind in ("identity", "device", "prekeys"):
            assert publish[kind]().status_code in (200, 201), kind
        alice.revoke("phone")
        for _ in range(17):
            assert publish["revocation"]().status_code in (200, 201)
        for kind in publish:
            assert_refused(publish[kind](), 429, "rate_limited")
        bob = Registrant(server, "phone")
        assert bob.publish_identity().status_code == 201


def test_a_publication_costs_by_its_prekeys(tmp_path: Path) -> None:
    """A statement each for the identity, the device, the publication and ten of its prekeys."""
    with chat_server(tmp_path, statement_burst=21, statements_per_second=1e-3) as server:
        alice = Registrant(server, "phone", one_time=90).register()
        assert_refused(alice.publish_identity(), 429, "rate_limited")


NAMES = [f"device-{number}" for number in range(65)]


@pytest.mark.parametrize("devices", [[], ["a", "a"], NAMES, ["a b"], "a", [1], None])
def test_a_claim_names_its_devices(server: ChatServer, devices: Any) -> None:
    bob = Registrant(server)
    answer = bob.call("POST", f"/identities/{ALICE}/claim", devices=devices)
    assert_refused(answer, 422, "invalid_message", field="devices")


def test_a_claim_of_a_device_not_in_force_says_so_and_takes_nothing(server: ChatServer) -> None:
    alice = Registrant(server, "phone").register()
    bob = Registrant(server)
    for names in (["phone", "ghost"], NAMES[:64]):
        assert_refused(bob.claim(alice.id, names), 403, "unknown_device")
    stock = alice.call("GET", "/devices/phone/prekeys").json()
    assert stock == {"one_time": 3, "one_time_kem": 3}
    alice.revoke("phone")
    alice.publish_revocation()
    assert_refused(bob.claim(alice.id, ["phone"]), 403, "unknown_device")


def test_a_device_that_published_no_prekeys_has_no_bundle(server: ChatServer) -> None:
    alice = Registrant(server, "phone", "laptop")
    alice.publish_identity()
    alice.publish_device("phone")
    alice.publish_device("laptop")
    alice.publish_prekeys("laptop")
    assert set(bundles(Registrant(server).claim(alice.id, ["phone", "laptop"]))) == {"laptop"}


def _publication(person: Registrant, **changes: Any) -> bytes:
    publication = next(iter(person.publications.values()))
    return replace(publication, **changes).encode()


PUBLICATION_DEFECTS: dict[str, tuple[Callable[[Registrant], bytes], str]] = {
    "a one-time prekey signed by nobody": (
        lambda a: _publication(
            a,
            one_time=tuple(replace(one, signature=bytes(64)) for one in _of(a).one_time),
        ),
        "bad_signature",
    ),
    "a signed prekey without its post-quantum signature": (
        lambda a: _publication(
            a, signed=replace(_of(a).signed, post_quantum_signature=bytes(3309))
        ),
        "bad_signature",
    ),
    "a last-resort KEM prekey without its post-quantum signature": (
        lambda a: _publication(
            a, last_resort=replace(_of(a).last_resort, post_quantum_signature=bytes(3309))
        ),
        "bad_signature",
    ),
    "no last-resort KEM prekey": (
        lambda a: _publication(a, last_resort=_of(a).signed),
        "invalid_message",
    ),
    "a one-time KEM prekey as the last resort": (
        lambda a: _publication(a, last_resort=_of(a).one_time_kem[0]),
        "invalid_message",
    ),
    "another certificate's": (
        lambda a: _publication(Registrant(a.server, "phone")),
        "invalid_message",
    ),
    "cut short": (lambda a: _publication(a)[:-1], "invalid_message"),
}


def _of(person: Registrant) -> Publication:
    return next(iter(person.publications.values()))


@pytest.mark.parametrize(("make", "code"), PUBLICATION_DEFECTS.values(), ids=PUBLICATION_DEFECTS)
def test_prekeys_without_every_signature_or_without_a_kem_key_are_refused(
    server: ChatServer, make: Callable[[Registrant], bytes], code: str
) -> None:
    alice = Registrant(server, "phone")
    alice.publish_identity()
    alice.publish_device("phone")
    answer = alice.call("PUT", "/devices/phone/prekeys", publication=make(alice))
    assert_refused(answer, 422, code)
    stock = alice.call("GET", "/devices/phone/prekeys").json()
    assert stock == {"one_time": 0, "one_time_kem": 0}
    assert bundles(Registrant(server).claim(alice.id, ["phone"])) == {}


def test_prekeys_are_published_to_an_own_device_in_force(server: ChatServer) -> None:
    alice = Registrant(server, "phone").register()
    bob = Registrant(server, "phone")
    assert_refused(bob.publish_prekeys("phone"), 403, "unknown_device")
    assert_refused(bob.call("GET", "/devices/phone/prekeys"), 403, "unknown_device")
    alice.revoke("phone")
    alice.publish_revocation()
    assert_refused(alice.publish_prekeys("phone"), 403, "unknown_device")


# -- shapes ---------------------------------------------------------------------------------------

ROUTES = [
    ("PUT", "/identity", "identity"),
    ("POST", "/devices", "certificate"),
    ("POST", "/revocations", "revocation"),
    ("PUT", "/devices/phone/prekeys", "publication"),
]


@pytest.mark.parametrize(("method", "path", "field"), ROUTES)
def test_a_body_that_is_not_of_its_shape_is_refused(
    server: ChatServer, method: str, path: str, field: str
) -> None:
    alice = Registrant(server)

    def send(content: bytes) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(alice.id)}"}
        return server.http.request(method, f"/v1/chat{path}", headers=headers, content=content)

    assert_refused(send(b""), 400, "malformed_frame")
    assert_refused(send(b"[]"), 400, "malformed_frame")
    assert_refused(send(b'{"a":'), 400, "malformed_frame")
    assert_refused(send(b'{"%s":"","%s":""}' % ((field.encode(),) * 2)), 400, "malformed_frame")
    assert_refused(send(b"{}"), 422, "invalid_message", field=field)
    assert_refused(send(b'{"%s":1}' % field.encode()), 422, "invalid_message", field=field)
    assert_refused(send(b'{"%s":"AA="}' % field.encode()), 422, "invalid_message", field=field)
    assert_refused(send(b'{"%s":"AAAA","more":1}' % field.encode()), 422, "invalid_message")
    assert_refused(
        send(b'{"%s":"%s"}' % (field.encode(), b"A" * 640_000)), 413, "message_too_large"
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path) for method, path, _ in ROUTES),
        ("GET", "/devices/phone/prekeys"),
        ("GET", f"/identities/{ALICE}"),
        ("POST", f"/identities/{ALICE}/claim"),
    ],
)
def test_nothing_in_the_directory_is_for_those_who_are_not_logged_in(
    server: ChatServer, method: str, path: str
) -> None:
    assert_refused(server.http.request(method, f"/v1/chat{path}"), 401, "unauthorized")

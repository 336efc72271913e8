"""Keys that change, devices that appear, devices that go (A7, A9)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from plugins.secure_chat.crypto import labels, roster, safety
from plugins.secure_chat.crypto.devices import (
    DeviceKeys,
    Revocation,
    describe,
    revocation_body,
)
from plugins.secure_chat.crypto.errors import (
    BadClassicalSignature,
    BadPostQuantumSignature,
    BadWalletSignature,
    DecryptError,
    DeviceRevoked,
    IdentityChanged,
    NotAddressed,
    NotCertified,
    PostQuantumMissing,
    Refused,
    Replayed,
)
from plugins.secure_chat.crypto.identity import (
    IdentityBody,
    PostQuantumKey,
    Succession,
    succession,
    vouch,
)
from tests.unit.crypto.people import Directory, Person, acquaint, connect, pair


def test_a_swapped_identity_stops_sending_and_changes_the_safety_number() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    number = safety.safety_number(alice.identity, bob.identity)
    assert number == safety.safety_number(bob.identity, alice.identity)
    assert len(number) == 60
    assert number.isdigit()
    bob.renew(bless=False)
    assert alice["a"].learn(bob.roster) is Succession.RESET
    assert safety.safety_number(alice.identity, bob.identity) != number
    with pytest.raises(IdentityChanged):
        alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    with pytest.raises(IdentityChanged):
        alice["a"].missing_sessions([bob.roster])
    alice["a"].accept(bob.roster)
    assert alice["a"].learn(bob.roster) is Succession.SAME
    assert alice["a"].missing_sessions([bob.roster])


def test_nothing_from_a_swapped_identity_is_shown() -> None:
    alice, bob, directory = pair()
    connect(bob["b"], [alice], directory)
    frame = bob["b"].seal(alice.id, [alice.roster], b"x", 1.0)
    bob.renew(bless=False)
    alice["a"].learn(bob.roster)
    with pytest.raises(IdentityChanged):
        alice["a"].open(frame, bob.roster)


def test_a_rotation_that_the_old_key_blessed_is_followed_through_every_step() -> None:
    alice, bob, _ = pair()
    first = bob.renew(bless=True)
    assert alice["a"].learn(bob.roster, [first]) is Succession.ROTATED
    second = bob.renew(bless=True)
    third = bob.renew(bless=True)
    assert alice["a"].learn(bob.roster) is Succession.RESET
    assert alice["a"].learn(bob.roster, [second, third]) is Succession.ROTATED
    # Back to an old one, by a server that plays dumb.
    bob.identity, bob.certificates = first, []
    assert alice["a"].learn(roster.verify(first, []), [first, second]) is Succession.RESET


def test_after_a_rotation_a_device_goes_on_under_its_new_certificate() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    bob["b"].open(alice["a"].seal(bob.id, [bob.roster], b"1", 1.0), alice.roster)
    before = bob.renew(bless=True)
    with pytest.raises(NotCertified):
        bob["b"].recertify(alice.roster)
    bob["b"].recertify(bob.roster)
    assert bob["b"].missing_sessions([alice.roster]), "they end with the certificate"
    directory.publish(bob["b"].publish_prekeys(1, rotate=True))
    bob.devices["b"].restart()
    alice["a"].learn(bob.roster, [before])
    assert [one.id for one in alice["a"].missing_sessions([bob.roster])] == [
        bob["b"].certificate.id
    ]
    connect(alice["a"], [bob], directory)
    frame = alice["a"].seal(bob.id, [bob.roster], b"2", 1.0)
    opened = bob["b"].open(frame, alice.roster)
    assert (opened.content, opened.continuity.value) == (b"2", "continuous")
    reply = bob["b"].seal(alice.id, [alice.roster], b"3", 1.0)
    assert alice["a"].open(reply, bob.roster).content == b"3"


def rotate(bob: Person, directory: Directory) -> None:
    """Bob rotates his identity, and his device goes on; Alice does not know yet."""
    bob.renew(bless=True)
    bob["b"].recertify(bob.roster)
    directory.publish(bob["b"].publish_prekeys(1, rotate=True))


def test_what_was_sealed_for_the_certificate_before_opens_and_nothing_is_sealed_for_it() -> None:
    """C34: who writes to a device cannot know yet that it has another certificate."""
    alice, bob, directory = pair()
    before = bob.roster
    connect(alice["a"], [bob], directory)
    to_bob = [alice["a"].seal(bob.id, [before], b"%d" % n, 1.0) for n in range(3)]
    bob["b"].open(to_bob[0], alice.roster)
    carol = Person(directory, "c")
    acquaint(carol, bob)
    bob["b"].learn(carol.roster)
    connect(carol["c"], [bob], directory)
    opening = carol["c"].seal(bob.id, [before], b"a session of its own", 1.0)
    rotate(bob, directory)
    bob.devices["b"].restart()
    assert bob["b"].missing_sessions([alice.roster]), "a session ends with its certificate"
    for frame in to_bob[1:]:
        assert bob["b"].open(frame, alice.roster).continuity.value == "continuous"
    assert bob["b"].open(opening, carol.roster).opened_session
    with pytest.raises(Replayed):
        bob["b"].open(opening, carol.roster)
    assert bob["b"].missing_sessions([alice.roster, carol.roster])
    # One certificate back, and no further.
    late = alice["a"].seal(bob.id, [before], b"late", 1.0)
    rotate(bob, directory)
    with pytest.raises(NotAddressed):
        bob["b"].open(late, alice.roster)


def test_what_a_device_sealed_under_its_certificate_before_opens_in_the_session_it_had() -> None:
    """C34: what is in the ledger when an identity rotates is opened by who comes later."""
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    bob["b"].open(alice["a"].seal(bob.id, [bob.roster], b"1", 1.0), alice.roster)
    sealed = [bob["b"].seal(alice.id, [alice.roster], b"%d" % n, 1.0) for n in range(3)]
    assert alice["a"].open(sealed[0], bob.roster).content == b"0"
    before = bob.identity
    rotate(bob, directory)
    alice.devices["a"].restart()
    assert alice["a"].learn(bob.roster, [before]) is Succession.ROTATED
    assert alice["a"].open(sealed[1], bob.roster).content == b"1"
    connect(alice["a"], [bob], directory)
    reply = alice["a"].seal(bob.id, [bob.roster], b"by the new one", 1.0)
    assert bob["b"].open(reply, alice.roster).content == b"by the new one"
    assert alice["a"].open(sealed[2], bob.roster).content == b"2"


def test_a_device_that_begins_again_forgets_its_certificate_before() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    bob["b"].open(frame, alice.roster)
    late = alice["a"].seal(bob.id, [bob.roster], b"late", 1.0)
    rotate(bob, directory)
    device = bob.devices["b"]
    device.witness.generation += 2
    device.restart()
    bob["b"].begin_again()
    with pytest.raises(DecryptError):
        bob["b"].open(late, alice.roster)


def test_a_device_is_certified_by_its_own_keys_and_once() -> None:
    alice, bob, _ = pair()
    with pytest.raises(NotCertified, match="other keys"):
        bob["b"].prove(alice["a"].certificate)
    with pytest.raises(Refused, match="already"):
        bob["b"].recertify(bob.roster)


def test_a_statement_is_not_vouched_for_by_another_key_than_it_names() -> None:
    _, bob, _ = pair()
    body = bob.identity.body
    with pytest.raises(PostQuantumMissing):
        vouch(body, bob.identity.wallet_signature, PostQuantumKey(os.urandom(32)))


def test_a_blessed_statement_that_skips_a_generation_is_a_reset() -> None:
    _, bob, _ = pair()
    for generation, expected in ((1, Succession.ROTATED), (2, Succession.RESET)):
        key = PostQuantumKey(os.urandom(32))
        body = IdentityBody(bob.id, generation, bob.identity.id, key.public)
        new = vouch(body, bob.wallet.sign(body.text), key, bob.post_quantum)
        new.verify()
        assert succession(bob.identity, new) is expected


def test_a_history_with_a_reset_in_it_is_a_reset() -> None:
    alice, bob, _ = pair()
    first = bob.renew(bless=False)
    second = bob.renew(bless=True)
    assert alice["a"].learn(bob.roster, [first, second]) is Succession.RESET


def test_a_history_that_the_wallet_did_not_sign_is_refused() -> None:
    """The old post-quantum key alone, stolen, rotates nothing."""
    alice, bob, _ = pair()
    first = bob.renew(bless=True)
    second = bob.renew(bless=True)
    thief = Person(Directory(), "t")
    forged = replace(second, wallet_signature=thief.wallet.sign(second.body.text))
    with pytest.raises(BadWalletSignature):
        alice["a"].learn(bob.roster, [first, forged])
    assert alice["a"].pinned(bob.id) == first.id


def test_a_device_endorses_none_of_another_identity_or_by_another_certificate() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a", "desk"), Person(directory, "b")
    honest = describe(alice.identity, "new", DeviceKeys.generate(os.urandom), alice.certificates[0])
    for change in (
        {"wallet": bob.id},
        {"identity": bob.identity.id},
        {"endorser": alice.certificates[1].id},
        {"endorser": bytes(32)},
    ):
        with pytest.raises(Refused):
            alice["a"].endorse(replace(honest, **change))
    alice["a"].endorse(honest)


def test_no_session_is_opened_with_a_revoked_device() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1", "b2")
    acquaint(alice, bob)
    before, bundle = bob.roster, directory.claim(bob.certificates[1].id)
    bob.revoke("b2")
    alice["a"].learn(bob.roster)
    for shown in (bob.roster, before):
        with pytest.raises(NotCertified):
            alice["a"].establish(shown, bundle, 1)


def test_a_ghost_device_refuses_the_roster() -> None:
    """The server has no wallet key; a certificate it makes up fails, whatever it copies."""
    _, bob, _ = pair()
    ghost_keys = DeviceKeys.generate(os.urandom)
    honest = bob.certificate("ghost", ghost_keys)
    thief = Person(Directory(), "t")
    body = honest.body
    forged = replace(honest, wallet_signature=thief.wallet.sign(body.text))
    with pytest.raises(BadWalletSignature):
        roster.verify(bob.identity, [*bob.certificates, forged])
    forged = replace(honest, identity_signature=thief.post_quantum.sign(b"x", body.encoded))
    with pytest.raises(BadPostQuantumSignature):
        roster.verify(bob.identity, [*bob.certificates, forged])
    # Even with wallet and post-quantum key: not without a device that was there before.
    alone = bob.certificate("ghost", ghost_keys, endorse=False)
    with pytest.raises(NotCertified):
        roster.verify(bob.identity, [*bob.certificates, alone])
    self_endorsed = replace(honest, endorsement=ghost_keys.sign(b"x", body.encoded))
    with pytest.raises(Exception, match="signature"):
        roster.verify(bob.identity, [*bob.certificates, self_endorsed])
    assert len(roster.verify(bob.identity, [*bob.certificates, honest]).active) == 2


def test_a_device_of_someone_else_is_no_device_of_mine() -> None:
    alice, bob, _ = pair()
    with pytest.raises(NotCertified):
        roster.verify(bob.identity, [*bob.certificates, *alice.certificates])


def test_a_revoked_device_is_neither_encrypted_to_nor_believed_though_the_server_forgets() -> None:
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b1", "b2")
    acquaint(alice, bob)
    connect(alice["a"], [bob], directory)
    connect(bob["b2"], [alice], directory)
    before = bob.roster
    frame = bob["b2"].seal(alice.id, [alice.roster], b"x", 1.0)
    bob.revoke("b2")
    alice["a"].learn(bob.roster)
    for shown in (bob.roster, before):
        assert [one.device for one in alice["a"].active(shown)] == ["b1"]
        with pytest.raises(DeviceRevoked):
            alice["a"].open(frame, shown)
    assert alice["a"].open(frame, before, revoked_too=True).content == b"x"
    for look in (alice["a"].learn, alice["a"].accept):
        look(before)
        assert [one.device for one in alice["a"].active(before)] == ["b1"]


def test_a_roster_gives_a_revoked_device_only_to_who_asks_for_it_too() -> None:
    bob = Person(Directory(), "b1", "b2")
    bob.revoke("b2")
    assert bob.roster.device("b1") == bob.certificates[0]
    with pytest.raises(DeviceRevoked):
        bob.roster.device("b2")
    assert bob.roster.device("b2", revoked_too=True) == bob.certificates[1]
    with pytest.raises(NotCertified):
        bob.roster.device("b3", revoked_too=True)


def test_a_frame_is_not_opened_with_the_roster_of_another_wallet() -> None:
    """Mallory, whom Alice knows, signs a frame that names Bob and Bob's device."""
    directory = Directory()
    alice, bob, mallory = (Person(directory, name) for name in ("a", "b", "b"))
    acquaint(alice, bob, mallory)
    connect(mallory["b"], [alice], directory)
    frame = mallory["b"].seal(alice.id, [alice.roster], b"I am Bob", 1.0)
    forged = replace(frame, sender=bob.id).signed(mallory.devices["b"].keys.signing)
    for shown, error in ((mallory.roster, NotCertified), (bob.roster, BadClassicalSignature)):
        with pytest.raises(error):
            alice["a"].open(forged, shown)
    assert alice["a"].open(frame, mallory.roster).sender == mallory.id


def test_a_revocation_that_names_another_identity_refuses_the_roster() -> None:
    _, bob, _ = pair()
    said = replace(revocation_body(bob.certificates[0]), identity=bytes(32))
    revocation = Revocation(
        said,
        bob.wallet.sign(said.text),
        bob.post_quantum.sign(labels.DEVICE_REVOCATION, said.encoded),
    )
    with pytest.raises(NotCertified):
        roster.verify(bob.identity, bob.certificates, [revocation])


def test_a_bundle_without_its_post_quantum_key_is_refused() -> None:
    alice, bob, directory = pair()
    bundle = directory.claim(bob.certificates[0].id)
    with pytest.raises(PostQuantumMissing):
        alice["a"].establish(bob.roster, replace(bundle, kem=None), 1)
    assert bundle.kem is not None
    stripped = replace(bundle, kem=replace(bundle.kem, post_quantum_signature=bytes(3309)))
    with pytest.raises(BadPostQuantumSignature):
        alice["a"].establish(bob.roster, stripped, 1)


def test_prekeys_of_another_device_are_refused() -> None:
    alice, bob, directory = pair()
    bundle = directory.claim(bob.certificates[0].id)
    with pytest.raises(NotCertified):
        alice["a"].establish(alice.roster, bundle, 1)
    with pytest.raises(NotCertified):
        bob["b"].publish_prekeys(1).verify(alice.certificates[0])

"""One wallet's directory under any order of publishing, revoking, restarts and losses.

Beside it runs a model that knows no bytes: which devices count. After each step the listing is
verified as a client verifies it, and a message of each device is taken or refused as the model
says.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugins.secure_chat.crypto import roster
from plugins.secure_chat.crypto.devices import Certificate, Revocation
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.errors import BadSignature, InvalidMessage, UnknownDevice
from tests.unit.crypto.people import Directory, Person
from tests.unit.directory.opened import Opened, lose_mailbox, opened
from tests.unit.directory.test_signatures import envelope

DEVICES = 3


class OneWallet(RuleBasedStateMachine):
    """``person`` is what the owner has; the fields below it are what should be in force."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.runner = asyncio.Runner()
        self.open: AbstractAsyncContextManager[Opened]
        self.chat: Opened
        self.start()
        self.person = Person(Directory(), one_time=0)
        self.published: list[Identity] = []
        self.certified: list[str] = []
        self.revoked: set[str] = set()
        self.registered = False
        self.seq = 0

    def run(self, work: Any) -> Any:
        async def now() -> Any:
            return await work

        return self.runner.run(now())

    def start(self) -> None:
        self.open = opened(self.path)
        self.chat = self.run(self.open.__aenter__())

    def stop(self) -> None:
        self.run(self.open.__aexit__(None, None, None))

    def teardown(self) -> None:
        self.stop()
        self.runner.close()
        self.folder.cleanup()

    @property
    def is_current(self) -> bool:
        """Whether the owner's identity is the one in force."""
        return bool(self.published) and self.published[-1].id == self.person.identity.id

    # -- the owner ----------------------------------------------------------------------------

    @rule()
    def publish_identity(self) -> None:
        new = not self.is_current
        accepted = self.run(
            self.chat.directory.publish_identity(self.person.id, self.person.identity.encode())
        )
        assert accepted.new is new
        if new:
            self.published.append(self.person.identity)
            self.certified, self.revoked = [], set()

    @precondition(lambda self: self.is_current)
    @rule(bless=st.booleans())
    def renew(self, bless: bool) -> None:
        """A new identity, rotated or reset, which is not published yet."""
        self.person.renew(bless=bless)

    @precondition(lambda self: len(self.person.devices) < DEVICES)
    @rule()
    def set_up_a_device(self) -> None:
        self.person.add(f"device{len(self.person.devices)}")

    @precondition(lambda self: self.person.devices)
    @rule(data=st.data())
    def publish_device(self, data: st.DataObject) -> None:
        certificate = data.draw(st.sampled_from(self.person.certificates))
        first = self.person.certificates[0]
        endorsed = first.device in self.certified and first.device not in self.revoked
        known = certificate.device in self.certified
        may = known or (endorsed if certificate.body.endorser != bytes(32) else not self.certified)
        outcome = self.attempt(
            self.chat.directory.publish_device(self.person.id, certificate.encode())
        )
        if not self.is_current or not may:
            assert isinstance(outcome, InvalidMessage)
            return
        assert outcome.new is not known
        if not known:
            self.certified.append(certificate.device)
            self.registered = True

    @precondition(lambda self: self.is_current and self.certified)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.certified))
        if name not in self.revoked:
            self.person.revoke(name)
        revocation = next(one for one in self.person.revocations if one.body.device == name)
        accepted = self.run(self.chat.directory.revoke(self.person.id, revocation.encode()))
        assert accepted.new is (name not in self.revoked)
        self.revoked.add(name)

    # -- somebody else, and the machine ---------------------------------------------------------

    @precondition(lambda self: len(self.published) > 1)
    @rule(data=st.data())
    def play_back_an_old_identity(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.published[:-1]))
        outcome = self.attempt(self.chat.directory.publish_identity(self.person.id, old.encode()))
        assert isinstance(outcome, InvalidMessage)

    @precondition(lambda self: self.is_current and self.certified)
    @rule()
    def add_a_ghost(self) -> None:
        """Who has the wallet and the identity's key, and no device of theirs."""
        keys = self.person.devices[self.certified[0]].keys
        ghost = self.person.certificate("ghost", keys, endorse=False)
        outcome = self.attempt(self.chat.directory.publish_device(self.person.id, ghost.encode()))
        assert isinstance(outcome, InvalidMessage)

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    @precondition(lambda self: self.is_current)
    @rule()
    def lose_the_mailbox(self) -> None:
        """And publish again what is in force, in the order in which it came."""
        self.stop()
        lose_mailbox(self.path)
        self.start()
        position = self.chat.journal.head.position
        assert self.listing().missing
        directory, wallet = self.chat.directory, self.person.id
        self.run(directory.publish_identity(wallet, self.person.identity.encode()))
        for name in self.certified:
            body = next(one for one in self.person.certificates if one.device == name).encode()
            self.run(directory.publish_device(wallet, body))
        for one in self.person.revocations:
            self.run(directory.revoke(wallet, one.encode()))
        assert self.chat.journal.head.position == position

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def what_is_listed_verifies_and_is_what_counts(self) -> None:
        listed = self.listing()
        if not self.published:
            assert (listed.identity, listed.certificates) == (None, [])
            return
        assert listed.identity == self.published[-1].encode()
        found = roster.verify(
            Identity.decode(listed.identity),
            [Certificate.decode(one) for one in listed.certificates],
            [Revocation.decode(one) for one in listed.revocations],
        )
        active = {one.device for one in found.active}
        assert active == set(self.certified) - self.revoked

    @invariant()
    def a_message_is_taken_from_devices_in_force_alone(self) -> None:
        for name in self.person.devices:
            self.seq += 1
            outcome = self.attempt(self.chat.service.send(envelope(self.person, name, self.seq)))
            if self.registered and (name not in self.certified or name in self.revoked):
                assert isinstance(outcome, UnknownDevice), name
            else:
                assert outcome.seq == self.seq

    @invariant()
    def nothing_is_taken_unsigned_from_a_registered_wallet(self) -> None:
        if not self.person.devices:
            return
        self.seq += 1
        name = next(iter(self.person.devices))
        forged = envelope(self.person, name, self.seq, sound=False)
        outcome = self.attempt(self.chat.service.send(forged))
        assert isinstance(outcome, BadSignature | UnknownDevice) is self.registered

    def listing(self) -> Any:
        return self.run(self.chat.directory.listing(self.person.id))

    def attempt(self, work: Any) -> Any:
        """What ``work`` gives, or how it is refused."""
        try:
            return self.run(work)
        except (InvalidMessage, BadSignature, UnknownDevice) as refusal:
            return refusal


TestOneWallet = OneWallet.TestCase
TestOneWallet.settings = settings(
    max_examples=8,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)

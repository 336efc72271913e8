"""People with wallets and devices, for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterable

from plugins.secure_chat.crypto import devices, identity, roster
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys, Revocation
from plugins.secure_chat.crypto.identity import Identity, IdentityBody, PostQuantumKey
from plugins.secure_chat.crypto.messenger import Messenger
from plugins.secure_chat.crypto.prekeys import Bundle, Prekey, Publication
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.crypto.store import SessionStore
from plugins.secure_chat.crypto.wallet import WalletKey

KEY = bytes(range(32))


class Storage:
    """One blob in memory."""

    def __init__(self) -> None:
        self.blob: bytes | None = None

    def read(self) -> bytes | None:
        return self.blob

    def write(self, blob: bytes) -> None:
        self.blob = blob


class Witness:
    """A generation in memory."""

    def __init__(self) -> None:
        self.generation = 0

    def read(self) -> int:
        return self.generation

    def advance(self, generation: int) -> None:
        self.generation = generation


class Device:
    """A device: its messenger, and what survives its process."""

    def __init__(self, person: Person, name: str, keys: DeviceKeys) -> None:
        self.name = name
        self.keys = keys
        self.storage, self.witness = Storage(), Witness()
        self.messenger = Messenger.create(self.store(), keys, person.roster, name, os.urandom)

    def store(self) -> SessionStore:
        return SessionStore(self.storage, self.witness, KEY, os.urandom)

    def restart(self) -> None:
        """A new process on what is on the disk."""
        self.messenger = Messenger(self.store(), os.urandom)


class Directory:
    """Hands out prekeys as a server should: one-time keys once, then the last resort."""

    def __init__(self) -> None:
        self.published: dict[bytes, Publication] = {}
        self.one_time: dict[bytes, list[Prekey]] = {}
        self.kem: dict[bytes, list[Prekey]] = {}

    def publish(self, publication: Publication) -> None:
        key = publication.certificate
        self.published[key] = publication
        self.one_time[key] = list(publication.one_time)
        self.kem[key] = list(publication.one_time_kem)

    def claim(self, certificate: bytes) -> Bundle:
        published = self.published[certificate]
        one_time, kem = self.one_time[certificate], self.kem[certificate]
        return Bundle(
            certificate,
            published.signed,
            kem.pop(0) if kem else published.last_resort,
            one_time.pop(0) if one_time else None,
        )


class Person:
    """A wallet, an identity, and devices that publish to ``directory``."""

    def __init__(
        self,
        directory: Directory,
        *names: str,
        one_time: int = 3,
        wallet: WalletKey | None = None,
    ) -> None:
        self.directory = directory
        self.one_time = one_time
        self.wallet = wallet or WalletKey(os.urandom(32))
        self.post_quantum = PostQuantumKey(os.urandom(32))
        self.identity = self._vouch(None, self.post_quantum)
        self.certificates: list[Certificate] = []
        self.revocations: list[Revocation] = []
        self.devices: dict[str, Device] = {}
        for name in names:
            self.add(name)

    def _vouch(
        self, before: Identity | None, key: PostQuantumKey, *, bless: bool = True
    ) -> Identity:
        body = IdentityBody(
            self.wallet.wallet,
            before.body.generation + 1 if before else 0,
            before.id if before else bytes(32),
            key.public,
        )
        blessing = self.post_quantum if before and bless else None
        return identity.vouch(body, self.wallet.sign(body.text), key, blessing)

    @property
    def id(self) -> str:
        return self.wallet.wallet

    @property
    def roster(self) -> Roster:
        return roster.verify(self.identity, self.certificates, self.revocations)

    def certificate(self, name: str, keys: DeviceKeys, *, endorse: bool = True) -> Certificate:
        """A certificate for ``keys``, endorsed by the first device."""
        first = self.certificates[0] if self.certificates and endorse else None
        body = devices.describe(self.identity, name, keys, first)
        endorser = self.devices[first.device].keys if first else None
        return devices.certify(body, self.wallet.sign(body.text), self.post_quantum, keys, endorser)

    def add(self, name: str) -> Device:
        keys = DeviceKeys.generate(os.urandom)
        self.certificates.append(self.certificate(name, keys))
        device = self.devices[name] = Device(self, name, keys)
        self.directory.publish(device.messenger.publish_prekeys(self.one_time))
        return device

    def revoke(self, name: str) -> None:
        certificate = next(one for one in self.certificates if one.device == name)
        text = devices.revocation_body(certificate).text
        self.revocations.append(
            devices.revoke(certificate, self.wallet.sign(text), self.post_quantum)
        )

    def renew(self, *, bless: bool) -> Identity:
        """A new post-quantum key, and new certificates for all devices."""
        key = PostQuantumKey(os.urandom(32))
        before = self.identity
        self.identity = self._vouch(before, key, bless=bless)
        self.post_quantum = key
        names, self.certificates, self.revocations = list(self.devices), [], []
        for name in names:
            self.certificates.append(self.certificate(name, self.devices[name].keys))
        return before

    def __getitem__(self, name: str) -> Messenger:
        return self.devices[name].messenger


def acquaint(*people: Person) -> None:
    """Everyone learns everyone's roster."""
    for one in people:
        for device in one.devices.values():
            for other in people:
                device.messenger.learn(other.roster)


def connect(
    sender: Messenger, people: Iterable[Person], directory: Directory, now: int = 1_000
) -> None:
    """Establish whatever session ``sender`` lacks."""
    for person in people:
        for certificate in sender.missing_sessions([person.roster]):
            sender.establish(person.roster, directory.claim(certificate.id), now)


def pair() -> tuple[Person, Person, Directory]:
    """Two people with one device each, who know each other."""
    directory = Directory()
    alice, bob = Person(directory, "a"), Person(directory, "b")
    acquaint(alice, bob)
    return alice, bob, directory

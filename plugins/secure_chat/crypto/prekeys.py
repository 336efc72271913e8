"""Prekeys: what a device leaves with the server so that others can write to it while it is away.

Four kinds, each under its own label. What is published (`Publication`), what is claimed for one
handshake (`Bundle`), and the secrets behind them. Handing out and counting is the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import SUITE, VERSION, Reader, u8, u16, u32
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys
from plugins.secure_chat.crypto.errors import DecodeError, NotCertified, PostQuantumMissing
from plugins.secure_chat.crypto.primitives import Randomness, labelled

MAX_ONE_TIME: Final = 100  # of each kind in one publication: 460 kB, a minute of a busy device


class Kind(IntEnum):
    """The kind's number on the wire."""

    SIGNED = 1
    LAST_RESORT_KEM = 2
    ONE_TIME = 3
    ONE_TIME_KEM = 4


LABELS: Final = {
    Kind.SIGNED: labels.SIGNED_PREKEY,
    Kind.LAST_RESORT_KEM: labels.LAST_RESORT_KEM_PREKEY,
    Kind.ONE_TIME: labels.ONE_TIME_PREKEY,
    Kind.ONE_TIME_KEM: labels.ONE_TIME_KEM_PREKEY,
}
KEM_KINDS: Final = (Kind.LAST_RESORT_KEM, Kind.ONE_TIME_KEM)


@dataclass(frozen=True, slots=True)
class PrekeySecret:
    """A prekey's secret: an X25519 private key (32 bytes) or an ML-KEM-768 seed (64 bytes)."""

    kind: Kind
    id: int
    secret: bytes

    def __repr__(self) -> str:
        return f"<PrekeySecret {self.kind.name} {self.id}>"

    @classmethod
    def generate(cls, kind: Kind, number: int, randomness: Randomness) -> PrekeySecret:
        size = primitives.MLKEM_SEED if kind in KEM_KINDS else primitives.KEY
        return cls(kind, number, randomness(size))

    @property
    def public(self) -> bytes:
        if self.kind in KEM_KINDS:
            return primitives.mlkem_public(self.secret)
        return primitives.x25519_public(self.secret)

    def publish(self, keys: DeviceKeys, certificate: bytes) -> Prekey:
        """The signed public half, tied to the device's certificate (its id)."""
        unsigned = Prekey(self.kind, self.id, self.public, b"", b"")
        label, body = LABELS[self.kind], unsigned.body(certificate)
        if self.kind is Kind.ONE_TIME:
            signature = primitives.ed25519_sign(keys.signing, labelled(label, body))
            return Prekey(self.kind, self.id, unsigned.key, signature, b"")
        return Prekey(self.kind, self.id, unsigned.key, *keys.sign(label, body))


@dataclass(frozen=True, slots=True)
class Prekey:
    """A public prekey and its signatures. A one-time X25519 prekey has no ML-DSA-65 signature: it
    adds secrecy to a handshake that is post-quantum authenticated without it."""

    kind: Kind
    id: int
    key: bytes
    signature: bytes
    post_quantum_signature: bytes

    def body(self, certificate: bytes) -> bytes:
        """What is signed, but for the label: certificate id, prekey id, key."""
        return certificate + u32(self.id) + self.key

    def encode(self) -> bytes:
        return b"".join(
            (u8(self.kind), u32(self.id), self.key, self.signature, self.post_quantum_signature)
        )

    @classmethod
    def read(cls, reader: Reader, *kinds: Kind) -> Prekey:
        """Take one prekey of one of ``kinds``."""
        number = reader.u8()
        if number not in kinds:
            raise DecodeError("not the kind of prekey that belongs here")
        kind = Kind(number)
        key_id = reader.u32()
        if key_id == 0:
            raise DecodeError("prekeys are numbered from 1")
        return cls(
            kind,
            key_id,
            reader.take(primitives.MLKEM_KEY if kind in KEM_KINDS else primitives.KEY),
            reader.take(primitives.ED25519_SIGNATURE),
            reader.take(primitives.MLDSA_SIGNATURE) if kind is not Kind.ONE_TIME else b"",
        )

    def verify(self, certificate: Certificate) -> None:
        """Raises BadClassicalSignature or BadPostQuantumSignature."""
        label = LABELS[self.kind]
        message = labelled(label, self.body(certificate.id))
        primitives.ed25519_verify(certificate.body.signing, self.signature, message)
        if self.kind is not Kind.ONE_TIME:
            primitives.mldsa_verify(
                certificate.body.post_quantum, self.post_quantum_signature, label, message
            )


@dataclass(frozen=True, slots=True)
class Publication:
    """What a device uploads: a signed prekey, a last-resort KEM prekey, and one-time prekeys."""

    certificate: bytes
    signed: Prekey
    last_resort: Prekey
    one_time: tuple[Prekey, ...]
    one_time_kem: tuple[Prekey, ...]

    def encode(self) -> bytes:
        parts = [u8(VERSION), u16(SUITE), self.certificate]
        parts += [self.signed.encode(), self.last_resort.encode()]
        for several in (self.one_time, self.one_time_kem):
            parts += [u16(len(several)), *(one.encode() for one in several)]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Publication:
        """Raises DecodeError. Nothing is verified yet."""
        reader = Reader(data)
        reader.version()
        reader.suite()
        publication = cls(
            reader.take(32),
            Prekey.read(reader, Kind.SIGNED),
            Prekey.read(reader, Kind.LAST_RESORT_KEM),
            _several(reader, Kind.ONE_TIME),
            _several(reader, Kind.ONE_TIME_KEM),
        )
        reader.end()
        return publication

    def verify(self, certificate: Certificate) -> None:
        """Check every signature: the proof that the device itself publishes these keys.

        Raises NotCertified, BadClassicalSignature or BadPostQuantumSignature.
        """
        if self.certificate != certificate.id:
            raise NotCertified("the prekeys are of another certificate")
        for prekey in (self.signed, self.last_resort, *self.one_time, *self.one_time_kem):
            prekey.verify(certificate)


def _several(reader: Reader, kind: Kind) -> tuple[Prekey, ...]:
    count = reader.u16()
    if count > MAX_ONE_TIME:
        raise DecodeError(f"more than {MAX_ONE_TIME} one-time prekeys of a kind")
    prekeys = tuple(Prekey.read(reader, kind) for _ in range(count))
    if any(one.id >= other.id for one, other in pairwise(prekeys)):
        raise DecodeError("one-time prekeys are not in ascending order of their ids")
    return prekeys


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is claimed for one handshake: the signed prekey, one KEM prekey (one-time while the
    stock lasts, else the last resort), and a one-time X25519 prekey if there is one left."""

    certificate: bytes
    signed: Prekey
    kem: Prekey | None
    one_time: Prekey | None

    def encode(self) -> bytes:
        parts = [u8(VERSION), u16(SUITE), self.certificate, self.signed.encode()]
        for one in (self.kem, self.one_time):
            parts += [u8(one is not None), one.encode() if one is not None else b""]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Raises DecodeError. Nothing is verified yet; a missing KEM prekey shows in ``verify``."""
        reader = Reader(data)
        reader.version()
        reader.suite()
        bundle = cls(
            reader.take(32),
            Prekey.read(reader, Kind.SIGNED),
            Prekey.read(reader, *KEM_KINDS) if reader.flag() else None,
            Prekey.read(reader, Kind.ONE_TIME) if reader.flag() else None,
        )
        reader.end()
        return bundle

    def verify(self, certificate: Certificate) -> Prekey:
        """Check the bundle against the (verified) certificate; return its KEM prekey.

        Raises NotCertified, PostQuantumMissing, BadClassicalSignature, BadPostQuantumSignature.
        """
        if self.certificate != certificate.id:
            raise NotCertified("the bundle is of another certificate")
        if self.kem is None:
            raise PostQuantumMissing("the bundle has no KEM prekey")
        self.signed.verify(certificate)
        self.kem.verify(certificate)
        if self.one_time is not None:
            self.one_time.verify(certificate)
        return self.kem

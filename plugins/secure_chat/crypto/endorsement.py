"""Endorsement: the two messages by which a further device comes to an identity.

The new device makes a ``Request``, the one that has the identity's key an ``Answer``; what the two
make whole is a certificate (SPEC-crypto, "Enrolling a further device"). Carrying them, asking the
wallet and keeping the keys are the client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.crypto import primitives, roster
from plugins.secure_chat.crypto.codec import VERSION, Reader, b32, identifier, u8, wallet_bytes
from plugins.secure_chat.crypto.devices import Certificate, CertificateBody
from plugins.secure_chat.crypto.errors import NotCertified
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.roster import Roster

MAX_PART: Final = 1 << 14  # of an answer; a certificate has 12 kB


@dataclass(frozen=True, slots=True)
class Request:
    """What a new device tells of itself: nothing secret, and nothing that proves anything yet."""

    wallet: str
    device: str
    signing: bytes
    agreement: bytes
    post_quantum: bytes

    def encode(self) -> bytes:
        return b"".join(
            (
                u8(VERSION),
                wallet_bytes(self.wallet),
                identifier(self.device),
                self.signing,
                self.agreement,
                self.post_quantum,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Raises DecodeError."""
        reader = Reader(data)
        reader.version()
        request = cls(
            wallet=reader.wallet(),
            device=reader.identifier(),
            signing=reader.take(primitives.KEY),
            agreement=reader.take(primitives.KEY),
            post_quantum=reader.take(primitives.MLDSA_KEY),
        )
        reader.end()
        return request

    def body(self, statement: Identity, endorser: Certificate) -> CertificateBody:
        """What is certified. Raises NotCertified when the identity is another wallet's."""
        if statement.wallet != self.wallet:
            raise NotCertified("the request and the identity are of two wallets")
        return CertificateBody(
            wallet=self.wallet,
            identity=statement.id,
            device=self.device,
            signing=self.signing,
            agreement=self.agreement,
            post_quantum=self.post_quantum,
            endorser=endorser.id,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """An identity's and one of its devices' word for another device. ``endorsement`` is (Ed25519,
    ML-DSA-65) of ``endorser``."""

    statement: Identity
    endorser: Certificate
    identity_signature: bytes
    endorsement: tuple[bytes, bytes]

    def encode(self) -> bytes:
        parts = (
            self.statement.encode(),
            self.endorser.encode(),
            self.identity_signature,
            *self.endorsement,
        )
        return u8(VERSION) + b"".join(b32(part) for part in parts)

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises DecodeError. Nothing is verified yet: ``certified`` does."""
        reader = Reader(data)
        reader.version()
        parts = [reader.b32(MAX_PART) for _ in range(5)]
        reader.end()
        return cls(
            Identity.decode(parts[0]), Certificate.decode(parts[1]), parts[2], (parts[3], parts[4])
        )

    def certified(
        self, body: CertificateBody, wallet_signature: bytes, proof: tuple[bytes, bytes]
    ) -> tuple[Certificate, Roster]:
        """The certificate of ``body``, and the roster of the two devices, verified.

        ``proof``: Ed25519 and ML-DSA-65 of the new device. Raises VerificationError.
        """
        certificate = Certificate(
            body, wallet_signature, self.identity_signature, *proof, self.endorsement
        )
        return certificate, roster.verify(self.statement, [self.endorser, certificate])

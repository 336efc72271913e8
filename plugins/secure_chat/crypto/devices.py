"""Devices: their keys, the certificate that ties them to an identity, and its revocation.

A certificate stands on four legs, two of each kind: the wallet and the device's Ed25519 key, the
identity's and the device's ML-DSA-65 keys. Every device but an identity's first is also endorsed
by one that was registered before. Which certificates count together is in ``roster.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from plugins.secure_chat.crypto import labels, primitives, wallet
from plugins.secure_chat.crypto.codec import VERSION, Reader, identifier, u8, wallet_bytes
from plugins.secure_chat.crypto.errors import NotCertified
from plugins.secure_chat.crypto.identity import Identity, PostQuantumKey
from plugins.secure_chat.crypto.primitives import Randomness, labelled

NO_ENDORSER: Final = bytes(32)


@dataclass(frozen=True)
class DeviceKeys:
    """A device's secrets: Ed25519 seed, X25519 private key, ML-DSA-65 seed, 32 bytes each."""

    signing: bytes
    agreement: bytes
    post_quantum: bytes

    def __repr__(self) -> str:
        return "<DeviceKeys>"

    @classmethod
    def generate(cls, randomness: Randomness) -> DeviceKeys:
        return cls(randomness(32), randomness(32), randomness(32))

    @cached_property
    def public(self) -> tuple[bytes, bytes, bytes]:
        """Ed25519, X25519 and ML-DSA-65 public keys."""
        return (
            primitives.ed25519_public(self.signing),
            primitives.x25519_public(self.agreement),
            primitives.mldsa_public(self.post_quantum),
        )

    def sign(self, label: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Ed25519 and ML-DSA-65 signatures over the labelled body."""
        message = labelled(label, body)
        return (
            primitives.ed25519_sign(self.signing, message),
            primitives.mldsa_sign(self.post_quantum, label, message),
        )


@dataclass(frozen=True, repr=False)
class CertificateBody:
    """What a certificate says. ``endorser``: id of the endorsing device's certificate, or zeros."""

    wallet: str
    identity: bytes
    device: str
    signing: bytes
    agreement: bytes
    post_quantum: bytes
    endorser: bytes = NO_ENDORSER

    def __repr__(self) -> str:
        return f"<CertificateBody {self.id.hex()[:16]} of {self.wallet} {self.device}>"

    @cached_property
    def encoded(self) -> bytes:
        return b"".join(
            (
                u8(VERSION),
                wallet_bytes(self.wallet),
                self.identity,
                identifier(self.device),
                self.signing,
                self.agreement,
                self.post_quantum,
                self.endorser,
            )
        )

    @cached_property
    def id(self) -> bytes:
        """SHA-256 of the labelled body: names the device's keys everywhere else."""
        return primitives.sha256(labelled(labels.DEVICE_CERTIFICATE, self.encoded))

    @property
    def text(self) -> str:
        """What the wallet signs."""
        return wallet.statement_text(
            labels.DEVICE_CERTIFICATE, self.wallet, self.id, device=self.device
        )

    @classmethod
    def read(cls, reader: Reader) -> CertificateBody:
        reader.version()
        return cls(
            wallet=reader.wallet(),
            identity=reader.take(32),
            device=reader.identifier(),
            signing=reader.take(primitives.KEY),
            agreement=reader.take(primitives.KEY),
            post_quantum=reader.take(primitives.MLDSA_KEY),
            endorser=reader.take(32),
        )

    @classmethod
    def decode(cls, data: bytes) -> CertificateBody:
        """Raises DecodeError."""
        reader = Reader(data)
        body = cls.read(reader)
        reader.end()
        return body


@dataclass(frozen=True, slots=True, repr=False)
class Certificate:
    """A published device certificate. ``endorsement`` is (Ed25519, ML-DSA-65), or None."""

    body: CertificateBody
    wallet_signature: bytes
    identity_signature: bytes
    device_signature: bytes
    device_post_quantum_signature: bytes
    endorsement: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"<Certificate {self.id.hex()[:16]} of {self.wallet} {self.device}>"

    @property
    def id(self) -> bytes:
        return self.body.id

    @property
    def wallet(self) -> str:
        return self.body.wallet

    @property
    def device(self) -> str:
        return self.body.device

    def encode(self) -> bytes:
        return b"".join(
            (
                self.body.encoded,
                self.wallet_signature,
                self.identity_signature,
                self.device_signature,
                self.device_post_quantum_signature,
                *(self.endorsement or ()),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Raises DecodeError. Nothing is verified yet."""
        reader = Reader(data)
        body = CertificateBody.read(reader)
        signatures = (
            reader.take(wallet.SIGNATURE),
            reader.take(primitives.MLDSA_SIGNATURE),
            reader.take(primitives.ED25519_SIGNATURE),
            reader.take(primitives.MLDSA_SIGNATURE),
        )
        endorsement = None
        if body.endorser != NO_ENDORSER:
            endorsement = (
                reader.take(primitives.ED25519_SIGNATURE),
                reader.take(primitives.MLDSA_SIGNATURE),
            )
        reader.end()
        return cls(body, *signatures, endorsement)

    def verify(self, identity: Identity, endorser: Certificate | None) -> None:
        """Check the certificate against its (verified) identity and its (verified) endorser.

        Raises NotCertified, BadWalletSignature, BadPostQuantumSignature or BadClassicalSignature.
        The caller must still check that the device is not revoked.
        """
        body, label = self.body, labels.DEVICE_CERTIFICATE
        # (1) it is about this identity, (2) the wallet, (3) the identity's post-quantum key,
        # (4) and (5) the device itself has its keys, (6) the endorser where one is named.
        if (body.wallet, body.identity) != (identity.wallet, identity.id):
            raise NotCertified("the certificate is of another identity")
        wallet.verify(body.wallet, body.text, self.wallet_signature)
        message = labelled(label, body.encoded)
        primitives.mldsa_verify(identity.body.post_quantum, self.identity_signature, label, message)
        primitives.ed25519_verify(body.signing, self.device_signature, message)
        primitives.mldsa_verify(
            body.post_quantum, self.device_post_quantum_signature, label, message
        )
        if (endorser.id if endorser is not None else NO_ENDORSER) != body.endorser:
            raise NotCertified("the certificate names another endorser")
        if endorser is not None:
            if self.endorsement is None or endorser.body.identity != identity.id:
                raise NotCertified("no device of this identity endorses the certificate")
            classical, post_quantum = self.endorsement
            primitives.ed25519_verify(endorser.body.signing, classical, message)
            primitives.mldsa_verify(endorser.body.post_quantum, post_quantum, label, message)


def describe(
    identity: Identity, device: str, keys: DeviceKeys, endorser: Certificate | None = None
) -> CertificateBody:
    """The body of a certificate for ``keys``; the wallet signs its ``text``."""
    signing, agreement, post_quantum = keys.public
    return CertificateBody(
        wallet=identity.wallet,
        identity=identity.id,
        device=device,
        signing=signing,
        agreement=agreement,
        post_quantum=post_quantum,
        endorser=endorser.id if endorser is not None else NO_ENDORSER,
    )


def certify(
    body: CertificateBody,
    wallet_signature: bytes,
    identity_key: PostQuantumKey,
    keys: DeviceKeys,
    endorser: DeviceKeys | None = None,
) -> Certificate:
    """Put every signature under ``body``. When the keys lie on several devices, each signs its own
    part and the Certificate is put together by hand."""
    label = labels.DEVICE_CERTIFICATE
    return Certificate(
        body,
        wallet_signature,
        identity_key.sign(label, body.encoded),
        *keys.sign(label, body.encoded),
        endorser.sign(label, body.encoded) if endorser is not None else None,
    )


@dataclass(frozen=True)
class RevocationBody:
    """Says that a certificate no longer counts. Final: the device comes back under a new one."""

    wallet: str
    identity: bytes
    device: str
    certificate: bytes

    @cached_property
    def encoded(self) -> bytes:
        return b"".join(
            (
                u8(VERSION),
                wallet_bytes(self.wallet),
                self.identity,
                identifier(self.device),
                self.certificate,
            )
        )

    @cached_property
    def id(self) -> bytes:
        return primitives.sha256(labelled(labels.DEVICE_REVOCATION, self.encoded))

    @property
    def text(self) -> str:
        """What the wallet signs."""
        return wallet.statement_text(
            labels.DEVICE_REVOCATION, self.wallet, self.id, device=self.device
        )


@dataclass(frozen=True, slots=True)
class Revocation:
    """A published revocation: signed by the wallet and by the identity's post-quantum key."""

    body: RevocationBody
    wallet_signature: bytes
    identity_signature: bytes

    @property
    def id(self) -> bytes:
        return self.body.id

    def encode(self) -> bytes:
        return self.body.encoded + self.wallet_signature + self.identity_signature

    @classmethod
    def decode(cls, data: bytes) -> Revocation:
        """Raises DecodeError. Nothing is verified yet."""
        reader = Reader(data)
        reader.version()
        body = RevocationBody(
            wallet=reader.wallet(),
            identity=reader.take(32),
            device=reader.identifier(),
            certificate=reader.take(32),
        )
        wallet_signature = reader.take(wallet.SIGNATURE)
        identity_signature = reader.take(primitives.MLDSA_SIGNATURE)
        reader.end()
        return cls(body, wallet_signature, identity_signature)

    def verify(self, identity: Identity) -> None:
        """Raises NotCertified, BadWalletSignature or BadPostQuantumSignature."""
        body, label = self.body, labels.DEVICE_REVOCATION
        if (body.wallet, body.identity) != (identity.wallet, identity.id):
            raise NotCertified("the revocation is of another identity")
        wallet.verify(body.wallet, body.text, self.wallet_signature)
        primitives.mldsa_verify(
            identity.body.post_quantum,
            self.identity_signature,
            label,
            labelled(label, body.encoded),
        )


def revoke(
    certificate: Certificate, wallet_signature: bytes, identity_key: PostQuantumKey
) -> Revocation:
    """Put both signatures under the revocation of ``certificate`` (``revocation_body``)."""
    body = revocation_body(certificate)
    return Revocation(
        body, wallet_signature, identity_key.sign(labels.DEVICE_REVOCATION, body.encoded)
    )


def revocation_body(certificate: Certificate) -> RevocationBody:
    """What revoking ``certificate`` says; the wallet signs its ``text``."""
    body = certificate.body
    return RevocationBody(body.wallet, body.identity, body.device, certificate.id)

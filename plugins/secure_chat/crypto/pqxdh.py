"""The handshake: X25519 three or four times and ML-KEM-768 once, all bound in one transcript.

After PQXDH, with the whole context in the transcript: both identities, both certificates, every
key that took part and the KEM ciphertext. There is one suite and no way to ask for less (A9).
What follows from the root key is in ``ratchet.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import SUITE, Reader, u8, u16, u32, u64, wallet_bytes
from plugins.secure_chat.crypto.devices import Certificate, CertificateBody, DeviceKeys
from plugins.secure_chat.crypto.errors import DecodeError, UnknownPrekey
from plugins.secure_chat.crypto.prekeys import KEM_KINDS, Bundle, Kind, PrekeySecret
from plugins.secure_chat.crypto.primitives import Encapsulate, Randomness, labelled

MAX_OPENED: Final = (1 << 53) - 1
SESSION_ID: Final = 16
HANDSHAKE: Final = 8 + 32 + 4 + 1 + 4 + 4 + primitives.MLKEM_CIPHERTEXT


@dataclass(frozen=True, slots=True)
class Handshake:
    """What the initiator sends until it is answered. ``one_time`` is 0 when none was used;
    ``opened`` is the initiator's clock in milliseconds, or more: it ranks sessions."""

    opened: int
    ephemeral: bytes
    signed: int
    kem_kind: Kind
    kem: int
    one_time: int
    kem_ciphertext: bytes

    def encode(self) -> bytes:
        return b"".join(
            (
                u64(self.opened),
                self.ephemeral,
                u32(self.signed),
                u8(self.kem_kind),
                u32(self.kem),
                u32(self.one_time),
                self.kem_ciphertext,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Handshake:
        """Raises DecodeError."""
        reader = Reader(data)
        opened, ephemeral, signed = reader.u64(), reader.take(primitives.KEY), reader.u32()
        kind, kem, one_time = reader.u8(), reader.u32(), reader.u32()
        ciphertext = reader.take(primitives.MLKEM_CIPHERTEXT)
        reader.end()
        if opened > MAX_OPENED or kind not in KEM_KINDS or 0 in (signed, kem):
            raise DecodeError("a handshake's field is out of its range")
        return cls(opened, ephemeral, signed, Kind(kind), kem, one_time, ciphertext)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides hold after the handshake. ``transcript`` is public, ``root`` is not."""

    transcript: bytes
    root: bytes = field(repr=False)

    @property
    def session(self) -> bytes:
        """The session's id: the first 16 bytes of the transcript."""
        return self.transcript[:SESSION_ID]


def transcript(
    initiator: CertificateBody,
    responder: CertificateBody,
    handshake: Handshake,
    signed: bytes,
    kem: bytes,
    one_time: bytes,
) -> bytes:
    """SHA-256 over everything the handshake stands on. ``one_time`` is empty when not used."""
    sides = (initiator, responder)
    return primitives.sha256(
        labelled(labels.HANDSHAKE_TRANSCRIPT, u16(SUITE)),
        u64(handshake.opened),
        *(wallet_bytes(side.wallet) for side in sides),
        *(side.identity for side in sides),
        *(side.id for side in sides),
        *(side.agreement for side in sides),
        handshake.ephemeral,
        u32(handshake.signed),
        signed,
        u8(handshake.kem_kind),
        u32(handshake.kem),
        kem,
        u32(handshake.one_time),
        one_time,
        handshake.kem_ciphertext,
    )


def root_key(digest: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """The root key from the transcript and DH1, DH2, DH3, [DH4,] KEM secret, in this order."""
    return primitives.hkdf(digest, b"".join(secrets), labels.HANDSHAKE_ROOT, 32)


def initiate(
    keys: DeviceKeys,
    certificate: CertificateBody,
    peer: Certificate,
    bundle: Bundle,
    opened: int,
    randomness: Randomness,
    encapsulate: Encapsulate = primitives.encapsulate,
) -> tuple[Agreement, Handshake]:
    """Open a session with the verified device ``peer``. Verifies ``bundle`` first.

    Raises VerificationError (PostQuantumMissing when the bundle has no KEM prekey).
    """
    kem = bundle.verify(peer)
    secret, ciphertext = encapsulate(kem.key)
    ephemeral = randomness(32)
    one_time = bundle.one_time
    handshake = Handshake(
        opened=opened,
        ephemeral=primitives.x25519_public(ephemeral),
        signed=bundle.signed.id,
        kem_kind=kem.kind,
        kem=kem.id,
        one_time=one_time.id if one_time is not None else 0,
        kem_ciphertext=ciphertext,
    )
    digest = transcript(
        certificate,
        peer.body,
        handshake,
        bundle.signed.key,
        kem.key,
        one_time.key if one_time is not None else b"",
    )
    secrets = [
        primitives.x25519(keys.agreement, bundle.signed.key),
        primitives.x25519(ephemeral, peer.body.agreement),
        primitives.x25519(ephemeral, bundle.signed.key),
    ]
    if one_time is not None:
        secrets.append(primitives.x25519(ephemeral, one_time.key))
    return Agreement(digest, root_key(digest, (*secrets, secret))), handshake


def respond(
    keys: DeviceKeys,
    certificate: CertificateBody,
    peer: Certificate,
    handshake: Handshake,
    find: Callable[[Kind, int], PrekeySecret | None],
) -> tuple[Agreement, tuple[PrekeySecret, ...]]:
    """The other side: ``peer`` is the initiator's verified certificate, ``find`` looks up secrets.

    Returns the agreement and the prekeys that took part, the signed one first; the caller deletes
    the one-time ones once the first message has authenticated. Raises UnknownPrekey, DecryptError.
    """
    signed = _find(find, Kind.SIGNED, handshake.signed)
    kem = _find(find, handshake.kem_kind, handshake.kem)
    one_time = _find(find, Kind.ONE_TIME, handshake.one_time) if handshake.one_time else None
    secrets = [
        primitives.x25519(signed.secret, peer.body.agreement),
        primitives.x25519(keys.agreement, handshake.ephemeral),
        primitives.x25519(signed.secret, handshake.ephemeral),
    ]
    if one_time is not None:
        secrets.append(primitives.x25519(one_time.secret, handshake.ephemeral))
    secrets.append(primitives.decapsulate(kem.secret, handshake.kem_ciphertext))
    one_time_key = one_time.public if one_time is not None else b""
    digest = transcript(peer.body, certificate, handshake, signed.public, kem.public, one_time_key)
    used = (signed, kem) if one_time is None else (signed, kem, one_time)
    return Agreement(digest, root_key(digest, tuple(secrets))), used


def _find(
    find: Callable[[Kind, int], PrekeySecret | None], kind: Kind, number: int
) -> PrekeySecret:
    secret = find(kind, number)
    if secret is None:
        raise UnknownPrekey("the handshake uses a prekey that this device does not have")
    return secret

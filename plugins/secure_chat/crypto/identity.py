"""The dual identity: a wallet and an ML-DSA-65 key that vouch for each other.

Here are the identity statement, its rotation, and what one statement is to the one before it.
Devices are in ``devices.py``; what a person compares is in ``safety.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final

from plugins.secure_chat.crypto import labels, primitives, wallet
from plugins.secure_chat.crypto.codec import VERSION, Reader, u8, u32, wallet_bytes
from plugins.secure_chat.crypto.errors import DecodeError, PostQuantumMissing

NO_PREVIOUS: Final = bytes(32)


class Succession(Enum):
    """What an identity is to the one that was known before."""

    FIRST = "first"  # nothing was known of this wallet
    SAME = "same"
    ROTATED = "rotated"  # the old post-quantum key vouches for the new one
    RESET = "reset"  # the wallet alone says so: ask the person before sending again


@dataclass(frozen=True, slots=True)
class PostQuantumKey:
    """The identity's ML-DSA-65 key: a 32-byte seed. It signs statements and nothing else."""

    seed: bytes

    def __repr__(self) -> str:
        return "<PostQuantumKey>"

    @property
    def public(self) -> bytes:
        return primitives.mldsa_public(self.seed)

    def sign(self, label: bytes, body: bytes) -> bytes:
        return primitives.mldsa_sign(self.seed, label, primitives.labelled(label, body))


@dataclass(frozen=True)
class IdentityBody:
    """What is vouched for. ``generation`` counts rotations from 0; ``previous`` is the id of the
    statement before this one (32 zeros for the first)."""

    wallet: str
    generation: int
    previous: bytes
    post_quantum: bytes

    @cached_property
    def encoded(self) -> bytes:
        return b"".join(
            (
                u8(VERSION),
                wallet_bytes(self.wallet),
                u32(self.generation),
                self.previous,
                self.post_quantum,
            )
        )

    @cached_property
    def id(self) -> bytes:
        """SHA-256 of the labelled body: names the identity everywhere else."""
        return primitives.sha256(primitives.labelled(labels.IDENTITY, self.encoded))

    @property
    def text(self) -> str:
        """What the wallet signs."""
        return wallet.statement_text(labels.IDENTITY, self.wallet, self.id)

    @classmethod
    def read(cls, reader: Reader) -> IdentityBody:
        reader.version()
        body = cls(
            wallet=reader.wallet(),
            generation=reader.u32(),
            previous=reader.take(32),
            post_quantum=reader.take(primitives.MLDSA_KEY),
        )
        if (body.generation == 0) != (body.previous == NO_PREVIOUS):
            raise DecodeError("the first identity alone has no previous one")
        return body


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A published identity statement. ``previous_signature`` is empty when there is none."""

    body: IdentityBody
    wallet_signature: bytes
    post_quantum_signature: bytes
    previous_signature: bytes = b""

    def __repr__(self) -> str:
        return f"<Identity {self.id.hex()[:16]} of {self.wallet}>"

    @property
    def id(self) -> bytes:
        return self.body.id

    @property
    def wallet(self) -> str:
        return self.body.wallet

    def encode(self) -> bytes:
        return b"".join(
            (
                self.body.encoded,
                self.wallet_signature,
                self.post_quantum_signature,
                u8(bool(self.previous_signature)),
                self.previous_signature,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Raises DecodeError. Nothing is verified yet."""
        reader = Reader(data)
        body = IdentityBody.read(reader)
        signature = reader.take(wallet.SIGNATURE)
        post_quantum = reader.take(primitives.MLDSA_SIGNATURE)
        previous = reader.take(primitives.MLDSA_SIGNATURE) if reader.flag() else b""
        reader.end()
        if previous and body.generation == 0:
            raise DecodeError("the first identity has nothing before it to sign")
        return cls(body, signature, post_quantum, previous)

    def verify(self) -> None:
        """Check that wallet and post-quantum key vouch for each other.

        Raises BadWalletSignature or BadPostQuantumSignature. The caller must still compare with the
        identity it knows (``succession``).
        """
        wallet.verify(self.wallet, self.body.text, self.wallet_signature)
        primitives.mldsa_verify(
            self.body.post_quantum,
            self.post_quantum_signature,
            labels.IDENTITY,
            primitives.labelled(labels.IDENTITY, self.body.encoded),
        )


def vouch(
    body: IdentityBody,
    wallet_signature: bytes,
    key: PostQuantumKey,
    previous: PostQuantumKey | None = None,
) -> Identity:
    """Make the statement; ``previous`` is the key being rotated out, when it is still there."""
    if key.public != body.post_quantum:
        raise PostQuantumMissing("the statement is about another post-quantum key")
    return Identity(
        body,
        wallet_signature,
        key.sign(labels.IDENTITY, body.encoded),
        previous.sign(labels.IDENTITY, body.encoded) if previous is not None else b"",
    )


def succession(known: Identity, new: Identity) -> Succession:
    """What the verified statement ``new`` is to the verified ``known`` one of the same wallet.

    Raises BadPostQuantumSignature when it claims the old key's blessing and does not have it.
    """
    if new.id == known.id:
        return Succession.SAME
    if new.previous_signature and new.body.previous == known.id:
        primitives.mldsa_verify(
            known.body.post_quantum,
            new.previous_signature,
            labels.IDENTITY,
            primitives.labelled(labels.IDENTITY, new.body.encoded),
        )
        if new.body.generation == known.body.generation + 1:
            return Succession.ROTATED
    return Succession.RESET

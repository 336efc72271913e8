"""Keys that sign and verify checkpoints: Ed25519 (signed-note) and ML-DSA-44 (tlog-cosignature).

Formats are in ``core/note.py``. Time comes from the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
)

from plugins.secure_chat.core.note import (
    COSIGNATURE_ML_DSA_44,
    ED25519,
    Checkpoint,
    Note,
    NoteMalformed,
    Signature,
    Verifier,
    VerifierKey,
    cosigned_message,
    parse_checkpoint,
    parse_key,
)

SEED_SIZE: Final = 32
_TIMESTAMP_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Ed25519Verifier:
    """Verifies signature lines of type 0x01: over the note's text as it stands."""

    key: VerifierKey

    def verify(self, text: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.key.public_key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class MlDsa44Verifier:
    """Verifies signature lines of type 0x06: a timestamp, and a signature over the tree head."""

    key: VerifierKey

    def verify(self, text: str, signature: bytes) -> bool:
        timestamp = int.from_bytes(signature[:_TIMESTAMP_SIZE], "big")
        try:
            message = cosigned_message(self.key.name, timestamp, parse_checkpoint(text))
            MLDSA44PublicKey.from_public_bytes(self.key.public_key).verify(
                signature[_TIMESTAMP_SIZE:], message
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def verifier(key: str) -> Verifier:
    """The verifier of a key given as text. Raises NoteMalformed, also for a type not used here."""
    parsed = parse_key(key)
    try:
        if parsed.kind == ED25519:
            Ed25519PublicKey.from_public_bytes(parsed.public_key)
            return Ed25519Verifier(parsed)
        if parsed.kind == COSIGNATURE_ML_DSA_44:
            MLDSA44PublicKey.from_public_bytes(parsed.public_key)
            return MlDsa44Verifier(parsed)
    except ValueError:
        raise NoteMalformed("the verifier key has not the length of its type") from None
    raise NoteMalformed("the verifier key is of no type that signs checkpoints here")


class CheckpointSigner:
    """The log's two keys. It signs what it is told to: that two checkpoints are never inconsistent
    is the log's to hold.
    """

    def __init__(self, name: str, ed25519_seed: bytes, ml_dsa_seed: bytes) -> None:
        """``name`` is the key name of both lines. Each seed is 32 random bytes, used for nothing
        else. Raises ValueError.
        """
        if len(ed25519_seed) != SEED_SIZE or len(ml_dsa_seed) != SEED_SIZE:
            raise ValueError("a seed is 32 bytes")
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(ed25519_seed)
        self._ml_dsa = MLDSA44PrivateKey.from_seed_bytes(ml_dsa_seed)
        self.ed25519_key = VerifierKey(name, ED25519, self._ed25519.public_key().public_bytes_raw())
        self.ml_dsa_key = VerifierKey(
            name, COSIGNATURE_ML_DSA_44, self._ml_dsa.public_key().public_bytes_raw()
        )
        parse_key(str(self.ed25519_key))  # refuses a name that could not be read back

    def sign(self, checkpoint: Checkpoint, timestamp: int) -> Note:
        """The checkpoint as a note with both signatures. ``timestamp``: POSIX seconds."""
        text = checkpoint.text
        message = cosigned_message(self.ml_dsa_key.name, timestamp, checkpoint)
        cosignature = timestamp.to_bytes(_TIMESTAMP_SIZE, "big") + self._ml_dsa.sign(message)
        return Note(
            text,
            (
                Signature(
                    self.ed25519_key.name,
                    self.ed25519_key.key_id,
                    self._ed25519.sign(text.encode()),
                ),
                Signature(self.ml_dsa_key.name, self.ml_dsa_key.key_id, cosignature),
            ),
        )

    def verifiers(self) -> tuple[Verifier, Verifier]:
        return Ed25519Verifier(self.ed25519_key), MlDsa44Verifier(self.ml_dsa_key)

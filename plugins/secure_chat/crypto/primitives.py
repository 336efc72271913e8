"""The primitives under fixed parameters, on raw bytes: X25519, Ed25519, ML-DSA-65, ML-KEM-768,
HKDF-SHA-256 and AES-256-GCM.

The only module that imports ``cryptography``. Library exceptions end here and become ours. What is
signed, derived or encrypted is decided by the callers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plugins.secure_chat.crypto.codec import b8
from plugins.secure_chat.crypto.errors import (
    BadClassicalSignature,
    BadPostQuantumSignature,
    DecodeError,
    DecryptError,
)

Randomness = Callable[[int], bytes]
"""``n`` -> n fresh bytes of a cryptographic generator (``os.urandom``)."""
Encapsulate = Callable[[bytes], tuple[bytes, bytes]]
"""ML-KEM-768 public key -> (shared secret, ciphertext)."""

KEY: Final = 32  # X25519 and Ed25519 keys, seeds, symmetric keys, SHA-256 digests
NONCE: Final = 12
TAG: Final = 16
ED25519_SIGNATURE: Final = 64
_FIELD: Final = (1 << 255) - 19  # RFC 7748: coordinates are below it
# y of the points whose order divides 8, of both signs of x (RFC 8032 curve, cofactor 8).
_SMALL_ORDER: Final = frozenset(
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    )
)
MLDSA_KEY: Final = 1952  # FIPS 204, table 2
MLDSA_SIGNATURE: Final = 3309
MLKEM_SEED: Final = 64  # d || z, FIPS 203
MLKEM_KEY: Final = 1184
MLKEM_CIPHERTEXT: Final = 1088


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(salt: bytes, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869): extract with ``salt``, expand with ``label`` to ``size``."""
    prk = hmac.digest(salt, secret, "sha256")
    block = output = hmac.digest(prk, label + b"\x01", "sha256")
    for counter in range(2, -(-size // 32) + 1):
        block = hmac.digest(prk, block + label + bytes((counter,)), "sha256")
        output += block
    return output[:size]


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """AES-256-GCM: ciphertext and its 16-byte tag. A (key, nonce) pair must be used only once."""
    return AESGCM(key).encrypt(nonce, plaintext, associated_data)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Undo ``seal``; raises DecryptError when key, nonce, bytes or associated data differ."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated_data)
    except InvalidTag:
        raise DecryptError("authentication failed") from None


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret (RFC 7748); a public key of low order is refused with DecryptError."""
    try:
        peer = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(private).exchange(peer)
    except ValueError:
        raise DecryptError("an X25519 key of low order") from None


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def ed25519_verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises BadClassicalSignature.

    Libraries differ in the odd keys and signatures that RFC 8032 leaves open; what is taken here
    is what all of them take (SPEC-crypto C32).
    """
    if any(_is_weak(point) for point in (public, signature[:KEY])):
        raise BadClassicalSignature("an Ed25519 point is not canonical, or of small order")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise BadClassicalSignature("an Ed25519 signature does not verify") from None


def _is_weak(point: bytes) -> bool:
    """Whether an encoded Ed25519 point is not canonical, or of an order that divides 8."""
    y = int.from_bytes(point, "little") & ((1 << 255) - 1)
    return y >= _FIELD or y in _SMALL_ORDER


def mldsa_public(seed: bytes) -> bytes:
    return MLDSA65PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def mldsa_sign(seed: bytes, label: bytes, message: bytes) -> bytes:
    """ML-DSA-65 with ``label`` as the context (FIPS 204); hedged: never twice the same."""
    return MLDSA65PrivateKey.from_seed_bytes(seed).sign(message, context=label)


def mldsa_verify(public: bytes, signature: bytes, label: bytes, message: bytes) -> None:
    """Raises BadPostQuantumSignature."""
    try:
        MLDSA65PublicKey.from_public_bytes(public).verify(signature, message, context=label)
    except (InvalidSignature, ValueError):
        raise BadPostQuantumSignature("an ML-DSA-65 signature does not verify") from None


def mlkem_public(seed: bytes) -> bytes:
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """A fresh shared secret (32 bytes) and its ciphertext (1,088 bytes) for ``public``."""
    try:
        return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError:
        raise DecodeError("not an ML-KEM-768 key") from None


def decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret; a forged ciphertext gives another one (FIPS 203, implicit rejection)."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


def labelled(label: bytes, body: bytes) -> bytes:
    """What is hashed or signed under ``label``: its length in one byte, the label, the body."""
    return b8(label) + body

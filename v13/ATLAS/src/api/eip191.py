"""Who signed a text with an Ethereum wallet: EIP-191 "personal message" recovery, strictly.

Only recovery lives here; the host holds no wallet and signs nothing. Recovery accepts malleated
signatures by nature, so low ``s`` (EIP-2) and the known values of ``v`` are demanded first. A
signature is proof, never an identifier.
"""

from __future__ import annotations

from typing import Final

from coincurve import PublicKey
from Crypto.Hash import keccak

SIGNATURE_LENGTH: Final = 65  # r and s of 32 bytes, v of one
_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_RECOVERY_ID: Final = {0: 0, 1: 1, 27: 0, 28: 1}


class BadWalletSignature(ValueError):
    """The signature is not one that a wallet makes. The text says which rule it breaks."""


def personal_digest(text: str) -> bytes:
    """Keccak-256 of the text under the EIP-191 prefix for personal messages (version 0x45)."""
    data = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)


def recover(text: str, signature: bytes) -> str:
    """The lower-case ``0x`` address that signed ``text``. Raises BadWalletSignature.

    The caller must still compare it with the wallet that claims to have signed.
    """
    if len(signature) != SIGNATURE_LENGTH:
        raise BadWalletSignature(f"a signature is {SIGNATURE_LENGTH} bytes")
    r, s, v = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
    if v not in _RECOVERY_ID:
        raise BadWalletSignature("v is not 0, 1, 27 or 28")
    if not 0 < r < _ORDER:
        raise BadWalletSignature("r is out of range")
    if not 0 < s <= _ORDER // 2:
        raise BadWalletSignature("s is out of range or not the low one")
    compact = signature[:64] + bytes([_RECOVERY_ID[v]])
    try:
        key = PublicKey.from_signature_and_message(compact, personal_digest(text), hasher=None)
    except Exception as error:
        raise BadWalletSignature("r is no point of the curve") from error
    return address(key.format(compressed=False))


def address(public_key: bytes) -> str:
    """The address of an uncompressed public key (65 bytes), in lower case."""
    return "0x" + keccak256(public_key[1:])[-20:].hex()


def keccak256(data: bytes) -> bytes:
    digest: bytes = keccak.new(digest_bits=256, data=data).digest()
    return digest

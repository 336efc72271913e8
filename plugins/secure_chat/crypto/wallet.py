"""The wallet's signature: EIP-191 personal_sign over a text that a person can read.

The text names its use, the wallet and the digest of the statement, so a wallet shows what it signs
and a signature made for one use fits no other (threats A6, A17).
"""

from __future__ import annotations

import hmac
from typing import Final

import coincurve
from Crypto.Hash import keccak

from plugins.secure_chat.crypto.codec import wallet_text
from plugins.secure_chat.crypto.errors import BadWalletSignature

SIGNATURE: Final = 65  # r (32), s (32), v (1)
# SEC 2: half the order of secp256k1; a larger s is the same signature malleated (EIP-2).
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_RECOVERY: Final = {0: 0, 1: 1, 27: 0, 28: 1}


def statement_text(label: bytes, wallet: str, digest: bytes, device: str = "") -> str:
    """The text that ``wallet`` signs for a statement with this label and SHA-256 digest."""
    lines = ["ATLAS secure chat v2", f"Use: {label.decode()}", f"Wallet: {wallet}"]
    if device:
        lines.append(f"Device: {device}")
    return "\n".join([*lines, f"Digest: {digest.hex()}"])


def keccak256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


def eip191_hash(text: str) -> bytes:
    """Keccak-256 of the prefixed text (EIP-191, version 0x45)."""
    message = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode() + message)


def recover(text: str, signature: bytes) -> str:
    """The wallet that signed ``text``. Raises BadWalletSignature.

    Accepted: 65 bytes, v in {0, 1, 27, 28}, s in the lower half (libraries recover malleated
    signatures too). A signature is never an identifier.
    """
    if len(signature) != SIGNATURE:
        raise BadWalletSignature("a wallet signature has 65 bytes")
    v = _RECOVERY.get(signature[64])
    if v is None:
        raise BadWalletSignature("v must be 0, 1, 27 or 28")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise BadWalletSignature("s is in the upper half")
    try:
        public = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes((v,)), eip191_hash(text), hasher=None
        )
    except ValueError:
        raise BadWalletSignature("no key fits the signature") from None
    return address(public.format(compressed=False))


def address(public: bytes) -> str:
    """The wallet of an uncompressed public key (65 bytes, 04 first)."""
    return wallet_text(keccak256(public[1:])[12:])


def verify(wallet: str, text: str, signature: bytes) -> None:
    """Raises BadWalletSignature unless ``wallet`` signed ``text``."""
    if not hmac.compare_digest(recover(text, signature), wallet):
        raise BadWalletSignature("another wallet signed")


class WalletKey:
    """A wallet's private key held in memory: for tools, tests and servers of bots.

    People's keys stay in their wallets; those sign ``statement_text`` by personal_sign.
    """

    __slots__ = ("_key", "wallet")

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.wallet: Final = address(self._key.public_key.format(compressed=False))

    def __repr__(self) -> str:
        return f"<WalletKey of {self.wallet}>"

    def sign(self, text: str) -> bytes:
        """r, s (low) and v (27 or 28) over the EIP-191 hash; deterministic (RFC 6979)."""
        signature: bytes = self._key.sign_recoverable(eip191_hash(text), hasher=None)
        return signature[:64] + bytes((27 + signature[64],))

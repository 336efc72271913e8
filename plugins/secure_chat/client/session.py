"""The session interface of the client, and the static session behind it.

A session seals and opens for one peer; it knows nothing of sockets, frames or files.

What the static session protects: contents, against the server and everyone else without one of the
two private keys; and a ciphertext that was altered, or moved to another sender, device, recipient
or sequence number, does not open. Lengths show only rounded up to 64 bytes.

What it does not protect: there is no forward secrecy and no healing, for one key pair a wallet
serves for ever: who gets a private key reads all messages of its wallet, past and future. Nothing
resists a quantum computer. That a key is the contact's rests on the card having been exchanged
safely. The recipient could have made any message himself, so they prove nothing to others. Who
talks to whom, when, how much and from which device is plain to the server.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from plugins.secure_chat.client.contact import ContactCard, ContactKey, prefixed
from plugins.secure_chat.client.errors import BadContactCard, NotAuthentic
from plugins.secure_chat.core.envelope import NONCE_SIZE

SESSION_LABEL: Final = b"atlas/secure-chat/v2/static-session"
MESSAGE_KEY_LABEL: Final = b"atlas/secure-chat/v2/static-key"
PLACE_LABEL: Final = b"atlas/secure-chat/v2/static-place"
SALT_SIZE: Final = 32
TAG_SIZE: Final = 16
BLOCK: Final = 64  # plaintexts are padded to multiples of it


class Session(Protocol):
    """Seals for one peer and opens what that peer sealed. Nonces are never the caller's."""

    def seal(self, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
        """Ciphertext and its 12-byte nonce."""
        ...

    def open(self, ciphertext: bytes, nonce: bytes, associated: bytes) -> bytes:
        """The plaintext. Raises NotAuthentic, and then nothing has changed."""
        ...


def place(sender: str, device: str, recipient: str, seq: int) -> bytes:
    """The associated data of a message: where it belongs."""
    return prefixed(
        PLACE_LABEL, sender.encode(), device.encode(), recipient.encode(), seq.to_bytes(8, "big")
    )


class StaticSession:
    """X25519 → HKDF-SHA-256 → AES-256-GCM with one key for each direction, and for each message
    a key of its own under a fresh random salt: a nonce cannot meet its key twice, not even after a
    restored backup. The module says what this does not protect.
    """

    def __init__(self, own: ContactKey, own_wallet: str, peer: ContactCard) -> None:
        """Raises BadContactCard when the card does not verify, or is our own."""
        peer.verify()
        if peer.wallet == own_wallet or peer.public == own.public:
            raise BadContactCard("the card is our own")
        try:
            shared = own.private.exchange(X25519PublicKey.from_public_bytes(peer.public))
        except ValueError:
            raise BadContactCard("the key on the card is of small order") from None
        mine, theirs = (own_wallet.encode(), own.public), (peer.wallet.encode(), peer.public)
        self._sending = _direction(shared, mine, theirs)
        self._receiving = _direction(shared, theirs, mine)

    def seal(self, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
        salt, nonce = os.urandom(SALT_SIZE), os.urandom(NONCE_SIZE)
        padded = plaintext + b"\x01"
        padded += bytes(-len(padded) % BLOCK)
        return salt + _cipher(self._sending, salt).encrypt(nonce, padded, associated), nonce

    def open(self, ciphertext: bytes, nonce: bytes, associated: bytes) -> bytes:
        if len(ciphertext) < SALT_SIZE + TAG_SIZE or len(nonce) != NONCE_SIZE:
            raise NotAuthentic("the ciphertext is too short or its nonce is not 12 bytes")
        salt, sealed = ciphertext[:SALT_SIZE], ciphertext[SALT_SIZE:]
        try:
            padded = _cipher(self._receiving, salt).decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise NotAuthentic("the ciphertext was not made by this contact for here") from None
        text = padded.rstrip(b"\x00")
        if not text.endswith(b"\x01"):
            raise NotAuthentic("the padding is not that of this protocol")
        return text[:-1]


def _direction(shared: bytes, sender: tuple[bytes, bytes], recipient: tuple[bytes, bytes]) -> bytes:
    """The key of one direction; both wallets and both public keys are bound into it."""
    info = prefixed(SESSION_LABEL, *sender, *recipient)
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    info = prefixed(MESSAGE_KEY_LABEL, salt)
    return AESGCM(HKDFExpand(hashes.SHA256(), 32, info=info).derive(key))

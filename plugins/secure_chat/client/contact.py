"""Contact cards: a wallet's signed word on which X25519 key is its own, handed over by people.

Here are the key, the card and its checks. How the card travels is the people's business: whoever
can swap it on the way, together with the wallet address in it, is the contact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from plugins.secure_chat.client.errors import BadContactCard
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.crypto.errors import BadWalletSignature
from plugins.secure_chat.crypto.wallet import WalletKey, statement_text, verify
from plugins.secure_chat.errors import InvalidMessage

CARD_LABEL: Final = b"atlas/secure-chat/v2/contact-card"
KEY_SIZE: Final = 32


def prefixed(*parts: bytes) -> bytes:
    """Each part after its length in 4 bytes: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class ContactKey:
    """A wallet's X25519 private key for static sessions."""

    __slots__ = ("private",)

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private: Final = private

    @classmethod
    def generate(cls) -> Self:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """From the 32 bytes of ``secret``."""
        return cls(X25519PrivateKey.from_private_bytes(secret))

    def secret(self) -> bytes:
        """The private key's 32 bytes, for the state file and nothing else."""
        return self.private.private_bytes_raw()

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def card(self, wallet: WalletKey) -> ContactCard:
        """The card on which ``wallet`` vouches for this key."""
        signature = wallet.sign(_text(wallet.wallet, self.public))
        return ContactCard(wallet.wallet, self.public, signature)


@dataclass(frozen=True, slots=True)
class ContactCard:
    """Wallet, its X25519 public key, and the wallet's EIP-191 signature over both."""

    wallet: str
    public: bytes
    signature: bytes

    def verify(self) -> None:
        """Raises BadContactCard unless ``wallet`` signed this key for this use."""
        if len(self.public) != KEY_SIZE:
            raise BadContactCard("the key on the card has not 32 bytes")
        try:
            verify(self.wallet, _text(self.wallet, self.public), self.signature)
        except BadWalletSignature as bad:
            raise BadContactCard(f"the card's signature: {bad}") from None

    def encode(self) -> bytes:
        """The card as JSON, to hand over."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        """A verified card. Raises BadContactCard."""
        try:
            card = msgspec.json.decode(data, type=cls)
            if canonical(card.wallet, "wallet") != card.wallet:
                raise BadContactCard("the card's wallet is not in its canonical form")
        except (msgspec.DecodeError, InvalidMessage, UnicodeError):
            raise BadContactCard("this is no contact card") from None
        card.verify()
        return card


def _text(wallet: str, public: bytes) -> str:
    digest = hashlib.sha256(prefixed(CARD_LABEL, wallet.encode(), public)).digest()
    return statement_text(CARD_LABEL, wallet, digest)

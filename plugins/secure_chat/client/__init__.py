"""The Python client: a wallet's device that sends and receives, end-to-end encrypted.

    wallet = WalletKey(secret)
    with Device.open(Path("my-device"), wallet, passphrase) as device:
        async with ChatClient(url, device, wallet_login(url, wallet)) as chat:
            receipt = await chat.send(their_wallet, b"hello")
            async for message in chat:
                ...

What the encryption protects, and what it does not, is said in SPEC-crypto.md; how to embed the
client, and what to show to a person, in docs/client.md.
"""

from plugins.secure_chat.client.backoff import Backoff
from plugins.secure_chat.client.chat import ChatClient, Receipt, Refused
from plugins.secure_chat.client.contacts import Contact
from plugins.secure_chat.client.device import Device, Enrolment, Received, Signer
from plugins.secure_chat.client.login import Token, TokenSource, wallet_login
from plugins.secure_chat.crypto.streams import Continuity
from plugins.secure_chat.crypto.wallet import WalletKey

__all__ = [
    "Backoff",
    "ChatClient",
    "Contact",
    "Continuity",
    "Device",
    "Enrolment",
    "Receipt",
    "Received",
    "Refused",
    "Signer",
    "Token",
    "TokenSource",
    "WalletKey",
    "wallet_login",
]

"""The Python client: log a wallet in, send, receive, survive disconnections and restarts.

    key = WalletKey(secret)
    with ClientState(path, key.wallet) as state:
        session = StaticSession(state.contact_key, key.wallet, ContactCard.decode(their_card))
        async with ChatClient(url, wallet_login(url, key), state) as chat:
            chat.add_session(their_wallet, session)
            receipt = await chat.send(their_wallet, b"hello")
            async for message in chat:
                ...

What its encryption protects, and what it does not, is said in ``session.py``.
"""

from plugins.secure_chat.client.backoff import Backoff
from plugins.secure_chat.client.chat import ChatClient, Receipt, Received, Refused
from plugins.secure_chat.client.contact import ContactCard, ContactKey
from plugins.secure_chat.client.login import Token, TokenSource, wallet_login
from plugins.secure_chat.client.session import Session, StaticSession
from plugins.secure_chat.client.state import ClientState
from plugins.secure_chat.crypto.wallet import WalletKey

__all__ = [
    "Backoff",
    "ChatClient",
    "ClientState",
    "ContactCard",
    "ContactKey",
    "Receipt",
    "Received",
    "Refused",
    "Session",
    "StaticSession",
    "Token",
    "TokenSource",
    "WalletKey",
    "wallet_login",
]

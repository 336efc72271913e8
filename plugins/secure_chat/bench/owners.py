"""Wallets with identities and devices, made before the clock starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from plugins.secure_chat.crypto import devices, identity
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys
from plugins.secure_chat.crypto.identity import NO_PREVIOUS, Identity, IdentityBody, PostQuantumKey
from plugins.secure_chat.crypto.wallet import WalletKey


@dataclass(frozen=True, slots=True)
class Owner:
    """A wallet's identity, and the keys and certificate of each of its devices."""

    wallet: str
    identity: Identity
    devices: tuple[tuple[DeviceKeys, Certificate], ...]


def new_owner(*names: str) -> Owner:
    """A fresh wallet with devices of these names; the first endorses the others."""
    wallet, key = WalletKey(os.urandom(32)), PostQuantumKey(os.urandom(32))
    body = IdentityBody(wallet.wallet, 0, NO_PREVIOUS, key.public)
    statement = identity.vouch(body, wallet.sign(body.text), key)
    made: list[tuple[DeviceKeys, Certificate]] = []
    for name in names:
        keys = DeviceKeys.generate(os.urandom)
        endorser, certificate = made[0] if made else (None, None)
        described = devices.describe(statement, name, keys, certificate)
        signature = wallet.sign(described.text)
        made.append((keys, devices.certify(described, signature, key, keys, endorser)))
    return Owner(wallet.wallet, statement, tuple(made))

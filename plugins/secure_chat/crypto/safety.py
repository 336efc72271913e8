"""Safety numbers: what two people compare to know that no one stands between them."""

from __future__ import annotations

import hashlib
from typing import Final

from plugins.secure_chat.crypto import labels
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.primitives import labelled

ITERATIONS: Final = 5200  # makes a search for a near match dearer by 2^12; 10 ms here
_GROUPS: Final = 6


def half(identity: Identity) -> str:
    """One side's 30 digits: 6 groups of 5 bytes modulo 10^5 of an iterated SHA-512."""
    digest = hashlib.sha512(labelled(labels.SAFETY_NUMBER, identity.body.encoded)).digest()
    for _ in range(ITERATIONS - 1):
        digest = hashlib.sha512(digest + identity.id).digest()
    return "".join(
        f"{int.from_bytes(digest[5 * i : 5 * i + 5], 'big') % 100_000:05d}" for i in range(_GROUPS)
    )


def safety_number(one: Identity, other: Identity) -> str:
    """60 digits, the same whichever side asks: the two halves in ascending order."""
    return "".join(sorted((half(one), half(other))))


def grouped(number: str) -> str:
    """As people read it: twelve groups of five."""
    return " ".join(number[i : i + 5] for i in range(0, len(number), 5))

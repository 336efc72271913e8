"""A valid SecureMessageV2 frame around random bytes, for tests that do not look inside."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from typing import Any

from plugins.secure_chat.core.envelope import message_hash


def sealed_frame(*, recipient: str, seq: int, ciphertext: bytes | None = None) -> dict[str, Any]:
    """A CHAT_MESSAGE as a client sends it; fresh ciphertext unless it is given."""
    body = os.urandom(64) if ciphertext is None else ciphertext
    nonce = os.urandom(12)
    return {
        "recipient": recipient,
        "ciphertext": b64encode(body).decode(),
        "nonce": b64encode(nonce).decode(),
        "seq": seq,
        "ts": time.time(),
        "hash": b64encode(message_hash(body, nonce, seq)).decode(),
    }

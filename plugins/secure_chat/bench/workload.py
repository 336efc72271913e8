"""What is sent: the scenarios, the wallets of a run, and frames made before the clock starts."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson
from websockets.frames import Frame, Opcode

from plugins.secure_chat.core.envelope import message_hash
from plugins.secure_chat.crypto.frame import signing_input
from plugins.secure_chat.crypto.primitives import ed25519_sign

CIPHERTEXT_SIZE: Final = 256
_FIRST_RECEIVER: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Scenario:
    """``pairs`` senders, each to a receiver of its own, with ``window`` messages in flight each."""

    pairs: int
    window: int
    messages: int  # in all, each round

    @property
    def name(self) -> str:
        return f"{self.pairs}×{self.window}"


FULL: Final = (
    Scenario(1, 1, 2_000),
    Scenario(1, 64, 20_000),
    Scenario(50, 1, 15_000),
    Scenario(50, 64, 30_000),
)
QUICK: Final = (
    Scenario(1, 1, 500),
    Scenario(1, 64, 2_000),
    Scenario(50, 1, 1_000),
    Scenario(50, 64, 16_000),
)


def sender(pair: int) -> str:
    """The wallet that sends in ``pair``."""
    return f"0x{pair + 1:040x}"


def receiver(pair: int) -> str:
    """The wallet that receives in ``pair``."""
    return f"0x{_FIRST_RECEIVER + pair:040x}"


class Signer(msgspec.Struct, frozen=True):
    """A sender that signs: its wallet, its device and that device's Ed25519 seed."""

    wallet: str
    device: str
    seed: bytes


def message(recipient: str, seq: int, signer: Signer | None = None) -> bytes:
    """One valid CHAT_MESSAGE of random bytes."""
    ciphertext, nonce = os.urandom(CIPHERTEXT_SIZE), os.urandom(12)
    ts, digest = 1_700_000_000 + seq, message_hash(ciphertext, nonce, seq)
    fields: dict[str, Any] = {
        "type": "CHAT_MESSAGE",
        "recipient": recipient,
        "ciphertext": b64encode(ciphertext).decode(),
        "nonce": b64encode(nonce).decode(),
        "seq": seq,
        "ts": ts,
        "hash": b64encode(digest).decode(),
    }
    if signer is not None:
        signed = signing_input(signer.wallet, signer.device, recipient, nonce, seq, ts, digest)
        fields["device"] = signer.device
        fields["signature"] = b64encode(ed25519_sign(signer.seed, signed)).decode()
    return orjson.dumps(fields)


def client_frames(
    recipient: str, first_seq: int, count: int, signer: Signer | None = None
) -> list[bytes]:
    """``count`` masked WebSocket text frames with rising seq, ready for the socket."""
    return [
        Frame(Opcode.TEXT, message(recipient, seq, signer)).serialize(mask=True)
        for seq in range(first_seq, first_seq + count)
    ]


class FrameSplitter:
    """Splits what a server sends into the payloads of its frames (RFC 6455 section 5.2).

    A server's frames are unmasked, and the ones measured are never fragmented.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of each frame that ``data`` completes."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(data[at + 2 : start], "big") if end >= start else end
            elif size == 127:
                start = at + 10
                size = int.from_bytes(data[at + 2 : start], "big") if end >= start else end
            if start + size > end:
                break
            yield data[at] & 0x0F, data[start : start + size]
            at = start + size
        self._rest = data[at:]

"""The frame in raw bytes: what a message is on the wire, its hash, and the device's signature.

The server's view of the same frame (base64, identifiers checked) is ``core.envelope``. What is in
``ciphertext`` is ``envelope.py``'s.
"""

from __future__ import annotations

import hmac
import struct
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from plugins.secure_chat.core import envelope as wire
from plugins.secure_chat.core.envelope import message_hash
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import b8, identifier, u16, u64
from plugins.secure_chat.crypto.errors import DecodeError, HashMismatch
from plugins.secure_chat.crypto.primitives import labelled
from plugins.secure_chat.errors import HashMismatch as WireHashMismatch
from plugins.secure_chat.errors import Refusal

_TYPE: Final = "CHAT_MESSAGE"


def signing_input(
    sender: str,
    device: str,
    recipient: str,
    nonce: bytes,
    seq: int,
    ts: float,
    digest: bytes,
    cids: tuple[str, ...] = (),
) -> bytes:
    """What the device signs: the whole frame, the ciphertext through its hash.

    ``digest`` = SHA-256(ciphertext, nonce, seq), so an auditor checks the signature from the ledger
    alone. ``ts`` counts as an IEEE-754 double, minus zero as zero.
    """
    return b"".join(
        (
            labelled(labels.FRAME, identifier(sender)),
            identifier(device),
            identifier(recipient),
            nonce,
            u64(seq),
            struct.pack(">d", ts + 0.0),
            digest,
            u16(len(cids)),
            *(b8(cid.encode("ascii")) for cid in cids),
        )
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """A SecureMessageV2. ``signature`` is empty until ``signed``."""

    sender: str
    device: str
    recipient: str
    ciphertext: bytes
    nonce: bytes
    seq: int
    ts: float
    cids: tuple[str, ...] = ()
    signature: bytes = b""
    claimed_hash: bytes = b""

    @property
    def hash(self) -> bytes:
        """SHA-256(ciphertext, nonce, seq as 8 bytes), computed, not believed."""
        return message_hash(self.ciphertext, self.nonce, self.seq)

    @property
    def signing_input(self) -> bytes:
        return signing_input(
            self.sender,
            self.device,
            self.recipient,
            self.nonce,
            self.seq,
            self.ts,
            self.hash,
            self.cids,
        )

    def signed(self, seed: bytes) -> Frame:
        """With the Ed25519 signature of the device whose seed this is."""
        return replace(self, signature=primitives.ed25519_sign(seed, self.signing_input))

    def verify(self, public: bytes) -> None:
        """Check hash and signature. Raises HashMismatch or BadClassicalSignature."""
        if self.claimed_hash and not hmac.compare_digest(self.claimed_hash, self.hash):
            raise HashMismatch("the frame's hash is not its own")
        primitives.ed25519_verify(public, self.signature, self.signing_input)

    def to_wire(self) -> dict[str, Any]:
        """The CHAT_MESSAGE fields, ready for JSON."""
        fields: dict[str, Any] = {
            "type": _TYPE,
            "sender": self.sender,
            "device": self.device,
            "recipient": self.recipient,
            "ciphertext": b64encode(self.ciphertext).decode(),
            "nonce": b64encode(self.nonce).decode(),
            "seq": self.seq,
            "ts": self.ts,
            "hash": b64encode(self.hash).decode(),
            "signature": b64encode(self.signature).decode(),
        }
        if self.cids:
            fields["cids"] = list(self.cids)
        return fields

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> Frame:
        """A frame from a delivered CHAT_MESSAGE; the server's own fields are ignored.

        Raises DecodeError by the rules that the server keeps too. Nothing is verified yet.
        """
        if fields.get("type", _TYPE) != _TYPE:
            raise DecodeError("not a CHAT_MESSAGE")
        names = wire.ChatMessage.__struct_fields__
        try:
            message = msgspec.convert(
                {name: fields[name] for name in names if name in fields}, wire.ChatMessage
            )
            if not isinstance(message.sender, str):
                raise DecodeError("a delivered frame names its sender")
            valid = wire.validate(message, canonical(message.sender, "sender"))
        except WireHashMismatch:
            raise HashMismatch("the frame's hash is not its own") from None
        except (msgspec.ValidationError, Refusal):
            raise DecodeError("not a SecureMessageV2") from None
        return cls(
            sender=valid.sender,
            device=valid.device,
            recipient=valid.recipient,
            ciphertext=wire.decode_base64(valid.ciphertext, "ciphertext"),
            nonce=wire.decode_base64(valid.nonce, "nonce"),
            seq=valid.seq,
            ts=valid.ts,
            cids=valid.cids,
            signature=wire.decode_base64(valid.signature, "signature"),
            claimed_hash=wire.decode_base64(valid.hash, "hash"),
        )

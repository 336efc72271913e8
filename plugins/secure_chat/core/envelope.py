"""SecureMessageV2: the envelope as it came, and as it is once every rule has passed.

Here are the validation rules of SPEC.md, "Envelope", and the message hash. What the ciphertext
holds is not known here, nor which frames carry an envelope (``frames.py``).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import math
import re
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.sequence import Stream, stream_of
from plugins.secure_chat.errors import HashMismatch, InvalidMessage, MessageTooLarge

NONCE_SIZE: Final = 12  # AES-GCM's own (NIST SP 800-38D section 5.2.1.1)
HASH_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64  # Ed25519 (RFC 8032)
MIN_CIPHERTEXT: Final = 16  # a GCM tag over nothing
MAX_CIPHERTEXT: Final = 1 << 20
MAX_SEQ: Final = (1 << 53) - 1  # the largest integer that JavaScript counts to
MAX_CIDS: Final = 64
DEFAULT_DEVICE: Final = "0"
# Of base64, by how many bytes are over in the last quantum: those whose unused bits are zero.
_LAST_DIGITS: Final = ("", "AQgw", "AEIMQUYcgkosw048")
# CIDv1, raw codec, sha2-256, base32: 'b' and 58 digits for 36 bytes.
CID: Final = re.compile(r"bafkrei[a-z2-7]{52}", re.ASCII)


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A CHAT_MESSAGE frame as a client sends it; the types are right, nothing else is checked."""

    recipient: str
    ciphertext: str
    nonce: str
    seq: int
    ts: int | float
    hash: str
    type: Literal["CHAT_MESSAGE"] | UnsetType = UNSET
    device: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    cids: list[str] | UnsetType = UNSET
    sender: str | UnsetType = UNSET


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A valid SecureMessageV2. Byte strings are in canonical base64, identifiers canonical."""

    sender: str
    device: str
    recipient: str
    ciphertext: str
    nonce: str
    seq: int
    ts: int | float
    hash: str
    signature: str  # empty when the sender did not sign
    cids: tuple[str, ...]
    size: int  # of the ciphertext, bytes

    @property
    def stream(self) -> Stream:
        return stream_of(self.sender, self.device, self.recipient)


def message_hash(ciphertext: bytes, nonce: bytes, seq: int) -> bytes:
    """SHA-256(ciphertext || nonce || seq as 8 bytes big-endian): 32 bytes.

    Unambiguous because nonce and seq have fixed widths; ``nonce`` must be 12 bytes.
    """
    if len(nonce) != NONCE_SIZE:
        raise ValueError("a nonce has 12 bytes")
    return hashlib.sha256(b"".join((ciphertext, nonce, seq.to_bytes(8, "big")))).digest()


def base64_size(size: int) -> int:
    """Characters of padded base64 for ``size`` bytes."""
    return 4 * ((size + 2) // 3)


def decode_base64(text: str, field: str) -> bytes:
    """Strict base64: standard alphabet, padded, no bit set that decoding drops (RFC 4648 3.5)."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also what a character outside ASCII raises
        raise InvalidMessage(field, f"{field} is not base64") from None
    # Without a final newline or stray padding the only freedom left is in the last digit.
    over = len(data) % 3
    if len(text) != base64_size(len(data)) or (over and text[over - 4] not in _LAST_DIGITS[over]):
        raise InvalidMessage(field, f"{field} is not canonical base64")
    return data


def validate(frame: ChatMessage, wallet: str, max_ciphertext: int = MAX_CIPHERTEXT) -> Envelope:
    """Check every rule over ``frame``, sent by the authenticated ``wallet`` (canonical).

    Raises InvalidMessage (naming the field), MessageTooLarge or HashMismatch.
    """
    if frame.sender is not UNSET and canonical(frame.sender, "sender") != wallet:
        raise InvalidMessage("sender", "sender must be the authenticated wallet")
    recipient = canonical(frame.recipient, "recipient")
    device = DEFAULT_DEVICE
    if frame.device is not UNSET:
        device = canonical(frame.device, "device")
    seq = frame.seq
    if not 1 <= seq <= MAX_SEQ:
        raise InvalidMessage("seq", "seq must be an integer from 1 to 2^53-1")
    ts = _finite(frame.ts)
    if len(frame.ciphertext) > base64_size(max_ciphertext):
        raise MessageTooLarge(f"ciphertext is over {max_ciphertext} bytes")
    nonce = decode_base64(frame.nonce, "nonce")
    if len(nonce) != NONCE_SIZE:
        raise InvalidMessage("nonce", "nonce must be 12 bytes")
    ciphertext = decode_base64(frame.ciphertext, "ciphertext")
    if len(ciphertext) > max_ciphertext:
        raise MessageTooLarge(f"ciphertext is over {max_ciphertext} bytes")
    if len(ciphertext) < MIN_CIPHERTEXT:
        raise InvalidMessage("ciphertext", "ciphertext must be at least 16 bytes")
    claimed = decode_base64(frame.hash, "hash")
    if len(claimed) != HASH_SIZE:
        raise InvalidMessage("hash", "hash must be 32 bytes")
    if not hmac.compare_digest(claimed, message_hash(ciphertext, nonce, seq)):
        raise HashMismatch("hash is not that of ciphertext, nonce and seq")
    signature = ""
    if frame.signature is not UNSET:
        signature = frame.signature
        if len(decode_base64(signature, "signature")) != SIGNATURE_SIZE:
            raise InvalidMessage("signature", "signature must be 64 bytes")
    return Envelope(
        sender=wallet,
        device=device,
        recipient=recipient,
        ciphertext=frame.ciphertext,
        nonce=frame.nonce,
        seq=seq,
        ts=ts,
        hash=frame.hash,
        signature=signature,
        cids=() if frame.cids is UNSET else _cids(frame.cids),
        size=len(ciphertext),
    )


def _finite(ts: float) -> float:
    """``ts`` as it goes on; integers beyond 2^53 become the double that JavaScript would read."""
    if isinstance(ts, int):
        if -MAX_SEQ <= ts <= MAX_SEQ:
            return ts
        try:
            return float(ts)
        except OverflowError:
            raise InvalidMessage("ts", "ts must be a finite number") from None
    if not math.isfinite(ts):
        raise InvalidMessage("ts", "ts must be a finite number")
    return ts


def _cids(cids: list[str]) -> tuple[str, ...]:
    if not 1 <= len(cids) <= MAX_CIDS:
        raise InvalidMessage("cids", f"cids must name 1 to {MAX_CIDS} blocks")
    if any(CID.fullmatch(cid) is None for cid in cids):
        raise InvalidMessage("cids", "each of cids must be a base32 CIDv1 of a raw sha2-256 block")
    if len(set(cids)) != len(cids):
        raise InvalidMessage("cids", "cids must not name a block twice")
    return tuple(cids)

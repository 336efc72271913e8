"""The envelope: the bytes of ``ciphertext``, and the sealing of one message's content.

The content is encrypted once under a fresh key; the key is wrapped for each device. Here are the
layout, the associated data, the key commitment and the padding. Wrapping is ``session.py``'s, and
who gets a wrap is ``messenger.py``'s.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import (
    SUITE,
    VERSION,
    Reader,
    identifier,
    is_wallet,
    u8,
    u16,
    u32,
    u64,
)
from plugins.secure_chat.crypto.errors import (
    CommitmentMismatch,
    ContentTooLarge,
    DecodeError,
    DecryptError,
    PostQuantumMissing,
)
from plugins.secure_chat.crypto.pqxdh import HANDSHAKE, SESSION_ID, Handshake
from plugins.secure_chat.crypto.primitives import labelled
from plugins.secure_chat.crypto.ratchet import HEADER, Header
from plugins.secure_chat.crypto.session import Wrapped

NO_PREVIOUS: Final = bytes(32)
ADDRESS: Final = 16  # leading bytes of a certificate id: who a wrap is for
# With the largest content and a handshake in every wrap the ciphertext still fits 1 MiB.
MAX_CONTENT: Final = (1 << 19) - 4
MAX_WRAPS: Final = 400
MIN_PADDED: Final = 256  # most chat messages are shorter: they all look the same
_SEALED_KEY: Final = primitives.KEY + primitives.TAG
_PLAIN, _OPENING = 1, 2  # kinds of wrap: in a known session, or opening one


def conversation(sender: str, recipient: str) -> bytes:
    """The conversation of a frame: of two wallets (in ascending order), or of a thread."""
    if is_wallet(recipient):
        members = b"".join(identifier(wallet) for wallet in sorted((sender, recipient)))
        body = u8(1) + members
    else:
        body = u8(2) + identifier(recipient)
    return primitives.sha256(labelled(labels.CONVERSATION, body))


def associated_data(sender: str, device: str, recipient: str, seq: int, previous: bytes) -> bytes:
    """What every part of the message authenticates: suite, conversation, sender, device,
    recipient, seq, and the hash of the sender's previous message in this stream."""
    return b"".join(
        (
            labelled(labels.MESSAGE, u16(SUITE)),
            conversation(sender, recipient),
            identifier(sender),
            identifier(device),
            identifier(recipient),
            u64(seq),
            previous,
        )
    )


def content_keys(key: bytes, message_digest: bytes) -> tuple[bytes, bytes]:
    """From the wrapped key: the AES key and the commitment, both tied to the message (A11)."""
    output = primitives.hkdf(message_digest, key, labels.CONTENT_KEY, 64)
    return output[:32], output[32:]


def padded_size(size: int) -> int:
    """The PADME size for ``size`` bytes, at least MIN_PADDED: at most 12 % more, and the length
    tells O(log log size) bits (Nikitin et al., PETS 2019)."""
    if size <= MIN_PADDED:
        return MIN_PADDED
    exponent = size.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (size + mask) & ~mask


def pad(content: bytes) -> bytes:
    """The content's length in 4 bytes, the content, zeros up to the padded size."""
    if len(content) > MAX_CONTENT:
        raise ContentTooLarge(f"a message holds at most {MAX_CONTENT} bytes")
    framed = u32(len(content)) + content
    return framed.ljust(padded_size(len(framed)), b"\0")


def unpad(padded: bytes) -> bytes:
    """Undo ``pad``; raises DecodeError unless it is what ``pad`` gives."""
    reader = Reader(padded)
    content = reader.b32(MAX_CONTENT)
    if padded != pad(content):
        raise DecodeError("the padding is not canonical")
    return content


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parsed ``ciphertext``. ``wraps``: address -> wrapped key, in ascending order.
    ``initiation``: ML-DSA-65 signature, there exactly when a wrap opens a session."""

    previous: bytes
    commitment: bytes
    initiation: bytes
    wraps: dict[bytes, Wrapped]
    payload: bytes

    @property
    def wrap_section(self) -> bytes:
        return encode_wraps(self.wraps)

    def encode(self) -> bytes:
        return b"".join(
            (
                u8(VERSION),
                u16(SUITE),
                self.previous,
                self.commitment,
                u8(bool(self.initiation)),
                self.initiation,
                self.wrap_section,
                self.payload,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Raises DecodeError, or PostQuantumMissing when a session is opened unsigned."""
        reader = Reader(data)
        reader.version()
        reader.suite()
        previous, commitment = reader.take(32), reader.take(32)
        initiation = reader.take(primitives.MLDSA_SIGNATURE) if reader.flag() else b""
        wraps = _read_wraps(reader)
        payload = reader.rest()
        if len(payload) < MIN_PADDED + primitives.TAG:
            raise DecodeError("the payload is too short")
        opens = any(one.handshake is not None for one in wraps.values())
        if opens and not initiation:
            raise PostQuantumMissing("a session is opened without an ML-DSA-65 signature")
        if initiation and not opens:
            raise DecodeError("an initiation is signed where no session is opened")
        return cls(previous, commitment, initiation, wraps, payload)


def initiation_body(message_digest: bytes, commitment: bytes, wrap_section: bytes) -> bytes:
    """What a device signs with ML-DSA-65 when a message opens sessions: one signature for all."""
    return message_digest + commitment + primitives.sha256(wrap_section)


def encode_wraps(wraps: dict[bytes, Wrapped]) -> bytes:
    """The wrap section: a count, then the wraps in ascending order of their addresses."""
    parts = [u16(len(wraps))]
    for address in sorted(wraps):
        one = wraps[address]
        kind = _PLAIN if one.handshake is None else _OPENING
        parts += [address, u8(kind), one.session]
        if one.handshake is not None:
            parts.append(one.handshake.encode())
        parts += [one.header.encode(), one.sealed]
    return b"".join(parts)


def _read_wraps(reader: Reader) -> dict[bytes, Wrapped]:
    count = reader.u16()
    if not 1 <= count <= MAX_WRAPS:
        raise DecodeError(f"an envelope has 1 to {MAX_WRAPS} wraps")
    wraps: dict[bytes, Wrapped] = {}
    last = b""
    for _ in range(count):
        address, kind = reader.take(ADDRESS), reader.u8()
        if kind not in (_PLAIN, _OPENING):
            raise DecodeError("not a kind of wrap")
        if address <= last:
            raise DecodeError("the wraps are not in ascending order")
        last = address
        session = reader.take(SESSION_ID)
        handshake = Handshake.decode(reader.take(HANDSHAKE)) if kind == _OPENING else None
        header = Header.decode(reader.take(HEADER))
        wraps[address] = Wrapped(session, handshake, header, reader.take(_SEALED_KEY))
    return wraps


def seal_payload(key: bytes, nonce: bytes, data: bytes, content: bytes) -> bytes:
    """Encrypt padded content under a content key that is used for this message alone."""
    return primitives.seal(key, nonce, pad(content), data)


def open_payload(wrapped_key: bytes, nonce: bytes, data: bytes, envelope: Envelope) -> bytes:
    """The content. Raises CommitmentMismatch, DecryptError or DecodeError."""
    key, commitment = content_keys(wrapped_key, primitives.sha256(data))
    if not hmac.compare_digest(commitment, envelope.commitment):
        raise CommitmentMismatch("the key is not the one that the sender committed to")
    try:
        return unpad(primitives.unseal(key, nonce, envelope.payload, data))
    except DecodeError as error:
        raise DecryptError(str(error)) from None

"""Attachments: content cut into encrypted blocks that anybody may store and nobody can read.

Each block is one raw IPFS block, named by its CIDv1. The descriptor, with the key, travels inside a
message; the frame's ``cids`` name the blocks. Fetching and storing are the client's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import VERSION, Reader, u8, u16, u32, u64
from plugins.secure_chat.crypto.errors import ContentTooLarge, DecodeError, DecryptError
from plugins.secure_chat.crypto.primitives import Randomness, labelled

MAX_BLOCK: Final = 262_144  # up to here a raw block is the whole file (IPFS's default chunk)
CHUNK: Final = MAX_BLOCK - primitives.TAG
MAX_BLOCKS: Final = 64  # what a frame's cids may name: 16 MiB in all
_CID_PREFIX: Final = b"\x01\x55\x12\x20"  # CIDv1, raw codec, sha2-256, 32 bytes


def cid(block: bytes) -> str:
    """The CIDv1 of a raw block: 'b' and lower-case base32 without padding."""
    digest = _CID_PREFIX + hashlib.sha256(block).digest()
    return "b" + base64.b32encode(digest).decode().lower().rstrip("=")


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a message carries: a key for this attachment alone, the size, a CID for each block."""

    key: bytes = field(repr=False)
    size: int
    cids: tuple[str, ...]

    def encode(self) -> bytes:
        digests = (_digest_of(name) for name in self.cids)
        return b"".join((u8(VERSION), self.key, u64(self.size), u16(len(self.cids)), *digests))

    @classmethod
    def decode(cls, data: bytes) -> Attachment:
        """Raises DecodeError."""
        reader = Reader(data)
        reader.version()
        key, size, count = reader.take(primitives.KEY), reader.u64(), reader.u16()
        if not 1 <= count <= MAX_BLOCKS or _blocks(size) != count:
            raise DecodeError("the number of blocks does not fit the size")
        digests = tuple(reader.take(32) for _ in range(count))
        reader.end()
        return cls(key, size, tuple(_cid_of(digest) for digest in digests))


def seal(content: bytes, randomness: Randomness) -> tuple[Attachment, list[bytes]]:
    """Encrypt ``content`` under a fresh key: the descriptor, and its blocks in order."""
    if len(content) > CHUNK * MAX_BLOCKS:
        raise ContentTooLarge(f"an attachment holds at most {CHUNK * MAX_BLOCKS} bytes")
    key, count = randomness(primitives.KEY), _blocks(len(content))
    block_key = _block_key(key, len(content))
    blocks = [
        primitives.seal(
            block_key,
            _nonce(index),
            content[index * CHUNK : (index + 1) * CHUNK],
            _data(index, count),
        )
        for index in range(count)
    ]
    return Attachment(key, len(content), tuple(cid(block) for block in blocks)), blocks


def open_(attachment: Attachment, fetch: Callable[[str], bytes]) -> Iterator[bytes]:
    """The content, block by block; every block is hashed again before it is decrypted (A20).

    Raises DecryptError. The content is whole only when the iterator has ended.
    """
    block_key, count = _block_key(attachment.key, attachment.size), len(attachment.cids)
    for index, name in enumerate(attachment.cids):
        block = fetch(name)
        if not hmac.compare_digest(cid(block), name):
            raise DecryptError("a block is not the one its CID names")
        plain = primitives.unseal(block_key, _nonce(index), block, _data(index, count))
        expected = min(CHUNK, attachment.size - index * CHUNK)
        if len(plain) != expected:
            raise DecryptError("a block has another size than it should")
        yield plain


def _blocks(size: int) -> int:
    return max(1, -(-size // CHUNK))


def _block_key(key: bytes, size: int) -> bytes:
    return primitives.hkdf(u64(size), key, labels.ATTACHMENT_KEY, 32)


def _nonce(index: int) -> bytes:
    """The block's index: the key is used for one attachment alone, so no pair comes twice."""
    return bytes(8) + u32(index)


def _data(index: int, count: int) -> bytes:
    return labelled(labels.ATTACHMENT_BLOCK, u32(index) + u32(count))


def _digest_of(name: str) -> bytes:
    raw = base64.b32decode(name[1:].upper() + "=" * (-(len(name) - 1) % 8))
    return raw[len(_CID_PREFIX) :]


def _cid_of(digest: bytes) -> str:
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().lower().rstrip("=")

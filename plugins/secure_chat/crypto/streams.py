"""Streams: what has been seen of one sender's messages, so that drops and repeats show (A4, A5).

A stream is (sender, device, recipient). Its messages carry the hash of the one before, so what is
missing shows even where numbers were passed over lawfully.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from plugins.secure_chat.crypto.codec import Reader, u16, u64
from plugins.secure_chat.crypto.envelope import NO_PREVIOUS
from plugins.secure_chat.crypto.errors import DecodeError, Replayed

# Ranges of missing numbers kept for late messages; beyond, the oldest is given up for lost.
MAX_MISSING: Final = 64


class Continuity(Enum):
    """How a message follows what was seen of its stream. Only the first two are as they should be;
    JOINED is what a device sees that was added, or came back, in mid-stream."""

    FIRST = "first"
    CONTINUOUS = "continuous"
    JOINED = "joined"
    GAP = "gap"  # a message before this one is missing: dropped, withheld or late
    LATE = "late"  # one of those missing before


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Our own stream to one recipient: the last number used and that message's hash."""

    seq: int = 0
    hash: bytes = NO_PREVIOUS

    def encode(self) -> bytes:
        return u64(self.seq) + self.hash

    @classmethod
    def decode(cls, data: bytes) -> Outgoing:
        reader = Reader(data)
        stream = cls(reader.u64(), reader.take(32))
        reader.end()
        return stream


@dataclass(frozen=True, slots=True)
class Incoming:
    """What was seen of a stream. ``missing``: ranges of numbers below ``seq``, both ends in."""

    seq: int = 0
    hash: bytes = NO_PREVIOUS
    missing: tuple[tuple[int, int], ...] = ()

    def check(self, seq: int) -> None:
        """Raises Replayed unless ``seq`` is above all seen, or missing."""
        if seq <= self.seq and not any(low <= seq <= high for low, high in self.missing):
            raise Replayed("this number of the stream was taken, or given up")

    def take(self, seq: int, previous: bytes, digest: bytes) -> tuple[Continuity, Incoming]:
        """Take an authenticated message: how it follows, and the stream after it."""
        self.check(seq)
        if seq <= self.seq:
            return Continuity.LATE, Incoming(self.seq, self.hash, _without(self.missing, seq))
        missing = self.missing
        if seq > self.seq + 1:
            missing = (*missing, (self.seq + 1, seq - 1))[-MAX_MISSING:]
        if previous == self.hash:
            # Nothing lies between by the sender's own word: the numbers passed over are unused.
            missing = self.missing
            how = Continuity.FIRST if previous == NO_PREVIOUS else Continuity.CONTINUOUS
        else:
            how = Continuity.GAP if self.seq else Continuity.JOINED
        return how, Incoming(seq, digest, missing)

    def encode(self) -> bytes:
        ranges = b"".join(u64(low) + u64(high) for low, high in self.missing)
        return u64(self.seq) + self.hash + u16(len(self.missing)) + ranges

    @classmethod
    def decode(cls, data: bytes) -> Incoming:
        reader = Reader(data)
        seq, digest, count = reader.u64(), reader.take(32), reader.u16()
        if count > MAX_MISSING:
            raise DecodeError("too many missing ranges")
        missing = tuple((reader.u64(), reader.u64()) for _ in range(count))
        reader.end()
        return cls(seq, digest, missing)


def _without(ranges: tuple[tuple[int, int], ...], seq: int) -> tuple[tuple[int, int], ...]:
    parts: list[tuple[int, int]] = []
    for low, high in ranges:
        if low <= seq <= high:
            parts += [one for one in ((low, seq - 1), (seq + 1, high)) if one[0] <= one[1]]
        else:
            parts.append((low, high))
    return tuple(parts[-MAX_MISSING:])

"""What a sequence number means: the decision, and nothing else (SPEC.md, "Sequence").

Pure and free of simulation: it obeys the host's determinism rules, for it decides order.
Reading what a stream has committed is the caller's; here is only the rule over it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.errors import ReplayedSequence, SequenceConflict


class Stream(NamedTuple):
    """Sequence numbers rise within one stream, and streams do not know of each other."""

    sender: str
    device: str
    recipient: str


@functools.lru_cache(maxsize=8192)  # the same streams go on and on; one object is found fastest
def stream_of(sender: str, device: str, recipient: str) -> Stream:
    return Stream(sender, device, recipient)


@dataclass(frozen=True, slots=True)
class Logged:
    """A message that this stream has in the ledger: its hash (base64) and its receipt."""

    hash: str
    receipt: Receipt


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """The message is new. ``gap`` numbers were passed over between it and the last one."""

    gap: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The message is in the ledger already; its original receipt is the answer."""

    receipt: Receipt


def decide(last_seq: int, seq: int, digest: str, logged: Logged | None) -> Fresh | Duplicate:
    """Decide on ``seq`` in a stream whose last committed number is ``last_seq`` (0: none).

    ``logged`` is what the stream has at ``seq``; it is looked at only when seq <= last_seq.
    Raises SequenceConflict (another message holds seq) or ReplayedSequence (seq was passed over).
    """
    if seq > last_seq:
        return Fresh(gap=seq - last_seq - 1)
    if logged is None:
        raise ReplayedSequence(last_seq)
    if logged.hash == digest:
        return Duplicate(logged.receipt)
    raise SequenceConflict(last_seq)

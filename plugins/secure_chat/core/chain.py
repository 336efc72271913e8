"""The chain: what makes a run of ledger lines sound, folded line by line into a verdict.

A line is sound when it (1) is a record of a known dialect, (2) follows the record before it,
(3) has the hash of its contents, (4) is byte for byte what its dialect writes, (5) has the shape of
its type, where the type is ours, (6) is not foreseen to be wrong (by whoever has read more than
lines in a row: ``audit/``), and, when it is a MESSAGE of ours, (7) stands above all before it in
its stream, and (8) is refused by no check that is given. The first defect, in this order, is the
finding, and ends the fold. Dialects may change from line to line.

What a chain cannot show is that its end is missing, or that all of it was written anew: compare it
with a head that was saved elsewhere (``expected``).

Pure: lines come in as bytes. Where they come from, and how many cores read them, is ``audit/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from plugins.secure_chat.core.dialects import Family, Line, NotARecord, parse
from plugins.secure_chat.core.events import SHAPES
from plugins.secure_chat.core.identifiers import IDENTIFIER
from plugins.secure_chat.core.message_event import (
    MESSAGE,
    MalformedMessage,
    MessageEvent,
    MessageKind,
    claims_to_be_secure,
    from_record,
    history_kind,
)
from plugins.secure_chat.core.records import (
    EMPTY,
    GENESIS_PREV_HASH,
    Head,
    MalformedEvent,
    Record,
)

MAX_LINE: Final = 16 << 20  # bytes; a record of ours is under 8 KiB, a host's holds no contents
MAX_EVENT_TYPES: Final = 256  # counted by name; hosts use a dozen, a forger must not fill memory

SignatureCheck: TypeAlias = Callable[[Record, MessageEvent], bool | None]
"""Judges the signature of a signed message at its position: True or False, None when it cannot.

It must be picklable and depend on its arguments alone: lines are verified out of order, on several
cores. What it needs to know of the ledger (devices) is gathered before.
"""

MessageCheck: TypeAlias = Callable[[Record, MessageEvent], str | None]
"""Holds a message to the events before it: what it contradicts, or None. As a SignatureCheck."""


class Defect(StrEnum):
    """What is wrong with a line; in the order in which it is looked for."""

    RECORD = "record"  # no record of any dialect
    LINK = "link"  # does not follow the line before it
    HASH = "hash"  # its hash is not that of its contents
    BYTES = "bytes"  # says the same in bytes that its dialect does not write
    HEAD = "head"  # is not, or is missing, where a saved head has it
    EVENT = "event"  # a malformed event of another type that is ours
    CHECKPOINT = "checkpoint"  # is not, or is missing, where a signed checkpoint has it
    PROOF = "proof"  # is not the record that was proven to be there
    HISTORY = "history"  # contradicts the events before it
    STATEMENT = "statement"  # logs a statement whose signatures do not verify
    MESSAGE = "message"  # a malformed MESSAGE of ours
    SEQUENCE = "sequence"  # its seq does not rise above the stream's last
    SIGNATURE = "signature"  # refused by the signature check
    TORN = "torn"  # the last line has no newline


@dataclass(frozen=True, slots=True)
class Finding:
    """The first bad line. ``reason`` completes "line N: ..." and holds no user data."""

    position: int
    defect: Defect
    reason: str

    @property
    def index(self) -> int:
        """The line's number counted from 0."""
        return self.position - 1

    def __str__(self) -> str:
        return f"line {self.position} (index {self.index}): {self.reason}"


@dataclass(slots=True)
class Tally:
    """What was counted over sound records. Its size does not depend on how many there are."""

    dialects: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    unnamed_events: int = 0  # of types beyond MAX_EVENT_TYPES, or that are no identifier
    messages: dict[str, int] = field(default_factory=dict)
    signed: int = 0  # messages of ours
    unsigned: int = 0
    verified: int = 0  # of the signed
    other_signatures: int = 0  # on records that are no message of ours; nothing here can judge them
    ambiguous: int = 0  # v2-v7 hash fields joined by '|'; with one inside, borders are not fixed


class Chain:
    """A run of sound lines: from the genesis on, or from the middle of a ledger.

    State grows with the number of streams (one string and one integer each) and with nothing else.
    """

    __slots__ = (
        "event_hash",
        "finding",
        "first_prev_hash",
        "first_seqs",
        "last_seqs",
        "position",
        "size",
        "start",
        "tally",
    )

    def __init__(self, after: Head = EMPTY) -> None:
        self.start = after.position
        self.position = after.position
        self.size = 0  # bytes of the lines taken, with their newlines
        self.event_hash: str | None = after.event_hash
        self.first_prev_hash: str | None = None
        self.first_seqs: dict[str, int] | None = None
        self.last_seqs: dict[str, int] = {}
        self.tally = Tally()
        self.finding: Finding | None = None

    @classmethod
    def from_the_middle(cls, position: int) -> Chain:
        """A run that starts after the record at ``position``, of which nothing else is known.

        Its first line is taken to follow; the chain that it joins finds out whether it does.
        """
        chain = cls(Head(position, ""))
        chain.event_hash = None
        chain.first_seqs = {}
        return chain

    @property
    def head(self) -> Head:
        """The last sound record. Only of a chain whose beginning is known, or that has lines."""
        if self.event_hash is None:
            raise ValueError("a run from the middle without lines has no head")
        return Head(self.position, self.event_hash)

    @property
    def streams(self) -> int:
        return len(self.last_seqs)

    def extend(
        self,
        lines: Iterable[bytes],
        *,
        expected: Head | None = None,
        check_signature: SignatureCheck | None = None,
        check_message: MessageCheck | None = None,
        foreseen: Finding | None = None,
    ) -> Finding | None:
        """Take ``lines`` (without newlines) up to the first bad one, which is the finding.

        ``expected``: a saved head that the record at its position must bear out. ``foreseen``: the
        finding on its line, when that is sound otherwise.
        """
        tally = self.tally
        for text in lines:
            if self.finding is not None:
                break
            position = self.position + 1
            line = follow(text, position, self.event_hash)
            if isinstance(line, Finding):
                self.finding = line
                break
            record = line.record
            if (
                expected is not None
                and position == expected.position
                and record.event_hash != expected.event_hash
            ):
                self.finding = Finding(
                    position, Defect.HEAD, "it is not the record of the saved head"
                )
                break
            if foreseen is not None and position == foreseen.position:
                self.finding = foreseen
                break
            if record.event_type == MESSAGE:
                self.finding = self._take_message(record, check_signature, check_message)
                if self.finding is not None:
                    break
            elif record.event_type in SHAPES:
                try:
                    SHAPES[record.event_type](record)
                except MalformedEvent as error:
                    self.finding = Finding(
                        position, Defect.EVENT, f"a malformed {record.event_type}: {error}"
                    )
                    break
            elif record.signature:
                tally.other_signatures += 1
            family = line.dialect.family
            tally.dialects[family] = tally.dialects.get(family, 0) + 1
            if family is not Family.V1 and ("|" in record.wallet or "|" in record.event_type):
                tally.ambiguous += 1
            self._count_event(record.event_type, 1)
            if position == self.start + 1:
                self.first_prev_hash = record.prev_hash
            self.position = position
            self.size += len(text) + 1
            self.event_hash = record.event_hash
        return self.finding

    def join(self, piece: Chain) -> bool:
        """Append a run from the middle. False, and nothing is taken, when it does not simply fit.

        Then its lines must be given to ``extend``, which says which of them is bad and why.
        """
        if piece.start != self.position or piece.first_seqs is None:
            raise ValueError("the piece does not start where this chain ends")
        if self.finding is not None or piece.finding is not None:
            return False
        if piece.event_hash is None:
            return True
        if piece.first_prev_hash != self.event_hash:
            return False
        last_seqs = self.last_seqs
        for stream, seq in piece.first_seqs.items():
            if seq <= last_seqs.get(stream, 0):
                return False
        last_seqs.update(piece.last_seqs)
        self._add(piece.tally)
        self.position = piece.position
        self.size += piece.size
        self.event_hash = piece.event_hash
        return True

    def finish(self, expected: Head | None) -> Finding | None:
        """There are no more lines: a saved head beyond the last one is a finding."""
        if self.finding is None and expected is not None and expected.position > self.position:
            self.finding = Finding(
                self.position + 1,
                Defect.HEAD,
                f"it is missing: the saved head is at position {expected.position}",
            )
        return self.finding

    def snapshot(self) -> dict[str, Any]:
        """All that is needed to go on from here, as JSON values. Only of a sound chain that began
        at the genesis."""
        if self.finding is not None or self.start != 0 or self.event_hash is None:
            raise ValueError("only a sound chain from the genesis on is carried over")
        return {
            "position": self.position,
            "hash": self.event_hash,
            "size": self.size,
            "streams": self.last_seqs,
            "tally": asdict(self.tally),
        }

    @classmethod
    def restore(cls, stored: dict[str, Any]) -> Chain:
        """The chain that ``snapshot`` gave. Raises ValueError, KeyError, TypeError or
        OverflowError."""
        chain = cls()
        chain.position, chain.size = int(stored["position"]), int(stored["size"])
        chain.event_hash = str(stored["hash"])
        chain.last_seqs = {str(stream): int(seq) for stream, seq in stored["streams"].items()}
        chain.tally = msgspec.convert(stored["tally"], Tally)
        return chain

    def _take_message(
        self,
        record: Record,
        check_signature: SignatureCheck | None,
        check_message: MessageCheck | None,
    ) -> Finding | None:
        tally = self.tally
        if not claims_to_be_secure(record.metadata):
            kind = history_kind(record)
            if record.signature and kind is not MessageKind.PROTOTYPE:
                tally.other_signatures += 1
            tally.messages[kind] = tally.messages.get(kind, 0) + 1
            return None
        position = self.position + 1
        try:
            event = from_record(record)
        except MalformedMessage as error:
            return Finding(position, Defect.MESSAGE, f"a malformed MESSAGE: {error}")
        stream = f"{event.sender} {event.device} {event.recipient}"  # no identifier has a space
        last_seq = self.last_seqs.get(stream, 0)
        if event.seq <= last_seq:
            return Finding(
                position,
                Defect.SEQUENCE,
                f"seq {event.seq} is not above {last_seq}, the last of its stream",
            )
        verdict: bool | None = None
        if record.signature and check_signature is not None:
            verdict = check_signature(record, event)
            if verdict is False:
                return Finding(position, Defect.SIGNATURE, "its signature does not verify")
        if check_message is not None and (reason := check_message(record, event)) is not None:
            return Finding(position, Defect.HISTORY, reason)
        if last_seq == 0 and self.first_seqs is not None:
            self.first_seqs[stream] = event.seq
        self.last_seqs[stream] = event.seq
        kind = MessageKind.SECURE
        tally.messages[kind] = tally.messages.get(kind, 0) + 1
        if record.signature:
            tally.signed += 1
            tally.verified += verdict is True
        else:
            tally.unsigned += 1
        return None

    def _count_event(self, name: str, count: int) -> None:
        events = self.tally.events
        if name in events:
            events[name] += count
        elif IDENTIFIER.fullmatch(name) is None or (
            # A run from the middle cannot know which names the chain before it had room for.
            self.first_seqs is None and len(events) >= MAX_EVENT_TYPES
        ):
            self.tally.unnamed_events += count
        else:
            events[name] = count

    def _add(self, other: Tally) -> None:
        tally = self.tally
        for family, count in other.dialects.items():
            tally.dialects[family] = tally.dialects.get(family, 0) + count
        for kind, count in other.messages.items():
            tally.messages[kind] = tally.messages.get(kind, 0) + count
        for name, count in other.events.items():
            self._count_event(name, count)
        tally.unnamed_events += other.unnamed_events
        tally.signed += other.signed
        tally.unsigned += other.unsigned
        tally.verified += other.verified
        tally.other_signatures += other.other_signatures
        tally.ambiguous += other.ambiguous


def follow(text: bytes, position: int, prev_hash: str | None) -> Line | Finding:
    """Steps (1) to (4): parse the line that should stand at ``position``, after ``prev_hash``.

    None for ``prev_hash`` leaves step (2) to the caller.
    """
    if len(text) > MAX_LINE:
        return Finding(position, Defect.RECORD, f"it is longer than {MAX_LINE} bytes")
    try:
        line = parse(text, position)
    except NotARecord as error:
        return Finding(position, Defect.RECORD, str(error))
    if prev_hash is not None and line.record.prev_hash != prev_hash:
        if line.record.prev_hash == GENESIS_PREV_HASH:
            return Finding(position, Defect.LINK, "it starts a new chain in the middle of this one")
        return Finding(position, Defect.LINK, "it does not follow the record before it")
    if not line.hash_is_right:
        return Finding(position, Defect.HASH, "its hash is not that of its contents")
    if not line.is_canonical:
        return Finding(position, Defect.BYTES, "its bytes are not those that its dialect writes")
    return line


def torn(text: bytes, position: int, prev_hash: str) -> Finding:
    """The finding for a last line without a newline: cut short, or whole but unfinished."""
    if isinstance(follow(text, position, prev_hash), Line):
        reason = "it is torn: the record is whole and its newline is missing"
    else:
        reason = f"it is torn: {len(text)} bytes without a newline"
    return Finding(position, Defect.TORN, reason)

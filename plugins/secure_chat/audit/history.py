"""What a ledger's rare events decide about its messages: read first, because lines are verified out
of order and on several cores.

Each fold takes the events of its types in order, says which of them contradicts those before it,
and gives a check for messages that workers can be sent. A fold is added to ``FOLDS``, one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.audit.threads import StageHistory, ThreadHistory
from plugins.secure_chat.core.chain import MAX_LINE, Defect, Finding, MessageCheck
from plugins.secure_chat.core.dialects import NotARecord, read
from plugins.secure_chat.core.events import SHAPES
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import MalformedEvent, Record

_CHUNK: Final = 64 << 10  # bytes: most are searched and passed over


class HistoryFold(Protocol):
    """What one kind of event decides. ``take`` is given well-formed records in ledger order."""

    types: frozenset[str]

    def take(self, record: Record) -> str | None:
        """Take the next event; the reason when it contradicts those before it."""

    def check(self) -> MessageCheck | None:
        """What messages must be held to, for every position at once; picklable. None: nothing."""


FOLDS: Final[tuple[Callable[[], HistoryFold], ...]] = (ThreadHistory, StageHistory)
"""The folds of every audit."""


@dataclass(frozen=True, slots=True)
class History:
    """What the events of a file say: the first one that contradicts, and the check for messages."""

    finding: Finding | None
    check_message: MessageCheck | None


@dataclass(frozen=True, slots=True)
class _All:
    """Several checks as one."""

    checks: tuple[MessageCheck, ...]

    def __call__(self, record: Record, event: MessageEvent) -> str | None:
        for check in self.checks:
            if (reason := check(record, event)) is not None:
                return reason
        return None


def events_of(file: LedgerFile, size: int, types: frozenset[str]) -> Iterator[Record]:
    """The well-formed records of ``types`` in the first ``size`` bytes, in order.

    Lines that are no records, or do not follow, are passed over: the audit names them.
    """
    if not types:
        return
    tag = re.compile(b'"(?:%s)"' % b"|".join(name.encode("ascii") for name in sorted(types)))
    for span in file.spans(size, _CHUNK, None):
        block = file.read(span.start, span.end)
        if tag.search(block) is None:
            continue
        for position, line in enumerate(block.split(b"\n"), start=span.position + 1):
            if len(line) <= MAX_LINE and tag.search(line) is not None:
                record = _event(line, position)
                if record is not None and record.event_type in types:
                    yield record


def _event(line: bytes, position: int) -> Record | None:
    try:
        record = read(line, position)
        if record.event_type in SHAPES:
            SHAPES[record.event_type](record)
    except (NotARecord, MalformedEvent):
        return None
    return record


def history_of(file: LedgerFile, size: int, folds: Sequence[HistoryFold]) -> History:
    """Fold the events of the file's first ``size`` bytes."""
    types = frozenset(name for fold in folds for name in fold.types)
    for record in events_of(file, size, types):
        for fold in folds:
            if record.event_type in fold.types and (reason := fold.take(record)) is not None:
                finding = Finding(record.position, Defect.HISTORY, reason)
                return History(finding, _joined(folds))
    return History(None, _joined(folds))


def _joined(folds: Sequence[HistoryFold]) -> MessageCheck | None:
    checks = tuple(check for fold in folds if (check := fold.check()) is not None)
    return _All(checks) if checks else None

"""Fold a ledger file into its epochs, offline.

The file is not trusted. What an audit says of it comes first (``audit_ledger``); here it is read
again up to the head that the audit found. Each line must follow the one before it and have the
right hash, and the last must be that head: so exactly what was audited is rewarded, whoever writes
to the file meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.core.chain import Finding, follow
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import (
    RULES,
    Epoch,
    Rules,
    begin,
    fold,
    message_of,
    statement,
)
from plugins.secure_chat.errors import LedgerBroken

_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class FoldedEpoch:
    """An epoch of a ledger: closed, or the last one as it stands."""

    epoch: Epoch
    course: array[int]
    """Positions of the messages that counted, for a chart; the statement has no part of it."""

    @property
    def statement(self) -> bytes:
        return statement(self.epoch)


def fold_ledger(
    path: Path,
    head: Head,
    *,
    rules: Rules = RULES,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FoldedEpoch]:
    """Each epoch of the first ``head.position`` records, in order; the last one may be running.

    ``progress(done, total)`` is called with records. Raises LedgerUnusable, and LedgerBroken when
    the file is not (or no longer) the one that ends in ``head``.
    """
    state = begin(rules)
    course: array[int] = array("q")
    with LedgerFile(path) as file:
        for span in file.spans(file.size(), _CHUNK, head.position):
            for text in file.lines(span):
                position = state.epoch.position + 1
                line = follow(text, position, state.epoch.event_hash)
                if isinstance(line, Finding):
                    raise LedgerBroken(line.position, line.reason)
                record = line.record
                message = message_of(record)
                epoch, counted = state.epoch, state.epoch.totals.counted
                closed = fold(state, record, message)
                if epoch.totals.counted > counted:
                    course.append(position)
                if closed is not None:
                    yield FoldedEpoch(closed, course)
                    course = array("q")
            if progress is not None:
                progress(state.epoch.position, head.position)
    if state.head != head:
        raise LedgerBroken(
            state.epoch.position or 1, "the ledger is not the one that was audited; audit it again"
        )
    yield FoldedEpoch(state.epoch, course)

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
from plugins.secure_chat.core.chain import Finding, SignatureCheck, follow
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import Head, Record
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

AS_LOGGED: Final = "as-logged"
"""A signature in the ledger is taken for one that the server checked before it logged it."""
CHECKED: Final = "checked"
"""Every signature that counts was verified by whoever made the statement."""

_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class FoldedEpoch:
    """An epoch of a ledger: closed, or the last one as it stands."""

    epoch: Epoch
    signatures: str
    course: array[int]
    """Positions of the messages that counted, for a chart; the statement has no part of it."""

    @property
    def statement(self) -> bytes:
        return statement(self.epoch, self.signatures)


def basis(check_signature: SignatureCheck | None) -> str:
    """What statements say of their signatures: AS_LOGGED without a check, CHECKED with one."""
    return AS_LOGGED if check_signature is None else CHECKED


def judge(
    record: Record, message: MessageEvent | None, check_signature: SignatureCheck | None
) -> bool:
    """Whether a record's signature is to be taken for verified, on that basis."""
    if message is None or not record.signature:
        return False
    return check_signature is None or check_signature(record, message) is True


def fold_ledger(
    path: Path,
    head: Head,
    *,
    check_signature: SignatureCheck | None = None,
    rules: Rules = RULES,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FoldedEpoch]:
    """Each epoch of the first ``head.position`` records, in order; the last one may be running.

    With ``check_signature`` only signatures that it says are right count; without it those in the
    ledger do, and the statement says so. ``progress(done, total)`` is called with records.
    Raises LedgerBroken when the file is not (or no longer) the one that ends in ``head``, and
    LedgerUnusable.
    """
    signatures = basis(check_signature)
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
                closed = fold(state, record, message, judge(record, message, check_signature))
                if epoch.totals.counted > counted:
                    course.append(position)
                if closed is not None:
                    yield FoldedEpoch(closed, signatures, course)
                    course = array("q")
            if progress is not None:
                progress(state.epoch.position, head.position)
    if state.head != head:
        raise LedgerBroken(
            state.epoch.position or 1, "the ledger is not the one that was audited; audit it again"
        )
    yield FoldedEpoch(state.epoch, signatures, course)

"""Verify a ledger file: spans of it on every core, joined in order into one verdict.

Workers know neither the hash before their span nor what its streams had before; joining compares
both at the borders. Where a span does not fit, or has a finding, it is read once more with all that
precedes it known, so the report never depends on how the file was cut.

Memory: a span and its records for each core, twice as many summaries waiting to be joined, and one
string and one integer for each stream. Nothing else grows with the file.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from plugins.secure_chat.audit.certificates import Statements, identities_of
from plugins.secure_chat.audit.history import FOLDS, HistoryFold, history_of
from plugins.secure_chat.audit.report import Report, report
from plugins.secure_chat.audit.since import Since
from plugins.secure_chat.audit.spans import SHRANK, LedgerFile, Span
from plugins.secure_chat.audit.tree import ProvenRecord, against_checkpoints, against_proofs
from plugins.secure_chat.core.chain import (
    MAX_LINE,
    Chain,
    Defect,
    Finding,
    MessageCheck,
    SignatureCheck,
    torn,
)
from plugins.secure_chat.core.note import Checkpoint
from plugins.secure_chat.core.records import EMPTY, Head
from plugins.secure_chat.errors import LedgerUnusable

CHUNK_SIZE: Final = 4 << 20
_ALONE_BELOW: Final = 16 << 20  # bytes that one core verifies before another has started
_OPENINGS: Final = (b'{"id": "', b'{"wallet":"', b'{"wallet": "')
_KEYS: Final = (b'"wallet"', b'"event_type"', b'"metadata"', b'"timestamp"', b'"hash"')


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker must know of the file and of the checks."""

    path: Path
    identity: tuple[int, int]
    expected: Head | None
    check_signature: SignatureCheck | None
    check_message: MessageCheck | None
    foreseen: Finding | None

    def extend(self, chain: Chain, lines: list[bytes]) -> None:
        chain.extend(
            lines,
            expected=self.expected,
            check_signature=self.check_signature,
            check_message=self.check_message,
            foreseen=self.foreseen,
        )


def audit_ledger(
    path: Path,
    *,
    until: int | None = None,
    expected_head: Head | None = None,
    check_signature: SignatureCheck | None = None,
    statements: Statements | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    tiles: Path | None = None,
    proofs: Sequence[ProvenRecord] = (),
    since: Since | None = None,
    folds: Sequence[Callable[[], HistoryFold]] = FOLDS,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Report:
    """Verify the ledger at ``path``: all it has now, or its first ``until`` records.

    (1) Every line follows, as ``core/chain.py`` says. (2) The last line is finished. (3) The record
    at ``expected_head`` is that record, and ``checkpoints`` (opened: their signatures are the
    caller's to check) are borne out; with ``tiles`` a line that is not is named exactly
    (``audit/tree.py``). ``proofs`` are about its records; their checkpoints must be among those.
    (4) No event contradicts those before it (``folds``). (5) With ``statements`` those of the
    IDENTITY events verify, and every signature of a registered device. (6) ``check_signature``,
    given in their place, refuses no message.

    The caller must still (7) save ``report.head`` or a signed checkpoint where the server cannot
    reach it, and pass it the next time: without one, records removed from the end, or a ledger
    written anew, do not show. (8) Without ``statements`` no signature is verified; the report says
    how many there are. (9) With ``since`` the lines that an earlier audit verified are not read
    again: only that the last of them is still there is checked.

    ``progress(done, total)`` is called with bytes. ``workers``: processes, by default one for each
    core, and none for a small file; a caller's main module must be importable (multiprocessing's
    spawn). Raises LedgerUnusable for what is no ledger or changes under the audit, and
    BrokenProcessPool when a worker is killed.
    """
    if until is not None and until < 0:
        raise ValueError("until is a number of records")
    if expected_head is not None:
        if expected_head.position < 0 or (expected_head.position == 0 and expected_head != EMPTY):
            raise ValueError("the saved head is that of no ledger")
        if until is not None and until < expected_head.position:
            raise ValueError("the saved head is beyond the records to audit")
    with LedgerFile(path) as file:
        size = file.size()
        chain = Chain() if since is None else since.resume(file, size)
        if until is not None and until < chain.position:
            raise ValueError("the earlier audit went further than the records to audit")
        if expected_head is not None and expected_head.position < chain.position:
            raise ValueError("the saved head is before the end of the earlier audit")
        identities = None
        if statements is not None:
            identities = identities_of(file, size, statements)
            check_signature = identities.keys
        past = history_of(file, size, [fold() for fold in folds])
        grown = None if since is None else since.tree()
        signed = against_checkpoints(file, size, checkpoints, tiles=tiles, grown=grown)
        proven = against_proofs(file, size, proofs)
        if proven is not None and signed is None:  # the whole tree is right, and so is the record
            raise LedgerUnusable("a proof does not hold in the checkpoint that comes with it")
        foreseen = _first(
            signed, proven, past.finding, None if identities is None else identities.finding
        )
        job = _Job(
            path, file.identity, expected_head, check_signature, past.check_message, foreseen
        )
        if foreseen is not None and foreseen.position <= chain.position:
            chain.finding = foreseen  # among the lines that are not read again
        for span, piece in _verified(job, file, size, until, workers, chunk_size, chain):
            if piece is None or not chain.join(piece):
                job.extend(chain, file.lines(span))
            if progress is not None:
                progress(span.end, size)
            if chain.finding is not None:
                break
        torn_bytes = 0
        if chain.finding is None and chain.size < size and chain.position != until:
            torn_bytes = _take_tail(job, file, chain, size)
        if (
            chain.finding is None
            and foreseen is not None
            and (until is None or foreseen.position <= until)
        ):
            chain.finding = foreseen  # what is missing has no line that could show it
        chain.finish(expected_head)
        _refuse_what_is_no_ledger(file, chain)
    return report(chain, torn_bytes, identities)


def _first(*findings: Finding | None) -> Finding | None:
    found = [finding for finding in findings if finding is not None]
    return min(found, key=lambda finding: finding.position) if found else None


def _verified(
    job: _Job,
    file: LedgerFile,
    size: int,
    until: int | None,
    workers: int | None,
    chunk_size: int,
    after: Chain,
) -> Iterator[tuple[Span, Chain | None]]:
    """Each span in order, with what a worker made of it; None when there are no workers."""
    if after.finding is not None:
        return
    spans = file.spans(size, chunk_size, until, start=after.size, position=after.position)
    if workers is None:
        workers = 1 if size - after.size < _ALONE_BELOW else os.cpu_count() or 1
    if workers <= 1:
        for span in spans:
            yield span, None
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    )
    try:
        waiting: deque[tuple[Span, Future[Chain]]] = deque()
        for span in spans:
            waiting.append((span, pool.submit(_verify_span, job, span)))
            if len(waiting) >= 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _verify_span(job: _Job, span: Span) -> Chain:
    """In a worker: verify ``span`` alone."""
    with LedgerFile(job.path) as file:
        if file.identity != job.identity:
            raise LedgerUnusable("the ledger was replaced while it was read; audit it again")
        chain = Chain.from_the_middle(span.position)
        job.extend(chain, file.lines(span))
    return chain


def _take_tail(job: _Job, file: LedgerFile, chain: Chain, size: int) -> int:
    """Judge what is left behind the whole lines. Returns the number of torn bytes.

    A writer may have finished the line since the audit began: it is read as it is now.
    """
    tail = file.read(chain.size, chain.size + MAX_LINE + 1)
    line, newline, _ = tail.partition(b"\n")
    if newline or len(tail) > MAX_LINE:  # finished since, or too long for any record
        job.extend(chain, [line])
        return 0
    if chain.size + len(tail) < size:  # as when a server starts and cuts a torn line off
        raise LedgerUnusable(SHRANK)
    chain.finding = torn(tail, chain.position + 1, chain.head.event_hash)
    return len(tail)


def _refuse_what_is_no_ledger(file: LedgerFile, chain: Chain) -> None:
    """Tell a ledger whose first line is bad from a file that never was one."""
    finding = chain.finding
    if (
        finding is None
        or finding.position != 1
        or finding.defect not in (Defect.RECORD, Defect.TORN)
    ):
        return
    block = file.read(0, 1 << 16)
    opens_like_one = any(block.startswith(o) or o.startswith(block) for o in _OPENINGS)
    if not opens_like_one and sum(key in block for key in _KEYS) < 3:
        raise LedgerUnusable("this is no ledger: it holds no record of any dialect")

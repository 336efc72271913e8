"""Taking exports over into the ledger, batch by batch, so that dying anywhere loses and doubles
nothing.

A batch: (1) what its records bring is decided from what was taken before; (2) titles and metadata
are stored; (3) the events are committed to the ledger; (4) one transaction keeps what was taken,
refused and how far the export is done. A process that died between (3) and (4) finds the events of
the batch in the ledger, decides the same again, and logs none of them twice.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from plugins.secure_chat.adoption.export import Element, Export
from plugins.secure_chat.adoption.records import (
    Brought,
    Kind,
    Left,
    Refused,
    key_of,
    may_bring_a_thread,
    meaning,
    thread_of,
)
from plugins.secure_chat.adoption.store import AdoptionStore, Phase, Progress, Refusal, Taken
from plugins.secure_chat.core import provenance as origins
from plugins.secure_chat.core.legacy_message import LEGACY_MESSAGE, LegacyMessage
from plugins.secure_chat.core.migration_event import NOTHING, Counts
from plugins.secure_chat.core.provenance import Provenance
from plugins.secure_chat.core.records import EventDraft, Record
from plugins.secure_chat.core.thread import SALT_SIZE, THREAD, Change, ThreadEvent, details_hash
from plugins.secure_chat.ledger.journal import START, Journal

BATCH: Final = 5_000  # records in one commit
_THREADS_REMEMBERED: Final = 65_536
_SALT_LABEL: Final = b"atlas/secure-chat/v2/import-salt"
_COUNTED: Final[dict[Kind, Counts]] = {
    Kind.THREAD: Counts(1, threads=1),
    Kind.MESSAGE: Counts(1, messages=1),
    Kind.STATUS: Counts(1, statuses=1),
}
_DUPLICATE: Final = Counts(1, duplicates=1)
_REFUSED: Final = Counts(1, refused=1)
_LEFT: Final[dict[Left, Counts]] = {
    Left.PLAINTEXT: Counts(1, plaintext=1),
    Left.MIRRORED: Counts(1, mirrored=1),
}

thread_of_cached: Final = lru_cache(_THREADS_REMEMBERED)(thread_of)


class Part(NamedTuple):
    """One thing that a record of an export brings, and its place: ``part`` counts from 0."""

    line: int
    part: int
    what: Brought | Left | Refused


def parts(element: Element, phase: Phase) -> Iterator[Part]:
    """What one record brings in a phase. What is left out or refused belongs to the last phase."""
    last = phase is not Phase.THREADS
    if element.defect is not None:
        if last:
            yield Part(element.number, 0, Refused(element.defect))
        return
    if not last and not may_bring_a_thread(element.value):
        return
    try:
        found = meaning(element.value)
    except Refused as refused:
        if last:
            yield Part(element.number, 0, refused)
        return
    if isinstance(found, Left):
        if last:
            yield Part(element.number, 0, found)
        return
    for index, brought in enumerate(found):
        if (brought.kind is Kind.THREAD) != last:
            yield Part(element.number, index, brought)


def event_of(brought: Brought, source: str, line: int, details: str | None) -> EventDraft:
    """The ledger event of a thing that was taken."""
    provenance = Provenance(brought.origin, source, line, brought.at)
    thread = thread_of_cached(brought.thread)
    if brought.kind is Kind.MESSAGE:
        return LegacyMessage(
            brought.wallet,
            thread,
            brought.content,
            brought.size,
            brought.content_type,
            brought.message_type,
            details,
            brought.id,
            provenance,
        ).draft()
    if brought.kind is Kind.STATUS:
        return ThreadEvent(
            Change.STATUS, thread, brought.wallet, status=brought.status, provenance=provenance
        ).draft()
    return ThreadEvent(
        Change.CREATED,
        thread,
        brought.wallet,
        members=brought.members,
        details=details,
        legacy=brought.id,
        provenance=provenance,
    ).draft()


def salt_of(seed: bytes, source: str, part: Part) -> bytes:
    """The salt of a title, the same at every attempt. ``seed`` is secret, or titles are guessed."""
    place = f"{source}:{part.line}:{part.part}".encode()
    return hashlib.sha256(_SALT_LABEL + seed + place).digest()[:SALT_SIZE]


@dataclass(slots=True)
class Decision:
    """What becomes of a batch."""

    counts: Counts = NOTHING
    taken: list[tuple[Part, Brought]] = field(default_factory=list)
    refusals: list[tuple[Part, str]] = field(default_factory=list)


def decide(
    batch: Sequence[Part],
    taken: Callable[[Iterable[bytes]], dict[bytes, bytes]],
    threads: Callable[[Iterable[str]], set[str]],
) -> Decision:
    """Decide on ``batch`` in its order.

    ``taken`` gives the fingerprints of those keys that are taken; ``threads`` says which of the
    host's threads are here, of those that no earlier record brought.
    """
    brought = [part.what for part in batch if isinstance(part.what, Brought)]
    wanted = {
        one.thread: key_of(Kind.THREAD, one.thread)
        for one in brought
        if one.kind is not Kind.THREAD
    }
    known = taken({one.key for one in brought} | set(wanted.values()))
    here = {thread for thread, key in wanted.items() if key in known}
    here |= threads(wanted.keys() - here)
    decision = Decision()
    for part in batch:
        what = part.what
        if isinstance(what, Left):
            decision.counts += _LEFT[what]
            continue
        reason = str(what) if isinstance(what, Refused) else ""
        if isinstance(what, Brought):
            before = known.get(what.key)
            if before == what.fingerprint:
                decision.counts += _DUPLICATE
                continue
            if before is not None:
                reason = f"another {what.kind} has its id"
            elif what.kind is not Kind.THREAD and what.thread not in here:
                reason = "its thread is in no export"
            else:
                known[what.key] = what.fingerprint
                decision.counts += _COUNTED[what.kind]
                decision.taken.append((part, what))
                continue
        decision.counts += _REFUSED
        decision.refusals.append((part, reason))
    return decision


class Transfer:
    """Takes exports over into a journal that is open, one after the other.

    Without a journal it rehearses: all is decided, and nothing is logged.
    """

    def __init__(
        self,
        journal: Journal | None,
        store: AdoptionStore,
        *,
        batch: int = BATCH,
        throttle: float | None = None,
        advance: Callable[[int], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``throttle``: records a second at most. ``advance``: told how many bytes of an export
        were read since the last time; every export is read twice."""
        self._journal = journal
        self._store = store
        self._batch = batch
        self._throttle = throttle
        self._advance = advance
        self._sleep = sleep
        self._monotonic = monotonic
        self._logged = {} if journal is None else _logged_behind(journal, store)

    @property
    def begun(self) -> set[str]:
        """Sources of events that a batch logged before it died; only they tell what it took."""
        return {source for source, _ in self._logged}

    def take(self, export: Export, phase: Phase) -> Progress:
        """Take over what ``export`` brings in ``phase``, from where it was left."""
        progress = self._store.begin(export.digest, export.name)
        if progress.phase is not phase:
            self._advance(export.size)
            return progress
        done = reached = 0
        pending: list[Part] = []
        for element in export.elements():
            done += 1
            if done <= progress.done:
                continue
            pending.extend(parts(element, phase))
            if len(pending) >= self._batch:
                progress = self._commit(replace(progress, done=done), pending)
                pending = []
                self._advance(element.offset - reached)
                reached = element.offset
        following = Phase.REST if phase is Phase.THREADS else Phase.DONE
        progress = self._commit(replace(progress, phase=following, done=0), pending)
        self._advance(export.size - reached)
        return progress

    def _commit(self, progress: Progress, batch: list[Part]) -> Progress:
        began = self._monotonic()
        source, store = progress.source, self._store

        def taken_before(keys: Iterable[bytes]) -> dict[bytes, bytes]:
            found = store.taken(keys)
            return {key: found[key].fingerprint for key in found}

        decision = decide(batch, taken_before, store.threads_here)
        bodies: list[tuple[str, bytes, bytes]] = []
        drafts: list[EventDraft] = []
        positions: list[int | None] = []
        for part, brought in decision.taken:
            details = None
            if brought.body is not None:
                salt = salt_of(store.seed, source, part)
                details = details_hash(salt, brought.body)
                bodies.append((details, salt, brought.body))
            logged = self._logged.get((source, part.line))
            position = logged.popleft() if logged else None
            positions.append(position)
            if position is None:
                drafts.append(event_of(brought, source, part.line, details))
        if bodies:
            store.keep_details(bodies)
        fresh = iter(self._log(drafts))
        # crash point: in the ledger, not in the tables; the next attempt finds it there
        progress = replace(progress, counts=progress.counts + decision.counts)
        store.commit(
            progress,
            [
                Taken(
                    brought.key,
                    brought.fingerprint,
                    source,
                    part.line,
                    next(fresh) if position is None else position,
                )
                for (part, brought), position in zip(decision.taken, positions, strict=True)
            ],
            [Refusal(source, part.line, part.part, reason) for part, reason in decision.refusals],
            START if self._journal is None else self._journal.checkpoint,
        )
        if self._throttle is not None:
            self._sleep(max(0.0, len(batch) / self._throttle - (self._monotonic() - began)))
        return progress

    def _log(self, drafts: Sequence[EventDraft]) -> list[int]:
        """Commit events; the positions at which they stand."""
        if self._journal is None or not drafts:
            return [0] * len(drafts)
        staged = self._journal.stage(drafts)
        staged.durable.result()
        return [receipt.position for receipt in staged.receipts]


def _logged_behind(journal: Journal, store: AdoptionStore) -> dict[tuple[str, int], deque[int]]:
    """Where the events stand that a batch logged before it died: by source and line, in order."""
    found: dict[tuple[str, int], deque[int]] = {}
    for record in journal.read(since=store.checkpoint):
        provenance = provenance_of(record)
        if provenance is not None:
            place = (provenance.source, provenance.line)
            found.setdefault(place, deque()).append(record.position)
    return found


def provenance_of(record: Record) -> Provenance | None:
    """Where an event that was taken over comes from; None for any other."""
    if record.event_type not in (THREAD, LEGACY_MESSAGE):
        return None
    return origins.provenance_of(record.metadata)

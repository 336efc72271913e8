"""Comparing the ledger and the tables with the exports that they were taken from.

The exports are read again and every record is looked for where it must be: its event in the ledger,
in the order of the export and equal in every field, its title under the salted hash, or its
refusal. One batch is in memory at a time, whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from plugins.secure_chat.adoption.export import Export
from plugins.secure_chat.adoption.records import Brought, Kind, Left
from plugins.secure_chat.adoption.store import AdoptionStore, Phase
from plugins.secure_chat.adoption.transfer import (
    BATCH,
    Part,
    event_of,
    parts,
    provenance_of,
    salt_of,
)
from plugins.secure_chat.core.migration_event import NOTHING, Counts
from plugins.secure_chat.core.records import Record
from plugins.secure_chat.core.thread import details_hash
from plugins.secure_chat.ledger.journal import Journal

MOST_NAMED: Final = 20
_COUNTER: Final = {Kind.THREAD: "threads", Kind.MESSAGE: "messages", Kind.STATUS: "statuses"}


class Comparison:
    """One export against one ledger. ``mismatches`` are sentences without user data."""

    def __init__(self, export: Export, store: AdoptionStore, journal: Journal) -> None:
        self._export = export
        self._store = store
        self._events = _events_of(export.digest, journal)
        self.counts: Counts = NOTHING
        self.mismatches: list[str] = []
        self.unnamed = 0

    def run(self, logged: Counts, advance: Callable[[int], None] = lambda _: None) -> None:
        """Compare everything. ``logged``: the counts that the ledger has of the export."""
        for phase in (Phase.THREADS, Phase.REST):
            reached = 0
            for batch, offset in _batches(self._export, phase):
                self._compare(batch)
                advance(offset - reached)
                reached = offset
            advance(self._export.size - reached)
        for record in self._events:
            self._note(f"position {record.position}: its record is not in the export")
        if self.counts != logged:
            self._note("the counts in the ledger are not those of the export")
        if not self.counts.balanced:
            self._note("fewer or more records came out than went in")

    def _note(self, sentence: str) -> None:
        if len(self.mismatches) < MOST_NAMED:
            self.mismatches.append(sentence)
        else:
            self.unnamed += 1

    def _compare(self, batch: Sequence[Part]) -> None:
        source, store = self._export.digest, self._store
        brought = [part.what for part in batch if isinstance(part.what, Brought)]
        taken = store.taken({one.key for one in brought})
        places = [(part.line, part.part) for part in batch]
        refused = store.refused(source, places)
        bodies: dict[str, tuple[Part, bytes]] = {}
        for part in batch:
            what, line = part.what, part.line
            if (line, part.part) in refused:
                self.counts += Counts(1, refused=1)
            elif isinstance(what, Left):
                self.counts += Counts(1, **{what: 1})
            elif not isinstance(what, Brought):
                self._note(f"record {line}: it is unfit, and was not refused")
            elif (found := taken.get(what.key)) is None:
                self._note(f"record {line}: it is neither in the ledger nor refused")
            elif found.fingerprint != what.fingerprint:
                self._note(f"record {line}: another one was taken in its place")
            elif (found.source, found.line) != (source, line):
                self.counts += Counts(1, duplicates=1)
            else:
                self.counts += Counts(1, **{_COUNTER[what.kind]: 1})
                details = None
                if what.body is not None:
                    details = details_hash(salt_of(store.seed, source, part), what.body)
                    bodies[details] = (part, what.body)
                self._compare_event(part, what, details, found.position)
        kept = store.bodies(bodies)
        for digest, (part, body) in bodies.items():
            if kept.get(digest) != body:
                self._note(f"record {part.line}: its title and metadata are not kept")

    def _compare_event(
        self, part: Part, brought: Brought, details: str | None, position: int
    ) -> None:
        record = next(self._events, None)
        if record is None:
            self._note(f"record {part.line}: its event is not in the ledger")
            return
        draft = event_of(brought, self._export.digest, part.line, details)
        if (record.event_type, record.wallet, record.metadata, record.position) != (
            draft.event_type,
            draft.wallet,
            draft.metadata,
            position,
        ):
            self._note(f"record {part.line}: the event at position {record.position} differs")


def _events_of(source: str, journal: Journal) -> Iterator[Record]:
    """The ledger's events that came from an export, in ledger order."""
    for record in journal.read():
        provenance = provenance_of(record)
        if provenance is not None and provenance.source == source:
            yield record


def _batches(export: Export, phase: Phase) -> Iterator[tuple[list[Part], int]]:
    """The parts of an export in batches, and where in the file each ends."""
    elements = export.elements()
    while some := list(islice(elements, BATCH)):
        yield [part for element in some for part in parts(element, phase)], some[-1].offset

"""What ``secure-chat migrate`` does: plan, run, verify, status, and moving the stage.

Each step works on the ledger's file and the database while no server runs (the ledger's lock sees
to it; plan and status only read) and returns values. Printing is ``cli/migrate.py``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, inspect

from plugins.secure_chat.adoption.comparison import Comparison
from plugins.secure_chat.adoption.export import Element, Export, all_of, name_of
from plugins.secure_chat.adoption.records import Left, Refused, meaning
from plugins.secure_chat.adoption.store import AdoptionStore, Phase, Refusal, Rehearsal
from plugins.secure_chat.adoption.transfer import BATCH, Transfer
from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.core import migration_event
from plugins.secure_chat.core.chain import Defect
from plugins.secure_chat.core.dialects import NotARecord, parse
from plugins.secure_chat.core.message_event import MessageKind
from plugins.secure_chat.core.migration_event import MIGRATION, Counts, Migrations
from plugins.secure_chat.core.records import EMPTY, Head, MalformedEvent
from plugins.secure_chat.core.stage import ORDER, Stage, move
from plugins.secure_chat.errors import LedgerBroken, LedgerChanged, MigrationRefused
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.mailbox.engine import engine_at
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.runtime import Index

_MARK: Final = b'"MIGRATION"'

Advance = Callable[[int], None]


@dataclass(slots=True)
class SourceReport:
    """One export: ``counts`` of what became of its records, so far when it is not ``done``.

    ``planned``: of what would become of all of them, for nothing of it is taken yet.
    """

    source: str
    name: str
    size: int
    counts: Counts
    done: bool
    planned: bool = False


@dataclass(slots=True)
class Outcome:
    """What a step found or did."""

    audit: Report | None = None
    """Of the ledger as it was before; None when there is none."""
    adopted: Head | None = None
    sources: list[SourceReport] = field(default_factory=list)
    refusals: Sequence[Refusal] = ()
    """Every one, when the step gathers them; else they are in the database."""
    mismatches: list[str] = field(default_factory=list)
    verified: bool = False
    stage: Stage | None = None
    """None: the stage was never moved."""
    head: Head = EMPTY

    @property
    def refused(self) -> int:
        return sum(source.counts.refused for source in self.sources)


def plan(
    ledger: Path, engine: Engine | None, paths: Sequence[Path], advance: Advance = lambda _: None
) -> Outcome:
    """Say what ``run`` would do, and do nothing: everything is decided in a database of its own.

    ``engine``: None while there is no database.

    Raises ExportUnusable and LedgerUnusable.
    """
    outcome = _audited(ledger)
    exports = _exports(paths, Migrations())
    with (
        tempfile.TemporaryDirectory(prefix="secure-chat-plan-") as scratch,
        contextlib.closing(Mailbox(engine_at(Path(scratch) / "plan.sqlite"))) as mailbox,
        _existing(engine) as earlier,
    ):
        if earlier is not None:
            outcome.sources = _sources(migrations_in(ledger), AdoptionStore(earlier))
            outcome.stage = earlier.stage()
        rehearsal = Rehearsal(mailbox, None if earlier is None else AdoptionStore(earlier))
        transfer = Transfer(None, rehearsal, advance=advance)
        known = {source.source: source for source in outcome.sources}
        for phase in (Phase.THREADS, Phase.REST):
            for export in exports:
                if export.digest not in known:
                    progress = transfer.take(export, phase)
                    if progress.phase is Phase.DONE:
                        outcome.sources.append(
                            SourceReport(
                                export.digest,
                                export.name,
                                export.size,
                                progress.counts,
                                done=False,
                                planned=True,
                            )
                        )
                else:
                    advance(export.size)
        outcome.refusals = list(rehearsal.refusals())
    return outcome


def run(
    ledger: Path,
    engine: Engine,
    paths: Sequence[Path],
    *,
    batch: int = BATCH,
    throttle: float | None = None,
    advance: Advance = lambda _: None,
) -> Outcome:
    """Adopt the ledger and take the exports over; go on where an earlier run stopped.

    Raises LedgerBroken and ExportUnusable before anything is written; LedgerLocked while a server
    runs.
    """
    outcome = Outcome()
    migrations = migrations_in(ledger)
    exports = _exports(paths, migrations)
    if migrations.adopted is None:
        outcome = _audited(ledger)
        finding = None if outcome.audit is None else outcome.audit.finding
        if finding is not None and finding.defect is not Defect.TORN:
            raise LedgerBroken(finding.position, finding.reason)
    with _opened(ledger, engine) as (journal, mailbox):
        store = _store(journal, mailbox)
        migrations = migrations_in(ledger)
        if migrations.adopted is None:
            _adopt(journal, ledger)
        transfer = Transfer(journal, store, batch=batch, throttle=throttle, advance=advance)
        if lost := transfer.begun - {export.digest for export in exports}:
            raise MigrationRefused(
                f"export {min(lost)[:12]}… was begun and is not finished: give its file as it was, "
                "or grown, with the others"
            )
        for phase in (Phase.THREADS, Phase.REST):
            for export in exports:
                if export.digest not in migrations.sources:
                    journal.append(migration_event.started(export.digest, export.size).draft())
                    migrations.sources[export.digest] = migration_event.Source(export.size)
                progress = transfer.take(export, phase)
                source = migrations.sources[export.digest]
                if progress.phase is Phase.DONE and source.counts is None:
                    if Export.at(export.path, export.size) != export:
                        outcome.mismatches.append(f"{export.name}: it changed while it was read")
                        continue
                    if not progress.counts.balanced:
                        outcome.mismatches.append(
                            f"{export.name}: fewer or more records came out than went in"
                        )
                        continue
                    finished = migration_event.finished(export.digest, progress.counts)
                    journal.append(finished.draft())
                    source.counts = progress.counts
    # What was logged is indexed as a server's start would do it.
    with _opened(ledger, engine) as (journal, mailbox):
        _describe(outcome, ledger, journal.head, mailbox)
    return outcome


def verify(
    ledger: Path,
    engine: Engine,
    paths: Sequence[Path],
    *,
    sources: Sequence[Path] = (),
    accept_refused: bool = False,
    advance: Advance = lambda _: None,
) -> Outcome:
    """Compare the ledger and the tables with every export; when all agree, the ledger gets a
    ``verified`` event that names what the files were. Refused records are a mismatch unless they
    are accepted. What was verified before and is not so now is taken back by a ``failed`` event.

    ``sources``: files that exports were made from, as a host's database. What is in them is not
    compared; they must be older than the newest export, and are among what the event names.
    """
    migrations = migrations_in(ledger)
    audit = audit_ledger(ledger, expected_head=migrations.adopted)
    outcome = Outcome(audit=audit)
    if audit.finding is not None:
        outcome.mismatches.append(f"the ledger: {audit.finding}")
        return outcome
    with _opened(ledger, engine) as (journal, mailbox):
        store = _store(journal, mailbox)
        # Before they are compared: what is written meanwhile is not in it.
        files = all_of([*paths, *_with_logs(sources)])
        if migrations.adopted is None and not migrations.sources:
            outcome.mismatches.append("nothing was migrated: start with `secure-chat migrate run`")
        for digest, source in migrations.sources.items():
            if source.counts is None:
                continue  # told below as not finished
            export = _find(digest, source.size, paths)
            if export is None:
                outcome.mismatches.append(f"export {digest[:12]}…: its file was not given")
                continue
            comparison = Comparison(export, store, journal)
            comparison.run(source.counts, advance)
            name = export.name
            outcome.mismatches.extend(f"{name}: {sentence}" for sentence in comparison.mismatches)
            if comparison.unnamed:
                outcome.mismatches.append(f"{name}: {comparison.unnamed} more mismatches")
        for path in paths:
            if untaken := _untaken(path, migrations):
                outcome.mismatches.append(
                    f"{name_of(path)}: {untaken} of its records were not taken over: run again"
                )
        outcome.mismatches.extend(_written_since(paths, sources))
        done = [source.counts for source in migrations.sources.values() if source.counts]
        refused = sum(counts.refused for counts in done)
        if refused and not accept_refused:
            outcome.mismatches.append(
                f"{refused} records were refused: mend the exports, or accept it: --accept-refused"
            )
        if not outcome.mismatches and not migrations.unfinished:
            verified = migration_event.verified(journal.head.position, refused, files)
            journal.append(verified.draft())
        elif migrations.verified:
            journal.append(migration_event.failed(journal.head.position).draft())
        _describe(outcome, ledger, journal.head, mailbox)
    return outcome


def status(ledger: Path, engine: Engine | None) -> Outcome:
    """How far everything is. Reads only, also beside a running server."""
    outcome = Outcome()
    migrations = migrations_in(ledger)
    outcome.adopted, outcome.verified = migrations.adopted, migrations.verified
    with _existing(engine) as mailbox:
        if mailbox is None:
            outcome.sources = _sources(migrations, None)
        else:
            outcome.sources = _sources(migrations, AdoptionStore(mailbox))
            outcome.stage = mailbox.stage()
            outcome.head = mailbox.checkpoint().head
    return outcome


def move_stage(
    ledger: Path,
    engine: Engine,
    to: Stage,
    paths: Sequence[Path] = (),
    *,
    sources: Sequence[Path] = (),
    assumed: Stage,
) -> Outcome:
    """Move to a neighbouring stage. ``assumed``: where a ledger is that was never moved.

    Forward only after a verification that nothing has happened since. Where the host's own route
    has written until now, ``paths`` and ``sources`` are those of the verification, and still are
    what they were.
    Raises NoSuchMove, MigrationRefused and ExportUnusable.
    """
    outcome = Outcome()
    with _opened(ledger, engine) as (journal, mailbox):
        current = mailbox.stage() or assumed
        step = move(current, to)
        if ORDER.index(to) > ORDER.index(current):
            files = [*paths, *_with_logs(sources)]
            _require_verified(migrations_in(ledger), current, files)
        journal.append(step.draft())
    # The move is indexed as a server's start would do it.
    with _opened(ledger, engine) as (journal, mailbox):
        _describe(outcome, ledger, journal.head, mailbox)
    return outcome


# -- the ledger ------------------------------------------------------------------------------------


def migrations_in(ledger: Path) -> Migrations:
    """What the MIGRATION events of a ledger say. A file that is missing has none."""
    migrations = Migrations()
    try:
        file = ledger.open("rb")
    except FileNotFoundError:
        return migrations
    with file:
        for position, line in enumerate(file, start=1):
            if _MARK not in line:
                continue
            with contextlib.suppress(NotARecord, MalformedEvent):
                record = parse(line.removesuffix(b"\n"), position).record
                if record.event_type == MIGRATION:
                    migrations.take(migration_event.from_record(record))
    return migrations


def _audited(ledger: Path) -> Outcome:
    """The ledger's state before a step. An absent or empty file is no ledger yet."""
    if not ledger.exists() or ledger.stat().st_size == 0:
        return Outcome()
    migrations = migrations_in(ledger)
    audit = audit_ledger(ledger, expected_head=migrations.adopted)
    outcome = Outcome(audit=audit, adopted=migrations.adopted, head=audit.head)
    outcome.verified = migrations.verified
    outcome.sources = _sources(migrations, None)
    return outcome


def _adopt(journal: Journal, ledger: Path) -> None:
    """Pin the head of the ledger that was here before, also of one that was empty."""
    messages: Mapping[str, int] = {}
    if journal.head != EMPTY:
        messages = audit_ledger(ledger).messages  # a torn end is mended by now
    journal.append(
        migration_event.adopted(
            journal.head,
            prototype=messages.get(MessageKind.PROTOTYPE, 0),
            trust_loop=messages.get(MessageKind.TRUST_LOOP, 0),
        ).draft()
    )


_ANOTHER: Final = (
    "the database is of another ledger, or this one was cut: give each ledger its own database"
)


@contextlib.contextmanager
def _opened(ledger: Path, engine: Engine) -> Iterator[tuple[Journal, Mailbox]]:
    """The ledger locked and the mailbox level with it, as at a server's start.

    Raises MigrationRefused where the ledger is not the mailbox's.
    """
    mailbox = Mailbox(engine)
    try:
        index = Index(mailbox)
        journal = Journal.open(ledger, verified=index.start, replay=index.replay)
        try:
            try:
                index.finish(journal.head)
            except LedgerChanged:
                raise MigrationRefused(_ANOTHER) from None
            mailbox.set_checkpoint(journal.checkpoint)
            yield journal, mailbox
        finally:
            journal.close()
    finally:
        mailbox.close()


# -- the exports -----------------------------------------------------------------------------------


def _require_verified(migrations: Migrations, current: Stage, paths: Sequence[Path]) -> None:
    """Raise MigrationRefused unless the verification says what there is to move on from."""
    if not migrations.verified:
        raise MigrationRefused(
            "the verification has not passed: run `secure-chat migrate verify` first"
        )
    if not current.is_dark:
        if paths:
            raise MigrationRefused(f"no export is compared at {current}: give none")
    elif all_of(paths) != migrations.files:
        raise MigrationRefused(
            "these are not the files that were verified, as they were: give all of them; if the "
            "host has written since, `secure-chat migrate run` and `verify` them again first"
        )


def _exports(paths: Sequence[Path], migrations: Migrations) -> list[Export]:
    """The files as exports, each once, all of them readable to their ends.

    What was begun and is not finished comes first, also where its file has grown since.
    """
    exports: dict[str, Export] = {}
    for digest in migrations.unfinished:
        begun = _find(digest, migrations.sources[digest].size, paths)
        if begun is not None:
            exports[digest] = begun
    for path in paths:
        export = Export.at(path)
        exports.setdefault(export.digest, export)
    for export in exports.values():
        export.check()
    return list(exports.values())


def _find(digest: str, size: int, paths: Sequence[Path]) -> Export | None:
    """The file whose first ``size`` bytes are that export: it may have grown since."""
    for path in paths:
        export = Export.at(path, size)
        if export.digest == digest:
            return export
    return None


def _with_logs(sources: Sequence[Path]) -> list[Path]:
    """``sources``, and of an SQLite database what is not in its file yet."""
    logs = [path.with_name(f"{path.name}-wal") for path in sources]
    return [*sources, *(log for log in logs if log.exists() and log.stat().st_size)]


def _written_since(paths: Sequence[Path], sources: Sequence[Path]) -> Iterator[str]:
    """What of ``sources`` was written after the newest export was made: it has more, perhaps."""
    made = max((path.stat().st_mtime_ns for path in paths), default=0)
    for path in _with_logs(sources):
        if path.stat().st_mtime_ns > made:
            yield f"{name_of(path)}: it was written after the exports were made: make them again"


def _untaken(path: Path, migrations: Migrations) -> int:
    """Records of a file that no finished export has, but for what the chat wrote itself."""
    export, known = Export.at(path), 0
    for digest, source in migrations.sources.items():
        if source.counts is not None and Export.at(path, source.size).digest == digest:
            if digest == export.digest:
                return 0
            known = max(known, source.counts.records - _ends_within_a_line(path, source.size))
    return sum(not _is_mirrored(element) for element in islice(export.elements(), known, None))


def _ends_within_a_line(path: Path, size: int) -> bool:
    """Whether the first ``size`` bytes end before a line does: it may say something else since."""
    with path.open("rb") as file:
        file.seek(max(size - 1, 0))
        return size > 0 and file.read(1) != b"\n"


def _is_mirrored(element: Element) -> bool:
    try:
        return element.defect is None and meaning(element.value) is Left.MIRRORED
    except Refused:
        return False


# -- the database ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _existing(engine: Engine | None) -> Iterator[Mailbox | None]:
    """The mailbox when the database has the adoption's tables; reading must not make them."""
    if engine is None:
        yield None
        return
    try:
        yield (
            Mailbox(engine, upgraded=False) if inspect(engine).has_table("adoption_state") else None
        )
    finally:
        engine.dispose()


def _store(journal: Journal, mailbox: Mailbox) -> AdoptionStore:
    """The tables of this ledger's adoption. Raises MigrationRefused for those of another one."""
    store = AdoptionStore(mailbox)
    if not journal.bears_out(store.checkpoint):
        raise MigrationRefused(_ANOTHER)
    return store


def _sources(migrations: Migrations, store: AdoptionStore | None) -> list[SourceReport]:
    """The exports that the ledger knows, with the counts and names that the tables have."""
    known = {} if store is None else {one.source: one for one in store.progress()}
    reports = []
    for digest, source in migrations.sources.items():
        progress = known.get(digest)
        counts = source.counts
        if counts is None:
            counts = migration_event.NOTHING if progress is None else progress.counts
        name = digest[:12] if progress is None else progress.name
        reports.append(SourceReport(digest, name, source.size, counts, source.counts is not None))
    return reports


def _describe(outcome: Outcome, ledger: Path, head: Head, mailbox: Mailbox) -> None:
    migrations = migrations_in(ledger)
    store = AdoptionStore(mailbox)
    outcome.adopted, outcome.verified = migrations.adopted, migrations.verified
    outcome.sources = _sources(migrations, store)
    outcome.stage = mailbox.stage()
    outcome.head = head
    for source in migrations.unfinished:
        outcome.mismatches.append(
            f"export {source[:12]}…: it is not finished: run again with its file"
        )

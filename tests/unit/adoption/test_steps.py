"""adoption: exports become ledger events once, all of them accounted for, whatever comes twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from plugins.secure_chat import runtime
from plugins.secure_chat.adoption import steps
from plugins.secure_chat.adoption.export import Export
from plugins.secure_chat.adoption.records import thread_of
from plugins.secure_chat.adoption.store import AdoptionStore, Phase, Refusal
from plugins.secure_chat.adoption.tables import adoption_records, adoption_refusals
from plugins.secure_chat.adoption.transfer import Transfer
from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.migration_event import Counts
from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.core.stage import ORDER, NoSuchMove, Stage
from plugins.secure_chat.errors import ExportUnusable, LedgerLocked, MigrationRefused
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.threads import index
from plugins.secure_chat.threads.tables import details, thread_messages
from tests import exports
from tests.exports import digest, wallet


@dataclass
class Place:
    """A data directory and its database."""

    directory: Path
    url: str

    @property
    def ledger(self) -> Path:
        return self.directory / "genesis_ledger.jsonl"

    def export(self, name: str, records: Iterable[Any]) -> Path:
        return exports.write_lines(self.directory / name, records)

    def plan(self, *paths: Path) -> steps.Outcome:
        return steps.plan(self.ledger, engine_for(self.url), paths)

    def run(self, *paths: Path, **options: Any) -> steps.Outcome:
        return steps.run(self.ledger, engine_for(self.url), paths, **options)

    def verify(self, *paths: Path, **options: Any) -> steps.Outcome:
        return steps.verify(self.ledger, engine_for(self.url), paths, **options)

    def move(self, to: Stage, *paths: Path, sources: Sequence[Path] = ()) -> steps.Outcome:
        engine, assumed = engine_for(self.url), Stage.LEGACY
        return steps.move_stage(self.ledger, engine, to, paths, sources=sources, assumed=assumed)

    def events(self, *types: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.ledger.read_bytes().splitlines())
        return [line for line in lines if not types or line["event_type"] in types]

    @contextlib.contextmanager
    def mailbox(self) -> Iterator[Mailbox]:
        with contextlib.closing(Mailbox(engine_for(self.url))) as opened:
            yield opened

    def refusals(self) -> list[tuple[int, str]]:
        with self.mailbox() as mailbox:
            return [(r.line, r.reason) for r in AdoptionStore(mailbox).refusals()]


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Place:
    return Place(tmp_path, database_url)


def everything() -> list[Any]:
    """At least one record of each kind and fate."""
    return [
        exports.route_message(1, 1),  # before its thread
        exports.route_thread(1),
        exports.engine_thread(2, status="ARCHIVED"),
        exports.engine_message(2, 2),
        exports.engine_event("MESSAGE_POSTED", exports.engine_message(3, 2)),
        exports.conversation(1),
        exports.conversation_message(1, 1),
        exports.route_status(1, 1, "DELETED"),
        exports.engine_message(1, 1),  # the first one, exported twice
        exports.plaintext(1),
        {**exports.route_thread(9), "ledger_position": 4},
        exports.route_message(4, 77),  # of a thread that is nowhere
        exports.route_message(3, 2, content_size=1),  # another one with a known id
        {"nothing": "known"},
        17,
    ]


FATES = Counts(
    16, threads=3, messages=4, statuses=2, duplicates=1, mirrored=1, plaintext=1, refused=4
)


def test_every_record_is_accounted_for(place: Place) -> None:
    export = place.export("all.jsonl", everything())
    outcome = place.run(export)
    (source,) = outcome.sources
    assert source.counts == FATES
    assert source.counts.balanced
    assert source.done
    assert outcome.mismatches == []
    assert place.refusals() == [
        (12, "its thread is in no export"),
        (13, "another message has its id"),
        (14, "its fields are those of no record that is known here"),
        (15, "it is not an object"),
    ]
    steps_taken = [e["metadata"]["kind"] for e in place.events("MIGRATION")]
    assert steps_taken == ["adopted", "started", "finished"]
    assert audit_ledger(place.ledger).sound


def test_an_imported_record_names_where_it_comes_from_and_is_no_rewarded_message(
    place: Place,
) -> None:
    export = place.export("all.jsonl", everything())
    source = place.run(export).sources[0].source
    taken = place.events("THREAD", "LEGACY_MESSAGE")
    assert len(taken) == FATES.threads + FATES.messages + FATES.statuses
    assert {event["metadata"]["source"] for event in taken} == {source}
    assert [event["metadata"]["line"] for event in taken] == [2, 3, 6, 1, 3, 4, 5, 7, 8]
    assert place.events("MESSAGE") == []
    message = next(e for e in taken if e["metadata"].get("id") == digest("message 1"))
    assert message["wallet"] == wallet(2)
    assert message["metadata"] == {
        "thread": thread_of(digest("thread 1")),
        "content_hash": digest("content 1"),
        "size": 101,
        "content_type": "text/plain",
        "message_type": "text",
        "id": digest("message 1"),
        "origin": "route",
        "source": source,
        "line": 1,
        "at": "1765800001",
    }


def test_titles_are_kept_beside_the_ledger_and_only_their_salted_hash_is_in_it(
    place: Place,
) -> None:
    secret = "a title that nobody else may read"
    place.run(place.export("e.jsonl", [exports.route_thread(1, title=secret)]))
    (created,) = place.events("THREAD")
    with place.mailbox() as mailbox, mailbox.reading() as connection:
        bodies = index.bodies(connection, [created["metadata"]["details"]])
    assert json.loads(bodies[created["metadata"]["details"]])["title"] == secret
    assert secret.encode() not in place.ledger.read_bytes()


def test_nothing_of_a_row_in_clear_is_kept_anywhere(place: Place, tmp_path: Path) -> None:
    export = place.export("rows.jsonl", [exports.plaintext(n) for n in range(5)])
    outcome = place.run(export)
    assert outcome.sources[0].counts == Counts(5, plaintext=5)
    export.unlink()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or exports.CANARY.encode() not in path.read_bytes()
    with place.mailbox() as mailbox, mailbox.reading() as connection:
        for table in ("details", "adoption_refusals", "adoption_records", "thread_messages"):
            rows = connection.execute(text(f"SELECT * FROM {table}")).all()  # noqa: S608 (a name)
            assert rows == []


def test_imported_threads_are_there_at_the_next_start(place: Place) -> None:
    place.run(place.export("all.jsonl", everything()))
    with place.mailbox() as mailbox, mailbox.reading() as connection:
        threads = index.load(connection, [thread_of(digest("thread 2"))])
        messages = connection.execute(
            select(thread_messages.c.id, thread_messages.c.sender).order_by("position")
        ).all()
    thread = threads[thread_of(digest("thread 2"))]
    assert thread.status == "ARCHIVED"
    assert thread.legacy == digest("thread 2")
    assert set(thread.members) == {wallet(2 + other) for other in range(4)}
    assert (digest("message 2"), wallet(4)) in [tuple(row) for row in messages]


def test_running_again_changes_nothing(place: Place) -> None:
    export = place.export("all.jsonl", everything())
    first = place.run(export)
    before = place.ledger.read_bytes()
    again = place.run(export)
    assert again.sources == first.sources
    assert place.ledger.read_bytes() == before


def test_a_grown_export_brings_only_what_is_new(place: Place) -> None:
    export = place.export("transactions.jsonl", list(exports.transactions(5, threads=2)))
    place.run(export)
    with export.open("a") as file:
        file.write(json.dumps(exports.route_message(5, 1)) + "\n")
    outcome = place.run(export)
    assert sorted(s.counts for s in outcome.sources) == [
        Counts(7, threads=2, messages=5),
        Counts(8, messages=1, duplicates=7),
    ]
    assert len(place.events("LEGACY_MESSAGE")) == 6
    # The first export is the beginning of the file, and is verified as such.
    assert place.verify(export).verified


@pytest.mark.parametrize("died_at", [1, 2, 4])
def test_a_run_that_died_is_finished_also_when_its_export_has_grown_since(
    place: Place, monkeypatch: pytest.MonkeyPatch, died_at: int
) -> None:
    """The host was started again in between: what was begun is the file's beginning now."""
    export = place.export("all.jsonl", exports.transactions(9, threads=2))
    commits = 0

    def dies(self: AdoptionStore, *given: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == died_at:
            raise KeyboardInterrupt
        commit(self, *given)

    commit = AdoptionStore.commit
    with monkeypatch.context() as patch:
        patch.setattr(AdoptionStore, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            place.run(export, batch=3)
    grow(export)
    assert "not finished" in place.verify(export).mismatches[-1]
    begun, grown = place.run(export).sources
    assert (begun.done, begun.counts.records, begun.counts.messages) == (True, 11, 9)
    assert (grown.done, grown.counts.messages, grown.counts.duplicates) == (True, 1, 11)
    assert place.verify(export).verified
    told = [event["metadata"].get("id") for event in place.events("LEGACY_MESSAGE")]
    assert len(told) == len(set(told)) == 10
    assert len(place.events("THREAD")) == 2


def test_what_a_run_logged_before_it_died_is_not_taken_from_another_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are in the ledger and not yet in the tables: taken again they would be double."""
    export = place.export("all.jsonl", exports.transactions(9, threads=2))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AdoptionStore, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            place.run(export)
    before = place.ledger.read_bytes()
    changed = place.export("changed.jsonl", list(exports.transactions(9, threads=2))[::-1])
    for given in ((), (changed,)):
        with pytest.raises(MigrationRefused, match=r"was begun and is not finished.*its file"):
            place.run(*given)
    assert place.ledger.read_bytes() == before
    place.run(changed, export)
    assert place.verify(changed, export).verified
    assert len(place.events("THREAD", "LEGACY_MESSAGE")) == 11


def test_an_export_that_has_grown_since_is_not_verified(place: Place) -> None:
    """The host goes on writing at ``shadow``; what the chat wrote itself is known."""
    export = place.export("transactions.jsonl", list(exports.transactions(5, threads=2)))
    place.run(export)
    mirrored = {**exports.route_message(6, 1), "ledger_position": 9}
    with export.open("a") as file:
        file.write(json.dumps(mirrored) + "\n")
    assert place.verify(export).verified
    with export.open("a") as file:
        file.write(json.dumps(exports.route_message(7, 1)) + "\n" + "17\n")
    outcome = place.verify(export)
    assert outcome.mismatches == [
        "transactions.jsonl: 2 of its records were not taken over: run again"
    ]
    place.run(export)
    assert place.verify(export, accept_refused=True).verified
    other = place.export("other.jsonl", [exports.conversation(1)])
    assert place.verify(export, other, accept_refused=True).mismatches == [
        "other.jsonl: 1 of its records were not taken over: run again"
    ]


def test_a_record_that_was_half_written_is_not_taken_when_it_is_whole(place: Place) -> None:
    """The export was copied while the host wrote its last line."""
    export = place.export("transactions.jsonl", list(exports.transactions(5, threads=2)))
    line = json.dumps(exports.route_message(6, 1)) + "\n"
    with export.open("a") as file:
        file.write(line[:40])
    place.run(export)
    assert place.verify(export, accept_refused=True).verified
    with export.open("a") as file:
        file.write(line[40:])
    assert place.verify(export, accept_refused=True).mismatches == [
        "transactions.jsonl: 1 of its records were not taken over: run again"
    ]
    place.run(export)
    assert place.verify(export, accept_refused=True).verified
    assert len(place.events("LEGACY_MESSAGE")) == 6


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
def test_the_size_of_a_batch_does_not_matter(place: Place, batch: int) -> None:
    export = place.export("all.jsonl", everything())
    outcome = place.run(export, batch=batch)
    assert outcome.sources[0].counts == FATES
    assert [e["metadata"]["line"] for e in place.events("THREAD", "LEGACY_MESSAGE")] == [
        2, 3, 6, 1, 3, 4, 5, 7, 8,
    ]  # fmt: skip


def test_threads_of_one_export_and_messages_of_another(place: Place) -> None:
    messages = place.export("1.jsonl", [exports.engine_message(n, 1) for n in range(3)])
    threads = place.export("2.jsonl", [exports.engine_thread(1)])
    outcome = place.run(messages, threads)
    assert sorted(s.counts for s in outcome.sources) == [
        Counts(1, threads=1),
        Counts(3, messages=3),
    ]
    assert place.verify(messages, threads).verified


def test_a_message_finds_a_thread_that_the_chat_itself_made(place: Place) -> None:
    thread = "thread_" + "7" * 32
    journal = Journal.open(place.ledger)
    members = [wallet(1), wallet(2)]
    created = {"kind": "created", "thread": thread, "members": members}
    journal.append(EventDraft("THREAD", wallet(1), created))
    journal.close()
    outcome = place.run(place.export("e.jsonl", [exports.engine_message(1, 1, thread_id=thread)]))
    assert outcome.sources[0].counts == Counts(1, messages=1)
    (message,) = place.events("LEGACY_MESSAGE")
    assert message["metadata"]["thread"] == thread


def test_the_throttle_waits_for_as_long_as_the_batch_was_too_fast(place: Place) -> None:
    waits: list[float] = []
    export = Export.at(place.export("e.jsonl", list(exports.transactions(30, threads=10))))
    with steps._opened(place.ledger, engine_for(place.url)) as (journal, mailbox):
        transfer = Transfer(
            journal,
            AdoptionStore(mailbox),
            batch=10,
            throttle=100,
            sleep=waits.append,
            monotonic=lambda: 5.0,
        )
        transfer.take(export, Phase.THREADS)
    assert waits[0] == pytest.approx(0.1)


def test_progress_reaches_the_end_of_every_export_in_both_phases(place: Place) -> None:
    paths = [
        place.export("1.jsonl", list(exports.transactions(30, threads=5))),
        place.export("2.jsonl", everything()),
    ]
    read: list[int] = []
    place.run(*paths, batch=4, advance=read.append)
    size = 2 * sum(path.stat().st_size for path in paths)
    assert sum(read) == size
    read.clear()
    place.verify(*paths, advance=read.append)
    assert sum(read) == size


def test_memory_does_not_grow_with_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "INDEX_BATCH", 500)

    def peak(count: int) -> int:
        place = Place(tmp_path / str(count), f"sqlite:///{tmp_path / str(count)}.sqlite")
        place.directory.mkdir()
        export = place.export("e.jsonl", exports.transactions(count, threads=10))
        tracemalloc.start()
        outcome = place.run(export, batch=500)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert outcome.sources[0].counts.messages == count
        return most

    peak(1)  # what is loaded once
    assert peak(9_000) < 1.25 * peak(4_000)


# -- the dry run -----------------------------------------------------------------------------------


def test_a_plan_says_what_a_run_does_and_writes_nothing(place: Place, tmp_path: Path) -> None:
    export = place.export("all.jsonl", everything())
    planned = steps.plan(place.ledger, None, [export])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["all.jsonl"]
    done = place.run(export)
    assert [s.counts for s in planned.sources] == [s.counts for s in done.sources]
    with place.mailbox() as mailbox:
        assert planned.refusals == list(AdoptionStore(mailbox).refusals())


def test_a_plan_knows_what_earlier_runs_took(place: Place) -> None:
    place.run(place.export("1.jsonl", list(exports.transactions(5, threads=2))))
    before = place.ledger.read_bytes()
    more = place.export("2.jsonl", [exports.route_message(4, 0), exports.route_message(9, 1)])
    planned = place.plan(more)
    assert planned.sources[-1].counts == Counts(2, messages=1, duplicates=1)
    assert place.ledger.read_bytes() == before


def test_a_broken_document_is_refused_before_anything_is_written(
    place: Place, tmp_path: Path
) -> None:
    good = place.export("good.jsonl", everything())
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(everything())[:-9])
    for step in (place.plan, place.run):
        with pytest.raises(ExportUnusable, match=r"bad\.json"):
            step(good, bad)
    assert not place.ledger.exists()


def test_a_running_server_keeps_the_ledger(place: Place) -> None:
    export = place.export("all.jsonl", everything())
    journal = Journal.open(place.ledger)
    try:
        with pytest.raises(LedgerLocked):
            place.run(export)
    finally:
        journal.close()


# -- verification ----------------------------------------------------------------------------------


def migrated(place: Place) -> Path:
    export = place.export("all.jsonl", everything())
    place.run(export)
    return export


def test_a_verification_passes_when_refusals_are_accepted_and_is_logged(place: Place) -> None:
    export = migrated(place)
    refused = place.verify(export)
    assert not refused.verified
    assert [m for m in refused.mismatches if "4 records were refused" in m]
    assert place.events("MIGRATION")[-1]["metadata"]["kind"] == "finished"
    accepted = place.verify(export, accept_refused=True)
    assert accepted.mismatches == []
    assert accepted.verified
    assert place.events("MIGRATION")[-1]["metadata"] == {
        "kind": "verified",
        "position": len(place.events()) - 1,
        "refused": 4,
        "files": hashlib.sha256(hashlib.sha256(export.read_bytes()).digest()).hexdigest(),
    }


def test_a_verification_needs_every_export(place: Place) -> None:
    migrated(place)
    assert "its file was not given" in place.verify(accept_refused=True).mismatches[0]


def test_a_verification_of_nothing_does_not_pass(place: Place) -> None:
    Journal.open(place.ledger).close()
    assert "nothing was migrated" in place.verify().mismatches[0]


Tamper = Callable[[Place], None]


def in_database(statement: Any) -> Tamper:
    def tamper(place: Place) -> None:
        engine = engine_for(place.url)
        with engine.begin() as connection:
            assert connection.execute(statement).rowcount
        engine.dispose()

    return tamper


def log(draft: EventDraft) -> Tamper:
    def tamper(place: Place) -> None:
        journal = Journal.open(place.ledger)
        journal.append(draft)
        journal.close()

    return tamper


def double_an_event(place: Place) -> None:
    event = place.events("LEGACY_MESSAGE")[0]
    log(EventDraft(event["event_type"], event["wallet"], event["metadata"]))(place)


def flip_a_byte(place: Place) -> None:
    data = bytearray(place.ledger.read_bytes())
    data[data.index(b"LEGACY_MESSAGE")] ^= 1
    place.ledger.write_bytes(data)


@pytest.mark.parametrize(
    ("tamper", "mismatch"),
    [
        (in_database(delete(details)), "its title and metadata are not kept"),
        (in_database(update(details).values(body=b"{}")), "its title and metadata are not kept"),
        (in_database(delete(adoption_records)), "it is neither in the ledger nor refused"),
        (
            in_database(update(adoption_records).values(fingerprint=b"0" * 16)),
            "another one was taken in its place",
        ),
        (
            in_database(update(adoption_records).values(position=1)),
            "the event at position",
        ),
        (in_database(delete(adoption_refusals)), "and was not refused"),
        (double_an_event, "its record is not in the export"),
        (flip_a_byte, "the ledger: line"),
    ],
)
def test_a_verification_finds_what_is_not_as_the_export_has_it(
    place: Place, tamper: Tamper, mismatch: str
) -> None:
    export = migrated(place)
    assert place.verify(export, accept_refused=True).verified
    tamper(place)
    outcome = place.verify(export, accept_refused=True)
    assert [m for m in outcome.mismatches if mismatch in m], outcome.mismatches


def test_a_verification_that_does_not_pass_takes_an_earlier_one_back(place: Place) -> None:
    export = migrated(place)
    assert place.verify(export, accept_refused=True).verified
    kept = place.events("MIGRATION")
    with place.mailbox() as mailbox, mailbox.reading() as connection:
        bodies = connection.execute(select(details.c.hash, details.c.body)).all()
    in_database(update(details).values(body=b"{}"))(place)
    for _ in range(2):  # it is said once
        assert not place.verify(export, accept_refused=True).verified
    assert [event["metadata"]["kind"] for event in place.events("MIGRATION")[len(kept) :]] == [
        "failed"
    ]
    with pytest.raises(MigrationRefused, match="verification"):
        place.move(Stage.SHADOW, export)
    for row in bodies:
        in_database(update(details).where(details.c.hash == row.hash).values(body=row.body))(place)
    assert place.verify(export, accept_refused=True).verified
    assert place.move(Stage.SHADOW, export).stage is Stage.SHADOW


def test_another_ledger_under_the_same_tables_is_refused(place: Place, tmp_path: Path) -> None:
    export = migrated(place)
    place.ledger.rename(tmp_path / "aside")
    with pytest.raises(MigrationRefused, match="another ledger"):
        place.run(export)


# -- stages ----------------------------------------------------------------------------------------


def test_a_stage_moves_forward_only_after_a_verification_and_back_at_any_time(
    place: Place,
) -> None:
    export = migrated(place)
    with pytest.raises(MigrationRefused, match="verification"):
        place.move(Stage.SHADOW, export)
    place.verify(export, accept_refused=True)
    assert place.move(Stage.SHADOW, export).stage is Stage.SHADOW
    assert place.move(Stage.DUAL, export).stage is Stage.DUAL
    with export.open("a") as file:
        file.write(json.dumps(exports.route_message(50, 1)) + "\n")
    place.run(export)
    with pytest.raises(MigrationRefused, match="verification"):
        place.move(Stage.V2)
    assert place.move(Stage.SHADOW).stage is Stage.SHADOW
    with pytest.raises(NoSuchMove):
        place.move(Stage.V2)


def grow(export: Path) -> None:
    with export.open("a") as file:
        file.write(json.dumps(exports.route_message(50, 1)) + "\n")


def shrink(export: Path) -> None:
    export.write_text("".join(export.read_text().splitlines(keepends=True)[:-1]))


def swap(export: Path) -> None:
    """The same length and another record last."""
    *before, last = export.read_text().splitlines(keepends=True)
    export.write_text("".join(before) + " " * (len(last) - 1) + "\n")


@pytest.mark.parametrize("write", [shrink, swap])
def test_an_export_that_changes_while_it_is_read_is_said_and_not_finished(
    place: Place, write: Callable[[Path], None]
) -> None:
    export = place.export("all.jsonl", exports.transactions(9, threads=2))
    before = Export.at(export)
    other = place.export("other.jsonl", [exports.conversation(1)])

    def change_once(_: int) -> None:
        if place.events("THREAD") and Export.at(export) == before:
            write(export)

    outcome = place.run(export, other, batch=3, advance=change_once)
    assert outcome.mismatches[0] == "all.jsonl: it changed while it was read"
    assert [source.done for source in outcome.sources] == [False, True]


@pytest.mark.parametrize("stage", [Stage.LEGACY, Stage.SHADOW])
@pytest.mark.parametrize("write", [grow, shrink, swap, Path.unlink])
def test_a_stage_in_which_the_host_writes_is_left_only_with_what_was_verified(
    place: Place, stage: Stage, write: Callable[[Path], None]
) -> None:
    export, other = migrated(place), place.export("other.jsonl", exports.transactions(9, threads=1))
    place.run(export, other)
    place.verify(export, other, accept_refused=True)
    if stage is Stage.SHADOW:
        place.move(Stage.SHADOW, export, other)
    after = ORDER[ORDER.index(stage) + 1]
    before = place.ledger.read_bytes()
    write(other)
    with pytest.raises((MigrationRefused, ExportUnusable), match=r"run.*verify|cannot be read"):
        place.move(after, export, other)
    assert place.ledger.read_bytes() == before


def test_a_stage_in_which_the_host_writes_is_left_with_every_file_and_no_other(
    place: Place,
) -> None:
    empty = place.export("empty.jsonl", [])
    export = migrated(place)
    place.run(export, empty)
    place.verify(export, empty, accept_refused=True)
    grown = place.export("grown.jsonl", exports.transactions(9, threads=1))
    for given in ((), (empty,), (export,), (export, export), (export, empty, grown)):
        with pytest.raises(MigrationRefused, match=r"run.*verify"):
            place.move(Stage.SHADOW, *given)
    grow(empty)
    with pytest.raises(MigrationRefused, match=r"run.*verify"):
        place.move(Stage.SHADOW, export, empty)
    place.run(export, empty)
    place.verify(export, empty, accept_refused=True)
    # Where a file lies and in which order the files are given does not matter.
    assert place.move(Stage.SHADOW, empty.rename(empty.with_name("b")), export).stage


def insert(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO chats VALUES (2)")
    database.commit()


def checkpoint(database: sqlite3.Connection) -> None:
    """What was in the log is in the file; a reader sees no difference, and we cannot know that."""
    insert(database)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("write", [insert, checkpoint])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_that_the_exports_were_made_from_must_not_change_until_the_move(
    place: Place, mode: str, write: Callable[[sqlite3.Connection], None]
) -> None:
    """Of what was written to it after the export no export tells."""
    source = place.directory / "host.sqlite"
    with contextlib.closing(sqlite3.connect(source)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE chats (id INTEGER)")
        database.commit()
        export = migrated(place)
        later(export, source)
        assert place.verify(export, sources=[source], accept_refused=True).verified
        before = place.ledger.read_bytes()
        for given in ((), (export,)):  # without what was verified
            with pytest.raises(MigrationRefused, match=r"run.*verify"):
                place.move(Stage.SHADOW, export, sources=given)
        write(database)
        with pytest.raises(MigrationRefused, match=r"run.*verify"):
            place.move(Stage.SHADOW, export, sources=[source])
        assert place.ledger.read_bytes() == before
        later(source, export)
        if mode == "wal" and write is insert:
            later(source.with_name("host.sqlite-wal"), source)
        (told,) = place.verify(export, sources=[source], accept_refused=True).mismatches[-1:]
        assert told.endswith("it was written after the exports were made: make them again")
        later(export, source, source.with_name("host.sqlite-wal"))
        assert place.verify(export, sources=[source], accept_refused=True).verified
        assert place.move(Stage.SHADOW, export, sources=[source]).stage is Stage.SHADOW


def later(path: Path, *than: Path) -> None:
    """Make a file the newer one, whatever the clock of the file system."""
    newest = max(other.stat().st_mtime_ns for other in than if other.exists()) + 10**9
    os.utime(path, ns=(newest, newest))


def test_where_the_chat_is_the_truth_no_export_is_compared(place: Place) -> None:
    export = migrated(place)
    place.verify(export, accept_refused=True)
    place.move(Stage.SHADOW, export)
    place.move(Stage.DUAL, export)
    grow(export)  # as the mirror does
    with pytest.raises(MigrationRefused, match="no export"):
        place.move(Stage.V2, export)
    assert place.move(Stage.V2).stage is Stage.V2


def test_the_status_of_every_state(place: Place) -> None:
    assert steps.status(place.ledger, None) == steps.Outcome()
    export = migrated(place)
    status = steps.status(place.ledger, engine_for(place.url))
    assert [(s.name, s.counts, s.done) for s in status.sources] == [("all.jsonl", FATES, True)]
    assert (status.verified, status.stage) == (False, None)
    place.verify(export, accept_refused=True)
    place.move(Stage.SHADOW, export)
    status = steps.status(place.ledger, engine_for(place.url))
    assert (status.verified, status.stage) == (True, Stage.SHADOW)


def test_refusals_are_read_page_by_page(place: Place) -> None:
    count = 1234
    place.run(place.export("bad.jsonl", [{"n": n} for n in range(count)]))
    with place.mailbox() as mailbox:
        found = list(AdoptionStore(mailbox).refusals())
    assert [refusal.line for refusal in found] == list(range(1, count + 1))
    assert all(isinstance(refusal, Refusal) for refusal in found)

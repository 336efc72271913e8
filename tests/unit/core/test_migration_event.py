"""core/migration_event: the events' shapes, and what they say together."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.secure_chat.core import migration_event
from plugins.secure_chat.core.migration_event import (
    Counts,
    MigrationEvent,
    Migrations,
    adopted,
    failed,
    finished,
    from_record,
    started,
    verified,
)
from plugins.secure_chat.core.records import EMPTY, Head, MalformedEvent, Record

SOURCE = "5" * 64
COUNTS = Counts(10, threads=2, messages=3, statuses=1, duplicates=1, plaintext=2, refused=1)
EVENTS = (
    adopted(Head(6, "a" * 64), prototype=1, trust_loop=2),
    started(SOURCE, 700),
    finished(SOURCE, COUNTS),
    verified(20, 1, "f" * 64),
    failed(30),
)


def record(event: MigrationEvent, position: int = 7, prev_hash: str = "a" * 64) -> Record:
    draft = event.draft()
    return Record(
        position=position,
        event_id="x",
        event_type=draft.event_type,
        wallet=draft.wallet,
        value=0,
        metadata=draft.metadata,
        signature="",
        timestamp="1970-01-01T00:00:00Z",
        event_hash="b" * 64,
        prev_hash=prev_hash,
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.step))
def test_an_event_reads_back_as_it_was_logged(event: MigrationEvent) -> None:
    assert from_record(record(event)) == event


def changed(event: MigrationEvent, **values: Any) -> Record:
    logged = record(event)
    return with_fields(logged, metadata={**logged.metadata, **values})


def with_fields(logged: Record, **fields: Any) -> Record:
    values = {name: getattr(logged, name) for name in logged.__struct_fields__}
    return Record(**{**values, **fields})


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        (with_fields(record(EVENTS[1]), event_type="NOTE"), "not a MIGRATION"),
        (changed(EVENTS[1], kind="moved"), "its kind"),
        (changed(EVENTS[1], path="/home"), "a field too many"),
        (with_fields(record(EVENTS[1]), wallet="mallory"), "its wallet"),
        (with_fields(record(EVENTS[1]), value=1), "its wallet, value"),
        (changed(EVENTS[1], source="no"), "source is not"),
        (changed(EVENTS[3], files="no"), "files is not"),
        (changed(EVENTS[1], bytes=-1), "bytes is not a count"),
        (changed(EVENTS[1], bytes=True), "bytes is not a count"),
        (changed(EVENTS[2], records=11), "its counts do not add up"),
        (changed(EVENTS[0], position=5), "another head"),
        (record(EVENTS[0], prev_hash="c" * 64), "another head"),
        (record(EVENTS[0], position=8), "another head"),
    ],
)
def test_a_malformed_event_is_refused_and_the_rule_named(malformed: Record, reason: str) -> None:
    with pytest.raises(MalformedEvent, match=reason):
        from_record(malformed)


def test_the_events_say_what_is_adopted_finished_and_verified() -> None:
    migrations = Migrations()
    migrations.take(EVENTS[0])
    migrations.take(EVENTS[1])
    assert migrations.adopted == Head(6, "a" * 64)
    assert migrations.unfinished == [SOURCE]
    migrations.take(EVENTS[2])
    assert migrations.sources[SOURCE].counts == COUNTS
    assert (migrations.unfinished, migrations.verified) == ([], False)
    migrations.take(EVENTS[3])
    assert (migrations.verified, migrations.files) == (True, "f" * 64)
    migrations.take(started("6" * 64, 1))
    assert not migrations.verified


def test_an_empty_ledger_can_be_adopted() -> None:
    event = adopted(EMPTY, prototype=0, trust_loop=0)
    assert from_record(record(event, 1, EMPTY.event_hash)) == event


def test_counts_add_up_or_not() -> None:
    assert COUNTS.balanced
    assert not Counts(2, messages=1).balanced
    assert Counts(1, messages=1) + Counts(1, refused=1) == Counts(2, messages=1, refused=1)
    assert migration_event.NOTHING.balanced

"""migrations/: every database comes to the one schema, and the code before can run on it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, TableClause, column, inspect, select, text

from plugins.secure_chat.adoption import steps
from plugins.secure_chat.adoption.store import AdoptionStore
from plugins.secure_chat.errors import DatabaseUnusable
from plugins.secure_chat.ledger.journal import START
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.migrations import schema
from tests.unit.migrations import before_alembic

VERSIONS = sorted((schema.HERE / "versions").glob("v*.py"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = engine_for(database_url)
    yield opened
    opened.dispose()


def version_of(engine: Engine) -> int:
    with engine.connect() as connection:
        return schema.version(connection)


def upgrade_to(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), revision)


def test_a_new_database_comes_to_the_schema_of_the_code(engine: Engine) -> None:
    schema.upgrade(engine)
    assert version_of(engine) == schema.newest()
    assert schema.drift(engine) == []
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_a_difference_from_the_code_is_found(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE messages ADD COLUMN stray INTEGER"))
    assert len(schema.drift(engine)) == 1


def test_a_database_from_before_alembic_is_taken_over_with_what_it_holds(engine: Engine) -> None:
    before_alembic.metadata.create_all(engine)
    with engine.begin() as connection:
        before_alembic.write(connection)
    schema.upgrade(engine)
    assert version_of(engine) == schema.newest()
    with engine.begin() as connection:
        assert before_alembic.read(connection) == before_alembic.WRITTEN


@pytest.mark.parametrize("made", range(4))
def test_a_first_start_that_was_cut_short_is_completed(engine: Engine, made: int) -> None:
    """Before Alembic each table was a transaction of its own, and so was each index."""
    for table in list(before_alembic.metadata.tables.values())[:made]:
        table.create(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX IF EXISTS ix_streams_recipient"))
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_a_foreign_table_of_the_same_name_is_refused_and_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE messages (id INTEGER, body VARCHAR(10))"))
    with pytest.raises(DatabaseUnusable, match="'messages'"):
        schema.upgrade(engine)
    assert inspect(engine).get_table_names() == ["messages"]


def test_another_programs_alembic_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('1975ea83b712')"))
    with pytest.raises(DatabaseUnusable, match="another program"):
        schema.upgrade(engine)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_each_version_works_with_the_code_before_it(engine: Engine, version: Path) -> None:
    """The statements of the code before Alembic run on every schema since.

    Versions after the first may only add: no statement of an upgrade may drop, rename or alter.
    """
    upgrade_to(engine, version.stem[1:5])
    with engine.begin() as connection:
        before_alembic.write(connection)
    with engine.begin() as connection:
        assert before_alembic.read(connection) == before_alembic.WRITTEN
    forbidden = re.compile(r"op\.(drop_\w+|rename_\w+|alter_column|batch_alter_table)\(")
    assert forbidden.search(version.read_text()) is None


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_every_version_is_upgraded_from(engine: Engine, version: Path) -> None:
    upgrade_to(engine, version.stem[1:5])
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_the_times_of_imports_become_those_of_the_contract(engine: Engine) -> None:
    """Version 8 kept them as their sources wrote them."""
    upgrade_to(engine, "0008")
    ours, theirs = "2026-11-25T12:00:00.5+00:00", "1765800000.25"
    event = "INSERT INTO thread_events VALUES (:at, 'thread_1', 'w', '{}', 'e', :time, NULL)"
    message = (
        "INSERT INTO thread_messages (thread, position, sender, id, content, timestamp)"
        " VALUES ('thread_1', :at, 'w', 'm', 'c', :time)"
    )
    times = {1: theirs, 2: ours, 3: "1765800001", 4: "in winter"}
    with engine.begin() as connection:
        for at, time in times.items():
            for statement in (event, message):
                connection.execute(text(statement), {"at": at, "time": time})
    schema.upgrade(engine)
    with engine.begin() as connection:
        for name in ("thread_events", "thread_messages"):
            row = TableClause(name, column("position"), column("timestamp"))
            rows = connection.execute(select(row).order_by(row.c.position))
            assert [tuple(row) for row in rows] == [
                (1, "2025-12-15T12:00:00.250000+00:00"),
                (2, ours),
                (3, "2025-12-15T12:00:01+00:00"),
                (4, "in winter"),
            ]


def set_version(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alembic_version SET version_num = :n"), {"n": f"{number:04d}"}
        )


def test_a_schema_one_ahead_is_used_and_two_ahead_refused(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    schema.upgrade(engine)
    set_version(engine, schema.newest() + 1)
    schema.upgrade(engine)
    assert "schema.one_ahead" in caplog.text
    set_version(engine, schema.newest() + 2)
    with pytest.raises(DatabaseUnusable, match=f"{schema.newest() + 2:04d}"):
        schema.upgrade(engine)


def test_an_upgrade_that_fails_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.upgrade

    def fails_at_the_end(config: Config, revision: str) -> None:
        real(config, revision)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "upgrade", fails_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        schema.upgrade(engine)
    assert inspect(engine).get_table_names() == []
    monkeypatch.undo()
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_reading_leaves_an_older_schema_as_it_is(engine: Engine) -> None:
    upgrade_to(engine, "0004")
    with steps._existing(engine) as found:
        assert found is not None
        assert AdoptionStore(found).progress() == []
        assert found.stage() is None
        assert found.checkpoint() == START
    assert version_of(engine) == 4
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match="schema 9999"), steps._existing(engine):
        pass


def test_many_starts_at_once_upgrade_once(database_url: str) -> None:
    engines = [engine_for(database_url) for _ in range(6)]
    together = threading.Barrier(len(engines))
    failures: list[DatabaseUnusable] = []

    def start(engine: Engine) -> None:
        together.wait()
        try:
            schema.upgrade(engine)
        except DatabaseUnusable as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert schema.drift(engines[0]) == []
    for engine in engines:
        engine.dispose()


def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mailbox.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(DatabaseUnusable, match="not a database") as refused:
        schema.upgrade(engine_for(f"sqlite:///{path}"))
    assert "\n" not in str(refused.value)


def test_versions_are_one_line_numbered_without_a_gap() -> None:
    script = ScriptDirectory(str(schema.HERE))
    chain = list(script.walk_revisions())[::-1]
    numbers = [f"{number:04d}" for number in range(1, len(VERSIONS) + 1)]
    assert [revision.revision for revision in chain] == numbers
    assert [path.stem[1:5] for path in VERSIONS] == numbers


def test_a_developer_can_write_the_next_version_with_alembic(tmp_path: Path) -> None:
    """``alembic check`` reads pyproject.toml and our environment, and finds nothing to write."""
    url = f"sqlite:///{tmp_path / 'mailbox.sqlite'}"
    with engine_for(url).begin() as connection:
        command.upgrade(schema._config(connection), "head")
    done = subprocess.run(
        (sys.executable, "-m", "alembic", "check"),
        env={"SECURE_CHAT_DATABASE_URL": url, "PATH": ""},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations" in done.stdout

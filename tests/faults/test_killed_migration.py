"""A migration killed over and over comes to the same bytes as one that ran through."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.audit import audit_ledger
from tests import exports, postgres
from tests.ledgers import readers, writers
from tests.ledgers.writers import Ledger

pytestmark = pytest.mark.fault

KILLS = 20
RECORDS = 3_000
BATCH = 100
STEPS = 8 * RECORDS // BATCH  # steps on the disk of a run that nobody kills, about


def records() -> Iterable[Any]:
    yield exports.route_message(1, 1)
    yield from exports.transactions(RECORDS, threads=50)
    for number in range(50):
        yield exports.engine_thread(number)
        yield exports.plaintext(number)
        yield {"unfit": number}
        yield exports.route_status(number, number, "ARCHIVED")


def migrate(
    data: Path, export: Path, *, kill_at: int | None = None, url: str = ""
) -> subprocess.CompletedProcess[str]:
    command = ["-m", "plugins.secure_chat"]
    if kill_at is not None:
        command = ["-m", "tests.faults.killed_migration", str(kill_at)]
    options = ["migrate", "run", str(export), "--data-dir", str(data), "--json"]
    return subprocess.run(
        (sys.executable, *command, *options, "--batch", str(BATCH), "--accept-refused"),
        env={"SECURE_CHAT_DATABASE_URL": url, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def prepare(directory: Path, dialect: str) -> Path:
    """A data directory with a host's ledger in it."""
    directory.mkdir()
    before = Ledger().add_all(dialect, writers.conversation(dialect)).data
    (directory / "genesis_ledger.jsonl").write_bytes(before)
    return directory


def fix_the_seed(data: Path) -> None:
    """The salts of titles are random for each database; both runs get the same."""
    from plugins.secure_chat.adoption.store import AdoptionStore
    from plugins.secure_chat.mailbox.store import Mailbox

    mailbox = Mailbox.at(data / "mailbox.sqlite")
    AdoptionStore(mailbox).begin("0" * 64, "none")
    mailbox.close()
    with sqlite3.connect(data / "mailbox.sqlite") as database:
        database.execute("UPDATE adoption_state SET seed = zeroblob(32)")
        database.execute("DELETE FROM adoption_sources")
    database.close()


def dump(data: Path) -> list[str]:
    with sqlite3.connect(data / "mailbox.sqlite") as database:
        found = list(database.iterdump())
    database.close()
    return found


def killed_and_then_finished(data: Path, export: Path, seed: int, url: str = "") -> int:
    """How often it was killed: runs die at random steps until KILLS have, then one goes through."""
    chance = random.Random(seed)
    killed = 0
    while killed < KILLS:
        done = migrate(data, export, kill_at=1 + chance.randrange(STEPS // KILLS), url=url)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            break
        killed += 1
    done = migrate(data, export, url=url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mismatches"] == []
    return killed


def nothing_is_double(ledger: Path) -> None:
    """Each record of the export is in the ledger once, in its order, and the chain is sound."""
    assert audit_ledger(ledger).sound
    lines = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    names = [
        (line["event_type"], line["metadata"].get("id", line["metadata"].get("legacy")))
        for line in lines
        if line["event_type"] in ("THREAD", "LEGACY_MESSAGE")
        and line["metadata"].get("kind") != "status"
    ]
    assert Counter(name[0] for name in names) == {"THREAD": 50, "LEGACY_MESSAGE": RECORDS}
    assert len(set(names)) == len(names)
    kinds = [line["metadata"]["kind"] for line in lines if line["event_type"] == "MIGRATION"]
    assert kinds == ["adopted", "started", "finished"]


def test_a_migration_killed_twenty_times_is_the_same_to_the_byte(tmp_path: Path) -> None:
    """In the dialect without clocks, so that the whole ledger must be the same as well."""
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    once, often = prepare(tmp_path / "once", "v7"), prepare(tmp_path / "often", "v7")
    fix_the_seed(once)
    fix_the_seed(often)
    done = migrate(once, export)
    assert done.returncode == 0, done.stderr
    assert killed_and_then_finished(often, export, seed=5) == KILLS
    assert (often / "genesis_ledger.jsonl").read_bytes() == (
        once / "genesis_ledger.jsonl"
    ).read_bytes()
    assert dump(often) == dump(once)
    nothing_is_double(often / "genesis_ledger.jsonl")


def test_a_killed_migration_of_a_ledger_with_clocks_doubles_nothing(tmp_path: Path) -> None:
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    data = prepare(tmp_path / "data", "v1")
    assert killed_and_then_finished(data, export, seed=6) == KILLS
    nothing_is_double(data / "genesis_ledger.jsonl")
    readers.read("v1", (data / "genesis_ledger.jsonl").read_bytes())


@pytest.mark.postgres
def test_a_killed_migration_into_postgresql_doubles_nothing(
    tmp_path: Path, new_postgres: str
) -> None:
    assert postgres.binaries() is not None
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    data = prepare(tmp_path / "data", "v1")
    assert killed_and_then_finished(data, export, seed=7, url=new_postgres) == KILLS
    nothing_is_double(data / "genesis_ledger.jsonl")

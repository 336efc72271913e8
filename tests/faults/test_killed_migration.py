"""A migration killed over and over comes to the same bytes as one that ran through.

``MIGRATION_RECORDS`` says of how many records; twenty kills are twenty at any size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plugins.secure_chat.audit import audit_ledger
from tests import exports, postgres
from tests.faults.server import LEDGER
from tests.ledgers import readers, writers
from tests.ledgers.writers import Ledger

log = logging.getLogger(__name__)
pytestmark = pytest.mark.fault

KILLS = 20
FEW = 6  # kills, where the ledger's clocks or the database are what is new
RECORDS = int(os.environ.get("MIGRATION_RECORDS", "3000"))
THREADS = 50
BATCH = max(100, RECORDS // 200)
STEPS = 8 * RECORDS // BATCH  # steps on the disk of a run that nobody kills, about
MAX_MEMORY = 192  # MiB of a run, however many records there are


def records() -> Iterable[Any]:
    yield exports.route_message(1, 1)
    yield from exports.transactions(RECORDS, threads=THREADS)
    for number in range(THREADS):
        yield exports.engine_thread(number)
        yield exports.plaintext(number)
        yield {"unfit": number}
        yield exports.route_status(number, number, "ARCHIVED")


class Run(NamedTuple):
    """How a process ended."""

    status: int
    answer: str
    complaint: str


def peak(pid: int) -> float:
    """MiB that the program had resident at most so far (proc(5), VmHWM); 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except ProcessLookupError:
        return 0.0
    found = re.search(r"^VmHWM:\s+([0-9]+) kB$", status, re.MULTILINE)
    return 0.0 if found is None else int(found[1]) / 1024


def migrate(data: Path, export: Path, *, kill_at: int | None = None, url: str = "") -> Run:
    command = ["-m", "plugins.secure_chat"]
    if kill_at is not None:
        command = ["-m", "tests.faults.killed_migration", str(kill_at)]
    options = ["migrate", "run", str(export), "--data-dir", str(data), "--json"]
    output, errors = data / "stdout", data / "stderr"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            (sys.executable, *command, *options, "--batch", str(BATCH), "--accept-refused"),
            env={"SECURE_CHAT_DATABASE_URL": url, "PATH": ""},
            stdout=stdout,
            stderr=stderr,
        )
        ended, memory = 0, 0.0
        while not ended:
            # The kernel's own peak (ru_maxrss) is of this process too, as large as it was then.
            memory = max(memory, peak(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    log.info("exit %d, %.1f s of a core, %.0f MiB", process.returncode, seconds, memory)
    assert memory < MAX_MEMORY
    return Run(process.returncode, output.read_text(), errors.read_text())


def prepare(directory: Path, dialect: str) -> Path:
    """A data directory with a host's ledger in it."""
    directory.mkdir()
    before = Ledger().add_all(dialect, writers.conversation(dialect)).data
    (directory / LEDGER).write_bytes(before)
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


def dump(data: Path) -> tuple[int, str]:
    """Lines of the database's dump, and the SHA-256 of all of them."""
    count, digest = 0, hashlib.sha256()
    with sqlite3.connect(data / "mailbox.sqlite") as database:
        for statement in database.iterdump():
            count += 1
            digest.update(statement.encode() + b"\n")
    database.close()
    return count, digest.hexdigest()


def killed_and_then_finished(
    data: Path, export: Path, *, kills: int, seed: int, url: str = ""
) -> int:
    """How often it was killed: runs die at random steps until ``kills`` have; one goes through.

    However many there are, they come from the run's beginning to near its end.
    """
    chance = random.Random(seed)
    killed = 0
    while killed < kills:
        done = migrate(data, export, kill_at=1 + chance.randrange(STEPS // kills), url=url)
        if done.status != -signal.SIGKILL:
            assert done.status == 0, done.complaint
            break
        killed += 1
    done = migrate(data, export, url=url)
    assert done.status == 0, done.complaint
    assert json.loads(done.answer)["mismatches"] == []
    return killed


def ledger_lines(ledger: Path) -> Iterator[Any]:
    with ledger.open("rb") as file:
        for line in file:
            yield json.loads(line)


def nothing_is_double(ledger: Path) -> None:
    """Each record of the export is in the ledger once, in its order, and the chain is sound."""
    assert audit_ledger(ledger).sound
    ids: dict[str, list[str]] = {"THREAD": [], "LEGACY_MESSAGE": [], "MIGRATION": []}
    for line in ledger_lines(ledger):
        event, metadata = line["event_type"], line["metadata"]
        if event == "MIGRATION":
            ids[event].append(metadata["kind"])
        elif event == "LEGACY_MESSAGE" or metadata.get("kind") == "created":
            ids[event].append(metadata.get("id", metadata.get("legacy")))
    assert ids["MIGRATION"] == ["adopted", "started", "finished"]
    assert ids["THREAD"] == [exports.digest(f"thread {number}") for number in range(THREADS)]
    rest = (number for number in range(RECORDS) if number != 1)  # that one stands in front
    assert ids["LEGACY_MESSAGE"] == [exports.digest(f"message {n}") for n in (1, *rest)]


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_migration_killed_twenty_times_is_the_same_to_the_byte(tmp_path: Path) -> None:
    """In the dialect without clocks, so that the whole ledger must be the same as well."""
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    once, often = prepare(tmp_path / "once", "v7"), prepare(tmp_path / "often", "v7")
    fix_the_seed(once)
    fix_the_seed(often)
    done = migrate(once, export)
    assert done.status == 0, done.complaint
    assert killed_and_then_finished(often, export, kills=KILLS, seed=5) == KILLS
    assert digest_of(often / LEDGER) == digest_of(once / LEDGER)
    assert dump(often) == dump(once)
    nothing_is_double(often / LEDGER)


def test_a_killed_migration_of_a_ledger_with_clocks_doubles_nothing(tmp_path: Path) -> None:
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    data = prepare(tmp_path / "data", "v1")
    assert killed_and_then_finished(data, export, kills=FEW, seed=6) == FEW
    nothing_is_double(data / LEDGER)
    readers.read("v1", (data / LEDGER).read_bytes())


@pytest.mark.postgres
def test_a_killed_migration_into_postgresql_doubles_nothing(
    tmp_path: Path, new_postgres: str
) -> None:
    assert postgres.binaries() is not None
    export = exports.write_lines(tmp_path / "export.jsonl", records())
    data = prepare(tmp_path / "data", "v1")
    assert killed_and_then_finished(data, export, kills=FEW, seed=7, url=new_postgres) == FEW
    nothing_is_double(data / LEDGER)

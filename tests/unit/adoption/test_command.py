"""``secure-chat migrate``: what an operator reads, what a script reads, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from plugins.secure_chat.adoption.transfer import Transfer
from plugins.secure_chat.cli import app
from plugins.secure_chat.ledger.journal import Journal
from tests import exports
from tests.ledgers import writers
from tests.ledgers.writers import Ledger


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    before = Ledger().add_all("v1", writers.conversation("v1"))
    (directory / "genesis_ledger.jsonl").write_bytes(before.data)
    return directory


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return exports.write_lines(tmp_path / "sound.jsonl", exports.transactions(5, threads=2))


@pytest.fixture
def unfit(tmp_path: Path) -> Path:
    records = [exports.route_thread(1), {"text": 1}, exports.plaintext(1), 17]
    return exports.write_lines(tmp_path / "unfit.jsonl", records)


def migrate(data: Path, command: str, *arguments: str | Path, **environment: str) -> Result:
    options = [command, *map(str, arguments), "--data-dir", str(data)]
    return CliRunner(env={"SECURE_CHAT_DATABASE_URL": "", **environment}).invoke(
        app, ["migrate", *options]
    )


def as_json(data: Path, command: str, *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(migrate(data, command, *arguments, "--json").stdout)
    return found


def test_the_whole_way_from_plan_to_the_next_stage(data: Path, sound: Path) -> None:
    planned = migrate(data, "plan", sound)
    assert planned.exit_code == 0, planned.output
    assert "6 records (v1 6): sound" in planned.stdout
    assert "prototype 1" in planned.stdout
    assert "5 messages, not end-to-end encrypted and never rewarded" in planned.stdout
    assert migrate(data, "run", sound).exit_code == 0
    assert "verified    no" in migrate(data, "status").stdout
    refused = migrate(data, "advance", sound, "--from", "legacy")
    assert refused.exit_code == 2
    assert "verify" in refused.stderr
    assert migrate(data, "verify", sound).exit_code == 0
    unsaid = migrate(data, "advance")
    assert unsaid.exit_code == 2
    assert "--from legacy" in unsaid.stderr
    forgotten = migrate(data, "advance", "--from", "legacy")
    assert forgotten.exit_code == 2
    assert "not the files that were verified" in forgotten.stderr
    assert as_json(data, "advance", sound, "--from", "legacy")["stage"] == "shadow"
    assert as_json(data, "advance", sound)["stage"] == "dual"
    assert as_json(data, "rollback")["stage"] == "shadow"
    status = as_json(data, "status")
    assert (status["stage"], status["verified"]) == ("shadow", True)
    assert status["adopted"]["position"] == 6


def test_numbers_for_a_script(data: Path, sound: Path) -> None:
    found = as_json(data, "run", sound)
    assert found["verdict"] == "done"
    (source,) = found["sources"]
    assert (source["in"], source["out"], source["done"]) == (7, 7, True)
    assert (source["threads"], source["messages"], source["refused"]) == (2, 5, 0)


def test_refused_records_are_told_written_down_and_an_error_until_they_are_accepted(
    data: Path, unfit: Path
) -> None:
    planned = migrate(data, "plan", unfit)
    assert planned.exit_code == 1
    assert "record 4: it is not an object" in planned.stdout
    assert migrate(data, "run", unfit).exit_code == 1
    assert migrate(data, "run", unfit, "--accept-refused").exit_code == 0
    assert migrate(data, "verify", unfit).exit_code == 1
    assert migrate(data, "verify", unfit, "--accept-refused").exit_code == 0
    report = json.loads((data / "migration-report.json").read_text())
    assert [(r["line"], r["reason"]) for r in report["refusals"]] == [
        (2, "its fields are those of no record that is known here"),
        (4, "it is not an object"),
    ]
    assert report["sources"][0]["plaintext"] == 1
    assert exports.CANARY not in json.dumps(report)


def test_a_broken_ledger_is_named_and_left_alone(data: Path, sound: Path) -> None:
    ledger = data / "genesis_ledger.jsonl"
    broken = ledger.read_bytes().replace(b"api_auth", b"api_outh")
    ledger.write_bytes(broken)
    for command in ("plan", "run", "verify"):
        done = migrate(data, command, sound)
        assert done.exit_code == 1
        assert "line 1" in done.output
    assert ledger.read_bytes() == broken


@pytest.mark.parametrize("command", ["run", "verify", "advance", "rollback"])
def test_a_ledger_in_use_is_said_in_one_line(data: Path, sound: Path, command: str) -> None:
    migrate(data, "run", sound)
    migrate(data, "verify", sound)
    journal = Journal.open(data / "genesis_ledger.jsonl")
    try:
        given = [sound] if command in ("run", "verify") else ["--from", "shadow"]
        done = migrate(data, command, *given)
    finally:
        journal.close()
    assert done.exit_code == 2
    assert done.stderr == "secure-chat migrate: a server uses this ledger: stop it first\n"


def test_an_unusable_export_is_said_before_the_ledger_is_touched(tmp_path: Path) -> None:
    data = tmp_path / "none"
    for command in ("plan", "run"):
        done = migrate(data, command, tmp_path / "missing.jsonl")
        assert done.exit_code == 2
        assert "missing.jsonl cannot be read" in done.stderr
    assert not (data / "genesis_ledger.jsonl").exists()


def test_what_only_reads_makes_nothing(tmp_path: Path, sound: Path) -> None:
    data = tmp_path / "none"
    assert migrate(data, "status").exit_code == 0
    assert migrate(data, "plan", sound).exit_code == 0
    assert not data.exists()


@pytest.mark.parametrize("command", ["plan", "run", "verify", "status", "advance", "rollback"])
def test_a_place_that_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, sound: Path, command: str
) -> None:
    given = [sound] if command in ("plan", "run", "verify") else []
    place = tmp_path / "place"
    place.mkdir()
    (place / "mailbox.sqlite").write_bytes(b"this is not a database of SQLite at all")
    for data in (sound, place):
        told = migrate(data, command, *given, "--json")
        if data is place or command not in ("plan", "status"):
            assert told.exit_code == 2, told.output
            assert json.loads(told.stdout)["verdict"] == "unusable"


def test_a_report_that_cannot_be_written_is_said_in_one_line(data: Path, sound: Path) -> None:
    told = migrate(data, "run", sound, "--report", data / "missing" / "r.json", "--json")
    assert told.exit_code == 2
    assert json.loads(told.stdout)["reason"] == "r.json.partial: No such file or directory"
    assert migrate(data, "run", sound).exit_code == 0


def test_there_is_no_stage_before_the_first(data: Path, sound: Path) -> None:
    migrate(data, "run", sound)
    done = migrate(data, "rollback", "--from", "legacy")
    assert done.exit_code == 2
    assert "legacy is the first stage" in done.stderr


def test_the_setting_says_where_a_ledger_is_that_was_never_moved(data: Path, sound: Path) -> None:
    migrate(data, "run", sound)
    done = migrate(data, "rollback", "--json", SECURE_CHAT_STAGE="dual")
    assert json.loads(done.stdout)["stage"] == "shadow"


def test_a_setting_that_is_not_valid_is_named_and_not_shown(data: Path) -> None:
    done = migrate(data, "status", SECURE_CHAT_STAGE="s3cret")
    assert done.exit_code == 2
    assert done.stderr.startswith("secure-chat migrate: SECURE_CHAT_STAGE: ")
    assert "s3cret" not in done.stderr


def test_a_dry_run_says_that_nothing_is_taken_and_where_the_ledger_is(
    data: Path, sound: Path
) -> None:
    planned = migrate(data, "plan", sound)
    assert "sound.jsonl: 7 records in, nothing of it taken yet" in planned.stdout
    assert "not finished" not in planned.stdout
    (source,) = as_json(data, "plan", sound)["sources"]
    assert (source["planned"], source["done"]) == (True, False)
    migrate(data, "run", sound)
    migrate(data, "verify", sound)
    migrate(data, "advance", sound, "--from", "legacy")
    again = migrate(data, "plan", sound)
    assert "sound.jsonl: 7 records in\n" in again.stdout
    assert "stage       shadow" in again.stdout
    (source,) = as_json(data, "plan", sound)["sources"]
    assert (source["planned"], source["done"], source["in"]) == (False, True, 7)


def test_a_dry_run_says_what_was_begun_and_not_finished(
    data: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Transfer, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "take", interrupted)
        migrate(data, "run", sound)
    planned = migrate(data, "plan", sound)
    assert "0 records in, not finished: run again" in planned.stdout


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_that_are_not_utf_8_or_command_a_terminal_end_nothing(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """What a person reads is printable; what a script reads is JSON."""
    chat = (sys.executable, "-m", "plugins.secure_chat")
    data = tmp_path / os.fsdecode(b"d\xff\x1b[2J")
    data.mkdir()
    export = exports.write_lines(
        tmp_path / os.fsdecode(b"e\xff\x1b[2J.jsonl"), exports.transactions(5, threads=2)
    )
    missing = tmp_path / os.fsdecode(b"m\xff\x1b[2J.jsonl")
    for command, given, status in (
        ("plan", (export,), 0),
        ("run", (export,), 0),
        ("verify", (export,), 0),
        ("status", (), 0),
        ("advance", (export, "--from", "legacy"), 0),
        ("rollback", (), 0),
        ("plan", (missing,), 2),
    ):
        done = subprocess.run(
            (*chat, "migrate", command, *given, "--data-dir", data, *options),
            env={"PATH": "", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == status, (command, done.stderr)
        text = (done.stdout + done.stderr).decode()
        assert "\x1b" not in text
        assert "Traceback" not in text
        if options:
            json.loads(done.stdout)


@pytest.mark.parametrize("command", ["plan", "run", "verify", "status", "advance", "rollback"])
def test_every_command_takes_the_same_options_and_says_what_it_does(command: str) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["migrate", command, "--help"]).stdout
    for option in ("--data-dir", "--ledger", "--json"):
        assert option in shown
    takes_exports = command in ("plan", "run", "verify", "advance")
    assert ("Exports of earlier chats" in shown) == takes_exports
    assert ("--from" in shown) == (command in ("advance", "rollback"))

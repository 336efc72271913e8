"""``secure-chat migrate``: what an operator reads, what a script reads, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

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
    refused = migrate(data, "advance", "--from", "legacy")
    assert refused.exit_code == 2
    assert "verify" in refused.stderr
    assert migrate(data, "verify", sound).exit_code == 0
    unsaid = migrate(data, "advance")
    assert unsaid.exit_code == 2
    assert "--from legacy" in unsaid.stderr
    assert as_json(data, "advance", "--from", "legacy")["stage"] == "shadow"
    assert as_json(data, "advance")["stage"] == "dual"
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
    assert done.stderr == "secure-chat migrate: not valid: SECURE_CHAT_STAGE\n"

"""secure-chat audit: the verdict in words, in JSON and in the exit status."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from plugins.secure_chat.cli.audit import audit
from tests.ledgers import writers
from tests.ledgers.writers import Event, Ledger

app = typer.Typer()
app.command("audit")(audit)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    """Forty records, of which 24 are messages of ours."""
    ledger = Ledger()
    for number in range(40):
        event = writers.login(number) if number % 5 > 2 else writers.secure_message(number + 1)
        ledger.add("v1" if number < 20 else "v7", event)
    path.write_bytes(ledger.data)
    return ledger


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def _tamper(path: Path, ledger: Ledger, index: int) -> None:
    lines = list(ledger.lines)
    lines[index] = lines[index].replace(b'"value":"0"', b'"value":"1"')
    assert lines[index] != ledger.lines[index]
    path.write_bytes(b"".join(lines))


def test_a_sound_ledger_exits_0_and_says_what_it_holds(path: Path, ledger: Ledger) -> None:
    status, out, err = _run(path)
    assert (status, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == f"{path}: sound"
    assert "records     40: v1 20, v7 20" in lines
    assert "events      40: LOGIN 16, MESSAGE 24" in lines
    assert "messages    24: secure-v2 24" in lines
    assert f"head        40:{ledger.head}" in lines
    assert any("24 not verified" in line for line in lines)


def test_a_broken_ledger_exits_1_and_names_the_line_and_why(path: Path, ledger: Ledger) -> None:
    _tamper(path, ledger, 30)
    status, out, _ = _run(path)
    assert status == 1
    assert out.startswith(f"{path}: BROKEN\n")
    assert "line 31 (index 30): its hash is not that of its contents" in out


def test_a_torn_ledger_exits_1_and_names_the_torn_line(path: Path, ledger: Ledger) -> None:
    path.write_bytes(ledger.data[:-30])
    status, out, _ = _run(path)
    assert status == 1
    assert "line 40 (index 39): it is torn" in out


def test_json_is_one_object_on_stdout(path: Path, ledger: Ledger) -> None:
    status, out, err = _run(path, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {
        "ledger": str(path),
        "verdict": "sound",
        "finding": None,
        "records": 40,
        "head": {"position": 40, "hash": ledger.head},
        "size": len(ledger.data),
        "torn_bytes": 0,
        "dialects": {"v1": 20, "v7": 20},
        "events": {"LOGIN": 16, "MESSAGE": 24},
        "unnamed_events": 0,
        "messages": {"secure-v2": 24},
        "streams": 1,
        "signatures": {
            "signed": 24,
            "unsigned": 0,
            "verified": 0,
            "unverified": 24,
            "other_events": 16,
        },
        "ambiguous": 0,
        "identities": None,
        "checkpoints": [],
        "proofs": [],
        "reward_statements": [],
    }
    _tamper(path, ledger, 30)
    status, out, _ = _run(path, "--json")
    assert status == 1
    broken = json.loads(out)
    assert broken["verdict"] == "broken"
    assert broken["records"] == 30
    assert broken["finding"] == {
        "line": 31,
        "index": 30,
        "defect": "hash",
        "reason": "its hash is not that of its contents",
    }


def test_an_empty_ledger_is_sound(path: Path) -> None:
    path.touch()
    status, out, _ = _run(path)
    assert status == 0
    assert "records     0" in out


def test_until_looks_at_no_more(path: Path, ledger: Ledger) -> None:
    _tamper(path, ledger, 30)
    assert _run(path, "--until", 30)[0] == 0
    assert _run(path, "--until", 31)[0] == 1


def test_a_saved_head_shows_a_rollback_and_a_fork(path: Path, ledger: Ledger) -> None:
    _, out, _ = _run(path, "--json")
    head = json.loads(out)["head"]
    saved = f"{head['position']}:{head['hash']}"
    status, out, _ = _run(path, "--head", saved)
    assert status == 0
    assert "--head" not in out  # no advice to who follows it
    path.write_bytes(b"".join(ledger.lines[:35]))
    status, out, _ = _run(path, "--head", saved)
    assert status == 1
    assert "line 36 (index 35): it is missing: the saved head is at position 40" in out
    forged = Ledger(ledger.lines[:39], json.loads(ledger.lines[38])["hash"])
    path.write_bytes(forged.add("v7", writers.payout(1000)).data)
    assert _run(path)[0] == 0
    status, out, _ = _run(path, "--head", saved)
    assert status == 1
    assert "line 40 (index 39): it is not the record of the saved head" in out


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_unusable_input_exits_2_with_one_line(
    path: Path, tmp_path: Path, json_option: list[str]
) -> None:
    path.write_bytes(bytes(range(256)) * 50)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for argument in (path, tmp_path, tmp_path / "missing", loop, "", "/dev/null", "x" * 5000):
        status, out, err = _run(argument, *json_option)
        assert status == 2, argument
        if json_option:
            assert err == ""
            assert json.loads(out)["verdict"] == "unusable"
        else:
            assert out == ""
            assert err.count("\n") == 1
            assert ": unusable: " in err


def test_a_file_that_may_not_be_read_exits_2(path: Path, ledger: Ledger) -> None:
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        status, _, err = _run(path)
    finally:
        os.seteuid(user)
    assert status == 2
    assert "Permission denied" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--head", "40"],
        ["--head", "40:xyz"],
        ["--head", f"-1:{'0' * 64}"],
        ["--head", f"0:{'1' * 64}"],
        ["--until", "3", "--head", f"4:{'0' * 64}"],
        ["--until", "-1"],
        ["--until", "x"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_exit_2(path: Path, ledger: Ledger, options: list[str]) -> None:
    status, out, err = _run(path, *options)
    assert (status, out) == (2, "")
    assert err


def test_nothing_in_a_ledger_can_write_to_the_terminal(path: Path) -> None:
    hostile = "[bold]\x1b[31m:smile:\r\n"
    ledger = Ledger().add("v1", Event(hostile, hostile, {hostile: hostile}, hostile))
    path.write_bytes(ledger.data)
    status, out, err = _run(path)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert "bold" not in out
    assert "events      1: other types 1" in out


SCRIPT = """
import typer
from plugins.secure_chat.cli.audit import audit
app = typer.Typer()
app.command("audit")(audit)
app()
"""


def test_a_large_file_shows_progress_to_a_person_and_keeps_stdout_clean(path: Path) -> None:
    """On a terminal, with real processes; the ledger is above both thresholds."""
    pad = {"pad": "x" * 100_000}
    path.write_bytes(Ledger().add_all("v7", [Event("PAD", "w", pad)] * 340).data)
    terminal, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=child,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    ) as process:
        os.close(child)
        shown = _read_terminal(terminal)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0, shown
    assert json.loads(out)["records"] == 340
    assert "audit" in shown
    assert "100%" in shown


def _read_terminal(terminal: int) -> str:
    """All that is shown until every process has let go of the terminal."""
    shown = b""
    try:
        while True:
            shown += os.read(terminal, 1 << 16)
    except OSError:  # EIO: the other side is closed
        return shown.decode()
    finally:
        os.close(terminal)

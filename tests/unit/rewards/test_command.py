"""secure-chat rewards: a table for people, the bytes for machines, and exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from plugins.secure_chat.cli.rewards import _epoch, rewards, sparkline
from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import RULES, statement_hash
from plugins.secure_chat.rewards.ledger import fold_ledger
from tests.ledgers import writers
from tests.ledgers.writers import Ledger

app = typer.Typer()
app.command("rewards")(rewards)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    ledger = Ledger()
    ledger.add("v1", writers.login())
    ledger.add_all("v1", [*writers.registration(1), *writers.registration(2)])
    for seq in range(1, 21):
        ledger.add("v1", writers.secure_message(seq))
        ledger.add("v7", writers.secure_message(seq, sender=2, recipient=1))
    ledger.add("v7", writers.secure_message(1, sender=3, recipient=1, signed=False))
    path.write_bytes(ledger.data)
    return ledger


def _run(*arguments: object) -> tuple[int, bytes, str]:
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "80"}
    )
    return result.exit_code, result.stdout_bytes, result.stderr


def test_a_person_reads_who_earned_what(path: Path, ledger: Ledger) -> None:
    status, out, err = _run(path)
    assert (status, err) == (0, "")
    lines = out.decode().splitlines()
    assert lines[0] == f"{path}: sound"
    assert "  messages   40 count; left out: 1 unsigned" in lines
    assert "  rewards    3.9000 CHR" in lines
    assert any("epoch      0, from position 1: running, 46 of 100,000" in line for line in lines)
    rows = [line.split() for line in lines if line.strip().startswith("0x")]
    assert rows == [
        ["0x00000000…00000001", "20", "20", "18", "1", "1", "2.1000", "█" * 6],
        ["0x00000000…00000002", "20", "20", "18", "1", "0", "1.8000", "█" * 5],
    ]


def test_json_is_the_statement_and_nothing_else(path: Path, ledger: Ledger) -> None:
    status, out, err = _run(path, "--json")
    assert (status, err) == (0, "")
    (folded,) = fold_ledger(path, Head(len(ledger.lines), ledger.head))
    assert out == folded.statement
    _, table, _ = _run(path)
    assert statement_hash(out) in table.decode()


def test_an_epoch_that_the_ledger_has_not_come_to_exits_2(path: Path, ledger: Ledger) -> None:
    status, out, err = _run(path, "--epoch", 1)
    assert (status, out) == (2, b"")
    assert "no epoch 1; its last one is 0" in err
    assert _run(path, "--epoch", 0)[0] == 0


@pytest.mark.parametrize(("records", "shown"), [(0, 0), (13, 0), (14, 0), (15, 1), (46, 3)])
def test_the_epoch_shown_is_the_last_that_has_begun(
    path: Path, ledger: Ledger, records: int, shown: int
) -> None:
    fourteen = RULES._replace(epoch_records=14)
    cut = Ledger()
    for line in ledger.lines[:records]:
        cut.lines.append(line)
        cut.head = parse(line.removesuffix(b"\n"), len(cut.lines)).record.event_hash
    path.write_bytes(cut.data)
    folded = fold_ledger(path, Head(records, cut.head), rules=fourteen)
    assert _epoch(folded, None).epoch.number == shown


def test_a_broken_ledger_exits_1_names_the_line_and_rewards_nothing(
    path: Path, ledger: Ledger
) -> None:
    lines = list(ledger.lines)
    lines[30] = lines[30].replace(b'"size":64', b'"size":65')
    assert lines[30] != ledger.lines[30]
    path.write_bytes(b"".join(lines))
    status, out, err = _run(path)
    assert (status, out) == (1, b"")
    assert "line 31 (index 30)" in err
    assert "nothing is rewarded" in err
    status, out, _ = _run(path, "--json")
    assert status == 1
    answer = json.loads(out)
    assert answer["verdict"] == "broken"
    assert "line 31 (index 30)" in answer["reason"]


def test_a_replayed_message_breaks_the_ledger_and_is_not_paid_twice(path: Path) -> None:
    ledger = Ledger()
    for _ in range(2):
        for seq in range(1, 6):
            ledger.add("v1", writers.secure_message(seq))
            ledger.add("v1", writers.secure_message(seq, sender=2, recipient=1))
    path.write_bytes(ledger.data)
    status, out, err = _run(path)
    assert (status, out) == (1, b"")
    assert "line 11 (index 10)" in err


@pytest.mark.parametrize("content", [b"not a ledger\n", None])
def test_what_is_no_ledger_exits_2(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    status, out, err = _run(path)
    assert (status, out) == (2, b"")
    assert "unusable" in err
    status, out, _ = _run(path, "--json")
    assert status == 2
    assert json.loads(out)["verdict"] == "unusable"


def test_an_empty_ledger_has_an_epoch_without_rewards(path: Path) -> None:
    path.write_bytes(b"")
    status, out, _ = _run(path)
    assert status == 0
    assert "No message was answered" in out.decode()
    assert json.loads(_run(path, "--json")[1])["wallets"] == []


def test_many_wallets_are_cut_in_the_table_and_whole_in_json(path: Path) -> None:
    ledger = Ledger()
    for number in range(1, 31):
        ledger.add_all("v7", writers.registration(2 * number))
        ledger.add_all("v7", writers.registration(2 * number + 1))
        for seq in range(1, 5):
            a, b = 2 * number, 2 * number + 1
            ledger.add("v7", writers.secure_message(seq, sender=a, recipient=b))
            ledger.add("v7", writers.secure_message(seq, sender=b, recipient=a))
    path.write_bytes(ledger.data)
    _, out, _ = _run(path)
    text = out.decode()
    assert text.count("0x") == 20
    assert "and 40 more wallets" in text
    assert len(json.loads(_run(path, "--json")[1])["wallets"]) == 60


def test_the_chart_shows_where_in_the_epoch_messages_are() -> None:
    assert sparkline([1, 2, 3, 4], 1, 4) == "████"
    assert sparkline([1], 1, 4) == "█   "
    assert sparkline([101, 101 + 48], 101, 100 + 96) == "█" + " " * 23 + "█" + " " * 23
    even = sparkline(range(1, 961), 1, 960)
    assert even == "█" * 48
    rising = sparkline([*range(1, 481, 4), *range(481, 961)], 1, 960)
    assert rising == "▂" * 24 + "█" * 24

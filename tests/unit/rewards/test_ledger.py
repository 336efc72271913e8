"""rewards/ledger.py: exactly what was audited is folded, and the bytes depend on nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import RULES, statement_hash
from plugins.secure_chat.errors import LedgerBroken, LedgerUnusable
from plugins.secure_chat.rewards import ledger as ledger_module
from plugins.secure_chat.rewards.ledger import fold_ledger
from tests.ledgers import writers
from tests.ledgers.writers import Event, Ledger

ROOT = Path(__file__).parents[3]
RULES_OF_TEN = RULES._replace(epoch_records=10)


def conversation(ledger: Ledger, dialect: str, exchanges: int, *, first: int = 1) -> Ledger:
    for seq in range(first, first + exchanges):
        ledger.add(dialect, writers.secure_message(seq))
        ledger.add(dialect, writers.secure_message(seq, sender=2, recipient=1))
    return ledger


def registered(dialect: str = "v1") -> Ledger:
    """Wallets 1 and 2 have registered their devices: four records."""
    return Ledger().add_all(dialect, [*writers.registration(1), *writers.registration(2)])


def mixed() -> Ledger:
    """A ledger that went through every dialect, history and payouts in it."""
    ledger = registered()
    for number, dialect in enumerate(writers.DIALECTS):
        ledger.add(dialect, writers.login(number + 1))
        ledger.add(dialect, writers.prototype_message() if dialect == "v1" else writers.payout())
        conversation(ledger, dialect, 4, first=1 + 4 * number)
    return ledger


def head_of(ledger: Ledger) -> Head:
    return Head(len(ledger.lines), ledger.head)


def rewards_of(data: bytes) -> dict[str, str]:
    return {line["wallet"]: line["reward"] for line in json.loads(data)["wallets"]}


def test_every_dialect_earns_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    rewards = []
    for dialect in writers.DIALECTS:
        ledger = conversation(registered(dialect), dialect, 20)
        path.write_bytes(ledger.data)
        (folded,) = fold_ledger(path, head_of(ledger))
        rewards.append(rewards_of(folded.statement))
    assert rewards == [
        {writers.wallet(1): "2100000000000000000", writers.wallet(2): "1800000000000000000"}
    ] * len(writers.DIALECTS)


def test_history_and_payouts_earn_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = mixed()
    path.write_bytes(ledger.data)
    (folded,) = fold_ledger(path, head_of(ledger))
    totals = json.loads(folded.statement)["totals"]
    assert totals["records"] == 74
    assert totals["counted"] == 56
    assert totals["not_well_formed"] == 1
    assert len(folded.course) == 56
    assert folded.course[0] == 7


@pytest.mark.parametrize("chunk", [1 << 10, 3_000, 1 << 22])
def test_the_bytes_do_not_depend_on_how_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = mixed()
    path.write_bytes(ledger.data)
    expected = [
        folded.statement for folded in fold_ledger(path, head_of(ledger), rules=RULES_OF_TEN)
    ]
    monkeypatch.setattr(ledger_module, "_CHUNK", chunk)
    again = [folded.statement for folded in fold_ledger(path, head_of(ledger), rules=RULES_OF_TEN)]
    assert again == expected
    assert len(expected) == 8
    assert [json.loads(each)["complete"] for each in expected] == [True] * 7 + [False]


@pytest.mark.parametrize("seed", ["1", "99"])
def test_another_process_with_another_hash_seed_gives_the_same_bytes(
    tmp_path: Path, seed: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = mixed()
    path.write_bytes(ledger.data)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from plugins.secure_chat.core.records import Head\n"
        "from plugins.secure_chat.rewards.ledger import fold_ledger\n"
        "path, position, digest = sys.argv[1:]\n"
        "(folded,) = fold_ledger(Path(path), Head(int(position), digest))\n"
        "sys.stdout.buffer.write(folded.statement)\n"
    )
    head = head_of(ledger)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(head.position), head.event_hash],
        cwd=ROOT,
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        timeout=60,
        check=True,
    )
    (folded,) = fold_ledger(path, head)
    assert done.stdout == folded.statement
    assert statement_hash(done.stdout) == statement_hash(folded.statement)


def test_only_registered_devices_count_from_their_registration_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = conversation(Ledger(), "v1", 5)
    for number in (1, 2):
        ledger.add_all("v7", writers.registration(number))
    conversation(ledger, "v1", 8, first=6)
    for seq in range(1, 4):
        ledger.add("v1", writers.secure_message(seq, device="unknown"))
    revoked = {"kind": "revocation", "id": "ab" * 32, "device": "0"}
    ledger.add("v1", Event("IDENTITY", writers.wallet(1), revoked))
    ledger.add("v1", writers.secure_message(14))
    ledger.add("v1", writers.registration(1)[0])  # the same identity again ends nothing
    another = {"kind": "identity", "id": "cd" * 32}  # and no device of it yet
    ledger.add("v1", Event("IDENTITY", writers.wallet(2), another))
    ledger.add("v1", writers.secure_message(14, sender=2, recipient=1))
    path.write_bytes(ledger.data)
    (folded,) = fold_ledger(path, head_of(ledger))
    totals = json.loads(folded.statement)["totals"]
    assert (totals["counted"], totals["unregistered"]) == (16, 10 + 3 + 1 + 1)
    assert folded.course[0] == 15


def test_only_what_was_audited_is_rewarded(tmp_path: Path) -> None:
    """The file grows and is changed between the audit and the fold."""
    path = tmp_path / "ledger.jsonl"
    ledger = conversation(registered(), "v1", 10)
    path.write_bytes(ledger.data)
    head = audit_ledger(path).head
    (before,) = fold_ledger(path, head)
    conversation(ledger, "v1", 10, first=11)
    path.write_bytes(ledger.data)
    (after,) = fold_ledger(path, head)
    assert after.statement == before.statement
    other = conversation(Ledger(), "v1", 30, first=5)
    path.write_bytes(other.data)
    with pytest.raises(LedgerBroken, match="not the one that was audited"):
        list(fold_ledger(path, head))


@pytest.mark.parametrize("index", [4, 11, 23])
def test_a_changed_line_is_never_rewarded(tmp_path: Path, index: int) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = conversation(registered(), "v1", 10)
    lines = list(ledger.lines)
    lines[index] = lines[index].replace(b'"size": 64', b'"size": 65')
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerBroken) as caught:
        list(fold_ledger(path, head_of(ledger)))
    assert caught.value.line == index + 1


def test_a_shorter_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = conversation(registered(), "v1", 10)
    path.write_bytes(b"".join(ledger.lines[:-1]))
    with pytest.raises(LedgerBroken, match="not the one"):
        list(fold_ledger(path, head_of(ledger)))
    with pytest.raises(LedgerUnusable):
        list(fold_ledger(tmp_path / "none", head_of(ledger)))

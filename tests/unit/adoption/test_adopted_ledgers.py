"""adoption: a host's ledger is taken over as it stands, continued in its dialect, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugins.secure_chat.adoption import steps
from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.chain import Defect
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.errors import LedgerBroken
from plugins.secure_chat.mailbox.engine import engine_at
from tests import exports
from tests.ledgers import readers, writers
from tests.ledgers.writers import DIALECTS, Ledger

HOST_LEDGERS = Path(__file__).parents[3].parent / "shared" / "fixtures" / "ledgers"
needs_host_ledgers = pytest.mark.skipif(
    not HOST_LEDGERS.is_dir(), reason="the host's own ledgers are not beside this repository"
)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "genesis_ledger.jsonl"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    records = [*exports.transactions(7, threads=3), exports.route_status(1, 2, "ARCHIVED")]
    return exports.write_lines(tmp_path / "export.jsonl", records)


def run(ledger: Path, *paths: Path) -> steps.Outcome:
    return steps.run(ledger, engine_at(ledger.parent / "mailbox.sqlite"), paths)


def host_ledgers(state: str) -> list[Path]:
    return sorted(HOST_LEDGERS.glob(f"*-{state}.jsonl"))


def continued_in_its_dialect(before: bytes, path: Path, dialect: str) -> list[readers.Entry]:
    """The entries after ``before``, which is untouched, as the dialect's own reader reads them."""
    data = path.read_bytes()
    assert data.startswith(before)
    entries = readers.read(dialect, data)
    ours = entries[before.count(b"\n") :]
    kinds = [entry["event_type"] for entry in ours]
    taken = ["THREAD"] * 3 + ["LEGACY_MESSAGE"] * 7 + ["THREAD"]
    assert kinds == ["MIGRATION", "MIGRATION", *taken, "MIGRATION"]
    return ours


@pytest.mark.parametrize("pydantic", [1, 2])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ledger_of_each_dialect_is_adopted_and_continued(
    dialect: str, pydantic: int, ledger: Path, export: Path
) -> None:
    before = Ledger().add_all(dialect, writers.conversation(dialect), pydantic=pydantic).data
    ledger.write_bytes(before)
    head = audit_ledger(ledger).head
    outcome = run(ledger, export)
    assert outcome.adopted == head
    assert outcome.mismatches == []
    ours = continued_in_its_dialect(before, ledger, dialect)
    pinned = ours[0]["metadata"]
    assert pinned["kind"] == "adopted"
    assert (pinned["position"], pinned["head"]) == (6, head.event_hash)
    assert pinned["prototype" if dialect == "v1" else "trust_loop"] == 1
    assert pinned["prototype"] + pinned["trust_loop"] == 1
    spaced = dialect == "v1" or pydantic == 1
    assert all((b'": ' in line) == spaced for line in ledger.read_bytes().splitlines())
    assert audit_ledger(ledger).sound


def test_a_ledger_of_many_dialects_is_continued_in_the_last(ledger: Path, export: Path) -> None:
    mixed = Ledger()
    for dialect in DIALECTS:
        mixed.add_all(dialect, writers.conversation(dialect)[:2])
    ledger.write_bytes(mixed.data)
    outcome = run(ledger, export)
    assert outcome.adopted == Head(14, mixed.head)
    data = ledger.read_bytes()
    assert data.startswith(mixed.data)
    ours = [json.loads(line) for line in data[len(mixed.data) :].splitlines()]
    assert {entry["value"] for entry in ours} == {"0"}  # as v7 has it
    assert audit_ledger(ledger).sound


@needs_host_ledgers
@pytest.mark.parametrize("path", host_ledgers("valid"), ids=lambda path: path.stem)
def test_a_ledger_that_the_host_wrote_is_adopted(path: Path, ledger: Path, export: Path) -> None:
    before = path.read_bytes()
    ledger.write_bytes(before)
    outcome = run(ledger, export)
    assert outcome.adopted == audit_ledger(path).head
    continued_in_its_dialect(before, ledger, path.name[:2])
    verified = steps.verify(ledger, engine_at(ledger.parent / "mailbox.sqlite"), [export])
    assert verified.mismatches == []
    assert verified.verified


@needs_host_ledgers
@pytest.mark.parametrize("path", host_ledgers("torn"), ids=lambda path: path.stem)
def test_a_torn_end_is_cut_off_and_kept_beside(path: Path, ledger: Path, export: Path) -> None:
    whole, torn = path.read_bytes().rsplit(b"\n", 1)
    ledger.write_bytes(path.read_bytes())
    outcome = run(ledger, export)
    assert outcome.adopted is not None
    assert outcome.adopted.position == whole.count(b"\n") + 1
    continued_in_its_dialect(whole + b"\n", ledger, path.name[:2])
    (kept,) = ledger.parent.glob("*.torn-*")
    assert kept.read_bytes() == torn


@needs_host_ledgers
@pytest.mark.parametrize("path", host_ledgers("tampered"), ids=lambda path: path.stem)
def test_a_tampered_ledger_is_refused_and_left_as_it_is(
    path: Path, ledger: Path, export: Path
) -> None:
    ledger.write_bytes(path.read_bytes())
    with pytest.raises(LedgerBroken) as refused:
        run(ledger, export)
    assert refused.value.line == 31
    assert ledger.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dialect", ["v1", "v7"])
def test_a_ledger_whose_chain_holds_and_whose_messages_do_not_is_refused(
    dialect: str, ledger: Path, export: Path
) -> None:
    """All that an audit finds, not only what the writer of the chain would."""
    broken = Ledger().add_all(dialect, writers.conversation(dialect))
    broken.add(dialect, writers.secure_message(2))  # its number was taken
    ledger.write_bytes(broken.data)
    with pytest.raises(LedgerBroken) as refused:
        run(ledger, export)
    assert refused.value.line == 7
    assert ledger.read_bytes() == broken.data


def test_an_empty_place_is_adopted_as_empty(ledger: Path, export: Path) -> None:
    outcome = run(ledger, export)
    assert outcome.adopted == Head(0, "0" * 64)
    assert readers.read("v1", ledger.read_bytes())[0]["metadata"]["position"] == 0


def test_a_ledger_is_adopted_once(ledger: Path) -> None:
    ledger.write_bytes(Ledger().add("v1", writers.login()).data)
    run(ledger)
    adopted = ledger.read_bytes()
    assert run(ledger).adopted == run(ledger).adopted == audit_ledger(ledger, until=1).head
    assert ledger.read_bytes() == adopted


def test_an_audit_names_a_migration_that_pins_another_head(ledger: Path) -> None:
    """Who rewrites what was there before has to rewrite our event as well, and everything after."""
    before = Ledger().add("v1", writers.login()).add("v1", writers.payout())
    forged = {"kind": "adopted", "position": 1, "head": "0" * 64, "prototype": 0, "trust_loop": 0}
    before.add("v1", writers.Event("MIGRATION", "secure-chat", forged))
    ledger.write_bytes(before.data)
    finding = audit_ledger(ledger).finding
    assert finding is not None
    assert (finding.position, finding.defect) == (3, Defect.EVENT)
    assert "another head" in finding.reason

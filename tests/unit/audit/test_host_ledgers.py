"""Ledgers written by the host's own code, where they are at hand: sound, torn and tampered."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.chain import Defect
from tests.ledgers import writers
from tests.ledgers.writers import DIALECTS, Ledger

HOST_LEDGERS = Path(__file__).parents[3].parent / "shared" / "fixtures" / "ledgers"

pytestmark = pytest.mark.skipif(
    not HOST_LEDGERS.is_dir(), reason="the host's own ledgers are not beside this repository"
)


def _host_ledger(dialect: str, state: str) -> Path:
    (path,) = HOST_LEDGERS.glob(f"{dialect}-*-{state}.jsonl")
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ledger_of_the_host_is_sound(dialect: str) -> None:
    path = _host_ledger(dialect, "valid")
    report = audit_ledger(path)
    assert report.sound
    assert report.records == 60
    assert report.size == path.stat().st_size
    family = "v3-v5" if dialect in ("v3", "v4", "v5") else dialect
    # A record of v2 from a whole second looks like one of v3.
    assert set(report.dialects) <= {family} | ({"v3-v5"} if dialect == "v2" else set())
    assert set(report.messages) <= {"prototype", "trust-loop"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tampered_ledger_of_the_host_names_the_line(dialect: str) -> None:
    report = audit_ledger(_host_ledger(dialect, "tampered"))
    assert report.finding is not None
    assert report.finding.index == 30
    assert report.finding.defect is Defect.HASH
    assert report.records == 30


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_torn_ledger_of_the_host_names_the_torn_line(dialect: str) -> None:
    path = _host_ledger(dialect, "torn")
    data = path.read_bytes()
    report = audit_ledger(path)
    assert report.finding is not None
    assert report.finding.defect is Defect.TORN
    assert report.finding.position == data.count(b"\n") + 1
    assert report.torn_bytes == len(data) - data.rfind(b"\n") - 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ledger_of_the_host_can_be_continued_in_any_dialect(dialect: str, tmp_path: Path) -> None:
    data = _host_ledger(dialect, "valid").read_bytes()
    ledger = Ledger([data], audit_ledger(_host_ledger(dialect, "valid")).head.event_hash)
    for seq, other in enumerate(DIALECTS, start=1):
        ledger.add(other, writers.secure_message(seq))
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(ledger.data)
    report = audit_ledger(path)
    assert report.sound
    assert report.records == 67
    assert report.messages["secure-v2"] == 7

"""Threat A23: whatever is done to a ledger, the audit names the line, or a saved head shows it.

Exhaustive over small ledgers: every byte, every line, every length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.core.chain import Defect
from plugins.secure_chat.core.records import Head
from tests.ledgers import writers
from tests.ledgers.writers import Event, Ledger

RECORDS = 6
FLIPS = (0x01, 0x20, 0x80)  # another digit or letter, another case, no longer ASCII

Audit = Callable[..., Report]


def _mixed() -> Ledger:
    ledger = Ledger()
    for number, event in enumerate(writers.conversation("v2")):
        ledger.add(("v1", "v1", "v2", "v3", "v6", "v7")[number], event, pydantic=1 + number % 2)
    return ledger


LEDGERS = {
    "v1": Ledger().add_all("v1", writers.conversation("v1")),
    "v7": Ledger().add_all("v7", writers.conversation("v7")),
    "mixed": _mixed(),
}


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return LEDGERS[request.param]


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    path = tmp_path / "ledger.jsonl"
    with path.open("wb", buffering=0) as file:

        def audit_bytes(data: bytes, saved: Head | None = None) -> Report:
            file.seek(0)
            file.write(data)
            file.truncate()
            return audit_ledger(path, expected_head=saved)

        yield audit_bytes


def _saved(ledger: Ledger) -> Head:
    return Head(RECORDS, ledger.head)


def _rewritten(ledger: Ledger, index: int, event: Event) -> Ledger:
    """What a forger with the recipe makes: ``index`` replaced, all hashes after it made anew."""
    forged = Ledger(ledger.lines[:index], "")
    forged.head = _hash(ledger.lines[index - 1]) if index else writers.ZEROS
    forged.add("v7", event)
    for number in range(index + 1, RECORDS):
        forged.add("v7", writers.login(number))
    return forged


def _hash(line: bytes) -> str:
    digest: str = json.loads(line)["hash"]
    return digest


def test_untouched_they_are_sound(ledger: Ledger, audit: Audit) -> None:
    report = audit(ledger.data, _saved(ledger))
    assert report.sound
    assert report.head == _saved(ledger)
    assert report.messages["secure-v2"] == 3


@pytest.mark.parametrize("flip", FLIPS)
def test_a_flipped_byte_names_its_line(ledger: Ledger, audit: Audit, flip: int) -> None:
    data = ledger.data
    line = 1
    for at in range(len(data)):
        tampered = bytearray(data)
        tampered[at] ^= flip
        report = audit(tampered)
        assert report.finding is not None, f"byte {at} ^ {flip} is not seen"
        assert report.finding.position == line, f"byte {at} ^ {flip}: {report.finding}"
        assert report.records == line - 1
        line += data[at] == ord("\n")


def test_a_removed_byte_names_its_line(ledger: Ledger, audit: Audit) -> None:
    data = ledger.data
    line = 1
    for at in range(len(data)):
        report = audit(data[:at] + data[at + 1 :])
        assert report.finding is not None, f"byte {at} is not missed"
        assert report.finding.position == line
        line += data[at] == ord("\n")


def test_an_inserted_byte_names_its_line(ledger: Ledger, audit: Audit) -> None:
    data = ledger.data
    for extra in (b" ", b"0", b"\n"):
        line = 1
        for at in range(len(data)):
            report = audit(data[:at] + extra + data[at:])
            assert report.finding is not None, f"{extra!r} at byte {at} is not seen"
            # A newline before a line's own leaves the line whole, and an empty one behind it.
            at_end = extra == data[at : at + 1] == b"\n"
            assert report.finding.position == line + at_end
            line += data[at] == ord("\n")


def test_a_removed_line_names_the_one_in_its_place(ledger: Ledger, audit: Audit) -> None:
    for index in range(RECORDS - 1):
        lines = ledger.lines[:index] + ledger.lines[index + 1 :]
        report = audit(b"".join(lines))
        assert report.finding is not None
        assert (report.finding.position, report.finding.defect) == (index + 1, Defect.LINK)


def test_lines_removed_from_the_end_show_against_a_saved_head(ledger: Ledger, audit: Audit) -> None:
    for kept in range(RECORDS):
        data = b"".join(ledger.lines[:kept])
        assert audit(data).sound  # a chain does not show that its end is missing
        report = audit(data, _saved(ledger))
        assert report.finding is not None
        assert (report.finding.position, report.finding.defect) == (kept + 1, Defect.HEAD)


def test_swapped_lines_name_the_first_of_them(ledger: Ledger, audit: Audit) -> None:
    for first, second in combinations(range(RECORDS), 2):
        lines = list(ledger.lines)
        lines[first], lines[second] = lines[second], lines[first]
        report = audit(b"".join(lines))
        assert report.finding is not None
        assert (report.finding.position, report.finding.defect) == (first + 1, Defect.LINK)


def test_a_line_put_in_twice_names_its_copy(ledger: Ledger, audit: Audit) -> None:
    for index in range(RECORDS):
        for at in range(index + 1, RECORDS + 1):
            lines = list(ledger.lines)
            lines.insert(at, lines[index])
            report = audit(b"".join(lines))
            assert report.finding is not None
            assert (report.finding.position, report.finding.defect) == (at + 1, Defect.LINK)


def _forgeries(ledger: Ledger) -> Iterator[bytes]:
    """A seventh line by someone who does not know, or does not honour, what went before."""
    for dialect in ("v1", "v7"):
        yield Ledger(head="0" * 64).add(dialect, writers.login()).data
        yield Ledger(head="f" * 64).add(dialect, writers.login()).data
        yield Ledger(head=_hash(ledger.lines[-2])).add(dialect, writers.login()).data
        honest = Ledger(head=ledger.head).add(dialect, writers.login()).data
        yield honest.replace(_hash(honest).encode(), b"0" * len(_hash(honest)))
        yield honest.replace(b"LOGIN", b"NIGOL")
        # Right in every hash, but saying what the sequence rule or the shape forbids.
        replayed = writers.secure_message(2, signed=False)
        yield Ledger(head=ledger.head).add(dialect, replayed).data
        with_text = Event(
            "MESSAGE", replayed.wallet, {**writers.secure_message(9).metadata, "text": "plain"}
        )
        yield Ledger(head=ledger.head).add(dialect, with_text).data
    yield b"\n"
    yield b"{}\n"
    yield b"\0" * 4096


def test_a_forged_line_at_the_end_is_named(ledger: Ledger, audit: Audit) -> None:
    for forged in _forgeries(ledger):
        report = audit(ledger.data + forged)
        assert report.finding is not None, forged
        assert report.finding.position == RECORDS + 1
        assert report.head == _saved(ledger)


def test_a_ledger_written_anew_shows_against_a_saved_head(ledger: Ledger, audit: Audit) -> None:
    """A fork: the forger has the recipe, so only what was saved elsewhere can tell."""
    for index in range(RECORDS):
        forged = _rewritten(ledger, index, writers.payout(1000))
        assert audit(forged.data).sound
        report = audit(forged.data, _saved(ledger))
        assert report.finding is not None
        assert (report.finding.position, report.finding.defect) == (RECORDS, Defect.HEAD)
        # A head saved before the fork cannot show it; one from after it does.
        for position in range(1, RECORDS + 1):
            saved = Head(position, _hash(ledger.lines[position - 1]))
            assert audit(forged.data, saved).sound == (position <= index)


def test_a_ledger_that_went_on_bears_out_every_head_it_had(ledger: Ledger, audit: Audit) -> None:
    longer = Ledger(list(ledger.lines), ledger.head).add("v7", writers.login())
    for position in range(1, RECORDS + 1):
        assert audit(longer.data, Head(position, _hash(ledger.lines[position - 1]))).sound


def test_a_cut_at_any_byte_is_torn_or_shows_against_a_saved_head(
    ledger: Ledger, audit: Audit
) -> None:
    data = ledger.data
    for size in range(len(data)):
        whole_lines = data.count(b"\n", 0, size)
        torn = size - (data.rfind(b"\n", 0, size) + 1)
        report = audit(data[:size])
        assert report.torn_bytes == torn
        assert report.records == whole_lines
        assert report.sound == (torn == 0)
        if report.finding is not None:
            assert (report.finding.position, report.finding.defect) == (
                whole_lines + 1,
                Defect.TORN,
            )
            unfinished = "newline is missing" in report.finding.reason
            assert unfinished == (data[size : size + 1] == b"\n")
        assert not audit(data[:size], _saved(ledger)).sound

"""audit/verify: however a file is cut and by how many cores it is read, one verdict."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.audit.report import report as report_on
from plugins.secure_chat.core.chain import MAX_LINE, Chain, Defect, Finding, SignatureCheck
from plugins.secure_chat.core.dialects import V1, encode
from plugins.secure_chat.core.records import EMPTY, GENESIS_PREV_HASH, EventDraft, Head
from plugins.secure_chat.errors import LedgerUnusable
from tests.ledgers import histories, signature_checks, writers
from tests.ledgers.writers import DIALECTS, Event, Ledger


def _long(messages: int) -> Ledger:
    """Many streams across many lines, in all dialects, with history between."""
    ledger = Ledger()
    for number in range(messages):
        sender = 1 + number % 5
        event = writers.secure_message(
            1 + number, sender=sender, recipient=sender + 1, device=str(number % 3)
        )
        ledger.add(DIALECTS[number // 20 % 7], event)
        if number % 4 == 0:
            ledger.add("v1", writers.prototype_message())
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def _write(path: Path, ledger: Ledger) -> Ledger:
    path.write_bytes(ledger.data)
    return ledger


def test_an_empty_file_is_a_sound_ledger_of_no_records(path: Path) -> None:
    path.touch()
    report = audit_ledger(path)
    assert report.sound
    assert (report.records, report.size, report.head) == (0, 0, EMPTY)
    assert audit_ledger(path, expected_head=EMPTY).sound
    report = audit_ledger(path, expected_head=Head(1, "a" * 64))
    assert report.finding == Finding(
        1, Defect.HEAD, "it is missing: the saved head is at position 1"
    )


@pytest.mark.parametrize("chunk_size", [1, 7, 100, 1000, 4096, 1 << 20])
def test_the_report_does_not_depend_on_how_the_file_is_cut(path: Path, chunk_size: int) -> None:
    ledger = _write(path, _long(120))
    lines = ledger.lines
    damaged = {
        "sound": ledger.data,
        "bad line": b"".join([*lines[:70], lines[70].replace(b"0", b"1", 1), *lines[71:]]),
        "missing line": b"".join(lines[:31] + lines[32:]),
        "not ended": ledger.data[:-1],
        "replay": Ledger(list(lines), ledger.head).add("v1", writers.secure_message(1)).data,
    }
    verdicts = set()
    for data in damaged.values():
        path.write_bytes(data)
        report = audit_ledger(path, chunk_size=chunk_size)
        assert report == audit_ledger(path)
        verdicts.add(report.finding and report.finding.defect)
    assert verdicts == {None, Defect.HASH, Defect.LINK, Defect.TORN, Defect.SEQUENCE}


def test_many_processes_say_what_one_says(path: Path) -> None:
    """200,000 records; streams and links cross every border between spans."""
    head = EMPTY
    chain = Chain()
    moment = writers.START
    with path.open("wb") as file:
        for start in range(0, 200_000, 1000):
            lines = []
            for number in range(start, start + 1000):
                event = writers.secure_message(1 + number, recipient=2 + number % 50, signed=False)
                line, record = encode(
                    V1,
                    EventDraft(event.event_type, event.wallet, event.metadata),
                    moment=moment,
                    prev_hash=head.event_hash,
                    event_id="an-id",
                )
                head = Head(number + 1, record.event_hash)
                lines.append(line)
            file.writelines(lines)
            chain.extend([line[:-1] for line in lines])
    one = report_on(chain)
    assert one.sound
    assert (one.records, one.streams, one.unsigned) == (200_000, 50, 200_000)
    steps: list[tuple[int, int]] = []
    many = audit_ledger(
        path,
        workers=2,
        chunk_size=256 << 10,
        expected_head=head,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert many == one
    assert len(steps) > 500
    assert steps == sorted(steps)
    assert steps[-1] == (one.size, one.size) == (path.stat().st_size, one.size)


def test_processes_name_the_line_that_one_names(path: Path) -> None:
    ledger = _long(60)
    for at in (0, 1, 37, len(ledger.lines) - 1):
        bad = ledger.lines[at].replace(b"wallet", b"w\xe4llet")
        path.write_bytes(b"".join([*ledger.lines[:at], bad, *ledger.lines[at + 1 :]]))
        report = audit_ledger(path, workers=2, chunk_size=2000)
        assert report.finding is not None
        assert report.finding.position == at + 1
        assert report == audit_ledger(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_signatures_are_judged_at_their_position(path: Path, workers: int) -> None:
    _write(path, _long(80))

    def audit(check: SignatureCheck) -> Report:
        return audit_ledger(path, workers=workers, chunk_size=3000, check_signature=check)

    report = audit(signature_checks.accept_even)
    assert (report.signed, report.verified, report.unverified) == (80, 40, 40)
    report = audit(signature_checks.refuse_position_40)
    assert report.finding == Finding(40, Defect.SIGNATURE, "its signature does not verify")
    assert report.records == 39


def test_without_a_check_every_signature_is_reported_as_unverified(path: Path) -> None:
    _write(path, Ledger().add_all("v1", writers.conversation("v1")))
    report = audit_ledger(path)
    assert (report.signed, report.unsigned) == (2, 1)
    assert (report.verified, report.unverified, report.other_signatures) == (0, 2, 1)


@pytest.mark.parametrize("chunk_size", [1000, 1 << 20])
def test_until_audits_no_further(path: Path, chunk_size: int) -> None:
    ledger = _long(30)
    count = len(ledger.lines)
    path.write_bytes(ledger.data + b"garbage that must not be looked at")
    for until in range(count + 1):
        report = audit_ledger(path, until=until, chunk_size=chunk_size)
        assert report.sound
        assert report.records == until
        assert report.size == sum(map(len, ledger.lines[:until]))
    for until in (count + 1, count + 100):
        finding = audit_ledger(path, until=until, chunk_size=chunk_size).finding
        assert finding is not None
        assert (finding.position, finding.defect) == (count + 1, Defect.TORN)


def test_until_beyond_the_end_is_not_a_finding(path: Path) -> None:
    ledger = _write(path, _long(8))
    assert audit_ledger(path, until=1000).records == len(ledger.lines)


def test_a_head_and_a_limit_that_make_no_sense_are_refused(path: Path) -> None:
    _write(path, _long(8))
    with pytest.raises(ValueError, match="beyond"):
        audit_ledger(path, until=3, expected_head=Head(4, "0" * 64))
    with pytest.raises(ValueError, match="number of records"):
        audit_ledger(path, until=-1)
    for head in (Head(-1, "0" * 64), Head(0, "1" * 64)):
        with pytest.raises(ValueError, match="no ledger"):
            audit_ledger(path, expected_head=head)
    assert audit_ledger(path, expected_head=Head(0, GENESIS_PREV_HASH)).sound


def _after_first_span(act: Callable[[], object]) -> Callable[[int, int], None]:
    """A progress callback that acts once, while the audit is under way."""
    left = [act]

    def progress(done: int, total: int) -> None:
        if left:
            left.pop()()

    return progress


def test_a_ledger_that_grows_is_audited_up_to_where_it_was(path: Path) -> None:
    ledger = _write(path, _long(30))
    size = path.stat().st_size

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"not yet of interest\n")

    report = audit_ledger(path, chunk_size=2000, progress=_after_first_span(grow))
    assert report.sound
    assert (report.records, report.size) == (len(ledger.lines), size)
    finding = audit_ledger(path).finding
    assert finding is not None
    assert finding.position == len(ledger.lines) + 1


@pytest.mark.parametrize("kept", [1, 60, -1])
def test_a_last_line_that_is_finished_meanwhile_is_not_torn(path: Path, kept: int) -> None:
    ledger = _long(30)
    body, last = b"".join(ledger.lines[:-1]), ledger.lines[-1]
    path.write_bytes(body + last[:kept])

    def finish() -> None:
        with path.open("ab") as file:
            file.write(last[kept:] + b"and the next record begins")

    report = audit_ledger(path, chunk_size=2000, progress=_after_first_span(finish))
    assert report.sound
    assert (report.records, report.size) == (len(ledger.lines), len(ledger.data))
    assert report.head.event_hash == ledger.head


def test_a_last_line_that_is_still_unfinished_is_torn(path: Path) -> None:
    ledger = _long(30)
    path.write_bytes(ledger.data[:-20])

    def write_a_little_more() -> None:
        with path.open("ab") as file:
            file.write(ledger.data[-20:-10])

    report = audit_ledger(path, chunk_size=2000, progress=_after_first_span(write_a_little_more))
    assert report.finding is not None
    assert report.finding.defect is Defect.TORN
    assert report.torn_bytes == len(ledger.lines[-1]) - 10
    assert report.size == len(ledger.data) - len(ledger.lines[-1])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ledger_that_shrinks_under_the_audit_is_unusable(path: Path, workers: int) -> None:
    """Whether records go, or only a torn line, as when a server starts and cuts it off."""
    ledger = _long(100)
    whole = len(ledger.data)
    for size in (5000, whole - 1, whole, whole + 3):
        # Cut while spans are read, and after the only one was.
        for chunk_size in (2000, 1 << 20):
            path.write_bytes(ledger.data + b"torn")
            cut = _after_first_span(partial(os.truncate, path, size))
            with pytest.raises(LedgerUnusable, match="audit it again"):
                audit_ledger(path, workers=workers, chunk_size=chunk_size, progress=cut)


def test_a_ledger_that_is_replaced_under_the_audit_is_unusable(path: Path, tmp_path: Path) -> None:
    ledger = _write(path, _long(100))
    other = tmp_path / "other"
    other.write_bytes(ledger.data)
    with pytest.raises(LedgerUnusable, match="replaced"):
        audit_ledger(
            path,
            workers=2,
            chunk_size=2000,
            progress=_after_first_span(lambda: other.replace(path)),
        )


def test_a_killed_worker_is_an_error_not_a_verdict(path: Path) -> None:
    _write(path, _long(30))
    with pytest.raises(BrokenProcessPool):
        audit_ledger(path, workers=2, chunk_size=2000, check_signature=signature_checks.die)


def test_the_file_is_only_read(path: Path) -> None:
    ledger = _write(path, _long(8))
    path.chmod(0o400)
    before = path.stat()
    assert audit_ledger(path).sound
    assert path.read_bytes() == ledger.data
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert list(path.parent.iterdir()) == [path]


def _peak(path: Path) -> int:
    tracemalloc.start()
    try:
        assert audit_ledger(path, workers=1, chunk_size=32 << 10).sound
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    """One stream: what is held at any time is a span and its lines."""
    events = [writers.secure_message(seq, signed=False) for seq in range(1, 4001)]
    _write(path, Ledger().add_all("v1", events[:500]))
    _peak(path)  # fill what is cached once
    small = _peak(path)
    _write(path, Ledger().add_all("v1", events))
    large = _peak(path)
    assert path.stat().st_size > 2 << 20
    assert large < 1.2 * small
    assert large < 512 << 10


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_beyond_all_bounds_is_refused_in_bounded_memory(path: Path, end: bytes) -> None:
    head = Ledger().add("v1", writers.login())
    with path.open("wb") as file:
        file.write(head.data)
        file.truncate(40 * MAX_LINE)  # zeros, on disk a hole
        file.seek(0, os.SEEK_END)
        file.write(end)
    tracemalloc.start()
    try:
        report = audit_ledger(path, workers=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.finding == Finding(2, Defect.RECORD, f"it is longer than {MAX_LINE} bytes")
    assert peak < 4 * MAX_LINE


@pytest.mark.parametrize("chunk_size", [1 << 20, 64 << 20])
@pytest.mark.parametrize("length", [MAX_LINE, MAX_LINE + 1])
def test_the_longest_line_is_the_same_for_every_cut(
    path: Path, chunk_size: int, length: int
) -> None:
    line = Ledger().add("v1", Event("X", "w", {"pad": ""})).data
    padded = line.replace(b'"pad": ""', b'"pad": "' + b"x" * (length - len(line) + 1) + b'"')
    path.write_bytes(padded)
    finding = audit_ledger(path, chunk_size=chunk_size).finding
    assert finding is not None
    assert finding.defect is (Defect.HASH if length == MAX_LINE else Defect.RECORD)


def test_what_is_no_ledger_is_unusable_and_not_broken(path: Path, tmp_path: Path) -> None:
    for garbage in (
        b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 100,
        b"hello",
        b"hello\n",
        b"\n",
        b'{"name": "a package", "version": 1}\n',
        b"[]\n",
        b"\0" * 10_000,
        b"wallet,event_type,value\n",
    ):
        path.write_bytes(garbage)
        with pytest.raises(LedgerUnusable, match="no ledger"):
            audit_ledger(path)
    with pytest.raises(LedgerUnusable, match="No such file"):
        audit_ledger(tmp_path / "missing")
    with pytest.raises(LedgerUnusable, match="regular file"):
        audit_ledger(tmp_path)
    with pytest.raises(LedgerUnusable, match="not a path"):
        audit_ledger(Path("a\0b"))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(LedgerUnusable, match="cannot be opened"):
        audit_ledger(loop)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(LedgerUnusable, match="regular file"):
        audit_ledger(fifo)


def test_a_ledger_whose_only_record_is_damaged_is_broken_and_not_unusable(path: Path) -> None:
    for dialect, pydantic in (("v1", 2), ("v7", 2), ("v7", 1)):
        line = Ledger().add(dialect, writers.login(), pydantic=pydantic).data
        for at in range(len(line)):
            flipped = bytearray(line)
            flipped[at] ^= 0x01
            for data in (
                bytes(flipped),
                line[:at] + line[at + 1 :],
                line[: at + 1][:-1] or line[:1],
            ):
                path.write_bytes(data)
                finding = audit_ledger(path).finding
                assert finding is not None
                assert finding.position == 1


def _visits(wallets: int) -> Ledger:
    """Wallets that log in and write, one after the other."""
    ledger = Ledger()
    for number in range(1, wallets + 1):
        ledger.add("v1", writers.login(number))
        for seq in (1, 2, 3):
            ledger.add("v7", writers.secure_message(seq, sender=number, recipient=number + 1))
    return ledger


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_is_held_to_the_events_before_it(path: Path, workers: int) -> None:
    ledger = _write(path, _visits(12))
    audit = partial(audit_ledger, path, folds=[histories.Logins], workers=workers, chunk_size=3_000)
    assert audit().sound
    _write(path, Ledger(ledger.lines, ledger.head).add("v1", writers.secure_message(1, sender=90)))
    finding = audit().finding
    assert finding == Finding(49, Defect.HISTORY, "its sender had not logged in")
    assert audit(until=48).sound


@pytest.mark.parametrize("workers", [1, 2])
def test_an_event_that_contradicts_those_before_it_is_named(path: Path, workers: int) -> None:
    ledger = _visits(12)
    _write(path, Ledger(ledger.lines, ledger.head).add("v1", writers.login(3)))
    report = audit_ledger(path, folds=[histories.Logins], workers=workers, chunk_size=3_000)
    assert report.finding == Finding(49, Defect.HISTORY, "the wallet has logged in already")
    assert report.records == 48
    assert audit_ledger(path, workers=workers, chunk_size=3_000).sound


def test_what_is_wrong_with_a_line_itself_comes_before_what_contradicts(path: Path) -> None:
    ledger = _visits(12)
    lines = [*ledger.lines, Ledger(head="f" * 64).add("v1", writers.login(3)).data]
    path.write_bytes(b"".join(lines))
    finding = audit_ledger(path, folds=[histories.Logins]).finding
    assert finding is not None
    assert (finding.position, finding.defect) == (49, Defect.LINK)

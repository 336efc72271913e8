"""GenesisLedger: both interfaces over one chain that cannot fork."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugins.secure_chat.core.records import EventDraft, Head
from plugins.secure_chat.errors import LedgerBroken, LedgerLocked, LedgerUnavailable
from plugins.secure_chat.ledger.journal import START, Checkpoint
from v13.ledger.genesis_ledger import GenesisEntry, GenesisLedger

WALLET = "0x" + "ab" * 20
OTHER = "0x" + "cd" * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "genesis_ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Iterator[GenesisLedger]:
    ledger = GenesisLedger(path)
    yield ledger
    ledger.close()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_append_event_returns_the_event_as_it_stands_in_the_file(
    ledger: GenesisLedger, path: Path
) -> None:
    first = ledger.append_event("LOGIN", WALLET, {"source": "test"}, "")
    second = ledger.append_event("REWARD", WALLET, {}, "sig", value=5)
    assert lines(path) == [
        {name: getattr(event, name) for name in event.__slots__} for event in (first, second)
    ]
    assert first.prev_hash == "0" * 64
    assert second.prev_hash == first.hash
    assert (second.value, second.signature) == (5, "sig")


async def test_append_returns_the_entry_with_its_place_in_the_chain(ledger: GenesisLedger) -> None:
    sent = GenesisEntry(wallet=WALLET, event_type="LOGIN", metadata={"signature": "s", "a": 1})
    first = await ledger.append(sent)
    second = await ledger.append(GenesisEntry(wallet=OTHER, event_type="LOGIN"))
    assert first.metadata == {"signature": "s", "a": 1}
    assert sent.metadata == {"signature": "s", "a": 1}
    assert first.previous_hash == "0" * 64
    assert second.previous_hash == first.hash
    assert ledger.read_all() == [first, second]


async def test_a_signature_stands_once_in_a_record_that_has_a_field_for_it(
    ledger: GenesisLedger, path: Path
) -> None:
    await ledger.append(GenesisEntry(wallet=WALLET, event_type="A", metadata={"signature": "s"}))
    (record,) = lines(path)
    assert (record["signature"], record["metadata"]) == ("s", {})


async def test_a_signature_is_found_through_either_interface(ledger: GenesisLedger) -> None:
    await ledger.append(GenesisEntry(wallet=WALLET, event_type="A", metadata={"signature": "one"}))
    await asyncio.to_thread(ledger.append_event, "B", WALLET, {}, "two")
    assert [e.signature for e in ledger.get_events_for_wallet(WALLET)] == ["one", "two"]
    assert [e.metadata["signature"] for e in ledger.read_all()] == ["one", "two"]


async def test_a_large_event_is_returned_whole(ledger: GenesisLedger) -> None:
    """It is longer than the window in which its record is looked for."""
    event = await asyncio.to_thread(ledger.append_event, "A", WALLET, {"text": "x" * 300_000}, "")
    assert event.metadata == {"text": "x" * 300_000}
    entry = await ledger.append(GenesisEntry(wallet=WALLET, event_type="B"))
    assert entry.previous_hash == event.hash


@pytest.mark.parametrize(("value", "logged"), [(0, 0), (10.0, 10), ("7", 7)])
async def test_whole_values_of_every_dialect_are_taken(
    ledger: GenesisLedger, value: float | str, logged: int
) -> None:
    entry = await ledger.append(GenesisEntry(wallet=WALLET, event_type="A", value=value))
    assert entry.value == logged


@pytest.mark.parametrize("value", [0.5, "1.5", "many"])
async def test_a_value_that_is_not_whole_is_refused_and_nothing_is_logged(
    ledger: GenesisLedger, value: float | str
) -> None:
    with pytest.raises(ValueError):
        await ledger.append(GenesisEntry(wallet=WALLET, event_type="A", value=value))
    assert ledger.read_all() == []


def test_metadata_that_is_no_json_is_refused_and_the_chain_goes_on(ledger: GenesisLedger) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        ledger.append_event("A", WALLET, {"what": object()}, "")
    ledger.append_event("A", WALLET, {}, "")
    assert ledger.verify_integrity()


def test_both_names_of_the_path_are_there(path: Path, tmp_path: Path) -> None:
    assert GenesisLedger(path).filepath == GenesisLedger(filepath=path).storage_path == path
    assert GenesisLedger().storage_path == Path("genesis_ledger.jsonl")
    assert list(tmp_path.iterdir()) == [], "making the object opens nothing"


def test_instances_of_one_path_share_one_writer_and_do_not_fork(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    path.touch()
    link.symlink_to(path)
    ledgers = [GenesisLedger(path), GenesisLedger(str(path)), GenesisLedger(link)]

    def write(number: int) -> None:
        ledgers[number % 3].append_event("A", WALLET, {"n": number}, "")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(60)))
    assert len(lines(path)) == 60
    assert ledgers[0].verify_integrity()
    ledgers[0].close()
    ledgers[1].append_event("A", WALLET, {"n": 60}, "")
    for ledger in ledgers:
        ledger.close()
    assert GenesisLedger(path).verify_integrity()


def test_a_second_process_is_refused(ledger: GenesisLedger, path: Path) -> None:
    ledger.append_event("A", WALLET, {}, "")
    program = (
        "import sys\n"
        "from v13.ledger.genesis_ledger import GenesisLedger\n"
        "try: GenesisLedger(sys.argv[1]).append_event('A', 'w', {}, '')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == LedgerLocked.__name__
    assert len(lines(path)) == 1


def test_a_forgotten_instance_releases_the_file(path: Path) -> None:
    """The host's interfaces have no close, so users of them cannot call one."""
    GenesisLedger(path).append_event("A", WALLET, {}, "")
    gc.collect()
    assert not any(thread.name == "ledger-writer" for thread in threading.enumerate())


def test_a_process_that_never_closes_its_ledger_ends(path: Path) -> None:
    program = (
        "import sys\n"
        "from v13.ledger.genesis_ledger import GenesisLedger\n"
        "ledger = GenesisLedger(sys.argv[1])\n"
        "ledger.append_event('A', 'w', {}, '')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=True)
    assert len(lines(path)) == 1


def test_a_closed_ledger_takes_nothing(path: Path) -> None:
    ledger = GenesisLedger(path)
    ledger.append_event("A", WALLET, {}, "")
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.append_event("A", WALLET, {}, "")
    assert ledger.verify_integrity()


async def test_a_caller_that_gives_up_neither_undoes_its_event_nor_stops_the_writer(
    ledger: GenesisLedger,
) -> None:
    ledger.open()
    for number in range(20):
        giving_up = asyncio.create_task(
            ledger.append(GenesisEntry(wallet=WALLET, event_type="A", metadata={"n": number}))
        )
        await asyncio.sleep(0)  # let it stage
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up
    await ledger.append(GenesisEntry(wallet=WALLET, event_type="B"))
    assert [entry.event_type for entry in ledger.read_all()] == ["A"] * 20 + ["B"]


def test_verification_names_no_line_but_sees_every_change(path: Path) -> None:
    ledger = GenesisLedger(path)
    assert ledger.verify_integrity(), "an empty ledger is sound"
    for number in range(4):
        ledger.append_event("A", WALLET, {"n": number}, "")
    ledger.close()
    sound = path.read_bytes()
    four = sound.splitlines(keepends=True)
    changed = {
        "a byte": sound.replace(b'"n": 2', b'"n": 3'),
        "a line removed": b"".join(four[:1] + four[2:]),
        "lines swapped": b"".join([four[0], four[2], four[1], four[3]]),
        "a line twice": b"".join([*four, four[3]]),
        "a torn end": sound[:-1],
        "an empty line": sound + b"\n",
        "spaces": sound.replace(b'"n": 2', b'"n":  2'),
    }
    for what, content in changed.items():
        path.write_bytes(content)
        assert not GenesisLedger(path).verify_integrity(), what
    path.write_bytes(sound)
    assert GenesisLedger(path).verify_integrity()


def test_a_broken_file_is_refused_and_left_alone(path: Path) -> None:
    ledger = GenesisLedger(path)
    for number in range(3):
        ledger.append_event("A", WALLET, {"n": number}, "")
    ledger.close()
    broken = path.read_bytes().replace(b'"n": 1', b'"n": 9')
    path.write_bytes(broken)
    with pytest.raises(LedgerBroken, match="line 2"):
        GenesisLedger(path).append_event("A", WALLET, {}, "")
    assert path.read_bytes() == broken


def test_known_wallets_are_those_with_events_of_their_own(ledger: GenesisLedger) -> None:
    assert not ledger.has_events(WALLET)
    ledger.append_event("A", OTHER, {"recipient": WALLET}, "")
    ledger.append_event("A", OTHER, {"wallet": WALLET, "note": f'"wallet": "{WALLET}"'}, "")
    assert not ledger.has_events(WALLET)
    assert ledger.has_events(OTHER)
    ledger.append_event("A", WALLET, {}, "")
    assert ledger.has_events(WALLET)


def test_a_wallet_that_json_would_escape_cannot_be_looked_for(ledger: GenesisLedger) -> None:
    for wallet in ('a"b', "a\\b", "jäger", "a\nb"):
        with pytest.raises(ValueError, match="plain"):
            ledger.has_events(wallet)


def test_the_observer_hears_of_committed_events_only(path: Path) -> None:
    heard: list[tuple[int, str, bool]] = []

    def observe(*, position: int, event_type: str, wallet: str, metadata: object) -> None:
        heard.append((position, event_type, len(lines(path)) >= position))

    ledger = GenesisLedger(path, on_committed=observe)
    ledger.append_event("A", WALLET, {}, "")
    asyncio.run(ledger.append(GenesisEntry(wallet=WALLET, event_type="B")))
    ledger.close()
    with pytest.raises(LedgerUnavailable):
        ledger.append_event("C", WALLET, {}, "")
    assert heard == [(1, "A", True), (2, "B", True)]


def test_a_failing_observer_does_not_fail_a_committed_event(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def observe(**event: object) -> None:
        raise RuntimeError("observer")

    ledger = GenesisLedger(path, on_committed=observe)
    assert ledger.append_event("A", WALLET, {}, "").event_type == "A"
    ledger.close()
    assert "ledger.observer_failed position=1" in caplog.text


def test_the_journal_is_there_for_group_commit(ledger: GenesisLedger) -> None:
    staged = ledger.journal.stage([EventDraft("A", WALLET, {}), EventDraft("B", WALLET, {})])
    staged.durable.result(timeout=60)
    assert [entry.event_type for entry in ledger.read_all()] == ["A", "B"]
    assert ledger.journal is ledger.open()


def test_who_opens_it_later_is_given_the_same_records(path: Path) -> None:
    before = GenesisLedger(path)
    before.append_event("A", WALLET, {}, "")
    first = before.journal.checkpoint
    before.append_event("B", WALLET, {}, "")
    end = before.journal.checkpoint.offset
    before.close()

    def replayed(ledger: GenesisLedger, verified: Checkpoint = START) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        ledger.open(verified, lambda record, offset: seen.append((record.position, offset)))
        return seen

    ledger, other = GenesisLedger(path), GenesisLedger(path)
    for opened in (ledger, ledger, other):
        assert replayed(opened) == [(1, first.offset), (2, end)]
        assert replayed(opened, first) == [(2, end)]
    unknown = Checkpoint(Head(1, "0" * 128), first.offset)
    assert replayed(other, unknown) == [(1, first.offset), (2, end)]
    ledger.close()
    other.close()


FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures" / "ledgers"


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"{FIXTURES.name} written by hosts are not here")
@pytest.mark.parametrize("name", ["v1-9298c9a", "v2-7355c60", "v5-f7002fc", "v7-4a49984"])
def test_a_ledger_of_the_host_is_read_and_continued(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes((FIXTURES / f"{name}-valid.jsonl").read_bytes())
    ledger = GenesisLedger(path)
    assert ledger.verify_integrity()
    before = ledger.read_all()
    event = ledger.append_event("LOGIN", WALLET, {"source": "test"}, "sig")
    assert event.prev_hash == before[-1].hash
    assert event.signature == "sig"
    assert [entry.hash for entry in ledger.read_all()] == [*(e.hash for e in before), event.hash]
    assert ledger.verify_integrity()
    assert [e.id for e in ledger.get_events_for_wallet(WALLET)] == [event.id]
    assert ledger.has_events(WALLET)
    ledger.close()
    tampered = GenesisLedger(FIXTURES / f"{name}-tampered.jsonl")
    assert not tampered.verify_integrity()

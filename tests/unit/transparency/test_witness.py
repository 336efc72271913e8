"""transparency/witness.py: a client that holds the log to its promises sees it break them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugins.secure_chat.core.dialects import V1, encode
from plugins.secure_chat.core.note import Checkpoint
from plugins.secure_chat.core.records import EMPTY, EventDraft, Head, Record
from plugins.secure_chat.transparency.keys import CheckpointSigner
from plugins.secure_chat.transparency.log import TransparencyLog
from plugins.secure_chat.transparency.witness import Alarm, LogWitness

ORIGIN = "example.com/ledger"
SIGNER = CheckpointSigner(ORIGIN, b"\x01" * 32, b"\x02" * 32)
STRANGER = CheckpointSigner(ORIGIN, b"\x03" * 32, b"\x04" * 32)


class Server:
    """A ledger with its log; ``fork`` makes another one that was told otherwise."""

    def __init__(self, directory: Path, signer: CheckpointSigner = SIGNER) -> None:
        directory.mkdir(exist_ok=True)
        self.ledger = directory / "ledger.jsonl"
        self.ledger.touch()
        self.log = TransparencyLog(self.ledger, directory / "log", signer, clock=lambda: 1.0)
        self.log.open(0)
        self.records: list[Record] = []

    def append(self, count: int, word: str = "hello") -> None:
        with self.ledger.open("ab") as file:
            for _ in range(count):
                head = (
                    Head(len(self.records), self.records[-1].event_hash) if self.records else EMPTY
                )
                line, record = encode(
                    V1,
                    EventDraft("LOGIN", "wallet_a", {"source": word}),
                    moment=datetime(2026, 1, 1, tzinfo=UTC),
                    prev_hash=head.event_hash,
                    event_id=f"{head.position}",
                )
                file.write(line)
                self.records.append(record)
        self.log.advance(len(self.records))
        self.log.publish()

    @property
    def note(self) -> bytes:
        published = self.log.published
        assert published is not None
        return published.note


@pytest.fixture
def server(tmp_path: Path) -> Server:
    server = Server(tmp_path / "a")
    server.append(5)
    return server


@pytest.fixture
def witness() -> LogWitness:
    return LogWitness(ORIGIN, SIGNER.verifiers())


def included(witness: LogWitness, server: Server, position: int) -> Checkpoint:
    return witness.check_included(
        server.log.inclusion(position).encode(),
        server.log.entry(position),
        position,
        server.records[position - 1].event_hash,
    )


def test_an_honest_log_raises_no_alarm(server: Server, witness: LogWitness) -> None:
    for count in (0, 1, 7, 300):
        server.append(count)
        checkpoint = witness.open(server.note)
        old = witness.last.size if witness.last else 0
        witness.see(checkpoint, server.log.consistency(old) if witness.last else [])
        assert witness.last == checkpoint
    for position in (1, 5, 313):
        assert included(witness, server, position) == witness.last


def test_an_older_checkpoint_is_no_alarm_and_is_not_remembered(
    server: Server, witness: LogWitness
) -> None:
    old = witness.open(server.note)
    server.append(20)
    new = witness.open(server.note)
    witness.see(new, [])
    witness.see(old, server.log.consistency(5, 25))
    assert witness.last == new


def test_a_forked_log_raises_the_alarm(tmp_path: Path, server: Server, witness: LogWitness) -> None:
    witness.see(witness.open(server.note), [])
    other = Server(tmp_path / "b")
    other.append(4)
    other.append(1, "fork")
    with pytest.raises(Alarm, match="disagree"):
        witness.see(witness.open(other.note), [])
    other.append(20)
    with pytest.raises(Alarm, match="disagree"):
        witness.see(witness.open(other.note), other.log.consistency(5))


def test_a_log_rolled_back_and_grown_again_raises_the_alarm(
    tmp_path: Path, server: Server, witness: LogWitness
) -> None:
    server.append(30)
    witness.see(witness.open(server.note), [])
    shorter = Server(tmp_path / "b")
    shorter.append(5)
    shorter.append(3, "grown again")
    with pytest.raises(Alarm, match="disagree"):
        witness.see(witness.open(shorter.note), server.log.consistency(5, 35))


def test_what_was_seen_is_held_to_after_a_restart(
    tmp_path: Path, server: Server, witness: LogWitness
) -> None:
    witness.see(witness.open(server.note), [])
    again = LogWitness(ORIGIN, SIGNER.verifiers(), witness.last)
    other = Server(tmp_path / "b")
    other.append(5, "fork")
    with pytest.raises(Alarm, match="disagree"):
        again.see(again.open(other.note), [])


def test_a_checkpoint_of_other_keys_or_another_log_raises_the_alarm(
    tmp_path: Path, server: Server, witness: LogWitness
) -> None:
    other = Server(tmp_path / "b", STRANGER)
    other.append(5)
    with pytest.raises(Alarm, match="not the log's"):
        witness.open(other.note)
    with pytest.raises(Alarm, match="not the log's"):
        LogWitness("example.com/another", SIGNER.verifiers()).open(server.note)
    with pytest.raises(Alarm, match="not the log's"):
        witness.open(b"no note")


def test_a_record_that_is_not_the_acknowledged_one_raises_the_alarm(
    server: Server, witness: LogWitness
) -> None:
    proof = server.log.inclusion(3).encode()
    with pytest.raises(Alarm, match="acknowledged"):
        witness.check_included(proof, server.log.entry(3), 3, server.records[3].event_hash)
    line = server.log.entry(3)
    forged = line.replace(b"hello", b"hullo")
    with pytest.raises(Alarm, match="acknowledged"):
        witness.check_included(proof, forged, 3, server.records[2].event_hash)


def test_a_record_that_is_in_another_place_or_in_no_tree_raises_the_alarm(
    tmp_path: Path, server: Server, witness: LogWitness
) -> None:
    line, event_hash = server.log.entry(3), server.records[2].event_hash
    with pytest.raises(Alarm, match="another position"):
        witness.check_included(server.log.inclusion(4).encode(), line, 3, event_hash)
    other = Server(tmp_path / "b")
    other.append(5, "another")
    with pytest.raises(Alarm, match="not in the log"):
        witness.check_included(other.log.inclusion(3).encode(), line, 3, event_hash)


def test_bytes_that_hash_the_same_in_the_ledger_are_still_not_in_the_tree(
    server: Server, witness: LogWitness
) -> None:
    """White space is not under the record's own hash; it is under the tree's."""
    line, event_hash = server.log.entry(3), server.records[2].event_hash
    spaced = line.replace(b'{"id"', b'{ "id"')
    with pytest.raises(Alarm, match="not in the log"):
        witness.check_included(server.log.inclusion(3).encode(), spaced, 3, event_hash)


@pytest.mark.parametrize("part", ["proof", "line"])
def test_an_answer_that_cannot_be_read_raises_the_alarm(
    server: Server, witness: LogWitness, part: str
) -> None:
    proof = b"nonsense" if part == "proof" else server.log.inclusion(1).encode()
    line = b"nonsense" if part == "line" else server.log.entry(1)
    with pytest.raises(Alarm, match="cannot be read"):
        witness.check_included(proof, line, 1, server.records[0].event_hash)

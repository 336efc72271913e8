"""F1, F5, F10: the server process is killed, cut off or told to stop while it works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from plugins.secure_chat.audit import audit_ledger
from tests.faults.server import (
    LEDGER,
    PATIENCE,
    Server,
    ledger_messages,
    message,
    receive,
    resume,
    send,
)

pytestmark = pytest.mark.fault

RECEIPT = ("id", "position", "event_hash", "timestamp")


class Sender:
    """A wallet that keeps a window of messages under way, and remembers what it was promised."""

    def __init__(self, wallet: str, recipient: str) -> None:
        self.wallet = wallet
        self.recipient = recipient
        self.sent: dict[int, str] = {}
        self.acked: dict[int, dict[str, Any]] = {}
        self._next = 1

    @property
    def unanswered(self) -> list[int]:
        return [seq for seq in self.sent if seq not in self.acked]

    def _texts(self) -> Iterator[str]:
        """What was left open first, in its order; then new messages without end."""
        for seq in self.unanswered:
            yield self.sent[seq]
        while True:
            self.sent[self._next] = message(self.recipient, self._next)
            self._next += 1
            yield self.sent[self._next - 1]

    async def run(self, server: Server, window: int, acknowledged: asyncio.Queue[int]) -> None:
        """Send until the connection ends. ACKs of before are told apart from changed ones."""
        texts = self._texts()
        async with server.socket(self.wallet) as connection:
            for _ in range(window):
                await connection.send(next(texts))
            while True:
                try:
                    frame = await receive(connection)
                except ConnectionClosed:
                    return
                assert frame["type"] == "ACK", frame
                self.promised(frame)
                acknowledged.put_nowait(frame["position"])
                # Closed for sending; what has come before the close is still to be read.
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(next(texts))

    def promised(self, frame: dict[str, Any]) -> None:
        known = self.acked.setdefault(frame["seq"], frame)
        assert [known[name] for name in RECEIPT] == [frame[name] for name in RECEIPT]


def check_ledger(path: Path, senders: list[Sender]) -> None:
    """The chain is sound; every ACKed message stands where its ACK said, once; seq rises."""
    assert audit_ledger(path).sound
    records = ledger_messages(path)
    at = {record["position"]: record for record in records}
    for sender in senders:
        own = [r["metadata"] for r in records if r["wallet"] == sender.wallet]
        seqs = [metadata["seq"] for metadata in own]
        assert seqs == sorted(set(seqs))
        for seq, promise in sender.acked.items():
            record = at[promise["position"]]
            assert record["hash"] == promise["event_hash"]
            assert record["metadata"]["seq"] == seq
            assert record["metadata"]["hash"] == json.loads(sender.sent[seq])["hash"]
    hashes = [record["metadata"]["hash"] for record in records]
    assert len(hashes) == len(set(hashes))


async def load_until(
    server: Server, senders: list[Sender], count: int, end: Any, window: int = 32
) -> None:
    """Run all senders; at ``count`` ACKs call ``end``, and wait until every sender is cut off."""
    acknowledged: asyncio.Queue[int] = asyncio.Queue()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run(server, window, acknowledged))
        for _ in range(count):
            await acknowledged.get()
        await asyncio.to_thread(end)


async def test_f1_every_acknowledged_message_survives_kill_9_under_load(tmp_path: Path) -> None:
    seeded = random.Random(1)
    senders = [Sender(f"sender{n}", "recipient") for n in range(4)]
    data = tmp_path / "data"
    for _ in range(6):
        server = Server(data)
        try:
            await load_until(server, senders, seeded.randrange(1, 200), server.kill)
        finally:
            server.kill()
    with Server(data) as server:
        for sender in senders:
            async with server.socket(sender.wallet) as connection:
                for text in sender.sent.values():
                    await connection.send(text)
                for _ in sender.sent:
                    answer = await receive(connection)
                    assert answer["type"] == "ACK", answer
                    assert answer["duplicate"] or answer["seq"] not in sender.acked
                    sender.promised(answer)
                assert not sender.unanswered
                # The state is what was committed: an old number with another message is refused.
                conflict = await send(connection, message("recipient", max(sender.acked)))
                assert conflict["code"] == "sequence_conflict"
        async with server.socket("recipient") as connection:
            replayed, resumed = await resume(connection)
        assert resumed["complete"]
        texts = {json.loads(t)["hash"]: json.loads(t) for s in senders for t in s.sent.values()}
        assert [m["hash"] for m in replayed] == [
            r["metadata"]["hash"] for r in ledger_messages(data / LEDGER)
        ]
        assert all(m["ciphertext"] == texts[m["hash"]]["ciphertext"] for m in replayed)
        assert len(replayed) == len(texts)
        assert server.terminate() == 0
    check_ledger(data / LEDGER, senders)


async def until_ledger_has(path: Path, hash_: str) -> dict[str, Any]:
    """The record of a message as soon as its line is whole."""

    def look() -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            data = path.read_bytes() if path.exists() else b""
            for line in data[: data.rfind(b"\n") + 1].splitlines():
                record: dict[str, Any] = json.loads(line)
                if record["metadata"].get("hash") == hash_:
                    return record
        raise AssertionError("the message did not reach the ledger")

    return await asyncio.to_thread(look)


async def test_f5_a_crash_between_commit_and_ack_gives_the_retry_the_receipt(
    tmp_path: Path,
) -> None:
    """The ledger's line is written and nobody has read an ACK: kill -9, restart, retry."""
    data = tmp_path / "data"
    text = message("bob", 7)
    with Server(data) as server:
        async with server.socket("alice") as connection:
            await connection.send(text)
            record = await until_ledger_has(data / LEDGER, json.loads(text)["hash"])
            server.kill()
    with Server(data) as server:
        async with server.socket("alice") as connection:
            first, second = await send(connection, text), await send(connection, text)
        async with server.socket("bob") as connection:
            replayed, resumed = await resume(connection)
    for answer in (first, second):
        assert answer["duplicate"], answer
        assert (answer["id"], answer["event_hash"]) == (record["id"], record["hash"])
        assert answer["position"] == 1
    assert [m["ciphertext"] for m in replayed] == [json.loads(text)["ciphertext"]]
    assert resumed["complete"]
    assert len(ledger_messages(data / LEDGER)) == 1


async def test_f5_a_sender_cut_off_before_its_ack_gets_the_receipt_when_it_retries(
    tmp_path: Path,
) -> None:
    """The connection is aborted as soon as the message is sent; the retry decides what it was."""
    data = tmp_path / "data"
    answers = []
    with Server(data) as server:
        async with server.socket("bob") as bob:
            for seq in range(1, 21):
                text = message("bob", seq)
                async with server.socket("alice") as connection:
                    await connection.send(text)
                    connection.transport.abort()
                async with server.socket("alice") as connection:
                    answers.append(await send(connection, text))
            delivered = [await receive(bob) for _ in answers]
    assert {answer["type"] for answer in answers} == {"ACK"}, answers
    assert [a["position"] for a in answers] == list(range(1, 21))
    assert [d["hash"] for d in delivered] == [a["hash"] for a in answers]
    assert any(answer["duplicate"] for answer in answers)
    records = ledger_messages(data / LEDGER)
    assert [r["hash"] for r in records] == [a["event_hash"] for a in answers]


async def test_f10_sigterm_under_load_loses_nothing_and_says_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    senders = [Sender(f"sender{n}", "recipient") for n in range(4)]
    server = Server(data)
    codes: list[int | None] = []

    async def idle() -> None:
        async with server.socket("recipient") as connection:
            try:
                while True:
                    await receive(connection)
            except ConnectionClosed as closed:
                codes.append(closed.rcvd.code if closed.rcvd else None)

    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            watching = group.create_task(idle())
            await load_until(server, senders, 300, server.terminate)
            await watching
    finally:
        server.kill()
    assert server.process.returncode == 0, server.log()
    assert codes == [1012]
    check_ledger(data / LEDGER, senders)
    logged = ledger_messages(data / LEDGER)
    # Whatever was committed was also acknowledged before the sockets were closed.
    assert len(logged) == sum(len(sender.acked) for sender in senders)
    with Server(data) as server:
        async with server.socket("recipient") as connection:
            replayed, resumed = await resume(connection)
        assert [m["position"] for m in replayed] == [record["position"] for record in logged]
        assert resumed["complete"]
        for sender in senders:
            async with server.socket(sender.wallet) as connection:
                for seq in sender.unanswered:
                    sender.promised(await send(connection, sender.sent[seq]))
        assert server.terminate() == 0
    check_ledger(data / LEDGER, senders)


async def test_f1_a_killed_writer_of_rows_costs_no_message(tmp_path: Path) -> None:
    """Messages in numbers are stored by a process of the server's: it is killed meanwhile."""
    data = tmp_path / "data"
    senders = [Sender(f"sender{n}", "recipient") for n in range(4)]
    killed: list[int] = []

    def kill_writer_and_drain(server: Server) -> None:
        deadline = time.monotonic() + PATIENCE
        while not killed:  # messages go on coming until it has been started
            assert time.monotonic() < deadline
            killed.extend(server.row_writers())
            time.sleep(0.01)  # between two looks
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert server.terminate() == 0

    with Server(data) as server:
        await load_until(server, senders, 300, partial(kill_writer_and_drain, server))
        assert len(killed) == 1
    with Server(data) as server:
        async with server.socket("recipient") as connection:
            replayed, resumed = await resume(connection)
    assert resumed["complete"]
    hashes = [message["hash"] for message in replayed]
    assert hashes == [record["metadata"]["hash"] for record in ledger_messages(data / LEDGER)]
    for sender in senders:
        assert {json.loads(sender.sent[seq])["hash"] for seq in sender.acked} <= set(hashes)
    check_ledger(data / LEDGER, senders)

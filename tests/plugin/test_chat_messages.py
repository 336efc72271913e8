"""The life of a message through the socket: acknowledged, delivered, refused, and logged."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.ledger.file import AppendFile
from tests.plugin.chat_server import ALICE, BOB, CAROL, WAIT, ChatServer, chat_server, message
from tests.plugin.conftest import GiveReceipt


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


def test_ready_says_who_where_and_what_is_accepted(fresh: ChatServer) -> None:
    with fresh.peer(ALICE, greeted=False) as alice:
        ready = alice.receive()
    assert ready == {
        "type": "READY",
        "wallet": ALICE,
        "position": 0,
        "limits": {"max_ciphertext": 1 << 20, "rate": 100.0, "burst": 500},
    }


def test_an_ack_means_the_record_stands_in_the_ledger_at_its_position(fresh: ChatServer) -> None:
    sent = message(BOB, 7, signature="A" * 86 + "==", cids=["bafkrei" + "a" * 52], device="phone")
    with fresh.peer(ALICE) as alice:
        ack = alice.ask({"type": "CHAT_MESSAGE", **sent})
        record = fresh.records()[ack["position"] - 1]  # at once: committed comes before the ACK
    assert ack == {
        "type": "ACK",
        "seq": 7,
        "hash": sent["hash"],
        "recipient": BOB,
        "device": "phone",
        "id": record["id"],
        "position": 1,
        "event_hash": record["hash"],
        "timestamp": record["timestamp"],
        "duplicate": False,
        "gap": 6,
    }
    assert record["event_type"] == "MESSAGE"
    assert record["wallet"] == ALICE
    assert record["value"] == 0
    assert record["signature"] == sent["signature"]
    assert record["metadata"] == {
        "hash": sent["hash"],
        "sender": ALICE,
        "recipient": BOB,
        "nonce": sent["nonce"],
        "device": "phone",
        "seq": 7,
        "ts": sent["ts"],
        "size": 64,
        "cids": sent["cids"],
    }


def test_nothing_is_shown_or_acknowledged_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing, may_sync = threading.Event(), threading.Event()
    sync = AppendFile.sync

    def held(file: AppendFile) -> None:
        syncing.set()
        may_sync.wait(WAIT)
        sync(file)

    def stored() -> bool:
        with closing(sqlite3.connect(tmp_path / "mailbox.sqlite")) as mailbox:
            found: tuple[int] = mailbox.execute("SELECT count(*) FROM messages").fetchone()
        return found == (1,)

    with (
        chat_server(tmp_path) as server,
        server.peer(ALICE) as alice,
        server.peer(ALICE) as tablet,
        server.peer(BOB) as bob,
    ):
        monkeypatch.setattr(AppendFile, "sync", held)
        sent = message(BOB, 1)
        alice.send(sent)
        assert syncing.wait(WAIT)
        server.wait_for(stored, "the mailbox has it while the ledger syncs")
        for _ in range(20):  # whatever was sent too early comes before one of these answers
            assert alice.silent()
            assert tablet.silent()
            assert bob.silent()
        assert bob.ask({"type": "RESUME", "after": 0}) == {
            "type": "RESUMED",
            "position": 0,
            "complete": True,
        }
        assert server.get("/v1/chat/threads", BOB).json() == []
        history = server.get(f"/v1/chat/threads/{ALICE}/messages", BOB).json()
        assert history == {"messages": [], "missing": 0}
        assert server.get("/v1/chat/ledger/head", BOB).json()["position"] == 0
        may_sync.set()
        ack = alice.receive()
        record = server.records()[ack["position"] - 1]
        assert (ack["type"], ack["event_hash"]) == ("ACK", record["hash"])
        assert bob.receive()["hash"] == tablet.receive()["hash"] == sent["hash"]


def test_a_message_without_signature_is_logged_with_an_empty_one(server: ChatServer) -> None:
    with server.peer(ALICE) as alice:
        ack = alice.ask(message("unsigned", 1))
    assert server.records()[ack["position"] - 1]["signature"] == ""


def test_every_socket_of_the_recipient_and_the_senders_others_get_the_message(
    server: ChatServer,
) -> None:
    cids = ["bafkrei" + "a" * 52]
    sent = message(BOB, 1, device="fanout", ts=12, signature="A" * 86 + "==", cids=cids)
    with (
        server.peer(ALICE) as alice,
        server.peer(ALICE) as tablet,
        server.peer(BOB) as bob,
        server.peer(BOB) as laptop,
        server.peer(CAROL) as carol,
    ):
        ack = alice.ask(sent)
        expected = {
            **sent,
            "type": "CHAT_MESSAGE",
            "sender": ALICE,
            "id": ack["id"],
            "position": ack["position"],
            "timestamp": ack["timestamp"],
        }
        assert bob.receive() == laptop.receive() == tablet.receive() == expected
        assert carol.silent()
        assert alice.silent()


def test_who_writes_to_itself_gets_the_message_on_every_socket_once(server: ChatServer) -> None:
    with server.peer(ALICE) as alice, server.peer(ALICE) as tablet:
        sent = message(ALICE, 1, device="to-self")
        alice.send(sent)
        frames = {frame["type"]: frame for frame in (alice.receive(), alice.receive())}
        assert frames["ACK"]["hash"] == frames["CHAT_MESSAGE"]["hash"] == sent["hash"]
        assert tablet.receive() == frames["CHAT_MESSAGE"]
        assert alice.silent()
        assert tablet.silent()


def test_sequence_numbers_are_accepted_as_upstream_does(server: ChatServer) -> None:
    with server.peer(ALICE) as alice:
        answers = [alice.ask(message("accepted", seq)) for seq in (1, 2, 2, 5, 3, 6, 0)]
    accepted = [answer["type"] == "ACK" for answer in answers]
    assert accepted == [True, True, False, True, False, True, False]
    assert [a["gap"] for a in answers if a["type"] == "ACK"] == [0, 0, 2, 0]
    conflict, replayed, zero = answers[2], answers[4], answers[6]
    assert (conflict["code"], conflict["last_seq"]) == ("sequence_conflict", 2)
    assert (replayed["code"], replayed["last_seq"]) == ("replayed_sequence", 5)
    assert (replayed["seq"], replayed["recipient"]) == (3, "accepted")
    assert (zero["code"], zero["field"]) == ("invalid_message", "seq")


def test_a_resend_gets_the_original_receipt_and_nothing_is_logged_or_delivered_again(
    server: ChatServer,
) -> None:
    sent = message(BOB, 1, device="resend")
    with server.peer(ALICE) as alice, server.peer(BOB) as bob:
        first = alice.ask(sent)
        assert bob.receive()["position"] == first["position"]
        again = alice.ask(sent)
        records = len(server.records())
        assert again == {**first, "duplicate": True}
        assert bob.silent()
    assert records == first["position"]


def test_a_resend_in_the_same_group_is_one_record(server: ChatServer) -> None:
    sent = message(BOB, 1, device="same-group")
    with server.peer(ALICE) as alice:
        for _ in range(20):
            alice.send(sent)
        acks = [alice.receive() for _ in range(20)]
    assert len({ack["position"] for ack in acks}) == 1
    assert sorted(ack["duplicate"] for ack in acks) == [False] + [True] * 19


def test_streams_of_other_devices_and_recipients_count_for_themselves(server: ChatServer) -> None:
    with server.peer(ALICE) as alice:
        for recipient, device in (("s1", "0"), ("s2", "0"), ("s1", "1")):
            assert alice.ask(message(recipient, 5, device=device))["type"] == "ACK"


@pytest.mark.parametrize("mailbox", ["kept", "lost"])
def test_a_message_replayed_after_a_restart_is_known_from_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, mailbox: str
) -> None:
    data = tmp_path_factory.mktemp("restart")
    sent = message(BOB, 4)
    with chat_server(data) as server, server.peer(ALICE) as alice:
        assert alice.ask(message(BOB, 2))["position"] == 1
        first = alice.ask(sent)
    if mailbox == "lost":  # the ledger alone must know it
        for name in data.glob("mailbox.sqlite*"):
            name.unlink()
    with chat_server(data) as server, server.peer(ALICE) as alice:
        assert alice.ask(sent) == {**first, "duplicate": True, "gap": 0}
        assert alice.ask(message(BOB, 4))["code"] == "sequence_conflict"
        assert alice.ask(message(BOB, 3))["code"] == "replayed_sequence"
        assert alice.ask(message(BOB, 5))["position"] == 3


def test_a_message_reflected_to_its_sender_is_refused(server: ChatServer) -> None:
    sent = message(BOB, 1, device="reflected", sender=ALICE)
    with server.peer(ALICE) as alice, server.peer(BOB) as bob:
        alice.ask(sent)
        bob.receive()
        answer = bob.ask({**sent, "recipient": ALICE})
    assert (answer["code"], answer["field"]) == ("invalid_message", "sender")


def test_addresses_are_one_wallet_in_any_case_and_other_names_are_not(server: ChatServer) -> None:
    with server.peer(BOB) as bob, server.peer(ALICE) as alice:
        ack = alice.ask(message("0x" + BOB[2:].upper(), 1, device="case"))
        assert ack["recipient"] == BOB
        assert bob.receive()["recipient"] == BOB
        alice.ask(message("Wallet_Dave", 1))
        assert alice.ask(message("wallet_dave", 1))["type"] == "ACK"  # another stream


def test_a_receipt_is_told_to_the_sender_once_and_taken_only_from_the_recipient(
    server: ChatServer, give_receipt: GiveReceipt
) -> None:
    with (
        server.peer(ALICE) as alice,
        server.peer(BOB) as bob,
        server.peer(CAROL) as carol,
    ):
        position = alice.ask(message(BOB, 1, device="receipts"))["position"]
        bob.receive()
        assert give_receipt(carol, position) == ["not_a_member"]
        assert give_receipt(alice, position) == ["not_a_member"]
        assert give_receipt(bob, 10**9) == ["not_a_member"]
        for kind in ("delivered", "delivered", "read"):
            assert give_receipt(bob, position, kind) == []
        alice.send({"type": "PING"})
        assert alice.until("PONG")[:-1] == [
            {"type": "RECEIPT", "kind": kind, "position": position, "wallet": BOB}
            for kind in ("delivered", "read")
        ]


def test_the_server_holds_no_plaintext_anywhere(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data = tmp_path_factory.mktemp("canary")
    canary = b"the canary sings at midnight"
    key, nonce = AESGCM.generate_key(256), bytes(12)
    sealed = AESGCM(key).encrypt(nonce, canary, b"associated")
    sent = message(BOB, 1, sealed)
    with chat_server(data) as server, server.peer(ALICE) as alice, server.peer(BOB) as bob:
        alice.ask(sent)
        assert bob.receive()["ciphertext"] == sent["ciphertext"]
        metrics = server.http.get("/metrics").content
        kept = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
        ledger = server.ledger.read_bytes()
    logged = caplog.text.encode()
    assert sent["ciphertext"].encode() in kept  # the scan sees what it looks at
    assert sent["ciphertext"].encode() not in ledger + metrics
    for place in (kept, ledger, metrics, logged):
        assert canary not in place
        assert canary.hex().encode() not in place
        assert key not in place


def test_what_was_served_is_a_sound_ledger(server: ChatServer) -> None:
    with server.peer(ALICE) as alice:
        assert alice.ask(message(BOB, 1, device="last"))["type"] == "ACK"
        report = audit_ledger(server.ledger)
    assert report.sound
    assert report.records == len(server.records())

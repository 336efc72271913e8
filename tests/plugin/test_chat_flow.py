"""Order, budgets and endings: RESUME under load, one budget a wallet, how connections close."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from fastapi import APIRouter
from websockets.exceptions import ConnectionClosed

from plugins.secure_chat import plugin, runtime, service
from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.errors import Close
from plugins.secure_chat.hub import Outbox
from plugins.secure_chat.ledger.port import JournalLedger
from plugins.secure_chat.mailbox.store import Mailbox, MessageReceipt, Waiting
from plugins.secure_chat.transport import corked_protocol, socket
from plugins.secure_chat.transport.socket import MAX_LIMITED
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    PLUGIN,
    SECRET,
    WAIT,
    ChatServer,
    RawSocket,
    chat_server,
    message,
    serving,
)
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

hookimpl = pluggy.HookimplMarker("atlas")

PER_SENDER = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


def _send_all(server: ChatServer, sender: str, recipient: str, count: int) -> None:
    with server.peer(sender) as peer:
        for seq in range(1, count + 1):
            peer.send(message(recipient, seq))
        assert {peer.receive()["type"] for _ in range(count)} == {"ACK"}


def test_resume_gives_each_missed_message_once_in_ledger_order(server: ChatServer) -> None:
    _send_all(server, ALICE, "resumed", 30)
    with server.peer("resumed") as peer:
        peer.send({"type": "RESUME", "after": 0})
        everything = peer.until("RESUMED")
        positions = [frame["position"] for frame in everything[:-1]]
        assert len(positions) == 30
        assert positions == sorted(set(positions))
        assert everything[-1] == {
            "type": "RESUMED",
            "position": everything[-1]["position"],
            "complete": True,
        }
        assert everything[-1]["position"] >= positions[-1]
        peer.send({"type": "RESUME", "after": positions[19]})
        again = [frame["position"] for frame in peer.until("RESUMED")[:-1]]
        assert again == positions[20:]
        peer.send({"type": "RESUME", "after": 2**53 - 1})
        assert [frame["type"] for frame in peer.until("RESUMED")] == ["RESUMED"]


def test_resume_under_concurrent_sends_has_no_gap_and_no_duplicate(server: ChatServer) -> None:
    recipient = "busy"
    senders = [f"sender-{n}" for n in range(4)]
    _send_all(server, senders[0], recipient, PER_SENDER)
    threads = [
        threading.Thread(target=_send_all, args=(server, sender, recipient, PER_SENDER))
        for sender in senders[1:]
    ]
    with server.peer(recipient) as peer:
        for thread in threads:
            thread.start()
        peer.send({"type": "RESUME", "after": 0})
        received: list[tuple[int, str, int]] = []
        resumed = 0
        # What was sent live before RESUME was taken comes a second time, before RESUMED.
        while len(set(received)) < PER_SENDER * len(senders) or not resumed:
            frame = peer.receive()
            if frame["type"] == "RESUMED":
                resumed = frame["position"]
            elif frame["type"] == "CHAT_MESSAGE":
                received.append((frame["position"], frame["sender"], frame["seq"]))
        for thread in threads:
            thread.join()
        assert peer.silent()
    positions = [position for position, _, _ in received]
    replay = positions.index(min(positions))
    ordered = positions[replay:]
    assert ordered == sorted(set(ordered))
    expected = {(sender, seq) for sender in senders for seq in range(1, PER_SENDER + 1)}
    assert {(sender, seq) for _, sender, seq in received[replay:]} == expected


def test_what_is_committed_while_a_page_is_read_is_in_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, may_go_on = threading.Event(), threading.Event()
    missed = Mailbox.missed

    def held(mailbox: Mailbox, wallet: str, after: int) -> list[Waiting]:
        page = missed(mailbox, wallet, after)
        read.set()
        may_go_on.wait(WAIT)
        return page

    with chat_server(tmp_path) as server, server.peer(ALICE) as alice, server.peer(BOB) as bob:
        monkeypatch.setattr(Mailbox, "missed", held)
        bob.send({"type": "RESUME", "after": 0})
        assert read.wait(WAIT)  # it found nothing
        assert alice.ask(message(BOB, 1))["position"] == 1
        may_go_on.set()
        replayed, resumed = bob.receive(), bob.receive()
        assert (replayed["type"], replayed["position"]) == ("CHAT_MESSAGE", 1)
        assert resumed == {"type": "RESUMED", "position": 1, "complete": True}
        assert bob.silent()


def test_a_second_resume_waits_for_the_first(server: ChatServer) -> None:
    _send_all(server, CAROL, "twice", 100)
    with server.peer("twice") as peer:
        for _ in range(2):
            peer.send({"type": "RESUME", "after": 0})
        frames = [peer.receive() for _ in range(102)]
        assert sorted({frame["type"] for frame in frames}) == ["CHAT_MESSAGE", "ERROR", "RESUMED"]
        assert [f["code"] for f in frames if f["type"] == "ERROR"] == ["malformed_frame"]
        assert peer.silent()


def test_a_sender_finds_receipts_that_came_while_away(server: ChatServer) -> None:
    sender = "away"
    with server.peer(sender) as peer:
        position = peer.ask(message(BOB, 1))["position"]
    receipt = {"type": "RECEIPT", "kind": "read", "position": position}
    with server.peer(sender) as other, server.peer(BOB) as bob:
        bob.send(receipt)
        assert other.receive() == {**receipt, "wallet": BOB}  # it is stored when it is told
    with server.peer(sender) as peer:
        peer.send({"type": "RESUME", "after": position - 1})
        found = [frame for frame in peer.until("RESUMED") if frame["type"] == "RECEIPT"]
    assert found == [{**receipt, "wallet": BOB}]


# -- one budget for each wallet (A19) --------------------------------------------------------------


def test_sockets_and_rest_of_a_wallet_share_one_budget(tmp_path: Path) -> None:
    with (
        chat_server(tmp_path, rate_per_second=0.001, burst=20) as server,
        server.peer(ALICE) as one,
        server.peer(ALICE) as two,
        server.peer(BOB) as bob,
    ):
        for number in range(6):
            assert one.ask({"type": "PING"})["type"] == "PONG"
            assert two.ask("not a frame")["code"] == "malformed_frame"  # costs as much
            status = server.get("/v1/chat/ledger/head", ALICE).status_code
            assert status == 200, number
        assert one.ask(message(BOB, 1))["type"] == "ACK"
        assert two.receive()["type"] == "CHAT_MESSAGE"  # what another device of hers sent
        assert server.post(ALICE, message(BOB, 2)).status_code == 201
        for peer in (one, two, bob, bob):
            assert peer.receive()["type"] == "CHAT_MESSAGE"
        refused = one.ask(message(BOB, 3))
        assert (refused["code"], refused["seq"], refused["recipient"]) == ("rate_limited", 3, BOB)
        assert refused["retry_after"] > 0
        assert two.ask({"type": "PING"})["code"] == "rate_limited"
        for answer in (server.get("/v1/chat/threads", ALICE), server.post(ALICE, message(BOB, 3))):
            assert answer.status_code == 429
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "rate_limited"
        with server.peer(ALICE) as third:  # a new socket brings no new budget
            assert third.ask({"type": "PING"})["code"] == "rate_limited"
        assert bob.silent()  # others have their own


def test_after_retry_after_seconds_a_request_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=lambda: now))
    with (
        chat_server(tmp_path, rate_per_second=4.0, burst=1) as server,
        server.peer(ALICE) as alice,
    ):
        assert alice.silent()
        refused = alice.ask({"type": "PING"})
        assert refused["retry_after"] == 0.25
        now += 0.24
        assert alice.ask({"type": "PING"})["code"] == "rate_limited"
        now += 0.01
        assert alice.silent()


def test_flooding_ends_the_connection_4429(tmp_path: Path) -> None:
    with (
        chat_server(tmp_path, rate_per_second=0.001, burst=1) as server,
        server.peer(ALICE) as alice,
        server.peer(BOB) as bob,
    ):
        assert alice.silent()
        with suppress(ConnectionClosed):  # one more than is answered
            for _ in range(MAX_LIMITED + 1):
                alice.send({"type": "PING"})
        answers = [alice.receive() for _ in range(MAX_LIMITED)]
        assert {answer["code"] for answer in answers} == {"rate_limited"}
        with pytest.raises(ConnectionClosed) as end:
            alice.receive()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 4429
        assert bob.silent()


def test_who_keeps_to_its_budget_again_is_not_flooding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only refusals in a row count, not those of a connection's whole life."""
    now = 1000.0
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(socket, "MAX_LIMITED", 3)
    with (
        chat_server(tmp_path, rate_per_second=1.0, burst=1) as server,
        server.peer(ALICE) as alice,
    ):
        for _ in range(3):
            assert alice.silent()
            for _ in range(2):
                assert alice.ask({"type": "PING"})["code"] == "rate_limited"
            now += 1.0
        assert alice.silent()


# -- memory ----------------------------------------------------------------------------------------


def test_while_too_much_is_unanswered_nothing_more_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_commit = threading.Event(), threading.Event()
    commit = JournalLedger.commit

    async def held(ledger: JournalLedger, *what: Any) -> list[Receipt]:
        begun.set()
        await asyncio.to_thread(may_commit.wait, WAIT)
        return await commit(ledger, *what)

    monkeypatch.setattr(JournalLedger, "commit", held)
    assert service.MAX_UNANSWERED == 32 << 20
    monkeypatch.setattr(service, "MAX_UNANSWERED", 1)
    with chat_server(tmp_path) as server, ThreadPoolExecutor(1) as caller:
        raw = RawSocket(server, ALICE)
        raw.send_at_once(*(message(BOB, seq) for seq in range(1, 4)))
        assert begun.wait(WAIT)
        assert server.so_many("received") == 1
        another = RawSocket(server, BOB)
        another.send_at_once(message(CAROL, 1))
        posted = caller.submit(server.post, CAROL, message(BOB, 1))
        server.wait_for(lambda: server.so_many("received") >= 2, "the request")
        for _ in range(10):  # it is not that they had no time
            assert server.so_many("received") == 2
        assert server.so_many("validated") == 1
        may_commit.set()
        assert posted.result().status_code == 201
        server.wait_for(lambda: server.so_many("acknowledged") == 5, "all answered")
        raw.hang_up()
        another.hang_up()


def test_a_socket_with_too_many_unanswered_messages_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_commit = threading.Event(), threading.Event()
    commit = JournalLedger.commit

    async def held(ledger: JournalLedger, *what: Any) -> list[Receipt]:
        begun.set()
        await asyncio.to_thread(may_commit.wait, WAIT)
        return await commit(ledger, *what)

    monkeypatch.setattr(JournalLedger, "commit", held)
    monkeypatch.setattr(socket, "MAX_IN_FLIGHT", 3)
    with chat_server(tmp_path) as server, server.peer(BOB) as bob:
        raw = RawSocket(server, ALICE)
        raw.send_at_once(*(message(BOB, seq) for seq in range(1, 9)))
        assert begun.wait(WAIT)
        for _ in range(10):
            assert bob.silent()  # others are read
        assert server.so_many("validated") == 3
        may_commit.set()
        assert [bob.receive()["seq"] for _ in range(8)] == list(range(1, 9))
        raw.hang_up()


# -- other endings ---------------------------------------------------------------------------------


LARGE = 1 << 20  # bytes of ciphertext
STALLS = 40  # large messages: more than the buffers of both ends of a socket take together


@pytest.fixture
def closes(monkeypatch: pytest.MonkeyPatch) -> list[Close]:
    """The codes with which sockets are closed, as it is decided."""
    decided: list[Close] = []
    close = Outbox.close

    def noted(outbox: Outbox, code: Close, last: bytes | None = None) -> None:
        decided.append(code)
        close(outbox, code, last)

    monkeypatch.setattr(Outbox, "close", noted)
    return decided


def _stall(server: ChatServer, closes: list[Close]) -> None:
    """Send to Bob, who reads nothing, until the server has given up on him."""
    with server.peer(ALICE) as alice:
        for seq in range(1, STALLS + 1):
            assert alice.ask(message(BOB, seq, bytes(LARGE)))["type"] == "ACK"
        assert closes == [Close.TOO_SLOW]
        server.wait_for(lambda: server.served() == 1, "the stalled socket let go")


def _resume_gives_everything(server: ChatServer) -> None:
    with server.peer(BOB) as bob:
        bob.send({"type": "RESUME", "after": 0})
        assert [f["seq"] for f in bob.until("RESUMED")[:-1]] == list(range(1, STALLS + 1))


def test_a_peer_that_does_not_read_is_closed_4408_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: list[Close]
) -> None:
    monkeypatch.setattr(corked_protocol, "LINGER_SECONDS", 3600.0)
    with chat_server(tmp_path, outbox_bytes=1 << 16) as server, ExitStack() as after:
        stalled = RawSocket(server, BOB)
        after.callback(stalled.hang_up)
        _stall(server, closes)
        assert stalled.close_code() == 4408
        _resume_gives_everything(server)


def test_a_peer_that_never_reads_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: list[Close]
) -> None:
    assert corked_protocol.LINGER_SECONDS == 5.0
    monkeypatch.setattr(corked_protocol, "LINGER_SECONDS", 0.0)
    with chat_server(tmp_path, outbox_bytes=1 << 16) as server, ExitStack() as after:
        stalled = RawSocket(server, BOB)
        after.callback(stalled.hang_up)
        _stall(server, closes)
        assert stalled.cut_off()
        server.wait_for(lambda: server.open_connections() == 0, "no connection left behind")
        _resume_gives_everything(server)


def test_under_uvicorns_own_protocol_a_peer_that_reads_again_sees_the_end(
    tmp_path: Path, closes: list[Close]
) -> None:
    """It may miss the close code: that protocol writes none to a peer that takes nothing."""
    with chat_server(tmp_path, ws="websockets-sansio", outbox_bytes=1 << 16) as server:
        # The library pauses its socket when nobody takes frames: the server's buffer fills.
        with server.peer(BOB) as bob:
            bob.take_little()
            _stall(server, closes)
            frames, code = bob.closed()
        assert code in (4408, 1006)
        assert len(frames) < STALLS
        _resume_gives_everything(server)


def test_nothing_is_read_once_a_socket_has_begun_to_close(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        raw = RawSocket(server, ALICE)
        refused = {"type": "AUTH", "token": "of nobody"}
        raw.send_at_once(message(BOB, 1), refused, message(BOB, 2))
        assert raw.close_code() == 1008
    assert [record["metadata"]["seq"] for record in server.records()] == [1]


def test_a_conversation_is_not_newer_than_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, may_commit = threading.Event(), threading.Event()
    commit = JournalLedger.commit

    async def held(ledger: JournalLedger, drafts: Any, alongside: Any) -> list[Receipt]:
        async def store(receipts: list[Receipt]) -> None:
            await alongside(receipts)
            stored.set()
            await asyncio.to_thread(may_commit.wait, WAIT)

        return await commit(ledger, drafts, lambda receipts: asyncio.ensure_future(store(receipts)))

    def newest(server: ChatServer) -> list[tuple[str, int]]:
        found = server.get("/v1/chat/threads", BOB).json()
        return [(thread["peer"], thread["position"]) for thread in found]

    with chat_server(tmp_path) as server, server.peer(ALICE) as alice, server.peer(CAROL) as carol:
        assert alice.ask(message(BOB, 1))["position"] == 1
        monkeypatch.setattr(JournalLedger, "commit", held)
        alice.send(message(BOB, 2))
        assert stored.wait(WAIT)
        assert newest(server) == [(ALICE, 1)]
        may_commit.set()
        assert alice.receive()["position"] == 2
        assert newest(server) == [(ALICE, 2)]
        assert carol.ask(message(BOB, 1))["position"] == 3
        assert newest(server) == [(CAROL, 3), (ALICE, 2)]


def test_f12_a_new_device_gets_all_that_is_retained_and_is_told_what_is_not(
    tmp_path: Path,
) -> None:
    with chat_server(tmp_path) as server:
        _send_all(server, ALICE, BOB, 3)
    with chat_server(tmp_path, retention_days=1e-9) as server:  # all of it is too old at the start
        path = f"/v1/chat/threads/{ALICE}/messages"
        server.wait_for(lambda: server.get(path, BOB).json()["missing"] == 3, "expired")
        with server.peer(ALICE) as alice:
            for seq in (4, 5):
                assert alice.ask(message(BOB, seq))["type"] == "ACK"
        with server.peer(BOB) as bob:
            for after, complete in ((0, False), (2, False), (3, True)):
                bob.send({"type": "RESUME", "after": after})
                *frames, resumed = bob.until("RESUMED")
                assert [frame["seq"] for frame in frames] == [4, 5]
                assert (resumed["position"], resumed["complete"]) == (5, complete)


def test_stopping_answers_all_that_was_taken_before_it_closes_1012(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_commit = threading.Event(), threading.Event()
    commit = JournalLedger.commit

    async def held(ledger: JournalLedger, *what: Any) -> list[Receipt]:
        begun.set()
        await asyncio.to_thread(may_commit.wait, WAIT)
        return await commit(ledger, *what)

    monkeypatch.setattr(JournalLedger, "commit", held)
    monkeypatch.setattr(socket, "AUTH_SECONDS", WAIT)
    with chat_server(tmp_path) as server, ThreadPoolExecutor(1) as caller:
        posted = caller.submit(server.post, CAROL, message(BOB, 1))
        assert begun.wait(WAIT)
        with (
            server.peer(ALICE) as alice,
            server.peer(BOB) as bob,
            server.peer(CAROL, anonymous=True, greeted=False) as not_yet_known,
        ):
            for seq in range(1, 6):
                alice.send(message(BOB, seq))
            assert alice.silent()  # all of it was taken, and none is committed
            server.stop()
            server.wait_for(server.refuses_connections, "no new connections")
            may_commit.set()
            frames, code = alice.closed()
            assert [(frame["type"], frame["seq"]) for frame in frames] == [
                ("ACK", seq) for seq in range(1, 6)
            ]
            assert code == 1012
            frames, code = bob.closed()
            assert [frame["position"] for frame in frames] == list(range(1, 7))
            assert code == 1012
            assert not_yet_known.closed() == ([], 1012)
        assert posted.result().status_code == 201


def test_stopping_waits_for_a_slow_peer_to_take_what_is_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "CLOSE_SECONDS", WAIT)
    with chat_server(tmp_path, outbox_bytes=1 << 30) as server, ExitStack() as after:
        bob = RawSocket(server, BOB)
        after.callback(bob.hang_up)
        with server.peer(ALICE) as alice:
            for seq in range(1, STALLS + 1):
                assert alice.ask(message(BOB, seq, bytes(LARGE)))["type"] == "ACK"
        server.stop()
        server.wait_for(server.refuses_connections, "no new connections")
        frames, code = bob.closed()
    assert [frame["seq"] for frame in frames[1:]] == list(range(1, STALLS + 1))
    assert code == 1012


class Switch:
    """A host's: it stops the chat and serves on."""

    @hookimpl
    def atlas_routes(self, host: Any) -> list[APIRouter]:
        router = APIRouter()

        @router.post("/switch-off")
        async def switch_off() -> None:
            await plugin.atlas_stop(host)

        return [router]


def test_a_host_that_stops_the_chat_and_serves_on_closes_its_sockets_1012(tmp_path: Path) -> None:
    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    with (
        serving(create_app(settings, [PLUGIN, Switch()]), tmp_path) as server,
        server.peer(ALICE) as alice,
    ):
        assert alice.ask(message(BOB, 1))["type"] == "ACK"
        server.http.post("/switch-off").raise_for_status()
        assert alice.closed(at_once=True) == ([], 1012)
        ready = server.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == ["the chat is starting or stopping"]


def test_stopping_keeps_a_receipt_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_read = threading.Event(), threading.Event()
    senders = Mailbox.senders

    def held(mailbox: Mailbox, given: Sequence[MessageReceipt]) -> dict[MessageReceipt, str]:
        begun.set()
        may_read.wait(WAIT)
        return senders(mailbox, given)

    with (
        chat_server(tmp_path) as server,
        server.peer(ALICE) as alice,
        server.peer(BOB) as bob,
    ):
        position = alice.ask(message(BOB, 1))["position"]
        assert bob.receive()["position"] == position
        monkeypatch.setattr(Mailbox, "senders", held)
        bob.send({"type": "RECEIPT", "kind": "read", "position": position})
        assert begun.wait(WAIT)
        server.stop()
        assert alice.closed() == ([], 1012)
        with pytest.raises(TimeoutError):  # not before what it asked for is done
            bob.connection.recv(timeout=0.3)
        may_read.set()
        assert bob.closed() == ([], 1012)
    with chat_server(tmp_path) as server, server.peer(ALICE) as alice:
        alice.send({"type": "RESUME", "after": 0})
        assert [f["kind"] for f in alice.until("RESUMED") if f["type"] == "RECEIPT"] == ["read"]


def test_stopping_commits_what_is_in_flight_and_closes_1012(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server, server.peer(ALICE) as alice:
        sent = [message(BOB, seq) for seq in range(1, 101)]
        for frame in sent:
            alice.send(frame)
        server.stop()
        frames, code = alice.closed()
        assert code == 1012
        acked = [frame["seq"] for frame in frames if frame["type"] == "ACK"]
    logged = [record["metadata"]["seq"] for record in server.records()]
    assert logged == list(range(1, len(logged) + 1))
    assert set(acked) <= set(logged)
    with chat_server(tmp_path) as again, again.peer(ALICE) as alice:
        for frame in sent:
            alice.send(frame)
        # What is new in a group may be answered before what is there already.
        acks = sorted((alice.receive() for _ in sent), key=lambda ack: ack["seq"])
    assert [ack["position"] for ack in acks] == list(range(1, 101))
    assert [ack["duplicate"] for ack in acks].count(True) == len(logged)

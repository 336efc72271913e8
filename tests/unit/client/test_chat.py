"""What the client promises over a real server: nothing lost, nothing double, nothing forged."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.client import ChatClient, StaticSession, Token, WalletKey, wallet_login
from plugins.secure_chat.client.errors import (
    BadContactCard,
    ClientClosed,
    LoginRefused,
    NotAuthentic,
    SendRefused,
    SequenceTaken,
    ServerUnreachable,
    UnknownContact,
)
from plugins.secure_chat.client.session import place
from plugins.secure_chat.client.state import ClientState
from plugins.secure_chat.core.envelope import message_hash

Server = Any
People = tuple[Any, Any, Any]
PATIENCE = 60.0


async def _next(client: ChatClient) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return (await client.receive()).plaintext


async def test_a_message_arrives_where_its_receipt_says(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with alice.client(shared_server.url, bob) as a, bob.client(shared_server.url, alice) as b:
        receipt = await a.send(bob.wallet.upper().replace("X", "x"), b"hello")
        received = await b.receive()
    assert (received.plaintext, received.sender) == (b"hello", alice.wallet)
    assert received.position == receipt.position
    record = json.loads(shared_server.ledger.read_bytes().splitlines()[receipt.position - 1])
    assert record["hash"] == receipt.event_hash


async def test_a_server_killed_under_load_loses_and_doubles_nothing(
    server: Server, people: People
) -> None:
    alice, bob, _ = people
    count = 40
    async with alice.client(server.url, bob) as a, bob.client(server.url, alice) as b:
        sends = [asyncio.create_task(a.send(bob.wallet, b"%d" % n)) for n in range(count)]
        for _ in range(5):
            await _next(b)
        server.kill()
        assert any(not send.done() for send in sends)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(PATIENCE):
            receipts = await asyncio.gather(*sends)
        rest = [await _next(b) for _ in range(count - 5)]
        await a.send(bob.wallet, b"the last")
        assert await _next(b) == b"the last"
        assert a.connections >= 2
        assert a.unacknowledged == 0
    assert rest == [b"%d" % n for n in range(5, count)]
    assert [receipt.position for receipt in receipts] == sorted({r.position for r in receipts})
    assert len(server.messages()) == count + 1
    assert audit_ledger(server.ledger).sound


async def test_a_lost_ack_is_answered_with_the_original_receipt(
    server: Server, relay: Any, people: People
) -> None:
    alice, bob, _ = people
    async with (
        alice.client(relay.url, bob) as a,
        bob.client(server.url, alice) as b,
        asyncio.timeout(PATIENCE),
    ):
        relay.withholds_answers = True
        sending = asyncio.create_task(a.send(bob.wallet, b"once"))
        received = await b.receive()  # committed, and delivered; its ACK never comes
        relay.cut()
        relay.withholds_answers = False
        receipt = await sending
        assert receipt.duplicate
        assert receipt.position == received.position
        await a.send(bob.wallet, b"next")
        assert await _next(b) == b"next"
    assert len(server.messages()) == 2


async def test_the_outbox_survives_a_client_that_dies(
    server: Server, relay: Any, people: People
) -> None:
    alice, bob, _ = people
    a = alice.client(relay.url, bob)
    async with bob.client(server.url, alice) as b, asyncio.timeout(PATIENCE):
        await a.connect()
        relay.withholds_answers = True
        sending = asyncio.create_task(a.send(bob.wallet, b"sent by the first"))
        waiting = asyncio.create_task(a.send(bob.wallet, b"never sent by the first"))
        assert await _next(b) == b"sent by the first"
        await a.close()
        for lost in (sending, waiting):
            with pytest.raises(ClientClosed):
                await lost
        alice.restart()
        async with alice.client(server.url, bob) as again:
            assert again.unacknowledged in (1, 2)
            assert await _next(b) == b"never sent by the first"
            receipt = await again.send(bob.wallet, b"and a third")
            assert receipt.seq == 3
            assert await _next(b) == b"and a third"
    assert [m["metadata"]["seq"] for m in server.messages()] == [1, 2, 3]


async def test_what_was_handled_is_not_given_again_and_what_was_not_is(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with alice.client(shared_server.url, bob) as a:
        for text in (b"1", b"2", b"3"):
            await a.send(bob.wallet, text)
        first = bob.client(shared_server.url, alice)
        await first.connect()
        assert await _next(first) == b"1"
        assert await _next(first) == b"2"
        await first.close()  # while 2 is being handled
        bob.restart()
        async with bob.client(shared_server.url, alice) as second:
            assert [await _next(second), await _next(second)] == [b"2", b"3"]
        bob.restart()
        async with bob.client(shared_server.url, alice) as third:
            await a.send(bob.wallet, b"4")
            assert await _next(third) == b"4"


async def _raw_send(server: Server, person: Any, frame: dict[str, Any]) -> None:
    """Put a frame of our making onto the wire, as a client that obeys nothing would."""
    token = await wallet_login(server.url, person.key)()
    header = {"Authorization": f"Bearer {token.value}"}
    url = server.url.replace("http", "ws") + "/v1/chat/ws"
    async with connect(url, additional_headers=header, proxy=None) as socket:
        await socket.recv()
        await socket.send(json.dumps(frame))
        answer = json.loads(await socket.recv())
        assert answer["type"] == "ACK", answer


def _frame(recipient: str, ciphertext: bytes, nonce: bytes, seq: int) -> dict[str, Any]:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return {
        "recipient": recipient,
        "ciphertext": text(ciphertext),
        "nonce": text(nonce),
        "seq": seq,
        "ts": 0,
        "hash": text(message_hash(ciphertext, nonce, seq)),
    }


async def test_a_tampered_ciphertext_is_refused_and_the_next_message_arrives(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    sealed, nonce = alice.session(bob).seal(b"pay 1", place(alice.wallet, "0", bob.wallet, 1))
    for seq, forged in enumerate((sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed), start=2):
        # bits flipped; and then untouched, but under another number than it was sealed for
        await _raw_send(shared_server, alice, _frame(bob.wallet, forged, nonce, seq))
    alice.state.continue_above(bob.wallet, 3)
    async with alice.client(shared_server.url, bob) as a, bob.client(shared_server.url, alice) as b:
        await a.send(bob.wallet, b"honest")
        assert await _next(b) == b"honest"
        assert b.refused == 2
    assert [type(refused.reason) for refused in bob.refused] == [NotAuthentic, NotAuthentic]


async def test_a_server_that_shows_a_message_twice_or_out_of_order_changes_nothing(
    people: People,
) -> None:
    alice, bob, _ = people
    seal = alice.session(bob).seal

    def shown(seq: int, position: int, sealed: tuple[bytes, bytes]) -> str:
        frame = _frame(bob.wallet, *sealed, seq) | {"type": "CHAT_MESSAGE", "id": str(position)}
        frame |= {"sender": alice.wallet, "device": "0", "timestamp": "", "position": position}
        return json.dumps(frame)

    sealed = {n: seal(b"%d" % n, place(alice.wallet, "0", bob.wallet, n)) for n in (1, 2, 3)}

    async def dishonest(socket: ServerConnection) -> None:
        limits = {"max_ciphertext": 99, "rate": 1, "burst": 1}
        await socket.send(
            json.dumps({"type": "READY", "wallet": bob.wallet, "position": 9, "limits": limits})
        )
        await socket.recv()  # RESUME
        await socket.send(shown(2, 7, sealed[2]))  # live, before what was missed
        await socket.send(shown(1, 5, sealed[1]))
        await socket.send(shown(2, 7, sealed[2]))
        await socket.send(json.dumps({"type": "RESUMED", "position": 7, "complete": True}))
        await socket.send(shown(2, 7, sealed[2]))  # the same once more
        await socket.send(shown(1, 8, sealed[1]))  # and an old one at a new position
        await socket.send(shown(3, 9, sealed[3]))
        await socket.wait_closed()

    async def token() -> Token:
        return Token("any", None)

    async with serve(dishonest, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{next(iter(listener.sockets)).getsockname()[1]}"
        async with bob.client(url, alice, tokens=token) as b:
            assert [await _next(b) for _ in range(3)] == [b"1", b"2", b"3"]
    assert [(refused.position, type(refused.reason)) for refused in bob.refused] == [
        (8, NotAuthentic)
    ]


async def test_a_message_reflected_or_of_a_stranger_is_refused(
    shared_server: Server, people: People
) -> None:
    alice, bob, mallory = people
    async with bob.client(shared_server.url, alice) as b:
        sealed, nonce = bob.session(alice).seal(b"x", place(bob.wallet, "0", alice.wallet, 1))
        await _raw_send(shared_server, alice, _frame(bob.wallet, sealed, nonce, 1))
        await _raw_send(shared_server, mallory, _frame(bob.wallet, sealed, nonce, 1))
        async with alice.client(shared_server.url, bob) as a:
            alice.state.continue_above(bob.wallet, 1)
            await a.send(bob.wallet, b"after")
            assert await _next(b) == b"after"
    assert [type(refused.reason) for refused in bob.refused] == [NotAuthentic, UnknownContact]


async def test_a_wrong_contact_card_lets_nothing_through(
    shared_server: Server, people: People
) -> None:
    alice, bob, mallory = people
    swapped = type(alice.card())(bob.wallet, mallory.card().public, bob.card().signature)
    with pytest.raises(BadContactCard):
        StaticSession(alice.state.contact_key, alice.wallet, swapped)
    # Mallory's genuine card under Bob's name: what is sealed for it, Bob cannot open.
    session = StaticSession(alice.state.contact_key, alice.wallet, mallory.card())
    async with alice.client(shared_server.url) as a, bob.client(shared_server.url, alice) as b:
        a.add_session(bob.wallet, session)
        await a.send(bob.wallet, b"for whom?")
        a.add_session(bob.wallet, alice.session(bob))
        await a.send(bob.wallet, b"for bob")
        assert await _next(b) == b"for bob"
    assert [type(refused.reason) for refused in bob.refused] == [NotAuthentic]


async def test_a_lost_state_takes_up_the_sequence_where_the_server_has_it(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with alice.client(shared_server.url, bob) as a:
        for _ in range(3):
            await a.send(bob.wallet, b"before")
    fresh = ClientState(alice.path.with_name("fresh.sqlite"), alice.wallet)
    session = StaticSession(fresh.contact_key, alice.wallet, bob.card())
    login = wallet_login(shared_server.url, alice.key)
    async with ChatClient(shared_server.url, login, fresh, sessions={bob.wallet: session}) as a:
        with pytest.raises(SequenceTaken):
            await a.send(bob.wallet, b"taken")
        assert (await a.send(bob.wallet, b"free")).seq == 4
    fresh.close()


async def test_a_refused_message_is_told_and_does_not_block_the_next(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(SECURE_CHAT_MAX_CIPHERTEXT="1000")
    alice, bob, _ = people
    async with alice.client(server.url, bob) as a:
        with pytest.raises(SendRefused, match="message_too_large"):
            await a.send(bob.wallet, bytes(2000))
        assert a.unacknowledged == 0
        assert (await a.send(bob.wallet, b"small")).position > 0


async def test_rate_limits_delay_messages_and_lose_none(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(SECURE_CHAT_RATE_PER_SECOND="20", SECURE_CHAT_BURST="3")
    alice, bob, _ = people
    async with alice.client(server.url, bob) as a, asyncio.timeout(PATIENCE):
        receipts = await asyncio.gather(*(a.send(bob.wallet, b"%d" % n) for n in range(12)))
    assert [receipt.seq for receipt in receipts] == list(range(1, 13))
    assert len(server.messages()) == 12


async def test_a_resume_over_the_rate_limit_is_asked_for_again(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(SECURE_CHAT_RATE_PER_SECOND="0.5", SECURE_CHAT_BURST="1")
    alice, bob, _ = people
    async with alice.client(server.url, bob) as a, asyncio.timeout(PATIENCE):
        await a.send(bob.wallet, b"kept for you")
        async with bob.client(server.url, alice):
            pass  # its RESUME has used up the budget, so the next one's is refused at first
        async with bob.client(server.url, alice) as b:
            assert await _next(b) == b"kept for you"


async def test_tokens_are_refreshed_before_they_end_on_the_same_connection(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(ATLAS_TOKEN_TTL="8")
    alice, bob, _ = people
    login = wallet_login(server.url, alice.key)
    outlived = asyncio.Event()
    ends: list[float] = []

    async def told_early() -> Token:
        """A token that ends later than it says: a slow machine must not be late."""
        token = await login()
        assert token.expires_at is not None
        ends.append(token.expires_at)
        if time.time() > ends[0]:
            outlived.set()
        return Token(token.value, token.expires_at - 6)

    async with alice.client(server.url, bob, tokens=told_early) as a, asyncio.timeout(PATIENCE):
        await outlived.wait()  # the first token has ended
        await a.send(bob.wallet, b"still here")
        assert a.connections == 1


async def test_a_refused_login_ends_the_client_with_its_reason(
    shared_server: Server, people: People
) -> None:
    alice, _, _ = people

    async def forged() -> Token:
        return Token("ey.not.ours", None)

    with pytest.raises(LoginRefused):
        await alice.client(shared_server.url, tokens=forged).connect()


async def test_an_absent_server_is_unreachable_in_time(server: Server, people: People) -> None:
    alice, _, _ = people
    server.kill()
    with pytest.raises(ServerUnreachable):
        await alice.client(server.url).connect(within=0.5)


async def test_sending_to_a_stranger_needs_a_card_first(
    shared_server: Server, people: People
) -> None:
    alice, _, _ = people
    async with alice.client(shared_server.url) as a:
        with pytest.raises(UnknownContact):
            await a.send(WalletKey(bytes(31) + b"\x01").wallet, b"hello?")

"""What the client promises over a real server: nothing lost, nothing double, nothing forged."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.client import ChatClient, Received, Token, WalletKey, wallet_login
from plugins.secure_chat.client.chat import LARGEST_FRAME
from plugins.secure_chat.client.contacts import FRESH_SECONDS
from plugins.secure_chat.client.device import ROTATION_SECONDS
from plugins.secure_chat.client.directory import Directory
from plugins.secure_chat.client.errors import (
    ClientClosed,
    LoginRefused,
    NoIdentity,
    SendRefused,
    ServerUnreachable,
    StreamContinued,
)
from plugins.secure_chat.client.login import Tokens
from plugins.secure_chat.client.registration import STOCK
from plugins.secure_chat.crypto.errors import (
    ContentTooLarge,
    DeviceRevoked,
    Refused,
    StateRolledBack,
    StorageError,
    UnknownSession,
)
from plugins.secure_chat.crypto.streams import Continuity
from plugins.secure_chat.directory.directory import LOW_STOCK
from tests.unit.client.conftest import Person, Server
from tests.unit.client.hostile import Hostile

People = tuple[Person, Person, Person]
PATIENCE = 60.0


async def _next(client: ChatClient) -> Received:
    async with asyncio.timeout(PATIENCE):
        return await client.receive()


async def _contents(client: ChatClient, count: int) -> list[bytes]:
    return [(await _next(client)).content for _ in range(count)]


async def test_a_message_arrives_where_its_receipt_says_and_its_record_is_signed(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with bob.client(shared_server.url) as b, alice.client(shared_server.url) as a:
        receipt = await a.send(bob.wallet.upper().replace("X", "x"), b"hello")
        received = await _next(b)
    assert (received.content, received.sender) == (b"hello", alice.wallet)
    assert (received.device, received.recipient) == (alice.device.id, bob.wallet)
    assert received.continuity is Continuity.FIRST
    assert received.position == receipt.position
    record = json.loads(shared_server.ledger.read_bytes().splitlines()[receipt.position - 1])
    assert record["hash"] == receipt.event_hash
    assert len(record["signature"]) == 88


async def test_a_server_killed_under_load_loses_and_doubles_nothing(
    server: Server, people: People
) -> None:
    alice, bob, _ = people
    count = 40
    async with bob.client(server.url) as b, alice.client(server.url) as a:
        sends = [asyncio.create_task(a.send(bob.wallet, b"%d" % n)) for n in range(count)]
        first = await _contents(b, 5)
        server.kill()
        assert any(not send.done() for send in sends)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(PATIENCE):
            receipts = await asyncio.gather(*sends)
        rest = await _contents(b, count - 5)
        await a.send(bob.wallet, b"the last")
        assert (await _next(b)).content == b"the last"
        assert a.connections >= 2
        assert a.unacknowledged == 0
    assert first + rest == [b"%d" % n for n in range(count)]
    assert [receipt.position for receipt in receipts] == sorted({r.position for r in receipts})
    assert len(server.messages()) == count + 1
    assert audit_ledger(server.ledger).sound
    assert bob.refused == []


async def test_a_lost_ack_is_answered_with_the_original_receipt(
    server: Server, hostile: Hostile, people: People
) -> None:
    alice, bob, _ = people
    async with (
        bob.client(server.url) as b,
        alice.client(hostile.url) as a,
        asyncio.timeout(PATIENCE),
    ):
        hostile.keep_back("ACK")
        sending = asyncio.create_task(a.send(bob.wallet, b"once"))
        received = await b.receive()  # committed, and delivered; its ACK never comes
        hostile.honest()
        hostile.cut()
        receipt = await sending
        assert receipt.duplicate
        assert receipt.position == received.position
        await a.send(bob.wallet, b"next")
        following = await _next(b)
        assert (following.content, following.continuity) == (b"next", Continuity.CONTINUOUS)
    assert len(server.messages()) == 2
    sent = [frame["ciphertext"] for frame in hostile.frames if frame["type"] == "CHAT_MESSAGE"]
    assert sent[0] == sent[1], "resent in the same bytes"


async def test_the_outbox_survives_a_client_that_dies(
    server: Server, hostile: Hostile, people: People
) -> None:
    alice, bob, _ = people
    a = alice.client(hostile.url)
    async with bob.client(server.url) as b, asyncio.timeout(PATIENCE):
        await a.connect()
        await a.send(bob.wallet, b"acknowledged")
        hostile.keep_back("ACK")
        lost = [
            asyncio.create_task(a.send(bob.wallet, text))
            for text in (b"sent by the first", b"never sent by the first")
        ]
        assert await _contents(b, 2) == [b"acknowledged", b"sent by the first"]
        await a.close()
        for one in lost:
            with pytest.raises(ClientClosed):
                await one
        alice.restart()
        async with alice.client(server.url) as again:
            assert (await _next(b)).content == b"never sent by the first"
            receipt = await again.send(bob.wallet, b"and one more")
            assert receipt.seq == 4
            last = await _next(b)
            assert (last.content, last.continuity) == (b"and one more", Continuity.CONTINUOUS)
    assert [m["metadata"]["seq"] for m in server.messages()] == [1, 2, 3, 4]
    assert alice.refused == [], "RESUME gives one's own messages too: they are no news"


async def test_what_was_handled_is_not_given_again_and_what_was_not_is(
    shared_server: Server, people: People
) -> None:
    """Also across a crash: its ratchet keys are used up, so what was opened is on the disk."""
    alice, bob, _ = people
    async with bob.client(shared_server.url):
        pass  # published: from now on it can be written to
    async with alice.client(shared_server.url) as a:
        for text in (b"1", b"2", b"3"):
            await a.send(bob.wallet, text)
        first = bob.client(shared_server.url)
        await first.connect()
        assert await _contents(first, 2) == [b"1", b"2"]
        await first.close()  # while 2 is being handled
        bob.restart()
        async with bob.client(shared_server.url) as second:
            assert await _contents(second, 2) == [b"2", b"3"]
        bob.restart()
        async with bob.client(shared_server.url) as third:
            await a.send(bob.wallet, b"4")
            assert await _contents(third, 1) == [b"4"]
    assert bob.refused == []


async def test_a_refused_message_is_told_and_does_not_block_the_next(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(SECURE_CHAT_MAX_CIPHERTEXT="8000")
    alice, bob, _ = people
    async with bob.client(server.url) as b, alice.client(server.url) as a:
        with pytest.raises(SendRefused, match="message_too_large"):
            await a.send(bob.wallet, bytes(8000))
        assert a.unacknowledged == 0
        assert (await a.send(bob.wallet, b"small")).position > 0
        assert (await _next(b)).content == b"small"


async def test_a_message_that_cannot_be_sealed_is_refused_alone(
    shared_server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with bob.client(shared_server.url) as b, alice.client(shared_server.url) as a:
        results = await asyncio.gather(
            a.send(bob.wallet, b"before"),
            a.send(bob.wallet, bytes(LARGEST_FRAME)),
            a.send(bob.wallet, b"after"),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in results] == ["Receipt", "ContentTooLarge", "Receipt"]
        assert isinstance(results[1], ContentTooLarge)
        after = [await _next(b), await _next(b)]
        assert [one.content for one in after] == [b"before", b"after"]
        assert after[1].continuity is Continuity.CONTINUOUS
        with pytest.raises(Refused):
            await a.send(bob.wallet, b"")


@pytest.mark.parametrize(
    ("fault", "error"), [(StorageError("full"), StorageError), (OSError(28, "full"), ClientClosed)]
)
async def test_a_state_that_cannot_be_written_ends_the_client_and_every_wait(
    shared_server: Server,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    error: type[Exception],
) -> None:
    alice, bob, _ = people

    def full(_: bytes) -> None:
        raise fault

    async with bob.client(shared_server.url), alice.client(shared_server.url) as a:
        await a.send(bob.wallet, b"while there was room")
        monkeypatch.setattr(alice.device._store._storage, "write", full)
        sends = [asyncio.create_task(a.send(bob.wallet, text)) for text in (b"1", b"2")]
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(one) for one in results] == [error, error]
    alice.restart()
    async with alice.client(shared_server.url) as a:
        assert (await a.send(bob.wallet, b"again")).seq == 2


async def test_rate_limits_delay_messages_and_lose_none(
    start_server: Callable[..., Server], people: People
) -> None:
    server = start_server(SECURE_CHAT_RATE_PER_SECOND="20", SECURE_CHAT_BURST="8")
    alice, bob, _ = people
    async with bob.client(server.url):
        pass
    async with alice.client(server.url) as a, asyncio.timeout(PATIENCE):
        receipts = await asyncio.gather(*(a.send(bob.wallet, b"%d" % n) for n in range(20)))
    assert [receipt.seq for receipt in receipts] == list(range(1, 21))
    assert len(server.messages()) == 20


async def test_one_message_to_a_recipient_is_under_way_at_a_time(
    server: Server, hostile: Hostile, people: People
) -> None:
    """So none overtakes another that was refused for the moment, and takes its number's place."""
    alice, bob, _ = people
    under_way: list[int] = []

    def counting(frame: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        if frame["type"] == "ACK":
            sent = [one["seq"] for one in hostile.frames if one["type"] == "CHAT_MESSAGE"]
            under_way.append(sent[-1] - frame["seq"])
        return (frame,)

    hostile.deliver = counting
    async with bob.client(server.url), alice.client(hostile.url) as a, asyncio.timeout(PATIENCE):
        await asyncio.gather(*(a.send(bob.wallet, b"%d" % n) for n in range(10)))
    assert under_way == [0] * 10


async def test_what_waits_for_its_recipients_keys_ends_with_the_client(
    server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with alice.client(server.url) as a, asyncio.timeout(PATIENCE):
        server.kill()
        sending = asyncio.create_task(a.send(bob.wallet, b"not sealed yet"))
        with pytest.raises(ServerUnreachable):
            await a.contact(bob.wallet)
        assert a.unacknowledged == 1
        await a.close()
        with pytest.raises(ClientClosed):
            await sending
    assert alice.device.outbox() == []


async def test_tokens_are_refreshed_before_they_end_on_the_same_connection(
    shared_server: Server, people: People
) -> None:
    """The client is told of an earlier end than the server's: it is in time on any machine."""
    alice, bob, _ = people
    login = wallet_login(shared_server.url, alice.key)
    third = asyncio.Event()
    logins = 0

    async def ending_soon() -> Token:
        nonlocal logins
        logins += 1
        if logins == 3:
            third.set()
        return replace(await login(), expires_at=time.time() + 1.5)

    async with (
        bob.client(shared_server.url),
        alice.client(shared_server.url, tokens=ending_soon) as a,
        asyncio.timeout(PATIENCE),
    ):
        await third.wait()
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


async def test_a_wallet_without_an_identity_cannot_be_written_to(
    shared_server: Server, people: People
) -> None:
    alice, _, _ = people
    async with alice.client(shared_server.url) as a:
        with pytest.raises(NoIdentity):
            await a.send(WalletKey(bytes(31) + b"\x01").wallet, b"hello?")
        with pytest.raises(Refused, match="members"):
            await a.send("thread_" + "0" * 32, b"hello all")


# -- several devices ------------------------------------------------------------------------------


async def test_every_device_of_both_sides_gets_each_message_once(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    laptop, phone = Person(tmp_path / "laptop", endorsed_by=alice), bob
    async with (
        phone.client(shared_server.url) as b,
        alice.client(shared_server.url) as first,
        laptop.client(shared_server.url) as second,
    ):
        await first.contact(alice.wallet)  # asked anew: the other device is there
        await first.send(bob.wallet, b"from the first")
        await second.send(bob.wallet, b"from the second")
        await b.send(alice.wallet, b"to both")
        assert await _contents(b, 2) == [b"from the first", b"from the second"]
        at_first = [await _next(first), await _next(first)]
        at_second = [await _next(second), await _next(second)]
    assert [one.content for one in at_first] == [b"from the second", b"to both"]
    assert [one.content for one in at_second] == [b"from the first", b"to both"]
    copied = at_second[0]
    assert (copied.sender, copied.recipient) == (alice.wallet, bob.wallet)
    assert alice.refused == laptop.refused == bob.refused == []
    laptop.device.close()


async def test_a_device_added_later_reads_from_then_on_and_is_not_told_of_before(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    async with bob.client(shared_server.url), alice.client(shared_server.url) as a:
        await a.send(bob.wallet, b"before")
        tablet = Person(tmp_path / "tablet", endorsed_by=bob)
        async with tablet.client(shared_server.url) as t:
            await a.contact(bob.wallet)  # asked anew: its new device is there
            await a.send(bob.wallet, b"after")
            received = await _next(t)
        assert (received.content, received.continuity) == (b"after", Continuity.JOINED)
        assert tablet.refused == []
        tablet.device.close()


async def test_devices_that_came_or_went_are_known_within_a_minute(
    shared_server: Server, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = people
    async with bob.client(shared_server.url), alice.client(shared_server.url) as a:
        await a.send(bob.wallet, b"to one device")
        tablet = Person(tmp_path / "tablet", endorsed_by=bob)
        async with tablet.client(shared_server.url) as t:
            later = time.monotonic() + FRESH_SECONDS + 1
            monkeypatch.setattr(a._contacts, "_monotonic", lambda: later)
            await a.send(bob.wallet, b"to both")
            assert (await _next(t)).content == b"to both"
        tablet.device.close()


async def test_a_revoked_device_gets_nothing_more_and_its_client_ends(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    stolen = Person(tmp_path / "stolen", endorsed_by=bob)
    async with bob.client(shared_server.url) as b, alice.client(shared_server.url) as a:
        async with stolen.client(shared_server.url) as s:
            await a.send(bob.wallet, b"to both")
            assert await _contents(s, 1) == await _contents(b, 1) == [b"to both"]
            await b.revoke(stolen.device.id, bob.key)
        assert (await a.contact(bob.wallet)).devices == (bob.device.id,)
        await a.send(bob.wallet, b"to one")
        assert await _contents(b, 1) == [b"to one"]
        with pytest.raises(DeviceRevoked):
            await stolen.client(shared_server.url).connect()
    stolen.device.close()


# -- prekeys, sessions and old states -------------------------------------------------------------


async def test_the_stock_of_prekeys_is_refilled_when_it_runs_low(
    start_server: Callable[..., Server], people: People
) -> None:
    """The server tells; the client makes new ones, while it is connected."""
    server = start_server(SECURE_CHAT_CLAIM_BURST="1000")
    _, bob, mallory = people
    async with (
        bob.client(server.url),
        mallory.client(server.url) as m,
        asyncio.timeout(PATIENCE),
    ):
        for _ in range(STOCK - LOW_STOCK + 1):
            await m._directory.claim(bob.wallet, [bob.device.id])
        while await _stock(server, bob) < STOCK:
            await m._directory.look_up(bob.wallet)


async def _stock(server: Server, person: Person) -> int:
    """What the server says that it has left of a person's prekeys."""
    directory = Directory(server.url, Tokens(wallet_login(server.url, person.key)))
    try:
        return (await directory.stock(person.device.id)).lowest
    finally:
        await directory.close()


async def test_after_an_older_mailbox_was_restored_sessions_open_and_the_stock_is_refilled(
    server: Server, people: People, tmp_path: Path
) -> None:
    """What may have been handed out is dropped; the last resort opens, and the owner is told."""
    alice, bob, mallory = people
    mailbox = server.folder / "data" / "mailbox.sqlite"
    async with bob.client(server.url) as b, asyncio.timeout(PATIENCE):
        server.stop()
        shutil.copy(mailbox, tmp_path / "backup")
        server.start()
        async with mallory.client(server.url) as m:
            assert await m._directory.claim(bob.wallet, [bob.device.id])
        server.stop()
        shutil.copy(tmp_path / "backup", mailbox)
        before = b.connections
        server.start()
        async with alice.client(server.url) as a:
            while b.connections == before:
                await a.contact(bob.wallet)
            assert await _stock(server, bob) == 0
            await a.send(bob.wallet, b"by the last resort")
            assert (await _next(b)).content == b"by the last resort"
            while await _stock(server, bob) < STOCK:
                await a.contact(bob.wallet)


async def test_prekeys_rotate_weekly_and_what_was_sealed_to_the_old_ones_opens(
    server: Server, hostile: Hostile, people: People
) -> None:
    alice, bob, _ = people
    now = 1_800_000_000.0
    async with bob.client(server.url, clock=lambda: now):
        pass
    async with alice.client(server.url) as a:
        await a.send(bob.wallet, b"to the old prekeys")
    bob.restart()
    async with bob.client(hostile.url, clock=lambda: now + ROTATION_SECONDS + 1) as b:
        assert (await _next(b)).content == b"to the old prekeys"
    published = [path for path, _ in hostile.requests if path.endswith("/prekeys")]
    assert published == [f"PUT /v1/chat/devices/{bob.device.id}/prekeys"]


def _restore(person: Person, backup: Path) -> None:
    """The device's folder as it was; its witness is not in the backup."""
    person.device.close()
    shutil.rmtree(person.folder / "device")
    shutil.copytree(backup, person.folder / "device")
    person.restart()


async def test_a_session_that_no_longer_opens_is_replaced_without_a_person(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    """Bob's sessions went with an old backup; what Alice writes in hers makes his client ask."""
    alice, bob, _ = people
    async with alice.client(shared_server.url) as a:
        async with bob.client(shared_server.url) as b:
            await b.send(alice.wallet, b"one")
            await a.send(bob.wallet, b"two")
            assert await _contents(a, 1) == [b"one"]
            assert await _contents(b, 1) == [b"two"]
        bob.device.close()
        shutil.copytree(bob.folder / "device", tmp_path / "backup")
        bob.restart()
        async with bob.client(shared_server.url) as b:
            await b.send(alice.wallet, b"three")
            assert await _contents(a, 1) == [b"three"]
        _restore(bob, tmp_path / "backup")
        with pytest.raises(StateRolledBack):
            bob.client(shared_server.url)
        async with bob.client(shared_server.url, begin_again=True) as b, asyncio.timeout(PATIENCE):
            receiving = asyncio.create_task(b.receive())
            await asyncio.gather(*(a.send(bob.wallet, b"are you there?") for _ in range(3)))
            while not receiving.done():  # until Alice's client has taken the new session
                await a.send(bob.wallet, b"are you there?")
            received = await receiving
            assert (received.content, received.continuity) == (b"are you there?", Continuity.GAP)
            await b.send(alice.wallet, b"yes")
            assert (await _next(a)).content == b"yes"
    assert set(bob.reasons) == {UnknownSession}
    assert len(bob.reasons) >= 3
    assert alice.refused == []
    sent = [one for one in shared_server.messages() if one["wallet"] == bob.wallet]
    assert len(sent) == 4, "one, three, yes, and one that only opens the new session"


async def test_a_device_that_began_again_continues_its_stream_above_the_servers(
    shared_server: Server, people: People, tmp_path: Path
) -> None:
    alice, bob, _ = people
    async with bob.client(shared_server.url) as b:
        async with alice.client(shared_server.url) as a:
            await a.send(bob.wallet, b"1")
        alice.device.close()
        shutil.copytree(alice.folder / "device", tmp_path / "backup")
        alice.restart()
        async with alice.client(shared_server.url) as a:
            for text in (b"2", b"3", b"4"):
                await a.send(bob.wallet, text)
        assert await _contents(b, 4) == [b"1", b"2", b"3", b"4"]
        _restore(alice, tmp_path / "backup")
        async with alice.client(shared_server.url, begin_again=True) as a:
            with pytest.raises(StreamContinued):
                await a.send(bob.wallet, b"under a number that is taken")
            receipt = await a.send(bob.wallet, b"5")
            received = await _next(b)
    assert (receipt.seq, received.content, received.continuity) == (5, b"5", Continuity.GAP)


async def test_a_state_restored_with_its_witness_stops_at_the_servers_word(
    server: Server, people: People, tmp_path: Path
) -> None:
    """A10: nothing local tells; the server knows the stream better."""
    alice, bob, _ = people
    async with bob.client(server.url):
        pass
    async with alice.client(server.url) as a:
        await a.send(bob.wallet, b"1")
    alice.device.close()
    shutil.copytree(alice.folder, tmp_path / "backup")
    alice.device = alice._open()
    async with alice.client(server.url) as a:
        await a.send(bob.wallet, b"2")
    alice.device.close()
    shutil.rmtree(alice.folder)
    shutil.copytree(tmp_path / "backup", alice.folder)
    alice.device = alice._open()
    async with alice.client(server.url) as a:
        with pytest.raises(StateRolledBack):
            await a.send(bob.wallet, b"another 2")
        with pytest.raises(StateRolledBack):
            await a.send(bob.wallet, b"and no more")
    alice.restart()
    with pytest.raises(StateRolledBack):
        alice.client(server.url)
    assert [m["metadata"]["seq"] for m in server.messages()] == [1, 2]


# -- receipts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipts", [False, True])
async def test_receipts_are_given_only_by_who_turned_them_on(
    server: Server, hostile: Hostile, people: People, receipts: bool
) -> None:
    """A21: otherwise nobody learns from a device that a message arrived or was read."""
    alice, bob, _ = people
    notices: list[str] = []
    both = asyncio.Event()

    def noticed(notice: Any) -> None:
        notices.append(notice.kind)
        if len(notices) == 2:
            both.set()

    options: dict[str, Any] = {"receipts": True} if receipts else {}
    async with (
        bob.client(hostile.url, **options) as b,
        alice.client(server.url, on_receipt=noticed) as a,
        asyncio.timeout(PATIENCE),
    ):
        await a.send(bob.wallet, b"did you see this?")
        await b.receive()
        await a.send(bob.wallet, b"and this?")
        await b.receive()  # the first one is handled now
        await b.send(alice.wallet, b"yes")
        await a.receive()
        if receipts:
            await both.wait()
    given = [frame for frame in hostile.frames if frame["type"] == "RECEIPT"]
    assert bool(given) == receipts
    assert bool(notices) == receipts
    if receipts:
        assert {frame["kind"] for frame in given} == {"delivered", "read"}

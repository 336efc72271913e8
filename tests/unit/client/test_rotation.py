"""A wallet's identity key is replaced: nothing under way is lost, everybody is told, and whatever
stops half way is gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.client import ChatClient, Received, WalletKey
from plugins.secure_chat.client.errors import (
    DeviceLeftBehind,
    IdentityTaken,
    SendRefused,
    WrongSafetyNumber,
)
from plugins.secure_chat.client.registration import STOCK
from plugins.secure_chat.crypto.devices import Certificate
from plugins.secure_chat.crypto.errors import DecryptError, NotCertified, Refused
from plugins.secure_chat.crypto.identity import Identity, Succession, succession
from plugins.secure_chat.crypto.prekeys import Bundle
from plugins.secure_chat.errors import Code
from tests.unit.client.conftest import Person, Server
from tests.unit.client.hostile import Hostile, Json
from tests.unit.client.test_device import Crash, crash_at

People = tuple[Person, Person, Person]
PATIENCE = 60.0


@pytest.fixture
def server(shared_server: Server) -> Server:
    """No test here counts what is in the ledger."""
    return shared_server


async def _next(client: ChatClient) -> Received:
    async with asyncio.timeout(PATIENCE):
        return await client.receive()


@pytest.fixture
def laptop(tmp_path: Path, people: People) -> Iterator[Person]:
    """A further device of Bob's."""
    laptop = Person(tmp_path / "laptop", endorsed_by=people[1])
    yield laptop
    laptop.device.close()


# -- the device -----------------------------------------------------------------------------------


class Leaves:
    """A person who does not sign the text with this number."""

    def __init__(self, key: WalletKey, at: int) -> None:
        self.wallet = key.wallet
        self._key = key
        self._at = at

    def sign(self, text: str) -> bytes:
        self._at -= 1
        if self._at == 0:
            raise Crash
        return self._key.sign(text)


@pytest.mark.parametrize("point", ["statement", "certificate", "before the state"])
def test_a_rotation_that_stops_before_its_commit_has_changed_nothing(
    people: People, point: str
) -> None:
    _, bob, _ = people
    before, key = bob.device.certificate, bob.device.identity
    signer = Leaves(bob.key, ["statement", "certificate", "before the state"].index(point) + 1)
    if point == "before the state":
        crash_at(bob.device, point)
    with pytest.raises(Crash):
        bob.device.rotate(signer)
    bob.restart()
    assert (bob.device.certificate, bob.device.identity) == (before, key)
    assert bob.device.replaced is None
    bob.device.rotate(bob.key)
    assert bob.device.certificate != before


def test_after_its_commit_the_new_identity_is_in_use_and_the_old_key_vouches_for_it(
    people: People,
) -> None:
    _, bob, _ = people
    old, name = bob.device.identity, bob.device.id
    crash_at(bob.device, "after the state")
    with pytest.raises(Crash):
        bob.device.rotate(bob.key)
    bob.restart()
    new = bob.device.identity
    assert old is not None
    assert new is not None
    new.verify()
    assert succession(old, new) is Succession.ROTATED
    assert bob.device.replaced == old
    bob.device.certificate.verify(new, None)
    assert (bob.device.id, bob.device.prekeys_pending) == (name, True)
    assert bob.device.messenger.certificate == bob.device.certificate.body
    with pytest.raises(Refused, match="not published"):
        bob.device.rotate(bob.key)


def test_only_the_device_with_the_identitys_key_rotates_it(laptop: Person) -> None:
    with pytest.raises(Refused, match="identity's key"):
        laptop.device.rotate(laptop.key)


async def test_a_rotation_waits_for_what_was_sealed_before_it(
    server: Server, hostile: Hostile, people: People
) -> None:
    """What goes out under the old certificate is in the ledger before the new identity is."""
    alice, bob, _ = people
    async with alice.client(server.url) as a, bob.client(hostile.url) as b:
        await b.send(alice.wallet, b"1")
        hostile.keep_back("ACK")
        sending = asyncio.create_task(b.send(alice.wallet, b"2"))
        assert [(await _next(a)).content for _ in range(2)] == [b"1", b"2"]
        with pytest.raises(Refused, match="wait for the server"):
            bob.device.rotate(bob.key)
        rotating = asyncio.create_task(b.rotate(bob.key))
        meanwhile = asyncio.create_task(b.send(alice.wallet, b"3"))
        await b.contact(alice.wallet)
        assert not rotating.done()
        hostile.honest()
        hostile.cut()  # the next connection sends it again, and its ACK comes
        async with asyncio.timeout(PATIENCE):
            await rotating
            assert (await sending).duplicate
            await meanwhile
        assert (await _next(a)).content == b"3"
    assert alice.refused == []


async def test_a_rotation_asked_for_twice_at_once_lets_nothing_be_sealed_in_between(
    server: Server, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first to be published: what is sent meanwhile waits for both."""
    alice, bob, _ = people
    async with alice.client(server.url) as a, bob.client(server.url) as b:
        await b.send(alice.wallet, b"before")
        assert (await _next(a)).content == b"before"
        publish, publishing, go_on = b._directory.publish_identity, asyncio.Event(), asyncio.Event()

        async def held_back(statement: Identity) -> None:
            publishing.set()
            await go_on.wait()
            await publish(statement)

        monkeypatch.setattr(b._directory, "publish_identity", held_back)
        rotations = [asyncio.create_task(b.rotate(bob.key)) for _ in range(2)]
        async with asyncio.timeout(PATIENCE):
            await publishing.wait()
            sending = asyncio.create_task(b.send(alice.wallet, b"after"))
            await b.contact(alice.wallet)
            assert not any(task.done() for task in rotations)
            go_on.set()
            await asyncio.gather(*rotations, sending)
        assert (await _next(a)).content == b"after"
        assert bob.device.identity is not None
        assert bob.device.identity.body.generation == 2
    assert (alice.refused, bob.refused) == ([], [])


STEPS = [
    (name, when)
    for name in ("publish_identity", "publish_device", "publish_prekeys")
    for when in ("before", "after")
]


@pytest.mark.parametrize(("name", "when"), STEPS)
async def test_a_crash_while_a_rotation_is_published_is_gone_on_with(
    server: Server,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    when: str,
) -> None:
    alice, bob, _ = people
    async with alice.client(server.url) as a:
        async with bob.client(server.url) as b:
            await a.send(bob.wallet, b"before")
            assert (await _next(b)).content == b"before"
            publish: Callable[..., Any] = getattr(b._directory, name)

            async def crash(*arguments: object) -> None:
                if when == "after":
                    await publish(*arguments)
                raise Crash

            monkeypatch.setattr(b._directory, name, crash)
            with pytest.raises(Crash):
                await b.rotate(bob.key)
        bob.restart()
        async with bob.client(server.url) as b:
            assert bob.device.replaced is None
            assert (await b._directory.stock(bob.device.id)).lowest >= STOCK
            assert (await a.contact(bob.wallet)).rotated
            await a.send(bob.wallet, b"after")
            assert (await _next(b)).content == b"after"
            await b.send(alice.wallet, b"and back")
            assert (await _next(a)).content == b"and back"
    assert (alice.refused, bob.refused) == ([], [])


async def test_a_rotation_is_published_though_the_server_has_lost_the_statement_before(
    start_server: Callable[..., Server], people: People
) -> None:
    """A server judges a rotation by the statement before: it is given that one again."""
    server = start_server()
    alice, bob, _ = people
    async with bob.client(server.url) as b, alice.client(server.url) as a:
        await a.send(bob.wallet, b"before")
        assert (await _next(b)).content == b"before"
    bob.device.rotate(bob.key)
    server.stop()
    for file in (server.folder / "data").glob("mailbox.sqlite*"):
        file.unlink()
    server.start()
    async with alice.client(server.url) as a, bob.client(server.url) as b:
        assert (await a.contact(bob.wallet)).rotated
        await a.send(bob.wallet, b"after")
        assert (await _next(b)).content == b"after"


# -- those it writes with -------------------------------------------------------------------------


async def test_everything_under_way_while_an_identity_rotates_is_read_once_and_in_order(
    server: Server, people: People
) -> None:
    alice, bob, _ = people
    sent = [b"%d" % number for number in range(60)]

    async def talk(client: ChatClient, to: Person, half: asyncio.Event) -> None:
        for number, content in enumerate(sent):
            await client.send(to.wallet, content)
            if number == len(sent) // 4:
                half.set()

    async def listen(client: ChatClient) -> list[bytes]:
        return [(await _next(client)).content for _ in sent]

    async with alice.client(server.url) as a, bob.client(server.url) as b:
        halves = asyncio.Event(), asyncio.Event()
        talking = [
            asyncio.create_task(talk(a, bob, halves[0])),
            asyncio.create_task(talk(b, alice, halves[1])),
        ]
        heard = [asyncio.create_task(listen(a)), asyncio.create_task(listen(b))]
        async with asyncio.timeout(PATIENCE):
            for half in halves:
                await half.wait()
            await b.rotate(bob.key)
            await asyncio.gather(*talking)
            assert await asyncio.gather(*heard) == [sent, sent]
    assert (alice.refused, bob.refused) == ([], [])


async def test_who_was_away_reads_what_was_sent_before_a_rotation(
    server: Server, people: People
) -> None:
    alice, bob, _ = people
    async with bob.client(server.url) as b:
        async with alice.client(server.url) as a:
            await a.send(bob.wallet, b"hello")
            assert (await _next(b)).content == b"hello"
            await b.send(alice.wallet, b"hello to you")
            assert (await _next(a)).content == b"hello to you"
        await b.send(alice.wallet, b"before")
        await b.rotate(bob.key)
        await b.rotate(bob.key)
        await b.send(alice.wallet, b"after")
    alice.restart()
    async with alice.client(server.url) as a:
        assert [(await _next(a)).content for _ in range(2)] == [b"before", b"after"]
    assert alice.refused == []


async def test_those_it_writes_with_are_told_of_a_rotation_until_they_have_seen_the_number(
    server: Server, people: People
) -> None:
    """C8: the old key vouches for the new one, so messages go on; but it is shown."""
    alice, bob, _ = people
    async with bob.client(server.url) as b:
        async with alice.client(server.url) as a:
            before = await a.contact(bob.wallet)
            assert not before.rotated
            await b.rotate(bob.key)
            await b.send(alice.wallet, b"goes on")
            assert (await _next(a)).content == b"goes on"
            after = await a.contact(bob.wallet)
            assert (after.rotated, after.changed) == (True, False)
            assert after.safety_number != before.safety_number
            assert after.safety_number == (await b.contact(alice.wallet)).safety_number
        assert [(one.rotated, one.safety_number) for one in alice.changes] == [
            (True, after.safety_number)
        ]
        alice.restart()
        async with alice.client(server.url) as a:
            await a.send(bob.wallet, b"and on")
            assert len(alice.changes) == 2, "told again at the next start"
            with pytest.raises(WrongSafetyNumber):
                await a.accept(bob.wallet, before.safety_number)
            await a.accept(bob.wallet, after.safety_number)
            assert not (await a.contact(bob.wallet)).rotated
        alice.restart()
        async with alice.client(server.url) as a:
            assert not (await a.contact(bob.wallet)).rotated
        assert len(alice.changes) == 2


async def test_keys_renewed_since_the_directory_was_asked_are_found_when_a_first_message_is_sealed(
    server: Server, people: People, laptop: Person
) -> None:
    """What is handed out then is of a certificate that is not known yet, and nothing is handed out
    of the device that was left behind: ask again, and go on."""
    alice, bob, _ = people
    async with alice.client(server.url) as a, bob.client(server.url) as b:
        async with laptop.client(server.url) as at_laptop:
            await a.contact(bob.wallet)
            await at_laptop.contact(bob.wallet)
            await b.rotate(bob.key)
            with pytest.raises(DeviceLeftBehind):
                await at_laptop.send(alice.wallet, b"not any more")
        await a.send(bob.wallet, b"the first message")
        assert (await _next(b)).content == b"the first message"
    assert [one.rotated for one in alice.changes] == [True]


async def test_a_rotation_that_is_heard_of_while_a_message_is_prepared_does_not_stop_it(
    server: Server, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rosters that it was prepared with are then no longer those that are pinned."""
    alice, bob, _ = people
    async with alice.client(server.url) as a, bob.client(server.url) as b:
        await a.contact(bob.wallet)
        claim = a._directory.claim

        async def meanwhile(wallet: str, devices: Iterable[str]) -> tuple[Bundle, ...]:
            monkeypatch.undo()
            bundles = await claim(wallet, devices)
            await b.rotate(bob.key)
            await a.contact(bob.wallet)
            return bundles

        monkeypatch.setattr(a._directory, "claim", meanwhile)
        await a.send(bob.wallet, b"the first message")
        assert (await _next(b)).content == b"the first message"
    assert [one.rotated for one in alice.changes] == [True]


# -- the wallet's other devices -------------------------------------------------------------------


async def test_a_device_that_was_left_behind_says_so_and_goes_on_once_it_is_endorsed_again(
    server: Server, people: People, laptop: Person
) -> None:
    alice, bob, _ = people
    async with alice.client(server.url) as a, bob.client(server.url) as b:
        async with laptop.client(server.url) as at_laptop:
            stale = bob.device.endorse(laptop.device.request)
            await at_laptop.send(alice.wallet, b"from the laptop")
            for client in (a, b):
                assert (await _next(client)).content == b"from the laptop"
            await b.rotate(bob.key)
            with pytest.raises(DeviceLeftBehind):  # the server has ended its socket
                await at_laptop.receive()
            with pytest.raises(DeviceLeftBehind):
                await at_laptop.send(alice.wallet, b"not any more")
        laptop.device.close()
        laptop.device = laptop._open()
        with pytest.raises(DeviceLeftBehind):
            await laptop.client(server.url).connect()
        with pytest.raises(Refused, match="already"):
            laptop.device.renew(stale, laptop.key)
        with pytest.raises(NotCertified):
            laptop.device.renew(bob.device.endorse(laptop.device.request), alice.key)
        name = laptop.device.id
        laptop.device.renew(bob.device.endorse(laptop.device.request), laptop.key)
        laptop.restart()
        async with laptop.client(server.url) as at_laptop:
            assert laptop.device.id == name
            assert set((await a.contact(bob.wallet)).devices) == {bob.device.id, name}
            await b.contact(bob.wallet)
            await a.send(bob.wallet, b"on both again")
            for client in (b, at_laptop):
                assert (await _next(client)).content == b"on both again"
            await at_laptop.send(alice.wallet, b"from the laptop again")
            for client in (a, b):
                assert (await _next(client)).content == b"from the laptop again"


async def test_what_is_refused_while_keys_are_renewed_elsewhere_says_why_the_next_time(
    server: Server, people: People, laptop: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = people
    half, go_on = asyncio.Event(), asyncio.Event()
    async with (
        alice.client(server.url),
        bob.client(server.url) as b,
        laptop.client(server.url) as at_laptop,
    ):
        await at_laptop.send(alice.wallet, b"before")
        publish = b._directory.publish_device

        async def publish_later(certificate: Certificate) -> int:
            half.set()
            await go_on.wait()
            return await publish(certificate)

        monkeypatch.setattr(b._directory, "publish_device", publish_later)
        async with asyncio.TaskGroup() as both:
            both.create_task(b.rotate(bob.key))
            await half.wait()
            # The identity is another one; nobody is left behind before a device goes on with it.
            with pytest.raises(SendRefused) as refused:
                await at_laptop.send(alice.wallet, b"meanwhile")
            assert refused.value.code is Code.UNKNOWN_DEVICE
            with pytest.raises(DeviceLeftBehind):
                await at_laptop.send(alice.wallet, b"and it is told why")
            go_on.set()


@pytest.mark.parametrize("point", ["before the state", "after the state"])
async def test_a_crash_while_a_device_is_renewed_leaves_it_left_behind_or_renewed(
    server: Server, people: People, laptop: Person, point: str
) -> None:
    _, bob, _ = people
    async with bob.client(server.url) as b:
        async with laptop.client(server.url):
            pass
        await b.rotate(bob.key)
        answer = bob.device.endorse(laptop.device.request)
        crash_at(laptop.device, point)
        with pytest.raises(Crash):
            laptop.device.renew(answer, laptop.key)
        laptop.restart()
        if point == "before the state":
            with pytest.raises(DeviceLeftBehind):
                await laptop.client(server.url).connect()
            laptop.restart()
            laptop.device.renew(answer, laptop.key)
        async with laptop.client(server.url):
            assert set((await b.contact(bob.wallet)).devices) == {bob.device.id, laptop.device.id}


# -- a server that hides it -----------------------------------------------------------------------


async def test_a_server_that_hides_a_rotation_gets_nothing_shown_and_nothing_lost(
    server: Server, hostile: Hostile, people: People
) -> None:
    """Shown the old roster, Alice writes on to a device that still reads her; what it seals for her
    under its new certificate is refused and told of. An old identity shown after the new one stops
    everything."""
    alice, bob, _ = people
    old: dict[str, Json] = {}

    def hiding(path: str, answer: Json) -> Json:
        return old.setdefault(path, answer) if path.endswith(bob.wallet) else answer

    hostile.lie = hiding
    async with bob.client(server.url) as b, alice.client(hostile.url) as a:
        await a.send(bob.wallet, b"1")
        assert (await _next(b)).content == b"1"
        await b.rotate(bob.key)
        await a.contact(bob.wallet)
        await a.send(bob.wallet, b"2")
        assert (await _next(b)).content == b"2"
        await b.send(alice.wallet, b"under the new certificate")
        while not alice.refused:
            await a.contact(bob.wallet)
        assert isinstance(alice.refused[0].reason, DecryptError)
        assert alice.changes == []
        hostile.honest()
        assert (await a.contact(bob.wallet)).rotated
        await b.send(alice.wallet, b"seen")
        assert (await _next(a)).content == b"seen"
        hostile.lie = hiding
        contact = await a.contact(bob.wallet)
        assert contact.changed
        assert [(one.changed, one.rotated) for one in alice.changes] == [
            (False, True),
            (True, False),
        ]


async def test_a_rotation_that_the_server_hides_from_its_own_device_stops_the_client(
    server: Server, hostile: Hostile, people: People
) -> None:
    _, bob, _ = people
    old: dict[str, Json] = {}

    def hiding(path: str, answer: Json) -> Json:
        return old.setdefault(path, answer) if path.endswith(bob.wallet) else answer

    async with bob.client(hostile.url) as b:
        hostile.lie = hiding
        await b.contact(bob.wallet)
        with pytest.raises(IdentityTaken):
            await b.rotate(bob.key)
    bob.restart()
    with pytest.raises(IdentityTaken):
        await bob.client(hostile.url).connect()
    bob.restart()
    async with bob.client(server.url) as b:
        assert (await b.contact(bob.wallet)).devices == (bob.device.id,)

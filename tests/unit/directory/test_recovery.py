"""The directory after a crash: the ledger says what is in force, and what is lost is said."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from plugins.secure_chat.core.directory_entry import DirectoryEntry
from plugins.secure_chat.crypto.prekeys import Kind
from plugins.secure_chat.directory.directory import MAX_HISTORY
from plugins.secure_chat.directory.store import Stock
from plugins.secure_chat.errors import InvalidMessage, LedgerUnavailable, UnknownDevice
from plugins.secure_chat.ledger.journal import START
from plugins.secure_chat.mailbox.store import Mailbox, StoredIdentityEvent
from tests.unit.crypto.people import Directory, Person
from tests.unit.directory.opened import MAILBOX, Opened, lose_mailbox, opened
from tests.unit.directory.test_signatures import envelope


def person_of(*names: str) -> Person:
    return Person(Directory(), *names)


async def entry(chat: Opened, person: Person) -> DirectoryEntry:
    return await asyncio.to_thread(chat.store.entry, person.id)


async def test_a_statement_kept_and_not_logged_does_not_count(tmp_path: Path) -> None:
    person = person_of("a")
    async with opened(tmp_path) as chat:
        chat.journal.close()  # the next commit is refused
        with pytest.raises(LedgerUnavailable):
            await chat.directory.publish_identity(person.id, person.identity.encode())
        assert chat.store.bodies([person.identity.id.hex()])
        assert await entry(chat, person) == DirectoryEntry()
    async with opened(tmp_path) as chat:
        listed = await chat.directory.listing(person.id)
        assert (listed.identity, listed.missing, listed.position) == (None, [], 0)
        await chat.register(person)
        assert (await chat.directory.listing(person.id)).identity == person.identity.encode()


async def test_a_statement_logged_while_the_mailbox_was_full_is_in_force_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = person_of("a")
    async with opened(tmp_path) as chat:
        register = chat.store.register
        full = [True]

        def register_if_there_is_room(event: StoredIdentityEvent) -> None:
            if full and full.pop():
                raise LedgerUnavailable("the disk is full")
            register(event)

        monkeypatch.setattr(chat.store, "register", register_if_there_is_room)
        with pytest.raises(LedgerUnavailable):
            await chat.directory.publish_identity(person.id, person.identity.encode())
        assert chat.journal.head.position == 1
        for _ in range(2):
            await chat.directory.publish_identity(person.id, person.identity.encode())
        await chat.register(person)
        running = await entry(chat, person)
        assert running.history == ()
        assert running.certificate("a") is not None
    async with opened(tmp_path) as chat:
        assert await entry(chat, person) == running


async def test_a_statement_logged_and_not_indexed_is_in_force_after_a_restart(
    tmp_path: Path,
) -> None:
    person = person_of("a", "b")
    publication = person.devices["a"].messenger.publish_prekeys(1)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        await chat.directory.publish_prekeys(person.id, "a", publication.encode())
        before = await entry(chat, person)
        rows = chat.service.mailbox.identity_events(person.id)
    # crash point: the rows of the index had not reached the disk
    mailbox = Mailbox.at(tmp_path / MAILBOX)
    mailbox.drop_after(0)
    mailbox.set_checkpoint(START)
    mailbox.close()
    async with opened(tmp_path) as chat:
        assert await entry(chat, person) == before
        assert chat.service.mailbox.identity_events(person.id) == rows
        assert (await chat.service.send(envelope(person, "b", 1))).seq == 1


async def test_statements_lost_with_the_mailbox_are_said_and_come_back_without_a_new_event(
    tmp_path: Path,
) -> None:
    person = person_of("a", "b")
    publication = person.devices["a"].messenger.publish_prekeys(1).encode()
    async with opened(tmp_path) as chat:
        await chat.register(person)
        person.revoke("b")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        before = await entry(chat, person)
        whole = await chat.directory.listing(person.id)
    lose_mailbox(tmp_path)
    async with opened(tmp_path) as chat:
        head = chat.journal.head
        assert await entry(chat, person) == before
        listed = await chat.directory.listing(person.id)
        assert (listed.identity, listed.certificates, listed.revocations) == (None, [], [])
        certificates = [one.id for one in person.certificates]
        ids = [person.identity.id, *certificates, person.revocations[0].id]
        assert listed.missing == [one.hex() for one in ids]
        # Nothing is decided on what is not here.
        with pytest.raises(UnknownDevice, match="lost"):
            await chat.service.send(envelope(person, "a", 1))
        with pytest.raises(UnknownDevice, match="revoked"):
            await chat.service.send(envelope(person, "b", 1))
        with pytest.raises(InvalidMessage, match="lost"):
            await chat.directory.publish_device(person.id, person.certificates[0].encode())
        assert await chat.directory.claim("bob", person.id, ["a"]) == []
        with pytest.raises(UnknownDevice, match="lost"):
            await chat.directory.publish_prekeys(person.id, "a", publication)
        await chat.directory.publish_identity(person.id, person.identity.encode())
        with pytest.raises(InvalidMessage, match="endorser's certificate was lost"):
            await chat.directory.publish_device(person.id, person.certificates[1].encode())
        # Its owner publishes it again: each statement is known, the last one makes it whole.
        await chat.register(person)
        # Without the revocation alone, its device would look as if it were in force.
        listed = await chat.directory.listing(person.id)
        assert (listed.identity, listed.certificates) == (None, [])
        again = await chat.directory.revoke(person.id, person.revocations[0].encode())
        assert not again.new
        assert await chat.directory.listing(person.id) == whole
        assert chat.journal.head == head
        assert (await chat.service.send(envelope(person, "a", 1))).seq == 1


async def test_prekeys_of_a_device_that_has_ended_are_dropped(tmp_path: Path) -> None:
    person = person_of("a", "b")
    first, second = (one.id.hex() for one in person.certificates)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        for name in ("a", "b"):
            publication = person.devices[name].messenger.publish_prekeys(1)
            await chat.directory.publish_prekeys(person.id, name, publication.encode())
        person.revoke("b")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        left = [chat.store.stock(one) for one in (first, second)]
        assert left == [Stock(1, 1), Stock(0, 0)]
        person.renew(bless=True)
        await chat.directory.publish_identity(person.id, person.identity.encode())
        assert chat.store.stock(first) == Stock(0, 0)
        assert chat.store.publication(first) is None


async def test_a_device_whose_endorser_was_revoked_since_comes_back_too(tmp_path: Path) -> None:
    person = person_of("a", "b")
    async with opened(tmp_path) as chat:
        await chat.register(person)
        person.revoke("a")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        whole = await chat.directory.listing(person.id)
    lose_mailbox(tmp_path)
    async with opened(tmp_path) as chat:
        await chat.directory.publish_identity(person.id, person.identity.encode())
        for certificate in person.certificates:
            again = await chat.directory.publish_device(person.id, certificate.encode())
            assert not again.new
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        assert await chat.directory.listing(person.id) == whole
        assert (await chat.service.send(envelope(person, "b", 1))).seq == 1


async def test_a_rotation_after_a_loss_needs_the_statement_before_it(tmp_path: Path) -> None:
    person = person_of("a")
    async with opened(tmp_path) as chat:
        await chat.register(person)
    lose_mailbox(tmp_path)
    before = person.renew(bless=True)
    async with opened(tmp_path) as chat:
        with pytest.raises(InvalidMessage, match="lost"):
            await chat.directory.publish_identity(person.id, person.identity.encode())
        await chat.directory.publish_identity(person.id, before.encode())
        await chat.register(person)
        listed = await chat.directory.listing(person.id)
        assert (listed.identity, listed.history) == (person.identity.encode(), [before.encode()])


async def test_an_older_mailbox_is_brought_level_and_says_what_it_lacks(tmp_path: Path) -> None:
    person = person_of("a")
    async with opened(tmp_path) as chat:
        await chat.directory.publish_identity(person.id, person.identity.encode())
    shutil.copy(tmp_path / MAILBOX, tmp_path / "older")
    async with opened(tmp_path) as chat:
        await chat.register(person)
    shutil.move(tmp_path / "older", tmp_path / MAILBOX)
    async with opened(tmp_path) as chat:
        listed = await chat.directory.listing(person.id)
        assert listed.missing == [person.certificates[0].id.hex()]
        assert listed.identity is None
        await chat.register(person)
        listed = await chat.directory.listing(person.id)
        assert listed.certificates == [person.certificates[0].encode()]


async def test_prekeys_handed_out_before_a_crash_are_not_handed_out_after_it(
    tmp_path: Path,
) -> None:
    person = person_of("a")
    publication = person.devices["a"].messenger.publish_prekeys(5)
    seen = set()
    async with opened(tmp_path) as chat:
        await chat.register(person)
        await chat.directory.publish_prekeys(person.id, "a", publication.encode())
        for _ in range(2):
            ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
            assert claimed.bundle.one_time is not None
            seen.add(claimed.bundle.one_time.id)
        head = chat.journal.head
        shutil.copytree(tmp_path, tmp_path / "crashed")  # the files as a crash would leave them
    async with opened(tmp_path / "crashed") as chat:
        # Publishing again, for want of an answer, is known and logs nothing.
        stock = await chat.directory.publish_prekeys(person.id, "a", publication.encode())
        assert (stock.one_time, chat.journal.head) == (3, head)
        for _ in range(3):
            ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
            assert claimed.bundle.one_time is not None
            seen.add(claimed.bundle.one_time.id)
    assert len(seen) == 5


async def test_a_mailbox_restored_from_a_backup_hands_out_nothing_a_second_time(
    tmp_path: Path,
) -> None:
    """K16: what was claimed after the backup is still in it, and the ledger knows no claims."""
    person = person_of("a")
    messenger = person.devices["a"].messenger
    async with opened(tmp_path) as chat:
        await chat.register(person)
        publication = messenger.publish_prekeys(5)
        await chat.directory.publish_prekeys(person.id, "a", publication.encode())
        await chat.directory.claim("bob", person.id, ["a"])
    shutil.copy(tmp_path / MAILBOX, tmp_path / "backup")
    async with opened(tmp_path) as chat:
        assert (await chat.directory.stock(person.id, "a")).one_time == 4, "no copy, nothing lost"
        ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
        assert claimed.bundle.one_time is not None
        handed_out = claimed.bundle.one_time.id
    shutil.move(tmp_path / "backup", tmp_path / MAILBOX)
    async with opened(tmp_path) as chat:
        ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
        bundle = claimed.bundle
        assert (bundle.one_time, claimed.is_one_time, claimed.left.one_time) == (None, False, 0)
        bundle.verify(person.certificates[0])
        more = messenger.publish_prekeys(2)
        await chat.directory.publish_prekeys(person.id, "a", more.encode())
        shutil.copytree(tmp_path, tmp_path / "crashed")
    async with opened(tmp_path / "crashed") as chat:
        ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
        assert claimed.bundle.one_time is not None
        assert claimed.bundle.one_time.id > handed_out


async def test_prekeys_of_devices_that_are_no_longer_in_force_are_not_kept(
    tmp_path: Path,
) -> None:
    person = person_of("a", "b")
    ids = [one.id.hex() for one in person.certificates]
    async with opened(tmp_path) as chat:
        await chat.register(person)
        for name in ("a", "b"):
            publication = person.devices[name].messenger.publish_prekeys(1)
            await chat.directory.publish_prekeys(person.id, name, publication.encode())
        assert all(chat.store.publication(one) for one in ids)
        person.revoke("b")
        await chat.directory.revoke(person.id, person.revocations[0].encode())
        assert [chat.store.publication(one) is None for one in ids] == [False, True]
        person.renew(bless=True)
        await chat.directory.publish_identity(person.id, person.identity.encode())
        assert [chat.store.stock(one).one_time for one in ids] == [0, 0]
        assert not any(chat.store.publication(one) for one in ids)


async def test_a_claim_that_cannot_be_written_is_refused_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = person_of("a")
    publication = person.devices["a"].messenger.publish_prekeys(2)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        await chat.directory.publish_prekeys(person.id, "a", publication.encode())

        def full(_claims: object) -> None:
            raise LedgerUnavailable("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(chat.store, "claim", full)
            outcomes = await asyncio.gather(
                *(chat.directory.claim("bob", person.id, ["a"]) for _ in range(3)),
                return_exceptions=True,
            )
        assert [type(one) for one in outcomes] == [LedgerUnavailable] * 3
        ((_, claimed),) = await chat.directory.claim("bob", person.id, ["a"])
        assert claimed.is_one_time
        assert claimed.left.one_time == 1


async def test_the_newest_statements_are_shown_oldest_first(tmp_path: Path) -> None:
    person = person_of()
    published = []
    async with opened(tmp_path) as chat:
        for _ in range(MAX_HISTORY + 2):
            published.append(person.identity.encode())
            await chat.directory.publish_identity(person.id, person.identity.encode())
            person.renew(bless=True)
        listed = await chat.directory.listing(person.id)
    assert listed.identity == published[-1]
    assert listed.history == published[1:-1]


async def test_a_thousand_claims_at_once_get_no_prekey_twice(tmp_path: Path) -> None:
    names = [f"device{number}" for number in range(5)]
    person = person_of(*names)
    async with opened(tmp_path) as chat:
        await chat.register(person)
        for name in names:
            for _ in range(2):
                publication = person.devices[name].messenger.publish_prekeys(100)
                await chat.directory.publish_prekeys(person.id, name, publication.encode())
        answers = await asyncio.gather(
            *(
                chat.directory.claim(f"claimer{number}", person.id, [names[number % 5]])
                for number in range(1_000)
            )
        )
        bundles = [(device, one.bundle) for ((device, one),) in answers]
        x25519 = {(device, one.one_time.id) for device, one in bundles if one.one_time}
        kem = {
            (device, one.kem.id)
            for device, one in bundles
            if one.kem is not None and one.kem.kind is Kind.ONE_TIME_KEM
        }
        assert len(x25519) == len(kem) == 1_000
        ((_, last),) = await chat.directory.claim("late", person.id, [names[0]])
        assert not last.is_one_time
        assert last.bundle.one_time is None


async def test_who_stops_waiting_leaves_nothing_half_done(tmp_path: Path) -> None:
    """The next statement of the wallet is decided on the one that nobody waits for any more."""
    person = person_of("a")
    async with opened(tmp_path) as chat:
        impatient = asyncio.create_task(
            chat.directory.publish_identity(person.id, person.identity.encode())
        )
        await asyncio.sleep(0)
        impatient.cancel()
        device = await chat.directory.publish_device(person.id, person.certificates[0].encode())
        assert device.published.position == 2


async def test_statements_of_one_wallet_are_decided_one_after_the_other(tmp_path: Path) -> None:
    """Two first devices at once: only one can be the first."""
    person = person_of("a")
    other = person_of("b")
    other.wallet, other.post_quantum, other.identity = (
        person.wallet,
        person.post_quantum,
        person.identity,
    )
    rival = other.certificate("b", other.devices["b"].keys, endorse=False)
    async with opened(tmp_path) as chat:
        await chat.directory.publish_identity(person.id, person.identity.encode())
        outcomes = await asyncio.gather(
            chat.directory.publish_device(person.id, person.certificates[0].encode()),
            chat.directory.publish_device(person.id, rival.encode()),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in outcomes) == ["Accepted", "InvalidMessage"]
        assert len((await entry(chat, person)).certificates) == 1

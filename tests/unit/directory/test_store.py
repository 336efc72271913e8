"""directory/store: what was published is kept, and a one-time prekey is handed out once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.crypto.file_storage import FileWitness
from plugins.secure_chat.crypto.prekeys import Kind, Prekey, Publication
from plugins.secure_chat.directory.store import MAX_STOCK, DirectoryStore, Stock
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox, StoredIdentityEvent

CERTIFICATE = bytes(range(32))
PHONE = CERTIFICATE.hex()


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[DirectoryStore]:
    mailbox = Mailbox(engine_for(database_url))
    with FileWitness(tmp_path / "claims") as witness:
        yield DirectoryStore(mailbox, witness)
    mailbox.close()


def prekey(kind: Kind, number: int) -> Prekey:
    """One whose key is made up: the store does not look at keys."""
    size = 1184 if kind in (Kind.LAST_RESORT_KEM, Kind.ONE_TIME_KEM) else 32
    signature = b"" if kind is Kind.ONE_TIME else bytes(3309)
    return Prekey(kind, number, os.urandom(size), bytes(64), signature)


SIGNED = prekey(Kind.SIGNED, 1)


def publication(*numbers: int, signed: Prekey = SIGNED) -> Publication:
    return Publication(
        CERTIFICATE,
        signed,
        prekey(Kind.LAST_RESORT_KEM, 2),
        tuple(prekey(Kind.ONE_TIME, number) for number in numbers),
        tuple(prekey(Kind.ONE_TIME_KEM, number) for number in numbers),
    )


def claimed_numbers(store: DirectoryStore, times: int) -> list[tuple[int, int]]:
    """The numbers of so many claims: one-time X25519 and KEM, 0 for the last resort or none."""
    found = []
    for _ in range(times):
        ((claimed,),) = store.claim([[PHONE]])
        bundle = claimed.bundle
        assert bundle.kem is not None
        assert claimed.is_one_time == (bundle.kem.kind is Kind.ONE_TIME_KEM)
        found.append(
            (bundle.one_time.id if bundle.one_time else 0, bundle.kem.id * claimed.is_one_time)
        )
    return found


def test_prekeys_are_handed_out_in_the_order_of_their_numbers_and_once(
    store: DirectoryStore,
) -> None:
    assert store.publish(PHONE, "p1", publication(3, 5, 9)) == Stock(3, 3)
    assert claimed_numbers(store, 4) == [(3, 3), (5, 5), (9, 9), (0, 0)]
    assert store.stock(PHONE) == Stock(0, 0)


def test_a_number_that_came_before_is_not_taken_again(store: DirectoryStore) -> None:
    store.publish(PHONE, "p1", publication(3, 4))
    assert claimed_numbers(store, 1) == [(3, 3)]
    assert store.publish(PHONE, "p2", publication(3, 4, 6)) == Stock(2, 2)
    assert claimed_numbers(store, 3) == [(4, 4), (6, 6), (0, 0)]


def test_prekeys_under_the_same_signed_prekey_add_up_and_under_another_replace(
    store: DirectoryStore,
) -> None:
    store.publish(PHONE, "p1", publication(3, 4))
    resigned = replace(SIGNED, post_quantum_signature=os.urandom(3309))
    assert store.publish(PHONE, "p2", publication(5, signed=resigned)) == Stock(3, 3)
    other = replace(SIGNED, id=7)
    assert store.publish(PHONE, "p3", publication(8, 9, signed=other)) == Stock(2, 2)
    assert claimed_numbers(store, 1) == [(8, 8)]
    assert store.publication(PHONE) == "p3"
    again = replace(other, key=os.urandom(32))
    assert store.publish(PHONE, "p4", publication(10, signed=again)) == Stock(1, 1)


def test_a_number_is_not_taken_again_though_the_device_began_anew(store: DirectoryStore) -> None:
    store.publish(PHONE, "p1", publication(3, 9))
    other = replace(SIGNED, id=10)
    assert store.publish(PHONE, "p2", publication(3, 9, signed=other)) == Stock(0, 0)
    assert store.publish(PHONE, "p3", publication(4, 12, signed=other)) == Stock(1, 1)
    assert claimed_numbers(store, 2) == [(12, 12), (0, 0)]


def test_what_a_device_publishes_touches_no_other_device(store: DirectoryStore) -> None:
    laptop = "ff" * 32
    store.publish(laptop, "p1", publication(1, 2))
    for start in (101, 201, 301):
        store.publish(PHONE, f"p{start}", publication(*range(start, start + 100)))
    store.publish(PHONE, "anew", publication(500, signed=replace(SIGNED, id=7)))
    assert store.stock(laptop) == Stock(2, 2)
    assert store.stock(PHONE) == Stock(1, 1)


def test_the_stock_is_bounded_and_the_oldest_go(store: DirectoryStore) -> None:
    for start in (1, 101, 201):
        store.publish(PHONE, f"p{start}", publication(*range(start, start + 100)))
    assert store.stock(PHONE) == Stock(MAX_STOCK, MAX_STOCK)
    assert claimed_numbers(store, 1) == [(101, 101)]


def test_devices_do_not_share_prekeys_and_dropped_ones_are_gone(store: DirectoryStore) -> None:
    laptop = "ff" * 32
    store.publish(PHONE, "p1", publication(3))
    store.publish(laptop, "p2", publication(4, 5))
    store.drop_prekeys([PHONE])
    assert store.publication(PHONE) is None
    first, second = store.claim([[PHONE, laptop], [laptop]])
    assert [one.certificate for one in (*first, *second)] == [laptop, laptop]
    assert [one.left for one in (*first, *second)] == [Stock(1, 1), Stock(0, 0)]


def test_claims_through_two_connections_get_no_prekey_twice(
    store: DirectoryStore, database_url: str, tmp_path: Path
) -> None:
    """There is one writer; even with two, a claim that meets another fails, and takes nothing."""
    store.publish(PHONE, "p1", publication(*range(1, 101)))
    found: list[int] = []

    def claim_all() -> None:
        mailbox = Mailbox(engine_for(database_url))
        witness = FileWitness(tmp_path / f"claims of {threading.get_ident()}")
        other = DirectoryStore(mailbox, witness)
        while True:
            try:
                ((claimed,),) = other.claim([[PHONE]])
            except LedgerUnavailable:
                continue
            if claimed.bundle.one_time is None:
                break
            found.append(claimed.bundle.one_time.id)
        witness.close()
        mailbox.close()

    threads = [threading.Thread(target=claim_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 101))


@pytest.mark.parametrize(
    ("ahead", "is_old"),
    [(-2, True), (-1, True), (0, False), (1, False), (2, True)],
)
def test_one_time_prekeys_are_kept_only_by_a_database_that_knows_of_every_claim(
    store: DirectoryStore, ahead: int, is_old: bool
) -> None:
    """One ahead of its witness: a crash between the two. A lost witness is one restored."""
    store.publish(PHONE, "p1", publication(*range(1, 7)))
    claimed_numbers(store, 3)
    store._witness.advance(3 - ahead)
    assert store.drop_handed_out() is is_old
    left = 0 if is_old else 3
    assert store.stock(PHONE) == Stock(left, left)
    assert claimed_numbers(store, 1) == [(0, 0) if is_old else (4, 4)]
    assert not store.drop_handed_out()


def test_what_the_witness_could_not_count_is_not_handed_out(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.publish(PHONE, "p1", publication(1, 2, 3))
    with monkeypatch.context() as patch:
        patch.setattr(store._witness, "advance", full)
        with pytest.raises(LedgerUnavailable, match="No space"):
            store.claim([[PHONE]])
    assert claimed_numbers(store, 1) == [(2, 2)]


def test_statements_are_listed_once_the_ledger_has_them_and_in_its_order(
    store: DirectoryStore,
) -> None:
    for number in (1, 2, 3):
        store.keep(f"{number:064x}", b"statement %d" % number)
    store.keep(f"{1:064x}", b"statement 1, signed anew")
    for position, (kind, number) in enumerate(
        ((StatementKind.DEVICE, 2), (StatementKind.IDENTITY, 1)), start=1
    ):
        event = IdentityEvent(kind, f"{number:064x}", "")
        store.register(StoredIdentityEvent(position, f"hash{position}", "wallet", event))
    assert list(store.statements()) == [
        ("device", b"statement 2"),
        ("identity", b"statement 1, signed anew"),
    ]
    assert store.bodies([f"{3:064x}", "0" * 64]) == {f"{3:064x}": b"statement 3"}

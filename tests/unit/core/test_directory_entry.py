"""core/directory_entry: one wallet's IDENTITY events, folded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.directory_entry import DirectoryEntry, Published
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.registered import Registered

WALLET = "0x" + "a1" * 20
DEVICES = ("phone", "laptop", "desk")


def event(kind: StatementKind, number: int, device: str = "") -> IdentityEvent:
    return IdentityEvent(kind, f"{number:064x}", device)


def published(position: int) -> Published:
    return Published(f"{position:064x}", position, f"hash{position}")


def folded(*events: IdentityEvent) -> DirectoryEntry:
    entry = DirectoryEntry()
    for position, one in enumerate(events, start=1):
        entry = entry.after(one, position, f"hash{position}")
    return entry


IDENTITY, DEVICE, REVOCATION = (
    StatementKind.IDENTITY,
    StatementKind.DEVICE,
    StatementKind.REVOCATION,
)


def test_a_new_identity_ends_what_was_registered_under_the_old_one() -> None:
    entry = folded(event(IDENTITY, 1), event(DEVICE, 2, "phone"), event(IDENTITY, 3))
    assert entry.identity == published(3)
    assert entry.history == (published(1),)
    assert entry.certificate("phone") is None
    assert (entry.certificates, entry.revocations) == ({}, {})
    assert entry.registered
    assert entry.position == 3


def test_a_revoked_device_is_listed_and_not_in_force() -> None:
    entry = folded(
        event(IDENTITY, 1),
        event(DEVICE, 2, "phone"),
        event(DEVICE, 3, "laptop"),
        event(REVOCATION, 4, "phone"),
    )
    assert entry.certificate("phone") is None
    assert entry.certificate("laptop") == published(3)
    assert entry.certificates["phone"] == published(2)
    assert entry.revocations == {"phone": published(4)}


def test_what_no_server_of_ours_logs_changes_nothing() -> None:
    nothing = DirectoryEntry()
    assert folded(event(DEVICE, 1, "phone")) == nothing
    assert folded(event(REVOCATION, 1, "phone")) == nothing
    known = folded(event(IDENTITY, 1))
    assert known.after(event(REVOCATION, 2, "phone"), 2, "hash2") == known
    assert known.after(event(StatementKind.PREKEYS, 2, "phone"), 2, "hash2") == known


def test_what_is_logged_once_more_changes_nothing() -> None:
    events = [event(IDENTITY, 1), event(DEVICE, 2, "phone"), event(DEVICE, 3, "laptop")]
    events.append(event(REVOCATION, 4, "phone"))
    entry = DirectoryEntry()
    for position, one in enumerate(events, start=1):
        entry = entry.after(one, position, "hash")
        assert entry.after(one, position + 10, "again") == entry


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(IDENTITY), st.just(""), st.integers(1, 3)),
            st.tuples(
                st.sampled_from((DEVICE, REVOCATION, StatementKind.PREKEYS)),
                st.sampled_from(DEVICES),
                st.just(0),
            ),
        ),
        max_size=20,
    )
)
def test_one_wallets_entry_and_the_fold_over_all_say_the_same(
    events: list[tuple[StatementKind, str, int]],
) -> None:
    registered, entry = Registered(), DirectoryEntry()
    for position, (kind, device, number) in enumerate(events, start=1):
        one = event(kind, number or 10 + position, device)
        registered.take(WALLET, one)
        entry = entry.after(one, position, f"hash{position}")
        assert registered.identities.get(WALLET) == (entry.identity and entry.identity.id)
        for name in DEVICES:
            in_force = entry.certificate(name)
            assert registered.certificate(WALLET, name) == (in_force and in_force.id)

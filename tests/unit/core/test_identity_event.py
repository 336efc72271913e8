"""core/identity_event.py, core/registered.py: statements as logged, and who is registered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.secure_chat.core.events import SHAPES
from plugins.secure_chat.core.identity_event import (
    IDENTITY,
    IdentityEvent,
    StatementKind,
    from_record,
)
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.registered import Registered

WALLET = "0x" + "a1" * 20
ID = "0f" * 32
EVENTS = [
    IdentityEvent(StatementKind.IDENTITY, ID),
    IdentityEvent(StatementKind.DEVICE, ID, "phone"),
    IdentityEvent(StatementKind.REVOCATION, ID, "phone"),
    IdentityEvent(StatementKind.PREKEYS, ID, "phone"),
]


def logged(event: IdentityEvent, wallet: str = WALLET) -> Record:
    draft = event.draft(wallet)
    return Record(
        position=1,
        event_id="",
        event_type=draft.event_type,
        wallet=draft.wallet,
        value=draft.value,
        metadata=draft.metadata,
        signature=draft.signature,
        timestamp="",
        event_hash="",
        prev_hash="",
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_what_is_logged_is_read_back(event: IdentityEvent) -> None:
    assert from_record(logged(event)) == event
    assert SHAPES[IDENTITY](logged(event)) == event


BREACHES: dict[str, dict[str, Any]] = {
    "another kind": {"metadata": {"kind": "other", "id": ID}},
    "no kind": {"metadata": {"id": ID, "device": "phone"}},
    "a kind that is no text": {"metadata": {"kind": 1, "id": ID}},
    "a field too many": {"metadata": {"kind": "device", "id": ID, "device": "p", "key": "k"}},
    "a device of an identity": {"metadata": {"kind": "identity", "id": ID, "device": "phone"}},
    "no device": {"metadata": {"kind": "device", "id": ID}},
    "another field": {"metadata": {"kind": "device", "id": ID, "name": "phone"}},
    "an empty device": {"metadata": {"kind": "device", "id": ID, "device": ""}},
    "a device that is none": {"metadata": {"kind": "device", "id": ID, "device": "a b"}},
    "a device that is no text": {"metadata": {"kind": "device", "id": ID, "device": 1}},
    "an upper-case id": {"metadata": {"kind": "identity", "id": ID.upper()}},
    "a short id": {"metadata": {"kind": "identity", "id": ID[:-1]}},
    "an id that is no text": {"metadata": {"kind": "identity", "id": 15}},
    "a value": {"value": 1},
    "a signature": {"signature": "A" * 86 + "=="},
    "a wallet in capitals": {"wallet": WALLET.upper()},
    "a wallet that is no address": {"wallet": "user_" + "a" * 32},
    "another type": {"event_type": "MESSAGE"},
}


@pytest.mark.parametrize("breach", BREACHES)
def test_what_breaks_a_rule_is_malformed(breach: str) -> None:
    with pytest.raises(MalformedEvent):
        from_record(replace(logged(EVENTS[0]), **BREACHES[breach]))


def test_a_device_counts_from_its_certificate_to_its_revocation() -> None:
    registered = Registered()
    for event, expected in [
        (IdentityEvent(StatementKind.DEVICE, "d0", "phone"), None),  # of no identity
        (IdentityEvent(StatementKind.REVOCATION, "r0", "phone"), None),
        (IdentityEvent(StatementKind.IDENTITY, "i1"), None),
        (IdentityEvent(StatementKind.DEVICE, "d1", "phone"), "d1"),
        (IdentityEvent(StatementKind.PREKEYS, "p1", "phone"), "d1"),
        (IdentityEvent(StatementKind.DEVICE, "d2", "desk"), "d1"),
        (IdentityEvent(StatementKind.REVOCATION, "r1", "desk"), "d1"),
        (IdentityEvent(StatementKind.REVOCATION, "r2", "phone"), None),
        (IdentityEvent(StatementKind.REVOCATION, "r3", "phone"), None),
        (IdentityEvent(StatementKind.DEVICE, "d3", "phone"), "d3"),
        (IdentityEvent(StatementKind.IDENTITY, "i2"), None),
    ]:
        registered.take(WALLET, event)
        assert registered.certificate(WALLET, "phone") == expected
    assert registered.certificate("0x" + "b2" * 20, "phone") is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(list(StatementKind)),
            st.sampled_from(["1", "2", "3"]),
        )
    )
)
def test_its_rows_say_all_of_it(steps: list[tuple[str, StatementKind, str]]) -> None:
    registered = Registered()
    for number, (wallet, kind, device) in enumerate(steps):
        registered.take(wallet, IdentityEvent(kind, str(number), device))
    rows = registered.rows()
    assert rows == sorted(rows)
    assert Registered.from_rows(rows) == registered


@pytest.mark.parametrize(
    "rows", [[["a", "i"]], [["a", 1, []]], [["a", "i", "d"]], [1], [["a", "i", [1]]]]
)
def test_rows_that_are_none_are_refused(rows: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Registered.from_rows(rows)

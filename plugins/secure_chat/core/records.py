"""Ledger records as values: what is to be logged, and what has been.

``position`` is the number of a record's line in the ledger, counted from 1; the head's position is
therefore the number of records, and 0 means an empty ledger.

They are msgspec structs because every message makes several of them: a frozen dataclass takes four
to eight times as long to make.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

GENESIS_PREV_HASH: Final = "0" * 64


class EventDraft(msgspec.Struct, frozen=True, gc=False):
    """An event that waits to be logged. ``metadata`` must be JSON; ``value`` is an amount."""

    event_type: str
    wallet: str
    metadata: dict[str, Any]
    signature: str = ""
    value: int = 0


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Where an event stands in the ledger: fixed at commit and the same for ever."""

    position: int
    event_id: str
    event_hash: str
    timestamp: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line of a ledger, in the same terms for every dialect.

    ``signature`` is the empty string when there is none; ``event_id`` is the record's hash in
    dialects that have no id; ``metadata`` is as logged (there with the signature in it).
    """

    position: int
    event_id: str
    event_type: str
    wallet: str
    value: Any
    metadata: dict[str, Any]
    signature: str
    timestamp: str
    event_hash: str
    prev_hash: str


class Head(msgspec.Struct, frozen=True, gc=False):
    """The end of a ledger: how many records it has, and the hash of the last one."""

    position: int
    event_hash: str


EMPTY: Final = Head(0, GENESIS_PREV_HASH)


class MalformedEvent(ValueError):
    """A record of a type that is ours breaks a rule of that type, which the text names."""

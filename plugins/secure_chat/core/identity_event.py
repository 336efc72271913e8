"""The IDENTITY event: what the ledger keeps of a published statement (SPEC.md, "Directory").

A kind, the statement's id and, where it is about a device, which one; never keys, never signatures.
The id is the hash that SPEC-crypto gives the statement, so whoever has the statement can tell that
it is the one that was logged. What many events together say is ``registered.py``'s.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

from plugins.secure_chat.core.identifiers import IDENTIFIER
from plugins.secure_chat.core.records import EventDraft, MalformedEvent, Record

IDENTITY: Final = "IDENTITY"

_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WALLET: Final = re.compile(r"0x[0-9a-f]{40}", re.ASCII)


class StatementKind(StrEnum):
    """What was published."""

    IDENTITY = "identity"  # a new identity statement: devices of the one before no longer count
    DEVICE = "device"  # a device certificate
    REVOCATION = "revocation"  # ends a device for good
    PREKEYS = "prekeys"  # a publication of prekeys; the id is the hash of its bytes


class IdentityEvent(NamedTuple):
    """One published statement. ``device`` is empty for an identity and for nothing else."""

    kind: StatementKind
    id: str
    device: str = ""

    def draft(self, wallet: str) -> EventDraft:
        """The event to log for ``wallet``, whose statement it is."""
        metadata: dict[str, Any] = {"kind": str(self.kind), "id": self.id}
        if self.device:
            metadata["device"] = self.device
        return EventDraft(IDENTITY, wallet, metadata)


def from_record(record: Record) -> IdentityEvent:
    """The event that an IDENTITY record holds. Raises MalformedEvent."""
    if record.event_type != IDENTITY:
        raise MalformedEvent("it is not an IDENTITY")
    metadata = record.metadata
    try:
        kind = StatementKind(metadata.get("kind", ""))
    except ValueError:
        raise MalformedEvent("its kind is none that is known") from None
    fields = ("kind", "id") if kind is StatementKind.IDENTITY else ("kind", "id", "device")
    if len(metadata) != len(fields) or any(name not in metadata for name in fields):
        raise MalformedEvent("its metadata has a field too many or too few")
    if record.value not in (0, "0") or record.signature:
        raise MalformedEvent("its value is not 0, or it has a signature")
    if _WALLET.fullmatch(record.wallet) is None:
        raise MalformedEvent("its wallet is not an address in lower case")
    statement, device = metadata["id"], metadata.get("device", "")
    if type(statement) is not str or _ID.fullmatch(statement) is None:
        raise MalformedEvent("its id is not 64 hex digits")
    if type(device) is not str or (device and IDENTIFIER.fullmatch(device) is None):
        raise MalformedEvent("its device is not an identifier")
    if kind is not StatementKind.IDENTITY and not device:
        raise MalformedEvent("its device is empty")
    return IdentityEvent(kind, statement, device)

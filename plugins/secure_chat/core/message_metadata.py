"""The metadata of the MESSAGE event that an envelope becomes (SPEC.md, "Ledger")."""

from __future__ import annotations

from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.core.records import EventDraft


def message_draft(envelope: Envelope) -> EventDraft:
    """The event of ``envelope``: hashes and addresses, never ciphertext."""
    metadata: dict[str, object] = {
        "hash": envelope.hash,
        "sender": envelope.sender,
        "recipient": envelope.recipient,
        "nonce": envelope.nonce,
        "device": envelope.device,
        "seq": envelope.seq,
        "ts": envelope.ts,
        "size": envelope.size,
    }
    if envelope.cids:
        metadata["cids"] = list(envelope.cids)
    return EventDraft("MESSAGE", envelope.sender, metadata, envelope.signature)

"""The MESSAGE event: what the ledger keeps of one message (SPEC.md, "Ledger events").

A sender, a recipient, a hash and a place in a sequence; never ciphertext, never plaintext. Ledgers
that lived before this plugin hold MESSAGE events of two other shapes; they are told apart here, and
stay what they are: history, which proves nothing about a message.

Here live the event's shape and its rules, and nothing of chains, files or rewards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from plugins.secure_chat.core.envelope import (
    CID,
    MAX_CIDS,
    MAX_SEQ,
    MIN_CIPHERTEXT,
    Envelope,
)
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.records import EventDraft, MalformedEvent, Record
from plugins.secure_chat.core.sequence import Stream
from plugins.secure_chat.errors import InvalidMessage

MESSAGE: Final = "MESSAGE"

_REQUIRED: Final = frozenset(
    ("hash", "sender", "recipient", "nonce", "device", "seq", "ts", "size")
)
_OPTIONAL: Final = frozenset(("cids", "signature"))
# Canonical base64 of 32, 12 and 64 bytes: what ``envelope.decode_base64`` accepts at these sizes,
# in a fourth of its time, for an audit reads every message there is.
_HASH: Final = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", re.ASCII)
_NONCE: Final = re.compile(r"[A-Za-z0-9+/]{16}", re.ASCII)
_SIGNATURE: Final = re.compile(r"[A-Za-z0-9+/]{85}[AQgw]==", re.ASCII)
_PROTOTYPE_KEYS: Final = frozenset(("recipient", "msg_id"))
_PROTOTYPE_SIGNATURE: Final = "client_sig_placeholder"
_TRUST_LOOP_KEYS: Final = frozenset(("recipient_wallet", "msg_hash", "size_bytes"))


class MessageKind(StrEnum):
    """Which shape a MESSAGE event has."""

    SECURE = "secure-v2"  # ours; every rule of this module holds
    PROTOTYPE = "prototype"  # history: {recipient, msg_id}, a placeholder for a signature
    TRUST_LOOP = "trust-loop"  # history: {recipient_wallet, msg_hash, size_bytes}
    MALFORMED = "malformed"  # claims to be ours, and breaks a rule
    OTHER = "other"  # claims nothing that is known here


class MalformedMessage(MalformedEvent):
    """A MESSAGE event that claims our shape and breaks a rule, which the text names."""


class MessageEvent(msgspec.Struct, frozen=True, gc=False):
    """What is logged of one message. Identifiers canonical, ``hash`` and ``nonce`` in base64."""

    sender: str
    device: str
    recipient: str
    hash: str
    nonce: str
    seq: int
    ts: int | float
    size: int  # of the ciphertext, bytes
    cids: tuple[str, ...] = ()

    @property
    def stream(self) -> Stream:
        return Stream(self.sender, self.device, self.recipient)

    def draft(self, signature: str) -> EventDraft:
        """The event to log. ``signature``: the sender's in base64, or empty."""
        return EventDraft(MESSAGE, self.sender, _metadata(self), signature)


def message_draft(envelope: Envelope) -> EventDraft:
    """The event to log of a valid envelope."""
    return EventDraft(MESSAGE, envelope.sender, _metadata(envelope), envelope.signature)


def _metadata(message: MessageEvent | Envelope) -> dict[str, Any]:
    """The event's metadata; ``cids`` only when there are any."""
    metadata: dict[str, Any] = {
        "hash": message.hash,
        "sender": message.sender,
        "recipient": message.recipient,
        "nonce": message.nonce,
        "device": message.device,
        "seq": message.seq,
        "ts": message.ts,
        "size": message.size,
    }
    if message.cids:
        metadata["cids"] = list(message.cids)
    return metadata


def claims_to_be_secure(metadata: Mapping[str, Any]) -> bool:
    """Whether a MESSAGE event with this metadata must obey the rules of ``from_record``."""
    return "hash" in metadata and "seq" in metadata


def from_record(record: Record) -> MessageEvent:
    """The event that a MESSAGE record of ours holds. Raises MalformedMessage for any other record.

    The hash itself cannot be recomputed: the ledger does not have the ciphertext.
    """
    if record.event_type != MESSAGE:
        raise MalformedMessage("it is not a MESSAGE")
    metadata = record.metadata
    keys = metadata.keys()
    if keys != _REQUIRED and not (keys >= _REQUIRED and keys - _REQUIRED <= _OPTIONAL):
        raise MalformedMessage("its metadata has a field too many or too few")
    if record.value not in (0, "0"):
        raise MalformedMessage("its value is not 0")
    if metadata["sender"] != record.wallet:
        raise MalformedMessage("sender is not the wallet that logged it")
    for field in ("sender", "recipient", "device"):
        if not (type(metadata[field]) is str and _is_canonical(metadata[field])):
            raise MalformedMessage(f"{field} is not a canonical identifier")
    for field, pattern in (("hash", _HASH), ("nonce", _NONCE)):
        if not (type(metadata[field]) is str and pattern.fullmatch(metadata[field])):
            raise MalformedMessage(f"{field} is not canonical base64 of the right size")
    if record.signature and _SIGNATURE.fullmatch(record.signature) is None:
        raise MalformedMessage("signature is not canonical base64 of 64 bytes")
    if metadata.get("signature", record.signature) != record.signature:
        raise MalformedMessage("its metadata has another signature than the record")
    seq, ts, size = metadata["seq"], metadata["ts"], metadata["size"]
    if type(seq) is not int or not 1 <= seq <= MAX_SEQ:
        raise MalformedMessage("seq is not an integer from 1 to 2^53-1")
    if not (
        (type(ts) is int and -MAX_SEQ <= ts <= MAX_SEQ) or (type(ts) is float and math.isfinite(ts))
    ):
        raise MalformedMessage("ts is not a finite number")
    if type(size) is not int or not MIN_CIPHERTEXT <= size <= MAX_SEQ:
        raise MalformedMessage("size is not an integer of at least 16")
    return MessageEvent(
        sender=metadata["sender"],
        device=metadata["device"],
        recipient=metadata["recipient"],
        hash=metadata["hash"],
        nonce=metadata["nonce"],
        seq=seq,
        ts=ts,
        size=size,
        cids=_cids(metadata["cids"]) if "cids" in metadata else (),
    )


def history_kind(record: Record) -> MessageKind:
    """The kind of a MESSAGE record that does not claim to be ours."""
    keys = record.metadata.keys()
    if keys == _PROTOTYPE_KEYS and record.signature == _PROTOTYPE_SIGNATURE:
        return MessageKind.PROTOTYPE
    if keys == _TRUST_LOOP_KEYS:
        return MessageKind.TRUST_LOOP
    return MessageKind.OTHER


def kind(record: Record) -> MessageKind | None:
    """Which shape a MESSAGE record has; None for an event of another type."""
    if record.event_type != MESSAGE:
        return None
    if not claims_to_be_secure(record.metadata):
        return history_kind(record)
    try:
        from_record(record)
    except MalformedMessage:
        return MessageKind.MALFORMED
    return MessageKind.SECURE


def _is_canonical(identifier: str) -> bool:
    try:
        return canonical(identifier, "identifier") == identifier
    except InvalidMessage:
        return False


def _cids(cids: object) -> tuple[str, ...]:
    if type(cids) is not list or not 1 <= len(cids) <= MAX_CIDS:
        raise MalformedMessage(f"cids is not a list of 1 to {MAX_CIDS} blocks")
    if not all(type(cid) is str and CID.fullmatch(cid) for cid in cids):
        raise MalformedMessage("one of cids is not a base32 CIDv1 of a raw sha2-256 block")
    if len(set(cids)) != len(cids):
        raise MalformedMessage("cids names a block twice")
    return tuple(cids)

"""The LEGACY_MESSAGE event: a message of the legacy contract, of which only a hash was ever given.

Its content went elsewhere and in whatever form, so it is no end-to-end encrypted message: it is
another event than MESSAGE, is delivered to no socket, and no reward rule reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from plugins.secure_chat.core.identifiers import IDENTIFIER, canonical
from plugins.secure_chat.core.provenance import HEX_DIGEST, KEYS, Provenance, provenance_of
from plugins.secure_chat.core.records import EventDraft, MalformedEvent, Record
from plugins.secure_chat.core.thread import is_thread, labelled_hash
from plugins.secure_chat.errors import InvalidMessage

LEGACY_MESSAGE: Final = "LEGACY_MESSAGE"
MAX_CONTENT: Final = 1 << 20  # bytes that the contract lets a content have
MAX_TYPE: Final = 128  # characters of content_type and message_type
MAX_ID: Final = 256
CONTENT_HASH: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

_KEY_LABEL: Final = b"atlas/secure-chat/v2/legacy-message-key"
_REQUIRED: Final = frozenset(("thread", "content_type", "message_type"))
_OPTIONAL: Final = frozenset(("content_hash", "cid", "size", "details", "id"))


@dataclass(frozen=True, slots=True)
class LegacyMessage:
    """What is logged of one message.

    ``content``: the hash in hex as it was given, or the CID of an import that has no hash.
    ``size``: bytes; None when an import does not say. ``id``: an import's, or that of a request's
    key; else it is the event's.
    """

    sender: str
    thread: str
    content: str
    size: int | None
    content_type: str
    message_type: str
    details: str | None = None
    id: str | None = None
    provenance: Provenance | None = None

    def draft(self) -> EventDraft:
        """The event to log."""
        key = "content_hash" if CONTENT_HASH.fullmatch(self.content) else "cid"
        metadata: dict[str, Any] = {"thread": self.thread, key: self.content}
        if self.size is not None:
            metadata["size"] = self.size
        metadata |= {"content_type": self.content_type, "message_type": self.message_type}
        if self.details is not None:
            metadata["details"] = self.details
        if self.id is not None:
            metadata["id"] = self.id
        if self.provenance is not None:
            metadata |= self.provenance._asdict()
        return EventDraft(LEGACY_MESSAGE, self.sender, metadata)


def keyed_message_id(key: str, wallet: str) -> str:
    """The id of what ``wallet`` posts under a key of its own: the same at every try."""
    return f"message_{labelled_hash(_KEY_LABEL, key.encode(), wallet.encode())[:32]}"


def from_record(record: Record) -> LegacyMessage:
    """The message that a LEGACY_MESSAGE record holds. Raises MalformedEvent."""
    if record.event_type != LEGACY_MESSAGE:
        raise MalformedEvent("it is not a LEGACY_MESSAGE")
    if record.value not in (0, "0"):
        raise MalformedEvent("its value is not 0")
    return parse(record.wallet, record.metadata)


def parse(wallet: str, metadata: Mapping[str, Any]) -> LegacyMessage:
    """The message of a record's wallet and metadata. Raises MalformedEvent."""
    keys = metadata.keys() - KEYS
    if not _REQUIRED <= keys <= _REQUIRED | _OPTIONAL:
        raise MalformedEvent("its metadata has a field too many or too few")
    try:
        sender = canonical(wallet, "wallet")
        provenance = provenance_of(metadata)
    except InvalidMessage as error:
        raise MalformedEvent(error.detail) from None
    except ValueError as error:
        raise MalformedEvent(str(error)) from None
    if sender != wallet or not is_thread(str(metadata["thread"])):
        raise MalformedEvent("its wallet or its thread is no canonical identifier")
    if ("content_hash" in metadata) == ("cid" in metadata):
        raise MalformedEvent("it needs a content_hash or a cid")
    content = metadata.get("content_hash", metadata.get("cid"))
    pattern = CONTENT_HASH if "content_hash" in metadata else IDENTIFIER
    if type(content) is not str or pattern.fullmatch(content) is None:
        raise MalformedEvent("its content is not named by a hash or a cid")
    size = metadata.get("size")
    if size is None and provenance is None:
        raise MalformedEvent("size is missing")
    if size is not None and (type(size) is not int or not 0 <= size <= MAX_CONTENT):
        raise MalformedEvent("size is not a number of bytes up to 1 MiB")
    for field, limit in (("content_type", MAX_TYPE), ("message_type", MAX_TYPE), ("id", MAX_ID)):
        value = metadata.get(field, "")
        if type(value) is not str or len(value) > limit:
            raise MalformedEvent(f"{field} is not a text of the right length")
    details = metadata.get("details")
    if details is not None and (type(details) is not str or HEX_DIGEST.fullmatch(details) is None):
        raise MalformedEvent("details is not a SHA-256 in hex")
    return LegacyMessage(
        sender,
        metadata["thread"],
        content,
        size,
        metadata["content_type"],
        metadata["message_type"],
        details,
        metadata.get("id"),
        provenance,
    )

"""What a record of an export means: threads, messages and changes of status, or why it is refused.

The shapes are those of the host's legacy route, its chat engine and its v14 conversations. A row of
the v18 plaintext chat is recognised and nothing of it is kept. No reason holds what a record says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, TypeAlias

import msgspec

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.legacy_message import CONTENT_HASH, MAX_CONTENT, MAX_ID, MAX_TYPE
from plugins.secure_chat.core.provenance import MAX_TIME
from plugins.secure_chat.core.thread import (
    MAX_PARTICIPANTS,
    Status,
    details_body,
    is_thread,
    legacy_thread_id,
)
from plugins.secure_chat.errors import InvalidMessage

_TEXT: Final = re.compile(r"[\x20-\x7e]*", re.ASCII)
_CID: Final = re.compile(r"[A-Za-z0-9]{1,128}", re.ASCII)
_NAMED_FIELD: Final = re.compile(r"(?:field `|at `\$\.)(\w+)")


class Kind(StrEnum):
    """What a record of an export brings."""

    THREAD = "thread"
    MESSAGE = "message"
    STATUS = "status"


@dataclass(frozen=True)
class Brought:
    """One thing that a record brings. ``id`` is the host's and names it within its kind."""

    kind: Kind
    id: str
    origin: str
    at: str
    wallet: str  # creator, sender, or who changed the status
    thread: str  # the host's id of the thread
    members: tuple[str, ...] = ()
    status: Status | None = None
    content: str = ""
    size: int | None = None
    content_type: str = ""
    message_type: str = ""
    body: bytes | None = None  # title and metadata as they are kept; None when there are none

    @cached_property
    def key(self) -> bytes:
        """What names it in every export."""
        return key_of(self.kind, self.id)

    @cached_property
    def fingerprint(self) -> bytes:
        """What it says, but for the time, which exports write differently: 16 bytes."""
        return _digest(
            self.wallet,
            self.thread,
            ",".join(sorted(self.members)),
            self.status or "",
            self.content.lower(),
            str(self.size),
            self.content_type,
            self.message_type,
            "" if self.body is None else self.body.decode("ascii"),
        )


class Left(StrEnum):
    """Records that are left out on purpose, and counted."""

    PLAINTEXT = "plaintext"  # a message in clear: nothing of it is kept
    MIRRORED = "mirrored"  # written by the chat itself into the host's transactions


class Refused(ValueError):
    """A record that is not taken. The text says why, and nothing of what the record says."""


Meaning: TypeAlias = list[Brought] | Left


def key_of(kind: Kind, host_id: str) -> bytes:
    """What names a thing in every export: 16 bytes of its kind and the host's id."""
    return _digest(kind, host_id)


def thread_of(legacy: str) -> str:
    """The id here of a thread that the host calls ``legacy``."""
    return legacy if is_thread(legacy) else legacy_thread_id(legacy)


def meaning(value: Any) -> Meaning:
    """What a record brings, or why it is left out. Raises Refused."""
    if not isinstance(value, dict):
        raise Refused("it is not an object")
    try:
        return list(_brought(value)) or _nothing()
    except _Left as left:
        return left.what
    except msgspec.ValidationError as error:
        field = _NAMED_FIELD.search(str(error))
        if field is None or field[1] not in _FIELDS:
            raise Refused("it has a field that is not known, or of the wrong type") from None
        raise Refused(f"{field[1]} is missing, of the wrong type or not known here") from None
    except InvalidMessage as error:
        raise Refused(error.detail) from None
    except RecursionError:
        raise Refused("it is nested too deeply") from None


def may_bring_a_thread(value: Any) -> bool:
    """False for a record that brings none: most of an export, told without understanding it."""
    if not isinstance(value, dict):
        return False
    operations = value.get("operations")
    inner = operations if isinstance(operations, list) else [value, {"data": value.get("payload")}]
    return "participants" in value or any(
        isinstance(one, dict)
        and isinstance(data := one.get("data"), dict)
        and "participants" in data
        for one in inner
    )


class _Left(Exception):
    def __init__(self, what: Left) -> None:
        self.what = what


def _nothing() -> list[Brought]:
    raise Refused("it brings nothing")


# -- the shapes, as the host wrote them ------------------------------------------------------------


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    """A field more than these is a record that is not understood, so it is refused, not cut."""


Time: TypeAlias = int | float | str


class _Operation(_Shape):
    type: str
    data: dict[str, Any]
    creator_id: str | None = None
    nonce: Any = None


class _Bundle(_Shape):
    bundle_hash: str
    creator_id: str
    operations: list[_Operation]
    signature: Any = None
    timestamp: Any = None
    ledger_position: int | None = None


class _ThreadCreated(_Shape):
    participants: list[str]
    timestamp: Time
    title: str | None = None
    metadata: dict[str, Any] | None = None


class _MessagePosted(_Shape):
    thread_id: str
    content_hash: str
    content_size: int
    timestamp: Time
    content_type: str = ""
    message_type: str = ""
    metadata: dict[str, Any] | None = None


class _ThreadUpdated(_Shape):
    thread_id: str
    status: str
    timestamp: Time


class _EngineThread(_Shape):
    thread_id: str
    creator_id: str
    participants: list[str]
    created_at: Time
    status: str
    title: str | None = None
    metadata: dict[str, Any] | None = None
    version: str = "1.0"


class _EngineMessage(_Shape):
    message_id: str
    thread_id: str
    sender_id: str
    content_hash: str
    content_size: int
    timestamp: Time
    message_type: str = ""
    metadata: dict[str, Any] | None = None


class _Conversation(_Shape):
    conversation_id: str
    conversation_type: str
    participants: list[str]
    created_at: Time
    created_by: str
    last_message_at: Any = None
    message_count: Any = None
    encryption_metadata: Any = None


class _ConversationMessage(_Shape):
    message_id: str
    conversation_id: str
    sender_wallet: str
    content_cid: str
    timestamp: Time
    status: str = ""
    reply_to_message_id: str | None = None
    encryption_metadata: Any = None


_FIELDS: Final = frozenset(
    field for shape in _Shape.__subclasses__() for field in shape.__struct_fields__
)
_EVENTS: Final = frozenset(("THREAD_CREATED", "MESSAGE_POSTED", "THREAD_UPDATED"))
_EVENT_KEYS: Final = frozenset(("event_type", "type", "data", "payload", "timestamp", "event_id"))


def _brought(value: dict[str, Any]) -> Iterator[Brought]:
    if "bundle_hash" in value:
        yield from _bundle(msgspec.convert(value, _Bundle))
    elif value.get("event_type", value.get("type")) in _EVENTS:
        yield from _engine_event(value)
    elif "conversation_id" in value:
        if "message_id" in value:
            yield _conversation_message(msgspec.convert(value, _ConversationMessage))
        else:
            yield _conversation(msgspec.convert(value, _Conversation))
    elif "thread_id" in value:
        if "message_id" in value:
            yield _engine_message(msgspec.convert(value, _EngineMessage))
        else:
            yield from _engine_thread(msgspec.convert(value, _EngineThread))
    elif "text" in value and "sender" in value:
        raise _Left(Left.PLAINTEXT)
    else:
        raise Refused("its fields are those of no record that is known here")


# -- the legacy route: transactions ----------------------------------------------------------------


def _bundle(bundle: _Bundle) -> Iterator[Brought]:
    if bundle.ledger_position is not None:
        raise _Left(Left.MIRRORED)
    for index, operation in enumerate(bundle.operations):
        own_id = bundle.bundle_hash if index == 0 else f"{bundle.bundle_hash}.{index}"
        wallet = operation.creator_id or bundle.creator_id
        if operation.type == "secure_chat_thread_created":
            created = msgspec.convert(operation.data, _ThreadCreated)
            yield _thread(
                "route",
                own_id,
                wallet,
                created.participants,
                created.timestamp,
                created.title,
                created.metadata,
            )
        elif operation.type == "secure_chat_message_posted":
            posted = msgspec.convert(operation.data, _MessagePosted)
            yield _message(
                "route",
                own_id,
                posted.thread_id,
                wallet,
                posted.timestamp,
                content=_content_hash(posted.content_hash),
                size=posted.content_size,
                content_type=posted.content_type,
                message_type=posted.message_type,
                metadata=posted.metadata,
            )
        elif operation.type == "secure_chat_thread_updated":
            updated = msgspec.convert(operation.data, _ThreadUpdated)
            yield _status(
                "route", own_id, updated.thread_id, wallet, updated.status, updated.timestamp
            )
        else:
            raise Refused("one of its operations is not of the chat")


# -- the engine: objects and events ----------------------------------------------------------------


def _engine_event(value: dict[str, Any]) -> Iterator[Brought]:
    if not value.keys() <= _EVENT_KEYS:
        raise Refused("it has a field that is not known, or of the wrong type")
    data = value.get("data", value.get("payload"))
    if not isinstance(data, dict):
        raise Refused("data is missing, of the wrong type or not known here")
    what = value.get("event_type", value.get("type"))
    if what == "THREAD_CREATED":
        yield from _engine_thread(msgspec.convert(data, _EngineThread))
    elif what == "MESSAGE_POSTED":
        yield _engine_message(msgspec.convert(data, _EngineMessage))
    else:
        at = data.get("timestamp", value.get("timestamp"))
        wallet = data.get("creator_id", data.get("updated_by"))
        known = {key: data[key] for key in ("thread_id", "status") if key in data}
        updated = msgspec.convert({**known, "timestamp": at}, _ThreadUpdated)
        if not isinstance(wallet, str):
            raise Refused("creator_id is missing, of the wrong type or not known here")
        own_id = value.get("event_id", f"{updated.thread_id}:{updated.status}:{at}")
        if not isinstance(own_id, str):
            raise Refused("event_id is missing, of the wrong type or not known here")
        yield _status(
            "engine", own_id, updated.thread_id, wallet, updated.status, updated.timestamp
        )


def _engine_thread(thread: _EngineThread) -> Iterator[Brought]:
    metadata = dict(thread.metadata or {})
    title = metadata.pop("title", None) if thread.title is None else thread.title
    if title is not None and not isinstance(title, str):
        title, metadata["title"] = None, title
    yield _thread(
        "engine",
        thread.thread_id,
        thread.creator_id,
        thread.participants,
        thread.created_at,
        title,
        metadata,
    )
    if thread.status != Status.ACTIVE:
        yield _status(
            "engine",
            f"{thread.thread_id}:{thread.status}",
            thread.thread_id,
            thread.creator_id,
            thread.status,
            thread.created_at,
        )


def _engine_message(message: _EngineMessage) -> Brought:
    metadata = dict(message.metadata or {})
    content_type = metadata.pop("content_type", "")
    if not isinstance(content_type, str):
        raise Refused("content_type is missing, of the wrong type or not known here")
    return _message(
        "engine",
        message.message_id,
        message.thread_id,
        message.sender_id,
        message.timestamp,
        content=_content_hash(message.content_hash),
        size=message.content_size,
        content_type=content_type,
        message_type=message.message_type,
        metadata=metadata,
    )


# -- v14 -------------------------------------------------------------------------------------------


def _conversation(conversation: _Conversation) -> Brought:
    metadata = {"conversation_type": conversation.conversation_type}
    if conversation.encryption_metadata is not None:
        metadata["encryption_metadata"] = conversation.encryption_metadata
    return _thread(
        "v14",
        conversation.conversation_id,
        conversation.created_by,
        conversation.participants,
        conversation.created_at,
        None,
        metadata,
    )


def _conversation_message(message: _ConversationMessage) -> Brought:
    if _CID.fullmatch(message.content_cid) is None:
        raise Refused("content_cid is not a CID")
    kept = {
        "status": message.status or None,
        "reply_to_message_id": message.reply_to_message_id,
        "encryption_metadata": message.encryption_metadata,
    }
    return _message(
        "v14",
        message.message_id,
        message.conversation_id,
        message.sender_wallet,
        message.timestamp,
        content=message.content_cid,
        metadata={key: value for key, value in kept.items() if value is not None},
    )


# -- what all of them come to ----------------------------------------------------------------------


def _thread(
    origin: str,
    own_id: str,
    creator: str,
    participants: list[str],
    at: Time,
    title: str | None,
    metadata: Mapping[str, Any] | None,
) -> Brought:
    if not 1 <= len(participants) <= MAX_PARTICIPANTS + 1:
        raise Refused(f"participants is not a list of 1 to {MAX_PARTICIPANTS}")
    creator = _wallet(creator, "creator_id")
    members = dict.fromkeys(_wallet(wallet, "participants") for wallet in participants)
    members[creator] = None
    return Brought(
        Kind.THREAD,
        _id(own_id, "thread_id"),
        origin,
        _at(at),
        creator,
        own_id,
        members=tuple(members),
        body=_body(title, metadata),
    )


def _message(
    origin: str,
    own_id: str,
    thread: str,
    sender: str,
    at: Time,
    *,
    content: str,
    size: int | None = None,
    content_type: str = "",
    message_type: str = "",
    metadata: Mapping[str, Any] | None,
) -> Brought:
    if size is not None and not 0 <= size <= MAX_CONTENT:
        raise Refused(f"content_size is not from 0 to {MAX_CONTENT}")
    return Brought(
        Kind.MESSAGE,
        _id(own_id, "message_id"),
        origin,
        _at(at),
        _wallet(sender, "sender_id"),
        _id(thread, "thread_id"),
        content=content,
        size=size,
        content_type=_text(content_type, "content_type", MAX_TYPE),
        message_type=_text(message_type, "message_type", MAX_TYPE),
        body=_body(None, metadata),
    )


def _status(origin: str, own_id: str, thread: str, wallet: str, status: str, at: Time) -> Brought:
    if status not in list(Status):
        raise Refused("status is not known")
    return Brought(
        Kind.STATUS,
        _id(own_id, "event_id"),
        origin,
        _at(at),
        _wallet(wallet, "creator_id"),
        _id(thread, "thread_id"),
        status=Status(status),
    )


def _wallet(wallet: str, field: str) -> str:
    wallet = canonical(wallet, field)
    if is_thread(wallet):
        raise Refused(f"{field} has the form of a thread's id")
    return wallet


def _id(text: str, field: str) -> str:
    if not text:
        raise Refused(f"{field} is empty")
    return _text(text, field, MAX_ID)


def _text(text: str, field: str, limit: int) -> str:
    if len(text) > limit or _TEXT.fullmatch(text) is None:
        raise Refused(f"{field} is not printable ASCII of at most {limit} characters")
    return text


def _at(at: Time) -> str:
    """A time as its source wrote it."""
    if isinstance(at, bool):
        raise Refused("timestamp is missing, of the wrong type or not known here")
    text = _text(str(at), "timestamp", MAX_TIME)
    if not text:
        raise Refused("timestamp is empty")
    return text


def _content_hash(content_hash: str) -> str:
    if CONTENT_HASH.fullmatch(content_hash) is None:
        raise Refused("content_hash is not 64 hex digits")
    return content_hash


def _body(title: str | None, metadata: Mapping[str, Any] | None) -> bytes | None:
    if not title and not metadata:
        return None
    return details_body(title, metadata or {})


def _digest(*parts: str) -> bytes:
    """Of printable texts, so that a NUL between them keeps them apart."""
    return hashlib.sha256("\0".join(parts).encode("ascii")).digest()[:16]

"""Group threads: the THREAD event, the rules, and the fold of events into a thread's state.

Who is a member follows from ledger positions alone: a wallet is one strictly between the event that
brought it in and the event that took it out. The title and the metadata are not in the ledger; it
has a salted hash of them.

Here live the event's shape, the rules and the fold. Tables are ``threads/index.py``, requests are
``threads/book.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.provenance import (
    HEX_DIGEST,
    KEYS,
    Provenance,
    provenance_of,
)
from plugins.secure_chat.core.records import EventDraft, MalformedEvent, Record
from plugins.secure_chat.errors import InvalidMessage, NotAMember, Refusal

THREAD: Final = "THREAD"
MAX_PARTICIPANTS: Final = 100  # named at once, and in a thread besides its creator
MAX_LEGACY_ID: Final = 256
SALT_SIZE: Final = 16

_ID: Final = re.compile(r"thread_[0-9a-f]{32}", re.ASCII)
_DETAILS_LABEL: Final = b"atlas/secure-chat/v2/thread-details"
_LEGACY_LABEL: Final = b"atlas/secure-chat/v2/legacy-thread"
_KEY_LABEL: Final = b"atlas/secure-chat/v2/thread-key"


class Status(StrEnum):
    """Messages are taken while a thread is ACTIVE; DELETED is final."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"
    DELETED = "DELETED"


class Change(StrEnum):
    """What a THREAD event says has happened."""

    CREATED = "created"
    ADDED = "member_added"
    REMOVED = "member_removed"
    LEFT = "left"
    STATUS = "status"


_KEYS: Final[dict[Change, tuple[frozenset[str], frozenset[str]]]] = {
    Change.CREATED: (frozenset(("members",)), frozenset(("details", "legacy"))),
    Change.ADDED: (frozenset(("members",)), frozenset()),
    Change.REMOVED: (frozenset(("members",)), frozenset()),
    Change.LEFT: (frozenset(), frozenset()),
    Change.STATUS: (frozenset(("status",)), frozenset()),
}


def is_thread(identifier: str) -> bool:
    """Whether an identifier is a thread's. No wallet may have one of this form."""
    return identifier.startswith("thread_") and _ID.fullmatch(identifier) is not None


def thread_id(entropy: bytes) -> str:
    """The id made of 16 random bytes."""
    if len(entropy) != 16:
        raise ValueError("a thread's id has 16 bytes")
    return f"thread_{entropy.hex()}"


def keyed_thread_id(key: str, wallet: str) -> str:
    """The id of the thread that ``wallet`` begins under a key of its own: the same at every try."""
    return f"thread_{labelled_hash(_KEY_LABEL, key.encode(), wallet.encode())[:32]}"


def legacy_thread_id(legacy: str) -> str:
    """The id of a thread that had another one before: the same at every import."""
    return f"thread_{labelled_hash(_LEGACY_LABEL, legacy.encode())[:32]}"


def details_body(title: str | None, metadata: Mapping[str, Any]) -> bytes:
    """Title and metadata as the bytes that are kept and hashed: canonical JSON in ASCII."""
    return json.dumps(
        {"title": title, "metadata": metadata}, sort_keys=True, separators=(",", ":")
    ).encode("ascii")


def details_hash(salt: bytes, body: bytes) -> str:
    """What the ledger has of ``body``. The salt keeps a short title from being guessed."""
    if len(salt) != SALT_SIZE:
        raise ValueError("a salt has 16 bytes")
    return labelled_hash(_DETAILS_LABEL, salt, body)


def labelled_hash(*parts: bytes) -> str:
    """SHA-256 in hex over ``parts``, a label first, each with its length before it."""
    return hashlib.sha256(
        b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    ).hexdigest()


@dataclass(frozen=True, slots=True)
class ThreadEvent:
    """What is logged of one change. ``wallet`` made it; ``members`` are canonical."""

    change: Change
    thread: str
    wallet: str
    members: tuple[str, ...] = ()
    status: Status | None = None
    details: str | None = None
    legacy: str | None = None
    provenance: Provenance | None = None

    def draft(self) -> EventDraft:
        """The event to log."""
        metadata: dict[str, Any] = {"kind": str(self.change), "thread": self.thread}
        if self.members:
            metadata["members"] = list(self.members)
        if self.status is not None:
            metadata["status"] = str(self.status)
        if self.details is not None:
            metadata["details"] = self.details
        if self.legacy is not None:
            metadata["legacy"] = self.legacy
        if self.provenance is not None:
            metadata |= self.provenance._asdict()
        return EventDraft(THREAD, self.wallet, metadata)


def from_record(record: Record) -> ThreadEvent:
    """The event that a THREAD record holds. Raises MalformedEvent for any other record."""
    if record.event_type != THREAD:
        raise MalformedEvent("it is not a THREAD")
    if record.value not in (0, "0"):
        raise MalformedEvent("its value is not 0")
    return parse(record.wallet, record.metadata)


def parse(wallet: str, metadata: Mapping[str, Any]) -> ThreadEvent:
    """The event of a THREAD record's wallet and metadata. Raises MalformedEvent."""
    try:
        change = Change(metadata.get("kind", ""))
    except ValueError:
        raise MalformedEvent("its kind is not known") from None
    required, optional = _KEYS[change]
    keys = metadata.keys() - {"kind", "thread"} - KEYS
    if not required <= keys <= required | optional:
        raise MalformedEvent("its metadata has a field too many or too few")
    thread = metadata.get("thread")
    if type(thread) is not str or not is_thread(thread):
        raise MalformedEvent("thread is not a thread's id")
    if not _is_wallet(wallet):
        raise MalformedEvent("its wallet is not a canonical identifier")
    try:
        provenance = provenance_of(metadata)
    except ValueError as error:
        raise MalformedEvent(str(error)) from None
    return ThreadEvent(
        change,
        thread,
        wallet,
        members=_members(metadata["members"], provenance) if "members" in required else (),
        status=_status(metadata["status"]) if "status" in required else None,
        details=_details(metadata.get("details")),
        legacy=_legacy(metadata.get("legacy")),
        provenance=provenance,
    )


def _is_wallet(identifier: object) -> bool:
    try:
        return type(identifier) is str and canonical(identifier, "wallet") == identifier
    except InvalidMessage:
        return False


def _members(members: object, provenance: Provenance | None) -> tuple[str, ...]:
    # The creator may stand beside the participants; what was imported is as large as it was.
    most = MAX_PARTICIPANTS + 1 if provenance is None else None
    if type(members) is not list or not members or (most is not None and len(members) > most):
        raise MalformedEvent("members is not a list of wallets of the right length")
    if not all(_is_wallet(member) and not is_thread(member) for member in members):
        raise MalformedEvent("one of members is not a wallet in its canonical form")
    if len(set(members)) != len(members):
        raise MalformedEvent("members names a wallet twice")
    return tuple(members)


def _status(status: Any) -> Status:
    try:
        return Status(status)
    except ValueError:
        raise MalformedEvent("status is not known") from None


def _details(details: object) -> str | None:
    if details is not None and (type(details) is not str or HEX_DIGEST.fullmatch(details) is None):
        raise MalformedEvent("details is not a SHA-256 in hex")
    return details


def _legacy(legacy: object) -> str | None:
    if legacy is not None and (type(legacy) is not str or not 0 < len(legacy) <= MAX_LEGACY_ID):
        raise MalformedEvent("legacy is not an id")
    return legacy


@dataclass(slots=True)
class Span:
    """A membership: from after the position ``joined`` to before ``left`` (None: to this day)."""

    joined: int
    left: int | None = None

    def covers(self, position: int) -> bool:
        return self.joined < position and (self.left is None or position < self.left)


@dataclass(slots=True)
class Thread:
    """A thread at a ledger position."""

    id: str
    creator: str
    created: int
    position: int
    """Of its last event."""
    status: Status = Status.ACTIVE
    details: str | None = None
    legacy: str | None = None
    spans: dict[str, list[Span]] = field(default_factory=dict)
    """All who ever were members, in the order in which they came."""

    @property
    def members(self) -> tuple[str, ...]:
        """Who is a member now, in the order of coming."""
        return tuple(wallet for wallet, spans in self.spans.items() if spans[-1].left is None)

    @property
    def founders(self) -> frozenset[str]:
        """Who was in it when it began."""
        return frozenset(
            wallet for wallet, spans in self.spans.items() if spans[0].joined == self.created
        )

    def has(self, wallet: str) -> bool:
        spans = self.spans.get(wallet)
        return spans is not None and spans[-1].left is None

    def had(self, wallet: str, position: int) -> bool:
        """Whether ``wallet`` was a member at a position."""
        return any(span.covers(position) for span in self.spans.get(wallet, ()))


def admit(thread: Thread | None, wallet: str) -> Thread:
    """The thread, when ``wallet`` may write to it. Raises NotAMember or InvalidMessage.

    A thread that does not exist is refused as one that the wallet is not in.
    """
    thread = require_member(thread, wallet)
    if thread.status is not Status.ACTIVE:
        raise InvalidMessage("recipient", "the thread is not active")
    return thread


def require_member(thread: Thread | None, wallet: str) -> Thread:
    """The thread, when ``wallet`` is a member. Raises NotAMember."""
    if thread is None or not thread.has(wallet):
        raise NotAMember("you are not a member of such a thread")
    return thread


def check(thread: Thread | None, event: ThreadEvent) -> None:
    """Whether ``event`` may happen to ``thread``. Raises NotAMember or InvalidMessage."""
    if event.change is Change.CREATED:
        if thread is not None:
            raise InvalidMessage("thread", "the thread exists")
        if event.wallet not in event.members:
            raise InvalidMessage("members", "the creator must be a member")
        return
    if thread is not None and event.provenance is not None:
        return
    thread = require_member(thread, event.wallet)
    if thread.status is Status.DELETED:
        raise InvalidMessage("thread", "the thread is deleted, for good")
    if event.change is Change.LEFT:
        if event.wallet == thread.creator:
            raise InvalidMessage("thread", "the creator cannot leave: archive or delete the thread")
        return
    if event.wallet != thread.creator:
        raise NotAMember("only the thread's creator may do this")
    if event.change is Change.ADDED:
        if any(thread.has(member) for member in event.members):
            raise InvalidMessage("members", "one of members is in the thread")
        if len(thread.members) - 1 + len(event.members) > MAX_PARTICIPANTS:
            raise InvalidMessage("members", f"a thread has at most {MAX_PARTICIPANTS} participants")
    elif event.change is Change.REMOVED:
        if not all(thread.has(member) for member in event.members):
            raise InvalidMessage("members", "one of members is not in the thread")
        if thread.creator in event.members:
            raise InvalidMessage("members", "the creator cannot be removed")


def fold(thread: Thread | None, event: ThreadEvent, position: int) -> Thread:
    """The state after ``event`` at ``position``. Raises as ``check``, and then nothing changes."""
    check(thread, event)
    if thread is None:
        return Thread(
            event.thread,
            event.wallet,
            position,
            position,
            details=event.details,
            legacy=event.legacy,
            spans={member: [Span(position)] for member in event.members},
        )
    for member in (event.wallet,) if event.change is Change.LEFT else event.members:
        if event.change is Change.ADDED:
            if not thread.has(member):
                spans = thread.spans.pop(member, [])
                thread.spans[member] = [*spans, Span(position)]
        elif thread.has(member):
            thread.spans[member][-1].left = position
    if event.status is not None:
        thread.status = event.status
    thread.position = position
    return thread


def fold_all(events: Sequence[tuple[int, ThreadEvent]], thread: Thread | None = None) -> Thread:
    """The state after ``events``, (position, event) in order; what breaks a rule changes nothing.

    Raises ValueError when there is no thread after them.
    """
    for position, event in events:
        try:
            thread = fold(thread, event, position)
        except Refusal:
            continue
    if thread is None:
        raise ValueError("no event creates the thread")
    return thread

"""What a wallet may ask of threads: to begin one, to change it, to write to it by the old contract.

Each request is decided when its turn in the ledger's order comes, by the rules of
``core/thread.py``, committed, applied, and told to the members. Asking for what is so already logs
nothing, so a request whose answer was lost can be sent again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plugins.secure_chat.core.frames import ThreadNotice, encode_frame
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.legacy_message import LegacyMessage, keyed_message_id
from plugins.secure_chat.core.records import EventDraft, Receipt, Record
from plugins.secure_chat.core.thread import (
    MAX_PARTICIPANTS,
    SALT_SIZE,
    Change,
    Status,
    Thread,
    ThreadEvent,
    admit,
    check,
    details_body,
    details_hash,
    fold,
    is_thread,
    keyed_thread_id,
    require_member,
    thread_id,
)
from plugins.secure_chat.errors import (
    InvalidMessage,
    MessageTooLarge,
    NotAMember,
    NotStored,
    Refusal,
)
from plugins.secure_chat.service import ChatService
from plugins.secure_chat.threads.book import ThreadBook
from plugins.secure_chat.threads.index import Posted, Written

KEY_HEADER: Final = "Idempotency-Key"
MAX_KEY: Final = 128
MAX_DETAILS: Final = 16 << 10  # bytes of a title and metadata
MAX_DEPTH: Final = 32  # of metadata; writers of JSON end at some depth, not all at the same
NO_DETAILS: Final = details_body(None, {})


@dataclass(frozen=True, slots=True)
class ThreadView:
    """A thread as its members see it. Title and metadata are None and empty when they were lost."""

    state: Thread
    title: str | None
    metadata: dict[str, Any]
    created_at: str


class _Unchanged(Refusal):
    """What is asked for is so already."""


class Threads:
    """Requests about threads, over one service."""

    def __init__(self, service: ChatService, book: ThreadBook) -> None:
        self._service = service
        self._book = book

    # -- reading ------------------------------------------------------------------------------

    async def get(self, wallet: str, thread: str) -> Thread:
        """The thread's state. Raises NotAMember unless ``wallet`` is in it."""
        return require_member(await self.find(thread), wallet)

    async def find(self, thread: str) -> Thread | None:
        """The thread's state, whoever asks; None when there is none."""
        if not is_thread(thread):
            return None
        await self._book.fetch([thread], self._end)
        return self._book.get(thread)

    async def view(self, wallet: str, thread: str) -> ThreadView:
        """The thread with its title and metadata. Raises NotAMember."""
        return (await self.views([await self.get(wallet, thread)]))[0]

    async def views(self, states: Sequence[Thread]) -> list[ThreadView]:
        """``states`` with their titles and metadata."""
        found = await self._beginnings(states)
        return [_view(state, *found[state.id]) for state in states]

    # -- changing -----------------------------------------------------------------------------

    async def create(
        self,
        wallet: str,
        members: Sequence[str],
        title: str | None,
        metadata: Mapping[str, Any],
        field: str = "members",
        key: str | None = None,
    ) -> ThreadView:
        """Begin a thread of ``wallet`` and ``members``, 1 to 100 of them.

        ``field``: what the request calls them. ``key``: the caller's own name for the request; with
        the same key the thread that is there already is given. What is logged is answered also
        while the mailbox cannot be written. Raises InvalidMessage for a key of another request.
        """
        names = _wallets(members, field)
        if wallet not in names:
            names.append(wallet)
        if key is None:
            thread = thread_id(os.urandom(16))
        else:
            thread = keyed_thread_id(_checked(key), wallet)
        details = await self._keep(title, metadata)
        event = ThreadEvent(Change.CREATED, thread, wallet, tuple(names), details=details)
        try:
            state = await self._change(thread, lambda state: event if state is None else None)
        except NotStored as logged:
            state = fold(None, event, logged.receipt.position)
            return ThreadView(state, title, dict(metadata), logged.receipt.timestamp)
        created_at, body = (await self._beginnings([state]))[state.id]
        if key is not None:
            same = _has_details(state.details, body, details_body(title, metadata))
            if not same or state.founders != set(names):
                raise _key_of_another()
        return _view(state, created_at, body)

    async def add(self, wallet: str, thread: str, members: Sequence[str]) -> Thread:
        """Take ``members`` in, those who are in it already excepted."""
        names = _wallets(members, "members")

        def added(state: Thread) -> ThreadEvent | None:
            new = tuple(name for name in names if not state.has(name))
            return ThreadEvent(Change.ADDED, thread, wallet, new) if new else None

        return await self._change(thread, _by_creator(wallet, added))

    async def remove(self, wallet: str, thread: str, member: str) -> Thread:
        """Take ``member`` out; ``wallet`` itself leaves."""
        name = canonical(member, "member")

        def removed(state: Thread) -> ThreadEvent | None:
            gone = ThreadEvent(Change.REMOVED, thread, wallet, (name,))
            return gone if state.has(name) else None

        if name == wallet:
            left = ThreadEvent(Change.LEFT, thread, wallet)
            return await self._change(thread, lambda _: left)
        return await self._change(thread, _by_creator(wallet, removed))

    async def set_status(self, wallet: str, thread: str, status: Status) -> Thread:
        """Give the thread a status. DELETED is final."""

        def changed(state: Thread) -> ThreadEvent | None:
            event = ThreadEvent(Change.STATUS, thread, wallet, status=status)
            return event if state.status is not status else None

        return await self._change(thread, _by_creator(wallet, changed))

    async def post(
        self,
        wallet: str,
        thread: str,
        content_hash: str,
        size: int,
        content_type: str,
        message_type: str,
        metadata: Mapping[str, Any],
        key: str | None = None,
    ) -> Written:
        """Log a message of the legacy contract: a hash of content that is elsewhere.

        ``key``: the caller's own name for the request; with the same key the message that is there
        already is given. What is logged is answered also while the mailbox cannot be written.
        Raises InvalidMessage for a key of another request, and OutcomeUnknown when it is not known
        whether it was logged.
        """
        known = None if key is None else keyed_message_id(_checked(key), wallet)
        details = await self._keep(None, metadata)
        message = LegacyMessage(
            wallet, thread, content_hash, size, content_type, message_type, details, known
        )
        found: Posted | None = None

        def look() -> None:
            nonlocal found
            found = None if known is None else self._service.mailbox.posted(known)

        def decide() -> EventDraft:
            admit(self._book.get(thread), wallet)
            if found is not None:
                if not _is_same(found, message, details_body(None, metadata)):
                    raise _key_of_another()
                raise _Unchanged("it is there already")
            return message.draft()

        with self._book.holding(thread):
            await self.find(thread)
            try:
                receipt = await self._service.log(
                    decide, lambda _: None, self._storing(message.draft()), look
                )
            except NotStored as logged:
                receipt = logged.receipt
            except _Unchanged:
                assert found is not None  # noqa: S101 (that is why)
                return found.written
        return Written(
            receipt.position,
            wallet,
            known or receipt.event_id,
            content_hash,
            size,
            receipt.timestamp,
            message_type,
            content_type,
            details,
            None,
        )

    async def _beginnings(self, states: Sequence[Thread]) -> dict[str, tuple[str, bytes | None]]:
        """When each of ``states`` began, by id, and its title and metadata if they are here."""
        mailbox = self._service.mailbox
        return await self._service.read(
            lambda: mailbox.thread_beginnings([state.id for state in states])
        )

    async def _change(
        self, thread: str, make: Callable[[Thread | None], ThreadEvent | None]
    ) -> Thread:
        """Log the event that ``make`` gives for the thread as it is then, and tell the members."""
        event: ThreadEvent | None = None

        def decide() -> EventDraft:
            nonlocal event
            state = self._book.get(thread)
            event = make(state)
            if event is None:
                raise _Unchanged("it is so already")
            check(state, event)
            return event.draft()

        def apply(receipt: Receipt) -> None:
            assert event is not None  # noqa: S101 (decided before it was committed)
            state = self._book.apply(event, receipt.position)
            if state is not None:
                self._tell(event, state)

        def store(receipt: Receipt) -> None:
            assert event is not None  # noqa: S101 (decided before it was committed)
            self._storing(event.draft())(receipt)

        with self._book.holding(thread):
            await self.find(thread)
            with contextlib.suppress(_Unchanged):
                await self._service.log(decide, apply, store)
            state = self._book.get(thread)
        assert state is not None  # noqa: S101 (it was changed, or found to be so already)
        return state

    def _tell(self, event: ThreadEvent, state: Thread) -> None:
        """Members, and who has just been taken out, hear of a change."""
        members = state.members
        notice = encode_frame(
            ThreadNotice(
                state.id,
                str(event.change),
                state.position,
                event.wallet,
                members,
                str(state.status),
            )
        )
        for wallet in dict.fromkeys((*members, *event.members, event.wallet)):
            self._service.hub.to_wallet(wallet, notice)

    def _storing(self, draft: EventDraft) -> Callable[[Receipt], None]:
        mailbox = self._service.mailbox
        return lambda receipt: mailbox.store_event(_record(draft, receipt))

    async def _keep(self, title: str | None, metadata: Mapping[str, Any]) -> str | None:
        """Keep texts beside the ledger, and give the hash that goes into it; None when empty."""
        if _depth(metadata) > MAX_DEPTH:
            raise InvalidMessage("metadata", "metadata is nested too deeply")
        body = details_body(title, metadata)
        if body == NO_DETAILS:
            return None
        if len(body) > MAX_DETAILS:
            raise MessageTooLarge(f"title and metadata are over {MAX_DETAILS} bytes")
        salt = os.urandom(SALT_SIZE)
        digest = details_hash(salt, body)
        mailbox = self._service.mailbox
        await self._service.write(lambda: mailbox.keep_details(digest, salt, body))
        # crash point: kept, and no event names it; nobody will ask for it
        return digest

    def _end(self) -> int:
        return self._service.delivered_position


def _view(state: Thread, created_at: str, body: bytes | None) -> ThreadView:
    texts = json.loads(body or NO_DETAILS)
    return ThreadView(state, texts["title"], texts["metadata"], created_at)


def _by_creator(
    wallet: str, make: Callable[[Thread], ThreadEvent | None]
) -> Callable[[Thread | None], ThreadEvent | None]:
    """``make`` for the creator alone, also where nothing would change."""

    def guarded(state: Thread | None) -> ThreadEvent | None:
        state = require_member(state, wallet)
        if state.creator != wallet:
            raise NotAMember("only the thread's creator may do this")
        return make(state)

    return guarded


def _checked(key: str) -> str:
    if not (1 <= len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise InvalidMessage(KEY_HEADER, f"{KEY_HEADER} is 1 to {MAX_KEY} printable characters")
    return key


def _key_of_another() -> InvalidMessage:
    return InvalidMessage(KEY_HEADER, f"this {KEY_HEADER} was used for another request")


def _is_same(found: Posted, message: LegacyMessage, body: bytes) -> bool:
    """Whether ``message`` with the metadata ``body`` is the one that was posted."""
    there = found.written
    return (
        found.thread == message.thread
        and there.content == message.content
        and there.size == message.size
        and there.content_type == message.content_type
        and there.message_type == message.message_type
        and _has_details(there.details, found.body, body)
    )


def _has_details(digest: str | None, body: bytes | None, asked: bytes) -> bool:
    """Whether an event with these details was asked for with those; lost ones are not held
    against a caller."""
    if digest is None:
        return asked == NO_DETAILS
    return body is None or body == asked


def _wallets(members: Sequence[str], field: str) -> list[str]:
    if not 1 <= len(members) <= MAX_PARTICIPANTS:
        raise InvalidMessage(field, f"name 1 to {MAX_PARTICIPANTS} of them")
    names = list(dict.fromkeys(canonical(member, field) for member in members))
    if any(is_thread(name) for name in names):
        raise InvalidMessage(field, "a thread cannot be a member")
    return names


def _depth(value: object) -> int:
    """How deep ``value``, parsed from JSON, is nested: 0 for a string, 1 for an empty object."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _record(draft: EventDraft, receipt: Receipt) -> Record:
    """The committed event in a ledger's terms; what chains it is not asked for."""
    return Record(
        receipt.position,
        receipt.event_id,
        draft.event_type,
        draft.wallet,
        draft.value,
        draft.metadata,
        draft.signature,
        receipt.timestamp,
        receipt.event_hash,
        "",
    )

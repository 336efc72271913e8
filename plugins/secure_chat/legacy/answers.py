"""The legacy contract, answered by the chat: the same threads, in the words of ``contract.py``.

A thread that had an id before is shown under that one. What is posted here is a hash of content
that is elsewhere: it is logged as LEGACY_MESSAGE, which nobody is rewarded for. Messages of the
other contract are shown too, as what they are: encrypted.
"""

from __future__ import annotations

from plugins.secure_chat.core.thread import Span, Status, is_thread, require_member
from plugins.secure_chat.core.thread import Thread as State
from plugins.secure_chat.legacy.contract import (
    ENCRYPTED,
    LARGEST_PAGE,
    TEXT,
    Message,
    MessageList,
    NewMessage,
    NewThread,
    StatusChange,
    Thread,
    ThreadList,
)
from plugins.secure_chat.service import ChatService
from plugins.secure_chat.threads.index import Written
from plugins.secure_chat.threads.requests import Threads, ThreadView


class NoSuchThread(LookupError):
    """The contract tells a thread that does not exist from one that the caller is not in."""


class LegacyAnswers:
    """Answers to ``wallet``, which is authenticated. Raises NoSuchThread or a Refusal."""

    def __init__(self, service: ChatService, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    async def create(self, wallet: str, new: NewThread, key: str | None) -> Thread:
        return _thread(
            await self._threads.create(
                wallet, new.participants, new.title, new.metadata or {}, "participants", key
            )
        )

    async def list_threads(self, wallet: str, limit: int, offset: int) -> ThreadList:
        mailbox, end = self._service.mailbox, self._service.delivered_position
        states, total = await self._service.read(
            lambda: mailbox.threads_of(
                wallet, end=end, limit=min(limit, LARGEST_PAGE), offset=offset
            )
        )
        views = await self._threads.views(states)
        return ThreadList(threads=[_thread(view) for view in views], total=total)

    async def thread(self, wallet: str, shown: str) -> Thread:
        state = require_member(await self._find(shown), wallet)
        return _thread((await self._threads.views([state]))[0])

    async def set_status(self, wallet: str, shown: str, status: Status) -> StatusChange:
        state = await self._find(shown)
        state = await self._threads.set_status(wallet, state.id, status)
        mailbox, position = self._service.mailbox, state.position
        event_id = await self._service.read(lambda: mailbox.event_id(position))
        return StatusChange(transaction_id=event_id)

    async def post(self, wallet: str, new: NewMessage, key: str | None) -> Message:
        state = await self._find(new.thread_id)
        written = await self._threads.post(
            wallet,
            state.id,
            new.content_hash,
            new.content_size,
            new.content_type,
            new.message_type,
            new.metadata or {},
            key,
        )
        return _message(shown_id(state), written)

    async def messages(
        self, wallet: str, shown: str, limit: int, before: str | None
    ) -> MessageList:
        state = require_member(await self._find(shown), wallet)
        spans: list[Span] = list(state.spans[wallet])
        mailbox, end = self._service.mailbox, self._service.delivered_position
        found, total = await self._service.read(
            lambda: mailbox.written(
                state.id, spans, end=end, before=before, limit=min(limit, LARGEST_PAGE)
            )
        )
        name = shown_id(state)
        return MessageList(
            messages=[_message(name, one) for one in found], total=total, thread_id=name
        )

    async def _find(self, shown: str) -> State:
        thread: str | None = shown
        if not is_thread(shown):
            mailbox = self._service.mailbox
            thread = await self._service.read(lambda: mailbox.thread_of_legacy_id(shown))
        state = None if thread is None else await self._threads.find(thread)
        if state is None:
            raise NoSuchThread
        return state


def shown_id(state: State) -> str:
    """The id under which the legacy contract knows a thread."""
    return state.id if state.legacy is None else state.legacy


def _thread(view: ThreadView) -> Thread:
    state = view.state
    return Thread(
        thread_id=shown_id(state),
        creator_id=state.creator,
        participants=list(state.members),
        created_at=view.created_at,
        status=state.status,
        metadata=view.metadata,
        transaction_id=shown_id(state),
    )


def _message(thread: str, one: Written) -> Message:
    message_type = ENCRYPTED if one.message_type is None else one.message_type
    if one.origin is not None:
        message_type = message_type or TEXT  # not every export says it
    return Message(
        message_id=one.id,
        thread_id=thread,
        sender_id=one.sender,
        content_hash=one.content,
        content_size=one.size or 0,
        timestamp=one.timestamp,
        message_type=message_type,
        transaction_id=one.id,
    )

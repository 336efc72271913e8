"""What THREAD and STAGE events decide about a ledger: who was a member where, and at which stage.

Folds for ``history.py``. The rules are ``core/thread.py`` and ``core/stage.py``; here they are only
asked of what stands in a file.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from plugins.secure_chat.core import legacy_message, stage, thread
from plugins.secure_chat.core.chain import MessageCheck
from plugins.secure_chat.core.legacy_message import LEGACY_MESSAGE
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.stage import STAGE, Stage
from plugins.secure_chat.core.thread import THREAD, Span, Status, admit, fold, is_thread
from plugins.secure_chat.errors import Refusal


@dataclass(slots=True)
class _Past:
    """A thread at every position: memberships, and its status from each change on."""

    spans: dict[str, list[Span]]
    changed_at: list[int]
    statuses: list[Status]


@dataclass(slots=True)
class MembershipCheck:
    """Whether a message to a thread is of a member, and the thread was open. Picklable."""

    past: dict[str, _Past] = field(default_factory=dict)

    def __call__(self, record: Record, event: MessageEvent) -> str | None:
        """Why the message at the record's position cannot stand there, or None."""
        if not is_thread(event.recipient):
            return None
        past = self.past.get(event.recipient)
        if past is None:
            return "a message to a thread that does not exist"
        spans = past.spans.get(event.sender, ())
        if not any(span.covers(record.position) for span in spans):
            return "its sender was not a member of the thread there"
        change = bisect_left(past.changed_at, record.position) - 1
        if change < 0 or past.statuses[change] is not Status.ACTIVE:
            return "the thread was not active there"
        return None


class ThreadHistory:
    """Folds threads, and holds the messages of the legacy contract to them at once."""

    types: frozenset[str] = frozenset((THREAD, LEGACY_MESSAGE))

    def __init__(self) -> None:
        self._threads: dict[str, thread.Thread] = {}
        self._check = MembershipCheck()

    def take(self, record: Record) -> str | None:
        try:
            if record.event_type == LEGACY_MESSAGE:
                message = legacy_message.from_record(record)
                if message.provenance is None:
                    admit(self._threads.get(message.thread), message.sender)
                return None
            event = thread.from_record(record)
            state = fold(self._threads.get(event.thread), event, record.position)
        except Refusal as refused:
            return f"the thread's rules do not allow it: {refused.detail}"
        self._threads[state.id] = state
        past = self._check.past.setdefault(state.id, _Past(state.spans, [], []))
        if not past.statuses or past.statuses[-1] is not state.status:
            past.changed_at.append(record.position)
            past.statuses.append(state.status)
        return None

    def check(self) -> MessageCheck | None:
        """A message to a thread must be a member's, also where no thread was ever begun."""
        return self._check


class StageHistory:
    """Holds each move to start where the one before it led."""

    types: frozenset[str] = frozenset((STAGE,))

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def take(self, record: Record) -> str | None:
        try:
            self._stage = stage.from_record(record, self._stage).after
        except MalformedEvent as error:
            return str(error)
        return None

    def check(self) -> MessageCheck | None:
        """Messages are not held to the stage: where it begins is not in the ledger."""
        return None

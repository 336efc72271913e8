"""History folds for tests, in a module of their own: workers import their checks by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import Record


@dataclass(frozen=True)
class LoggedInBefore:
    """Holds a message to its sender's LOGIN: it must stand before it."""

    logins: dict[str, int]

    def __call__(self, record: Record, event: MessageEvent) -> str | None:
        at = self.logins.get(event.sender)
        return None if at is not None and at < record.position else "its sender had not logged in"


@dataclass
class Logins:
    """A rule that no real ledger has: every wallet logs in once, before it writes."""

    types: frozenset[str] = frozenset(("LOGIN",))
    logins: dict[str, int] = field(default_factory=dict)

    def take(self, record: Record) -> str | None:
        if record.wallet in self.logins:
            return "the wallet has logged in already"
        self.logins[record.wallet] = record.position
        return None

    def check(self) -> LoggedInBefore:
        return LoggedInBefore(self.logins)

"""Signature checks for tests, in a module of their own: workers import them by name."""

from __future__ import annotations

import os
import signal

from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import Record


def accept_even(record: Record, event: MessageEvent) -> bool | None:
    """Verifies messages with an even seq, and knows nothing of the others."""
    return True if event.seq % 2 == 0 else None


def refuse_position_40(record: Record, event: MessageEvent) -> bool | None:
    """Knows of one bad signature, by its absolute position."""
    return record.position != 40


def die(record: Record, event: MessageEvent) -> bool | None:
    """Kills the process that asks."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None

"""The events that are ours, by type, and the rule for the shape of each: one line a type.

An audit holds every record of these types to its rule; a record of another type is the host's, and
whatever it says is right. MESSAGE is not here: hosts logged events of that name before, and
``message_event.py`` tells them apart. What follows from many events is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from plugins.secure_chat.core import identity_event, legacy_message, migration_event, stage, thread
from plugins.secure_chat.core.records import Record

SHAPES: Final[Mapping[str, Callable[[Record], object]]] = MappingProxyType(
    {
        identity_event.IDENTITY: identity_event.from_record,
        legacy_message.LEGACY_MESSAGE: legacy_message.from_record,
        migration_event.MIGRATION: migration_event.from_record,
        stage.STAGE: stage.from_record,
        thread.THREAD: thread.from_record,
    }
)
"""Each raises MalformedEvent, whose text names the rule and holds no user data."""

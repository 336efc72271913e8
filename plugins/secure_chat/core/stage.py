"""Stages of replacing the legacy route, and the STAGE event that moves from one to the next.

Here are the stages, the moves that there are, and the event; what a stage does to a request is in
``legacy/``. The ledger's last STAGE event says the stage; a ledger without one has not moved yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from plugins.secure_chat.core.records import EventDraft, MalformedEvent, Record
from plugins.secure_chat.errors import ConfigurationError

STAGE: Final = "STAGE"
WALLET: Final = "secure-chat"  # events of the chat itself, which are no wallet's doing


class Stage(StrEnum):
    """How far the legacy route is replaced; in the order of the way."""

    LEGACY = "legacy"
    """The host's own route answers; the chat is dark."""
    SHADOW = "shadow"
    """As before, and each read is compared with what the chat would have answered."""
    DUAL = "dual"
    """The chat answers both contracts, and the host's own records are kept up besides."""
    V2 = "v2"
    """The chat answers both contracts."""
    RETIRED = "retired"
    """The legacy contract is gone. There is no way back."""

    @property
    def is_dark(self) -> bool:
        """Whether the chat takes nothing: no message, no event, no reward."""
        return self in (Stage.LEGACY, Stage.SHADOW)


ORDER: Final = tuple(Stage)


class NoSuchMove(ConfigurationError):
    """A move that is not to a neighbouring stage, or back from ``retired``."""


@dataclass(frozen=True, slots=True)
class StageMove:
    """What a STAGE event says."""

    before: Stage
    after: Stage

    def draft(self) -> EventDraft:
        """The event to log."""
        return EventDraft(STAGE, WALLET, {"from": str(self.before), "to": str(self.after)})


def move(current: Stage, to: Stage) -> StageMove:
    """The move from ``current`` to ``to``. Raises NoSuchMove, one line that says what there is."""
    if current is Stage.RETIRED:
        raise NoSuchMove("the legacy route is retired; there is no way back")
    place = ORDER.index(current)
    neighbours = ORDER[max(0, place - 1) : place] + ORDER[place + 1 : place + 2]
    if to not in neighbours:
        raise NoSuchMove(f"from {current} a move leads to {' or '.join(neighbours)} only")
    return StageMove(current, to)


def from_record(record: Record, current: Stage | None = None) -> StageMove:
    """The move in a STAGE record, which must start at ``current`` if that is known.

    Raises MalformedEvent for any other record.
    """
    metadata = record.metadata
    if record.event_type != STAGE:
        raise MalformedEvent("it is not a STAGE")
    if record.wallet != WALLET or record.value not in (0, "0"):
        raise MalformedEvent("its wallet or its value is not that of a STAGE")
    if metadata.keys() != {"from", "to"}:
        raise MalformedEvent("its metadata has a field too many or too few")
    try:
        found = move(Stage(metadata["from"]), Stage(metadata["to"]))
    except (ValueError, NoSuchMove):
        raise MalformedEvent("it is no move between neighbouring stages") from None
    if current is not None and found.before is not current:
        raise MalformedEvent("it does not start at the stage before it")
    return found

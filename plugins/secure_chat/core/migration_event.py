"""The MIGRATION event: what the ledger keeps of taking over a host's earlier data.

``adopted`` pins the head of the ledger that was there before; ``started`` and ``finished`` enclose
the events that came from one export, ``verified`` says that all of them were compared, and with
which files; ``failed`` that a later comparison did not come to that. Only counts and hashes are in
them. Here live the events, and what they say together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from plugins.secure_chat.core.records import EventDraft, Head, MalformedEvent, Record
from plugins.secure_chat.core.stage import WALLET

MIGRATION: Final = "MIGRATION"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST: Final = (1 << 53) - 1


class Step(StrEnum):
    """What has happened."""

    ADOPTED = "adopted"
    STARTED = "started"
    FINISHED = "finished"
    VERIFIED = "verified"
    FAILED = "failed"


class Counts(NamedTuple):
    """What became of the records of one export: each is in exactly one of the others."""

    records: int
    threads: int = 0
    messages: int = 0
    statuses: int = 0
    duplicates: int = 0  # known from an earlier record, of this export or another
    mirrored: int = 0  # written by the chat itself
    plaintext: int = 0  # in clear: nothing of them is kept
    refused: int = 0

    @property
    def balanced(self) -> bool:
        """Whether as many came out as went in."""
        return self.records == sum(self[1:])

    def __add__(self, other: tuple[int, ...]) -> Counts:  # type: ignore[override] # field by field
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING: Final = Counts(0)

_FIELDS: Final[dict[Step, tuple[str, ...]]] = {
    Step.ADOPTED: ("position", "head", "prototype", "trust_loop"),
    Step.STARTED: ("source", "bytes"),
    Step.FINISHED: ("source", *Counts._fields),
    Step.VERIFIED: ("position", "refused", "files"),
    Step.FAILED: ("position",),
}


class MigrationEvent(NamedTuple):
    """One MIGRATION event: its step and the fields of that step, as in SPEC.md, "Migration"."""

    step: Step
    values: Mapping[str, int | str]

    def draft(self) -> EventDraft:
        """The event to log."""
        return EventDraft(MIGRATION, WALLET, {"kind": str(self.step), **self.values})


def adopted(head: Head, *, prototype: int, trust_loop: int) -> MigrationEvent:
    """The ledger up to ``head`` was here before, with so many messages of earlier chats."""
    return MigrationEvent(
        Step.ADOPTED,
        {
            "position": head.position,
            "head": head.event_hash,
            "prototype": prototype,
            "trust_loop": trust_loop,
        },
    )


def started(source: str, size: int) -> MigrationEvent:
    """What follows comes from the export whose first ``size`` bytes have the SHA-256 ``source``."""
    return MigrationEvent(Step.STARTED, {"source": source, "bytes": size})


def finished(source: str, counts: Counts) -> MigrationEvent:
    """All of ``source`` is in the ledger."""
    return MigrationEvent(Step.FINISHED, {"source": source, **counts._asdict()})


def verified(position: int, refused: int, files: str) -> MigrationEvent:
    """All up to ``position`` was compared with ``files``, a SHA-256 of what those files were;
    ``refused`` records that were not taken are accepted."""
    return MigrationEvent(Step.VERIFIED, {"position": position, "refused": refused, "files": files})


def failed(position: int) -> MigrationEvent:
    """What was verified before is not so, as of ``position``."""
    return MigrationEvent(Step.FAILED, {"position": position})


def from_record(record: Record) -> MigrationEvent:
    """The event that a MIGRATION record holds. Raises MalformedEvent."""
    if record.event_type != MIGRATION:
        raise MalformedEvent("it is not a MIGRATION")
    metadata = record.metadata
    try:
        step = Step(metadata.get("kind", ""))
    except ValueError:
        raise MalformedEvent("its kind is none that is known") from None
    names = _FIELDS[step]
    if metadata.keys() != {"kind", *names}:
        raise MalformedEvent("its metadata has a field too many or too few")
    if record.wallet != WALLET or record.value not in (0, "0") or record.signature:
        raise MalformedEvent("its wallet, value or signature is not that of a MIGRATION")
    for name in names:
        value = metadata[name]
        if name in ("source", "files"):
            if type(value) is not str or _DIGEST.fullmatch(value) is None:
                raise MalformedEvent(f"{name} is not 64 hex digits")
        elif name != "head" and (type(value) is not int or not 0 <= value <= _MOST):
            raise MalformedEvent(f"{name} is not a count")
    event = MigrationEvent(step, {name: metadata[name] for name in names})
    if step is Step.ADOPTED and (metadata["position"], metadata["head"]) != (
        record.position - 1,
        record.prev_hash,
    ):
        raise MalformedEvent("it pins another head than the record before it")
    if step is Step.FINISHED and not _counts(event).balanced:
        raise MalformedEvent("its counts do not add up")
    return event


def _counts(event: MigrationEvent) -> Counts:
    values: dict[str, Any] = dict(event.values)
    return Counts(*(values[name] for name in Counts._fields))


@dataclass(slots=True)
class Source:
    """An export in the ledger: the size of its file, and its counts once all of it is there."""

    size: int
    counts: Counts | None = None


@dataclass(slots=True)
class Migrations:
    """What all MIGRATION events of a ledger say together; fold them in order."""

    adopted: Head | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    files: str | None = None
    """What was verified, when nothing has changed since; None without a verification."""

    @property
    def verified(self) -> bool:
        return self.files is not None

    def take(self, event: MigrationEvent) -> None:
        values: dict[str, Any] = dict(event.values)
        self.files = values["files"] if event.step is Step.VERIFIED else None
        if event.step is Step.ADOPTED:
            self.adopted = Head(values["position"], values["head"])
        elif event.step is Step.STARTED:
            self.sources.setdefault(values["source"], Source(values["bytes"]))
        elif event.step is Step.FINISHED:
            self.sources[values["source"]].counts = _counts(event)

    @property
    def unfinished(self) -> list[str]:
        """The sources that are not wholly in the ledger."""
        return [source for source in self.sources if self.sources[source].counts is None]

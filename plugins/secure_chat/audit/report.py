"""The result of an audit: values only. How it is printed is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plugins.secure_chat.audit.certificates import Identities
from plugins.secure_chat.core.chain import Chain, Finding
from plugins.secure_chat.core.records import Head


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found. With a finding, every count is of the sound records before it."""

    size: int  # bytes of the sound records: where the head ends in the file
    records: int
    dialects: Mapping[str, int]  # records by family, in the order of the families
    events: Mapping[str, int]  # records by event type, sorted
    unnamed_events: int  # of types that are no identifier, or too many to name
    messages: Mapping[str, int]  # MESSAGE records by kind, sorted
    streams: int
    signed: int  # messages of ours; ``verified`` of them by the check that was given
    unsigned: int
    verified: int
    other_signatures: int  # present on other records, and never judged
    ambiguous: int  # records whose hash does not fix where wallet and event type end
    head: Head  # the last sound record
    finding: Finding | None
    chain: Mapping[str, Any] | None  # what an audit can go on from; None when there is a finding
    identities: Identities | None  # when statements were given
    torn_bytes: int  # after the last newline, when that is the finding

    @property
    def sound(self) -> bool:
        return self.finding is None

    @property
    def unverified(self) -> int:
        """Signed messages whose signature nobody has judged."""
        return self.signed - self.verified

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values. Keys are only ever added."""
        finding = self.finding
        return {
            "verdict": "sound" if finding is None else "broken",
            "finding": finding
            and {
                "line": finding.position,
                "index": finding.index,
                "defect": str(finding.defect),
                "reason": finding.reason,
            },
            "records": self.records,
            "head": {"position": self.head.position, "hash": self.head.event_hash},
            "size": self.size,
            "torn_bytes": self.torn_bytes,
            "dialects": dict(self.dialects),
            "events": dict(self.events),
            "unnamed_events": self.unnamed_events,
            "messages": dict(self.messages),
            "streams": self.streams,
            "signatures": {
                "signed": self.signed,
                "unsigned": self.unsigned,
                "verified": self.verified,
                "unverified": self.unverified,
                "other_events": self.other_signatures,
            },
            "ambiguous": self.ambiguous,
            "identities": self.identities and self.identities.as_json(),
        }


def report(chain: Chain, torn_bytes: int = 0, identities: Identities | None = None) -> Report:
    """The report on ``chain``, which starts at the genesis."""
    tally = chain.tally
    return Report(
        size=chain.size,
        records=chain.position,
        dialects=_sorted(tally.dialects),
        events=_sorted(tally.events),
        unnamed_events=tally.unnamed_events,
        messages=_sorted(tally.messages),
        streams=chain.streams,
        signed=tally.signed,
        unsigned=tally.unsigned,
        verified=tally.verified,
        other_signatures=tally.other_signatures,
        ambiguous=tally.ambiguous,
        head=chain.head,
        finding=chain.finding,
        chain=chain.snapshot() if chain.finding is None and chain.start == 0 else None,
        identities=identities,
        torn_bytes=torn_bytes,
    )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts)}

"""How much a ledger was used, and what it entitles to: figures for people, of a ledger that was
verified. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.core.dialects import EPOCH_TIMESTAMP, read
from plugins.secure_chat.core.message_event import MESSAGE, claims_to_be_secure
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import reward
from plugins.secure_chat.errors import LedgerUnusable
from plugins.secure_chat.rewards.ledger import fold_ledger

MAX_BARS: Final = 60
_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of a ledger: of days, or of positions where the ledger has no dates."""

    label: str
    messages: int
    wallets: int  # that sent


@dataclass(frozen=True, slots=True)
class EpochTotal:
    """What one epoch entitles to. ``amount`` in units of 10^-18 CHR."""

    number: int
    amount: int
    wallets: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Activity:
    """``stretch`` says what a bar is: "a day", "7 days", "1,200 records"."""

    stretch: str
    bars: tuple[Bar, ...]
    epochs: tuple[EpochTotal, ...]


def activity_of(
    ledger: Path, head: Head, progress: Callable[[int, int], None] | None = None
) -> Activity:
    """The figures of the first ``head.position`` records, which an audit found sound."""
    epochs = tuple(
        EpochTotal(
            number=folded.epoch.number,
            amount=sum(reward(folded.epoch.rules, one) for one in folded.epoch.accounts.values()),
            wallets=sum(one.exchanged > 0 for one in folded.epoch.accounts.values()),
            complete=folded.epoch.totals.records == folded.epoch.rules.epoch_records,
        )
        for folded in fold_ledger(ledger, head, progress=progress)
        if folded.epoch.totals.records or folded.epoch.number == 0
    )
    days: dict[str, _Stretch] = {}
    slices = [_Stretch() for _ in range(min(MAX_BARS, max(1, head.position)))]
    dated = True
    with LedgerFile(ledger) as file:
        for span in file.spans(file.size(), _CHUNK, head.position):
            for position, line in enumerate(file.lines(span), start=span.position + 1):
                if b"MESSAGE" not in line:
                    continue
                record = read(line, position)
                if record.event_type != MESSAGE or not claims_to_be_secure(record.metadata):
                    continue
                dated = dated and record.timestamp != EPOCH_TIMESTAMP
                days.setdefault(record.timestamp[:10], _Stretch()).take(record.wallet)
                slices[(position - 1) * len(slices) // head.position].take(record.wallet)
    if dated and (bars := _by_day(days)) is not None:
        return Activity(bars[0], bars[1], epochs)
    width = -(-head.position // len(slices))
    return Activity(
        f"{width:,} records",
        tuple(
            Bar(f"from {1 + -(-head.position * number // len(slices)):,}", one.messages, one.count)
            for number, one in enumerate(slices)
        ),
        epochs,
    )


class _Stretch:
    __slots__ = ("messages", "wallets")

    def __init__(self) -> None:
        self.messages = 0
        self.wallets: set[str] = set()

    def take(self, wallet: str) -> None:
        self.messages += 1
        self.wallets.add(wallet)

    @property
    def count(self) -> int:
        return len(self.wallets)


def _by_day(days: Mapping[str, _Stretch]) -> tuple[str, tuple[Bar, ...]] | None:
    """Bars over the days from the first to the last, as many days a bar as it takes; None when the
    timestamps are no dates, or there are none."""
    try:
        known = sorted(map(_day, days))
    except ValueError:
        return None
    if not known:
        return None
    first, total = known[0], (known[-1] - known[0]).days + 1
    width = -(-total // MAX_BARS)
    merged = [_Stretch() for _ in range(-(-total // width))]
    for day in known:
        one, found = merged[(day - first).days // width], days[day.isoformat()]
        one.messages += found.messages
        one.wallets |= found.wallets
    return "a day" if width == 1 else f"{width} days", tuple(
        Bar((first + timedelta(days=width * number)).isoformat(), one.messages, one.count)
        for number, one in enumerate(merged)
    )


def _day(text: str) -> date:
    """The day that ``text`` is, in the one spelling that the ledger's dialects have. Raises
    ValueError."""
    day = date.fromisoformat(text)
    if day.isoformat() != text:
        raise ValueError("a date in another spelling")
    return day


def refusals_of(metrics: Path) -> dict[str, int]:
    """Refused requests by code, from a saved answer of ``GET /metrics``. The ledger has none: what
    is refused is not logged. Raises LedgerUnusable."""
    try:
        found: dict[str, int] = {}
        for family in text_string_to_metric_families(metrics.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name == "secure_chat_refusals_total":
                    found[sample.labels["code"]] = int(sample.value)
    except (OSError, ValueError, KeyError, OverflowError) as error:
        raise LedgerUnusable("the metrics cannot be read") from error
    return {code: found[code] for code in sorted(found) if found[code] > 0}

"""A22 as a simulation: what honest people and farmers earn under the reward rules.

Each scenario is a stream of messages that is folded by the real rules. The table it makes stands in
docs/rewards.md; ``test_farming.py`` holds the claims and the table.

    python -m tests.simulation.farming            prints the table
    python -m tests.simulation.farming --write    writes it into docs/rewards.md
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import GENESIS_PREV_HASH, Record
from plugins.secure_chat.core.rewards import CHR, RULES, Rules, begin, fold, reward

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "rewards.md"
BEGIN: Final = "<!-- farming: begin (python -m tests.simulation.farming --write) -->"
END: Final = "<!-- farming: end -->"
RING: Final = 1_000
BEST: Final = RULES.warm_up + RULES.block
"""Exchanges of two wallets in an epoch at which a message earns most."""


class Kind(StrEnum):
    """What is claimed of a scenario."""

    HONEST = "people the rules are for"
    NOTHING = "earns nothing"
    RING = "earns less for a message than an honest pair"
    POSING = "cannot be told from friends; bounded like them"


class Sent(NamedTuple):
    """A message; with ``sender`` empty, a record of another kind."""

    sender: str
    recipient: str
    signed: bool = True


FILLER: Final = Sent("", "")


@dataclass(frozen=True)
class Scenario:
    name: str
    kind: Kind
    stream: Callable[[], Iterator[Sent]]


@dataclass(frozen=True)
class Outcome:
    scenario: Scenario
    wallets: int
    messages: int
    paid: int
    most: int
    """To one wallet in one epoch."""

    @property
    def per_message(self) -> Fraction:
        return Fraction(self.paid, self.messages)


def simulate(scenario: Scenario) -> Outcome:
    """Fold the scenario's stream and add up what it earned."""
    state = begin(RULES)
    epochs = []
    senders: dict[str, None] = {}
    messages = 0
    for position, sent in enumerate(scenario.stream(), start=1):
        record = Record(
            position=position,
            event_id="",
            event_type="MESSAGE" if sent.sender else "LOGIN",
            wallet=sent.sender,
            value=0,
            metadata={},
            signature="signed" if sent.signed else "",
            timestamp="",
            event_hash=GENESIS_PREV_HASH,
            prev_hash=GENESIS_PREV_HASH,
        )
        message = None
        if sent.sender:
            messages += 1
            if sent.sender not in senders:
                senders[sent.sender] = None
                # Before the stream: what it costs to register is not a message's.
                for kind, device in ((StatementKind.IDENTITY, ""), (StatementKind.DEVICE, "0")):
                    state.registered.take(sent.sender, IdentityEvent(kind, "ab" * 32, device))
            message = MessageEvent(sent.sender, "0", sent.recipient, "", "", position, 0, 16)
        closed = fold(state, record, message)
        if closed is not None:
            epochs.append(closed)
    rewards = [
        reward(RULES, account)
        for epoch in (*epochs, state.epoch)
        for account in epoch.accounts.values()
    ]
    return Outcome(scenario, len(senders), messages, sum(rewards), max(rewards, default=0))


def most_for_a_message(rules: Rules = RULES) -> Fraction:
    """The most a message can earn: two wallets that talk to each other alone, for a block."""
    return Fraction(
        2 * rules.block * rules.message + rules.conversation, 2 * (rules.warm_up + rules.block)
    )


def exchange(a: str, b: str, count: int) -> Iterator[Sent]:
    for _ in range(count):
        yield Sent(a, b)
        yield Sent(b, a)


def wallet(number: int) -> str:
    return f"0x{number:040x}"


def honest_pairs() -> Iterator[Sent]:
    """500 pairs of friends: 10 to 40 messages from one, up to a quarter fewer or more back."""
    chance = random.Random(22)
    for number in range(RING // 2):
        a, b = wallet(2 * number), wallet(2 * number + 1)
        there = chance.randint(10, 40)
        back = there * chance.randint(75, 125) // 100
        messages = [Sent(a, b)] * there + [Sent(b, a)] * back
        chance.shuffle(messages)
        yield from messages


def honest_community() -> Iterator[Sent]:
    """1,000 people with one to eight friends each, most of the talk with few of them."""
    chance = random.Random(23)
    for number in range(RING):
        for near in range(1, chance.randint(1, 4) + 1):
            other = (number + near * chance.randint(1, 20)) % RING
            messages = [Sent(wallet(number), wallet(other))] * chance.randint(3, 40 // near)
            messages += [Sent(wallet(other), wallet(number))] * chance.randint(3, 40 // near)
            chance.shuffle(messages)
            yield from messages


def self_sends() -> Iterator[Sent]:
    for number in range(RING):
        yield from [Sent(wallet(number), wallet(number))] * 50


def one_way_spam() -> Iterator[Sent]:
    """Ten spammers, 5,000 messages each to 990 wallets; one in fifty answers politely, once."""
    for spammer in range(10):
        for number in range(5_000):
            victim = wallet(10 + number % 990)
            yield Sent(wallet(spammer), victim)
            if number % 990 % 50 == 0 and number < 990:
                yield Sent(victim, wallet(spammer))


def one_way_ring() -> Iterator[Sent]:
    for number in range(RING):
        yield from [Sent(wallet(number), wallet((number + 1) % RING))] * 50


def unsigned_ring() -> Iterator[Sent]:
    return (sent._replace(signed=False) for sent in circulant(1, BEST)())


def circulant(reach: int, count: int) -> Callable[[], Iterator[Sent]]:
    """A ring in which everyone talks to the ``reach`` next ones on both sides, ``count`` times."""

    def stream() -> Iterator[Sent]:
        for number in range(RING):
            for step in range(1, reach + 1):
                yield from exchange(wallet(number), wallet((number + step) % RING), count)

    return stream


def hub() -> Iterator[Sent]:
    """One wallet in the middle, the 999 others talk to it alone."""
    for number in range(1, RING):
        yield from exchange(wallet(0), wallet(number), BEST)


def small_circles() -> Iterator[Sent]:
    """Groups of 32 in which everyone talks to everyone, just enough to be paid."""
    for start in range(0, RING, 32):
        members = range(start, min(start + 32, RING))
        for a in members:
            for b in range(a + 1, members.stop):
                yield from exchange(wallet(a), wallet(b), RULES.warm_up + 1)


def drip_farm() -> Iterator[Sent]:
    """500 pairs that say just enough to be paid, in each of five epochs."""
    for _ in range(5):
        for number in range(RING // 2):
            yield from exchange(wallet(2 * number), wallet(2 * number + 1), RULES.warm_up + 1)
        yield from [FILLER] * (RULES.epoch_records - RING * (RULES.warm_up + 1))


def slow_ring() -> Iterator[Sent]:
    """The two-way ring at its best, again in each of three epochs."""
    for _ in range(3):
        yield from circulant(1, BEST)()
        yield from [FILLER] * (RULES.epoch_records - 2 * RING * BEST)


def chains_of_three() -> Iterator[Sent]:
    for start in range(0, RING - 2, 3):
        yield from exchange(wallet(start), wallet(start + 1), BEST)
        yield from exchange(wallet(start + 1), wallet(start + 2), BEST)


def posing_pairs() -> Iterator[Sent]:
    for number in range(RING // 2):
        yield from exchange(wallet(2 * number), wallet(2 * number + 1), BEST)


def best_ring() -> Scenario:
    """The ring that earns most for a message among those that fit one epoch and were tried."""
    tried = {
        (2 * reach, count): circulant(reach, count)
        for reach in (1, 2, 4, 8)
        for count in (RULES.warm_up + 1, 6, 12, 18, 24, BEST)
        if 2 * reach * count * RING <= RULES.epoch_records
    }
    name = f"best of {len(tried)} rings"
    return max(
        (
            Scenario(
                f"{name}: {reach} neighbours, {count} exchanges", Kind.RING, tried[reach, count]
            )
            for reach, count in tried
        ),
        key=lambda scenario: simulate(scenario).per_message,
    )


def scenarios() -> list[Scenario]:
    return [
        Scenario("500 honest pairs", Kind.HONEST, honest_pairs),
        Scenario("an honest community", Kind.HONEST, honest_community),
        Scenario("self-sends", Kind.NOTHING, self_sends),
        Scenario("one-way spam", Kind.NOTHING, one_way_spam),
        Scenario("ring, one way", Kind.NOTHING, one_way_ring),
        Scenario("ring, both ways, unsigned", Kind.NOTHING, unsigned_ring),
        Scenario("ring, both ways", Kind.RING, circulant(1, BEST)),
        Scenario("ring, both ways, three epochs", Kind.RING, slow_ring),
        Scenario("ring of 8 neighbours", Kind.RING, circulant(4, 12)),
        Scenario("circles of 32, barely paid", Kind.RING, small_circles),
        Scenario("hub and 999 spokes", Kind.RING, hub),
        Scenario("drip farm, five epochs", Kind.RING, drip_farm),
        best_ring(),
        Scenario("chains of three", Kind.POSING, chains_of_three),
        Scenario("posing as 500 pairs of friends", Kind.POSING, posing_pairs),
    ]


def outcomes() -> list[Outcome]:
    return [simulate(scenario) for scenario in scenarios()]


def table(rows: list[Outcome]) -> str:
    """The table of docs/rewards.md. A thousandth of a CHR is written mCHR."""
    honest = rows[0].per_message
    lines = [
        "| scenario | wallets | messages | CHR paid | mCHR a message | of an honest pair's |"
        " most to a wallet in an epoch, CHR |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.scenario.name} | {row.wallets:,} | {row.messages:,} "
            f"| {_decimal(Fraction(row.paid, CHR), 1)} "
            f"| {_decimal(row.per_message * 1000 / CHR, 1)} "
            f"| {_decimal(row.per_message * 100 / honest, 0)} % "
            f"| {_decimal(Fraction(row.most, CHR), 2)} |"
        )
    limit = _decimal(most_for_a_message() * 1000 / CHR, 1)
    lines.append(
        f"| *limit for any wallets whatever they do* | | | | *{limit}* | "
        f"*{_decimal(most_for_a_message() * 100 / honest, 0)} %* "
        f"| *{_decimal(Fraction(RULES.cap, CHR), 2)}* |"
    )
    return "\n".join(lines)


def _decimal(value: Fraction, places: int) -> str:
    scaled = round(value * 10**places)
    whole, rest = divmod(scaled, 10**places)
    return f"{whole:,}.{rest:0{places}d}" if places else f"{whole:,}"


def document_with(text: str, document: str) -> str:
    """``document`` with ``text`` between its marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    text = table(outcomes())
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(document_with(text, DOCUMENT.read_text()))
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()

"""The reward rules: what logged messages earn, as a fold over a ledger's records in order.

Pure and free of simulation: it obeys the host's determinism rules, for it decides money. Amounts
are integers of 10^-18 CHR. No clock, no randomness, no float, no order of a dict or set has a say;
what is not in the ledger cannot be rewarded, and nothing here moves a balance. The rules in words
are ``rules_text``; docs/rewards.md derives them and ADR 0006 weighs them.

A signature counts when it is of a device that was registered at its position, which the ledger
shows. That it is right was checked before it was logged; an audit with the certificates checks it
again, and a ledger with one wrong signature is not sound and earns nothing.

Reading ledgers, keeping statements and feeding the host's CoherenceEngine is ``rewards/``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from plugins.secure_chat.core.identity_event import IDENTITY
from plugins.secure_chat.core.identity_event import from_record as identity_event
from plugins.secure_chat.core.message_event import (
    MalformedMessage,
    MessageEvent,
    claims_to_be_secure,
    from_record,
)
from plugins.secure_chat.core.records import EMPTY, Head, MalformedEvent, Record
from plugins.secure_chat.core.registered import Registered

CHR: Final[int] = 1_000_000_000_000_000_000
"""One CHR in the smallest unit."""

STATEMENT_LABEL: Final[str] = "atlas/secure-chat/v2/reward-statement"
_MESSAGE: Final[str] = "MESSAGE"


class Rules(NamedTuple):
    """The constants of the rules. Every one of them is under the rules' hash."""

    version: str
    epoch_records: int
    """Records of an epoch: epoch 0 holds the positions 1 to epoch_records, and so on."""
    message: int
    """For a message in a paid exchange."""
    conversation: int
    """For beginning a conversation, in ``conversation_parts`` equal parts."""
    conversation_parts: int
    """Over so many first paid exchanges of two wallets, ever, it is paid out."""
    warm_up: int
    """So many first exchanges of two wallets in an epoch are not paid."""
    block: int
    """After so many paid exchanges of two wallets in an epoch, the next ones are worth half."""
    cap: int
    """What a wallet can earn in an epoch."""


RULES: Final[Rules] = Rules(
    version="atlas/secure-chat/v2/reward-rules/1",
    epoch_records=100_000,
    message=100_000_000_000_000_000,
    conversation=300_000_000_000_000_000,
    conversation_parts=10,
    warm_up=2,
    block=32,
    cap=3_500_000_000_000_000_000,
)


def rules_text(rules: Rules) -> tuple[str, ...]:
    """The rules in words, one sentence each. The rules' hash covers them too."""
    return (
        f"An epoch is {rules.epoch_records} ledger records; it begins and ends by position.",
        "A message counts when it is a well-formed MESSAGE event, it bears the signature of a "
        "device that its sender had registered by IDENTITY events before it, and its sender and "
        "recipient are two wallets.",
        "The k-th counted message of a to b and the k-th of b to a in one epoch are an exchange; "
        "it takes place when the later of the two is logged.",
        f"The first {rules.warm_up} exchanges of two wallets in an epoch are not paid.",
        f"In a paid exchange each wallet earns {rules.message}, halved for every {rules.block} "
        "exchanges of the two that were paid before in the epoch.",
        f"In the first {rules.conversation_parts} paid exchanges two wallets ever have, the wallet "
        f"whose message opened the first of these epochs earns a part in {rules.conversation_parts}"
        f" of {rules.conversation} besides.",
        "What a wallet earns with the n-th counterparty that it had a paid exchange with in the "
        "epoch is divided by n.",
        f"No wallet earns more than {rules.cap} in an epoch.",
        "Every division rounds down to an integer of 10^-18 CHR.",
    )


def rules_hash(rules: Rules) -> str:
    """SHA-256, in hex, of the canonical JSON of the constants and the words."""
    return hashlib.sha256(
        _canonical({"constants": rules._asdict(), "text": list(rules_text(rules))})
    ).hexdigest()


@dataclass(slots=True)
class Account:
    """One wallet in one epoch. ``earned`` is before the cap."""

    sent: int = 0
    """Counted messages."""
    exchanged: int = 0
    """Those of them that found their answer."""
    paid: int = 0
    """Those of them that were paid for."""
    counterparties: int = 0
    """Wallets it had a paid exchange with."""
    conversations: int = 0
    """Conversations it began whose first part fell into this epoch."""
    earned: int = 0


@dataclass(slots=True)
class Pair:
    """Two wallets in one epoch; ``low`` sorts before ``high``."""

    opener: str
    low_sent: int = 0
    high_sent: int = 0
    exchanges: int = 0
    low_rank: int = 0
    """Which counterparty of ``low`` the other one is, counted from 1; 0 before anything is paid."""
    high_rank: int = 0


@dataclass(slots=True)
class Conversation:
    """Two wallets for ever: who began, and how many parts of the reward for it were paid out."""

    starter: str
    parts: int = 0


@dataclass(slots=True)
class Totals:
    """What an epoch's records were, so that a reader sees what did not count, and why."""

    records: int = 0
    counted: int = 0
    unsigned: int = 0
    unregistered: int = 0
    """Signed, but by no registered device: nobody could verify it."""
    to_self: int = 0
    not_well_formed: int = 0
    """MESSAGE events of history or of no known shape, and malformed IDENTITY events."""


@dataclass(slots=True)
class Epoch:
    """All that an epoch's statement is made from."""

    rules: Rules
    number: int
    position: int
    """Of the last record that was folded: the ledger head that the statement is computed from."""
    event_hash: str
    accounts: dict[str, Account] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)

    @property
    def head(self) -> Head:
        return Head(self.position, self.event_hash)


@dataclass(slots=True)
class State:
    """The fold so far: the running epoch, and what outlives epochs.

    Between two epochs no more than that is known: there ``snapshot`` and ``restore`` carry it over.
    """

    epoch: Epoch
    conversations: dict[tuple[str, str], Conversation] = field(default_factory=dict)
    registered: Registered = field(default_factory=Registered)

    @property
    def head(self) -> Head:
        """The last record that was folded."""
        return self.epoch.head


class OutOfOrder(ValueError):
    """A record that is not the next one of its chain was folded."""


def begin(rules: Rules = RULES) -> State:
    """The state of an empty ledger."""
    return State(Epoch(rules, 0, EMPTY.position, EMPTY.event_hash))


def message_of(record: Record) -> MessageEvent | None:
    """The well-formed MESSAGE event in a record, or None."""
    if record.event_type != _MESSAGE or not claims_to_be_secure(record.metadata):
        return None
    try:
        return from_record(record)
    except MalformedMessage:
        return None


def fold(state: State, record: Record, message: MessageEvent | None) -> Epoch | None:
    """Take the next record into ``state``, in time that does not depend on the ledger's length.

    ``message`` is ``message_of(record)``, passed in so that it is parsed once. Returns the epoch
    when this record was its last one: it is closed, and the state has no more to do with it. Raises
    OutOfOrder for a record that does not follow the head, by position and by hash, and then nothing
    has changed.
    """
    epoch = state.epoch
    position = record.position
    if position != epoch.position + 1 or record.prev_hash != epoch.event_hash:
        raise OutOfOrder(f"the record at {position} does not follow that at {epoch.position}")
    epoch.position = position
    epoch.event_hash = record.event_hash
    totals = epoch.totals
    totals.records += 1
    if message is not None:
        if message.sender == message.recipient:
            totals.to_self += 1
        elif not record.signature:
            totals.unsigned += 1
        elif state.registered.certificate(message.sender, message.device) is None:
            totals.unregistered += 1
        else:
            totals.counted += 1
            _count(state, message.sender, message.recipient)
    elif record.event_type == _MESSAGE:
        totals.not_well_formed += 1
    elif record.event_type == IDENTITY:
        try:
            state.registered.take(record.wallet, identity_event(record))
        except MalformedEvent:
            totals.not_well_formed += 1
    if totals.records == epoch.rules.epoch_records:
        state.epoch = Epoch(epoch.rules, epoch.number + 1, position, record.event_hash)
        return epoch
    return None


def snapshot(state: State) -> bytes:
    """The state between two epochs, as canonical JSON. Raises ValueError within an epoch."""
    if state.epoch.totals.records:
        raise ValueError("a state is carried over between epochs only")
    return _canonical(
        {
            "rules": rules_hash(state.epoch.rules),
            "epoch": state.epoch.number,
            "position": state.epoch.position,
            "event_hash": state.epoch.event_hash,
            "conversations": [
                [
                    *pair,
                    state.conversations[pair].starter == pair[0],
                    state.conversations[pair].parts,
                ]
                for pair in sorted(state.conversations)
            ],
            "registered": state.registered.rows(),
        }
    )


def restore(data: bytes, rules: Rules = RULES) -> State:
    """The state that ``snapshot`` wrote under the same rules. Raises ValueError.

    It is as good as its source: the next record must follow its head, or ``fold`` refuses it.
    """
    try:
        stored = json.loads(data)
        if stored["rules"] != rules_hash(rules):
            raise ValueError("the snapshot was made under other rules")
        state = State(Epoch(rules, stored["epoch"], stored["position"], stored["event_hash"]))
        for low, high, low_started, parts in sorted(stored["conversations"]):
            starter = low if low_started else high
            state.conversations[(low, high)] = Conversation(starter, parts)
        state.registered = Registered.from_rows(stored["registered"])
    except (KeyError, TypeError) as error:
        raise ValueError("not a snapshot") from error
    return state


def _count(state: State, sender: str, recipient: str) -> None:
    """Count one message, and pay the exchange that it completes, if it does."""
    epoch = state.epoch
    accounts = epoch.accounts
    account = accounts.get(sender)
    if account is None:
        account = accounts[sender] = Account()
    account.sent += 1
    is_low = sender < recipient
    key = (sender, recipient) if is_low else (recipient, sender)
    pair = epoch.pairs.get(key)
    if pair is None:
        pair = epoch.pairs[key] = Pair(sender)
    if is_low:
        pair.low_sent += 1
        answered = pair.low_sent <= pair.high_sent
    else:
        pair.high_sent += 1
        answered = pair.high_sent <= pair.low_sent
    if not answered:
        return
    other = accounts[recipient]  # it has sent, or nothing were answered
    account.exchanged += 1
    other.exchanged += 1
    pair.exchanges += 1
    if pair.exchanges > epoch.rules.warm_up:
        low, high = (account, other) if is_low else (other, account)
        _pay(state, key, pair, low, high)


def _pay(state: State, key: tuple[str, str], pair: Pair, low: Account, high: Account) -> None:
    """Pay one exchange to both wallets, and its part of a conversation begun to one of them."""
    rules = state.epoch.rules
    if pair.low_rank == 0:
        low.counterparties += 1
        high.counterparties += 1
        pair.low_rank = low.counterparties
        pair.high_rank = high.counterparties
    halvings, _ = divmod(pair.exchanges - rules.warm_up - 1, rules.block)
    worth = rules.message >> halvings
    for_low = worth
    for_high = worth
    conversation = state.conversations.get(key)
    if conversation is None:
        conversation = state.conversations[key] = Conversation(pair.opener)
        starter = low if pair.opener == key[0] else high
        starter.conversations += 1
    if conversation.parts < rules.conversation_parts:
        conversation.parts += 1
        part, _ = divmod(rules.conversation, rules.conversation_parts)
        if conversation.starter == key[0]:
            for_low += part
        else:
            for_high += part
    low.paid += 1
    high.paid += 1
    low.earned += divmod(for_low, pair.low_rank)[0]
    high.earned += divmod(for_high, pair.high_rank)[0]


def reward(rules: Rules, account: Account) -> int:
    """What a wallet earned in the epoch, under the cap."""
    return min(account.earned, rules.cap)


def features(account: Account) -> tuple[int, int, int]:
    """The wallet's features for the host's coherence engine, as integers of 10^-18: messages that
    were paid for, counterparties, conversations begun."""
    return (account.paid * CHR, account.counterparties * CHR, account.conversations * CHR)


def statement_line(epoch: Epoch, wallet: str) -> dict[str, object] | None:
    """What the epoch's statement says of one wallet; None when it had no exchange."""
    account = epoch.accounts.get(wallet)
    if account is None or account.exchanged == 0:
        return None
    return {
        "wallet": wallet,
        "sent": account.sent,
        "exchanged": account.exchanged,
        "paid": account.paid,
        "counterparties": account.counterparties,
        "conversations": account.conversations,
        "capped": account.earned > epoch.rules.cap,
        "reward": str(reward(epoch.rules, account)),
    }


def heading(epoch: Epoch) -> dict[str, object]:
    """What a statement says of the epoch and of itself, before any wallet.

    ``complete`` is false while the epoch runs: then it holds for this ledger head, not for ever.
    """
    rules = epoch.rules
    return {
        "statement": STATEMENT_LABEL,
        "rules": {"version": rules.version, "hash": rules_hash(rules)},
        "epoch": epoch.number,
        "first": epoch.number * rules.epoch_records + 1,
        "last": (epoch.number + 1) * rules.epoch_records,
        "complete": epoch.totals.records == rules.epoch_records,
        "ledger": {"position": epoch.position, "event_hash": epoch.event_hash},
    }


def statement(epoch: Epoch) -> bytes:
    """The epoch's reward statement: canonical JSON in ASCII, sorted, without white space.

    The same records give the same bytes on every machine and in any batching, with certificates at
    hand or without. Amounts are decimal strings of 10^-18 CHR, because JSON numbers end at 2^53 in
    many readers. Wallets that had no exchange are counted in the totals alone.
    """
    rules = epoch.rules
    wallets: list[dict[str, object]] = []
    total = 0
    for wallet in sorted(epoch.accounts):
        line = statement_line(epoch, wallet)
        if line is not None:
            total += reward(rules, epoch.accounts[wallet])
            wallets.append(line)
    totals = epoch.totals
    return _canonical(
        {
            **heading(epoch),
            "totals": {
                "records": totals.records,
                "counted": totals.counted,
                "unsigned": totals.unsigned,
                "unregistered": totals.unregistered,
                "to_self": totals.to_self,
                "not_well_formed": totals.not_well_formed,
                "wallets": len(wallets),
                "reward": str(total),
            },
            "wallets": wallets,
        }
    )


def statement_hash(statement_bytes: bytes) -> str:
    """SHA-256 of a statement's bytes, in hex: what to quote and compare."""
    return hashlib.sha256(statement_bytes).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")

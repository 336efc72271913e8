"""core/rewards.py: only logged, signed, answered messages between two wallets earn."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.secure_chat.core.dialects import V1, encode, parse
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import GENESIS_PREV_HASH, Record
from plugins.secure_chat.core.rewards import (
    CHR,
    RULES,
    Account,
    Epoch,
    OutOfOrder,
    Rules,
    State,
    begin,
    features,
    fold,
    message_of,
    restore,
    reward,
    rules_hash,
    rules_text,
    snapshot,
    statement,
    statement_hash,
)

ROOT = Path(__file__).parents[3]
SIGNATURE = base64.b64encode(bytes(64)).decode()
HASH = base64.b64encode(bytes(32)).decode()
NONCE = base64.b64encode(bytes(12)).decode()

# Small numbers that reach every corner of the rules within a few messages.
SMALL = Rules(
    version="test",
    epoch_records=24,
    message=100,
    conversation=31,
    conversation_parts=3,
    warm_up=1,
    block=2,
    cap=400,
)


class Sent(NamedTuple):
    """A message, or with ``sender`` empty a record of another kind.

    ``verified``: by a registered device.
    """

    sender: str
    recipient: str
    signed: bool = True
    verified: bool = True


OTHER = Sent("", "")


def record_at(
    position: int, sent: Sent, prev_hash: str = GENESIS_PREV_HASH
) -> tuple[Record, MessageEvent | None]:
    digest = hashlib.sha256(f"{position} {sent}".encode()).hexdigest()
    record = Record(
        position=position,
        event_id=digest,
        event_type="MESSAGE" if sent.sender else "LOGIN",
        wallet=sent.sender,
        value=0,
        metadata={},
        signature=SIGNATURE if sent.signed and sent.sender else "",
        timestamp="1970-01-01T00:00:00Z",
        event_hash=digest,
        prev_hash=prev_hash,
    )
    if not sent.sender:
        return record, None
    return record, MessageEvent(
        sender=sent.sender,
        device="0" if sent.verified else "9",
        recipient=sent.recipient,
        hash=HASH,
        nonce=NONCE,
        seq=position,
        ts=0,
        size=16,
    )


def take(state: State, position: int, sent: Sent) -> Epoch | None:
    """Fold one message; its sender has registered device 0, and no other."""
    if sent.sender:
        for kind, device in ((StatementKind.IDENTITY, ""), (StatementKind.DEVICE, "0")):
            state.registered.take(sent.sender, IdentityEvent(kind, "ab" * 32, device))
    record, message = record_at(position, sent, state.head.event_hash)
    return fold(state, record, message)


def run(stream: Iterable[Sent], rules: Rules = RULES) -> tuple[State, list[Epoch]]:
    state = begin(rules)
    closed = []
    for position, sent in enumerate(stream, start=1):
        epoch = take(state, position, sent)
        if epoch is not None:
            closed.append(epoch)
    return state, closed


def rewards(stream: Iterable[Sent], rules: Rules = RULES) -> dict[str, int]:
    """Every wallet's reward, over all epochs, running one included."""
    state, closed = run(stream, rules)
    earned: dict[str, int] = {}
    for epoch in (*closed, state.epoch):
        for wallet, account in epoch.accounts.items():
            earned[wallet] = earned.get(wallet, 0) + reward(rules, account)
    return earned


def chat(a: str, b: str, exchanges: int) -> list[Sent]:
    return [Sent(a, b), Sent(b, a)] * exchanges


class Told(NamedTuple):
    """An account as the rules in words have it."""

    sent: int
    exchanged: int
    paid: int
    counterparties: int
    conversations: int
    earned: int


def as_told(stream: list[Sent], rules: Rules) -> list[dict[str, Told]]:
    """The rules, applied sentence by sentence to a whole ledger: slow, and written another way.

    For each epoch the counted messages are listed for each direction of each pair; the k-th of one
    and the k-th of the other are an exchange, placed where the later one is; then exchanges are
    paid in the order of their places.
    """
    result: list[dict[str, Told]] = []
    parts: dict[frozenset[str], tuple[str, int]] = {}
    for start in range(0, max(len(stream), 1), rules.epoch_records):
        places: dict[tuple[str, str], list[int]] = {}
        for place, sent in enumerate(stream[start : start + rules.epoch_records]):
            if sent.sender and sent.sender != sent.recipient and sent.signed and sent.verified:
                places.setdefault((sent.sender, sent.recipient), []).append(place)
        exchanges = sorted(
            (max(one, other), pair, k)
            for pair in places
            if pair[0] < pair[1]
            for k, (one, other) in enumerate(
                zip(places[pair], places.get((pair[1], pair[0]), []), strict=False), start=1
            )
        )
        told: dict[str, dict[str, Any]] = {}
        for (sender, _), where in places.items():
            account = told.setdefault(sender, {"sent": 0, "met": [], "earned": 0, "begun": 0})
            account["sent"] += len(where)
        exchanged: dict[str, int] = {}
        paid: dict[str, int] = {}
        for _, (a, b), k in exchanges:
            for wallet in (a, b):
                exchanged[wallet] = exchanged.get(wallet, 0) + 1
            if k <= rules.warm_up:
                continue
            both = frozenset((a, b))
            if both not in parts:
                first_of_a, first_of_b = places[a, b][0], places[b, a][0]
                starter = a if first_of_a < first_of_b else b
                parts[both] = (starter, 0)
                told[starter]["begun"] += 1
            starter, vested = parts[both]
            for wallet, peer in ((a, b), (b, a)):
                paid[wallet] = paid.get(wallet, 0) + 1
                if peer not in told[wallet]["met"]:
                    told[wallet]["met"].append(peer)
                worth = rules.message // 2 ** ((k - rules.warm_up - 1) // rules.block)
                if wallet == starter and vested < rules.conversation_parts:
                    worth += rules.conversation // rules.conversation_parts
                told[wallet]["earned"] += worth // (told[wallet]["met"].index(peer) + 1)
            parts[both] = (starter, vested + 1)
        result.append(
            {
                wallet: Told(
                    account["sent"],
                    exchanged.get(wallet, 0),
                    paid.get(wallet, 0),
                    len(account["met"]),
                    account["begun"],
                    account["earned"],
                )
                for wallet, account in told.items()
            }
        )
    return result


def accounts_of(epoch: Epoch) -> dict[str, Told]:
    return {
        wallet: Told(
            account.sent,
            account.exchanged,
            account.paid,
            account.counterparties,
            account.conversations,
            account.earned,
        )
        for wallet, account in epoch.accounts.items()
    }


wallets = st.sampled_from(["a", "b", "c", "d"])
streams = st.lists(
    st.builds(
        Sent,
        st.one_of(st.just(""), wallets, wallets, wallets),
        wallets,
        st.sampled_from([True, True, True, True, False]),
        st.sampled_from([True, True, True, True, False]),
    ),
    max_size=120,
)


@settings(max_examples=200)
@given(streams)
def test_the_fold_is_what_the_rules_in_words_say_at_every_position(stream: list[Sent]) -> None:
    state = begin(SMALL)
    closed: list[Epoch] = []
    for position, sent in enumerate(stream, start=1):
        epoch = take(state, position, sent)
        if epoch is not None:
            closed.append(epoch)
        told = as_told(stream[:position], SMALL)
        known = [accounts_of(each) for each in (*closed, state.epoch)]
        assert known[: len(told)] == told
        assert all(not accounts for accounts in known[len(told) :])


@settings(max_examples=50)
@given(streams)
def test_a_live_fold_and_a_recomputation_make_the_same_statement_at_every_position(
    stream: list[Sent],
) -> None:
    live = begin(SMALL)
    for position, sent in enumerate(stream, start=1):
        take(live, position, sent)
        again, _ = run(stream[:position], SMALL)
        assert statement(live.epoch) == statement(again.epoch)
        assert live == again


def most_for_a_message(rules: Rules) -> Fraction:
    """The most that a message can earn: the best two wallets that only talk to each other."""
    return max(
        Fraction(
            2 * sum(rules.message >> ((j - 1) // rules.block) for j in range(1, n + 1))
            + rules.conversation // rules.conversation_parts * min(n, rules.conversation_parts),
            2 * (rules.warm_up + n),
        )
        for n in range(1, 20 * rules.block)
    )


@settings(max_examples=200)
@given(streams)
def test_no_wallets_together_earn_more_for_a_message_than_two_friends_can(
    stream: list[Sent],
) -> None:
    messages = sum(1 for sent in stream if sent.sender)
    assert sum(rewards(stream, SMALL).values()) <= most_for_a_message(SMALL) * messages


@settings(max_examples=100)
@given(streams)
def test_no_wallet_passes_the_cap(stream: list[Sent]) -> None:
    low = replace_cap(150)
    state, closed = run(stream, low)
    for epoch in (*closed, state.epoch):
        body = json.loads(statement(epoch))
        assert all(int(wallet["reward"]) <= 150 for wallet in body["wallets"])


def replace_cap(cap: int) -> Rules:
    return SMALL._replace(cap=cap)


def test_a_wallet_at_its_cap_has_sent_enough_that_splitting_up_earns_no_more() -> None:
    """A22: with the messages that take one wallet to its cap, no set of wallets gets more."""
    own_messages = 0
    stream: list[Sent] = []
    while rewards(stream).get("a", 0) < RULES.cap:
        stream += chat("a", "b", 1)
        own_messages += 1
    assert own_messages == RULES.warm_up + RULES.block == 34
    assert own_messages * most_for_a_message(RULES) <= RULES.cap


def test_an_answered_message_earns_and_the_one_who_began_earns_a_part_more() -> None:
    earned = rewards(chat("a", "b", RULES.warm_up + 1))
    part = RULES.conversation // RULES.conversation_parts
    assert earned == {"a": RULES.message + part, "b": RULES.message}


def test_twenty_messages_each_way_earn_what_the_worked_example_says() -> None:
    """docs/rewards.md, "A worked example"."""
    earned = rewards(chat("alice", "bob", 20))
    assert earned == {"alice": 2_100_000_000_000_000_000, "bob": 1_800_000_000_000_000_000}
    spam = [Sent("spam", "bob")] * 1_000
    earned = rewards([*chat("alice", "bob", 20), *spam, *chat("carol", "bob", 12)])
    assert earned == {
        "alice": 2_100_000_000_000_000_000,
        "bob": 2_300_000_000_000_000_000,
        "carol": 1_300_000_000_000_000_000,
        "spam": 0,
    }


def test_a_conversation_is_begun_once_for_ever() -> None:
    rules = RULES._replace(epoch_records=60)
    first = rewards(chat("a", "b", 30), rules)
    again = rewards(chat("a", "b", 60), rules)
    assert again["a"] - first["a"] == first["b"] == again["b"] - first["b"]
    assert first["a"] - first["b"] == RULES.conversation


def test_the_first_exchanges_of_two_wallets_in_an_epoch_are_not_paid() -> None:
    assert rewards(chat("a", "b", RULES.warm_up)) == {"a": 0, "b": 0}


def test_messages_without_an_answer_earn_nothing() -> None:
    assert rewards([Sent("a", "b")] * 1_000) == {"a": 0}
    flood = [*chat("a", "b", 5), *[Sent("a", "b")] * 1_000]
    assert rewards(flood) == rewards(chat("a", "b", 5))


def test_messages_to_oneself_earn_nothing() -> None:
    assert rewards([Sent("a", "a")] * 1_000) == {}


@pytest.mark.parametrize("missing", ["signed", "verified"])
def test_messages_not_signed_by_a_registered_device_earn_nothing(missing: str) -> None:
    def changed(sent: Sent) -> Sent:
        return sent._replace(signed=False) if missing == "signed" else sent._replace(verified=False)

    stream = [changed(sent) for sent in chat("a", "b", 20)]
    assert rewards(stream) == {}
    half = [changed(sent) if sent.sender == "b" else sent for sent in chat("a", "b", 20)]
    assert rewards(half) == {"a": 0}


def test_an_empty_signature_never_counts() -> None:
    stream = [sent._replace(signed=False, verified=True) for sent in chat("a", "b", 20)]
    assert rewards(stream) == {}


def test_what_two_wallets_exchange_halves_block_by_block() -> None:
    paid = RULES.block
    full = rewards(chat("a", "b", RULES.warm_up + paid))["b"]
    after_half = rewards(chat("a", "b", RULES.warm_up + paid + 4))["b"]
    assert full == paid * RULES.message
    assert after_half - full == 4 * RULES.message // 2


def test_each_further_counterparty_is_worth_a_smaller_share() -> None:
    paid = 6
    stream: list[Sent] = []
    earned = [0]
    for peer in ("p", "q", "r"):
        stream += chat(peer, "z", RULES.warm_up + paid)
        earned.append(rewards(stream)["z"])
    steps = [after - before for before, after in itertools.pairwise(earned)]
    assert steps == [
        paid * RULES.message,
        paid * (RULES.message // 2),
        paid * (RULES.message // 3),
    ]


def test_a_stranger_who_is_not_talked_with_takes_no_ones_rank() -> None:
    """One polite answer to a spammer does not cost the wallet its best counterparty."""
    spam = [Sent("spam", "a"), Sent("a", "spam"), *[Sent("spam", "a")] * 10]
    talk = chat("a", "b", 20)
    assert rewards([*spam, *talk])["a"] == rewards(talk)["a"]


def test_the_cap_ends_an_epochs_earnings_and_the_next_epoch_begins_anew() -> None:
    rules = RULES._replace(epoch_records=400)
    one = chat("a", "b", 200)
    assert rewards(one, rules) == {"a": RULES.cap, "b": RULES.cap}
    assert rewards([*one, *one], rules) == {"a": 2 * RULES.cap, "b": 2 * RULES.cap}


def test_an_answer_in_the_next_epoch_comes_too_late() -> None:
    rules = RULES._replace(epoch_records=40)
    halves = [*[Sent("a", "b")] * 40, *[Sent("b", "a")] * 40]
    assert rewards(halves, rules) == {"a": 0, "b": 0}


def test_epochs_end_by_position_alone() -> None:
    state, closed = run([OTHER] * (SMALL.epoch_records - 1), SMALL)
    assert closed == []
    assert not json.loads(statement(state.epoch))["complete"]
    state, closed = run([OTHER] * (SMALL.epoch_records * 2), SMALL)
    assert [epoch.number for epoch in closed] == [0, 1]
    assert [epoch.head.position for epoch in closed] == [24, 48]
    assert state.epoch.number == 2
    assert all(json.loads(statement(epoch))["complete"] for epoch in closed)


def test_a_record_out_of_order_is_refused_and_changes_nothing() -> None:
    state, _ = run(chat("a", "b", 3))
    before = statement(state.epoch)
    for position, prev_hash in (
        (6, state.head.event_hash),
        (8, state.head.event_hash),
        (1, GENESIS_PREV_HASH),
        (7, GENESIS_PREV_HASH),
    ):
        with pytest.raises(OutOfOrder):
            fold(state, *record_at(position, Sent("a", "b"), prev_hash))
    assert statement(state.epoch) == before


@settings(max_examples=50)
@given(streams)
def test_a_state_carried_over_between_epochs_goes_on_as_if_nothing_had_been(
    stream: list[Sent],
) -> None:
    cut = len(stream) - len(stream) % SMALL.epoch_records
    first, _ = run(stream[:cut], SMALL)
    state = restore(snapshot(first), SMALL)
    assert state == first
    for position, sent in enumerate(stream[cut:], start=cut + 1):
        take(state, position, sent)
    whole, _ = run(stream, SMALL)
    assert state == whole


def test_a_snapshot_is_of_its_rules_and_of_no_running_epoch() -> None:
    state, _ = run([OTHER] * SMALL.epoch_records, SMALL)
    with pytest.raises(ValueError, match="other rules"):
        restore(snapshot(state), RULES)
    running, _ = run([OTHER], SMALL)
    with pytest.raises(ValueError, match="between epochs"):
        snapshot(running)
    for damaged in (b"", b"[]", b"{}", snapshot(state).replace(b"position", b"place")):
        with pytest.raises(ValueError):
            restore(damaged, SMALL)


def test_only_our_well_formed_message_is_a_message() -> None:
    event = MessageEvent("wallet_a", "0", "wallet_b", HASH, NONCE, 1, 1.5, 16)

    def logged(metadata: dict[str, Any], event_type: str = "MESSAGE") -> Record:
        draft = replace(event.draft(SIGNATURE), metadata=metadata, event_type=event_type)
        line, _ = encode(
            V1,
            draft,
            moment=datetime(2026, 1, 1, tzinfo=UTC),
            prev_hash=GENESIS_PREV_HASH,
            event_id="id",
        )
        return parse(line[:-1], 1).record

    good = event.draft("").metadata
    assert message_of(logged(good)) == event
    assert message_of(logged(good, "LOGIN")) is None
    assert message_of(logged({"recipient": "wallet_b", "msg_id": "1"})) is None
    assert message_of(logged({**good, "sender": "wallet_c"})) is None
    assert message_of(logged({**good, "recipient": "0x" + "AB" * 20})) is None
    history = logged({"recipient_wallet": "wallet_b", "msg_hash": "00", "size_bytes": 1})
    state = begin()
    fold(state, history, message_of(history))
    assert state.epoch.totals.not_well_formed == 1
    assert state.epoch.accounts == {}


def test_a_statement_says_what_did_not_count_and_why() -> None:
    stream = [
        *chat("b", "a", 4),
        Sent("a", "a"),
        Sent("a", "b", signed=False),
        Sent("a", "b", verified=False),
        Sent("c", "a"),
        OTHER,
    ]
    state, _ = run(stream)
    body = json.loads(statement(state.epoch))
    part = RULES.conversation // RULES.conversation_parts
    assert body == {
        "statement": "atlas/secure-chat/v2/reward-statement",
        "rules": {"version": RULES.version, "hash": rules_hash(RULES)},
        "epoch": 0,
        "first": 1,
        "last": RULES.epoch_records,
        "complete": False,
        "ledger": {"position": 13, "event_hash": state.head.event_hash},
        "totals": {
            "records": 13,
            "counted": 9,
            "unsigned": 1,
            "unregistered": 1,
            "to_self": 1,
            "not_well_formed": 0,
            "wallets": 2,
            "reward": str(4 * RULES.message + 2 * part),
        },
        "wallets": [
            {
                "wallet": "a",
                "sent": 4,
                "exchanged": 4,
                "paid": 2,
                "counterparties": 1,
                "conversations": 0,
                "capped": False,
                "reward": str(2 * RULES.message),
            },
            {
                "wallet": "b",
                "sent": 4,
                "exchanged": 4,
                "paid": 2,
                "counterparties": 1,
                "conversations": 1,
                "capped": False,
                "reward": str(2 * RULES.message + 2 * part),
            },
        ],
    }


def test_a_statement_is_canonical_and_sorted_by_wallet() -> None:
    state, _ = run([*chat("z", "b", 4), *chat("y", "a", 4), *chat("B", "c", 4)])
    data = statement(state.epoch)
    body = json.loads(data)
    assert data == json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")
    order = [wallet["wallet"] for wallet in body["wallets"]]
    assert order == ["B", "a", "b", "c", "y", "z"]
    assert statement_hash(data) == hashlib.sha256(data).hexdigest()


def golden_stream() -> list[Sent]:
    """Thirty wallets who talk unevenly, some of it not counting: fixed for ever."""
    names = [*(f"wallet_{n}" for n in range(29)), "0x" + "5" * 40]
    stream = []
    number = 7
    for _ in range(3_000):
        number = (number * 1_103_515_245 + 12_345) % 2**31
        a, b = names[number >> 9 & 7], names[(number >> 13) % 30]
        stream.append(Sent(a, b, signed=number >> 17 & 31 > 0, verified=number >> 22 & 31 > 0))
        if number >> 5 & 3:
            stream.append(Sent(b, a))
    return stream


def test_these_rules_give_these_bytes_for_ever() -> None:
    """When this fails the rules have changed: give them a new version, and keep the old ones."""
    assert RULES.version == "atlas/secure-chat/v2/reward-rules/1"
    assert rules_hash(RULES) == "6528fc8d4359944ebda3de7d19e55afea66e5b8ae45b21cacb3f27b5f4f3c579"
    state, closed = run(golden_stream(), RULES._replace(epoch_records=4_000))
    assert [statement_hash(statement(epoch)) for epoch in closed] == [
        "3c946c101d3eebaecdce0e02e8f0194929e2f0299eac7bc5ebc142a0de8a782c"
    ]
    assert (
        statement_hash(statement(state.epoch))
        == "ef205673181b044c2079c36365aa9b9d8c54c3353a377042210768f5b157dcfd"
    )


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_another_process_with_another_hash_seed_gives_the_same_bytes(seed: str) -> None:
    program = (
        "from tests.unit.core.test_rewards import *\n"
        "state, closed = run(golden_stream())\n"
        "print(statement_hash(statement(state.epoch)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    state, _ = run(golden_stream())
    assert done.stdout.strip() == statement_hash(statement(state.epoch))


@pytest.mark.parametrize("constant", Rules._fields)
def test_every_constant_is_under_the_rules_hash(constant: str) -> None:
    values: dict[str, Any] = RULES._asdict()
    value = values[constant]
    values[constant] = value + 1 if isinstance(value, int) else value + "x"
    assert rules_hash(Rules(**values)) != rules_hash(RULES)


def test_the_words_name_the_constants() -> None:
    text = " ".join(rules_text(RULES))
    for constant in Rules._fields:
        if constant != "version":
            assert str(getattr(RULES, constant)) in text


def test_features_are_raw_integers_of_what_was_paid() -> None:
    state, _ = run([*chat("a", "b", 10), *chat("a", "c", 5)])
    assert features(state.epoch.accounts["a"]) == (11 * CHR, 2 * CHR, 2 * CHR)
    assert features(state.epoch.accounts["c"]) == (3 * CHR, 1 * CHR, 0)
    assert features(Account()) == (0, 0, 0)

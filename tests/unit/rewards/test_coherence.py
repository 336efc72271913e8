"""rewards/coherence.py: features reach the host's engine as it wants them, and move nothing."""

from __future__ import annotations

import pytest

from plugins.secure_chat.core.records import GENESIS_PREV_HASH
from plugins.secure_chat.core.rewards import CHR, RULES, Account, Epoch, rules_hash
from plugins.secure_chat.rewards.coherence import CoherenceSignal, omega, signals
from v13.core.CoherenceEngine import CoherenceEngine
from v13.libs.CertifiedMath import BigNum128, CertifiedMath

RULES_HASH = rules_hash(RULES)


def signal(*counts: int) -> CoherenceSignal:
    first, second, third = (count * CHR for count in counts)
    return CoherenceSignal("wallet_a", 4, 412, RULES_HASH, (first, second, third))


def engine() -> CoherenceEngine:
    return CoherenceEngine(CertifiedMath())


def i_vector(*numbers: str) -> list[BigNum128]:
    return [BigNum128.from_string(number) for number in numbers]


@pytest.mark.parametrize(
    ("counts", "vector", "expected"),
    [
        (
            (1, 2, 3),
            ("0.1", "0.2", "0.3"),
            (302425029963839460, 604850059927678922, 907275089891518384),
        ),
        ((3, 4, 0), (), (600000000000000000, 800000000000000000, 0)),
        ((1, 1, 1), ("1",), (1071144651477279007,) * 3),
        (
            (1, 2, 3),
            ("20",),
            (5886820603261578895730, 11773641206523157813488, 17660461809784736731245),
        ),
        ((0, 0, 0), (), (0, 0, 0)),
    ],
)
def test_the_engine_gives_the_hosts_reference_numbers(
    counts: tuple[int, int, int], vector: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert omega(engine(), BigNum128, signal(*counts), i_vector=i_vector(*vector)) == expected


def test_what_a_full_epoch_can_hold_does_not_overflow() -> None:
    most = RULES.epoch_records
    assert len(omega(engine(), BigNum128, signal(most, most, most))) == 3


def test_an_overflow_of_the_engine_is_not_hidden() -> None:
    with pytest.raises(OverflowError):
        omega(engine(), BigNum128, signal(20_000_000_000, 1, 1))


def test_the_engine_is_told_the_position_and_never_a_time() -> None:
    log: list[dict[str, object]] = []
    omega(engine(), BigNum128, signal(1, 2, 3), log_list=log)
    assert log[-1]["timestamp"] == 412
    assert log[-1]["quantum_metadata"] == {"wallet": "wallet_a", "epoch": 4, "rules": RULES_HASH}


def test_any_engine_of_the_same_shape_will_do() -> None:
    class Number:
        def __init__(self, value: int) -> None:
            self.value = value

        @classmethod
        def from_int(cls, number: int) -> Number:
            return cls(number * CHR)

    class Twice:
        def update_omega(self, features: list[Number], *_: object) -> list[Number]:
            return [Number(2 * feature.value) for feature in features]

    assert omega(Twice(), Number, signal(1, 2, 3)) == (2 * CHR, 4 * CHR, 6 * CHR)


def test_there_is_a_signal_for_everyone_who_was_answered_sorted_by_wallet() -> None:
    epoch = Epoch(RULES, 7, 700_123, "00")
    epoch.accounts["z"] = Account(sent=9, exchanged=5, paid=3, counterparties=1, conversations=1)
    epoch.accounts["spam"] = Account(sent=900)
    epoch.accounts["a"] = Account(sent=5, exchanged=5, paid=3, counterparties=1)
    assert list(signals(epoch)) == [
        CoherenceSignal("a", 7, 700_123, RULES_HASH, (3 * CHR, 1 * CHR, 0)),
        CoherenceSignal("z", 7, 700_123, RULES_HASH, (3 * CHR, 1 * CHR, 1 * CHR)),
    ]
    assert list(signals(Epoch(RULES, 0, 0, GENESIS_PREV_HASH))) == []

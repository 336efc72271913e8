"""Challenges: one attempt, five minutes, for one wallet, and never more than the store holds."""

from __future__ import annotations

from itertools import count

import pytest

from v13.ATLAS.src.api.challenges import (
    LIFETIME,
    PREFIX,
    ChallengeRefused,
    Challenges,
    TooManyChallenges,
)

WALLET = "0x" + "ab" * 20


class Clock:
    def __init__(self) -> None:
        self.time = 1_000.5

    def __call__(self) -> float:
        return self.time


class Store(Challenges):
    """Challenges under a clock and randomness that the test holds."""

    def __init__(self, largest: int = 3) -> None:
        self.clock = Clock()
        numbers = count(1)
        super().__init__(
            now=self.clock, random_hex=lambda size: f"{next(numbers):0{2 * size}x}", largest=largest
        )


def test_the_text_to_sign_is_the_hosts() -> None:
    made = Store().make(WALLET)
    assert made.nonce == "Sign this message to login to ATLAS: " + "1".rjust(32, "0")
    assert made.timestamp == 1_000


def test_a_challenge_is_good_for_one_attempt() -> None:
    store = Store()
    nonce = store.make(WALLET).nonce
    store.redeem(nonce, WALLET)
    with pytest.raises(ChallengeRefused):
        store.redeem(nonce, WALLET)


def test_an_attempt_by_another_wallet_uses_it_up() -> None:
    store = Store()
    nonce = store.make(WALLET).nonce
    for wallet in ("0x" + "cd" * 20, WALLET):
        with pytest.raises(ChallengeRefused):
            store.redeem(nonce, wallet)


def test_the_case_of_the_address_does_not_matter() -> None:
    store = Store()
    store.redeem(store.make(WALLET.upper()).nonce, WALLET)


@pytest.mark.parametrize(("age", "taken"), [(LIFETIME - 0.001, True), (LIFETIME, False)])
def test_a_challenge_lives_for_exactly_its_lifetime(age: float, taken: bool) -> None:
    store = Store()
    nonce = store.make(WALLET).nonce
    store.clock.time += age
    if taken:
        store.redeem(nonce, WALLET)
    else:
        with pytest.raises(ChallengeRefused):
            store.redeem(nonce, WALLET)


def test_a_full_store_refuses_and_keeps_the_challenges_it_has() -> None:
    store = Store(largest=3)
    first = store.make(WALLET)
    store.clock.time += 100
    store.make(WALLET)
    store.make(WALLET)
    with pytest.raises(TooManyChallenges) as refused:
        store.make(WALLET)
    assert refused.value.retry_after == 201
    store.redeem(first.nonce, WALLET)
    store.make(WALLET)


def test_expired_challenges_make_room() -> None:
    store = Store(largest=3)
    for _ in range(3):
        store.make(WALLET)
    store.clock.time += LIFETIME
    store.make(WALLET)
    assert len(store) == 1


def test_a_made_up_nonce_is_refused() -> None:
    with pytest.raises(ChallengeRefused):
        Store().redeem(PREFIX + "0" * 32, WALLET)

"""Features of wallets for the host's CoherenceEngine, by duck type: no host module is imported.

The engine is any object with ``update_omega(features, I_vector, L, log_list, pqc_cid,
quantum_metadata, deterministic_timestamp)``, numbers are of any class with ``from_int(int)`` and
``.value`` (the host's BigNum128). Nothing here moves a balance: what the engine makes of a signal
is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from plugins.secure_chat.core.rewards import CHR, Epoch, features, rules_hash

LABEL: Final = "atlas/secure-chat/v2/coherence"
"""What the engine is told the features are about (its ``L``)."""


class Number(Protocol):
    """A fixed-point number of the host: ``value`` is the number times 10^18."""

    @property
    def value(self) -> int: ...


class NumberClass(Protocol):
    def from_int(self, number: int, /) -> Number: ...


class Engine(Protocol):
    def update_omega(self, *arguments: Any, **named: Any) -> Sequence[Number]: ...


@dataclass(frozen=True, slots=True)
class CoherenceSignal:
    """What one wallet did in an epoch, up to a ledger position.

    ``features``: messages paid for, counterparties, conversations begun, as integers of 10^-18.
    """

    wallet: str
    epoch: int
    position: int
    rules: str
    features: tuple[int, int, int]


def signals(epoch: Epoch) -> Iterator[CoherenceSignal]:
    """The signal of every wallet that had an exchange in the epoch, sorted by wallet."""
    rules = rules_hash(epoch.rules)
    for wallet in sorted(epoch.accounts):
        account = epoch.accounts[wallet]
        if account.exchanged:
            yield CoherenceSignal(wallet, epoch.number, epoch.position, rules, features(account))


def omega(
    engine: Engine,
    number: NumberClass,
    signal: CoherenceSignal,
    *,
    i_vector: Sequence[Number] = (),
    log_list: list[Any] | None = None,
) -> tuple[int, ...]:
    """The engine's Ω for a signal, as raw integers of 10^-18.

    ``i_vector`` is the host's; without one its modulator is 1. The engine's time is the ledger
    position. Raises what the engine raises (OverflowError for features beyond its range, which
    those of an epoch of ours are not).
    """
    result = engine.update_omega(
        [number.from_int(divmod(feature, CHR)[0]) for feature in signal.features],
        list(i_vector),
        LABEL,
        [] if log_list is None else log_list,
        None,
        {"wallet": signal.wallet, "epoch": signal.epoch, "rules": signal.rules},
        signal.position,
    )
    return tuple(value.value for value in result)

"""From measurements to figures: percentiles, medians over rounds, ratios, and the targets.

Pure: nothing here runs or times anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.bench.servers import OURS, RELAY, SIGNED

TARGETS: Final[Mapping[tuple[str, str], float]] = {
    (OURS, "1×64"): 0.8,
    (OURS, "50×64"): 0.8,
    (SIGNED, "1×64"): 0.4,
    (SIGNED, "50×64"): 0.65,
}
"""A server in a scenario over the bare relay: messages a second."""


@dataclass(frozen=True, slots=True)
class Round:
    """One server in one scenario, once. Latencies in microseconds."""

    per_second: float
    ack_p50: float
    ack_p99: float
    delivery_p50: float
    delivery_p99: float
    cpu: float  # microseconds of the server's CPU a message
    generator: float  # share of a core that the load generator took: near 1 it is the limit
    group: float | None  # messages a commit


@dataclass(frozen=True, slots=True)
class Row:
    """One server in one scenario: the median of each figure over the rounds."""

    scenario: str
    server: str
    figures: Round
    over_relay: float | None  # messages a second, the median of the rounds' own ratios
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None or self.over_relay is None:
            return None
        return self.over_relay >= self.target


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-share * len(ordered) // 1)
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def median_round(rounds: Sequence[Round]) -> Round:
    """Each figure's own median."""
    groups = [one.group for one in rounds if one.group is not None]
    return Round(
        per_second=statistics.median(one.per_second for one in rounds),
        ack_p50=statistics.median(one.ack_p50 for one in rounds),
        ack_p99=statistics.median(one.ack_p99 for one in rounds),
        delivery_p50=statistics.median(one.delivery_p50 for one in rounds),
        delivery_p99=statistics.median(one.delivery_p99 for one in rounds),
        cpu=statistics.median(one.cpu for one in rounds),
        generator=statistics.median(one.generator for one in rounds),
        group=statistics.median(groups) if groups else None,
    )


def rows(scenario: str, measured: Mapping[str, Sequence[Round]]) -> list[Row]:
    """The rows of one scenario. Ratios are taken within a round: its two runs were neighbours."""
    relay = measured[RELAY]
    found = []
    for server, rounds in measured.items():
        ratios = [one.per_second / base.per_second for one, base in zip(rounds, relay, strict=True)]
        found.append(
            Row(
                scenario=scenario,
                server=server,
                figures=median_round(rounds),
                over_relay=None if server == RELAY else statistics.median(ratios),
                target=TARGETS.get((server, scenario)),
            )
        )
    return found


def latency_targets(sync_p50: float) -> tuple[float, float]:
    """What 1×1 may take to its ACK (p50, p99), given one sync's time. Microseconds."""
    return sync_p50 + 250, 3 * sync_p50 + 1000

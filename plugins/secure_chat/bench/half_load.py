"""Latency at half of what a server can do: how long a message takes while there is room.

The rate is measured first, in a closed loop; then half of it comes in an open loop, on the same
server. There a message counts from the moment when it was due: were it counted from its write, a
server that stalls would be asked nothing meanwhile, and look fast (coordinated omission).
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.rounds import one_round
from plugins.secure_chat.bench.servers import OURS, SIGNED, running
from plugins.secure_chat.bench.signers import registered
from plugins.secure_chat.bench.workload import Scenario

TO_DELIVERY_MS: Final = 20.0
"""The 99th percentile, from when a message was due to its delivery."""
ROUNDS: Final = 3
_SECTION: Final = "half load"


def half_load_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    load = Scenario(50, 1, 1_000 if quick else 15_000)
    costs: list[Cost] = []
    for name in (OURS, SIGNED):
        with running(name, folder / name) as server:
            signers = registered(server, load.pairs) if name == SIGNED else None
            full, half = [], []
            for number in range(1 if quick else ROUNDS):
                first_seq = 1 + 2 * number * load.messages
                closed = one_round(server, load, first_seq, signers)
                rate, next_seq = closed.per_second / 2, first_seq + load.messages
                full.append(closed)
                half.append(one_round(server, load, next_seq, signers, per_second=rate))
        most = statistics.median(one.per_second for one in full)
        p50 = statistics.median(one.delivery_p50 for one in half) / 1000
        p99 = statistics.median(one.delivery_p99 for one in half) / 1000
        costs += [
            Cost(_SECTION, f"{name}, {load.name}, closed loop", most),
            Cost(_SECTION, f"{name}, {load.name}, half of that: p50 to delivery", p50, unit=" ms"),
            Cost(
                _SECTION,
                f"{name}, {load.name}, half of that: p99 to delivery",
                p99,
                TO_DELIVERY_MS,
                " ms",
                at_most=True,
            ),
        ]
    return costs

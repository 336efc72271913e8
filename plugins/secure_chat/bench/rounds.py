"""One round: one server in one scenario, with the load generator in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from plugins.secure_chat.bench.figures import Round, percentile
from plugins.secure_chat.bench.load import Pair, Plan, Seen
from plugins.secure_chat.bench.servers import Server
from plugins.secure_chat.bench.workload import Scenario, Signer, receiver, sender

LOAD_SECONDS: Final = 120


def one_round(
    server: Server,
    scenario: Scenario,
    first_seq: int,
    signers: Sequence[Signer] | None = None,
    *,
    per_second: float | None = None,
) -> Round:
    """Measure ``server``. ``signers``: who sends, when they sign. ``per_second``: in an open loop.

    Raises RuntimeError.
    """
    pairs = []
    for pair in range(scenario.pairs):
        signer = None if signers is None else signers[pair]
        wallet = sender(pair) if signer is None else signer.wallet
        to = receiver(pair)
        pairs.append(Pair(server.token(wallet), server.token(to), to, signer))
    plan = Plan(
        port=server.port,
        pairs=pairs,
        window=scenario.window,
        messages=scenario.messages // scenario.pairs,
        first_seq=first_seq,
        per_second=per_second,
    )
    cpu, (groups, grouped) = server.cpu_seconds(), server.groups()
    done = subprocess.run(
        [sys.executable, "-m", "plugins.secure_chat.bench.load"],
        input=msgspec.json.encode(plan),
        capture_output=True,
        timeout=LOAD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"{server.name} at {scenario.name}: {reason}")
    cpu = server.cpu_seconds() - cpu
    groups_after, grouped_after = server.groups()
    seen = msgspec.json.decode(done.stdout, type=Seen)
    sent = plan.messages * scenario.pairs
    commits = groups_after - groups
    return Round(
        per_second=seen.measured / seen.seconds,
        ack_p50=percentile(seen.to_ack, 0.5) * 1e6,
        ack_p99=percentile(seen.to_ack, 0.99) * 1e6,
        delivery_p50=percentile(seen.to_delivery, 0.5) * 1e6,
        delivery_p99=percentile(seen.to_delivery, 0.99) * 1e6,
        cpu=cpu / sent * 1e6,
        generator=seen.generator_cpu / (seen.seconds * sent / seen.measured),
        group=(grouped_after - grouped) / commits if server.is_ours and commits else None,
    )

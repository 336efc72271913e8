"""One benchmark run: the servers side by side, each in its own process, taking turns."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from plugins.secure_chat.bench.adoption import adoption_costs
from plugins.secure_chat.bench.client import client_costs
from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.directory import directory_costs
from plugins.secure_chat.bench.evidence import evidence_costs
from plugins.secure_chat.bench.figures import Round, Row, percentile, rows
from plugins.secure_chat.bench.half_load import half_load_costs
from plugins.secure_chat.bench.rounds import one_round
from plugins.secure_chat.bench.scale import scale_costs
from plugins.secure_chat.bench.servers import NAMES, SIGNED, running
from plugins.secure_chat.bench.signers import registered
from plugins.secure_chat.bench.workload import Scenario


class Section(Protocol):
    """Costs of one part of the product, measured in a folder of its own; ``quick``: roughly."""

    def __call__(self, folder: Path, *, quick: bool) -> list[Cost]: ...


SECTIONS: Final[dict[str, Section]] = {
    "half load": half_load_costs,
    "directory": directory_costs,
    "client": client_costs,
    "evidence": evidence_costs,
    "adoption": adoption_costs,
    "scale": scale_costs,
}
_SYNCS: Final = 100
_RECORD: Final = b"x" * 599 + b"\n"


@dataclass(frozen=True, slots=True)
class Result:
    """All rows, the time of one append and sync in the same directory (microseconds), and what
    single kinds of work cost."""

    rows: list[Row]
    sync_p50: float
    sync_p99: float
    costs: list[Cost]


def measure(
    directory: Path,
    scenarios: Sequence[Scenario],
    rounds: int,
    *,
    servers: Sequence[str] = NAMES,
    quick: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run ``scenarios`` on every server in turns, ``rounds`` times. Files go to ``directory``.

    Raises RuntimeError when a server fails: figures of a broken run are not given.
    """
    syncs = _sync_times(directory / "sync.probe")
    found: list[Row] = []
    first_seq = 1
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(running(name, directory / name)) for name in servers]
        most = max(scenario.pairs for scenario in scenarios)
        signers = {
            server.name: registered(server, most) for server in started if server.name == SIGNED
        }
        for scenario in scenarios:
            measured: dict[str, list[Round]] = {server.name: [] for server in started}
            for number in range(rounds):
                progress(f"{scenario.name}, round {number + 1} of {rounds}")
                turn = number % len(started)
                for server in started[turn:] + started[:turn]:
                    measured[server.name].append(
                        one_round(server, scenario, first_seq, signers.get(server.name))
                    )
                first_seq += scenario.messages
            found += rows(scenario.name, measured)
    costs: list[Cost] = []
    for name, section in SECTIONS.items():
        progress(name)
        costs += section(directory / name, quick=quick)
    return Result(found, percentile(syncs, 0.5), percentile(syncs, 0.99), costs)


def _sync_times(path: Path) -> list[float]:
    """Microseconds of one record's append and fdatasync, as often as gives a p99."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(_SYNCS):
            began = time.perf_counter()
            os.write(fd, _RECORD)
            os.fdatasync(fd)
            times.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(fd)
        path.unlink()
    return times

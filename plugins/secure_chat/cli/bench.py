"""``secure-chat bench``: this server beside a bare relay and the host's prototype path.

Exit status: 0 measured, 1 a server failed. A missed target is shown, and is no failure: the
figures are the machine's as much as the program's. Here are arguments and printing only.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.bench.figures import Row, latency_targets
from plugins.secure_chat.bench.run import Result, measure
from plugins.secure_chat.bench.servers import OURS
from plugins.secure_chat.bench.workload import FULL, QUICK
from plugins.secure_chat.cli.terminal import print_json, printable


def bench(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Ledger and mailbox go to a new folder here; name a real disk."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quick: Annotated[bool, typer.Option(help="One short round: does it run, roughly?")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; figures are their medians.")] = 3,
) -> None:
    """Measure messages a second and latency, as ratios to a relay that stores nothing."""
    errors = Console(stderr=True, highlight=False)
    quiet = json or not sys.stderr.isatty()
    try:
        with tempfile.TemporaryDirectory(prefix="secure-chat-bench-", dir=directory) as folder:
            result = measure(
                Path(folder),
                QUICK if quick else FULL,
                1 if quick else rounds,
                quick=quick,
                progress=(lambda _: None) if quiet else errors.print,
            )
    except (RuntimeError, OSError) as error:
        typer.echo(printable(f"secure-chat: {error}"), err=True)
        raise typer.Exit(1) from None
    if json:
        print_json(dataclasses.asdict(result))
        return
    _print(result)


def _print(result: Result) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("pairs×window", "server", box=None)
    for heading in ("msg/s", "ACK p50", "p99 us", "deliv p50", "p99 us", "CPU us", "load", "group"):
        table.add_column(heading, justify="right")
    table.add_column("/relay", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for row in result.rows:
        table.add_row(*_cells(row))
    console.print(table)
    p50, p99 = latency_targets(result.sync_p50)
    alone = next(row.figures for row in result.rows if (row.server, row.scenario) == (OURS, "1×1"))
    console.print(
        f"append and sync here: p50 {result.sync_p50:,.0f} us, p99 {result.sync_p99:,.0f} us; so "
        f"ours at 1×1 should be acknowledged in p50 {p50:,.0f} us "
        f"({_verdict(alone.ack_p50 <= p50)}), p99 {p99:,.0f} us ({_verdict(alone.ack_p99 <= p99)})"
    )
    console.print(
        "group: messages a commit; CPU: the server's, a message; load: cores the generator took"
    )
    console.print(_costs(result.costs))


def _costs(costs: Sequence[Cost]) -> Table:
    table = Table("section", "what", box=None)
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for cost in costs:
        digits = 0 if cost.value >= 100 else 2
        sign = "≤" if cost.at_most else "≥"
        target = "" if cost.target is None else f"{sign} {cost.target:,.{digits}f}{cost.unit}"
        measured = f"{cost.value:,.{digits}f}{cost.unit}"
        table.add_row(cost.section, cost.what, measured, target, _verdict(cost.met))
    return table


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "not met"


def _cells(row: Row) -> list[str]:
    figures = row.figures
    return [
        row.scenario,
        row.server,
        f"{figures.per_second:,.0f}",
        f"{figures.ack_p50:,.0f}",
        f"{figures.ack_p99:,.0f}",
        f"{figures.delivery_p50:,.0f}",
        f"{figures.delivery_p99:,.0f}",
        f"{figures.cpu:.0f}",
        f"{figures.generator:.2f}",
        "" if figures.group is None else f"{figures.group:.1f}",
        "" if row.over_relay is None else f"{row.over_relay:.2f}",
        "" if row.target is None else f"{row.target:.2f}",
        _verdict(row.met),
    ]

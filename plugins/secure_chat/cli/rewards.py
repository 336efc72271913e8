"""``secure-chat rewards``: what a ledger's messages earned, offline, as a table or a statement.

Exit status: 0 the ledger is sound, 1 it is broken (and nothing is rewarded), 2 unusable input or no
such epoch. Here are arguments and printing only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.cli.terminal import print_json, printable
from plugins.secure_chat.core.rewards import CHR, Epoch, reward, rules_hash, statement_hash
from plugins.secure_chat.errors import LedgerBroken, LedgerUnusable
from plugins.secure_chat.rewards.ledger import FoldedEpoch, fold_ledger

SOUND: Final = 0
BROKEN: Final = 1
UNUSABLE: Final = 2

_ROWS: Final = 20
_CHART_WIDTH: Final = 48
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_BAR_WIDTH: Final = 10
_WALLET_WIDTH: Final = 19
_SHOWS_PROGRESS_FROM: Final = 32 << 20  # bytes; less is done before it could be read


def rewards(
    ledger: Annotated[Path, typer.Argument(help="The ledger file, in any of its dialects.")],
    epoch: Annotated[
        int | None, typer.Option(min=0, help="Which epoch; the last one unless given.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="The statement's bytes on stdout, and nothing else.")
    ] = False,
) -> None:
    """What an epoch's messages earned: 0 sound, 1 the ledger is broken, 2 no ledger or epoch."""
    try:
        with _progress(ledger) as (audited, folded):
            report = audit_ledger(ledger, progress=audited)
            if report.finding is not None:
                raise LedgerBroken(report.finding.position, report.finding.reason)
            chosen = _epoch(fold_ledger(ledger, report.head, progress=folded), epoch)
    except LedgerBroken as error:
        _refuse(ledger, json, "broken", str(error))
        raise typer.Exit(BROKEN) from None
    except (LedgerUnusable, LookupError, BrokenProcessPool) as error:
        reason = (
            "a process of the audit was killed; try again"
            if isinstance(error, BrokenProcessPool)
            else str(error)
        )
        _refuse(ledger, json, "unusable", reason)
        raise typer.Exit(UNUSABLE) from None
    if json:
        sys.stdout.buffer.write(chosen.statement)
        sys.stdout.buffer.flush()
    else:
        console = Console(highlight=False, emoji=False, markup=False)
        for part in _page(ledger, chosen):
            # A hash is never broken over lines; a table is fitted to them.
            console.print(part, soft_wrap=isinstance(part, str))
    raise typer.Exit(SOUND)


def _epoch(epochs: Iterator[FoldedEpoch], wanted: int | None) -> FoldedEpoch:
    """The wanted epoch, or the last that has begun. The whole ledger is folded either way."""
    chosen: FoldedEpoch | None = None
    last = 0
    for folded in epochs:
        number = folded.epoch.number
        begun = folded.epoch.totals.records > 0 or number == 0
        if begun:
            last = number
        if number == wanted or (wanted is None and begun):
            chosen = folded
    if chosen is None:
        raise LookupError(f"the ledger has no epoch {wanted}; its last one is {last}")
    return chosen


def _refuse(ledger: Path, json: bool, verdict: str, reason: str) -> None:
    if json:
        print_json({"ledger": str(ledger), "verdict": verdict, "reason": reason})
    else:
        console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        console.print(printable(f"{ledger}: {verdict}: {reason}; nothing is rewarded"))


@contextmanager
def _progress(
    ledger: Path,
) -> Iterator[tuple[Callable[[int, int], None] | None, Callable[[int, int], None] | None]]:
    """Two bars on stderr for a large file, when a person is there to see them."""
    try:
        large = ledger.stat().st_size >= _SHOWS_PROGRESS_FROM
    except (OSError, ValueError):
        large = False
    if not large or not sys.stderr.isatty():
        yield None, None
        return
    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = [bars.add_task(name, total=None) for name in ("verify", "reward")]
        yield (
            lambda done, total: bars.update(tasks[0], completed=done, total=total),
            lambda done, total: bars.update(tasks[1], completed=done, total=total),
        )


def _page(ledger: Path, folded: FoldedEpoch) -> Iterator[str | Table]:
    """The epoch as a person would like to read it: what it is, its course, who earned what."""
    epoch = folded.epoch
    rules, totals = epoch.rules, epoch.totals
    first = epoch.number * rules.epoch_records + 1
    state = (
        "complete"
        if totals.records == rules.epoch_records
        else f"running, {totals.records:,} of {rules.epoch_records:,} records"
    )
    amounts = {wallet: reward(rules, epoch.accounts[wallet]) for wallet in epoch.accounts}
    left_out = {
        "unsigned": totals.unsigned,
        "signed by no registered device": totals.unregistered,
        "to oneself": totals.to_self,
        "history or malformed": totals.not_well_formed,
    }
    lines = [
        f"{printable(str(ledger))}: sound",
        f"  epoch      {epoch.number}, from position {first:,}: {state}",
        f"  messages   {totals.counted:,} count{_left_out(left_out)}",
        f"  rewards    {_chr(sum(amounts.values()))} CHR",
        f"  rules      {rules.version} {rules_hash(rules)[:16]}…",
        f"  ledger     {epoch.position}:{epoch.event_hash[:16]}…",
        f"  statement  sha256 {statement_hash(folded.statement)}",
    ]
    yield "\n".join(lines)
    if folded.course:
        chart = sparkline(folded.course, first, epoch.position)
        yield f"\n  messages that count, along the epoch\n  {chart}\n"
    earners = sorted(
        (wallet for wallet in amounts if epoch.accounts[wallet].exchanged),
        key=lambda wallet: (-amounts[wallet], wallet),
    )
    if earners:
        yield _table(epoch, earners[:_ROWS], amounts)
        if len(earners) > _ROWS:
            yield f"and {len(earners) - _ROWS:,} more wallets; --json has them all"
    else:
        yield "\n  No message was answered in this epoch, so none is rewarded."


def _table(epoch: Epoch, wallets: Sequence[str], amounts: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("wallet", no_wrap=True)
    for name in ("sent", "answered", "paid", "peers", "begun"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CHR", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR_WIDTH)
    for wallet in wallets:
        account = epoch.accounts[wallet]
        amount = amounts[wallet]
        table.add_row(
            Text(_short(wallet)),
            f"{account.sent:,}",
            f"{account.exchanged:,}",
            f"{account.paid:,}",
            f"{account.counterparties:,}",
            f"{account.conversations:,}",
            _chr(amount) + ("*" if account.earned > epoch.rules.cap else " "),
            "█" * (amount * _BAR_WIDTH // epoch.rules.cap),
        )
    if any(epoch.accounts[wallet].earned > epoch.rules.cap for wallet in wallets):
        table.caption = "* at the cap of an epoch"
        table.caption_justify = "left"
    return table


def sparkline(course: Sequence[int], first: int, last: int) -> str:
    """How many of the positions in ``course`` fall into each stretch of [first, last]."""
    records = last - first + 1
    width = min(_CHART_WIDTH, records)
    counts = [0] * width
    for position in course:
        counts[(position - first) * width // records] += 1
    top = max(counts)
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in counts)


def _left_out(counts: dict[str, int]) -> str:
    parts = [f"{counts[name]:,} {name}" for name in counts if counts[name]]
    return "; left out: " + ", ".join(parts) if parts else ""


def _chr(amount: int) -> str:
    """An amount in CHR, cut to four places: what is exact is in the statement."""
    whole, rest = divmod(amount, CHR)
    return f"{whole:,}.{rest * 10_000 // CHR:04d}"


def _short(wallet: str) -> str:
    """A wallet for the eye: long ones without their middle, nothing that a terminal would obey."""
    text = printable(wallet)
    return text if len(text) <= _WALLET_WIDTH else f"{text[:10]}…{text[-8:]}"

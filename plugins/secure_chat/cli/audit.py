"""``secure-chat audit``: verify a ledger file offline and say the verdict.

Exit status: 0 sound, 1 broken, 2 unusable input. Here are arguments and printing only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.errors import LedgerUnusable

SOUND: Final = 0
BROKEN: Final = 1
UNUSABLE: Final = 2

_HEAD: Final = re.compile(r"([0-9]{1,16}):([0-9a-f]{64}(?:[0-9a-f]{64})?)", re.ASCII)
_SHOWS_PROGRESS_FROM: Final = 32 << 20  # bytes; less is done before it could be read


def audit(
    ledger: Annotated[Path, typer.Argument(help="The ledger file, in any of its dialects.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    until: Annotated[
        int | None, typer.Option(min=0, help="Audit only the first so many records.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION:HASH",
            help="A head saved from an earlier audit. Shows records that were removed from the "
            "end since, and a ledger that was written anew.",
        ),
    ] = None,
) -> None:
    """Verify a ledger without trusting its server: 0 sound, 1 broken, 2 no ledger."""
    try:
        expected = _head(head)
        with _progress() as progress:
            report = audit_ledger(ledger, until=until, expected_head=expected, progress=progress)
    except (LedgerUnusable, ValueError, BrokenProcessPool) as error:
        reason = (
            "a process of the audit was killed; audit again"
            if isinstance(error, BrokenProcessPool)
            else str(error)
        )
        if json:
            _print_json({"ledger": str(ledger), "verdict": "unusable", "reason": reason})
        else:
            _console(stderr=True).print(f"{ledger}: unusable: {reason}")
        raise typer.Exit(UNUSABLE) from None
    if json:
        _print_json({"ledger": str(ledger), **report.as_json()})
    else:
        console = _console()
        for line in _lines(ledger, report, until, expected):
            console.print(line)
    raise typer.Exit(SOUND if report.sound else BROKEN)


def _head(text: str | None) -> Head | None:
    if text is None:
        return None
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ValueError("--head is POSITION:HASH, as an audit prints it")
    return Head(int(match[1]), match[2])


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for a large file, when a person is there to see it."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("audit", total=None, visible=False)

        def show(done: int, total: int) -> None:
            if total >= _SHOWS_PROGRESS_FROM:
                bar.update(task, completed=done, total=total, visible=True)

        yield show


def _console(*, stderr: bool = False) -> Console:
    # What is printed is data: no markup in it, and a hash is never broken over lines.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print_json(values: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(values).decode() + "\n")


def _lines(ledger: Path, report: Report, until: int | None, expected: Head | None) -> Iterator[str]:
    """The verdict first, then what was counted, as a person would like to read it."""
    if report.finding is None:
        yield f"{ledger}: sound"
    else:
        yield f"{ledger}: BROKEN"
        yield f"  {report.finding}"
        yield "  The figures below are of the sound records before that line."
    scope = "" if until is None else f" (no more than {until} were asked for)"
    yield f"  records     {report.records:,}{scope}{_counts(report.dialects)}"
    events = dict(report.events)
    if report.unnamed_events:
        events["other types"] = report.unnamed_events
    yield f"  events      {sum(events.values()):,}{_counts(events)}"
    yield f"  messages    {sum(report.messages.values()):,}{_counts(report.messages)}"
    yield f"  streams     {report.streams:,}, each strictly rising"
    yield f"  signatures  {_signatures(report)}"
    if report.ambiguous:
        yield (
            f"  ambiguous   {report.ambiguous:,} records hold the hash's separator in a name: "
            "their hash does not tell wallet from event type"
        )
    yield f"  head        {report.head.position}:{report.head.event_hash}"
    if report.sound and expected is None:
        yield "  Keep the head where the server cannot change it, and give it as --head next time:"
        yield "  without it, records removed from the end do not show."


def _counts(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    return ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _signatures(report: Report) -> str:
    parts = [f"{report.signed:,} messages signed, {report.unsigned:,} unsigned"]
    if report.verified:
        parts.append(f"{report.verified:,} verified")
    if report.unverified:
        parts.append(f"{report.unverified:,} not verified (no registered device to verify with)")
    if report.other_signatures:
        parts.append(f"{report.other_signatures:,} on other events, not verified")
    return "; ".join(parts)

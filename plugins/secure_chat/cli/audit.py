"""``secure-chat audit``: verify a ledger file offline and say the verdict.

Exit status: 0 sound, 1 broken, 2 unusable input. Here are arguments and printing only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.audit.activity import activity_of, refusals_of
from plugins.secure_chat.audit.certificates import read_statements
from plugins.secure_chat.audit.exhibits import (
    Proof,
    StatementVerdict,
    check_statement,
    read_checkpoint,
    read_keys,
    read_proof,
)
from plugins.secure_chat.audit.page import page
from plugins.secure_chat.audit.since import read_since, write_since
from plugins.secure_chat.cli.terminal import print_json, printable
from plugins.secure_chat.core.note import Checkpoint
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.errors import LedgerUnusable

SOUND: Final = 0
BROKEN: Final = 1
UNUSABLE: Final = 2

_HEAD: Final = re.compile(r"([0-9]{1,16}):([0-9a-f]{64}(?:[0-9a-f]{64})?)", re.ASCII)
_SHOWS_PROGRESS_FROM: Final = 32 << 20  # bytes; less is done before it could be read
_CHANGES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class _Outcome:
    """All that the command found: one verdict over the ledger and whatever was held against it."""

    ledger: Path
    until: int | None
    report: Report
    expected: Head | None
    checkpoints: Sequence[Checkpoint]
    proofs: Sequence[Proof]
    statements: Sequence[StatementVerdict]

    @property
    def sound(self) -> bool:
        return self.report.sound and all(one.difference is None for one in self.statements)

    def as_json(self) -> dict[str, Any]:
        return {
            "ledger": str(self.ledger),
            **self.report.as_json(),
            "verdict": "sound" if self.sound else "broken",
            "checkpoints": [
                {"origin": one.origin, "size": one.size, "root": one.root.hex()}
                for one in self.checkpoints
            ],
            "proofs": [{"position": one.position} for one in self.proofs],
            "reward_statements": [one.as_json() for one in self.statements],
        }


def audit(
    ledger: Annotated[
        Path | None,
        typer.Argument(help="The ledger file, in any of its dialects. A proof can do without."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report for people here too.")
    ] = None,
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
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A signed checkpoint saved earlier; with --key."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The log's verifier keys, one a line, from elsewhere."),
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(
            "--tiles", help="A saved copy of DATA_DIR/transparency: names the line that changed."
        ),
    ] = None,
    proof: Annotated[
        list[Path] | None, typer.Option("--proof", help="A proof file to check; with --key.")
    ] = None,
    statement: Annotated[
        list[Path] | None,
        typer.Option("--statement", help="A reward statement to recompute and compare."),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(
            "--certificates",
            help="Published identity statements (GET /v1/chat/ledger/statements): every device's "
            "signature is verified.",
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", help="What --save wrote: only what came after is read closely."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write what the next audit can go on from, if it is sound."),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", help="A saved answer of /metrics, for refusals in --html."),
    ] = None,
) -> None:
    """Verify a ledger without trusting its server: 0 sound, 1 broken, 2 no ledger."""
    try:
        outputs = [path for path in (html, save) if path is not None]
        inputs = [ledger, key, certificates, metrics, *(checkpoint or ()), *(proof or ())]
        _refuse_to_overwrite(outputs, [*inputs, *(statement or ())])
        keys = () if key is None else read_keys(key)
        proofs = [read_proof(path, keys) for path in proof or ()]
        if ledger is None:
            if outputs or any((checkpoint, statement, head, tiles, certificates, since, metrics)):
                raise LedgerUnusable("without a ledger only proofs are checked: give it first")
            raise typer.Exit(_prove_alone(proofs, json))
        if tiles is not None and not checkpoint and not proofs:
            raise LedgerUnusable("tiles are those of a checkpoint: give --checkpoint as well")
        if metrics is not None and html is None:
            raise LedgerUnusable("metrics are shown in the page alone: give --html as well")
        signed = [read_checkpoint(path, keys) for path in checkpoint or ()]
        earlier = None if since is None else read_since(since)
        expected = _head(head)
        with _progress() as progress:
            report = audit_ledger(
                ledger,
                until=until,
                expected_head=expected,
                checkpoints=[*signed, *(one.checkpoint for one in proofs)],
                tiles=tiles,
                since=earlier,
                statements=None if certificates is None else read_statements(certificates),
                proofs=proofs,
                progress=progress,
            )
        verdicts = [check_statement(path, ledger, report.head) for path in statement or ()]
        outcome = _Outcome(ledger, until, report, expected, signed, proofs, verdicts)
        if save is not None and report.chain is not None and outcome.sound:
            write_since(save, ledger, dict(report.chain), earlier)
        if html is not None:
            refusals = None if metrics is None else refusals_of(metrics)
            html.write_text(_page(outcome, refusals), encoding="utf-8", errors="replace")
    except (LedgerUnusable, ValueError, OSError, BrokenProcessPool) as error:
        _refuse(ledger, json, error)
        raise typer.Exit(UNUSABLE) from None
    if json:
        print_json(outcome.as_json())
    else:
        console = _console()
        console.print(f"{printable(str(ledger))}: {'sound' if outcome.sound else 'BROKEN'}")
        for sentence in _verdict(outcome):
            console.print(f"  {printable(sentence)}")
        for name, text in _figures(outcome):
            console.print(f"  {name:<12}{printable(text)}")
        for sentence in _advice(outcome):
            console.print(f"  {sentence}")
    raise typer.Exit(SOUND if outcome.sound else BROKEN)


def _refuse(ledger: Path | None, json: bool, error: Exception) -> None:
    reason = str(error)
    if isinstance(error, BrokenProcessPool):
        reason = "a process of the audit was killed; audit again"
    elif isinstance(error, OSError):
        reason = f"a file cannot be written: {error.strerror}"
    if json:
        print_json({"ledger": ledger and str(ledger), "verdict": "unusable", "reason": reason})
    else:
        _console(stderr=True).print(printable(f"{ledger or 'audit'}: unusable: {reason}"))


def _refuse_to_overwrite(outputs: Sequence[Path], inputs: Sequence[Path | None]) -> None:
    """Nothing that is read, or written already, is written over. Raises LedgerUnusable, OSError."""
    for number, output in enumerate(outputs):
        others = [path for path in (*inputs, *outputs[:number]) if path is not None]
        if output in others or (
            output.exists() and any(path.exists() and output.samefile(path) for path in others)
        ):
            raise LedgerUnusable("--html and --save need files of their own: another would be lost")


def _prove_alone(proofs: Sequence[Proof], json: bool) -> int:
    """Check proofs that bring their record with them. Raises LedgerUnusable."""
    if not proofs:
        raise LedgerUnusable("give a ledger, or a proof that has its record in it")
    for one in proofs:
        line = one.record()
        record, size = line.record, one.checkpoint.size
        if json:
            print_json(
                {
                    "verdict": "proven",
                    "position": one.position,
                    "event_type": record.event_type,
                    "wallet": record.wallet,
                    "event_hash": record.event_hash,
                    "timestamp": record.timestamp,
                    "checkpoint": {"origin": one.checkpoint.origin, "size": size},
                }
            )
        else:
            console = _console()
            console.print(f"proven: position {one.position} of {size} in {one.checkpoint.origin}")
            what = f"{record.event_type} of {record.wallet}, {record.timestamp}"
            console.print(f"  {printable(what)}")
            console.print(f"  hash {record.event_hash}")
    return SOUND


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


# -- the report for people -------------------------------------------------------------------------


def _verdict(outcome: _Outcome) -> Iterator[str]:
    """What is wrong, when something is."""
    if outcome.report.finding is not None:
        yield str(outcome.report.finding)
        yield "The figures below are of the sound records before that line."
    for one in outcome.statements:
        if one.difference is not None:
            yield f"The reward statement of epoch {one.epoch} is not the ledger's: {one.difference}"


def _figures(outcome: _Outcome) -> Iterator[tuple[str, str]]:
    """What was counted and what it was held against."""
    report = outcome.report
    scope = "" if outcome.until is None else f" (no more than {outcome.until} were asked for)"
    yield "records", f"{report.records:,}{scope}{_counts(report.dialects)}"
    events = dict(report.events)
    if report.unnamed_events:
        events["other types"] = report.unnamed_events
    yield "events", f"{sum(events.values()):,}{_counts(events)}"
    yield "messages", f"{sum(report.messages.values()):,}{_counts(report.messages)}"
    yield "streams", f"{report.streams:,}, each strictly rising"
    yield "signatures", _signatures(report)
    if report.identities is not None:
        yield "identities", _identities(report)
    if report.ambiguous:
        yield (
            "ambiguous",
            f"{report.ambiguous:,} records hold the hash's separator in a name: "
            "their hash does not tell wallet from event type",
        )
    for checkpoint in outcome.checkpoints:
        if _reached(report, checkpoint.size):
            yield "checkpoint", f"{checkpoint.size:,} records of {checkpoint.origin}: borne out"
    for proof in outcome.proofs:
        if _reached(report, proof.position):
            yield "proof", f"position {proof.position:,}: the record is the one that was proven"
    for one in outcome.statements:
        if one.difference is None:
            yield "statement", f"epoch {one.epoch} at {one.position:,}: to the byte"
    yield "head", f"{report.head.position}:{report.head.event_hash}"


def _reached(report: Report, position: int) -> bool:
    return report.finding is None or position < report.finding.position


def _advice(outcome: _Outcome) -> Iterator[str]:
    if outcome.sound and outcome.expected is None and not outcome.checkpoints:
        yield "Keep the head where the server cannot change it, and give it as --head next time:"
        yield "without it, records removed from the end do not show."


def _counts(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    return ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _signatures(report: Report) -> str:
    parts = [f"{report.signed:,} messages signed, {report.unsigned:,} unsigned"]
    if report.verified:
        parts.append(f"{report.verified:,} verified")
    if report.unverified:
        why = "no registered device to verify with"
        if report.identities is None:
            why = "taken as logged; --certificates verifies them"
        parts.append(f"{report.unverified:,} not verified ({why})")
    if report.other_signatures:
        parts.append(f"{report.other_signatures:,} on other events, not verified")
    return "; ".join(parts)


def _identities(report: Report) -> str:
    found = report.identities
    if found is None:
        return ""
    parts = [f"{found.wallets:,} wallets, {found.devices:,} device certificates"]
    if found.missing:
        parts.append(f"{found.missing:,} statements are missing: their devices were not judged")
    for position, wallet, how in found.changes[:_CHANGES_SHOWN]:
        parts.append(f"{how.value} at {position:,} by {wallet}")
    if len(found.changes) > _CHANGES_SHOWN:
        parts.append(f"{len(found.changes) - _CHANGES_SHOWN:,} more changes; --json has them all")
    return "; ".join(parts)


def _page(outcome: _Outcome, refusals: dict[str, int] | None) -> str:
    report = outcome.report
    activity = activity_of(outcome.ledger, report.head) if report.head.position else None
    sentences = list(_verdict(outcome)) or [
        f"All {report.records:,} records follow one another, unaltered, to the head below."
    ]
    return page(
        outcome.ledger.name,
        outcome.sound,
        sentences,
        list(_figures(outcome)),
        activity,
        refusals,
    )

"""``secure-chat migrate``: take over a host's ledger and chats, and move from stage to stage.

Exit status: 0 done and everything adds up, 1 a mismatch, a refused record or a broken ledger, 2
unusable input or a step that may not be made. Here are arguments, progress and printing only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from plugins.secure_chat.adoption import steps
from plugins.secure_chat.adoption.report import as_json, lines, write_report
from plugins.secure_chat.adoption.steps import Outcome
from plugins.secure_chat.adoption.transfer import BATCH
from plugins.secure_chat.core.stage import ORDER, Stage
from plugins.secure_chat.errors import (
    ConfigurationError,
    DatabaseUnusable,
    ExportUnusable,
    LedgerBroken,
    LedgerLocked,
    LedgerUnavailable,
    LedgerUnusable,
    MigrationRefused,
)
from plugins.secure_chat.mailbox.engine import FILE_NAME, database
from plugins.secure_chat.settings import Settings

DONE: Final = 0
MISMATCH: Final = 1
UNUSABLE: Final = 2
REPORT: Final = "migration-report.json"

app = typer.Typer(
    help="Take over a host's ledger and chats, and move from the legacy route to the chat.",
    no_args_is_help=True,
)

DataDir = Annotated[Path, typer.Option(help="What the server keeps is here.")]
Ledger = Annotated[Path | None, typer.Option(help="The ledger, if not DIR/genesis_ledger.jsonl.")]
Exports = Annotated[
    list[Path] | None,
    typer.Argument(help="Exports of earlier chats, JSON or JSON Lines; all of them at once."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
AcceptRefused = Annotated[
    bool,
    typer.Option("--accept-refused", help="Records that were refused are no mismatch."),
]


class _Place:
    """Where a migration works."""

    def __init__(self, data_dir: Path, ledger: Path | None) -> None:
        self.data_dir = data_dir
        self.ledger = data_dir / "genesis_ledger.jsonl" if ledger is None else ledger
        try:
            settings = Settings()
        except ValidationError as error:
            names = ", ".join(f"SECURE_CHAT_{one['loc'][0]}".upper() for one in error.errors())
            raise ConfigurationError(f"not valid: {names}") from None
        self._url = settings.database_url
        self.stage = settings.stage

    def engine(self) -> Engine:
        return database(self._url, self.data_dir)

    def existing(self) -> Engine | None:
        """The database if there is one: what only reads makes none."""
        if self._url or (self.data_dir / FILE_NAME).exists():
            return self.engine()
        return None


@app.command("plan")
def plan(
    exports: Exports = None,
    data_dir: DataDir = Path("data"),
    ledger: Ledger = None,
    json: Json = False,
) -> None:
    """A dry run: what would be taken over, and which records refused. Writes nothing."""
    paths = exports or []
    with _told(json), _progress("plan", paths, json) as advance:
        place = _Place(data_dir, ledger)
        outcome = steps.plan(place.ledger, place.existing(), paths, advance)
    _print(outcome, json, refusals=outcome.refusals)
    broken = outcome.audit is not None and not outcome.audit.sound
    raise typer.Exit(MISMATCH if broken or outcome.refused else DONE)


@app.command("run")
def run(
    exports: Exports = None,
    data_dir: DataDir = Path("data"),
    ledger: Ledger = None,
    batch: Annotated[int, typer.Option(min=1, help="Records in one commit.")] = BATCH,
    throttle: Annotated[
        float | None, typer.Option(min=0.001, help="Records a second at most.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help=f"The written report, if not DIR/{REPORT}.")
    ] = None,
    accept_refused: AcceptRefused = False,
    json: Json = False,
) -> None:
    """Adopt the ledger and take the exports over. Stop the server first; run again to go on."""
    paths = exports or []
    with _told(json), _progress("run", paths, json) as advance:
        place = _Place(data_dir, ledger)
        outcome = steps.run(
            place.ledger, place.engine(), paths, batch=batch, throttle=throttle, advance=advance
        )
        target = data_dir / REPORT if report is None else report
        write_report(target, outcome, place.engine())
    _print(outcome, json)
    if not json:
        _console().print(f"  report      {target}")
    refused = outcome.refused and not accept_refused
    raise typer.Exit(MISMATCH if outcome.mismatches or refused else DONE)


@app.command("verify")
def verify(
    exports: Exports = None,
    data_dir: DataDir = Path("data"),
    ledger: Ledger = None,
    accept_refused: AcceptRefused = False,
    json: Json = False,
) -> None:
    """Compare ledger and database with the exports, record by record. The stage needs it."""
    paths = exports or []
    with _told(json), _progress("verify", paths, json) as advance:
        place = _Place(data_dir, ledger)
        outcome = steps.verify(
            place.ledger, place.engine(), paths, accept_refused=accept_refused, advance=advance
        )
    _print(outcome, json)
    raise typer.Exit(MISMATCH if outcome.mismatches else DONE)


@app.command("status")
def status(data_dir: DataDir = Path("data"), ledger: Ledger = None, json: Json = False) -> None:
    """How far the migration is. Reads only, also beside a running server."""
    with _told(json):
        place = _Place(data_dir, ledger)
        outcome = steps.status(place.ledger, place.existing())
    _print(outcome, json)
    raise typer.Exit(DONE)


Assumed = Annotated[
    Stage | None,
    typer.Option(
        "--from", help="Where a ledger is that was never moved; else SECURE_CHAT_STAGE says it."
    ),
]


@app.command("advance")
def advance_stage(
    data_dir: DataDir = Path("data"),
    ledger: Ledger = None,
    assumed: Assumed = None,
    json: Json = False,
) -> None:
    """Move to the next stage. Stop the server first; needs a verification that has passed."""
    _move(data_dir, ledger, 1, assumed, json)


@app.command("rollback")
def rollback(
    data_dir: DataDir = Path("data"),
    ledger: Ledger = None,
    assumed: Assumed = None,
    json: Json = False,
) -> None:
    """Move back to the stage before. What was sent meanwhile stays. Stop the server first."""
    _move(data_dir, ledger, -1, assumed, json)


def _move(data_dir: Path, ledger: Path | None, way: int, assumed: Stage | None, json: bool) -> None:
    with _told(json):
        place = _Place(data_dir, ledger)
        engine = place.engine()
        current = steps.status(place.ledger, engine).stage or assumed or place.stage
        if current is None:
            raise MigrationRefused("the ledger was never moved: say where it is, as --from legacy")
        target = ORDER.index(current) + way
        if not 0 <= target < len(ORDER):
            raise MigrationRefused(f"{current} is the {'last' if way > 0 else 'first'} stage")
        outcome = steps.move_stage(place.ledger, engine, ORDER[target], assumed=current)
    _print(outcome, json)
    raise typer.Exit(DONE)


# -- printing --------------------------------------------------------------------------------------


@contextmanager
def _told(json: bool) -> Iterator[None]:
    """Errors of ours in one line, with the exit status that they mean."""
    try:
        yield
    except LedgerBroken as error:
        _fail(json, MISMATCH, "broken", f"the ledger: {error}")
    except BrokenProcessPool:
        _fail(json, UNUSABLE, "unusable", "a process of the audit was killed; try again")
    except LedgerLocked:
        _fail(json, UNUSABLE, "unusable", "a server uses this ledger: stop it first")
    except (
        ConfigurationError,
        DatabaseUnusable,
        ExportUnusable,
        LedgerUnavailable,
        LedgerUnusable,
        MigrationRefused,
    ) as error:
        _fail(json, UNUSABLE, "unusable", str(error))


def _fail(json: bool, status: int, verdict: str, reason: str) -> NoReturn:
    if json:
        _print_json({"verdict": verdict, "reason": reason})
    else:
        _console(stderr=True).print(f"secure-chat migrate: {reason}")
    raise typer.Exit(status)


@contextmanager
def _progress(name: str, paths: Iterable[Path], json: bool) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on stderr, when a person is there to see it."""
    if json or not sys.stderr.isatty():
        yield lambda _: None
        return
    total = 2 * sum(path.stat().st_size for path in paths if path.exists())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda size: bar.advance(task, size)


def _print(outcome: Outcome, json: bool, refusals: Iterable[Any] = ()) -> None:
    if json:
        _print_json(as_json(outcome, refusals))
        return
    console = _console()
    for line in lines(outcome, refusals):
        console.print(line)


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print_json(values: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(values).decode() + "\n")

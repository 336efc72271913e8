"""``secure-chat migrate``: take over a host's ledger and chats, and move from stage to stage.

Exit status: 0 done and everything adds up, 1 a mismatch, a refused record or a broken ledger, 2
unusable input or a step that may not be made. Here are arguments, progress and printing only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from plugins.secure_chat.adoption import steps
from plugins.secure_chat.adoption.export import name_of
from plugins.secure_chat.adoption.report import as_json, lines, write_report
from plugins.secure_chat.adoption.steps import Outcome
from plugins.secure_chat.adoption.transfer import BATCH
from plugins.secure_chat.cli.terminal import print_json, printable
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
from plugins.secure_chat.mailbox.engine import database, database_to_read
from plugins.secure_chat.migrations.schema import first_line
from plugins.secure_chat.settings import Settings

DONE: Final = 0
MISMATCH: Final = 1
UNUSABLE: Final = 2
REPORT: Final = "migration-report.json"

app = typer.Typer(
    help="Take over a host's ledger and chats, and move from the legacy route to the chat.",
    no_args_is_help=True,
)

Exports = Annotated[
    list[Path] | None,
    typer.Argument(help="Exports of earlier chats, JSON or JSON Lines; all of them at once."),
]
AcceptRefused = Annotated[
    bool,
    typer.Option("--accept-refused", help="Records that were refused are no mismatch."),
]
Sources = Annotated[
    list[Path] | None,
    typer.Option(
        "--source",
        help="A file that exports were made from, as the host's database: not to change until the "
        "stage is moved. Also more than once.",
    ),
]
Assumed = Annotated[
    Stage | None,
    typer.Option(
        "--from", help="Where a ledger is that was never moved; else SECURE_CHAT_STAGE says it."
    ),
]


@dataclass
class _Asked:
    """What every command takes, and where it works."""

    data_dir: Annotated[Path, typer.Option(help="What the server keeps is here.")] = Path("data")
    ledger: Annotated[
        Path | None, typer.Option(help="The ledger, if not DIR/genesis_ledger.jsonl.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False

    @property
    def ledger_path(self) -> Path:
        return self.data_dir / "genesis_ledger.jsonl" if self.ledger is None else self.ledger

    @cached_property
    def settings(self) -> Settings:
        return Settings.of_environment()

    def engine(self) -> Engine:
        return database(self.settings.database_url, self.data_dir)

    def existing(self) -> Engine | None:
        """The database if there is one: what only reads makes none."""
        return database_to_read(self.settings.database_url, self.data_dir)


def _command(step: Callable[..., int]) -> Callable[..., int]:
    """Make a command of ``step``: its own options and those of ``_Asked``; it gives the status."""
    own = list(signature(step, eval_str=True).parameters.values())[1:]
    shared = list(signature(_Asked, eval_str=True).parameters.values())

    def command(**given: Any) -> NoReturn:
        asked = _Asked(**{one.name: given.pop(one.name) for one in shared})
        with _told(asked.json):
            status = step(asked, **given)
        raise typer.Exit(status)

    command.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
    app.command(step.__name__, help=step.__doc__)(command)
    return step


@_command
def plan(asked: _Asked, exports: Exports = None) -> int:
    """A dry run: what would be taken over, and which records refused. Writes nothing."""
    paths = exports or []
    with _progress("plan", paths, asked) as advance:
        outcome = steps.plan(asked.ledger_path, asked.existing(), paths, advance)
    _print(outcome, asked, refusals=outcome.refusals)
    broken = outcome.audit is not None and not outcome.audit.sound
    return MISMATCH if broken or outcome.refused else DONE


@_command
def run(
    asked: _Asked,
    exports: Exports = None,
    batch: Annotated[int, typer.Option(min=1, help="Records in one commit.")] = BATCH,
    throttle: Annotated[
        float | None, typer.Option(min=0.001, help="Records a second at most.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help=f"The written report, if not DIR/{REPORT}.")
    ] = None,
    accept_refused: AcceptRefused = False,
) -> int:
    """Adopt the ledger and take the exports over. Stop the server first; run again to go on."""
    paths = exports or []
    with _progress("run", paths, asked) as advance:
        outcome = steps.run(
            asked.ledger_path,
            asked.engine(),
            paths,
            batch=batch,
            throttle=throttle,
            advance=advance,
        )
        target = asked.data_dir / REPORT if report is None else report
        write_report(target, outcome, asked.engine())
    _print(outcome, asked)
    if not asked.json:
        _console().print(printable(f"  report      {target}"))
    refused = outcome.refused and not accept_refused
    return MISMATCH if outcome.mismatches or refused else DONE


@_command
def verify(
    asked: _Asked,
    exports: Exports = None,
    source: Sources = None,
    accept_refused: AcceptRefused = False,
) -> int:
    """Compare ledger and database with the exports, record by record. The stage needs it."""
    paths = exports or []
    with _progress("verify", paths, asked) as advance:
        outcome = steps.verify(
            asked.ledger_path,
            asked.engine(),
            paths,
            sources=source or (),
            accept_refused=accept_refused,
            advance=advance,
        )
    _print(outcome, asked)
    return MISMATCH if outcome.mismatches else DONE


@_command
def status(asked: _Asked) -> int:
    """How far the migration is. Reads only, also beside a running server."""
    _print(steps.status(asked.ledger_path, asked.existing()), asked)
    return DONE


@_command
def advance(
    asked: _Asked, exports: Exports = None, source: Sources = None, assumed: Assumed = None
) -> int:
    """Move to the next stage. Stop the server first; needs a verification that has passed, and from
    legacy and shadow the exports and sources that it was given."""
    return _move(asked, 1, assumed, exports or (), source or ())


@_command
def rollback(asked: _Asked, assumed: Assumed = None) -> int:
    """Move back to the stage before. What was sent meanwhile stays. Stop the server first."""
    return _move(asked, -1, assumed)


def _move(
    asked: _Asked,
    way: int,
    assumed: Stage | None,
    exports: Sequence[Path] = (),
    sources: Sequence[Path] = (),
) -> int:
    engine = asked.engine()
    current = steps.status(asked.ledger_path, engine).stage or assumed or asked.settings.stage
    if current is None:
        raise MigrationRefused("the ledger was never moved: say where it is, as --from legacy")
    target = ORDER.index(current) + way
    if not 0 <= target < len(ORDER):
        raise MigrationRefused(f"{current} is the {'last' if way > 0 else 'first'} stage")
    outcome = steps.move_stage(
        asked.ledger_path, engine, ORDER[target], exports, sources=sources, assumed=current
    )
    _print(outcome, asked)
    return DONE


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
    except DBAPIError as error:
        _fail(json, UNUSABLE, "unusable", f"the database cannot be used: {first_line(error)}")
    except OSError as error:
        where = "" if error.filename is None else f"{name_of(Path(error.filename))}: "
        _fail(json, UNUSABLE, "unusable", f"{where}{error.strerror or 'an error of the disk'}")


def _fail(json: bool, status: int, verdict: str, reason: str) -> NoReturn:
    if json:
        print_json({"verdict": verdict, "reason": reason})
    else:
        _console(stderr=True).print(printable(f"secure-chat migrate: {reason}"))
    raise typer.Exit(status)


@contextmanager
def _progress(name: str, paths: Iterable[Path], asked: _Asked) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on stderr, when a person is there to see it."""
    if asked.json or not sys.stderr.isatty():
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


def _print(outcome: Outcome, asked: _Asked, refusals: Iterable[Any] = ()) -> None:
    if asked.json:
        print_json(as_json(outcome, refusals))
        return
    console = _console()
    for line in lines(outcome, refusals):
        console.print(printable(line))


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)

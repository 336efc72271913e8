"""The command line: one module a command, wired together here."""

from __future__ import annotations

from typing import Annotated

import typer

from plugins.secure_chat import __version__
from plugins.secure_chat.cli.audit import audit
from plugins.secure_chat.cli.bench import bench
from plugins.secure_chat.cli.demo import demo
from plugins.secure_chat.cli.migrate import app as migrate
from plugins.secure_chat.cli.rewards import rewards
from plugins.secure_chat.cli.serve import serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command("serve")(serve)
app.command("demo")(demo)
app.command("audit")(audit)
app.command("rewards")(rewards)
app.command("bench")(bench)
app.add_typer(migrate, name="migrate")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def secure_chat(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """End-to-end encrypted chat on a durable ledger.

    `serve` runs it, `demo` shows it, `audit` and `rewards` read a ledger without a server.
    """


def main() -> None:
    app(prog_name="secure-chat")

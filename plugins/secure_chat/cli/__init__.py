"""The command line: one module a command, wired together here."""

from __future__ import annotations

import typer

from plugins.secure_chat import __version__
from plugins.secure_chat.cli.audit import audit
from plugins.secure_chat.cli.bench import bench
from plugins.secure_chat.cli.demo import demo
from plugins.secure_chat.cli.migrate import app as migrate
from plugins.secure_chat.cli.rewards import rewards
from plugins.secure_chat.cli.serve import serve

app = typer.Typer(
    help="End-to-end encrypted chat on a durable ledger.",
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


@app.command("version")
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    app()

"""The command line: one module a command, wired together here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from plugins.secure_chat import __version__
from plugins.secure_chat.cli.audit import audit
from plugins.secure_chat.cli.bench import bench
from plugins.secure_chat.cli.demo import demo
from plugins.secure_chat.cli.migrate import app as migrate
from plugins.secure_chat.cli.rewards import rewards
from plugins.secure_chat.cli.serve import serve
from plugins.secure_chat.cli.terminal import print_json


class _Commands(TyperGroup):
    """All commands. A wrong use is one JSON object when ``--json`` is among the arguments."""

    _for_a_script = False

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        self._for_a_script = "--json" in args
        with self._wrong_use():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with self._wrong_use():
            return super().invoke(ctx)

    @contextmanager
    def _wrong_use(self) -> Iterator[None]:
        try:
            yield
        except typer.TyperException as error:
            if not self._for_a_script:
                raise
            print_json({"verdict": "unusable", "reason": error.format_message()})
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=_Commands,
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

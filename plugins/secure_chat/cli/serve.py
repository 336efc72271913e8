"""``secure-chat serve``: the stand-in host with the plugin. Arguments, logging and the exit code.

The host is loaded by name, as any adopter's process would load it; nothing here imports it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvicorn

from plugins.secure_chat.errors import ConfigurationError, LedgerBroken, SecureChatError
from plugins.secure_chat.logs import configure
from plugins.secure_chat.transport.corked_protocol import CorkedProtocol
from plugins.secure_chat.web_client import NOT_BUILT, WebClient

HOST_APP: Final = "v13.ATLAS.src.main"
PLUGIN: Final = "plugins.secure_chat.plugin"
BUILT_CLIENT: Final = Path(__file__).resolve().parents[3] / "v13" / "ATLAS" / "dist"
# A message of 1 MiB in base64 and its other fields; what is larger is closed with 1009.
LARGEST_FRAME: Final = (1 << 20) * 4 // 3 + 65_536
COLLECT_EVERY: Final = 50_000  # container objects made and kept: a few MiB
# What threads wait for the interpreter at most, each time that a sync or a query gives it up: a
# commit does several times. Python's own 5 ms would be more than the disk takes.
SWITCH_SECONDS: Final = 0.0005
DRAIN_SECONDS: Final = 10


class _Announcing(uvicorn.Server):
    """Says where it listens, in one line on stdout, when it does."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What is loaded by now stays; walking it again for each few hundred messages' objects,
            # as Python would, takes a sixth of the server's time.
            gc.collect()
            gc.freeze()
            gc.set_threshold(COLLECT_EVERY)
            sys.setswitchinterval(SWITCH_SECONDS)
            address = self.servers[0].sockets[0].getsockname()
            try:
                typer.echo(f"listening on http://{address[0]}:{address[1]}")
            except OSError:
                # It serves, whoever reads that. What is in the buffer must not fail at the end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _StartupErrors:
    """Keeps the error that refused a start, so that it is told in one line, not in a traceback."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.error: SecureChatError | OSError | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def without_traceback(message: Any) -> None:
            expected = isinstance(sys.exc_info()[1], (SecureChatError, OSError))
            if message["type"] == "lifespan.startup.failed" and expected:
                message = {"type": message["type"], "message": ""}
            await send(message)

        try:
            await self._app(scope, receive, without_traceback)
        except (SecureChatError, OSError) as error:
            self.error = error
            raise


def _have_standard_streams() -> None:
    """Have /dev/null for those that were closed: a file of the chat would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address: a port that is taken is told before anything is opened."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"no address to listen on: {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def _refused(error: Exception) -> typer.Exit:
    """Say in one line why nothing starts."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    elif isinstance(error, LedgerBroken):
        text += "; nothing was written. `secure-chat audit` shows what is there"
    typer.echo(f"secure-chat: {text}", err=True)
    return typer.Exit(2)


def _exit_cleanly(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Everything that is kept is here.")] = Path("data"),
    ledger: Annotated[
        Path | None, typer.Option(help="The ledger, if not DIR/genesis_ledger.jsonl.")
    ] = None,
    insecure_dev: Annotated[
        bool, typer.Option("--insecure-dev", help="Accept a weak JWT_SECRET. Never in production.")
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object a line.")] = False,
    with_client: Annotated[
        bool, typer.Option("--with-client", help="Serve the web client at / (`make client`).")
    ] = False,
    client_dir: Annotated[
        Path, typer.Option(help="Where the web client was built.", show_default=False)
    ] = BUILT_CLIENT,
) -> None:
    """Serve an ATLAS API with chat. SIGTERM drains and exits 0."""
    _have_standard_streams()
    configure(as_json=json_logs)
    os.environ["ATLAS_DATA_DIR"] = str(data_dir)
    if ledger is not None:
        os.environ["GENESIS_LEDGER_PATH"] = str(ledger)
    if insecure_dev:
        os.environ["ATLAS_INSECURE_DEV"] = os.environ["SECURE_CHAT_INSECURE_DEV"] = "true"
    plugins: list[object] = [PLUGIN]
    if with_client:
        client = WebClient(client_dir)
        plugins.append(client)
        if not client.built:
            typer.echo(f"secure-chat: {NOT_BUILT}", err=True)
    try:
        app = _StartupErrors(importlib.import_module(HOST_APP).create_app(plugins=plugins))
        listener = _bound(host, port)
    except (SecureChatError, ValueError, OSError) as error:
        raise _refused(error) from None
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws=CorkedProtocol,
        ws_max_size=LARGEST_FRAME,
        ws_per_message_deflate=False,  # ciphertext in base64 gains nothing; it costs 3x
        access_log=False,  # ?token= would stand in it
        log_config=None,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    # uvicorn drains on SIGTERM and then raises it again for whoever listened before: us.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    server = _Announcing(config)
    try:
        with listener:
            server.run([listener])
    except SystemExit as stop:
        if app.error is None:
            raise typer.Exit(int(stop.code or 0)) from None
    if app.error is not None:
        raise _refused(app.error)

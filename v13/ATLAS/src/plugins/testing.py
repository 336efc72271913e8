"""Pytest fixtures for plugin authors: a real host with chosen plugins, and wallets that log in.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["v13.ATLAS.src.plugins.testing"]

and then::

    def test_my_plugin_says_hello(start_host, make_wallet):
        host = start_host(["my_package.my_plugin"])
        token = host.login(make_wallet())
        answer = host.http.get("/hello", headers={"Authorization": f"Bearer {token}"})
        assert answer.json() == {"hello": "world"}

The host is the one that is served: uvicorn on a free port of 127.0.0.1, in a thread, its files in
the test's temporary directory. Nothing is mocked; only its clock can be moved. Nothing that is not
for tests may live here.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import coincurve
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from v13.ATLAS.src.api.eip191 import address, personal_digest
from v13.ATLAS.src.api.tokens import TokenAuthority
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

# There is no TLS on the loopback; to read whom it would believe takes longer than a host's start.
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SECRET: Final = "the secret of hosts that run in tests only"  # noqa: S105 -- guards nothing


class Wallet:
    """A throw-away wallet. ``address`` is in lower case."""

    def __init__(self, key: bytes | None = None) -> None:
        """``key``: 32 bytes, for a wallet that must be the same in each run; random otherwise."""
        self._key = coincurve.PrivateKey(key)
        self.address = address(self._key.public_key.format(compressed=False))

    def sign(self, text: str) -> str:
        """The EIP-191 signature of ``text``: 0x and 130 hex digits, ``v`` 27 or 28."""
        signature = self._key.sign_recoverable(personal_digest(text), hasher=None)
        return "0x" + (signature[:64] + bytes([signature[64] + 27])).hex()


class MovableClock:
    """Unix seconds that run as usual and can be moved."""

    def __init__(self) -> None:
        self._moved = 0.0

    def __call__(self) -> float:
        return time.time() + self._moved

    def move(self, seconds: float) -> None:
        """Forward, or back when negative."""
        self._moved += seconds


@dataclass
class RunningHost:
    """A host that serves. ``http`` is a client whose paths are relative to the host."""

    app: FastAPI
    url: str
    http: httpx.Client
    settings: HostSettings
    clock: MovableClock
    _close: ExitStack = field(repr=False)

    @property
    def ledger_path(self) -> Path:
        return self.settings.ledger_path

    def ws_url(self, path: str) -> str:
        """The ``ws://`` address of a WebSocket route."""
        return "ws" + self.url.removeprefix("http") + path

    def login(self, wallet: Wallet, referral_code: str | None = None) -> str:
        """Log in as a client does, and return the token."""
        challenge = self.http.post("/v1/auth/challenge", json={"wallet": wallet.address})
        challenge.raise_for_status()
        nonce = challenge.json()["nonce"]
        body = {"wallet": wallet.address, "signature": wallet.sign(nonce), "nonce": nonce}
        if referral_code is not None:
            body["referral_code"] = referral_code
        connected = self.http.post("/v1/auth/connect-wallet", json=body)
        connected.raise_for_status()
        token: str = connected.json()["token"]
        return token

    def token(self, identifier: str, scope: str = "user") -> str:
        """A token of this host without a login: for identifiers without a key, and other scopes."""
        tokens: TokenAuthority = self.app.state.tokens
        return tokens.issue(identifier, scope)

    def stop(self) -> None:
        """Stop as SIGTERM does, and return when the ledger is closed. Idempotent."""
        self._close.close()


class HostDidNotStart(RuntimeError):
    """A plugin refused to start. The host's log says why; ``create_app``'s errors come through."""


class StartHost(Protocol):
    """The type of the fixture ``start_host``."""

    def __call__(
        self,
        plugins: Sequence[object] = (),
        plugin_settings: Mapping[str, object] | None = None,
        **settings: object,
    ) -> RunningHost: ...


@contextmanager
def running_host(
    data_dir: Path,
    plugins: Sequence[object],
    plugin_settings: Mapping[str, object] | None = None,
    **settings: object,
) -> Iterator[RunningHost]:
    """Serve a host with ``plugins`` (names or objects) until the block ends.

    ``plugin_settings``: see ``create_app``. ``settings``: fields of HostSettings; the environment
    is not read.
    """
    given = {"jwt_secret": SECRET, "data_dir": data_dir}
    chosen = HostSettings.model_validate({**given, **settings})
    clock = MovableClock()
    app = create_app(chosen, plugins, plugin_settings=plugin_settings or {}, now=clock)
    with ExitStack() as close:
        listener = close.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        close.enter_context(_serving(app, listener))
        http = close.enter_context(
            httpx.Client(base_url=url, timeout=60, trust_env=False, verify=_NO_AUTHORITIES)
        )
        yield RunningHost(app, url, http, chosen, clock, close)


@contextmanager
def _serving(app: FastAPI, listener: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="host")
    thread.start()
    try:
        server.decided.wait()
        if not server.started:
            raise HostDidNotStart("the host did not start; its log says why")
        yield
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn, which says when it has started or given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.decided.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # how uvicorn ends its process; this one is the test's
            self.should_exit = True
        self.decided.set()


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[StartHost]:
    """Start hosts that stop with the test: ``start_host(plugins, plugin_settings, **settings)``.

    All of a test's hosts keep their files in one directory, so that one started after ``stop()``
    continues where the one before ended.
    """
    with ExitStack() as hosts:

        def start(
            plugins: Sequence[object] = (),
            plugin_settings: Mapping[str, object] | None = None,
            **settings: object,
        ) -> RunningHost:
            return hosts.enter_context(
                running_host(tmp_path / "host", plugins, plugin_settings, **settings)
            )

        yield start


@pytest.fixture
def make_wallet() -> Callable[[], Wallet]:
    """Make wallets: ``make_wallet()``."""
    return Wallet

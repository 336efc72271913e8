"""The stand-in ATLAS API: ``create_app`` is the one place where the host is wired together.

Run it as a factory: ``uvicorn --factory v13.ATLAS.src.main:create_app``. Each part is made and
tested elsewhere; here is only who gets what, and the order of starting and stopping.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from pydantic import ValidationError

from plugins.secure_chat.errors import LedgerUnavailable
from v13.ATLAS.src.api import chat, problems
from v13.ATLAS.src.api.auth import auth_router
from v13.ATLAS.src.api.body_limit import BodyLimit
from v13.ATLAS.src.api.challenges import Challenges
from v13.ATLAS.src.api.health import health_router
from v13.ATLAS.src.api.routes.secure_chat import secure_chat_routers
from v13.ATLAS.src.api.tokens import TokenAuthority
from v13.ATLAS.src.legacy_transactions import FILE_NAME, LegacyTransactions
from v13.ATLAS.src.plugins.errors import ConfigurationError
from v13.ATLAS.src.plugins.hookspecs import Host
from v13.ATLAS.src.plugins.lifecycle import running
from v13.ATLAS.src.plugins.manager import Plugins
from v13.ATLAS.src.services import EventAnnouncer, HostServices
from v13.ATLAS.src.settings import HostSettings
from v13.core.CoherenceEngine import CoherenceEngine
from v13.ledger.genesis_ledger import GenesisLedger
from v13.libs.CertifiedMath import CertifiedMath

log: Final = logging.getLogger(__name__)


def create_app(
    settings: HostSettings | None = None,
    plugins: Sequence[object] | None = None,
    *,
    plugin_settings: Mapping[str, object] = MappingProxyType({}),
    now: Callable[[], float] = time.time,
    random_hex: Callable[[int], str] = secrets.token_hex,
) -> FastAPI:
    """Build the application. Nothing is opened before its lifespan starts.

    ``settings``: read from the environment when not given. ``plugins``: names to load, or plugin
    objects; when not given, those of ``settings.plugins``, and when that is empty, those installed
    under the entry point group ``atlas.plugins``. ``plugin_settings``: what a plugin finds in
    ``Host.settings`` under its own name, beside the host's settings. ``now`` and ``random_hex``
    are for tests. Raises ConfigurationError, one line, when the host must not run like this.
    """
    settings = settings if settings is not None else _settings_of_the_environment()
    tokens = TokenAuthority(settings.signing_key(), ttl=settings.token_ttl, now=now)
    loaded = Plugins()
    ledger = GenesisLedger(settings.ledger_path, on_committed=EventAnnouncer(loaded))
    engine = CoherenceEngine(CertifiedMath())
    transactions = LegacyTransactions(settings.data_dir / FILE_NAME)
    services = HostServices(tokens, ledger, engine, settings.legacy_stage, transactions)
    loaded.register(services, "host")
    _load(loaded, plugins if plugins is not None else settings.plugins or None)
    host = Host(
        hook=loaded.hook,
        data_dir=settings.data_dir,
        ledger_path=settings.ledger_path,
        settings=MappingProxyType({**plugin_settings, **settings.for_plugins()}),
    )
    lifecycle = _Lifecycle(loaded, host, ledger, transactions)
    app = FastAPI(
        title="ATLAS",
        lifespan=lifecycle.run,
        # The interactive pages load scripts from elsewhere; /openapi.json stays.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, largest=settings.largest_body)
    problems.install(app)
    app.include_router(health_router(lifecycle.reasons_not_ready))
    challenges = Challenges(now=now, random_hex=random_hex, largest=settings.open_challenges)
    app.include_router(auth_router(challenges, tokens, ledger))
    chat.mount(app, loaded, host)
    # Behind the plugins' routes: what one of them has taken over it answers first.
    for router in secure_chat_routers(transactions):
        app.include_router(router)
    app.state.host = host
    app.state.plugins = loaded
    app.state.tokens = tokens
    return app


def _settings_of_the_environment() -> HostSettings:
    try:
        return HostSettings()
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise ConfigurationError("; ".join(faults)) from None


def _load(loaded: Plugins, wanted: Sequence[object] | None) -> None:
    if wanted is None:
        loaded.load_entry_points()
        return
    for plugin in wanted:
        if isinstance(plugin, str):
            loaded.load(plugin)
        else:
            loaded.register(plugin)


class _Lifecycle:
    """Starting, being ready, and stopping."""

    def __init__(
        self,
        plugins: Plugins,
        host: Host,
        ledger: GenesisLedger,
        transactions: LegacyTransactions,
    ) -> None:
        self._plugins = plugins
        self._host = host
        self._ledger = ledger
        self._transactions = transactions
        self._serving = False

    @asynccontextmanager
    async def run(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start plugins in order and the ledger after them; stop in reverse, the ledger last.

        A plugin that wants the ledger opened in its own way (from a checkpoint of its own) does so
        in its start; whatever is still closed then is opened, verified from the first line.
        """
        try:
            async with running(self._plugins, self._host):
                await asyncio.to_thread(self._ledger.open)
                self._serving = True
                try:
                    yield
                finally:
                    self._serving = False
        finally:
            await asyncio.to_thread(self._ledger.close)
            await asyncio.to_thread(self._transactions.close)

    def reasons_not_ready(self) -> list[str]:
        """What the host and each plugin say; a plugin that fails to say counts as not ready."""
        if not self._serving:
            return ["the host is starting or stopping"]
        reasons = []
        try:
            if (stopped := self._ledger.journal.stopped) is not None:
                reasons.append(stopped)
        except LedgerUnavailable as closed:
            reasons.append(closed.detail)
        for ready in self._plugins.implementations("atlas_ready"):
            try:
                reasons.extend(ready(host=self._host) or ())
            except Exception:
                log.exception("host.readiness_check_failed plugin=%s", ready.plugin)
                reasons.append(f"the readiness check of {ready.plugin} failed")
        return list(dict.fromkeys(reasons))  # a plugin on the host's ledger says its reason too

"""Plugins in a FastAPI application that is not ours: the one call of ``docs/adopting.md``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from v13.ATLAS.src.api.chat import mount
from v13.ATLAS.src.plugins.hookspecs import Host
from v13.ATLAS.src.plugins.lifecycle import running
from v13.ATLAS.src.plugins.manager import Plugins


def install(
    app: FastAPI,
    services: Sequence[object],
    *,
    data_dir: Path,
    ledger_path: Path,
    plugins: Sequence[str] = ("plugins.secure_chat.plugin",),
) -> Plugins:
    """Serve ``plugins`` from ``app``. Call it once, before the application starts.

    ``services``: objects with hook implementations of the host: ``atlas_authenticate`` and, if it
    has a ledger of its own, ``atlas_ledger``. The application's own lifespan runs inside that of
    the plugins. Of two routes with one path the first included serves, so call this before the
    routers that it replaces. Raises ConfigurationError when a plugin cannot be loaded.
    """
    loaded = Plugins()
    for service in services:
        loaded.register(service)
    for plugin in plugins:
        loaded.load(plugin)
    host = Host(hook=loaded.hook, data_dir=data_dir, ledger_path=ledger_path, settings={})
    mount(app, loaded, host)
    own_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(inner: FastAPI) -> AsyncIterator[Any]:
        async with running(loaded, host), own_lifespan(inner) as state:
            yield state

    app.router.lifespan_context = lifespan
    return loaded

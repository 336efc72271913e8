"""Starting plugins in order and stopping them in reverse: the promises of ``atlas_start/stop``."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from v13.ATLAS.src.plugins.hookspecs import Host
from v13.ATLAS.src.plugins.manager import Plugins


@asynccontextmanager
async def running(plugins: Plugins, host: Host) -> AsyncIterator[None]:
    """Have every plugin started inside the block.

    A start that fails stops those that started before it and is raised. Every stop is called;
    what they raise comes out together, as an ExceptionGroup.
    """
    host.data_dir.mkdir(parents=True, exist_ok=True)
    starts = {start.plugin: start for start in plugins.implementations("atlas_start")}
    started: list[str] = []
    try:
        for plugin in plugins.names():
            if plugin in starts:
                await _finished(starts[plugin](host=host))
            started.append(plugin)
        yield
    finally:
        await _stop(plugins, host, started)


async def _stop(plugins: Plugins, host: Host, started: list[str]) -> None:
    stops = {stop.plugin: stop for stop in plugins.implementations("atlas_stop")}
    errors: list[Exception] = []
    for plugin in reversed(started):
        if plugin not in stops:
            continue
        try:
            await _finished(stops[plugin](host=host))
        except Exception as error:  # noqa: BLE001 -- raised below, when all have stopped
            errors.append(error)
    if errors:
        raise ExceptionGroup("plugins did not stop cleanly", errors)


async def _finished(result: Any) -> None:
    if inspect.isawaitable(result):
        await result

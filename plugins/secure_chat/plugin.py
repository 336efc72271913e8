"""The plugin's hook implementations, and nothing else. What they do is in ``runtime.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pluggy
from fastapi import APIRouter, Response, WebSocket

from plugins.secure_chat.runtime import Runtime
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transport.directory import directory_router
from plugins.secure_chat.transport.evidence import evidence_router
from plugins.secure_chat.transport.legacy import legacy_routers
from plugins.secure_chat.transport.rest import rest_router
from plugins.secure_chat.transport.socket import serve_socket
from plugins.secure_chat.transport.threads import thread_router

hookimpl = pluggy.HookimplMarker("atlas")
# One module may serve several hosts in a process (tests do), told apart by their hook relay. An
# entry keeps its host, so its id is not used again.
_runtimes: Final[dict[int, Runtime]] = {}


def _runtime(host: Any) -> Runtime:
    runtime = _runtimes.get(id(host.hook))
    if runtime is None:
        given = host.settings.get("secure_chat")
        settings = given if isinstance(given, Settings) else Settings.of_environment()
        runtime = _runtimes[id(host.hook)] = Runtime(host, settings)
    return runtime


@hookimpl
def atlas_routes(host: Any) -> list[APIRouter]:
    """The WebSocket, REST and the metrics."""
    runtime = _runtime(host)
    router = APIRouter()

    @router.websocket("/v1/chat/ws")
    async def chat_socket(websocket: WebSocket) -> None:
        await serve_socket(websocket, runtime.opened())

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(runtime.metrics.exposition(), media_type="text/plain; version=0.0.4")

    return [
        rest_router(runtime.opened),
        thread_router(runtime.opened),
        directory_router(runtime.opened),
        evidence_router(runtime.opened),
        *legacy_routers(runtime.opened),
        router,
    ]


@hookimpl
async def atlas_start(host: Any) -> None:
    await _runtime(host).open()


@hookimpl
async def atlas_stop(host: Any) -> None:
    await _runtime(host).close()


@hookimpl
def atlas_coherence_features(host: Any, epoch: int | None) -> Mapping[str, Sequence[int]]:
    return _runtime(host).coherence_features(epoch)


@hookimpl
def atlas_ready(host: Any) -> list[str]:
    return _runtime(host).why_not_ready()

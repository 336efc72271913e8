"""Is the process alive, and can it serve now: ``/health/live`` and ``/health/ready``."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse


def health_router(reasons_not_ready: Callable[[], list[str]]) -> APIRouter:
    """The routes; ``reasons_not_ready`` is asked at each readiness check."""
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live", summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get(
        "/ready",
        summary="Whether requests can be served now, and why not",
        responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"description": "Not ready"}},
    )
    async def ready() -> JSONResponse:
        reasons = reasons_not_ready()
        if reasons:
            return JSONResponse(
                {"status": "not ready", "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE
            )
        return JSONResponse({"status": "ready"})

    return router

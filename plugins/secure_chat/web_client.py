"""The built web client, served beside the API: a plugin of its own, for ``serve --with-client``.

Files of one folder and nothing else. The page may run its own scripts and talk to its own server;
whatever else it might be made to do, the headers forbid.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pluggy
from fastapi import APIRouter
from starlette.responses import FileResponse, PlainTextResponse, Response

hookimpl = pluggy.HookimplMarker("atlas")

NOT_BUILT: Final = (
    "the web client is not built: run `make client`, which needs Node 20.19 or newer, "
    "and start again"
)
# `script` sinks take nothing at all: React needs none of them, so an injected string runs nowhere.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ASSET: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", re.ASCII)
# A build names a file in assets/ after its content.
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"


class WebClient:
    """Serves ``folder``, a build of the web client, at ``/``. When there is none it says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    @property
    def built(self) -> bool:
        return (self._folder / "index.html").is_file()

    @hookimpl
    def atlas_routes(self, host: Any) -> list[APIRouter]:
        router = APIRouter(include_in_schema=False)

        @router.get("/")
        async def page() -> Response:
            return self._file("index.html", _ASK_AGAIN)

        @router.get("/icon.svg")
        async def icon() -> Response:
            return self._file("icon.svg", _ASK_AGAIN)

        @router.get("/assets/{name}")
        async def asset(name: str) -> Response:
            return self._file(f"assets/{name}" if _ASSET.fullmatch(name) else None, _FOR_EVER)

        return [router]

    def _file(self, name: str | None, caching: str) -> Response:
        if not self.built:
            return PlainTextResponse(NOT_BUILT, 503, _HEADERS)
        path = None if name is None else (self._folder / name).resolve()
        if path is None or not path.is_relative_to(self._folder) or not path.is_file():
            return PlainTextResponse("there is no such file", 404, _HEADERS)
        return FileResponse(path, headers={**_HEADERS, "Cache-Control": caching})

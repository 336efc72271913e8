"""Routes whose JSON bodies are parsed by pydantic's own parser instead of Python's.

Python's recurses on the C stack as deep as ``sys.setrecursionlimit`` allows, and libraries that a
host may well import (py_ecc, with the Ethereum tools) raise that to 100,000: a body of 100 kB of
``[`` then ends the process. pydantic's parser has a depth limit of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute

from v13.ATLAS.src.api.problems import Problem


class JSONBodyRoute(APIRoute):
    """``APIRouter(route_class=JSONBodyRoute)``. A body that is not JSON is answered with 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JSONRequest(request.scope, request.receive))

        return handle_json


class _JSONRequest(Request):
    async def json(self) -> Any:
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError:
            raise Problem(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None

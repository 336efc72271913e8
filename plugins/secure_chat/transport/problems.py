"""What every REST route of the plugin shares: who asks, the body, and refusals as problems.

Errors are RFC 9457 with the wire's codes. What the routes do is in ``rest.py`` and its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from plugins.secure_chat.errors import (
    CODES,
    Code,
    InvalidMessage,
    LedgerUnavailable,
    MalformedFrame,
    MessageTooLarge,
    Refusal,
    Unauthorized,
)
from plugins.secure_chat.transport.socket import Chat
from plugins.secure_chat.transport.tokens import Principal, bearer

log: Final = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"
COMMON: Final = (Code.UNAUTHORIZED, Code.RATE_LIMITED, Code.INVALID_MESSAGE)
"""What any route may answer."""


class Problem(BaseModel):
    """RFC 9457. ``code`` is the wire's error code; more members as the code needs."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    field: str | None = None
    last_seq: int | None = None
    retry_after: float | None = None


def problem(code: Code, detail: str, extra: dict[str, Any]) -> Response:
    meaning = CODES[code]
    body = {
        "type": f"urn:atlas:secure-chat:problem:{code.value}",
        "title": meaning.title,
        "status": meaning.status,
        "detail": detail,
        "code": code.value,
        **extra,
    }
    headers = {}
    if "retry_after" in extra:
        headers["Retry-After"] = str(max(1, round(extra["retry_after"] + 0.5)))
    if code is Code.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), meaning.status, headers, PROBLEM)


def problems(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems a route may answer."""
    return {
        CODES[code].status: {
            "model": Problem,
            "description": CODES[code].title,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for code in codes
    }


def json_schema(model: type) -> dict[str, Any]:
    """The JSON schema of a flat msgspec struct, whole."""
    (reference,), components = msgspec.json.schema_components([model])
    name = str(reference["$ref"]).rsplit("/", 1)[-1]
    return dict(components[name])


def problem_route(
    chat_of: Callable[[], Chat],
    *,
    dark_too: bool = False,
    passed: tuple[type[Exception], ...] = (),
) -> type[APIRoute]:
    """The route class of the plugin's routers. ``chat_of`` gives what was built at start.

    Unless ``dark_too``, such a route does not exist while the stage of the legacy route keeps the
    chat dark: what the host itself has at its path answers. ``passed`` are exceptions that whoever
    builds on it answers.
    """

    class ProblemRoute(APIRoute):
        """Answers refusals as problems, whatever the host's own exception handlers do."""

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, chosen = super().matches(scope)
            if match is not Match.NONE and not dark_too and chat_of().stage.is_dark:
                return Match.NONE, {}
            return match, chosen

        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                chat = chat_of()
                try:
                    return await handler(request)
                except (Refusal, LedgerUnavailable) as error:
                    refusal = error
                except RequestValidationError as error:
                    refusal = _invalid(error)
                except HTTPException as error:
                    if error.status_code != CODES[Code.MESSAGE_TOO_LARGE].status:
                        raise
                    refusal = MessageTooLarge("the body is over the host's limit")
                except passed:
                    raise
                except Exception as error:  # noqa: BLE001 (answered, counted and logged)
                    # The name alone: texts of libraries may quote what they were given.
                    log.error("rest.failed error=%s", type(error).__name__)
                    chat.service.metrics.refused(Code.INTERNAL)
                    return problem(Code.INTERNAL, "internal error: try again", {})
                chat.service.metrics.refused(refusal.code)
                return problem(refusal.code, refusal.detail, refusal.extra)

            return answer

    return ProblemRoute


def caller(request: Request, chat: Chat) -> Principal:
    """Who asks, after one request was taken from the wallet's budget.

    Raises Unauthorized or RateLimited.
    """
    token = bearer(request.headers.get("authorization"))
    if token is None and chat.settings.query_token:
        token = request.query_params.get("token")
    if token is None:
        raise Unauthorized("no token: send Authorization: Bearer")
    principal = chat.authenticate(token)
    chat.service.spend(principal.wallet)
    return principal


async def read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than ``limit`` bytes. Raises MessageTooLarge or MalformedFrame."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise MessageTooLarge(f"the body is over {limit} bytes")
        parts.append(part)
    if size == 0:
        raise MalformedFrame("the body is empty")
    return b"".join(parts)


def _invalid(error: RequestValidationError) -> InvalidMessage:
    """The first fault that FastAPI found. Its text is not repeated: it may quote the input."""
    where = error.errors()[0]["loc"]
    field = str(where[1]) if len(where) > 1 else "request"  # behind it are names of pydantic's
    return InvalidMessage(field, f"{field} has the wrong type or value")

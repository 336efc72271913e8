"""REST beside the socket: same validation, same codes, errors as RFC 9457 problems."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from plugins.secure_chat.core.envelope import ChatMessage, validate
from plugins.secure_chat.core.frames import Ack, encode_frame, parse_message
from plugins.secure_chat.core.identifiers import canonical
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
_MAX_LIMIT: Final = 200


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


class ThreadItem(BaseModel):
    """A conversation: the host's three fields, and the position of its newest message."""

    peer: str
    last_active: str
    msg_id: str
    position: int


class LedgerHead(BaseModel):
    """The last durable record of the ledger."""

    position: int = Field(ge=0)
    event_hash: str


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


def _problems(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems a route may answer."""
    return {
        CODES[code].status: {
            "model": Problem,
            "description": CODES[code].title,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for code in codes
    }


_COMMON: Final = (Code.UNAUTHORIZED, Code.RATE_LIMITED, Code.INVALID_MESSAGE)


def _inline_schema(model: type) -> dict[str, Any]:
    """The JSON schema of a flat msgspec struct, whole."""
    (reference,), components = msgspec.json.schema_components([model])
    name = str(reference["$ref"]).rsplit("/", 1)[-1]
    return dict(components[name])


def rest_router(chat_of: Callable[[], Chat]) -> APIRouter:
    """The routes under /v1/chat. ``chat_of`` gives what the plugin built at start."""

    class ProblemRoute(APIRoute):
        """Answers refusals as problems, whatever the host's own exception handlers do."""

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
                except Exception as error:  # noqa: BLE001 (answered, counted and logged)
                    # The name alone: texts of libraries may quote what they were given.
                    log.error("rest.failed error=%s", type(error).__name__)
                    chat.service.metrics.refused(Code.INTERNAL)
                    return problem(Code.INTERNAL, "internal error: try again", {})
                chat.service.metrics.refused(refusal.code)
                return problem(refusal.code, refusal.detail, refusal.extra)

            return answer

    router = APIRouter(prefix="/v1/chat", tags=["secure chat"], route_class=ProblemRoute)

    def caller(request: Request) -> Principal:
        chat = chat_of()
        token = bearer(request.headers.get("authorization"))
        if token is None and chat.settings.query_token:
            token = request.query_params.get("token")
        if token is None:
            raise Unauthorized("no token: send Authorization: Bearer")
        principal = chat.authenticate(token)
        chat.service.spend(principal.wallet)
        return principal

    @router.post(
        "/messages",
        status_code=201,
        responses={
            201: {
                "description": "Committed: the receipt",
                "content": {"application/json": {"schema": _inline_schema(Ack)}},
            },
            200: {
                "description": "Committed before: the original receipt",
                "content": {"application/json": {"schema": _inline_schema(Ack)}},
            },
            **_problems(
                Code.MALFORMED_FRAME,
                Code.REPLAYED_SEQUENCE,
                Code.MESSAGE_TOO_LARGE,
                Code.UNKNOWN_DEVICE,
                Code.LEDGER_UNAVAILABLE,
                *_COMMON,
            ),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _inline_schema(ChatMessage)}},
            }
        },
        response_class=Response,
    )
    async def post_message(request: Request) -> Response:
        """Send one message; the answer comes when the ledger has it."""
        principal = caller(request)
        chat = chat_of()
        chat.service.metrics.received()
        frame = parse_message(await _body(request, 2 * chat.settings.max_ciphertext + 65_536))
        envelope = validate(frame, principal.wallet, chat.settings.max_ciphertext)
        chat.service.metrics.validated()
        receipt = await chat.service.send(envelope)
        status = 200 if receipt.duplicate else 201
        return Response(encode_frame(receipt), status, media_type="application/json")

    @router.get("/threads", responses=_problems(*_COMMON))
    async def get_threads(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> list[ThreadItem]:
        """The caller's conversations, newest first."""
        wallet, service = caller(request).wallet, chat_of().service
        found = await service.read(
            lambda: service.mailbox.threads(wallet, limit=limit, offset=offset)
        )
        return [
            ThreadItem(peer=t.peer, last_active=t.last_active, msg_id=t.msg_id, position=t.position)
            for t in found
        ]

    @router.get(
        "/threads/{peer}/messages",
        responses={
            200: {
                "description": "Messages in ledger order; `missing` counts those not retained",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **_problems(*_COMMON),
        },
        response_class=Response,
    )
    async def get_messages(
        request: Request,
        peer: str,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = 50,
    ) -> Response:
        """Messages between the caller and ``peer``: the first after, or the last before."""
        wallet, service = caller(request).wallet, chat_of().service
        other = canonical(peer, "peer")
        found = service.committed(
            await service.read(
                lambda: service.mailbox.history(
                    wallet, other, after=after, before=before, limit=limit
                )
            )
        )
        frames = [message.frame for message in found if message.frame is not None]
        body = b'{"messages":[%s],"missing":%d}' % (b",".join(frames), len(found) - len(frames))
        return Response(body, media_type="application/json")

    @router.get("/ledger/head", responses=_problems(*_COMMON))
    async def get_head(request: Request) -> LedgerHead:
        """The ledger's last durable record."""
        caller(request)
        head = chat_of().service.ledger.checkpoint.head
        return LedgerHead(position=head.position, event_hash=head.event_hash)

    return router


def _invalid(error: RequestValidationError) -> InvalidMessage:
    """The first fault that FastAPI found. Its text is not repeated: it may quote the input."""
    where = error.errors()[0]["loc"]
    field = str(where[-1]) if where else "request"
    return InvalidMessage(field, f"{field} has the wrong type or value")


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than ``limit`` bytes."""
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

"""REST beside the socket: same validation, same codes, errors as RFC 9457 problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from plugins.secure_chat.core.envelope import ChatMessage, validate
from plugins.secure_chat.core.frames import Ack, encode_frame, parse_message
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.errors import Code
from plugins.secure_chat.transport.problems import (
    COMMON,
    caller,
    json_schema,
    problem_route,
    problems,
    read_body,
)
from plugins.secure_chat.transport.socket import Chat

_MAX_LIMIT: Final = 200


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


def rest_router(chat_of: Callable[[], Chat]) -> APIRouter:
    """The routes under /v1/chat. ``chat_of`` gives what the plugin built at start."""

    router = APIRouter(prefix="/v1/chat", tags=["secure chat"], route_class=problem_route(chat_of))

    @router.post(
        "/messages",
        status_code=201,
        responses={
            201: {
                "description": "Committed: the receipt",
                "content": {"application/json": {"schema": json_schema(Ack)}},
            },
            200: {
                "description": "Committed before: the original receipt",
                "content": {"application/json": {"schema": json_schema(Ack)}},
            },
            **problems(
                Code.MALFORMED_FRAME,
                Code.REPLAYED_SEQUENCE,
                Code.MESSAGE_TOO_LARGE,
                Code.UNKNOWN_DEVICE,
                Code.LEDGER_UNAVAILABLE,
                *COMMON,
            ),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": json_schema(ChatMessage)}},
            }
        },
        response_class=Response,
    )
    async def post_message(request: Request) -> Response:
        """Send one message; the answer comes when the ledger has it."""
        chat = chat_of()
        principal = caller(request, chat)
        chat.service.metrics.received()
        await chat.service.room()
        frame = parse_message(await read_body(request, 2 * chat.settings.max_ciphertext + 65_536))
        envelope = validate(frame, principal.wallet, chat.settings.max_ciphertext)
        chat.service.metrics.validated()
        receipt = await chat.service.send(envelope)
        status = 200 if receipt.duplicate else 201
        return Response(encode_frame(receipt), status, media_type="application/json")

    @router.get("/threads", responses=problems(*COMMON))
    async def get_threads(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> list[ThreadItem]:
        """The caller's conversations, newest first."""
        chat = chat_of()
        wallet, service = caller(request, chat).wallet, chat.service
        end = service.delivered_position  # the mailbox is written while the ledger still syncs
        found = await service.read(
            lambda: service.mailbox.threads(wallet, end=end, limit=limit, offset=offset)
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
            **problems(Code.NOT_A_MEMBER, *COMMON),
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
        """Messages between the caller and ``peer``, or of a thread: the first after, or the last
        before."""
        chat = chat_of()
        wallet, service = caller(request, chat).wallet, chat.service
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

    @router.get("/ledger/head", responses=problems(*COMMON))
    async def get_head(request: Request) -> LedgerHead:
        """The ledger's last durable record."""
        chat = chat_of()
        caller(request, chat)
        head = chat.service.ledger.checkpoint.head
        return LedgerHead(position=head.position, event_hash=head.event_hash)

    return router

"""The REST routes of group threads, beside those of ``transport/rest.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field

from plugins.secure_chat.core.frames import parse_object
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.thread import MAX_PARTICIPANTS, Status
from plugins.secure_chat.errors import Code
from plugins.secure_chat.threads.requests import ThreadView
from plugins.secure_chat.transport.problems import (
    COMMON,
    caller,
    json_schema,
    problem_route,
    problems,
    read_body,
)
from plugins.secure_chat.transport.socket import Chat

_LARGEST_BODY: Final = 64 << 10
_REFUSALS: Final = problems(
    Code.MALFORMED_FRAME,
    Code.MESSAGE_TOO_LARGE,
    Code.NOT_A_MEMBER,
    Code.LEDGER_UNAVAILABLE,
    *COMMON,
)


Key = Annotated[str | None, Header(description="The caller's own name for this request.")]


class NewThread(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who is to be in a thread besides the caller, and what it is about."""

    members: list[str]
    title: str | None = None
    metadata: dict[str, Any] = {}


class NewMembers(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Wallets to take into a thread."""

    members: list[str]


class NewStatus(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The status that a thread is to have."""

    status: Literal["DRAFT", "ACTIVE", "ARCHIVED", "DELETED"]


class GroupThread(BaseModel):
    """A thread as its members see it. ``position`` is that of its last change."""

    thread: str
    creator: str
    members: list[str] = Field(max_length=MAX_PARTICIPANTS + 1)
    status: Status
    title: str | None
    metadata: dict[str, Any]
    created_at: str
    position: int


def thread_router(chat_of: Callable[[], Chat]) -> APIRouter:
    """The routes under /v1/chat/threads that are about group threads."""
    router = APIRouter(
        prefix="/v1/chat/threads", tags=["secure chat"], route_class=problem_route(chat_of)
    )

    @router.post("", status_code=201, responses=_REFUSALS, openapi_extra=_body_of(NewThread))
    async def create_thread(request: Request, idempotency_key: Key = None) -> GroupThread:
        """Begin a thread; the caller is its creator and in it.

        With the same Idempotency-Key, a thread that was begun is given again; 422 when another one
        is asked for.
        """
        chat = chat_of()
        wallet = caller(request, chat).wallet
        new = parse_object(await read_body(request, _LARGEST_BODY), NewThread)
        return _shown(
            await chat.threads.create(
                wallet, new.members, new.title, new.metadata, key=idempotency_key
            )
        )

    @router.get("/{thread}", responses=_REFUSALS)
    async def get_thread(request: Request, thread: str) -> GroupThread:
        """A thread that the caller is in."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        return _shown(await chat.threads.view(wallet, canonical(thread, "thread")))

    @router.post("/{thread}/members", responses=_REFUSALS, openapi_extra=_body_of(NewMembers))
    async def add_members(request: Request, thread: str) -> GroupThread:
        """Take wallets in. They see what is written from then on."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        new = parse_object(await read_body(request, _LARGEST_BODY), NewMembers)
        state = await chat.threads.add(wallet, canonical(thread, "thread"), new.members)
        return _shown((await chat.threads.views([state]))[0])

    @router.delete("/{thread}/members/{member}", responses=_REFUSALS)
    async def remove_member(request: Request, thread: str, member: str) -> GroupThread:
        """Take a member out, or leave. Who is out sees nothing of what is written from then on."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        state = await chat.threads.remove(wallet, canonical(thread, "thread"), member)
        return _shown((await chat.threads.views([state]))[0])

    @router.put("/{thread}/status", responses=_REFUSALS, openapi_extra=_body_of(NewStatus))
    async def set_status(request: Request, thread: str) -> GroupThread:
        """Archive, delete or reopen a thread. DELETED is final."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        new = parse_object(await read_body(request, _LARGEST_BODY), NewStatus)
        state = await chat.threads.set_status(
            wallet, canonical(thread, "thread"), Status(new.status)
        )
        return _shown((await chat.threads.views([state]))[0])

    return router


def _body_of(model: type) -> dict[str, Any]:
    """The OpenAPI entry of a body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": json_schema(model)}},
        }
    }


def _shown(view: ThreadView) -> GroupThread:
    state = view.state
    return GroupThread(
        thread=state.id,
        creator=state.creator,
        members=list(state.members),
        status=state.status,
        title=view.title,
        metadata=view.metadata,
        created_at=view.created_at,
        position=state.position,
    )

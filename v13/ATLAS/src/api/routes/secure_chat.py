"""The host's own legacy chat route, deprecated: threads, and hashes of what was written to them.

It answers until a plugin has taken it over; the contract is the plugin's
``secure_chat/legacy/contract.py``. Records are ``legacy_transactions.py``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.thread import Status
from plugins.secure_chat.errors import InvalidMessage
from plugins.secure_chat.legacy import contract
from v13.ATLAS.src.api.json_body import JSONBodyRoute
from v13.ATLAS.src.api.problems import Problem
from v13.ATLAS.src.api.tokens import TokenAuthority
from v13.ATLAS.src.legacy_transactions import (
    CREATED,
    POSTED,
    UPDATED,
    LegacyThread,
    LegacyTransactions,
)
from v13.ATLAS.src.plugins.hookspecs import InvalidToken


def _caller(request: Request) -> str:
    """Who asks, by the host's own tokens."""
    tokens: TokenAuthority = request.app.state.tokens
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "bearer" or not tokens.is_ours(token):
            raise InvalidToken
        return canonical(tokens.verify(token).wallet, "sub")
    except (PermissionError, InvalidMessage):
        raise Problem(
            HTTPStatus.UNAUTHORIZED, "log in first", {"WWW-Authenticate": "Bearer"}
        ) from None


Wallet = Annotated[str, Depends(_caller)]


def secure_chat_routers(transactions: LegacyTransactions) -> list[APIRouter]:
    """The route under the path that it had, and under the one that its callers used."""
    return [_router(prefix, transactions) for prefix in contract.PREFIXES]


def _router(prefix: str, transactions: LegacyTransactions) -> APIRouter:
    router = APIRouter(
        prefix=prefix,
        tags=["legacy"],
        route_class=JSONBodyRoute,
        deprecated=True,
        include_in_schema=False,
    )

    def found(thread: str, wallet: str) -> LegacyThread:
        one = transactions.find(thread)
        if one is None:
            raise Problem(HTTPStatus.NOT_FOUND, "there is no such thread")
        if wallet not in one.since:
            raise Problem(HTTPStatus.FORBIDDEN, "you are not a participant")
        return one

    # Plain functions: FastAPI runs them in threads, where they may wait for the disk.

    @router.post("/threads", status_code=HTTPStatus.CREATED)
    def create_thread(new: contract.NewThread, wallet: Wallet) -> contract.Thread:
        participants = _wallets(new.participants)
        if wallet not in participants:
            participants.append(wallet)
        metadata = new.metadata or {}
        data = {"participants": participants, "title": new.title, "metadata": metadata}
        return found(transactions.submit(wallet, CREATED, data), wallet).thread

    @router.get("/threads")
    def list_threads(
        wallet: Wallet, limit: contract.Limit = contract.PAGE, offset: contract.Offset = 0
    ) -> contract.ThreadList:
        mine = transactions.threads_of(wallet)
        page = mine[offset : offset + min(limit, contract.LARGEST_PAGE)]
        return contract.ThreadList(threads=page, total=len(mine))

    @router.get("/threads/{thread_id}")
    def get_thread(thread_id: str, wallet: Wallet) -> contract.Thread:
        return found(thread_id, wallet).thread

    @router.post("/messages", status_code=HTTPStatus.CREATED)
    def post_message(new: contract.NewMessage, wallet: Wallet) -> contract.Message:
        with transactions.transaction():
            thread = found(new.thread_id, wallet)
            if thread.thread.status is not Status.ACTIVE:
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the thread is not active")
            data = {**new.model_dump(), "metadata": new.metadata or {}}
            transactions.submit(wallet, POSTED, data)
            return thread.messages[-1]

    @router.get("/threads/{thread_id}/messages")
    def list_messages(
        thread_id: str,
        wallet: Wallet,
        limit: contract.Limit = contract.PAGE,
        before: str | None = None,
    ) -> contract.MessageList:
        found(thread_id, wallet)
        messages = [
            message
            for message in transactions.messages_of(thread_id, wallet)
            if before is None or message.timestamp < before
        ]
        page = messages[-min(limit, contract.LARGEST_PAGE) :]
        return contract.MessageList(messages=page, total=len(messages), thread_id=thread_id)

    @router.put("/threads/{thread_id}/status")
    def set_status(
        thread_id: str, status: Annotated[Status, Query()], wallet: Wallet
    ) -> contract.StatusChange:
        with transactions.transaction():
            thread = found(thread_id, wallet).thread
            if thread.creator_id != wallet:
                raise Problem(HTTPStatus.FORBIDDEN, "only the thread's creator may do this")
            if thread.status is Status.DELETED:
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the thread is deleted, for good")
            data = {"thread_id": thread_id, "status": str(status)}
            return contract.StatusChange(transaction_id=transactions.submit(wallet, UPDATED, data))

    return router


def _wallets(participants: list[str]) -> list[str]:
    try:
        return list(dict.fromkeys(canonical(name, "participants") for name in participants))
    except InvalidMessage as refused:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, refused.detail) from None

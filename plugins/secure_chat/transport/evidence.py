"""REST for whoever checks the server: rewards, checkpoints, proofs and tiles.

Checkpoint, verifier keys and tiles of hashes show nothing of anybody and are for everyone, as
static files are; the rest wants a token. Scope ``auditor`` sees what all wallets together did.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from plugins.secure_chat.audit.certificates import encode_statement
from plugins.secure_chat.core.dialects import read
from plugins.secure_chat.core.tiles import EntryTooLarge, NotATile
from plugins.secure_chat.errors import Code, InvalidMessage, LedgerUnavailable, NotAMember
from plugins.secure_chat.rewards.book import NoSuchEpoch
from plugins.secure_chat.transparency.log import NotInTheLog, TreeDamaged
from plugins.secure_chat.transport.problems import COMMON, caller, problem_route, problems
from plugins.secure_chat.transport.socket import Chat
from plugins.secure_chat.transport.tokens import Principal

AUDITOR: Final = "auditor"
"""The scope of a token that may see what is everybody's."""
FOLLOW_SECONDS: Final = 5.0  # that a request waits for what was committed just before it
FOR_EVER: Final = "public, max-age=31536000, immutable"

_Position = Annotated[int, Path(ge=1, le=2**53)]
_Size = Annotated[int, Query(ge=0, le=2**53)]


class Rules(BaseModel):
    """Which rules were used: docs/rewards.md."""

    version: str
    hash: str


class RecordName(BaseModel):
    """A record of the ledger by its position and hash."""

    position: int = Field(ge=0)
    event_hash: str


class RewardLine(BaseModel):
    """What a statement says of one wallet. ``reward`` is in units of 10^-18 CHR."""

    wallet: str
    sent: int
    exchanged: int
    paid: int
    counterparties: int
    conversations: int
    capped: bool
    reward: str


class Reward(BaseModel):
    """The caller's part of an epoch's statement; ``line`` is null when no message was answered."""

    statement: str
    rules: Rules
    epoch: int
    first: int
    last: int
    complete: bool
    ledger: RecordName
    line: RewardLine | None


class Consistency(BaseModel):
    """That the tree of ``new`` records begins with that of ``old``: RFC 9162 section 2.1.4."""

    old: int
    new: int
    hashes: list[str] = Field(description="SHA-256 in base64, in the order of the RFC")


def evidence_router(chat_of: Callable[[], Chat]) -> APIRouter:
    """The routes under /v1/chat. ``chat_of`` gives what the plugin built at start."""
    router = APIRouter(prefix="/v1/chat", tags=["evidence"], route_class=problem_route(chat_of))

    @router.get(
        "/rewards/{epoch}",
        responses={
            200: {
                "description": "The caller's part of the statement; with scope `auditor` all of it",
                "content": {
                    "application/json": {
                        "schema": {
                            "anyOf": [
                                {"$ref": "#/components/schemas/Reward"},
                                {"type": "object", "description": "A statement: docs/rewards.md"},
                            ]
                        }
                    }
                },
            },
            **problems(*COMMON),
        },
        response_model=Reward,
    )
    async def get_reward(
        request: Request,
        epoch: Annotated[int, Path(ge=0, le=2**53)] | Literal["current"],
    ) -> Any:
        """What an epoch of the ledger entitles to. It moves no balance."""
        chat = chat_of()
        principal, evidence = caller(request, chat), chat.evidence
        await evidence.rewards_reach(evidence.position, FOLLOW_SECONDS)
        number = None if epoch == "current" else epoch
        try:
            if AUDITOR in principal.scopes:
                whole = await asyncio.to_thread(evidence.rewards.statement, number)
                return Response(whole, media_type="application/json")
            return await asyncio.to_thread(evidence.rewards.extract, principal.wallet, number)
        except NoSuchEpoch as error:
            raise InvalidMessage("epoch", str(error)) from None

    @router.get("/ledger/checkpoint", responses=_text("A C2SP checkpoint", Code.LEDGER_UNAVAILABLE))
    async def get_checkpoint() -> Response:
        """The last signed tree head of the ledger (C2SP tlog-checkpoint)."""
        evidence = chat_of().evidence
        published = evidence.log.published
        if published is None:
            raise LedgerUnavailable(
                evidence.log_stopped or "no checkpoint has been signed yet", 1.0
            )
        return _plain(published.note, "no-cache")

    @router.get("/ledger/keys", responses=_text("Verifier keys, one a line (C2SP signed-note)"))
    async def get_keys() -> Response:
        """The log's public keys. Get them once, and from somewhere else too."""
        return _plain(chat_of().evidence.verifier_keys.encode(), "no-cache")

    @router.get(
        "/ledger/inclusion/{position}",
        responses=_text(
            "A C2SP tlog-proof; `extra` holds the ledger line when the caller is a party to it",
            *COMMON,
            Code.LEDGER_UNAVAILABLE,
        ),
    )
    async def get_inclusion(request: Request, position: _Position) -> Response:
        """The proof that the record at a position is in the ledger that the checkpoint names."""
        chat = chat_of()
        principal = caller(request, chat)
        await _covered(chat, position, "position")
        proof = await _of_log(chat, partial(_inclusion, chat, principal, position))
        return _plain(proof, "no-store")

    @router.get("/ledger/consistency", responses=problems(*COMMON, Code.LEDGER_UNAVAILABLE))
    async def get_consistency(
        request: Request, old: _Size, new: _Size | None = None
    ) -> Consistency:
        """The proof that the ledger of ``new`` records, by default that of the last checkpoint,
        begins with the ledger of ``old``."""
        chat = chat_of()
        caller(request, chat)
        log = chat.evidence.log
        await _covered(chat, max(old, new or 0), "old" if old > (new or 0) else "new")
        size = log.published.checkpoint.size if new is None and log.published else new or 0
        hashes = await _of_log(chat, lambda: log.consistency(old, size))
        return Consistency(
            old=old, new=size, hashes=[base64.b64encode(each).decode() for each in hashes]
        )

    @router.get(
        "/ledger/statements",
        responses={
            200: {
                "description": "One JSON object a line: kind, statement (base64)",
                "content": {"application/jsonl": {"schema": {"type": "string"}}},
            },
            **problems(*COMMON, Code.NOT_A_MEMBER),
        },
        response_class=StreamingResponse,
    )
    async def get_statements(request: Request) -> StreamingResponse:
        """Every identity statement, certificate and revocation that the ledger has hashes of, for
        scope `auditor`: `secure-chat audit --certificates` verifies the signatures with them."""
        chat = chat_of()
        if AUDITOR not in caller(request, chat).scopes:
            raise NotAMember("all statements together are for auditors")
        lines = (encode_statement(*one) for one in chat.directory.published())
        return StreamingResponse(lines, media_type="application/jsonl")

    @router.get(
        "/ledger/tile/{path:path}",
        responses={
            200: {
                "description": "A tile of hashes, or an entry bundle (C2SP tlog-tiles)",
                "content": {"application/octet-stream": {}},
            },
            404: {"description": "The published tree has no such tile"},
            **problems(*COMMON, Code.NOT_A_MEMBER, Code.LEDGER_UNAVAILABLE),
        },
        response_class=Response,
    )
    async def get_tile(request: Request, path: str) -> Response:
        """A tile of the tree, as a static file; entry bundles for scope `auditor` alone."""
        chat = chat_of()
        log, name = chat.evidence.log, f"tile/{path}"
        bundle = path.startswith("entries/")
        if bundle and AUDITOR not in caller(request, chat).scopes:
            raise NotAMember("entries show who wrote to whom: they are for auditors")
        try:
            data = await _of_log(chat, partial(log.bundle if bundle else log.tile, name))
        except (NotATile, EntryTooLarge, InvalidMessage):
            return Response(status_code=404)
        caching = "private, no-store" if bundle else FOR_EVER
        return Response(data, 200, {"Cache-Control": caching}, "application/octet-stream")

    return router


def _text(description: str, *codes: Code) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of a route that answers with plain text."""
    answer = {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {200: answer, **problems(*codes)}


def _plain(text: bytes, caching: str) -> Response:
    return Response(text, 200, {"Cache-Control": caching}, "text/plain; charset=utf-8")


async def _covered(chat: Chat, position: int, field: str) -> None:
    """Wait until a checkpoint covers ``position``.

    Raises InvalidMessage for one that the ledger has not come to, LedgerUnavailable when the log
    is behind, or has stopped: that is said at once.
    """
    evidence = chat.evidence
    if position > evidence.position:
        raise InvalidMessage(field, f"{field} is beyond the ledger's end")
    within = FOLLOW_SECONDS if evidence.log_stopped is None else 0.0
    if not await evidence.log_reaches(position, within):
        raise LedgerUnavailable(
            evidence.log_stopped or "the transparency log is behind the ledger", 1.0
        )


async def _of_log(chat: Chat, ask: Callable[[], Any]) -> Any:
    """What the log answers, off the event loop; damage that it meets is mended meanwhile."""
    try:
        return await asyncio.to_thread(ask)
    except NotInTheLog as error:
        raise InvalidMessage("position", str(error)) from None
    except TreeDamaged:
        chat.evidence.repair_log()
        raise LedgerUnavailable("the transparency log is being mended", 1.0) from None


def _inclusion(chat: Chat, principal: Principal, position: int) -> bytes:
    """The proof file, with the record in it for whom it is about and for auditors."""
    log = chat.evidence.log
    proof = log.inclusion(position)
    line = log.entry(position)
    record = read(line, position)
    parties = (record.wallet, record.metadata.get("sender"), record.metadata.get("recipient"))
    if AUDITOR in principal.scopes or principal.wallet in parties:
        proof = proof.with_extra(line)
    return proof.encode()

"""The legacy routes at every stage: the host's own answer, compared with ours, ours, or gone.

At ``legacy`` no route here matches. At ``shadow`` reads are passed on to the host's own route, and
what it answered is compared, afterwards, with what the chat would have. At ``dual`` and ``v2`` the
chat answers, and says that the contract is deprecated (RFC 9745, RFC 8594). At ``retired`` it is
410 with a pointer. What is answered is ``legacy/answers.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

import orjson
import pydantic
from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.routing import Match
from starlette.types import Message as ASGIMessage
from starlette.types import Scope

from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.core.thread import Status
from plugins.secure_chat.errors import Code, InvalidMessage, MalformedFrame, OutcomeUnknown
from plugins.secure_chat.legacy import contract
from plugins.secure_chat.legacy.answers import LegacyAnswers, NoSuchThread
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transport.problems import (
    COMMON,
    PROBLEM,
    caller,
    problem_route,
    problems,
    read_body,
)
from plugins.secure_chat.transport.socket import Chat
from plugins.secure_chat.transport.threads import Key

log: Final = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

SUCCESSOR: Final = "/v1/chat/threads"
_LARGEST_BODY: Final = 64 << 10
_PASSED_ON: Final = "secure_chat.passed_on"  # in a scope: this one is for the host's own route
# What a router puts into a scope when it has chosen a route.
_CHOSEN: Final = ("endpoint", "route", "path_params", "fastapi")


def _unnamed(status: int, text: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of a problem that the wire has no code for."""
    return {status: {"description": text, "content": {PROBLEM: {"schema": {"type": "object"}}}}}


_REFUSALS: Final = (
    problems(
        Code.MALFORMED_FRAME,
        Code.MESSAGE_TOO_LARGE,
        Code.NOT_A_MEMBER,
        Code.LEDGER_UNAVAILABLE,
        *COMMON,
    )
    | _unnamed(404, "No such thread")
    | _unnamed(410, "The contract is retired")
)
_UNKNOWN: Final = _unnamed(500, "It is not known whether it was logged")


class _MayBeLogged(Exception):
    """A request that must not be sent again unseen: it is not known whether it was logged."""


def legacy_routers(chat_of: Callable[[], Chat]) -> list[APIRouter]:
    """The legacy contract under each of its prefixes."""
    return [_legacy_router(chat_of, prefix) for prefix in contract.PREFIXES]


def _legacy_router(chat_of: Callable[[], Chat], prefix: str) -> APIRouter:
    router = APIRouter(
        prefix=prefix,
        tags=["legacy"],
        deprecated=True,
        route_class=_legacy_route(chat_of),
        responses=_REFUSALS,
    )

    def asked(request: Request) -> tuple[str, LegacyAnswers]:
        chat = chat_of()
        wallet = caller(request, chat).wallet
        chat.service.metrics.legacy_call(_name_of(request.scope), wallet)
        return wallet, LegacyAnswers(chat.service, chat.threads)

    async def once(key: str | None, made: Coroutine[Any, Any, M]) -> M:
        """What was made. With a key it can be asked for again; without one 503 would mislead."""
        try:
            return await made
        except OutcomeUnknown:
            if key is not None:
                raise
            raise _MayBeLogged from None

    @router.post(
        "/threads",
        status_code=201,
        responses=_UNKNOWN,
        openapi_extra=_body_of(contract.NewThread),
    )
    async def create_thread(request: Request, idempotency_key: Key = None) -> contract.Thread:
        wallet, answers = asked(request)
        new = await _parsed(request, contract.NewThread)
        return await once(idempotency_key, answers.create(wallet, new, idempotency_key))

    @router.get("/threads")
    async def list_threads(
        request: Request,
        limit: contract.Limit = contract.PAGE,
        offset: contract.Offset = 0,
    ) -> contract.ThreadList:
        wallet, answers = asked(request)
        return await answers.list_threads(wallet, limit, offset)

    @router.get("/threads/{thread_id}")
    async def get_thread(request: Request, thread_id: str) -> contract.Thread:
        wallet, answers = asked(request)
        return await answers.thread(wallet, thread_id)

    @router.post(
        "/messages",
        status_code=201,
        responses=_UNKNOWN,
        openapi_extra=_body_of(contract.NewMessage),
    )
    async def post_message(request: Request, idempotency_key: Key = None) -> contract.Message:
        wallet, answers = asked(request)
        new = await _parsed(request, contract.NewMessage)
        return await once(idempotency_key, answers.post(wallet, new, idempotency_key))

    @router.get("/threads/{thread_id}/messages")
    async def list_messages(
        request: Request,
        thread_id: str,
        limit: contract.Limit = contract.PAGE,
        before: str | None = None,
    ) -> contract.MessageList:
        wallet, answers = asked(request)
        return await answers.messages(wallet, thread_id, limit, before)

    @router.put("/threads/{thread_id}/status")
    async def set_status(
        request: Request, thread_id: str, status: Annotated[Status, Query()]
    ) -> contract.StatusChange:
        wallet, answers = asked(request)
        return await answers.set_status(wallet, thread_id, status)

    return router


def _legacy_route(chat_of: Callable[[], Chat]) -> type[APIRoute]:
    """The route class: which stage answers, and what every answer says of the contract's end."""

    class LegacyRoute(problem_route(chat_of, dark_too=True, passed=(NoSuchThread, _MayBeLogged))):  # type: ignore[misc]
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, chosen = super().matches(scope)
            if match is Match.NONE:
                return match, chosen
            stage = chat_of().stage
            passed_on = scope.get(_PASSED_ON, False) or stage is Stage.LEGACY
            if passed_on or (stage is Stage.SHADOW and scope["method"] != "GET"):
                return Match.NONE, {}
            return match, chosen

        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
            ours: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

            async def answered(request: Request) -> Response:
                try:
                    return await ours(request)
                except NoSuchThread:
                    return _problem("not_found", HTTPStatus.NOT_FOUND, "there is no such thread")
                except _MayBeLogged:
                    return _problem(
                        "outcome_unknown",
                        HTTPStatus.INTERNAL_SERVER_ERROR,
                        "whether it was logged is not known: look before sending it again",
                    )

            async def answer(request: Request) -> Response:
                chat = chat_of()
                if chat.stage is Stage.SHADOW:
                    response = await _host_answer(request)
                    response.background = BackgroundTask(
                        _compare, chat, request, response, answered
                    )
                    return response
                if chat.stage is Stage.RETIRED:
                    chat.service.metrics.legacy_call(_name_of(request.scope), None)
                    response = _gone()
                else:
                    response = await answered(request)
                for name, value in end_of_contract(chat.settings):
                    response.headers.append(name, value)
                return response

            return answer

    return LegacyRoute


def end_of_contract(settings: Settings) -> Sequence[tuple[str, str]]:
    """Headers: since when the contract is deprecated, when it ends, and what follows it."""
    return (
        ("Deprecation", f"@{int(settings.legacy_deprecated.timestamp())}"),
        ("Sunset", format_datetime(settings.legacy_sunset.astimezone(UTC), usegmt=True)),
        ("Link", f'<{SUCCESSOR}>; rel="successor-version"'),
    )


def _gone() -> Response:
    detail = f"this contract is retired; {SUCCESSOR} is what follows it"
    return _problem("retired", HTTPStatus.GONE, detail, successor=SUCCESSOR)


def _problem(name: str, status: HTTPStatus, detail: str, **more: str) -> Response:
    """A problem that the wire has no code for."""
    body = {
        "type": f"urn:atlas:secure-chat:problem:{name}",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    return Response(orjson.dumps(body), status, media_type=PROBLEM)


async def _parsed(request: Request, model: type[M]) -> M:
    """The body as ``model``. Raises MalformedFrame, MessageTooLarge or InvalidMessage."""
    raw = await read_body(request, _LARGEST_BODY)
    try:
        return model.model_validate(orjson.loads(raw))
    except orjson.JSONDecodeError:
        raise MalformedFrame("the body is not JSON") from None
    except pydantic.ValidationError as error:
        where = error.errors()[0]["loc"]
        field = str(where[0]) if where else "body"
        raise InvalidMessage(field, f"{field} has the wrong type or value") from None


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


# -- the shadow stage ------------------------------------------------------------------------------


async def _host_answer(request: Request) -> Response:
    """What the host's own route answers, as if no route of ours were there."""
    scope = {key: value for key, value in request.scope.items() if key not in _CHOSEN}
    scope[_PASSED_ON] = True
    start: ASGIMessage = {}
    parts: list[bytes] = []

    async def take(message: ASGIMessage) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await request.app.router(scope, request.receive, take)
    response = Response(b"".join(parts), start["status"])
    response.raw_headers = list(start.get("headers", ()))
    return response


async def _compare(
    chat: Chat,
    request: Request,
    theirs: Response,
    ours: Callable[[Request], Awaitable[Response]],
) -> None:
    """Answer once more, by the chat, and record whether it is the same."""
    route = _name_of(request.scope)
    try:
        answer = await ours(request)
        different = difference(theirs, answer)
        chat.service.metrics.shadow_read(route, same=different is None)
        if different is not None:
            log.warning("legacy.shadow_mismatch route=%s difference=%s", route, different)
            moment = datetime.now(UTC).isoformat()
            mailbox, name = chat.service.mailbox, different
            await chat.service.write(lambda: mailbox.record_mismatch(route, name, moment))
    except Exception as error:  # noqa: BLE001 (the caller has its answer)
        log.error("legacy.not_compared route=%s error=%s", route, type(error).__name__)


def difference(theirs: Response, ours: Response) -> str | None:
    """In what two answers differ: the status, or the first field; None when in nothing.

    Of two refusals with one status the texts may differ.
    """
    if theirs.status_code != ours.status_code:
        return f"status {theirs.status_code} {ours.status_code}"
    if theirs.status_code >= 400:
        return None
    try:
        one, other = orjson.loads(bytes(theirs.body)), orjson.loads(bytes(ours.body))
    except orjson.JSONDecodeError:
        return "not JSON"
    if one == other:
        return None
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return "shape"
    known = ("total", "threads", "messages", *contract.Thread.model_fields)
    for field in known:
        if one.get(field) != other.get(field):
            return field
    return "shape"


def _name_of(scope: Scope) -> str:
    """``GET /threads/{thread_id}``: the route under any prefix."""
    path: str = scope["route"].path
    for prefix in sorted(contract.PREFIXES, key=len, reverse=True):
        path = path.removeprefix(prefix)
    return f"{scope['method']} {path}"

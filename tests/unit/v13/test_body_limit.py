"""The ceiling for bodies counts what has arrived, in whatever pieces, and only that."""

from __future__ import annotations

import pytest
from fastapi import HTTPException
from starlette.types import Message, Receive, Scope, Send

from v13.ATLAS.src.api.body_limit import BodyLimit


async def received(kind: str, *pieces: int) -> int:
    """Send ``pieces`` bytes through a limit of 10; return how many the application got."""
    got = 0
    waiting = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        pytest.fail("nothing is sent")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal got
        while waiting:
            got += len((await receive())["body"])

    await BodyLimit(application, 10)({"type": kind}, receive, send)
    return got


@pytest.mark.parametrize("pieces", [(10,), (5, 5), (1,) * 10, (0, 10, 0)])
async def test_a_body_up_to_the_limit_passes_whole(pieces: tuple[int, ...]) -> None:
    assert await received("http", *pieces) == 10


@pytest.mark.parametrize("pieces", [(11,), (6, 6), (1,) * 11, (10, 0, 1)])
async def test_a_body_beyond_the_limit_is_refused_in_any_pieces(pieces: tuple[int, ...]) -> None:
    with pytest.raises(HTTPException) as refused:
        await received("http", *pieces)
    assert refused.value.status_code == 413


async def test_what_is_no_http_request_is_not_counted() -> None:
    assert await received("websocket", 11) == 11

"""Each answer of a directory has its value or its error; a token that ended is replaced once."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from plugins.secure_chat.client import Token
from plugins.secure_chat.client.directory import Directory, Listing, Stock
from plugins.secure_chat.client.errors import (
    DirectoryRefused,
    LoginRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from plugins.secure_chat.client.login import Tokens
from plugins.secure_chat.errors import ClientError, Code

WALLET = "0x" + "a" * 40
Answer = tuple[int, object]
STOCK = {"one_time": 3, "one_time_kem": 2}
EMPTY: dict[str, Any] = {"identity": None, "history": [], "certificates": [], "revocations": []}


class Server:
    """Gives these answers one after the other, the last one for ever."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = list(answers)
        self.bearers: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        (bearer,) = [line for line in head.split("\r\n") if line.startswith("authorization")]
        self.bearers.append(bearer.rsplit(" ", 1)[1])
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        status, value = answer
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, len(body), body)
        )
        await writer.drain()
        writer.close()


async def _ask(answers: Sequence[Answer], ask: str, *arguments: Any) -> tuple[Any, Server, int]:
    """The value or error of one question, who answered it, and how often it was logged in."""
    server, logins = Server(answers), 0

    async def login() -> Token:
        nonlocal logins
        logins += 1
        return Token(f"token-{logins}", None)

    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        directory = Directory(f"http://127.0.0.1:{port}", Tokens(login))
        try:
            value = await getattr(directory, ask)(*arguments)
        except ClientError as error:
            value = error
        finally:
            await directory.close()
    return value, server, logins


async def test_a_wallet_of_which_nothing_is_known_has_an_empty_listing() -> None:
    assert (await _ask([(200, EMPTY)], "look_up", WALLET))[0] == Listing(None)
    lost, _, _ = await _ask([(200, EMPTY | {"missing": ["ab"]})], "look_up", WALLET)
    assert lost == Listing(None, lost=True)


async def test_a_token_that_ended_on_the_way_is_replaced_once() -> None:
    value, server, logins = await _ask([(401, {}), (200, STOCK)], "stock", "phone")
    assert value == Stock(3, 2)
    assert server.bearers == ["token-1", "token-2"]
    value, server, logins = await _ask([(401, {})], "stock", "phone")
    assert isinstance(value, LoginRefused)
    assert (server.bearers, logins) == (["token-1", "token-2"], 2)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"no json", ProtocolViolation),
        (200, [], ProtocolViolation),
        (200, {}, ProtocolViolation),
        (200, EMPTY | {"identity": 5}, ProtocolViolation),
        (200, EMPTY | {"identity": "not base64!"}, ProtocolViolation),
        (200, EMPTY | {"certificates": ["AAAA"]}, ProtocolViolation),
        (200, EMPTY | {"history": {}}, ProtocolViolation),
        (200, EMPTY | {"revocations": [b64encode(bytes(3588)).decode()]}, ProtocolViolation),
        (403, {"code": "not_a_member"}, DirectoryRefused),
        (404, b"<html>", DirectoryRefused),
        (500, b"", ServerUnreachable),
        (503, {"code": "ledger_unavailable"}, ServerUnreachable),
    ],
)
async def test_each_answer_has_its_error(status: int, body: object, kind: type[Exception]) -> None:
    error, _, _ = await _ask([(status, body)], "look_up", WALLET)
    assert type(error) is kind


@pytest.mark.parametrize(
    "body", [{}, STOCK | {"one_time": "3"}, STOCK | {"one_time": True}, STOCK | {"one_time": -1}]
)
async def test_a_stock_that_is_no_number_is_refused(body: object) -> None:
    error, _, _ = await _ask([(200, body)], "stock", "phone")
    assert type(error) is ProtocolViolation


@pytest.mark.parametrize("body", [{}, {"bundles": 1}, {"bundles": [1]}, {"bundles": [{}]}])
async def test_bundles_that_are_none_are_refused(body: object) -> None:
    error, _, _ = await _ask([(200, body)], "claim", WALLET, ["phone"])
    assert type(error) is ProtocolViolation


async def test_refusals_carry_what_the_server_says() -> None:
    refused, _, _ = await _ask([(403, {"code": "unknown_device"})], "stock", "phone")
    assert (refused.code, refused.status) == (Code.UNKNOWN_DEVICE, 403)
    unknown, _, _ = await _ask([(418, {"code": "teapot"})], "stock", "phone")
    assert (unknown.code, unknown.status) == (None, 418)
    limited, _, _ = await _ask([(429, {"retry_after": 2.5})], "stock", "phone")
    assert (type(limited), limited.retry_after) == (ServerUnreachable, 2.5)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async def login() -> Token:
        return Token("any", None)

    directory = Directory("http://127.0.0.1:9", Tokens(login))
    try:
        with pytest.raises(ServerUnreachable):
            await directory.look_up(WALLET)
    finally:
        await directory.close()

"""Login signs logins only, and believes no answer that is none."""

from __future__ import annotations

import asyncio
import json

import pytest

from plugins.secure_chat.client.errors import LoginRefused, ProtocolViolation, ServerUnreachable
from plugins.secure_chat.client.login import Token, wallet_login
from plugins.secure_chat.crypto import labels
from plugins.secure_chat.crypto.wallet import WalletKey, statement_text
from plugins.secure_chat.errors import ClientError

KEY = WalletKey(bytes(31) + b"\x05")


async def _login_at(status: int, body: bytes) -> tuple[ClientError, list[bytes]]:
    """Log in at a server that gives this answer to everything; the error, and what it was sent."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        requests.append(head.split(b"\r\n")[0])
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, len(body), body)
        )
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ClientError) as caught:
            await wallet_login(f"http://127.0.0.1:{port}", KEY)()
    return caught.value, requests


CERTIFICATE = statement_text(labels.DEVICE_CERTIFICATE, KEY.wallet, bytes(32), device="ghost")
LOGIN = "Sign this message to login to ATLAS: " + "0f" * 16


@pytest.mark.parametrize(
    "text",
    [CERTIFICATE, f"{LOGIN}\n{CERTIFICATE}", f"{CERTIFICATE}\n{LOGIN}", LOGIN + "\n", LOGIN[:-1]],
)
async def test_a_server_cannot_have_a_certificate_signed_as_a_login(text: str) -> None:
    error, requests = await _login_at(200, json.dumps({"nonce": text, "timestamp": 0}).encode())
    assert isinstance(error, ProtocolViolation)
    assert requests == [b"POST /v1/auth/challenge HTTP/1.1"]  # no signature was sent


def test_a_token_does_not_show_itself() -> None:
    assert "secret" not in repr(Token("secret", 1.0))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"{}", LoginRefused),
        (422, b"{}", LoginRefused),
        (429, b"{}", ServerUnreachable),
        (503, b"{}", ServerUnreachable),
        (200, b"[]", ProtocolViolation),
        (200, b"no json", ProtocolViolation),
        (200, b"{}", ProtocolViolation),
    ],
)
async def test_each_answer_has_its_error(status: int, body: bytes, kind: type[Exception]) -> None:
    error, _ = await _login_at(status, body)
    assert type(error) is kind

"""Logging a wallet in: a challenge, its signature, a token, and keeping that while it is good."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from plugins.secure_chat.client.errors import LoginRefused, ProtocolViolation, ServerUnreachable
from plugins.secure_chat.client.https import authorities
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.crypto.wallet import WalletKey

# What we sign for a login, and nothing else: a server must not get a certificate signed this way.
_CHALLENGE: Final = re.compile(r"Sign this message to login to ATLAS: [0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and when it ends (Unix seconds), None when it does not say."""

    value: str = field(repr=False)
    expires_at: float | None


TokenSource = Callable[[], Awaitable[Token]]


class Tokens:
    """The token in use. Whoever needs one shares this, so a wallet logs in once."""

    def __init__(self, source: TokenSource) -> None:
        self._source: Final = source
        self._token: Token | None = None
        self._lock: Final = asyncio.Lock()

    async def current(self) -> Token:
        """The token in use, or a new one when it has ended. Raises as the source does."""
        async with self._lock:
            if self._token is None or _is_over(self._token):
                self._token = await self._source()
            return self._token

    async def renewed(self) -> Token:
        """A new token, before the one in use ends."""
        async with self._lock:
            self._token = await self._source()
            return self._token

    def forget(self, token: Token | None) -> None:
        """The server does not take ``token``."""
        if self._token is token:
            self._token = None


def wallet_login(base_url: str, wallet: WalletKey, *, timeout: float = 10.0) -> TokenSource:
    """A source of tokens for ``wallet`` from the host at ``base_url`` (``http://host:port``).

    Each call is one login, made directly: proxies of the environment are not asked. It raises
    LoginRefused when trying again cannot help, and ServerUnreachable when it may.
    """

    async def login() -> Token:
        async with httpx.AsyncClient(
            base_url=base_url, timeout=timeout, trust_env=False, verify=authorities()
        ) as http:
            asked = await _post(http, "/v1/auth/challenge", {"wallet": wallet.wallet})
            text = _text(asked, "nonce")
            if _CHALLENGE.fullmatch(text) is None:
                raise ProtocolViolation("login: the text to sign is not a login's; not signed")
            signature = wallet.sign(text).hex()
            answer = {"wallet": wallet.wallet, "signature": signature, "nonce": text}
            given = await _post(http, "/v1/auth/connect-wallet", answer)
        value = _text(given, "token")
        return Token(value, _expiry(value))

    return login


def _is_over(token: Token) -> bool:
    return token.expires_at is not None and token.expires_at <= time.time() + 1


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, str]) -> dict[str, Any]:
    try:
        response = await http.post(path, json=body)
    except httpx.TransportError as error:
        raise ServerUnreachable(f"login: {type(error).__name__}") from None
    if response.status_code == 429 or response.status_code >= 500:
        raise ServerUnreachable(f"login: the server answered {response.status_code}")
    if response.status_code != 200:
        raise LoginRefused(f"login: the server answered {response.status_code}")
    try:
        answer = parse_json(response.content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ProtocolViolation("login: the answer is not a JSON object")
    return answer


def _text(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise ProtocolViolation(f"login: the answer has no {name}")
    return value


def _expiry(token: str) -> float | None:
    """``exp`` of a JWT, unverified: only the server can verify it, and we only plan with it."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    return float(expiry) if isinstance(expiry, int | float) else None

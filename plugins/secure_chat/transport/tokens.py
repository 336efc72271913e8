"""Who is asking: tokens, where they may stand in a request, and the Origin check.

The verifier is the host's (hook ``atlas_authenticate``); the default is PyJWT, pinned to HS256.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.thread import is_thread
from plugins.secure_chat.errors import ConfigurationError, InvalidMessage, Unauthorized

MAX_TOKEN: Final = 4096
MIN_SECRET: Final = 32
KNOWN_SECRET: Final = "dev-secret-change-me-in-prod"  # noqa: S105 (the host's default: refused)
BEARER_SUBPROTOCOL: Final = "bearer."


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated wallet, until when (Unix seconds), and what it may do besides chatting."""

    wallet: str
    expires_at: float
    scopes: tuple[str, ...] = ()


Authenticate = Callable[[str], Principal]


def check_secret(secret: str, *, insecure_dev: bool) -> None:
    """Raises ConfigurationError for a secret that anybody knows or could guess."""
    if insecure_dev:
        return
    if secret == KNOWN_SECRET or len(secret.encode()) < MIN_SECRET:
        raise ConfigurationError(
            "JWT_SECRET is missing, the known default or under 32 bytes: "
            "set it to `openssl rand -hex 32`, or pass --insecure-dev on a machine of your own"
        )


def jwt_verifier(secret: str) -> Authenticate:
    """Verify HS256 tokens that carry ``exp`` and ``sub`` (RFC 7519); raises Unauthorized."""

    def authenticate(token: str) -> Principal:
        if len(token) > MAX_TOKEN:
            raise Unauthorized("the token is too long")
        try:
            claims = jwt.decode(
                token, secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
            scope = claims.get("scope", "")
            return Principal(
                _wallet(claims["sub"]),
                float(claims["exp"]),
                tuple(scope.split()) if isinstance(scope, str) else (),
            )
        except (jwt.PyJWTError, InvalidMessage, ValueError, TypeError, OverflowError):
            # PyJWT's texts may quote the token; ours never does.
            raise Unauthorized("the token is not valid") from None

    return authenticate


def _wallet(subject: str) -> str:
    """The canonical wallet. Raises InvalidMessage, also for a name that is a thread's."""
    wallet = canonical(subject, "sub")
    if is_thread(wallet):
        raise InvalidMessage("sub", "a wallet cannot have a thread's name")
    return wallet


def host_verifier(hook: Any, fallback: Authenticate | None) -> Authenticate:
    """The host's verifier, and ``fallback`` for tokens that no host hook knows."""

    def authenticate(token: str) -> Principal:
        if len(token) > MAX_TOKEN:
            raise Unauthorized("the token is too long")
        try:
            found = hook.atlas_authenticate(token=token)
            if found is None:
                if fallback is None:
                    raise Unauthorized("the token is not valid")
                return fallback(token)
            principal = Principal(
                _wallet(str(found.wallet)), float(found.expires_at), tuple(found.scopes)
            )
        except PermissionError:
            raise Unauthorized("the token is not valid") from None
        except InvalidMessage:
            raise Unauthorized("the token names no usable wallet") from None
        if principal.expires_at <= time.time():
            raise Unauthorized("the token has expired")
        return principal

    return authenticate


def bearer(header: str | None) -> str | None:
    """The token of an Authorization header (RFC 6750 section 2.1)."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def origin_allowed(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a browser page at ``origin`` may connect: the same host, or one on the list."""
    if origin is None:
        return True
    if origin in allowed:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc != "" and parts.netloc == host

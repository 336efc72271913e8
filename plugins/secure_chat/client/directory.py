"""The server's key directory, asked over REST. Nothing here is believed: who asks must verify.

One method for each route (SPEC.md, "Directory"). Answers are parsed into the types of ``crypto``,
and whatever is not their canonical bytes is a ProtocolViolation.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx

from plugins.secure_chat.client.errors import (
    DirectoryRefused,
    LoginRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from plugins.secure_chat.client.https import authorities
from plugins.secure_chat.client.login import Tokens
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.crypto.devices import Certificate, Revocation
from plugins.secure_chat.crypto.errors import DecodeError
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.prekeys import Bundle, Publication
from plugins.secure_chat.errors import Code

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing:
    """What the directory says of a wallet; ``identity`` is None when it has none to show.

    ``history``: the identity statements before this one, oldest first. ``lost``: the server no
    longer has what the ledger says was published; its owner has to publish it again.
    """

    identity: Identity | None
    history: tuple[Identity, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Stock:
    """One-time prekeys of a device that the server has left, of each kind."""

    one_time: int
    one_time_kem: int

    @property
    def lowest(self) -> int:
        return min(self.one_time, self.one_time_kem)


class Directory:
    """The directory at ``base_url``, asked as the wallet whose ``tokens`` these are.

    Every method raises DirectoryRefused when asking again does not help, ServerUnreachable when it
    may, LoginRefused and ProtocolViolation.
    """

    def __init__(self, base_url: str, tokens: Tokens, *, timeout: float = 30.0) -> None:
        self._tokens: Final = tokens
        # Made directly: proxies of the environment are not asked.
        self._http: Final = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/v1/chat",
            timeout=timeout,
            trust_env=False,
            verify=authorities(),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def publish_identity(self, identity: Identity) -> None:
        """Own wallet only; takes the place of the one in force."""
        await self._ask("PUT", "/identity", {"identity": _text(identity.encode())})

    async def publish_device(self, certificate: Certificate) -> int:
        """The position at which the ledger has it."""
        body = {"certificate": _text(certificate.encode())}
        return _number(await self._ask("POST", "/devices", body), "position")

    async def publish_revocation(self, revocation: Revocation) -> int:
        """The position at which the ledger has it."""
        body = {"revocation": _text(revocation.encode())}
        return _number(await self._ask("POST", "/revocations", body), "position")

    async def publish_prekeys(self, device: str, publication: Publication) -> Stock:
        body = {"publication": _text(publication.encode())}
        return _stock(await self._ask("PUT", f"/devices/{device}/prekeys", body))

    async def stock(self, device: str) -> Stock:
        """Of an own device."""
        return _stock(await self._ask("GET", f"/devices/{device}/prekeys"))

    async def look_up(self, wallet: str) -> Listing:
        answer = await self._ask("GET", f"/identities/{wallet}")
        if "identity" not in answer:
            raise ProtocolViolation("directory: the answer has no identity")
        identity = answer["identity"]
        return Listing(
            _decoded(identity, Identity.decode) if identity is not None else None,
            _several(answer, "history", Identity.decode),
            _several(answer, "certificates", Certificate.decode),
            _several(answer, "revocations", Revocation.decode),
            bool(answer.get("missing")),
        )

    async def claim(self, wallet: str, devices: Iterable[str]) -> tuple[Bundle, ...]:
        """One bundle for each of ``devices`` that has prekeys."""
        body = {"devices": list(devices)}
        answer = await self._ask("POST", f"/identities/{wallet}/claim", body)
        items = answer.get("bundles")
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise ProtocolViolation("directory: bundles is not a list of objects")
        return tuple(_decoded(one.get("bundle"), Bundle.decode) for one in items)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        for attempt in (1, 2):
            token = await self._tokens.current()
            try:
                response = await self._http.request(
                    method, path, json=body, headers={"Authorization": f"Bearer {token.value}"}
                )
            except httpx.TransportError as error:
                raise ServerUnreachable(f"directory: {type(error).__name__}") from None
            if response.status_code == 401 and attempt == 1:
                self._tokens.forget(token)  # it may have ended on the way: once more with another
                continue
            break
        try:
            answer = parse_json(response.content)
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        if response.is_success:
            raise ProtocolViolation("directory: the answer is not a JSON object")
        problem = answer if isinstance(answer, dict) else {}
        if response.status_code == 429 or response.status_code >= 500:
            wait = problem.get("retry_after")
            after = float(wait) if isinstance(wait, int | float) else None
            raise ServerUnreachable(f"directory: {response.status_code}", retry_after=after)
        if response.status_code == 401:
            raise LoginRefused("directory: the server refuses the token it has issued")
        code = problem.get("code")
        raise DirectoryRefused(Code(code) if code in set(Code) else None, response.status_code)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _decoded(text: object, decode: Callable[[bytes], T]) -> T:
    if not isinstance(text, str):
        raise ProtocolViolation("directory: a value is not a string")
    try:
        return decode(b64decode(text, validate=True))
    except (binascii.Error, ValueError, DecodeError):
        raise ProtocolViolation("directory: a value is not what its name says") from None


def _several(answer: dict[str, Any], name: str, decode: Callable[[bytes], T]) -> tuple[T, ...]:
    values = answer.get(name)
    if not isinstance(values, list):
        raise ProtocolViolation(f"directory: {name} is not a list")
    return tuple(_decoded(one, decode) for one in values)


def _number(answer: dict[str, Any], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolViolation(f"directory: {name} is not a number")
    return value


def _stock(answer: dict[str, Any]) -> Stock:
    return Stock(_number(answer, "one_time"), _number(answer, "one_time_kem"))

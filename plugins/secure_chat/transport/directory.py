"""REST of the key directory: publishing, asking, claiming. The rules are in ``directory/``.

Bytes of SPEC-crypto.md travel in canonical base64, ids in hex.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from plugins.secure_chat.core.envelope import base64_size, decode_base64
from plugins.secure_chat.core.frames import parse_object
from plugins.secure_chat.core.identifiers import IDENTIFIER, canonical
from plugins.secure_chat.crypto.roster import MAX_CERTIFICATES
from plugins.secure_chat.directory.directory import Accepted
from plugins.secure_chat.directory.store import Stock
from plugins.secure_chat.errors import Code
from plugins.secure_chat.transport.problems import (
    COMMON,
    caller,
    json_schema,
    problem_route,
    problems,
    read_body,
)
from plugins.secure_chat.transport.socket import Chat

# The largest of each, in bytes (SPEC-crypto.md).
MAX_IDENTITY: Final = 8_693
MAX_CERTIFICATE: Final = 12_350
MAX_REVOCATION: Final = 3_588
MAX_PUBLICATION: Final = 474_311
_MAX_CLAIM: Final = 16_384  # bytes of a claim's JSON: 64 names of 128 characters
_TAKING: Final = (
    Code.MALFORMED_FRAME,
    Code.MESSAGE_TOO_LARGE,
    Code.LEDGER_UNAVAILABLE,
    *COMMON,
)
_BASE64: Final[dict[str, Any]] = {"contentEncoding": "base64"}
_Bytes = Annotated[str, msgspec.Meta(extra_json_schema=_BASE64)]
Name = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]
S = TypeVar("S", bound=msgspec.Struct)


class PublishIdentity(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An identity statement."""

    identity: _Bytes


class PublishDevice(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A device certificate."""

    certificate: _Bytes


class PublishRevocation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A device revocation."""

    revocation: _Bytes


class PublishPrekeys(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A publication of prekeys."""

    publication: _Bytes


class Claim(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The devices of which a bundle is wanted."""

    devices: Annotated[
        list[str],
        msgspec.Meta(
            extra_json_schema={
                "minItems": 1,
                "maxItems": MAX_CERTIFICATES,
                "uniqueItems": True,
            }
        ),
    ]


class Registered(BaseModel):
    """A statement's id in hex, and where the ledger has it."""

    id: str
    position: int = Field(ge=1)
    event_hash: str


class PrekeyStock(BaseModel):
    """One-time prekeys that are left, X25519 and ML-KEM-768."""

    one_time: int = Field(ge=0)
    one_time_kem: int = Field(ge=0)


class Listed(BaseModel):
    """What is published of a wallet.

    `identity` is null when nothing is known. `history` has earlier statements, oldest first.
    `missing` names statements that the ledger has and this server lost; when one of them is of the
    identity in force, nothing of that identity is listed until its owner publishes it again.
    `position` is that of the wallet's last event in the ledger, 0 when there is none.
    """

    wallet: str
    identity: str | None = Field(json_schema_extra=_BASE64)
    history: list[str]
    certificates: list[str]
    revocations: list[str]
    missing: list[str]
    position: int = Field(ge=0)


class DeviceBundle(BaseModel):
    """A device's prekeys for one handshake."""

    device: str
    bundle: str = Field(json_schema_extra=_BASE64)


class Bundles(BaseModel):
    """Devices that have published no prekeys are left out."""

    bundles: list[DeviceBundle]


def directory_router(chat_of: Callable[[], Chat]) -> APIRouter:
    """The directory's routes under /v1/chat. ``chat_of`` gives what the plugin built at start."""
    router = APIRouter(
        prefix="/v1/chat", tags=["key directory"], route_class=problem_route(chat_of)
    )

    @router.put("/identity", **_publishing(PublishIdentity))
    async def put_identity(request: Request) -> Response:
        """Put the caller's identity statement in force: the first, a rotation, or a reset."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        frame = await _posted(request, PublishIdentity, MAX_IDENTITY)
        body = decode_base64(frame.identity, "identity")
        return _registered(await chat.directory.publish_identity(wallet, body))

    @router.post("/devices", **_publishing(PublishDevice))
    async def post_device(request: Request) -> Response:
        """Register a device of the caller by its certificate."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        frame = await _posted(request, PublishDevice, MAX_CERTIFICATE)
        body = decode_base64(frame.certificate, "certificate")
        return _registered(await chat.directory.publish_device(wallet, body))

    @router.post("/revocations", **_publishing(PublishRevocation, Code.UNKNOWN_DEVICE))
    async def post_revocation(request: Request) -> Response:
        """End a device of the caller for good; its sockets are closed."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        frame = await _posted(request, PublishRevocation, MAX_REVOCATION)
        body = decode_base64(frame.revocation, "revocation")
        return _registered(await chat.directory.revoke(wallet, body))

    @router.put(
        "/devices/{device}/prekeys",
        responses=problems(Code.UNKNOWN_DEVICE, *_TAKING),
        openapi_extra=_takes(PublishPrekeys),
    )
    async def put_prekeys(request: Request, device: Name) -> PrekeyStock:
        """Publish prekeys of an own device; with another signed prekey, in place of all before."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        frame = await _posted(request, PublishPrekeys, MAX_PUBLICATION)
        body = decode_base64(frame.publication, "publication")
        name = canonical(device, "device")
        return _stock(await chat.directory.publish_prekeys(wallet, name, body))

    @router.get("/devices/{device}/prekeys", responses=problems(Code.UNKNOWN_DEVICE, *COMMON))
    async def get_prekeys(request: Request, device: Name) -> PrekeyStock:
        """The one-time prekeys that an own device has left."""
        chat = chat_of()
        wallet = caller(request, chat).wallet
        return _stock(await chat.directory.stock(wallet, canonical(device, "device")))

    @router.get("/identities/{wallet}", responses=problems(*COMMON))
    async def get_identity(request: Request, wallet: Name) -> Listed:
        """A wallet's identity, its devices and their revocations; verify them before use."""
        chat = chat_of()
        caller(request, chat)
        name = canonical(wallet, "wallet")
        listing = await chat.directory.listing(name)
        return Listed(
            wallet=name,
            identity=None if listing.identity is None else _base64(listing.identity),
            history=[_base64(one) for one in listing.history],
            certificates=[_base64(one) for one in listing.certificates],
            revocations=[_base64(one) for one in listing.revocations],
            missing=listing.missing,
            position=listing.position,
        )

    @router.post(
        "/identities/{wallet}/claim",
        responses=problems(Code.UNKNOWN_DEVICE, *_TAKING),
        openapi_extra=_takes(Claim),
    )
    async def post_claim(request: Request, wallet: Name) -> Bundles:
        """A prekey bundle of each device asked for; each one-time prekey is handed out once."""
        chat = chat_of()
        claimer = caller(request, chat).wallet
        asked = parse_object(await read_body(request, _MAX_CLAIM), Claim)
        name = canonical(wallet, "wallet")
        claimed = await chat.directory.claim(claimer, name, asked.devices)
        return Bundles(
            bundles=[
                DeviceBundle(device=device, bundle=_base64(one.bundle.encode()))
                for device, one in claimed
            ]
        )

    return router


def _publishing(model: type[msgspec.Struct], *codes: Code) -> dict[str, Any]:
    """What the routes that publish a statement have in common."""
    return {
        "status_code": 201,
        "response_model": Registered,
        "responses": {
            201: {"description": "In force, and in the ledger"},
            200: {"description": "The ledger has it already", "model": Registered},
            **problems(*codes, *_TAKING),
        },
        "openapi_extra": _takes(model),
    }


def _takes(model: type[msgspec.Struct]) -> dict[str, Any]:
    schema = json_schema(model)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _posted(request: Request, model: type[S], largest: int) -> S:
    """The body as ``model``, whose one field holds at most ``largest`` bytes in base64."""
    return parse_object(await read_body(request, base64_size(largest) + 1024), model)


def _registered(accepted: Accepted) -> Response:
    published = accepted.published
    answer = Registered(
        id=published.id, position=published.position, event_hash=published.event_hash
    )
    status = 201 if accepted.new else 200
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _stock(stock: Stock) -> PrekeyStock:
    return PrekeyStock(one_time=stock.one_time, one_time_kem=stock.one_time_kem)


def _base64(body: bytes) -> str:
    return b64encode(body).decode()

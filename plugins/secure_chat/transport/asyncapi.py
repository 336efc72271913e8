"""The published documents of the wire: AsyncAPI 3 for the socket, OpenAPI for REST.

Both are generated from the models that parse and write frames, so they cannot say anything else;
a test compares ``docs/asyncapi.json`` and ``docs/openapi.json`` with what is generated here. Write
them anew with ``python -m plugins.secure_chat.transport.asyncapi DIRECTORY``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
from fastapi import FastAPI

from plugins.secure_chat.core.envelope import (
    CID,
    HASH_SIZE,
    MAX_CIDS,
    MAX_CIPHERTEXT,
    MAX_SEQ,
    NONCE_SIZE,
    SIGNATURE_SIZE,
    ChatMessage,
    base64_size,
)
from plugins.secure_chat.core.frames import (
    CLIENT_FRAMES,
    SERVER_FRAMES,
    Auth,
    ReceiptFrame,
    Resume,
)
from plugins.secure_chat.core.identifiers import IDENTIFIER
from plugins.secure_chat.errors import CODES, Close
from plugins.secure_chat.transport.directory import directory_router
from plugins.secure_chat.transport.evidence import evidence_router
from plugins.secure_chat.transport.legacy import legacy_routers
from plugins.secure_chat.transport.rest import rest_router
from plugins.secure_chat.transport.socket import AUTH_SECONDS, SUBPROTOCOL, Chat
from plugins.secure_chat.transport.threads import thread_router

VERSION: Final = "2.0.0"  # of the wire, as the subprotocol has it

_CLOSES: Final[dict[Close, str]] = {
    Close.GOING_AWAY: "a peer goes away",
    Close.REFUSED: "refused: token, Origin or first frame",
    Close.TOO_BIG: "a frame over the limit",
    Close.INTERNAL: "internal error: reconnect and resend",
    Close.RESTART: "the server restarts: reconnect",
    Close.TOKEN_EXPIRED: "the token has expired: log in, reconnect",
    Close.TOO_SLOW: "too slow a consumer: reconnect and RESUME",
    Close.FLOODING: "over the limit for too long",
}


def _exactly(size: int) -> dict[str, Any]:
    return {
        "contentEncoding": "base64",
        "minLength": base64_size(size),
        "maxLength": base64_size(size),
        "description": f"{size} bytes, canonical",
    }


_NAME: Final[dict[str, Any]] = {"pattern": f"^{IDENTIFIER.pattern}$"}
# What the validation rules add to the types of the models, by field of the client's frames.
_RULES: Final[dict[type, dict[str, dict[str, Any]]]] = {
    ChatMessage: {
        "recipient": _NAME,
        "sender": {**_NAME, "description": "must be the authenticated wallet"},
        "device": _NAME,
        "ciphertext": {
            "contentEncoding": "base64",
            "minLength": 24,
            "maxLength": base64_size(MAX_CIPHERTEXT),
            "description": f"16 to {MAX_CIPHERTEXT} bytes, canonical",
        },
        "nonce": _exactly(NONCE_SIZE),
        "hash": {
            **_exactly(HASH_SIZE),
            "description": "SHA-256(ciphertext || nonce || seq as 8 bytes big-endian)",
        },
        "signature": _exactly(SIGNATURE_SIZE),
        "seq": {"minimum": 1, "maximum": MAX_SEQ},
        "cids": {
            "minItems": 1,
            "maxItems": MAX_CIDS,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": f"^{CID.pattern}$"},
        },
    },
    Auth: {"token": {"description": "a fresh token of the same wallet"}},
    Resume: {"after": {"minimum": 0, "maximum": MAX_SEQ}},
    ReceiptFrame: {"position": {"minimum": 1, "maximum": MAX_SEQ}},
}


def frame_schema(model: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of one frame, whole, with the rules that its type does not hold."""
    (reference,), components = msgspec.json.schema_components([model], ref_template="{name}")
    schema: dict[str, Any] = _inlined(components[str(reference["$ref"])], components)
    for field, rules in _RULES.get(model, {}).items():
        schema["properties"][field].update(rules)
    return schema


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    """``schema`` with its references replaced by what they name."""
    if isinstance(schema, list):
        return [_inlined(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(components[schema["$ref"]], components)
    return {name: _inlined(part, components) for name, part in schema.items()}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document of ``/v1/chat/ws``."""
    messages = {}
    for side, frames in (("client", CLIENT_FRAMES), ("server", SERVER_FRAMES)):
        for model in frames:
            messages[f"{side}.{model.__name__}"] = {
                "name": _type_of(model),
                "contentType": "application/json",
                "summary": " ".join((model.__doc__ or "").split()),
                "payload": frame_schema(model),
            }

    def named(side: str) -> list[dict[str, str]]:
        return [
            {"$ref": f"#/channels/chat/messages/{name}"}
            for name in messages
            if name.startswith(side)
        ]

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ATLAS secure chat",
            "version": VERSION,
            "description": (
                "One JSON object a text frame. An ACK means that the message is durably in the "
                "ledger at its position."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            "chat": {
                "address": "/v1/chat/ws",
                "description": (
                    f"Subprotocol `{SUBPROTOCOL}`, optional. The token is taken from "
                    "`Authorization: Bearer`, the subprotocol `bearer.<token>`, an AUTH frame "
                    f"first within {AUTH_SECONDS:g} s, or `?token=`. `?device=` says which device "
                    "connects: when it is revoked, or left behind by a new identity, an ERROR "
                    "unknown_device comes and 1008."
                ),
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "fromClient": {
                "action": "receive",
                "channel": {"$ref": "#/channels/chat"},
                "messages": named("client"),
            },
            "toClient": {
                "action": "send",
                "channel": {"$ref": "#/channels/chat"},
                "messages": named("server"),
            },
        },
        "components": {"messages": messages},
        "x-error-codes": {
            code.value: {"status": meaning.status, "title": meaning.title, "advice": meaning.advice}
            for code, meaning in CODES.items()
        },
        "x-close-codes": {str(close.value): _CLOSES[close] for close in Close},
    }


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the plugin's REST routes, without the host's."""

    def not_open() -> NoReturn:
        raise RuntimeError("only described here, not served")

    describe: Callable[[], Chat] = not_open
    app = FastAPI(title="ATLAS secure chat", version=VERSION)
    app.include_router(rest_router(describe))
    app.include_router(thread_router(describe))
    app.include_router(directory_router(describe))
    app.include_router(evidence_router(describe))
    for router in legacy_routers(describe):
        app.include_router(router)
    return app.openapi()


def _type_of(model: type[msgspec.Struct]) -> str:
    tag = model.__struct_config__.tag
    return tag if isinstance(tag, str) else "CHAT_MESSAGE"


def render(document: dict[str, Any]) -> str:
    """``document`` as it stands in the repository."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(directory: Path) -> None:
    """Write both documents."""
    (directory / "asyncapi.json").write_text(render(asyncapi()), encoding="utf-8")
    (directory / "openapi.json").write_text(render(openapi()), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""The published documents are what the code says, and say what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from plugins.secure_chat.core.envelope import ChatMessage
from plugins.secure_chat.core.frames import CLIENT_FRAMES, SERVER_FRAMES, parse_frame
from plugins.secure_chat.errors import Close, Code, InvalidMessage, MalformedFrame
from plugins.secure_chat.transport.asyncapi import asyncapi, frame_schema, openapi, render
from tests.plugin.chat_server import message

DOCS = Path(__file__).parents[3] / "docs"
COMMAND = "python -m plugins.secure_chat.transport.asyncapi docs"


@pytest.mark.parametrize(("name", "document"), [("asyncapi", asyncapi), ("openapi", openapi)])
def test_the_published_document_has_not_drifted(name: str, document: Any) -> None:
    published = (DOCS / f"{name}.json").read_text(encoding="utf-8")
    assert published == render(document()), f"write it anew: {COMMAND}"


def test_every_frame_code_and_close_is_published() -> None:
    document = asyncapi()
    frames = {f"client.{model.__name__}" for model in CLIENT_FRAMES}
    frames |= {f"server.{model.__name__}" for model in SERVER_FRAMES}
    assert set(document["components"]["messages"]) == frames
    assert set(document["channels"]["chat"]["messages"]) == frames
    assert set(document["x-error-codes"]) == {code.value for code in Code}
    assert set(document["x-close-codes"]) == {str(close.value) for close in Close}
    by_operation = [operation["messages"] for operation in document["operations"].values()]
    assert sum(map(len, by_operation)) == len(frames)


def test_every_reference_leads_somewhere() -> None:
    for document in (asyncapi(), openapi()):
        text = json.dumps(document)
        references = [part.split('"')[0] for part in text.split('"$ref": "')[1:]]
        assert references
        for reference in references:
            place: Any = document
            for name in reference.removeprefix("#/").split("/"):
                place = place[name]


@pytest.mark.parametrize("model", [*CLIENT_FRAMES, *SERVER_FRAMES], ids=lambda m: m.__name__)
def test_a_frames_schema_is_one_and_names_its_fields(model: type[msgspec.Struct]) -> None:
    schema = frame_schema(model)
    Draft202012Validator.check_schema(schema)
    fields = {field.encode_name for field in msgspec.structs.fields(model)}
    assert set(schema["properties"]) == fields | {"type"}


VALID: dict[str, Any] = message("0x" + "ab" * 20, 1)
FRAMES: list[tuple[dict[str, Any], bool]] = [
    (VALID, True),
    ({**VALID, "type": "CHAT_MESSAGE", "device": "a", "cids": ["bafkrei" + "a" * 52]}, True),
    ({**VALID, "seq": 1.5}, False),
    ({**VALID, "seq": "1"}, False),
    ({**VALID, "extra": 1}, False),
    ({**VALID, "type": "PING"}, False),
    ({k: v for k, v in VALID.items() if k != "nonce"}, False),
    ({**VALID, "cids": "x"}, False),
]


@pytest.mark.parametrize(("frame", "valid"), FRAMES)
def test_the_schema_and_the_parser_agree(frame: dict[str, Any], valid: bool) -> None:
    assert Draft202012Validator(frame_schema(ChatMessage)).is_valid(frame) is valid
    try:
        parsed = isinstance(parse_frame(json.dumps(frame)), ChatMessage)
    except (InvalidMessage, MalformedFrame):
        parsed = False
    assert parsed is valid


def test_rest_publishes_its_problems() -> None:
    document = openapi()
    routes = {
        "/v1/chat/messages": ["post"],
        "/v1/chat/threads": ["get", "post"],
        "/v1/chat/threads/{peer}/messages": ["get"],
        "/v1/chat/threads/{thread}": ["get"],
        "/v1/chat/threads/{thread}/members": ["post"],
        "/v1/chat/threads/{thread}/members/{member}": ["delete"],
        "/v1/chat/threads/{thread}/status": ["put"],
        "/v1/chat/ledger/head": ["get"],
        "/v1/chat/identity": ["put"],
        "/v1/chat/devices": ["post"],
        "/v1/chat/revocations": ["post"],
        "/v1/chat/devices/{device}/prekeys": ["get", "put"],
        "/v1/chat/identities/{wallet}": ["get"],
        "/v1/chat/identities/{wallet}/claim": ["post"],
        "/v1/chat/rewards/{epoch}": ["get"],
        "/v1/chat/ledger/inclusion/{position}": ["get"],
        "/v1/chat/ledger/consistency": ["get"],
        "/v1/chat/ledger/statements": ["get"],
        "/v1/chat/ledger/tile/{path}": ["get"],
    }
    for prefix in ("/secure-chat", "/api/v1/secure-chat"):
        routes[f"{prefix}/threads"] = ["get", "post"]
        routes[f"{prefix}/threads/{{thread_id}}"] = ["get"]
        routes[f"{prefix}/threads/{{thread_id}}/messages"] = ["get"]
        routes[f"{prefix}/threads/{{thread_id}}/status"] = ["put"]
        routes[f"{prefix}/messages"] = ["post"]
    for_everyone = {"/v1/chat/ledger/checkpoint": ["get"], "/v1/chat/ledger/keys": ["get"]}
    published = {path: sorted(methods) for path, methods in document["paths"].items()}
    assert published == {**routes, **for_everyone}
    for path, methods in routes.items():
        for method in methods:
            answers = document["paths"][path][method]["responses"]
            assert {"401", "422", "429"} <= set(answers), (path, method)
            for status, answer in answers.items():
                if int(status) >= 400 and int(status) != 404:  # a static file that is not there
                    assert "application/problem+json" in answer["content"], (path, status)

"""Tokens, keys and contents show in no log, no repr and no error of client and library (C3)."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

import plugins.secure_chat
from plugins.secure_chat.client import Token, wallet_login
from tests.unit.client.conftest import Person, Server

People = tuple[Person, Person, Person]
PACKAGES = ("plugins.secure_chat.client.", "plugins.secure_chat.crypto.")
PATIENCE = 60.0


def forms(secret: bytes) -> set[str]:
    """How bytes show in a text."""
    return {
        secret.hex(),
        repr(secret)[2:-1],
        b64encode(secret).decode().rstrip("="),
        str([*secret]),
    }


async def test_a_whole_exchange_shows_no_secret_in_any_log_or_value(
    shared_server: Server, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where an application logs everything, and of every object that there is."""
    alice, bob, _ = people
    caplog.set_level(logging.DEBUG)
    tokens: list[Token] = []
    url = shared_server.url
    login = wallet_login(url, alice.key)

    async def source() -> Token:
        tokens.append(await login())
        return tokens[-1]

    content = b"a canary that nobody else may see"
    async with bob.client(url) as b, alice.client(url, tokens=source) as a:
        async with asyncio.timeout(PATIENCE):
            await a.send(bob.wallet, content)
            received = await b.receive()
            await a.rotate(alice.key)
        held = alice.device._identity()
        keys = alice.device.messenger._keys
        assert held is not None
        secrets = [
            *(keys.signing, keys.agreement, keys.post_quantum, held[0].seed),
            *(alice.key._key.secret, alice.unlock, content),
            *(token.value.encode() for token in tokens),
        ]
        assert received.content == content
        hidden = set().union(*(forms(secret) for secret in secrets))
        shown = [(repr(one), type(one)) for one in gc.get_objects() if _is_ours(one)]
        assert len({kind for _, kind in shown}) > 20, "there is something to look at"
        assert not [kind for text, kind in shown if any(one in text for one in hidden)]
    assert caplog.records
    for record in caplog.records:
        text = record.getMessage() + str(record.exc_text)
        assert not [one for one in hidden if one in text], record.name


def _is_ours(one: object) -> bool:
    return str(type(one).__module__).startswith(PACKAGES)


# What the texts of errors and log lines may be made of: caps, numbers, names of types and fields.
ALLOWED = {
    "type(error).__name__",
    "type(defect).__name__",
    "type(refused.reason).__name__",
    "error.strerror",
    "error.errno",
    "error.code.value",
    "code",
    "code.value",
    "code.value if code is not None else status",
    "detail",  # the server's
    "len(certificates)",
    "len(without)",
    "name",  # of a field that an answer lacks
    "refused.position",
    "response.status_code",
    "answer.status_code",
    "error",  # one of ours
    "alarm",
}


def _parts(tree: ast.AST) -> Iterator[str]:
    """What goes into the texts of exceptions that are made, and of log lines."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        made = ast.unparse(node.func)
        if made.startswith("log."):
            yield from map(ast.unparse, node.args[1:])
        elif made == "super().__init__" or made.rsplit(".", 1)[-1][:1].isupper():
            for argument in node.args:
                if isinstance(argument, ast.JoinedStr):
                    values = (one for one in argument.values if not isinstance(one, ast.Constant))
                    yield from (ast.unparse(one.value) for one in values)  # type: ignore[attr-defined]


def test_texts_of_errors_and_logs_are_made_of_nothing_secret() -> None:
    root = Path(plugins.secure_chat.__file__).parent
    found = set()
    for folder in ("client", "crypto"):
        for path in (root / folder).glob("*.py"):
            parts = _parts(ast.parse(path.read_text()))
            found |= {part for part in parts if not part.split(".")[-1].isupper()}
    assert "error.strerror" in found
    assert found <= ALLOWED

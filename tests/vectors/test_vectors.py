"""Every vector gives the answer, or the error, that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.crypto import labels
from plugins.secure_chat.crypto.errors import CryptoError
from tests.vectors import generate
from tests.vectors.operations import OPERATIONS, plain, vector_form

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("crypto-*.json"))


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    assert set(document) == {"format", "subject", "blobs", "vectors"}
    assert document["format"] == "atlas-secure-chat-vectors/1"
    return document


def cases() -> list[Any]:
    found = []
    for path in FILES:
        document = load(path)
        names = [vector["name"] for vector in document["vectors"]]
        assert len(names) == len(set(names))
        found += [
            pytest.param(vector, document["blobs"], id=f"{path.stem}: {vector['name']}")
            for vector in document["vectors"]
        ]
    return found


@pytest.mark.parametrize(("vector", "blobs"), cases())
def test_vector(vector: dict[str, Any], blobs: dict[str, str]) -> None:
    result = {"output", "error"} & set(vector)
    assert set(vector) == {"name", "op", "input"} | result
    assert len(result) == 1
    inputs = {name: plain(value, blobs) for name, value in vector["input"].items()}
    operation = OPERATIONS[vector["op"]]
    if "error" in vector:
        with pytest.raises(CryptoError) as caught:
            operation(**inputs)
        assert caught.value.code == vector["error"]
    else:
        assert vector_form(operation(**inputs)) == vector["output"]


def test_an_unknown_key_in_a_vector_fails_the_harness() -> None:
    with pytest.raises(TypeError):
        OPERATIONS["cid"](block=b"", surprise=1)
    with pytest.raises(KeyError):
        plain({"blob": "x", "surprise": 1}, {"x": ""})


def test_every_operation_and_every_label_has_a_vector() -> None:
    vectors = [vector for path in FILES for vector in load(path)["vectors"]]
    assert {vector["op"] for vector in vectors} == set(OPERATIONS)
    pinned = {one["output"]["label"] for one in vectors if one["op"] == "label"}
    assert pinned == {one.decode() for one in labels.ALL}


def test_the_generator_writes_these_very_files() -> None:
    for name, text in generate.documents().items():
        assert (HERE / name).read_text() == text, name

"""A reader of each of the host's seven dialects, from its recipe: what the host would accept.

Nothing of ``plugins`` may be imported here: a file that we continued must be read by others.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

ZEROS = "0" * 64
Entry = dict[str, Any]


class _V1(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    id: str
    wallet: str
    epoch: int
    event_type: str
    value: int
    metadata: dict[str, Any]
    hash: str
    prev_hash: str
    timestamp: str
    signature: str


class _V2(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    wallet: str
    event_type: str
    value: float
    metadata: dict[str, Any]
    timestamp: str
    hash: str
    previous_hash: str


class _V7(_V2):
    value: str  # type: ignore[assignment] # as the host's class has it


_WHOLE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_FRACTION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
_EPOCH = re.compile(r"1970-01-01T00:00:00Z")
_TIMES = {"v2": _FRACTION, "v3": _WHOLE, "v4": _WHOLE, "v5": _WHOLE, "v6": _EPOCH, "v7": _EPOCH}


class NotAccepted(AssertionError):
    """The host's reader would stop here."""


def read(dialect: str, data: bytes) -> list[Entry]:
    """Every entry of a whole file in one dialect. Raises NotAccepted naming the line."""
    if not data.endswith(b"\n"):
        raise NotAccepted("the last line has no newline")
    entries: list[Entry] = []
    previous = ZEROS
    one: Callable[[bytes, str, str], Entry] = _read_v1 if dialect == "v1" else _read_v2
    for number, line in enumerate(data[:-1].split(b"\n"), start=1):
        try:
            entry = one(line, previous, dialect)
        except (ValueError, NotAccepted) as error:
            raise NotAccepted(f"line {number}: {error}") from error
        previous = entry["hash"]
        entries.append(entry)
    return entries


def _must(condition: bool, what: str) -> None:
    if not condition:
        raise NotAccepted(what)


def _read_v1(line: bytes, previous: str, dialect: str) -> Entry:
    entry = json.loads(line)
    _V1.model_validate(entry)
    _must(entry["prev_hash"] == previous, "it does not follow")
    hashed = {key: entry[key] for key in entry if key != "hash"}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    _must(hashlib.sha3_512(text.encode()).hexdigest() == entry["hash"], "its hash is wrong")
    _must(entry["timestamp"].endswith("+00:00"), "its time is not of the dialect")
    _must(str(uuid.UUID(entry["id"])) == entry["id"], "its id is no UUID")
    _must(json.dumps(entry).encode() == line, "its bytes are not those of the dialect")
    return entry  # type: ignore[no-any-return] # checked by the model


def _read_v2(line: bytes, previous: str, dialect: str) -> Entry:
    entry: Entry = json.loads(line)
    (_V7 if dialect == "v7" else _V2).model_validate(entry)
    _must(entry["previous_hash"] == previous, "it does not follow")
    metadata = json.dumps(entry["metadata"], sort_keys=True)
    names = ("previous_hash", "timestamp", "wallet", "event_type")

    def hashed(value: object) -> str:
        text = "|".join([*(entry[name] for name in names), str(value), metadata])
        return hashlib.sha256(text.encode()).hexdigest()

    values = [entry["value"]]
    if dialect in ("v5", "v6") and entry["value"] == 0:
        values.append(0)  # a default was hashed before it was made a float
    _must(entry["hash"] in map(hashed, values), "its hash is wrong")
    _must(_TIMES[dialect].fullmatch(entry["timestamp"]) is not None, "its time is not of it")
    return entry

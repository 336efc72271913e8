"""The GenesisLedger's dialects: the bytes of a record, and its hash, in each of them.

The host's ledger changed its format seven times and one file may hold several of them. On disk they
are five, because v3 to v5 write the same bytes:

========  ==========  =================  =============================  =======================
dialect   hash        value              timestamp                      id, signature
========  ==========  =================  =============================  =======================
v1        SHA3-512    int                ISO 8601, ``+00:00``           fields of the record
v2        SHA-256     float              ISO 8601, ``Z``, microseconds  id is the hash; the
v3-v5     SHA-256     float              whole seconds, ``Z``           signature is in the
v6        SHA-256     float              always 1970-01-01T00:00:00Z    metadata
v7        SHA-256     str                always 1970-01-01T00:00:00Z
========  ==========  =================  =============================  =======================

Here live encoding, parsing and hashing of one record. What follows from many records (the chain)
is in ``chain.py``; files are in ``ledger/``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from plugins.secure_chat.core.records import EventDraft, Record

EPOCH_TIMESTAMP: Final = "1970-01-01T00:00:00Z"
V1_EPOCH: Final = 1
_V1_KEYS: Final = (
    "id",
    "wallet",
    "epoch",
    "event_type",
    "value",
    "metadata",
    "hash",
    "prev_hash",
    "timestamp",
    "signature",
)
_V1_HASHED: Final = frozenset(_V1_KEYS) - {"hash"}
_V2_KEYS: Final = (
    "wallet",
    "event_type",
    "value",
    "metadata",
    "timestamp",
    "hash",
    "previous_hash",
)
_HEX: Final = frozenset("0123456789abcdef")


class Family(StrEnum):
    """Which recipe a record follows."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3-v5"
    V6 = "v6"
    V7 = "v7"


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family and how its JSON is spaced: pydantic 1 wrote v2+ with spaces and in ASCII."""

    family: Family
    spaced: bool = False


V1: Final = Dialect(Family.V1, spaced=True)


class NotARecord(ValueError):
    """A line that is no record of any dialect. The text names the first defect, never the data."""


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line: its record, its dialect, and whether the stored hash is the right one."""

    record: Record
    dialect: Dialect
    hash_is_right: bool
    is_canonical: bool


def timestamp(family: Family, moment: datetime) -> str:
    """``moment`` (aware) as this family writes it."""
    moment = moment.astimezone(UTC)
    if family is Family.V1:
        return moment.isoformat()
    if family is Family.V2:
        return moment.replace(tzinfo=None).isoformat() + "Z"
    if family is Family.V3:
        return moment.replace(tzinfo=None, microsecond=0).isoformat() + "Z"
    return EPOCH_TIMESTAMP


def encode(
    dialect: Dialect, draft: EventDraft, *, moment: datetime, prev_hash: str, event_id: str
) -> tuple[bytes, Record]:
    """Encode ``draft`` as one line, newline included, and the record it makes at position 0.

    ``event_id`` is used by v1 alone; the others take the hash as id and carry the signature in the
    metadata. The caller sets the position.
    """
    written_at = timestamp(dialect.family, moment)
    metadata = draft.metadata
    if dialect.family is Family.V1:
        fields: dict[str, Any] = {
            "id": event_id,
            "wallet": draft.wallet,
            "epoch": V1_EPOCH,
            "event_type": draft.event_type,
            "value": draft.value,
            "metadata": metadata,
            "hash": "",
            "prev_hash": prev_hash,
            "timestamp": written_at,
            "signature": draft.signature,
        }
        fields["hash"] = _v1_hash(fields)
    else:
        if "signature" not in metadata and draft.signature:
            metadata = {**metadata, "signature": draft.signature}
        value: Any = str(draft.value) if dialect.family is Family.V7 else float(draft.value)
        fields = {
            "wallet": draft.wallet,
            "event_type": draft.event_type,
            "value": value,
            "metadata": metadata,
            "timestamp": written_at,
            "hash": "",
            "previous_hash": prev_hash,
        }
        fields["hash"] = _v2_hash(fields, value)
        event_id = fields["hash"]
    record = Record(
        position=0,
        event_id=event_id,
        event_type=draft.event_type,
        wallet=draft.wallet,
        value=fields["value"],
        metadata=metadata,
        signature=draft.signature,
        timestamp=written_at,
        event_hash=fields["hash"],
        prev_hash=prev_hash,
    )
    return _on_disk(fields, dialect) + b"\n", record


def parse(line: bytes, position: int) -> Line:
    """Parse one line (without its newline) of any dialect. Raises NotARecord.

    The hash is recomputed; ``is_canonical`` says whether the line is byte for byte what the dialect
    writes, so that no byte can change unseen, white space and key order included.
    """
    fields = _load(line)
    keys = tuple(fields)
    if keys == _V1_KEYS:
        return _parse_v1(line, fields, position)
    if keys == _V2_KEYS:
        return _parse_v2(line, fields, position)
    raise NotARecord("its fields are those of no ledger dialect")


def _load(line: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson refuses what Python's json writes at the margins (lone surrogates, NaN).
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise NotARecord("it is not JSON") from None
    if not isinstance(fields, dict):
        raise NotARecord("it is not a JSON object")
    return fields


def _parse_v1(line: bytes, fields: dict[str, Any], position: int) -> Line:
    _check_common(fields, "prev_hash")
    if type(fields["id"]) is not str or type(fields["signature"]) is not str:
        raise NotARecord("id or signature is not a string")
    if type(fields["value"]) is not int:
        # Beyond 64 bits orjson reads integers as floats; Python reads them whole.
        fields = json.loads(line)
        if type(fields["value"]) is not int:
            raise NotARecord("value is not an integer")
    fast = {key: value for key, value in fields.items() if key != "hash"}
    stored = fields["hash"]
    right = _digest_v1(orjson_or_json(fast)) == stored
    canonical = False
    if right:
        canonical = _on_disk(fields, V1) == line
    if not right or not canonical:
        exact = json.loads(line)
        right = _v1_hash(exact) == stored
        canonical = _on_disk(exact, V1) == line
    return Line(_record(fields, "prev_hash", fields["id"], position), V1, right, canonical)


def _parse_v2(line: bytes, fields: dict[str, Any], position: int) -> Line:
    _check_common(fields, "previous_hash")
    # Floats print as Python prints them, so these dialects are always read by Python.
    fields = json.loads(line)
    value = fields["value"]
    if type(value) is bool or not isinstance(value, int | float | str):
        raise NotARecord("value is not a number or a string")
    dialect = Dialect(_family(fields), spaced=line.startswith(b'{"wallet": '))
    stored = fields["hash"]
    right = _v2_hash(fields, value) == stored
    if not right and type(value) is float and value == 0:
        right = _v2_hash(fields, 0) == stored  # v5 and v6 hash a defaulted value as 0, write 0.0
    canonical = _on_disk(fields, dialect) == line
    return Line(_record(fields, "previous_hash", stored, position), dialect, right, canonical)


def _family(fields: Mapping[str, Any]) -> Family:
    if isinstance(fields["value"], str):
        return Family.V7
    if fields["timestamp"] == EPOCH_TIMESTAMP:
        return Family.V6
    return Family.V2 if "." in fields["timestamp"] else Family.V3


def _check_common(fields: Mapping[str, Any], prev_key: str) -> None:
    for key in ("wallet", "event_type", "timestamp", "hash", prev_key):
        if type(fields[key]) is not str:
            raise NotARecord(f"{key} is not a string")
    if type(fields["metadata"]) is not dict:
        raise NotARecord("metadata is not an object")
    for key in ("hash", prev_key):
        if len(fields[key]) not in (64, 128) or not _HEX.issuperset(fields[key]):
            raise NotARecord(f"{key} is not 64 or 128 hex digits")


def _record(fields: Mapping[str, Any], prev_key: str, event_id: str, position: int) -> Record:
    metadata = fields["metadata"]
    signature = fields["signature"] if "signature" in fields else metadata.get("signature", "")
    return Record(
        position=position,
        event_id=event_id,
        event_type=fields["event_type"],
        wallet=fields["wallet"],
        value=fields["value"],
        metadata=metadata,
        signature=signature if isinstance(signature, str) else "",
        timestamp=fields["timestamp"],
        event_hash=fields["hash"],
        prev_hash=fields[prev_key],
    )


def orjson_or_json(fields: Mapping[str, Any]) -> bytes:
    """Canonical v1 JSON by the fast writer: right for ASCII without odd floats, never trusted."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""


def _digest_v1(canonical: bytes) -> str:
    return hashlib.sha3_512(canonical).hexdigest()


def _v1_hash(fields: Mapping[str, Any]) -> str:
    hashed = {key: fields[key] for key in _V1_HASHED}
    return _digest_v1(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode("ascii"))


def _v2_hash(fields: Mapping[str, Any], value: float | str) -> str:
    joined = "|".join(
        (
            fields["previous_hash"],
            fields["timestamp"],
            fields["wallet"],
            fields["event_type"],
            str(value),
            json.dumps(fields["metadata"], sort_keys=True),
        )
    )
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def _on_disk(fields: Mapping[str, Any], dialect: Dialect) -> bytes:
    if dialect.spaced:
        return json.dumps(fields).encode("ascii")
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")

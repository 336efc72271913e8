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

Each is read and written in two ways. The exact way is Python's own ``json``, as the host's code is.
The plain way is several times faster, handles only records of v1 whose bytes can be foreseen (no
escapes, no nesting, no odd floats), and never says no: what it does not vouch for byte for byte is
read again exactly, so it decides nothing alone.

Here live encoding, parsing and hashing of one record. What follows from many records (the chain)
is in ``chain.py``; files are in ``ledger/``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
import orjson

from plugins.secure_chat.core.flat_json import flat_text, is_ordinary, is_plain
from plugins.secure_chat.core.nesting import too_deep
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
_V1_QUOTES: Final = 30  # of what is hashed, those of the metadata left out
_V2_KEYS: Final = (
    "wallet",
    "event_type",
    "value",
    "metadata",
    "timestamp",
    "hash",
    "previous_hash",
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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


class Line(msgspec.Struct, frozen=True, gc=False):
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


class _V1Fields(msgspec.Struct, gc=False):
    """The fields of a v1 record, in the order in which they are on disk."""

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


_V1_READER: Final = msgspec.json.Decoder(_V1Fields)


def encode(
    dialect: Dialect, draft: EventDraft, *, moment: datetime, prev_hash: str, event_id: str
) -> tuple[bytes, Record]:
    """Encode ``draft`` as one line, newline included, and the record it makes at position 0.

    ``event_id`` is used by v1 alone; the others take the hash as id and carry the signature in the
    metadata. The caller sets the position. Raises ValueError when the dialect cannot hold the
    draft: a line that ``parse`` would not bear out is never given.
    """
    written_at = timestamp(dialect.family, moment)
    line, _, _ = encode_at(dialect, draft, written_at, prev_hash, event_id)
    return line, read(line[:-1], 0)


def encode_at(
    dialect: Dialect, draft: EventDraft, written_at: str, prev_hash: str, event_id: str
) -> tuple[bytes, str, str]:
    """The line, and the record's id and hash.

    ``encode`` with the moment as ``timestamp`` wrote it: a group of records shares one.
    ``prev_hash`` must be a record's hash.
    """
    try:
        if dialect.family is Family.V1:
            return _encode_v1(draft, written_at, prev_hash, event_id)
        return _encode_v2(dialect, draft, written_at, prev_hash)
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError("the dialect cannot hold this event") from error


def _encode_v1(
    draft: EventDraft, written_at: str, prev_hash: str, event_id: str
) -> tuple[bytes, str, str]:
    fields = _V1Fields(
        id=event_id,
        wallet=draft.wallet,
        epoch=V1_EPOCH,
        event_type=draft.event_type,
        value=draft.value,
        metadata=draft.metadata,
        hash="",
        prev_hash=prev_hash,
        timestamp=written_at,
        signature=draft.signature,
    )
    plain = _plain_v1(fields) if _has_plain_types(draft) else None
    if plain is not None:
        digest, line = plain
    else:
        exact = {key: getattr(fields, key) for key in _V1_KEYS}
        digest = exact["hash"] = _v1_hash(exact)
        line = json.dumps(exact).encode("ascii")
        _must_read_back(line)
    return line + b"\n", event_id, digest


def _encode_v2(
    dialect: Dialect, draft: EventDraft, written_at: str, prev_hash: str
) -> tuple[bytes, str, str]:
    metadata = draft.metadata
    if draft.signature:
        if metadata.get("signature", draft.signature) != draft.signature:
            raise ValueError("the metadata holds another signature than the draft")
        metadata = {**metadata, "signature": draft.signature}
    value: float | str
    if dialect.family is Family.V7:
        value = str(draft.value)
    else:
        value = float(draft.value)
        if value != draft.value:
            raise ValueError("the dialect cannot hold this value exactly")
    fields: dict[str, Any] = {
        "wallet": draft.wallet,
        "event_type": draft.event_type,
        "value": value,
        "metadata": metadata,
        "timestamp": written_at,
        "hash": "",
        "previous_hash": prev_hash,
    }
    digest = fields["hash"] = _v2_hash(fields, value)
    line: bytes | None = None
    if not dialect.spaced and _has_plain_types(draft):
        line = _plain_v2(fields)
    if line is None:
        line = _spaced(fields) if dialect.spaced else _compact(fields, _pydantic_float)
        _must_read_back(line)
    return line + b"\n", digest, digest


def _must_read_back(line: bytes) -> None:
    """Refuse what JSON changes on the way: NaN, keys that are not strings, halves of surrogates."""
    _refuse_deep(line)
    read = _parse_exact(line, 0)
    if not (read.hash_is_right and read.is_canonical):
        raise ValueError("the draft is not JSON that reads back as it was written")


def parse(line: bytes, position: int) -> Line:
    """Parse one line (without its newline) of any dialect. Raises NotARecord.

    The hash is recomputed; ``is_canonical`` says whether the line is byte for byte what the dialect
    writes, so that no byte can change unseen, white space and key order included.
    """
    _refuse_deep(line)
    if line.startswith(b'{"id": '):
        try:
            fields = _V1_READER.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return _parse_exact(line, position)
        plain = _plain_v1(fields) if _is_hash(fields.prev_hash) else None
        if plain is not None and plain[1] == line and plain[0] == fields.hash:
            return Line(_v1_record(fields, position), V1, True, True)
    return _parse_exact(line, position)


def read(line: bytes, position: int) -> Record:
    """The record of a line that is known to be sound, in a fraction of ``parse``'s time.

    Nothing is verified: for whoever follows a ledger that its writer vouches for. Raises NotARecord
    for what cannot be read at all.
    """
    if line.startswith(b'{"id": '):
        try:
            return _v1_record(_V1_READER.decode(line), position)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass  # exact reading takes more, or says why not
    return parse(line, position).record


def _refuse_deep(line: bytes) -> None:
    if too_deep(line):
        raise NotARecord("it is nested too deeply")


def _parse_exact(line: bytes, position: int) -> Line:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotARecord("it is not JSON") from None
    if not isinstance(fields, dict):
        raise NotARecord("it is not a JSON object")
    keys = tuple(fields)
    try:
        if keys == _V1_KEYS:
            return _parse_v1(line, fields, position)
        if keys == _V2_KEYS:
            return _parse_v2(line, fields, position)
    except RecursionError:
        raise NotARecord("it is nested too deeply") from None
    raise NotARecord("its fields are those of no ledger dialect")


def _parse_v1(line: bytes, fields: dict[str, Any], position: int) -> Line:
    _check_common(fields, "prev_hash")
    if type(fields["id"]) is not str or type(fields["signature"]) is not str:
        raise NotARecord("id or signature is not a string")
    if type(fields["value"]) is not int or type(fields["epoch"]) is not int:
        raise NotARecord("value or epoch is not an integer")
    right = _v1_hash(fields) == fields["hash"]
    canonical = _spaced(fields) == line
    return Line(_v1_record(_V1Fields(**fields), position), V1, right, canonical)


def _parse_v2(line: bytes, fields: dict[str, Any], position: int) -> Line:
    _check_common(fields, "previous_hash")
    value = fields["value"]
    if type(value) is bool or not isinstance(value, int | float | str):
        raise NotARecord("value is not a number or a string")
    family = _family(fields)
    dialect = Dialect(family, spaced=line.startswith(b'{"wallet": '))
    stored = fields["hash"]
    try:
        right = _v2_hash(fields, value) == stored
        if not right and str(value) == "0.0" and family is not Family.V2:
            right = _v2_hash(fields, 0) == stored  # v5, v6 hash a defaulted value as 0, write 0.0
    except UnicodeEncodeError:
        raise NotARecord("wallet, event_type, value or timestamp is not text") from None
    if dialect.spaced:
        canonical = _spaced(fields) == line
    else:
        # pydantic has spelled exponents in more than one way over its versions.
        canonical = any(
            _compact(fields, spell) == line
            for spell in (float.__repr__, _pydantic_float, _early_pydantic_float)
        )
    return Line(_v2_record(fields, position), dialect, right, canonical)


def _family(fields: Mapping[str, Any]) -> Family:
    if isinstance(fields["value"], str):
        if fields["timestamp"] != EPOCH_TIMESTAMP:
            raise NotARecord("value is a string, and timestamp is not that of v7")
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
        if not _is_hash(fields[key]):
            raise NotARecord(f"{key} is not 64 or 128 hex digits")


def _is_hash(text: str) -> bool:
    try:
        return len(text) in (64, 128) and bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def _v1_record(fields: _V1Fields, position: int) -> Record:
    return Record(
        position=position,
        event_id=fields.id,
        event_type=fields.event_type,
        wallet=fields.wallet,
        value=fields.value,
        metadata=fields.metadata,
        signature=fields.signature,
        timestamp=fields.timestamp,
        event_hash=fields.hash,
        prev_hash=fields.prev_hash,
    )


def _v2_record(fields: Mapping[str, Any], position: int) -> Record:
    signature = fields["metadata"].get("signature", "")
    return Record(
        position=position,
        event_id=fields["hash"],
        event_type=fields["event_type"],
        wallet=fields["wallet"],
        value=fields["value"],
        metadata=fields["metadata"],
        signature=signature if isinstance(signature, str) else "",
        timestamp=fields["timestamp"],
        event_hash=fields["hash"],
        prev_hash=fields["previous_hash"],
    )


def _v1_hash(fields: Mapping[str, Any]) -> str:
    hashed = {key: fields[key] for key in _V1_HASHED}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha3_512(text.encode("ascii")).hexdigest()


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
    return hashlib.sha256(joined.encode("utf-8")).hexdigest()


def _spaced(fields: Mapping[str, Any]) -> bytes:
    """As Python's ``json`` writes, and pydantic 1 with it."""
    return json.dumps(fields).encode("ascii")


def _compact(fields: Mapping[str, Any], spell: Callable[[float], str]) -> bytes:
    """As pydantic 2 writes, with floats spelled by ``spell``; UTF-8, halves of surrogates escaped.

    (pydantic 2 itself refuses such halves; escaped, they leave the file readable.)
    """
    if spell is float.__repr__:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    else:
        text = _compact_value(fields, spell)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", whole).encode("utf-8")


def _compact_value(value: Any, spell: Callable[[float], str]) -> str:
    if isinstance(value, float):
        return spell(value)
    if isinstance(value, Mapping):
        pairs = [
            f"{json.dumps(key, ensure_ascii=False)}:{_compact_value(value[key], spell)}"
            for key in value
        ]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_compact_value(item, spell) for item in value]) + "]"
    return json.dumps(value, ensure_ascii=False)


def _pydantic_float(value: float) -> str:
    """The shortest digits of ``value`` as pydantic 2 lays them out: 1e-7 and 1e+16."""
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    if not exponent:
        return text
    if power == "-05":  # Python leaves fixed notation one place before pydantic does
        sign = "-" if mantissa.startswith("-") else ""
        return f"{sign}0.0000{mantissa.removeprefix('-').replace('.', '')}"
    return f"{mantissa}e{power[0]}{power[1:].lstrip('0')}"


def _early_pydantic_float(value: float) -> str:
    """The same by pydantic 2's earlier versions: 1e-7 and 1e16."""
    return _pydantic_float(value).replace("e+", "e")


def _has_plain_types(draft: EventDraft) -> bool:
    return (
        type(draft.value) is int
        and type(draft.wallet) is str
        and type(draft.event_type) is str
        and type(draft.signature) is str
    )


def _plain_v1(fields: _V1Fields) -> tuple[str, bytes] | None:
    """The hash and the line of a record whose bytes can be foreseen, else None."""
    metadata = flat_text(fields.metadata)
    if metadata is None:
        return None
    try:
        hashed = (
            f'{{"epoch":{fields.epoch},"event_type":"{fields.event_type}","id":"{fields.id}",'
            f'"metadata":{metadata.compact},"prev_hash":"{fields.prev_hash}",'
            f'"signature":"{fields.signature}","timestamp":"{fields.timestamp}",'
            f'"value":{fields.value},"wallet":"{fields.wallet}"}}'
        ).encode("ascii")
    except UnicodeEncodeError:
        return None
    if not is_plain(hashed, _V1_QUOTES + metadata.quotes):
        return None
    digest = hashlib.sha3_512(hashed).hexdigest()
    line = (
        f'{{"id": "{fields.id}", "wallet": "{fields.wallet}", "epoch": {fields.epoch}, '
        f'"event_type": "{fields.event_type}", "value": {fields.value}, '
        f'"metadata": {metadata.spaced}, "hash": "{digest}", "prev_hash": "{fields.prev_hash}", '
        f'"timestamp": "{fields.timestamp}", "signature": "{fields.signature}"}}'
    )
    return digest, line.encode("ascii")


def _plain_v2(fields: Mapping[str, Any]) -> bytes | None:
    """The compact line of a record whose bytes can be foreseen, else None."""
    value, metadata = fields["value"], flat_text(fields["metadata"])
    if metadata is None or not (isinstance(value, str) or is_ordinary(value)):
        return None
    try:
        line = orjson.dumps(fields)
    except orjson.JSONEncodeError:
        return None
    return line if is_plain(line, line.count(b'"')) else None

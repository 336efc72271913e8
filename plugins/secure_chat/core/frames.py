"""The socket's frames: parsing what a client sends, writing what the server answers.

One JSON object a text frame (SPEC.md, "Frames"). The structs here are the only models of the wire:
the published AsyncAPI and OpenAPI documents are generated from them.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, NoReturn, TypeVar

import msgspec
import orjson
from msgspec import UNSET

from plugins.secure_chat.core.envelope import MAX_SEQ, ChatMessage, Envelope
from plugins.secure_chat.core.records import Head, Receipt
from plugins.secure_chat.errors import (
    Code,
    InvalidMessage,
    LedgerUnavailable,
    MalformedFrame,
    Refusal,
)


class Auth(
    msgspec.Struct, tag_field="type", tag="AUTH", forbid_unknown_fields=True, frozen=True, gc=False
):
    """A fresh token: the first frame, or before the last one expires."""

    token: str


class Resume(
    msgspec.Struct,
    tag_field="type",
    tag="RESUME",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """Replay what this wallet missed after a position, then RESUMED."""

    after: int


class ReceiptFrame(
    msgspec.Struct,
    tag_field="type",
    tag="RECEIPT",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """This wallet's own client says that it decrypted (delivered) or showed (read) a message."""

    kind: Literal["delivered", "read"]
    position: int


class Ping(
    msgspec.Struct, tag_field="type", tag="PING", forbid_unknown_fields=True, frozen=True, gc=False
):
    """Answered with PONG."""


class Limits(msgspec.Struct, frozen=True):
    """What the server accepts, told in READY."""

    max_ciphertext: int
    rate: float
    burst: int


class Ready(
    msgspec.Struct, tag_field="type", tag="READY", forbid_unknown_fields=True, frozen=True, gc=False
):
    """The connection is authenticated and live. ``position`` is the ledger's head."""

    wallet: str
    position: int
    limits: Limits


class Delivered(
    msgspec.Struct,
    tag_field="type",
    tag="CHAT_MESSAGE",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """A committed message: the sender's fields unchanged, and where the ledger has it."""

    id: str
    sender: str
    recipient: str
    device: str
    ciphertext: str
    nonce: str
    seq: int
    ts: int | float
    hash: str
    timestamp: str
    position: int
    signature: str | msgspec.UnsetType = UNSET
    cids: list[str] | msgspec.UnsetType = UNSET


class Ack(
    msgspec.Struct, tag_field="type", tag="ACK", forbid_unknown_fields=True, frozen=True, gc=False
):
    """The message is durably in the ledger at ``position``, and stays there."""

    seq: int
    hash: str
    recipient: str
    device: str
    id: str
    position: int
    event_hash: str
    timestamp: str
    duplicate: bool
    gap: int


class Error(
    msgspec.Struct, tag_field="type", tag="ERROR", forbid_unknown_fields=True, frozen=True, gc=False
):
    """What was refused and why. ``detail`` is for people, ``code`` for programs."""

    code: Code
    detail: str
    field: str | msgspec.UnsetType = UNSET
    last_seq: int | msgspec.UnsetType = UNSET
    retry_after: float | msgspec.UnsetType = UNSET
    seq: int | msgspec.UnsetType = UNSET
    recipient: str | msgspec.UnsetType = UNSET
    device: str | msgspec.UnsetType = UNSET


class Resumed(
    msgspec.Struct,
    tag_field="type",
    tag="RESUMED",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """All that is retained up to ``position`` was sent; ``complete``: nothing had expired."""

    position: int
    complete: bool


class ReceiptNotice(
    msgspec.Struct,
    tag_field="type",
    tag="RECEIPT",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """To the sender: ``wallet`` delivered or read the message at ``position``."""

    kind: Literal["delivered", "read"]
    position: int
    wallet: str


class ThreadNotice(
    msgspec.Struct,
    tag_field="type",
    tag="THREAD",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """To a thread's members, and to whom has just been taken out: it changed at ``position``.

    ``kind``: created, member_added, member_removed, left or status. ``members``: who is in it now.
    """

    thread: str
    kind: str
    position: int
    wallet: str
    members: tuple[str, ...]
    status: str


class Pong(
    msgspec.Struct, tag_field="type", tag="PONG", forbid_unknown_fields=True, frozen=True, gc=False
):
    """The answer to PING."""


class PrekeysLow(
    msgspec.Struct,
    tag_field="type",
    tag="PREKEYS_LOW",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """An own device has few one-time prekeys left, of one kind or both: publish more."""

    device: str
    one_time: int
    one_time_kem: int


S = TypeVar("S", bound=msgspec.Struct)

CLIENT_FRAMES: Final = (ChatMessage, Auth, Resume, ReceiptFrame, Ping)
SERVER_FRAMES: Final = (
    Ready,
    Delivered,
    Ack,
    Error,
    Resumed,
    ReceiptNotice,
    PrekeysLow,
    ThreadNotice,
    Pong,
)

_CHAT: Final = msgspec.json.Decoder(ChatMessage)
_CONTROL: Final[msgspec.json.Decoder[Auth | Resume | ReceiptFrame | Ping]] = msgspec.json.Decoder(
    Auth | Resume | ReceiptFrame | Ping
)
_ENCODER: Final = msgspec.json.Encoder()
_PATH: Final = re.compile(r"- at `\$\.([a-z_]+)")
_MISSING: Final = re.compile(r"missing required field `([a-z_]+)`")
_CONTROL_TYPES: Final = frozenset(("AUTH", "RESUME", "RECEIPT", "PING"))


def parse_frame(raw: str | bytes) -> ChatMessage | Auth | Resume | ReceiptFrame | Ping:
    """Parse one client frame. Raises MalformedFrame or InvalidMessage; never quotes the input."""
    try:
        message = _CHAT.decode(raw)
    except msgspec.ValidationError as error:
        return _parse_control(raw, error)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise MalformedFrame("the frame is not one JSON object in UTF-8") from None
    strings = 5 + (message.type is not UNSET) + (message.device is not UNSET)
    strings += (message.signature is not UNSET) + (message.sender is not UNSET)
    keys = strings + 1  # recipient, ciphertext, nonce, hash are strings; seq and ts are not
    if message.cids is not UNSET:
        keys += 1
        strings += len(message.cids)
    _refuse_duplicate_keys(raw, 2 * (keys + strings - 1))
    return message


def parse_message(raw: bytes) -> ChatMessage:
    """Parse a REST body: a CHAT_MESSAGE with or without its type."""
    message = parse_frame(raw)
    if not isinstance(message, ChatMessage):
        raise MalformedFrame("only a CHAT_MESSAGE can be posted")
    return message


def parse_object(raw: bytes, model: type[S]) -> S:
    """Parse a REST body as ``model``. Raises MalformedFrame or InvalidMessage, as parse_frame."""
    _object(raw)
    try:
        return msgspec.json.decode(raw, type=model)
    except msgspec.ValidationError as error:
        _raise_invalid(error)
    except msgspec.DecodeError:
        raise MalformedFrame("the frame is not one JSON object in UTF-8") from None


def _object(raw: str | bytes) -> dict[str, Any]:
    """One JSON object that names no field twice. Raises MalformedFrame."""
    try:
        # orjson has a depth limit of its own; json recurses as deep as the process was set to
        # allow, and some libraries set that beyond what the C stack holds. It refuses NaN, too.
        orjson.loads(raw)
        loose = json.loads(raw, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        raise MalformedFrame("the frame is not one JSON object in UTF-8") from None
    if not isinstance(loose, dict):
        raise MalformedFrame("the frame is not a JSON object")
    return loose


def _parse_control(
    raw: str | bytes, chat_error: msgspec.ValidationError
) -> Auth | Resume | ReceiptFrame | Ping:
    """What the frame is when it is not a well-formed CHAT_MESSAGE."""
    loose = _object(raw)
    kind = loose.get("type", "CHAT_MESSAGE")
    if kind == "CHAT_MESSAGE":
        _raise_invalid(chat_error)
    if not isinstance(kind, str) or kind not in _CONTROL_TYPES:
        raise MalformedFrame("the frame's type is not one of this protocol")
    try:
        frame = _CONTROL.decode(raw)
    except msgspec.ValidationError as error:
        _raise_invalid(error)
    except msgspec.DecodeError:
        raise MalformedFrame("the frame is not one JSON object in UTF-8") from None
    # A position is an integer that JavaScript counts to, as seq is; no database column is wider.
    if isinstance(frame, Resume) and not 0 <= frame.after <= MAX_SEQ:
        raise InvalidMessage("after", "after must be a position, 0 to 2^53-1")
    if isinstance(frame, ReceiptFrame) and not 1 <= frame.position <= MAX_SEQ:
        raise InvalidMessage("position", "position must be 1 to 2^53-1")
    return frame


def _refuse_duplicate_keys(raw: str | bytes, quotes: int) -> None:
    """Refuse a frame that names a key twice: two readers of it could differ.

    All values are flat, so without escapes a frame has exactly two quotes for each key and each
    string; one more key shows in the count. Frames with escapes are read again by Python.
    """
    if isinstance(raw, str):
        plain, count = "\\" not in raw, raw.count('"')
    else:
        plain, count = b"\\" not in raw, raw.count(b'"')
    if plain and count == quotes:
        return
    try:
        json.loads(raw, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        raise MalformedFrame("the frame is not one JSON object in UTF-8") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedFrame("the frame names a field twice")
    return fields


def _raise_invalid(error: msgspec.ValidationError) -> NoReturn:
    """Turn msgspec's complaint into ours. Only names of our own fields are repeated."""
    text = str(error)
    if (missing := _MISSING.search(text)) is not None:
        field = missing.group(1)
        raise InvalidMessage(field, f"{field} is missing") from None
    if (path := _PATH.search(text)) is not None:
        field = path.group(1)
        raise InvalidMessage(field, f"{field} has the wrong type or value") from None
    raise InvalidMessage("unknown", "the frame has a field that this protocol does not know")


def delivered(envelope: Envelope, receipt: Receipt) -> bytes:
    """The CHAT_MESSAGE that the recipient gets, as bytes of JSON."""
    frame: dict[str, Any] = {
        "type": "CHAT_MESSAGE",
        "id": receipt.event_id,
        "sender": envelope.sender,
        "recipient": envelope.recipient,
        "device": envelope.device,
        "ciphertext": envelope.ciphertext,
        "nonce": envelope.nonce,
        "seq": envelope.seq,
        "ts": envelope.ts,
        "hash": envelope.hash,
        "timestamp": receipt.timestamp,
        "position": receipt.position,
    }
    if envelope.signature:
        frame["signature"] = envelope.signature
    if envelope.cids:
        frame["cids"] = envelope.cids
    return orjson.dumps(frame)


def ack(envelope: Envelope, receipt: Receipt, *, duplicate: bool, gap: int) -> Ack:
    return Ack(
        seq=envelope.seq,
        hash=envelope.hash,
        recipient=envelope.recipient,
        device=envelope.device,
        id=receipt.event_id,
        position=receipt.position,
        event_hash=receipt.event_hash,
        timestamp=receipt.timestamp,
        duplicate=duplicate,
        gap=gap,
    )


def error_frame(error: Refusal | LedgerUnavailable, about: ChatMessage | None = None) -> Error:
    """The ERROR for ``error``; with seq, recipient and device when it is about one message."""
    context: dict[str, Any] = {}
    if about is not None:
        context = {"seq": about.seq, "recipient": about.recipient}
        if about.device is not UNSET:
            context["device"] = about.device
    return Error(code=error.code, detail=error.detail, **context, **error.extra)


def ready(wallet: str, head: Head, limits: Limits) -> Ready:
    return Ready(wallet=wallet, position=head.position, limits=limits)


def receipt_notice(kind: str, position: int, wallet: str) -> bytes:
    """The RECEIPT that the message's sender gets, as bytes of JSON."""
    read = kind == "read"
    return encode_frame(ReceiptNotice("read" if read else "delivered", position, wallet))


def encode_frame(frame: msgspec.Struct) -> bytes:
    """A server frame as bytes of JSON."""
    return _ENCODER.encode(frame)

"""The seven dialects of the host's ledger, each from its recipe: a second opinion on the product's.

Nothing of ``plugins`` may be imported here, or writer and reader could be wrong alike. What
pydantic 2 did in the host, pydantic does here; what pydantic 1 did, Python's ``json`` does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

ZEROS = "0" * 64
START = datetime(2025, 12, 15, 14, 30, 7, 381071, tzinfo=UTC)
V2_DIALECTS = ("v2", "v3", "v4", "v5", "v6", "v7")
DIALECTS = ("v1", *V2_DIALECTS)


@dataclass(frozen=True)
class Event:
    """One event as a caller of the host's ledger gives it. No ``value``: the dialect's default."""

    event_type: str
    wallet: str
    metadata: dict[str, Any]
    signature: str = ""
    value: int | float | None = None


class _FloatEntry(BaseModel):
    wallet: str
    event_type: str
    value: float = 0.0
    metadata: dict[str, Any]
    timestamp: str
    hash: str = ""
    previous_hash: str = ""


class _DefaultIntEntry(_FloatEntry):
    value: float = 0  # never validated, so it stays an int until it is written


class _StringEntry(BaseModel):
    wallet: str
    event_type: str
    value: str = "0"
    metadata: dict[str, Any]
    timestamp: str
    hash: str = ""
    previous_hash: str = ""


@dataclass
class Ledger:
    """Lines written so far; ``add`` appends in any dialect, so a file may hold several."""

    lines: list[bytes] = field(default_factory=list)
    head: str = ZEROS

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)

    def add(self, dialect: str, event: Event, *, pydantic: int = 2) -> Ledger:
        moment = START + timedelta(seconds=7 * len(self.lines), microseconds=130 * len(self.lines))
        if dialect == "v1":
            line, self.head = v1_line(
                event, self.head, moment.isoformat(), str(uuid.UUID(int=len(self.lines) + 1))
            )
        else:
            line, self.head = v2_line(
                dialect, event, self.head, v2_timestamp(dialect, moment), pydantic=pydantic
            )
        self.lines.append(line)
        return self

    def add_all(self, dialect: str, events: Iterable[Event], *, pydantic: int = 2) -> Ledger:
        for event in events:
            self.add(dialect, event, pydantic=pydantic)
        return self


def v1_line(event: Event, prev_hash: str, timestamp: str, event_id: str) -> tuple[bytes, str]:
    """One line of v1 with its newline, and the record's hash."""
    record: dict[str, Any] = {
        "id": event_id,
        "wallet": event.wallet,
        "epoch": 1,
        "event_type": event.event_type,
        "value": 0 if event.value is None else event.value,
        "metadata": event.metadata,
        "prev_hash": prev_hash,
        "timestamp": timestamp,
        "signature": event.signature,
    }
    hashed = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha3_512(hashed.encode()).hexdigest()
    order = "id wallet epoch event_type value metadata hash prev_hash timestamp signature"
    on_disk = {key: digest if key == "hash" else record[key] for key in order.split()}
    return json.dumps(on_disk).encode() + b"\n", digest


def v2_timestamp(dialect: str, moment: datetime) -> str:
    if dialect in ("v6", "v7"):
        return "1970-01-01T00:00:00Z"
    if dialect != "v2":
        moment = moment.replace(microsecond=0)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def v2_line(
    dialect: str, event: Event, prev_hash: str, timestamp: str, *, pydantic: int = 2
) -> tuple[bytes, str]:
    """One line of v2 to v7 with its newline, and the record's hash."""
    metadata = event.metadata
    if event.signature:
        metadata = {**metadata, "signature": event.signature}
    entry_type: type[_FloatEntry | _StringEntry]
    given: dict[str, Any] = {}
    if dialect == "v7":
        entry_type = _StringEntry
        if event.value is not None:
            given["value"] = str(event.value)
    else:
        entry_type = _DefaultIntEntry if dialect in ("v5", "v6") else _FloatEntry
        if event.value is not None:
            given["value"] = event.value
    entry = entry_type(
        wallet=event.wallet,
        event_type=event.event_type,
        metadata=metadata,
        timestamp=timestamp,
        previous_hash=prev_hash,
        **given,
    )
    digest = v2_hash(entry.model_dump())
    entry.hash = digest
    if pydantic == 2:
        return entry.model_dump_json().encode() + b"\n", digest
    return json.dumps(entry.model_dump()).encode() + b"\n", digest


def v2_hash(entry: dict[str, Any]) -> str:
    text = (
        f"{entry['previous_hash']}|{entry['timestamp']}|{entry['wallet']}|{entry['event_type']}|"
        f"{entry['value']}|{json.dumps(entry['metadata'], sort_keys=True)}"
    )
    return hashlib.sha256(text.encode()).hexdigest()


def login(number: int = 1) -> Event:
    return Event("LOGIN", wallet(number), {"source": "api_auth"}, signature=f"{number:0130x}")


def payout(value: int | float = 10) -> Event:
    return Event("REWARD_PAYOUT", wallet(1), {"reason": "referral_bonus"}, value=value)


def prototype_message(number: int = 1) -> Event:
    """A MESSAGE as the host's MVP logged it."""
    metadata = {"recipient": wallet(number + 1), "msg_id": str(uuid.UUID(int=number))}
    return Event("MESSAGE", wallet(number), metadata, signature="client_sig_placeholder")


def trust_loop_message(number: int = 1) -> Event:
    """A MESSAGE as the host's trust loop logged it."""
    metadata = {
        "recipient_wallet": wallet(number + 1),
        "msg_hash": hashlib.sha256(b"%d" % number).hexdigest(),
        "size_bytes": 1000 + number,
    }
    return Event("MESSAGE", wallet(number), metadata)


def secure_message(
    seq: int, *, sender: int = 1, recipient: int = 2, device: str = "0", signed: bool = True
) -> Event:
    """A MESSAGE of SecureMessageV2, as the ledger contract has it."""
    ciphertext, nonce = hashlib.sha512(b"%d" % seq).digest(), seq.to_bytes(12, "big")
    digest = hashlib.sha256(ciphertext + nonce + seq.to_bytes(8, "big")).digest()
    metadata: dict[str, Any] = {
        "hash": base64.b64encode(digest).decode(),
        "sender": wallet(sender),
        "recipient": wallet(recipient),
        "nonce": base64.b64encode(nonce).decode(),
        "device": device,
        "seq": seq,
        "ts": 1765809007.25 + seq,
        "size": len(ciphertext),
    }
    signature = base64.b64encode(hashlib.sha512(digest).digest()).decode() if signed else ""
    return Event("MESSAGE", wallet(sender), metadata, signature=signature)


def registration(number: int, device: str = "0") -> list[Event]:
    """An identity of the wallet, and the certificate of one device: hashes, as they are logged."""
    identity = hashlib.sha256(b"identity %d" % number).hexdigest()
    certificate = hashlib.sha256(b"device %d %s" % (number, device.encode())).hexdigest()
    return [
        Event("IDENTITY", wallet(number), {"kind": "identity", "id": identity}),
        Event("IDENTITY", wallet(number), {"kind": "device", "id": certificate, "device": device}),
    ]


def wallet(number: int) -> str:
    return f"0x{number:040x}"


def conversation(dialect: str) -> list[Event]:
    """Six events: history of the dialect's time, then messages of ours and a payout."""
    history = prototype_message() if dialect == "v1" else trust_loop_message()
    return [
        login(),
        history,
        secure_message(1),
        secure_message(2, signed=False),
        secure_message(1, sender=2, recipient=1),
        payout(),
    ]

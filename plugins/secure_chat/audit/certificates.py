"""The devices' signatures, checked offline: statements against the ledger's IDENTITY events.

The ledger holds hashes of statements; the statements themselves come from the server's directory
(``GET /v1/chat/ledger/statements``) or from anybody who has them, and are not trusted: each must
have the hash that was logged, and every signature in it is verified again. What remains is for
every device from which position to which it was registered, under which key.

The file: one JSON object a line, ``{"kind": "identity" | "device" | "revocation", "statement":
base64}``, in any order.
"""

from __future__ import annotations

import binascii
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from plugins.secure_chat.audit.history import events_of
from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.core.chain import Defect, Finding
from plugins.secure_chat.core.identity_event import (
    IDENTITY,
    IdentityEvent,
    StatementKind,
    from_record,
)
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.core.records import Record
from plugins.secure_chat.crypto.devices import NO_ENDORSER, Certificate, Revocation
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.frame import signing_input
from plugins.secure_chat.crypto.identity import Identity, Succession, succession
from plugins.secure_chat.errors import LedgerUnusable

_MAX_LINE: Final = 1 << 16  # a certificate is under 20 KB in base64
_Statement = Identity | Certificate | Revocation
Statements = dict[str, _Statement]
"""Published statements by their ids (hex). Nothing of them is trusted."""
_Kind = TypeVar("_Kind", Identity, Certificate, Revocation)


def encode_statement(kind: str, body: bytes) -> bytes:
    """A statement as a line of the file, newline included."""
    text = binascii.b2a_base64(body, newline=False).decode("ascii")
    return json.dumps({"kind": kind, "statement": text}).encode("ascii") + b"\n"


def read_statements(path: Path) -> Statements:
    """The statements in a file by their ids (hex). Nothing is verified. Raises LedgerUnusable."""
    found: Statements = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
                try:
                    fields = parse_json(line)
                    body = binascii.a2b_base64(fields["statement"], strict_mode=True)
                    statement = _read(StatementKind(fields["kind"]), body)
                except (ValueError, KeyError, TypeError, CryptoError):
                    raise LedgerUnusable(f"line {number} of the statements is none") from None
                found[statement.id.hex()] = statement
    except OSError as error:
        raise LedgerUnusable(f"the statements cannot be read: {error.strerror}") from None
    return found


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """Every device's key at every position: a SignatureCheck that workers can be sent."""

    periods: dict[tuple[str, str], tuple[list[int], list[bytes | None]]]
    """(wallet, device) to positions, rising, and the key in force from each on; None: no key."""

    def __call__(self, record: Record, event: MessageEvent) -> bool | None:
        """None when no key of the device is known to have been in force."""
        positions, keys = self.periods.get((event.sender, event.device), ([], []))
        place = bisect_right(positions, record.position) - 1
        key = keys[place] if place >= 0 else None
        if key is None:
            return None
        signed = signing_input(
            event.sender,
            event.device,
            event.recipient,
            binascii.a2b_base64(event.nonce),
            event.seq,
            event.ts,
            binascii.a2b_base64(event.hash),
            event.cids,
        )
        try:
            crypto_sign_open(binascii.a2b_base64(record.signature) + signed, key)
        except BadSignatureError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Identities:
    """What a ledger's IDENTITY events and the statements behind them come to."""

    keys: DeviceKeys
    finding: Finding | None  # the first event whose statement does not verify
    wallets: int
    devices: int  # certificates that were logged
    missing: int  # events whose statement is not in the file: their devices cannot be judged
    changes: tuple[tuple[int, str, Succession], ...]  # identities after a first: position, wallet

    def as_json(self) -> dict[str, Any]:
        return {
            "wallets": self.wallets,
            "devices": self.devices,
            "missing_statements": self.missing,
            "changes": [
                {"position": position, "wallet": wallet, "how": how.value}
                for position, wallet, how in self.changes
            ],
        }


@dataclass(slots=True)
class _Wallet:
    identity: Identity | None = None
    statement: str = ""  # the id of the identity that was logged last
    certificates: dict[bytes, Certificate] = field(default_factory=dict)  # of this identity
    devices: set[str] = field(default_factory=set)  # in force


class _Unsound(ValueError):
    """A statement that should not have been logged."""


def identities_of(file: LedgerFile, size: int, statements: Statements) -> Identities:
    """Verify what the first ``size`` bytes of the ledger say of identities and devices.

    (1) A statement has the id that was logged, and is the event's wallet's and device's. (2) An
    identity vouches for itself. (3) A certificate is signed by wallet, identity and device, and
    endorsed by one before it unless it is the identity's first. (4) A revocation is signed. The
    caller must still verify the lines (``audit_ledger``) and compare what identities say of keys
    with what people see: a server can log an identity of its own making for a wallet that never
    had one, but not sign it with the wallet.
    """
    fold = _Fold(statements)
    for record in events_of(file, size, frozenset((IDENTITY,))):
        try:
            fold.take(record, from_record(record))
        except (_Unsound, CryptoError) as error:
            reason = str(error) or "its statement does not verify"
            return fold.outcome(Finding(record.position, Defect.STATEMENT, reason))
    return fold.outcome(None)


class _Fold:
    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._wallets: dict[str, _Wallet] = {}
        self._periods: dict[tuple[str, str], tuple[list[int], list[bytes | None]]] = {}
        self._devices = self._missing = 0
        self._changes: list[tuple[int, str, Succession]] = []

    def outcome(self, finding: Finding | None) -> Identities:
        return Identities(
            DeviceKeys(self._periods),
            finding,
            len(self._wallets),
            self._devices,
            self._missing,
            tuple(self._changes),
        )

    def take(self, record: Record, event: IdentityEvent) -> None:
        """Raises _Unsound or CryptoError."""
        if event.kind is StatementKind.PREKEYS:
            return
        statement = self._statements.get(event.id)
        if statement is None:
            self._missing += 1
        elif _wallet_of(statement) != record.wallet:
            raise _Unsound("its statement is another wallet's")
        wallet = self._wallets.setdefault(record.wallet, _Wallet())
        if event.kind is StatementKind.IDENTITY:
            if wallet.statement != event.id:  # logged once more, it changes nothing
                self._identity(record, event, wallet, _as(Identity, statement))
        elif event.kind is StatementKind.DEVICE:
            self._devices += 1
            self._device(record, event, wallet, _as(Certificate, statement))
        else:
            self._revocation(record, event, wallet, _as(Revocation, statement))

    def _identity(
        self, record: Record, event: IdentityEvent, wallet: _Wallet, identity: Identity | None
    ) -> None:
        if identity is not None:
            identity.verify()
        if wallet.statement:
            how = Succession.RESET
            if wallet.identity is not None and identity is not None:
                how = succession(wallet.identity, identity)
            self._changes.append((record.position, record.wallet, how))
        for device in sorted(wallet.devices):
            self._from(record, device, None)
        self._wallets[record.wallet] = _Wallet(identity, event.id)

    def _device(
        self, record: Record, event: IdentityEvent, wallet: _Wallet, found: Certificate | None
    ) -> None:
        wallet.devices.add(event.device)
        if found is None or wallet.identity is None:
            # The certificate, or the identity that it must be held to, is not here.
            self._from(record, event.device, None)
            return
        if found.device != event.device:
            raise _Unsound("its certificate is another device's")
        endorser = wallet.certificates.get(found.body.endorser)
        if found.body.endorser != NO_ENDORSER and endorser is None and self._missing:
            self._from(record, event.device, None)
            return
        found.verify(wallet.identity, endorser)
        wallet.certificates[found.id] = found
        self._from(record, event.device, found.body.signing)

    def _revocation(
        self, record: Record, event: IdentityEvent, wallet: _Wallet, found: Revocation | None
    ) -> None:
        if found is not None:
            if found.body.device != event.device:
                raise _Unsound("its revocation is another device's")
            if wallet.identity is not None:
                found.verify(wallet.identity)
        wallet.devices.discard(event.device)
        self._from(record, event.device, None)

    def _from(self, record: Record, device: str, key: bytes | None) -> None:
        positions, keys = self._periods.setdefault((record.wallet, device), ([], []))
        positions.append(record.position)
        keys.append(key)


def _read(kind: StatementKind, body: bytes) -> _Statement:
    if kind is StatementKind.IDENTITY:
        return Identity.decode(body)
    if kind is StatementKind.DEVICE:
        return Certificate.decode(body)
    if kind is StatementKind.REVOCATION:
        return Revocation.decode(body)
    raise ValueError("prekeys are no statement that an audit needs")


def _wallet_of(statement: _Statement) -> str:
    return statement.body.wallet


def _as(kind: type[_Kind], statement: object) -> _Kind | None:
    if statement is not None and not isinstance(statement, kind):
        raise _Unsound("its statement is of another kind")
    return statement

"""Every error of the plugin, the wire codes and the close codes.

    SecureChatError
    ├── Refusal                     the peer's fault: answered on the wire with a code
    │   ├── MalformedFrame          malformed_frame
    │   ├── InvalidMessage          invalid_message      (field)
    │   ├── HashMismatch            hash_mismatch
    │   ├── ReplayedSequence        replayed_sequence    (last_seq)
    │   ├── SequenceConflict        sequence_conflict    (last_seq)
    │   ├── MessageTooLarge         message_too_large
    │   ├── BadSignature            bad_signature
    │   ├── UnknownDevice           unknown_device
    │   ├── NotAMember              not_a_member
    │   ├── RateLimited             rate_limited         (retry_after)
    │   └── Unauthorized            unauthorized
    ├── LedgerUnavailable           ledger_unavailable   (retry_after): ours; nothing was taken
    │   ├── OutcomeUnknown          the commit may have happened; the writer stops, recovery decides
    │   ├── NotStored               it was logged, and the mailbox lacks it yet (receipt)
    │   └── DatabaseTaken           the database is gone, or another server's; the ledger stops
    ├── LedgerError                 the ledger file cannot be used as it is
    │   ├── LedgerBroken            a record does not verify (line, reason)
    │   ├── LedgerLocked            another process writes it
    │   ├── LedgerChanged           acknowledged records are missing or others (acknowledged, found)
    │   ├── LedgerUnusable          not a ledger, not readable, or not writable
    │   └── HistoryRewritten        the ledger is not what a checkpoint was signed for (size)
    ├── DatabaseUnusable            not the chat's database, of an unknown schema, or out of reach
    ├── Damaged                     what is derived from the ledger is wrong on disk: built anew


    ├── ExportUnusable              an export of the host's earlier chat cannot be read
    ├── MigrationRefused            a step of the migration that may not be made yet
    ├── ConfigurationError          a setting is missing, unsafe or contradictory
    └── ClientError                 raised to users of the Python client: client/errors.py; Alarm

Texts say what is wrong and what to do. They never carry user data, tokens or message contents.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from plugins.secure_chat.core.records import Receipt


class Code(StrEnum):
    """Error codes of the wire (SPEC.md, "Errors"). The same on the socket and in REST."""

    MALFORMED_FRAME = "malformed_frame"
    INVALID_MESSAGE = "invalid_message"
    HASH_MISMATCH = "hash_mismatch"
    REPLAYED_SEQUENCE = "replayed_sequence"
    SEQUENCE_CONFLICT = "sequence_conflict"
    MESSAGE_TOO_LARGE = "message_too_large"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_DEVICE = "unknown_device"
    NOT_A_MEMBER = "not_a_member"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    INTERNAL = "internal"


class CodeMeaning(NamedTuple):
    """What a code means: its HTTP status, a title for RFC 9457, and what the peer should do."""

    status: int
    title: str
    advice: str


CODES: Final[dict[Code, CodeMeaning]] = {
    Code.MALFORMED_FRAME: CodeMeaning(400, "Not a frame", "Send one JSON object a text frame."),
    Code.INVALID_MESSAGE: CodeMeaning(422, "Invalid message", "Mend the named field and resend."),
    Code.HASH_MISMATCH: CodeMeaning(
        422, "Hash does not match", "Recompute the hash over ciphertext, nonce and seq."
    ),
    Code.REPLAYED_SEQUENCE: CodeMeaning(
        409, "Sequence number already passed", "Continue above last_seq."
    ),
    Code.SEQUENCE_CONFLICT: CodeMeaning(
        409, "Sequence number taken by another message", "Continue above last_seq."
    ),
    Code.MESSAGE_TOO_LARGE: CodeMeaning(413, "Message too large", "Send less than the limit."),
    Code.BAD_SIGNATURE: CodeMeaning(422, "Signature does not verify", "Sign with the device key."),
    Code.UNKNOWN_DEVICE: CodeMeaning(403, "Device is not registered", "Publish the device first."),
    Code.NOT_A_MEMBER: CodeMeaning(403, "Not a member", "Only members may do this."),
    Code.RATE_LIMITED: CodeMeaning(429, "Too many requests", "Wait retry_after seconds."),
    Code.UNAUTHORIZED: CodeMeaning(401, "Not authenticated", "Log in and present a fresh token."),
    Code.LEDGER_UNAVAILABLE: CodeMeaning(
        503, "The ledger takes no messages", "Resend after retry_after seconds; nothing is lost."
    ),
    Code.INTERNAL: CodeMeaning(500, "Internal error", "Resend; report it if it stays."),
}


class Close(IntEnum):
    """WebSocket close codes that the server uses (RFC 6455 section 7.4; 4000-4999 are ours)."""

    GOING_AWAY = 1001
    REFUSED = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TOKEN_EXPIRED = 4401
    TOO_SLOW = 4408
    FLOODING = 4429


class SecureChatError(Exception):
    """Base of every error this plugin raises on purpose."""


class Refusal(SecureChatError):
    """The peer's fault. ``code`` goes on the wire with ``detail`` and ``extra``."""

    code: Code = Code.INTERNAL

    def __init__(self, detail: str, **extra: str | int | float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra: dict[str, Any] = extra


class MalformedFrame(Refusal):
    code = Code.MALFORMED_FRAME


class InvalidMessage(Refusal):
    code = Code.INVALID_MESSAGE

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail, field=field)
        self.field = field


class HashMismatch(Refusal):
    code = Code.HASH_MISMATCH


class ReplayedSequence(Refusal):
    code = Code.REPLAYED_SEQUENCE

    def __init__(self, last_seq: int) -> None:
        super().__init__("seq is not above the last committed one", last_seq=last_seq)


class SequenceConflict(Refusal):
    code = Code.SEQUENCE_CONFLICT

    def __init__(self, last_seq: int) -> None:
        super().__init__("another message holds this seq", last_seq=last_seq)


class MessageTooLarge(Refusal):
    code = Code.MESSAGE_TOO_LARGE


class BadSignature(Refusal):
    code = Code.BAD_SIGNATURE


class UnknownDevice(Refusal):
    code = Code.UNKNOWN_DEVICE


class NotAMember(Refusal):
    code = Code.NOT_A_MEMBER


class RateLimited(Refusal):
    code = Code.RATE_LIMITED

    def __init__(self, retry_after: float) -> None:
        """``retry_after``: seconds until one more request would be taken."""
        super().__init__("over the limit of this wallet", retry_after=retry_after)
        self.retry_after = retry_after


class Unauthorized(Refusal):
    code = Code.UNAUTHORIZED


class LedgerUnavailable(SecureChatError):
    """Nothing was committed; the same request may be sent again later."""

    code: Code = Code.LEDGER_UNAVAILABLE

    def __init__(self, detail: str, retry_after: float = 5.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra: dict[str, Any] = {"retry_after": retry_after}


class OutcomeUnknown(LedgerUnavailable):
    """A write or sync failed half way. The writer has stopped; recovery at start-up decides."""


class NotStored(LedgerUnavailable):
    """It is in the ledger, for good, and the mailbox gets it when it can be written again."""

    def __init__(self, detail: str, receipt: Receipt) -> None:
        super().__init__(detail)
        self.receipt = receipt


class DatabaseTaken(LedgerUnavailable):
    """Another server has written to this one's database, or its files are no longer there."""


class LedgerError(SecureChatError):
    """The ledger file cannot be used as it is."""


class LedgerBroken(LedgerError):
    """The record on ``line`` (counted from 1) does not verify, for ``reason``."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} (index {line - 1}): {reason}")
        self.line = line
        self.reason = reason


class LedgerLocked(LedgerError):
    """Another process holds the ledger's writer lock."""


class LedgerChanged(LedgerError):
    """The ledger of ``found`` records lacks, or has others for, some that were acknowledged."""

    def __init__(self, acknowledged: int, found: int) -> None:
        super().__init__(
            f"the ledger has {found} records and is not the one in which {acknowledged} were "
            "acknowledged: put the right file back; or, to go on without what is missing, start "
            f"once with SECURE_CHAT_ACCEPT_LEDGER_AT={found}"
        )
        self.acknowledged = acknowledged
        self.found = found


class LedgerUnusable(LedgerError):
    """Not a ledger, not readable, or not writable."""


class HistoryRewritten(LedgerError):
    """The ledger does not bear out the checkpoint of ``size`` records that was signed for it."""

    def __init__(self, size: int, reason: str) -> None:
        super().__init__(f"signed checkpoint of {size} records: {reason}")
        self.size = size


class DatabaseUnusable(SecureChatError):
    """The mailbox's database is not the chat's, is of a schema unknown here, or is out of reach."""


class Damaged(SecureChatError):
    """Something derived from the ledger is missing or wrong on disk. It is built anew from it."""


class ExportUnusable(SecureChatError):
    """A file that is no export: not readable, or no JSON. A bad record in a good one is refused."""


class MigrationRefused(SecureChatError):
    """A step of the migration that may not be made yet. The text says what comes first."""


class ConfigurationError(SecureChatError):
    """A setting is missing, unsafe or contradictory. The text is one line and says what to do."""


class ClientError(SecureChatError):
    """Raised to users of the Python client."""

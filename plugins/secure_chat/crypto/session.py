"""Sessions: the ratchets that this device shares with one other device, and which of them counts.

Both sides may open a session at the same time, and either may open a new one to reset. All are
kept for receiving, up to a cap; both sides send on the one opened last, and on a tie on the one
with the smaller id, so they converge as soon as both know both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import Reader, u8, u16, u64
from plugins.secure_chat.crypto.pqxdh import HANDSHAKE, MAX_OPENED, SESSION_ID, Agreement, Handshake
from plugins.secure_chat.crypto.primitives import Randomness, labelled
from plugins.secure_chat.crypto.ratchet import Header, Ratchet

# Two from a concurrent opening, and two for a reset while old messages are still under way.
MAX_SESSIONS: Final = 4


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A content key sealed for one device. ``handshake`` is there until the peer has answered."""

    session: bytes
    handshake: Handshake | None
    header: Header
    sealed: bytes


def wrap_data(transcript: bytes, message_digest: bytes, commitment: bytes) -> bytes:
    """What a wrapped key authenticates: session, message and the key's own commitment."""
    return labelled(labels.KEY_WRAP, transcript) + message_digest + commitment


@dataclass(frozen=True, slots=True)
class Session:
    """One ratchet with one device. A value: wrapping and unwrapping return the next one."""

    transcript: bytes
    opened: int
    ratchet: Ratchet = field(repr=False)
    unanswered: Handshake | None = None

    @property
    def id(self) -> bytes:
        return self.transcript[:SESSION_ID]

    @property
    def rank(self) -> tuple[int, bytes]:
        """The smallest rank is sent on."""
        return -self.opened, self.id

    @classmethod
    def initiated(cls, agreement: Agreement, handshake: Handshake, signed: bytes) -> Session:
        """The initiator's side; ``signed`` is the responder's public signed prekey."""
        ratchet = Ratchet.initiator(agreement.root, signed)
        return cls(agreement.transcript, handshake.opened, ratchet, handshake)

    @classmethod
    def responded(cls, agreement: Agreement, handshake: Handshake, signed: bytes) -> Session:
        """The responder's side; ``signed`` is its own signed prekey's secret."""
        ratchet = Ratchet.responder(agreement.root, signed)
        return cls(agreement.transcript, handshake.opened, ratchet)

    def wrap(
        self, key: bytes, message_digest: bytes, commitment: bytes, randomness: Randomness
    ) -> tuple[Wrapped, Session]:
        """Seal a content key. Save the next session before the wrap leaves."""
        data = wrap_data(self.transcript, message_digest, commitment)
        header, sealed, ratchet = self.ratchet.encrypt(key, data, randomness)
        return Wrapped(self.id, self.unanswered, header, sealed), replace(self, ratchet=ratchet)

    def unwrap(
        self, wrapped: Wrapped, message_digest: bytes, commitment: bytes
    ) -> tuple[bytes, Session]:
        """The content key and the next session. Raises DecryptError or Replayed."""
        data = wrap_data(self.transcript, message_digest, commitment)
        key, ratchet = self.ratchet.decrypt(wrapped.header, wrapped.sealed, data)
        return key, replace(self, ratchet=ratchet, unanswered=None)

    def encode(self) -> bytes:
        """For the store: secret."""
        unanswered = self.unanswered
        return b"".join(
            (
                self.transcript,
                u64(self.opened),
                u8(unanswered is not None),
                unanswered.encode() if unanswered is not None else b"",
                self.ratchet.encode(),
            )
        )

    @classmethod
    def read(cls, reader: Reader) -> Session:
        transcript, opened = reader.take(primitives.KEY), reader.u64()
        unanswered = Handshake.decode(reader.take(HANDSHAKE)) if reader.flag() else None
        return cls(transcript, opened, Ratchet.read(reader), unanswered)


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions with one device (one certificate), the one to send on first."""

    ranked: tuple[Session, ...] = ()

    def find(self, session: bytes) -> Session | None:
        return next((one for one in self.ranked if one.id == session), None)

    def with_(self, session: Session) -> Sessions:
        """With ``session`` in its new state, or added; beyond the cap the lowest rank goes."""
        others = [one for one in self.ranked if one.id != session.id]
        ranked = sorted([*others, session], key=lambda one: one.rank)
        return Sessions(tuple(ranked[:MAX_SESSIONS]))

    def next_opened(self, now: int) -> int:
        """When a session opened now must say it was: later than all that are known, up to the
        largest number that a handshake holds."""
        later = max(now, self.ranked[0].opened + 1) if self.ranked else now
        return min(later, MAX_OPENED)

    def encode(self) -> bytes:
        return u16(len(self.ranked)) + b"".join(one.encode() for one in self.ranked)

    @classmethod
    def decode(cls, data: bytes) -> Sessions:
        reader = Reader(data)
        sessions = cls(tuple(Session.read(reader) for _ in range(reader.u16())))
        reader.end()
        return sessions

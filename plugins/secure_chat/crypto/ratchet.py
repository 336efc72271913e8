"""The Double Ratchet over X25519, HKDF-SHA-256, HMAC-SHA-256 and AES-256-GCM.

A state is a value: encrypting and decrypting return the next one and leave theirs as it was, so a
message that fails to authenticate changes nothing. Who the two sides are, and where states are
kept, is not known here.

Two choices within the algorithm. The new key pair of a Diffie-Hellman step is made when sending,
not when receiving: decryption needs no randomness, and a state stolen while waiting to answer does
not hold the key of the answer. And the AEAD key is derived from the message key *and* all that the
message authenticates, so that even a state used twice never meets a key and nonce twice.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import Final

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import Reader, u8, u16, u32
from plugins.secure_chat.crypto.errors import DecryptError, Refused, Replayed, TooManySkipped
from plugins.secure_chat.crypto.primitives import Randomness

HEADER: Final = 40
# One message may pass over this many of its chain: what a device misses that is away longer than
# the server retains. Costs 2 HMACs each (about 5 ms in all); a larger gap needs a new session.
MAX_SKIP: Final = 2000
# Keys kept for late messages, oldest dropped first: 35 kB of state a session at most.
MAX_SKIPPED_KEPT: Final = 512
MAX_COUNTER: Final = (1 << 32) - 1

Skipped = tuple[tuple[bytes, int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Travels in the clear before each ciphertext, and is authenticated."""

    ratchet: bytes
    previous: int  # messages in the sending chain before this one
    number: int  # of this message in its chain, from 0

    def encode(self) -> bytes:
        return self.ratchet + u32(self.previous) + u32(self.number)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        reader = Reader(data)
        header = cls(reader.take(primitives.KEY), reader.u32(), reader.u32())
        reader.end()
        return header


@dataclass(frozen=True, slots=True)
class Ratchet:
    """One side's state. A chain key is None while there is no such chain."""

    root: bytes = field(repr=False)
    private: bytes = field(repr=False)
    remote: bytes | None
    sending: bytes | None = field(repr=False)
    receiving: bytes | None = field(repr=False)
    sent: int = 0  # in the current sending chain
    received: int = 0  # in the current receiving chain
    previous: int = 0  # length of the sending chain before
    skipped: Skipped = field(default=(), repr=False)
    public: bytes = b""  # of ``private``, once it has sent

    @classmethod
    def initiator(cls, root: bytes, remote: bytes) -> Ratchet:
        """The side that sends first; ``remote`` is the responder's signed prekey."""
        return cls(root, b"", remote, None, None)

    @classmethod
    def responder(cls, root: bytes, private: bytes) -> Ratchet:
        """The side that receives first; ``private`` is its signed prekey's."""
        return cls(root, private, None, None, None)

    def encrypt(
        self, plaintext: bytes, associated_data: bytes, randomness: Randomness
    ) -> tuple[Header, bytes, Ratchet]:
        """The header, the sealed bytes and the next state. Save that before the bytes leave."""
        state = self if self.sending is not None else self._start_sending(randomness)
        if state.sending is None or state.sent == MAX_COUNTER:
            raise Refused("the chain is used up; establish again")
        header = Header(state.public, state.previous, state.sent)
        message_key, chain = advance(state.sending)
        sealed = seal(message_key, plaintext, associated_data + header.encode())
        return header, sealed, replace(state, sending=chain, sent=state.sent + 1)

    def decrypt(
        self, header: Header, sealed: bytes, associated_data: bytes
    ) -> tuple[bytes, Ratchet]:
        """The plaintext and the next state; raises DecryptError, TooManySkipped or Replayed."""
        authenticated = associated_data + header.encode()
        for index, (ratchet, number, message_key) in enumerate(self.skipped):
            if number == header.number and ratchet == header.ratchet:
                plaintext = unseal(message_key, sealed, authenticated)
                kept = self.skipped[:index] + self.skipped[index + 1 :]
                return plaintext, replace(self, skipped=kept)
        state, skipped = self, list(self.skipped)
        if header.ratchet != self.remote:
            state = state._skip(header.previous, skipped)._start_receiving(header.ratchet)
        elif header.number < self.received:
            raise Replayed("the message key has been used, or was dropped")
        state = state._skip(header.number, skipped)
        if state.receiving is None:
            raise DecryptError("there is no chain to receive on")
        message_key, chain = advance(state.receiving)
        plaintext = unseal(message_key, sealed, authenticated)
        return plaintext, replace(
            state,
            receiving=chain,
            received=header.number + 1,
            skipped=tuple(skipped[-MAX_SKIPPED_KEPT:]),
        )

    def _start_sending(self, randomness: Randomness) -> Ratchet:
        if self.remote is None:
            raise Refused("the responder cannot send before it has received")
        private = randomness(32)
        root, chain = step(self.root, primitives.x25519(private, self.remote))
        return replace(
            self,
            root=root,
            private=private,
            public=primitives.x25519_public(private),
            sending=chain,
            sent=0,
            previous=self.sent,
        )

    def _start_receiving(self, remote: bytes) -> Ratchet:
        if not self.private:
            raise DecryptError("nothing was sent that could be answered")
        root, chain = step(self.root, primitives.x25519(self.private, remote))
        return replace(self, root=root, remote=remote, receiving=chain, received=0, sending=None)

    def _skip(self, until: int, skipped: list[tuple[bytes, int, bytes]]) -> Ratchet:
        """Walk the receiving chain up to ``until``, keeping the keys passed over."""
        if self.receiving is None or self.remote is None or until <= self.received:
            return self
        if until - self.received > MAX_SKIP:
            raise TooManySkipped(f"more than {MAX_SKIP} messages of the chain are missing")
        chain = self.receiving
        for number in range(self.received, until):
            message_key, chain = advance(chain)
            skipped.append((self.remote, number, message_key))
        return replace(self, receiving=chain, received=until)

    def encode(self) -> bytes:
        """For the store: secret."""
        parts = [self.root]
        for one in (self.private, self.public, self.remote, self.sending, self.receiving):
            parts += [u8(bool(one)), one or b""]
        parts += [u32(self.sent), u32(self.received), u32(self.previous), u16(len(self.skipped))]
        for ratchet, number, key in self.skipped:
            parts += [ratchet, u32(number), key]
        return b"".join(parts)

    @classmethod
    def read(cls, reader: Reader) -> Ratchet:
        root = reader.take(32)
        private, public, remote, sending, receiving = (
            reader.take(32) if reader.flag() else None for _ in range(5)
        )
        sent, received, previous, count = (
            reader.u32(),
            reader.u32(),
            reader.u32(),
            reader.u16(),
        )
        skipped = tuple((reader.take(32), reader.u32(), reader.take(32)) for _ in range(count))
        return cls(
            root,
            private or b"",
            remote,
            sending,
            receiving,
            sent,
            received,
            previous,
            skipped,
            public or b"",
        )


def step(root: bytes, shared: bytes) -> tuple[bytes, bytes]:
    """A Diffie-Hellman step: the next root key and a new chain key."""
    output = primitives.hkdf(root, shared, labels.RATCHET_ROOT, 64)
    return output[:32], output[32:]


def advance(chain: bytes) -> tuple[bytes, bytes]:
    """A symmetric step: this message's key and the next chain key."""
    return hmac.digest(chain, b"\x01", "sha256"), hmac.digest(chain, b"\x02", "sha256")


def _expand(message_key: bytes, associated_data: bytes) -> tuple[bytes, bytes]:
    output = primitives.hkdf(
        primitives.sha256(associated_data), message_key, labels.RATCHET_MESSAGE, 44
    )
    return output[:32], output[32:]


def seal(message_key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """AES-256-GCM under a key and nonce derived from message key and associated data."""
    return primitives.seal(*_expand(message_key, associated_data), plaintext, associated_data)


def unseal(message_key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Undo ``seal``; raises DecryptError."""
    return primitives.unseal(*_expand(message_key, associated_data), sealed, associated_data)

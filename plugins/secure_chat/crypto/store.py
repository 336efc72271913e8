"""The state at rest: one sealed blob of records, and the witness that tells an old one.

``Storage`` and ``Witness`` are passed in; ``file_storage.py`` has them on disk. What the records
mean is ``messenger.py``'s.

A commit: (1) the witness still names the generation this store has; (2) the new blob is written,
atomically and durably; (3) the witness moves on; only then (4) may what depends on it leave. A
crash before (2) loses only what nobody has seen; one between (2) and (3) shows at load as a blob
one generation ahead, which is sound. A blob *behind* its witness is an old backup: it reads, but
it may not send (threat A10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import VERSION, Reader, b8, b32, u8, u32, u64
from plugins.secure_chat.crypto.errors import (
    CryptoError,
    StateRolledBack,
    StateUnreadable,
    StorageError,
)
from plugins.secure_chat.crypto.primitives import Randomness, labelled

MAX_RECORD: Final = 2 << 20  # a frame of 1 MiB in base64 and its other fields
_MAX_RECORDS: Final = 1 << 20


class Storage(Protocol):
    """Holds one blob. ``write`` is atomic and durable: it returns when the blob is on the disk, and
    a crash leaves the old one or the new one. One process at a time may hold it."""

    def read(self) -> bytes | None: ...

    def write(self, blob: bytes) -> None: ...


class Witness(Protocol):
    """A number that only grows, kept where a backup of the state does not reach. Durable."""

    def read(self) -> int: ...

    def advance(self, generation: int) -> None: ...


class SessionStore:
    """Records (bytes -> bytes) under AES-256-GCM with a 32-byte ``key`` of the caller's.

    The key comes from the platform's key store, or from a passphrase by a slow KDF. Raises
    StateUnreadable on a wrong key or altered bytes. ``rolled_back`` says that commits are refused.
    """

    def __init__(
        self, storage: Storage, witness: Witness, key: bytes, randomness: Randomness
    ) -> None:
        if len(key) != primitives.KEY:
            raise StorageError("the state's key has 32 bytes")
        self._storage = storage
        self._witness = witness
        self._key = key
        self._randomness = randomness
        self._records: dict[bytes, bytes] = {}
        # Each record as the blob holds it: a commit encodes only what it changes.
        self._encoded: dict[bytes, bytes] = {}
        self._broken = False
        self.generation = 0
        if (blob := storage.read()) is not None:
            self._load(blob)
        witnessed = witness.read()
        if self.generation == witnessed + 1:
            witness.advance(self.generation)
            witnessed += 1
        self.rolled_back = self.generation != witnessed

    def __repr__(self) -> str:
        return f"<SessionStore at generation {self.generation}>"

    def get(self, name: bytes) -> bytes | None:
        return self._records.get(name)

    def names(self, prefix: bytes) -> tuple[bytes, ...]:
        return tuple(name for name in self._records if name.startswith(prefix))

    def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Apply ``changes`` (None deletes) and make them last before returning.

        Raises StateRolledBack when this is not the newest state, StorageError when writing failed;
        after that nothing more can be committed, for what is on the disk is not known.
        """
        if self._broken:
            raise StorageError("an earlier commit failed; open the state again")
        if self.rolled_back or self._witness.read() != self.generation:
            self.rolled_back = True
            raise StateRolledBack("the state is not the newest one of this device")
        self._write(changes, self.generation + 1)

    def distrust(self) -> None:
        """This state is an old one although its witness agrees: both were restored.

        From now on, and after a restart, nothing is committed until ``begin_again``.
        """
        self._witness.advance(max(self.generation, self._witness.read()) + 2)
        self.rolled_back = True

    def begin_again(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Make a rolled-back state usable: ``changes`` must drop every secret that was in use."""
        self._write(changes, max(self.generation, self._witness.read()) + 1)
        self.rolled_back = False

    def _write(self, changes: Mapping[bytes, bytes | None], generation: int) -> None:
        records, encoded = dict(self._records), dict(self._encoded)
        for name, value in changes.items():
            if value is None:
                records.pop(name, None)
                encoded.pop(name, None)
            elif len(value) > MAX_RECORD:
                raise StorageError("a record is too large to be read again")
            else:
                records[name] = value
                encoded[name] = b8(name) + b32(value)
        parts = (u64(generation), u32(len(records)), *encoded.values())
        nonce = self._randomness(primitives.NONCE)
        header = labelled(labels.STATE, u8(VERSION))
        sealed = primitives.seal(self._key, nonce, b"".join(parts), header)
        try:
            self._storage.write(u8(VERSION) + nonce + sealed)
            # A crash here leaves the blob one generation ahead of its witness: see __init__.
            self._witness.advance(generation)
        except BaseException:
            self._broken = True
            raise
        self._records, self._encoded = records, encoded
        self.generation = generation

    def _load(self, blob: bytes) -> None:
        try:
            outer = Reader(blob)
            outer.version()
            nonce = outer.take(primitives.NONCE)
            header = labelled(labels.STATE, u8(VERSION))
            reader = Reader(primitives.unseal(self._key, nonce, outer.rest(), header))
            self.generation = reader.u64()
            count = reader.u32()
            if count > _MAX_RECORDS:
                raise StateUnreadable("too many records")
            for _ in range(count):
                name = reader.take(reader.u8())
                value = self._records[name] = reader.b32(MAX_RECORD)
                self._encoded[name] = b8(name) + b32(value)
            reader.end()
        except CryptoError:
            raise StateUnreadable("the state does not open: wrong key, torn or altered") from None

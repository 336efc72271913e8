"""Storage and witness on disk: the only module of the library that does I/O.

Each keeps two slots, two files, and overwrites the older one in place: one data sync a commit, and
a write that is cut off leaves the newer slot as it was. When a blob is on the disk, the one before
it is overwritten with zeros, for its keys open what was taken since. The two belong in different
places: whatever restores the state from a backup must not restore the witness.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final

from plugins.secure_chat.crypto.errors import StorageError

_HEADER: Final = 8 + 4 + 32  # counter, size, SHA-256 of these two and the data
_MAX_SIZE: Final = 1 << 30


def sync_folder(path: Path) -> None:
    """Returns when the names in the folder are on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Slots:
    """The newest of a row of blobs. ``write`` returns when the blob is on the disk, and nothing of
    those before it is left in the files."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files = [
            os.open(path.with_name(f"{path.name}.{index}"), os.O_RDWR | os.O_CREAT, 0o600)
            for index in (0, 1)
        ]
        sync_folder(path.parent)
        self._counters = [_read(file)[0] for file in self._files]
        # So many bytes of each file may be of an old blob; what follows them is zeros.
        self._used = [os.fstat(file).st_size for file in self._files]

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def read(self) -> bytes | None:
        """The newest whole blob; None when there is none yet."""
        return max((_read(file) for file in self._files), key=lambda one: one[0])[1]

    def write(self, blob: bytes) -> None:
        """Put ``blob`` in the older slot. A crash leaves the newer one, or this one whole."""
        older = self._counters.index(min(self._counters))
        counter = max(self._counters) + 1
        stamp = counter.to_bytes(8, "big") + len(blob).to_bytes(4, "big")
        self._fill(older, stamp + hashlib.sha256(stamp + blob).digest() + blob)
        os.fdatasync(self._files[older])
        self._counters[older] = counter
        # Only now is the other one not needed. It need not be synced: the next write of it is.
        self._fill(1 - older, b"")

    def _fill(self, slot: int, data: bytes) -> None:
        """Make ``data`` all that the slot's file holds, but for zeros after it."""
        view = memoryview(data.ljust(self._used[slot], b"\0"))
        self._used[slot], at = max(self._used[slot], len(data)), 0
        while view:
            written = os.pwrite(self._files[slot], view, at)
            view, at = view[written:], at + written
        self._used[slot] = len(data)


def _read(file: int) -> tuple[int, bytes | None]:
    """A slot's counter and blob; (0, None) when it is empty or was cut off."""
    header = os.pread(file, _HEADER, 0)
    counter, size = int.from_bytes(header[:8], "big"), int.from_bytes(header[8:12], "big")
    if len(header) < _HEADER or size > _MAX_SIZE:
        return 0, None
    parts, at = [], _HEADER
    while at < _HEADER + size and (part := os.pread(file, _HEADER + size - at, at)):
        parts.append(part)
        at += len(part)
    blob = b"".join(parts)
    if hashlib.sha256(header[:12] + blob).digest() != header[12:]:
        return 0, None
    return counter, blob


class FileStorage:
    """One blob, readable by its owner alone, locked against a second process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StorageError("another process has this device's state open") from None
        self._slots = Slots(path)

    def __enter__(self) -> FileStorage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._slots.close()
        os.close(self._lock)

    def read(self) -> bytes | None:
        return self._slots.read()

    def write(self, blob: bytes) -> None:
        self._slots.write(blob)


class FileWitness:
    """The generation, in files of its own."""

    def __init__(self, path: Path) -> None:
        self._slots = Slots(path)

    def __enter__(self) -> FileWitness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._slots.close()

    def read(self) -> int:
        return int.from_bytes(self._slots.read() or b"", "big")

    def advance(self, generation: int) -> None:
        self._slots.write(generation.to_bytes(8, "big"))

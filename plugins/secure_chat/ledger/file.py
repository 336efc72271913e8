"""The ledger's file: one locked, append-only descriptor, and the system calls made on it.

Everything that can fail on a disk happens here, so that a test can make each call fail once.
What the bytes mean is not known here.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from plugins.secure_chat.errors import LedgerLocked, LedgerUnusable


class AppendFile:
    """A file open for appending under an exclusive lock; created when it is missing."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerLocked when another descriptor holds the lock, else LedgerUnusable."""
        self.path = path
        try:
            created = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise LedgerUnusable(
                f"the ledger cannot be opened for writing: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise LedgerLocked(
                "another process writes this ledger; stop it, or give this one a ledger of its own"
            ) from None
        if created:
            sync_directory(path.parent)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        return os.pread(self._fd, length, offset)

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end. A short write is continued; OSError leaves a part."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def sync_directory(directory: Path) -> None:
    """Make a new directory entry durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The ledger's file: its lock, one append-only descriptor, and the system calls made on it.

Everything that can fail on a disk happens here, so that a test can make each call fail once.
What the bytes mean is not known here.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from plugins.secure_chat.errors import LedgerLocked, LedgerUnusable

_LOCKED: Final = "another process writes this ledger; stop it, or give this one a ledger of its own"


class WriterLock:
    """The right to write the ledger at a path, held until it is released or the process ends.

    It is a lock on an empty file beside the ledger, which is never removed: a ledger that is moved
    away under its writer stays locked.
    """

    def __init__(self, ledger: Path) -> None:
        """Raises LedgerLocked when another holds it, LedgerUnusable when it cannot be made."""
        self._fd = _open(ledger.with_name(ledger.name + ".lock"))
        _lock(self._fd)

    @property
    def descriptor(self) -> int:
        """A process that inherits it holds the lock too, until both have ended or let go."""
        return self._fd

    def release(self) -> None:
        os.close(self._fd)


class AppendFile:
    """A file open for appending under an exclusive lock; created when it is missing."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerLocked when another descriptor holds the lock, else LedgerUnusable."""
        self.path = path
        created = not path.exists()
        self._fd = _open(path)
        _lock(self._fd)  # who removes the lock's file, or follows a link, still meets this one
        if created:
            sync_directory(path.parent)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def is_in_place(self, size: int) -> bool:
        """Whether the path leads to this file, and it has ``size`` bytes: what we wrote, alone."""
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        here = os.fstat(self._fd)
        same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        return same and there.st_size == size

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


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LedgerUnusable(
            f"the ledger cannot be opened for writing: {error.strerror}"
        ) from error


def _lock(fd: int) -> None:
    """Lock ``fd`` or close it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise LedgerLocked(_LOCKED) from None


def sync_directory(directory: Path) -> None:
    """Make a new directory entry durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

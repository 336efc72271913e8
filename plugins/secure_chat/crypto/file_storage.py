"""Storage and witness on disk: the only module of the library that does I/O.

The two files belong in different places: whatever restores the first from a backup must not
restore the second.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from plugins.secure_chat.crypto.errors import StorageError


class FileStorage:
    """One blob in one file, readable by its owner alone, locked against a second process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StorageError("another process has this device's state open") from None

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
        os.close(self._lock)

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, blob: bytes) -> None:
        write_atomically(self._path, blob)


class FileWitness:
    """The generation in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> int:
        try:
            return int(self._path.read_bytes())
        except FileNotFoundError:
            return 0
        except ValueError:
            raise StorageError("the witness is not a number") from None

    def advance(self, generation: int) -> None:
        write_atomically(self._path, b"%d" % generation)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, sync, rename, sync the folder: the old bytes or the new, whatever happens."""
    beside = path.with_name(path.name + ".new")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""A ledger file in spans of whole lines: opened read-only, cut, and read. Nothing is verified here.

The file may grow meanwhile; it may not shrink or be replaced.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugins.secure_chat.core.chain import MAX_LINE
from plugins.secure_chat.errors import LedgerUnusable

SHRANK: Final = "the ledger was cut or changed while it was read; audit it again"


@dataclass(frozen=True, slots=True)
class Span:
    """``lines`` whole lines in the bytes ``[start, end)``; ``position`` is of the line before."""

    start: int
    end: int
    position: int
    lines: int


class LedgerFile:
    """A regular file, open for reading. Raises LedgerUnusable when it is not one."""

    def __init__(self, path: Path) -> None:
        try:
            # Non-blocking, or a FIFO would wait for its writer before it can be refused.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise LedgerUnusable(f"the ledger cannot be opened: {reason}") from None
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise LedgerUnusable("the ledger must be a regular file")
        self.identity = (found.st_dev, found.st_ino)

    def __enter__(self) -> LedgerFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``[start, end)``; fewer at the end of the file. Raises LedgerUnusable."""
        parts: list[bytes] = []
        try:
            while start < end:
                part = os.pread(self._fd, end - start, start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
        except OSError as error:
            raise LedgerUnusable(f"the ledger cannot be read: {error.strerror}") from None
        return b"".join(parts)

    def lines(self, span: Span) -> list[bytes]:
        """The lines of ``span`` without their newlines."""
        lines = self.read(span.start, span.end).split(b"\n")
        if len(lines) != span.lines + 1 or lines.pop():
            raise LedgerUnusable(SHRANK)
        return lines

    def spans(
        self, size: int, chunk_size: int, until: int | None, *, start: int = 0, position: int = 0
    ) -> Iterator[Span]:
        """Cut the first ``size`` bytes into spans of about ``chunk_size``, up to line ``until``.

        Begins at byte ``start``, behind the line at ``position``. Ends before the bytes after the
        last newline, and before a line longer than MAX_LINE.
        """
        offset = start
        while offset < size and (until is None or position < until):
            stop = min(offset + chunk_size, size)
            block = self.read(offset, stop)
            if offset + len(block) < stop:
                raise LedgerUnusable(SHRANK)
            lines = block.count(b"\n")
            if lines:
                end = offset + block.rfind(b"\n") + 1
                if until is not None and position + lines > until:
                    lines = until - position
                    end = offset + _end_of_line(block, lines)
                yield Span(start, end, position, lines)
                position += lines
                start = end
            offset += len(block)
            if offset - start > MAX_LINE:
                return


def _end_of_line(block: bytes, number: int) -> int:
    """Where line ``number`` (counted from 1) of ``block`` ends, its newline included."""
    end = 0
    for _ in range(number):
        end = block.index(b"\n", end) + 1
    return end

"""Reading lines of a ledger file that somebody else writes, from a byte on. Nothing is verified.

For what is derived from the ledger and follows it: who calls says up to which line it is durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

READ_SIZE: Final = 1 << 20


def blocks(ledger: Path, offset: int) -> Iterator[list[bytes]]:
    """The complete lines from byte ``offset`` on, without their newlines, in batches."""
    with ledger.open("rb", buffering=0) as file:
        file.seek(offset)
        pending = b""
        while block := file.read(READ_SIZE):
            lines = (pending + block).split(b"\n")
            pending = lines.pop()
            yield lines


def lines(ledger: Path, offset: int) -> Iterator[bytes]:
    """The same, one by one."""
    for block in blocks(ledger, offset):
        yield from block


def last_line(ledger: Path, end: int) -> bytes:
    """The line that ends, with its newline, at byte ``end``. Raises ValueError when none does."""
    with ledger.open("rb", buffering=0) as file:
        length = 4096
        while True:
            start = max(0, end - length)
            file.seek(start)
            block = file.read(end - start)
            if len(block) != end - start or not block.endswith(b"\n"):
                raise ValueError("no line ends there")
            cut = block.rfind(b"\n", 0, -1)
            if cut >= 0 or start == 0:
                return block[cut + 1 : -1]
            length *= 4

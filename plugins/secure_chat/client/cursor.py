"""How far a device has taken what the ledger holds for its wallet. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.crypto.codec import Reader, u64

# Messages taken while the server lacks an earlier one, before that one is given up for lost. What
# is asked for again at each connection stays bounded so.
MAX_BEHIND: Final = 1000


@dataclass(frozen=True, slots=True)
class Cursor:
    """``position``: RESUME asks for what comes after it. ``highest``: the highest that ever came.

    ``behind``: messages taken since the server said that it lacks some.
    """

    position: int = 0
    highest: int = 0
    behind: int = 0

    def taken(
        self, positions: Collection[int], *, waiting: int | None = None, complete: bool = True
    ) -> Cursor:
        """After all of ``positions``. ``waiting``: the lowest that came and is not taken yet.

        ``complete``: whether the server has everything; while it has not, RESUME goes on asking
        from where something was missing, for it may still be brought.
        """
        highest = max(self.highest, *positions) if positions else self.highest
        behind = 0 if complete else self.behind + len(positions)
        if 0 < behind <= MAX_BEHIND:
            return Cursor(self.position, highest, behind)
        end = highest if waiting is None else min(highest, waiting - 1)
        return Cursor(max(self.position, end), highest, 0)

    def back_to(self, position: int) -> Cursor:
        """Ask again for what comes after ``position``."""
        return Cursor(min(self.position, position), self.highest, self.behind)

    def encode(self) -> bytes:
        return u64(self.position) + u64(self.highest) + u64(self.behind)

    @classmethod
    def decode(cls, data: bytes) -> Cursor:
        reader = Reader(data)
        cursor = cls(reader.u64(), reader.u64(), reader.u64())
        reader.end()
        return cursor

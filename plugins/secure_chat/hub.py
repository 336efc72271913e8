"""Fan-out inside one process: which connections a wallet has, and each one's bounded outbox.

The hub orders nothing and stores nothing: what it drops, RESUME gives again from the mailbox.
All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from plugins.secure_chat.core.frames import encode_frame, error_frame
from plugins.secure_chat.errors import Close, UnknownDevice

MAX_OUTBOX_BYTES: Final = 4 << 20  # a client a few large messages behind is not slow yet


class Outbox:
    """Frames on their way to one socket. Over its limit the socket is a slow consumer."""

    def __init__(self, wallet: str, max_bytes: int = MAX_OUTBOX_BYTES) -> None:
        self.wallet = wallet
        self.close_with: Close | None = None
        self.closing = asyncio.Event()
        self.devices: set[str] = set()  # that this socket has shown to be: see Hub.log_out
        self.resuming = False  # live messages wait in the mailbox until the replay has caught up
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    def put(self, frame: bytes) -> None:
        """Queue ``frame``; when the outbox is over its limit, drop all and close 4408."""
        if self.close_with is not None:
            return
        if self._bytes + len(frame) > self._max_bytes and self._frames:
            self.close(Close.TOO_SLOW)
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._drained.clear()
        self._filled.set()

    def close(self, code: Close, last: bytes | None = None) -> None:
        """End the connection with ``code``, after ``last`` and what is queued.

        A slow consumer gets neither, an expired token gets nothing but ``last``.
        """
        if self.close_with is not None:
            return
        if code in (Close.TOO_SLOW, Close.TOKEN_EXPIRED):
            self._frames.clear()
            self._bytes = 0
        if last is not None:
            self._frames.append(last)
        self.close_with = code
        self.closing.set()
        self._drained.set()
        self._filled.set()

    async def take(self) -> list[bytes]:
        """All that is queued; waits for something. Empty once closed and drained."""
        while not self._frames and self.close_with is None:
            self._filled.clear()
            await self._filled.wait()
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def sent(self, size: int) -> None:
        """``size`` bytes have left for the network."""
        self._bytes = max(0, self._bytes - size)
        if not self._frames and not self._bytes:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until everything queued has left (or the connection ends)."""
        await self._drained.wait()


class Hub:
    """The connected outboxes by wallet."""

    def __init__(self) -> None:
        self._by_wallet: dict[str, set[Outbox]] = {}
        self.count = 0

    def add(self, outbox: Outbox) -> None:
        self._by_wallet.setdefault(outbox.wallet, set()).add(outbox)
        self.count += 1

    def remove(self, outbox: Outbox) -> None:
        outboxes = self._by_wallet.get(outbox.wallet, set())
        if outbox in outboxes:
            outboxes.remove(outbox)
            self.count -= 1
            if not outboxes:
                del self._by_wallet[outbox.wallet]

    def deliver(
        self, frame: bytes, wallets: Sequence[str], sender: str, origin: Outbox | None
    ) -> None:
        """To every socket of ``wallets`` and of ``sender``; not to ``origin``, which has it, unless
        the sender writes to itself."""
        skipped = None if sender in wallets and len(wallets) == 1 else origin
        for wallet in wallets if sender in wallets else (*wallets, sender):
            for outbox in self._by_wallet.get(wallet, ()):
                if outbox is not skipped and not outbox.resuming:
                    outbox.put(frame)

    def to_wallet(self, wallet: str, frame: bytes) -> None:
        for outbox in self._by_wallet.get(wallet, ()):
            outbox.put(frame)

    def log_out(self, wallet: str, device: str) -> None:
        """End the sockets of a device that has been revoked."""
        for outbox in self._by_wallet.get(wallet, ()):
            if device in outbox.devices:
                refusal = UnknownDevice("the device has been revoked", device=device)
                outbox.close(Close.REFUSED, encode_frame(error_frame(refusal)))

    def all(self) -> Iterable[Outbox]:
        return [outbox for outboxes in self._by_wallet.values() for outbox in outboxes]

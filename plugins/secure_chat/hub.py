"""Fan-out inside one process: which connections a wallet has, and each one's bounded outbox.

The hub orders nothing and stores nothing: what it drops, RESUME gives again from the mailbox.
All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from plugins.secure_chat.core.frames import encode_frame, error_frame
from plugins.secure_chat.errors import Close, UnknownDevice

MAX_OUTBOX_BYTES: Final = 4 << 20  # a client a few large messages behind is not slow yet


def nobody() -> None:
    """Wakes no one."""


class Outbox:
    """Frames on their way to one socket. Over its limit the socket is a slow consumer.

    ``wake`` is called when there is something to take, and when the outbox closes.
    """

    __slots__ = (
        "_bytes",
        "_drained",
        "_frames",
        "_max_bytes",
        "close_with",
        "devices",
        "resuming",
        "wake",
        "wallet",
    )

    def __init__(
        self,
        wallet: str,
        max_bytes: int = MAX_OUTBOX_BYTES,
        wake: Callable[[], None] = nobody,
    ) -> None:
        self.wallet = wallet
        self.close_with: Close | None = None
        self.devices: set[str] = set()  # that this socket has shown to be: see Hub.log_out
        self.resuming = False  # live messages wait in the mailbox until the replay has caught up
        self._max_bytes = max_bytes
        self.wake = wake
        self._frames: list[bytes] = []
        self._bytes = 0
        self._drained: asyncio.Event | None = None  # only while somebody waits for it

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
        if len(self._frames) == 1:
            self.wake()

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
        self._let_go()
        self.wake()

    @property
    def queued(self) -> Sequence[bytes]:
        """All that is queued, which ``take`` would give."""
        return self._frames

    def take(self) -> list[bytes]:
        """All that is queued."""
        frames, self._frames = self._frames, []
        return frames

    def sent(self, size: int) -> None:
        """``size`` bytes have left for the network."""
        self._bytes = max(0, self._bytes - size)
        if not self._frames and not self._bytes:
            self._let_go()

    async def drained(self) -> None:
        """Wait until everything queued has left (or the connection ends)."""
        if (self._frames or self._bytes) and self.close_with is None:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _let_go(self) -> None:
        """Wake who waits in ``drained``."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None


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
                outbox.close(Close.REFUSED, _no_device("the device has been revoked", device))

    def leave_behind(self, wallet: str, first: str) -> None:
        """End the sockets of all other devices: ``first`` is the first of a new identity."""
        for outbox in self._by_wallet.get(wallet, ()):
            for device in outbox.devices - {first}:
                outbox.close(Close.REFUSED, _no_device("the wallet has a new identity", device))

    def all(self) -> Iterable[Outbox]:
        return [outbox for outboxes in self._by_wallet.values() for outbox in outboxes]


def _no_device(detail: str, device: str) -> bytes:
    return encode_frame(error_frame(UnknownDevice(detail, device=device)))

"""A thread that keeps a ledger's transparency log current, and that nobody waits for.

It is told a position and reads the ledger itself. What it could not do it does later: on any error
of the disk it opens the log again, which is how it starts too. Only a ledger that is not what a
checkpoint was signed for stops it for good: nothing is signed any more, and ``failure`` says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from plugins.secure_chat.errors import HistoryRewritten, LedgerUnusable
from plugins.secure_chat.transparency.log import TransparencyLog, TreeDamaged

log: Final = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two checkpoints at the least, and before a disk that failed is tried again."""


class LogFollower:
    """Follows one ledger. ``start`` it, ``notify`` it of every commit, ``stop`` it."""

    def __init__(
        self,
        transparency: TransparencyLog,
        *,
        interval: float = INTERVAL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = transparency
        self._interval = interval
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._position = 0
        self._stopping = False
        self._distrusted = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._follow, name="transparency", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why nothing more is signed, or what is being retried; None when all is well."""
        return self._failure

    def start(self, position: int) -> None:
        """Begin, with the ledger's durable head at ``position``. Returns at once."""
        self._position = position
        self._thread.start()

    def notify(self, position: int) -> None:
        """The ledger is durable up to ``position``. Returns at once, whatever the log is doing."""
        with self._wake:
            self._position = max(self._position, position)
            self._wake.notify()

    def repair(self) -> None:
        """A reader met TreeDamaged: have the tree built anew from the ledger. Returns at once."""
        with self._wake:
            self._distrusted = True
            self._wake.notify()

    def stop(self) -> None:
        """Publish what was notified, and end. Idempotent."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _follow(self) -> None:
        try:
            self._keep_current()
        finally:
            if not self._stopping and self._failure is None:
                self._failure = "the log stopped; restart to take it up again"

    def _keep_current(self) -> None:
        opened = False
        done = -1
        while True:
            due = self._monotonic() + self._interval
            with self._wake:
                stopping, position = self._stopping, self._position
                distrusted, self._distrusted = self._distrusted, False
            try:
                if distrusted:
                    self._log.distrust()
                    opened = False
                if not opened:
                    self._log.open(position)
                    opened = True
                self._log.advance(position)
                self._log.publish()
                self._failure = None
                done = position
            except HistoryRewritten as error:
                self._failure = str(error)
                log.critical("transparency.history_rewritten size=%d", error.size)
                return
            except (OSError, LedgerUnusable, TreeDamaged) as error:
                self._failure = f"the log is behind and is tried again: {error}"
                log.warning("transparency.behind position=%d error=%r", position, error)
                opened, done = False, -1
                self._distrusted |= distrusted or isinstance(error, TreeDamaged)
            if stopping:
                return
            self._wait(due, done)

    def _wait(self, due: float, done: int) -> None:
        """Until the interval is over and there is something to do, or it is time to stop."""
        with self._wake:
            while not self._stopping:
                left = due - self._monotonic()
                if left > 0:
                    self._wake.wait(left)
                elif self._position == done and not self._distrusted:
                    self._wake.wait()
                else:
                    return

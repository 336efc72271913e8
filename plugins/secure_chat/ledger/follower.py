"""A thread that keeps something derived from a ledger current, and that no commit waits for.

It is told a position and what is derived reads the ledger itself. What it could not do it does
later: on any error it opens what it keeps again, which is how it starts too. Only a ledger that is
not what was promised before stops it for good, and ``failure`` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from plugins.secure_chat.errors import Damaged, HistoryRewritten, LedgerUnusable

log: Final = logging.getLogger(__name__)

BUSY_SHARE: Final = 0.05
"""Of a core that following takes while commits come in; what it does not manage it does later."""
IDLE_SHARE: Final = 0.7
"""The same while none do: the rest is for whoever else wants to run."""
BUSY_SECONDS: Final = 0.25
"""After a commit no other is expected: longer than a group, short for who waits for a proof."""
PATIENCE: Final = 10
"""Rounds that may fail in a row before it counts as stopped; it is tried again all the same."""


class Derived(Protocol):
    """What is kept current. All of it is called in the follower's thread."""

    def open(self, position: int) -> None:
        """Take up what there is and go on to ``position``, or begin anew."""

    def advance(self, position: int) -> None:
        """Take the ledger's records up to ``position``."""

    def publish(self) -> object:
        """Let the others see it."""

    def distrust(self) -> None:
        """Have the next ``open`` build everything anew."""


class LedgerFollower:
    """Follows one ledger. ``start`` it, ``notify`` it of every commit, ``stop`` it."""

    def __init__(
        self,
        name: str,
        derived: Derived,
        *,
        interval: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name``: what is derived, for the log and for people. ``interval``: seconds between two
        rounds at the least, and before what failed is tried again."""
        self.name = name
        self._derived = derived
        self._interval = interval
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._position = 0
        self._done = -1
        self._idle = False
        self._notified_at = -BUSY_SECONDS  # by the monotonic clock
        self._stopping = False
        self._distrusted = False
        self._failure: str | None = None
        self._failures = 0  # in a row
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

    @property
    def failure(self) -> str | None:
        """Why nothing more is done, or what is being tried again; None when all is well."""
        return self._failure

    @property
    def stopped(self) -> str | None:
        """Why nothing is done for good, or for long; None while it works."""
        if self._stopping or (self._thread.is_alive() and self._failures < PATIENCE):
            return None
        return self._failure

    def lag(self) -> int:
        """Records that are durable and not taken yet."""
        return self._position - max(0, self._done)

    def start(self, position: int) -> None:
        """Begin, with the ledger's durable head at ``position``. Returns at once."""
        self._position = position
        self._thread.start()

    def notify(self, position: int) -> None:
        """The ledger is durable up to ``position``. Returns at once, whatever is going on."""
        with self._wake:
            self._position = max(self._position, position)
            self._notified_at = self._monotonic()
            if self._idle:  # else it looks by itself when its interval is over
                self._wake.notify()

    def breathe(self, worked: float) -> None:
        """For what is derived, after a slice that took ``worked`` seconds of a core: let the event
        loop have the interpreter. Returns at once when it is time to stop."""
        with self._wake:
            busy = self._monotonic() - self._notified_at < BUSY_SECONDS
            share = BUSY_SHARE if busy else IDLE_SHARE
            if not self._stopping:
                self._wake.wait(worked * (1 - share) / share)

    async def reached(self, position: int, within: float) -> bool:
        """Wait until all up to ``position`` is published, ``within`` seconds at most."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        with self._wake:
            if self._done >= position:
                return True
            self._waiting.append((position, loop, answer))
        try:
            async with asyncio.timeout(within):
                await answer
        except TimeoutError:
            return False
        finally:
            with self._wake:
                self._waiting = [one for one in self._waiting if one[2] is not answer]
        return True

    def repair(self) -> None:
        """A reader met damage: have everything built anew from the ledger. Returns at once."""
        with self._wake:
            self._distrusted = True
            self._wake.notify()

    def stop(self, within: float | None = None) -> None:
        """Publish what was notified, and end. Idempotent.

        When that takes longer than ``within`` seconds the rest is left to the next start.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(within)

    def _follow(self) -> None:
        try:
            self._keep_current()
        finally:
            if not self._stopping and self._failure is None:
                self._failure = f"the {self.name} stopped; restart to take it up again"

    def _keep_current(self) -> None:
        opened = False
        while True:
            due = self._monotonic() + self._interval
            with self._wake:
                stopping, position = self._stopping, self._position
                distrusted, self._distrusted = self._distrusted, False
            try:
                if distrusted:
                    self._derived.distrust()
                    opened = False
                if not opened:
                    self._derived.open(position)
                    opened = True
                self._derived.advance(position)
                self._derived.publish()
                self._failure, self._failures = None, 0
                self._tell(position)
            except HistoryRewritten as error:
                self._failure = str(error)
                log.critical("follower.history_rewritten name=%s size=%d", self.name, error.size)
                return
            except (OSError, LedgerUnusable, Damaged) as error:
                self._failure = f"the {self.name} is behind and is tried again: {error}"
                log.warning(
                    "follower.behind name=%s position=%d error=%r", self.name, position, error
                )
                self._failures += 1
                opened, self._done = False, -1
                self._distrusted |= distrusted or isinstance(error, Damaged)
            if stopping:
                return
            self._wait(due)

    def _tell(self, position: int) -> None:
        """All up to ``position`` is published: whoever waits for it may go on."""
        with self._wake:
            self._done = position
            reached = [one for one in self._waiting if one[0] <= position]
            self._waiting = [one for one in self._waiting if one[0] > position]
        for _, loop, answer in reached:
            with contextlib.suppress(RuntimeError):  # its loop has closed meanwhile
                loop.call_soon_threadsafe(_resolve, answer)

    def _wait(self, due: float) -> None:
        """Until the interval is over and there is something to do, or it is time to stop."""
        with self._wake:
            while not self._stopping:
                left = due - self._monotonic()
                if left > 0:
                    self._wake.wait(left)
                elif self._position == self._done and not self._distrusted:
                    self._idle = True
                    self._wake.wait()
                    self._idle = False
                else:
                    return


def _resolve(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)

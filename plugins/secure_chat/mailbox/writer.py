"""The mailbox's one writer: a thread, and a process for the rows of many messages.

A thread that writes rows takes the interpreter from the event loop for each of them. So once
messages come in numbers their rows go to a process (``rows.py``). Everything else is written in the
thread. Never both at once: what comes is written in its order, whoever writes it. What the process
does not answer for is written by the thread, so nothing depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, cast

from plugins.secure_chat.child_process import command, environment
from plugins.secure_chat.errors import DatabaseTaken
from plugins.secure_chat.mailbox.rows import STORED
from plugins.secure_chat.mailbox.store import Mailbox, Stored

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

MANY: Final = 16  # messages of one commit that a process is started for
ANSWER_SECONDS: Final = 10.0  # a process that takes longer hangs
RESTART_SECONDS: Final = 60.0  # between two tries to start what has failed


class _Waiting(NamedTuple):
    """What the thread is to do, and who waits for it."""

    change: Callable[[], Any]
    done: asyncio.Future[Any]


class MailboxWriter:
    """Writes one mailbox. All of it is the event loop's."""

    def __init__(self, mailbox: Mailbox, *, taken: Callable[[str], None]) -> None:
        """``taken`` is called, in the thread, when another server has written to the database."""
        self._mailbox = mailbox
        self._taken = taken
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mailbox-writer")
        self._changes = 0  # that the thread has, or is to have
        self._behind: deque[_Waiting] = deque()  # the process's work
        self._process: _RowProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._start_after = 0.0  # by the monotonic clock
        self._closing = False

    def change(self, change: Callable[[], T]) -> asyncio.Future[T]:
        """Begin ``change``, a blocking write, when all that came before is written."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._changes += 1
        self._behind.append(_Waiting(change, done))
        self._go_on()
        return done

    def store(self, batch: Sequence[Stored], *, committed: int) -> asyncio.Future[None]:
        """Begin ``Mailbox.store``. Raises, when awaited, what that does."""
        here = partial(self._mailbox.store, batch, committed=committed)
        if self._process is None:
            if len(batch) >= MANY:
                self._start_soon()
        elif not self._changes:
            rows = self._mailbox.rows(batch, committed=committed)
            if rows is not None:
                return self._process.write(rows, here)
        return self.change(here)

    @property
    def process(self) -> int | None:
        """The id of the process, while there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Have the process; returns when it is there, or could not be started."""
        setup = self._mailbox.row_setup()
        try:
            if setup is not None:
                process = await _RowProcess.start(*setup, self._go_on, self._ended)
                if not process.has_ended:
                    self._process = process
        except (OSError, RuntimeError) as error:
            self._failed(type(error).__name__)
        finally:
            self._starting = None

    async def close(self) -> None:
        """Write what was begun, and end."""
        self._closing = True
        if self._starting is not None:
            # Not cancelled: a process that has just been made would be left to itself.
            await asyncio.wait((self._starting,))
        if self._process is not None:
            await self._process.close()
        self._thread.shutdown()

    def _guarded(self, change: Callable[[], T]) -> T:
        """In the thread."""
        try:
            return change()
        except DatabaseTaken as taken:
            self._taken(taken.detail)
            raise

    def _go_on(self) -> None:
        """Give the thread what waits, unless the process writes."""
        if self._process is not None and self._process.is_busy:
            return
        loop = asyncio.get_running_loop()
        while self._behind:
            waiting = self._behind.popleft()
            begun = loop.run_in_executor(self._thread, self._guarded, waiting.change)
            begun.add_done_callback(partial(self._changed, waiting.done))

    def _changed(self, done: asyncio.Future[Any], begun: asyncio.Future[Any]) -> None:
        self._changes -= 1
        error = begun.exception()
        if done.cancelled():
            return
        if error is None:
            done.set_result(begun.result())
        else:
            done.set_exception(error)

    def _start_soon(self) -> None:
        if self._starting is None and time.monotonic() > self._start_after:
            self._starting = asyncio.create_task(self.start(), name="mailbox-process")

    def _ended(self, unanswered: list[_Waiting]) -> None:
        """The process has ended by itself: the thread writes what it may not have written."""
        self._process = None
        if not self._closing:
            self._failed("ended")
        self._changes += len(unanswered)
        self._behind.extendleft(reversed(unanswered))
        self._go_on()

    def _failed(self, how: str) -> None:
        log.warning("mailbox.without_process error=%s", how)
        self._start_after = time.monotonic() + RESTART_SECONDS


class _RowProcess(asyncio.SubprocessProtocol):
    """The process. It answers in the order of the requests; ``idle`` is called when all are."""

    def __init__(self, idle: Callable[[], None], ended: Callable[[list[_Waiting]], None]) -> None:
        self._idle = idle
        self._ended = ended
        self._transport: asyncio.SubprocessTransport
        self._input: asyncio.WriteTransport
        self._unanswered: deque[_Waiting] = deque()
        self._hangs: asyncio.TimerHandle | None = None
        self._closing = False
        self._exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls,
        database: str,
        setup: bytes,
        claim: Sequence[int],
        idle: Callable[[], None],
        ended: Callable[[list[_Waiting]], None],
    ) -> _RowProcess:
        """``claim``: descriptors that it holds as long as it lives.

        Raises OSError; under uvloop RuntimeError too, while another loop starts a process.
        """
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(idle, ended),
            *command("plugins.secure_chat.mailbox.rows", database),
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(),
            pass_fds=claim,
        )
        process._send(setup)
        return process

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    @property
    def has_ended(self) -> bool:
        return self._exited.done()

    @property
    def is_busy(self) -> bool:
        return bool(self._unanswered)

    def write(self, rows: bytes, otherwise: Callable[[], None]) -> asyncio.Future[None]:
        """Have ``rows`` written; ``otherwise`` does the same when the process ends before."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unanswered.append(_Waiting(otherwise, done))
        self._send(rows)
        if self._hangs is None:
            self._watch()
        return done

    async def close(self) -> None:
        """End it when it has answered, or does not."""
        self._closing = True
        if self._hangs is None:
            self._watch()
        self._input.close()
        await self._exited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for _ in range(data.count(STORED)):
            waiting = self._unanswered.popleft()
            if not waiting.done.cancelled():
                waiting.done.set_result(None)
        if self._hangs is not None:
            self._hangs.cancel()
            self._hangs = None
        if self._unanswered or self._closing:
            self._watch()
        if not self._unanswered:
            self._idle()

    def process_exited(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hangs is not None:
            self._hangs.cancel()
        unanswered = list(self._unanswered)
        self._unanswered.clear()
        self._exited.set_result(None)
        self._ended(unanswered)

    def _send(self, request: bytes) -> None:
        # uvloop closes the pipe of a process that has ended, and raises here, before it says so.
        if not self._input.is_closing():
            self._input.write(request)

    def _watch(self) -> None:
        self._hangs = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._kill)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._transport.kill()

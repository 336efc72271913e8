"""Processes that verify signatures: a check takes most of a message's time, and a core of its own.

In a thread each check would give up the interpreter and wait for it again, behind the event loop.
The processes are started when they are first needed; until then, and while they fail, threads do
their work. What they do is ``verification.py``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from plugins.secure_chat.child_process import command, environment, framed
from plugins.secure_chat.directory.verification import Job, verify_batch

log: Final = logging.getLogger(__name__)

BATCH: Final = 16  # signatures a process takes at least: fewer do not pay for the hop
INLINE: Final = 3  # so few are checked at once where they are: 150 us of the event loop's time
ANSWER_SECONDS: Final = 10.0  # a process that takes longer hangs
RESTART_SECONDS: Final = 60.0  # between two tries to start what has failed
# What a request raises when its process has ended, or does not answer; RuntimeError is uvloop's.
_ENDED: Final = (OSError, EOFError, RuntimeError)
_PROBE: Final = Job(bytes(32), "A" * 86 + "==", "a", "0", "b", "A" * 16, 1, 1, "A" * 43 + "=", ())


class _Verifier:
    """One process. It answers requests in their order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 (a pipe was asked for)
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        self._process = process
        self._requests, self._answers = process.stdin, process.stdout
        self._turn = asyncio.Lock()
        self._unread = False  # whether an answer may still come that nobody waits for

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls) -> _Verifier:
        """Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *command("plugins.secure_chat.directory.verification"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # a traceback might quote what was signed
            env=environment(),
        )
        return cls(process)

    async def verify(self, jobs: Sequence[Job]) -> list[bool]:
        """Raises what is in _ENDED when the process has ended or hangs."""
        request = msgspec.msgpack.encode(jobs)
        async with self._turn, asyncio.timeout(ANSWER_SECONDS):
            if self._unread:
                raise EOFError
            self._unread = True  # until it is read: who asks next must not be given this answer
            self._requests.write(framed(request))
            answer = await self._answers.readexactly(len(jobs))
            self._unread = False
            return [good == 1 for good in answer]

    async def stop(self) -> None:
        """End it, whatever it does: nothing depends on it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Verifiers:
    """Verify many signatures at once. All of it is the event loop's."""

    def __init__(self, processes: int) -> None:
        self._count = processes
        self._verifiers: list[_Verifier] = []
        self._ready = False  # whether all of them answer
        self._closing = False
        self._starting: asyncio.Task[None] | None = None
        self._start_after = 0.0  # by the monotonic clock
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="signatures")

    async def verify(self, jobs: Sequence[Job]) -> list[bool]:
        """For each of ``jobs`` whether the signature is the key's."""
        if len(jobs) <= INLINE:
            return verify_batch(jobs)
        if not self._ready and self._starting is None and time.monotonic() > self._start_after:
            self._starting = asyncio.create_task(self.start())
        size = max(BATCH, -(-len(jobs) // self._count))
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        verdicts = await asyncio.gather(*map(self._batch, range(len(batches)), batches))
        return [good for batch in verdicts for good in batch]

    async def start(self) -> None:
        """Have the processes; returns when they answer, or have failed to."""
        await self._stop()
        try:
            while len(self._verifiers) < self._count:
                verifier = await _Verifier.start()
                self._verifiers.append(verifier)  # to the list that is there now
                if self._closing:
                    return await self._stop()
            for verifier in tuple(self._verifiers):
                await verifier.verify((_PROBE,))
            self._ready = True
        except _ENDED as error:
            await self._failed(error)
        finally:
            self._starting = None

    @property
    def processes(self) -> Sequence[int]:
        """The ids of those in use; none before they are started, or when they have failed."""
        return [verifier.pid for verifier in self._verifiers] if self._ready else []

    async def close(self) -> None:
        """End the processes. Nothing may be verified any more."""
        self._closing = True
        starting = self._starting
        await self._stop()
        if starting is not None:
            # Not cancelled: a process that has just been made would be left to itself.
            await asyncio.wait((starting,))
        self._threads.shutdown()

    async def _batch(self, number: int, jobs: Sequence[Job]) -> list[bool]:
        if self._ready:
            try:
                return await self._verifiers[number].verify(jobs)
            except _ENDED as error:
                await self._failed(error)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, verify_batch, jobs)

    async def _failed(self, error: Exception) -> None:
        if not self._closing:
            log.warning("signatures.without_processes error=%s", type(error).__name__)
        self._start_after = time.monotonic() + RESTART_SECONDS
        await self._stop()

    async def _stop(self) -> None:
        self._ready = False
        stopped, self._verifiers = self._verifiers, []
        for verifier in stopped:
            await verifier.stop()

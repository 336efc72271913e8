"""directory/verifiers: the same verdicts by processes, by threads, and when processes die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import uvloop

from plugins.secure_chat.directory import verifiers
from plugins.secure_chat.directory.verification import Job, job, verify_batch
from plugins.secure_chat.directory.verifiers import Verifiers
from tests.unit.crypto.people import Directory, Person
from tests.unit.directory.test_signatures import envelope

PROCESSES = 2


@pytest.fixture(autouse=True)
def a_slow_machine_is_no_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "ANSWER_SECONDS", 60.0)


@pytest.fixture
async def two() -> AsyncIterator[Verifiers]:
    made = Verifiers(PROCESSES)
    try:
        yield made
    finally:
        await made.close()


def jobs(count: int) -> tuple[list[Job], list[bool]]:
    """So many, each third of them with a signature that is wrong; and the verdicts."""
    person = Person(Directory(), "a")
    key = person.devices["a"].keys.public[0]
    expected = [seq % 3 != 0 for seq in range(count)]
    return [
        job(key, envelope(person, "a", seq + 1, sound=sound)) for seq, sound in enumerate(expected)
    ], expected


def without_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of this process's threads that verify from now on."""
    names: list[str] = []

    def watched(batch: Sequence[Job]) -> list[bool]:
        names.append(threading.current_thread().name)
        return verify_batch(batch)

    monkeypatch.setattr(verifiers, "verify_batch", watched)
    return names


@pytest.mark.parametrize("count", [1, 3, 4, 15, 16, 17, 100, 333])
async def test_processes_give_each_job_its_own_verdict(two: Verifiers, count: int) -> None:
    batch, expected = jobs(count)
    await two.start()
    assert len(two.processes) == PROCESSES
    assert await two.verify(batch) == expected


async def test_a_large_batch_is_verified_in_the_processes(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = jobs(64)
    await two.start()
    here = without_here(monkeypatch)
    assert await two.verify(batch) == expected
    assert not here


async def test_until_they_are_started_threads_verify(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = jobs(64)
    here = without_here(monkeypatch)
    assert await two.verify(batch) == expected
    assert here
    assert threading.current_thread().name not in here


async def test_the_first_large_batch_starts_them(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = jobs(64)
    started = asyncio.Event()
    start = two.start

    async def watched() -> None:
        await start()
        started.set()

    monkeypatch.setattr(two, "start", watched)
    assert await two.verify(batch[:3]) == expected[:3]
    assert await two.verify(batch) == expected
    await started.wait()
    assert len(two.processes) == PROCESSES


async def test_a_verdict_does_not_depend_on_the_life_of_a_process(two: Verifiers) -> None:
    batch, expected = jobs(200)
    await two.start()
    for pid in two.processes:
        os.kill(pid, signal.SIGKILL)
    assert await two.verify(batch) == expected
    assert not two.processes
    assert await two.verify(batch) == expected


async def test_a_process_that_hangs_is_not_waited_for(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = jobs(64)
    await two.start()
    os.kill(two.processes[0], signal.SIGSTOP)
    monkeypatch.setattr(verifiers, "ANSWER_SECONDS", 0.1)
    assert await two.verify(batch) == expected
    assert not two.processes


async def test_who_stops_waiting_leaves_no_verdict_for_the_next(two: Verifiers) -> None:
    """An answer that nobody has read is not taken for that of the request after it."""
    batch, expected = jobs(32)
    sound = [one for one, good in zip(batch, expected, strict=True) if good][:16]
    forged = [one for one, good in zip(batch, expected, strict=True) if not good]
    await two.start()
    first = two.processes[0]
    os.kill(first, signal.SIGSTOP)
    asked = asyncio.create_task(two.verify(sound))
    for _ in range(9):  # turns of the loop until both processes have been asked
        await asyncio.sleep(0)
    assert two._verifiers[0]._turn.locked()
    asked.cancel()
    await asyncio.wait((asked,))
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    assert await two.verify(forged) == [False] * len(forged)


async def test_where_no_process_can_be_started_threads_do_all(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = jobs(64)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    await two.start()
    assert not two.processes
    assert await two.verify(batch) == expected


async def test_they_end_with_the_server_and_not_with_its_signals(two: Verifiers) -> None:
    batch, expected = jobs(64)
    await two.start()
    for pid in two.processes:  # as a service manager does, and a terminal
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert await two.verify(batch) == expected
    assert len(two.processes) == PROCESSES
    ended = [str(pid) for pid in two.processes]
    await two.close()
    assert not any(map(_runs, ended))


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_closed_while_they_are_started_none_is_left(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    batch, expected = jobs(64)
    made: list[int] = []

    async def closed_after(turns: int) -> None:
        verifiers = Verifiers(PROCESSES)
        assert await verifiers.verify(batch) == expected
        for _ in range(turns):
            await asyncio.sleep(0)
        made.append(len(_children()))
        await verifiers.close()
        assert not _children()
        assert not verifiers.processes

    for turns in range(12):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(closed_after(turns))
    assert any(made)
    assert not caplog.records


async def test_after_they_are_closed_none_is_started(two: Verifiers) -> None:
    await two.close()
    await two.start()
    assert not two.processes
    assert not _children()


def test_they_end_when_the_server_is_killed() -> None:
    script = (
        "import asyncio\n"
        "from plugins.secure_chat.directory.verifiers import Verifiers\n"
        "async def main():\n"
        "    made = Verifiers(2)\n"
        "    await made.start()\n"
        "    print(*made.processes, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server, server.stdout:
        pids = server.stdout.readline().split()
        server.kill()
    assert len(pids) == PROCESSES
    for pid in pids:
        while _runs(pid):
            time.sleep(0.01)


def _children() -> list[str]:
    """Those that this process has started to verify and that run; other tests' servers run too."""
    own = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return [pid for pid in own.read_text().split() if _runs(pid) and _verifies(pid)]


def _verifies(pid: str) -> bool:
    return b"secure_chat.directory.verification" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _runs(pid: str) -> bool:
    """Whether it is there and is no zombie, which its new parent may leave for a while."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False

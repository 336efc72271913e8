"""The corked transport: every byte, in order, in fewer writes, and none held back at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from plugins.secure_chat.transport.corked_protocol import (
    LINGER_SECONDS,
    MAX_CORKED,
    CorkedTransport,
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it, and in what order it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


async def test_frames_of_one_turn_of_the_loop_are_one_write_in_their_order() -> None:
    wire = Wire()
    corked = CorkedTransport(wire, asyncio.get_running_loop())
    for data in (b"a", b"b", b"c"):
        corked.write(data)
    assert wire.done == []
    await asyncio.sleep(0)
    assert wire.done == [b"abc"]
    corked.write(b"d")
    await asyncio.sleep(0)
    assert wire.done == [b"abc", b"d"]


async def test_closing_sends_what_is_corked_first() -> None:
    wire = Wire()
    corked = CorkedTransport(wire, asyncio.get_running_loop())
    corked.write(b"goodbye")
    corked.close()
    await asyncio.sleep(0)
    assert wire.done == [b"goodbye", "close"]


async def test_aborting_sends_nothing_more() -> None:
    wire = Wire()
    corked = CorkedTransport(wire, asyncio.get_running_loop())
    corked.write(b"lost")
    corked.abort()
    await asyncio.sleep(0)
    assert wire.done == ["abort"]


async def test_a_full_cork_reaches_the_transport_at_once_so_that_it_can_push_back() -> None:
    wire = Wire()
    corked = CorkedTransport(wire, asyncio.get_running_loop())
    corked.write(b"x" * (MAX_CORKED - 1))
    assert wire.done == []
    corked.write(b"y")
    assert [len(data) for data in wire.done] == [MAX_CORKED]
    corked.write(b"z")
    await asyncio.sleep(0)
    assert wire.done[1:] == [b"z"]


@dataclass
class Timer:
    delay: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Timers:
    """Of an event loop only its timers, which fire when the test says so."""

    def __init__(self) -> None:
        self.set: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(delay, callback)
        self.set.append(timer)
        return timer

    def fire(self) -> None:
        for timer in self.set:
            if not timer.cancelled:
                timer.callback()


def test_who_outstays_a_close_is_cut_off_once() -> None:
    wire, timers = Wire(), Timers()
    corked = CorkedTransport(wire, cast(asyncio.AbstractEventLoop, timers))
    corked.close()
    corked.close()
    assert [timer.delay for timer in timers.set] == [LINGER_SECONDS]
    timers.fire()
    assert wire.done == ["close", "close", "abort"]


def test_a_connection_that_ended_is_not_cut_off() -> None:
    wire, timers = Wire(), Timers()
    corked = CorkedTransport(wire, cast(asyncio.AbstractEventLoop, timers))
    corked.close()
    corked.lost()
    corked.close()  # uvicorn closes once more when the connection is lost
    timers.fire()
    assert wire.done == ["close", "close"]

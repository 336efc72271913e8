"""hub: who gets a frame, and what an outbox does at its limit and at its end."""

from __future__ import annotations

import asyncio

import pytest

from plugins.secure_chat.errors import Close
from plugins.secure_chat.hub import Hub, Outbox


def woken(max_bytes: int = 100) -> tuple[Outbox, list[Close | None]]:
    """An outbox, and how it stood each time that it woke its writer."""
    times: list[Close | None] = []
    outbox = Outbox("alice", max_bytes, lambda: times.append(outbox.close_with))
    return outbox, times


def test_the_writer_is_woken_by_the_first_frame_and_by_the_end() -> None:
    outbox, times = woken()
    outbox.put(b"one")
    outbox.put(b"two")
    assert times == [None]
    assert outbox.take() == [b"one", b"two"]
    outbox.put(b"three")
    outbox.close(Close.REFUSED)
    assert times == [None, None, Close.REFUSED]


def test_what_would_go_over_the_limit_ends_a_slow_consumer_and_frees_what_waited() -> None:
    outbox, times = woken(max_bytes=10)
    outbox.put(bytes(6))
    outbox.put(bytes(4))
    assert times == [None]
    outbox.put(b"x")
    assert times == [None, Close.TOO_SLOW]
    assert outbox.pending_bytes == 0
    assert outbox.take() == []


def test_one_frame_alone_may_be_over_the_limit() -> None:
    outbox, _ = woken(max_bytes=10)
    outbox.put(bytes(50))
    assert outbox.close_with is None
    assert outbox.take() == [bytes(50)]


def test_bytes_count_until_they_have_left() -> None:
    outbox, _ = woken(max_bytes=10)
    outbox.put(bytes(10))
    outbox.take()
    outbox.put(b"x")  # nothing else is queued, so it may wait
    assert outbox.close_with is None
    outbox.sent(10)
    outbox.put(bytes(9))
    assert outbox.close_with is None
    assert outbox.pending_bytes == 10


@pytest.mark.parametrize("code", [Close.REFUSED, Close.INTERNAL, Close.RESTART, Close.FLOODING])
def test_an_ordinary_end_comes_after_what_is_queued(code: Close) -> None:
    outbox, _ = woken()
    outbox.put(b"queued")
    outbox.close(code, b"last")
    assert outbox.take() == [b"queued", b"last"]


def test_an_expired_token_gets_nothing_but_the_last_word() -> None:
    outbox, _ = woken()
    outbox.put(b"queued")
    outbox.close(Close.TOKEN_EXPIRED, b"last")
    assert outbox.take() == [b"last"]


def test_nothing_is_queued_behind_the_end_and_the_first_end_counts() -> None:
    outbox, times = woken()
    outbox.close(Close.RESTART)
    outbox.close(Close.INTERNAL, b"last")
    outbox.put(b"late")
    assert (outbox.close_with, outbox.take()) == (Close.RESTART, [])
    assert times == [Close.RESTART]


async def test_who_waits_until_all_has_left_is_let_go_then_or_at_the_end() -> None:
    outbox, _ = woken()
    await outbox.drained()  # nothing is queued
    outbox.put(b"four")
    waiting = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    outbox.take()
    assert not waiting.done()
    outbox.sent(4)
    await waiting
    outbox.put(b"more")
    waiting = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    outbox.close(Close.TOO_SLOW)
    await waiting
    await outbox.drained()  # it has ended


def test_an_outbox_that_replays_gets_no_live_message_but_notices() -> None:
    hub = Hub()
    live, replaying = Outbox("alice"), Outbox("alice")
    replaying.resuming = True
    for outbox in (live, replaying):
        hub.add(outbox)
    hub.deliver(b"message", ["alice"], "bob", None)
    hub.to_wallet("alice", b"notice")
    assert live.take() == [b"message", b"notice"]
    assert replaying.take() == [b"notice"]


def test_connections_are_counted_once_each() -> None:
    hub = Hub()
    one, two = Outbox("alice"), Outbox("bob")
    hub.add(one)
    hub.add(two)
    assert (hub.count, set(hub.all())) == (2, {one, two})
    hub.remove(one)
    hub.remove(one)
    assert (hub.count, set(hub.all())) == (1, {two})

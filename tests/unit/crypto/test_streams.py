"""What was seen of a sender's messages: each is taken once, and what is missing is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.crypto.codec import u16, u64
from plugins.secure_chat.crypto.envelope import NO_PREVIOUS
from plugins.secure_chat.crypto.errors import DecodeError, Replayed
from plugins.secure_chat.crypto.streams import MAX_MISSING, Continuity, Incoming


def digest(seq: int) -> bytes:
    """Of the message with this number; zeros before the first."""
    return u64(seq) + bytes(24)


def after(stream: Incoming, *numbers: int) -> Incoming:
    """With these messages of an honest sender taken, in this order."""
    for seq in numbers:
        _, stream = stream.take(seq, digest(seq - 1), digest(seq))
    return stream


def takes(stream: Incoming, seq: int) -> bool:
    try:
        stream.check(seq)
    except Replayed:
        return False
    return True


@given(st.lists(st.integers(1, 30), max_size=60))
def test_whatever_the_order_each_message_is_taken_once(numbers: list[int]) -> None:
    stream, taken = Incoming(), set[int]()
    for seq in numbers:
        assert takes(stream, seq) == (seq not in taken)
        if seq in taken:
            with pytest.raises(Replayed):
                stream.take(seq, digest(seq - 1), digest(seq))
            continue
        how, stream = stream.take(seq, digest(seq - 1), digest(seq))
        highest = max(taken, default=0)
        if seq < highest:
            assert how is Continuity.LATE
        elif seq == highest + 1:
            assert how is (Continuity.CONTINUOUS if taken else Continuity.FIRST)
        else:
            assert how is (Continuity.GAP if taken else Continuity.JOINED)
        taken.add(seq)
        assert (stream.seq, stream.hash) == (max(taken), digest(max(taken)))
        assert Incoming.decode(stream.encode()) == stream


def test_a_message_that_names_another_before_it_is_a_gap_though_its_number_is_the_next() -> None:
    how, _ = after(Incoming(), 1).take(2, digest(9), digest(2))
    assert how is Continuity.GAP


def test_of_too_many_missing_ranges_the_oldest_is_given_up() -> None:
    """Every other message is missing: the one before each that came."""
    stream = after(Incoming(), *range(2, 2 * MAX_MISSING + 3, 2))
    assert len(stream.missing) == MAX_MISSING
    assert not takes(stream, 1)
    assert takes(stream, 3)
    assert takes(stream, 2 * MAX_MISSING + 1)
    assert Incoming.decode(stream.encode()) == stream


def test_a_late_message_that_splits_a_range_keeps_the_cap() -> None:
    wide = 2 * MAX_MISSING + 4
    stream = after(Incoming(), *range(2, 2 * MAX_MISSING, 2), wide)
    assert len(stream.missing) == MAX_MISSING
    stream = after(stream, wide - 2)
    assert len(stream.missing) == MAX_MISSING
    assert not takes(stream, 1)
    assert [takes(stream, seq) for seq in (wide - 3, wide - 2, wide - 1)] == [True, False, True]


def test_a_stored_stream_with_too_many_ranges_is_refused() -> None:
    count = MAX_MISSING + 1
    ranges = b"".join(u64(2 * at + 1) * 2 for at in range(count))
    with pytest.raises(DecodeError):
        Incoming.decode(u64(1000) + NO_PREVIOUS + u16(count) + ranges)

"""The rule over sequence numbers, against upstream's run and against a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.core.sequence import Duplicate, Fresh, Logged, decide
from plugins.secure_chat.errors import ReplayedSequence, SequenceConflict


def receipt(position: int) -> Receipt:
    return Receipt(position, f"id-{position}", f"{position:064x}", "t")


class OneStream:
    """A stream as its caller keeps it: what is logged, and the last number."""

    def __init__(self) -> None:
        self.logged: dict[int, Logged] = {}
        self.last = 0

    def offer(self, seq: int, digest: str) -> Fresh | Duplicate:
        decision = decide(self.last, seq, digest, self.logged.get(seq))
        if isinstance(decision, Fresh):
            self.logged[seq] = Logged(digest, receipt(len(self.logged) + 1))
            self.last = seq
        return decision


def test_upstreams_run_is_accepted_as_upstream_does() -> None:
    stream = OneStream()
    accepted = []
    for number, seq in enumerate((1, 2, 2, 5, 3, 6)):
        try:
            accepted.append(isinstance(stream.offer(seq, f"message {number}"), Fresh))
        except (ReplayedSequence, SequenceConflict):
            accepted.append(False)
    assert accepted == [True, True, False, True, False, True]


def test_a_gap_is_allowed_and_counted() -> None:
    assert decide(0, 1, "h", None) == Fresh(gap=0)
    assert decide(0, 8, "h", None) == Fresh(gap=7)
    assert decide(5, 6, "h", None) == Fresh(gap=0)
    assert decide(5, 2**53 - 1, "h", None) == Fresh(gap=2**53 - 7)


def test_the_same_message_gets_its_original_receipt_however_late() -> None:
    original = receipt(3)
    assert decide(9, 4, "h", Logged("h", original)) == Duplicate(original)


def test_another_message_under_a_taken_number_is_a_conflict() -> None:
    with pytest.raises(SequenceConflict) as refusal:
        decide(9, 4, "other", Logged("h", receipt(3)))
    assert refusal.value.extra == {"last_seq": 9}


def test_a_number_that_was_passed_over_is_a_replay() -> None:
    with pytest.raises(ReplayedSequence) as refusal:
        decide(9, 4, "h", None)
    assert refusal.value.extra == {"last_seq": 9}


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from("ab")), max_size=60))
def test_what_is_logged_strictly_increases_and_answers_never_change(
    offers: list[tuple[int, str]],
) -> None:
    stream = OneStream()
    order: list[int] = []
    for seq, digest in offers:
        try:
            decision = stream.offer(seq, digest)
        except ReplayedSequence:
            assert seq <= stream.last
            assert seq not in stream.logged
        except SequenceConflict:
            assert stream.logged[seq].hash != digest
        else:
            if isinstance(decision, Fresh):
                assert decision.gap == seq - (order[-1] if order else 0) - 1
                order.append(seq)
            else:
                assert decision.receipt == stream.logged[seq].receipt
                assert stream.logged[seq].hash == digest
    assert order == sorted(set(order))

"""core/chain: the first bad line, and why; and that joined runs say what one run says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.core.chain import (
    MAX_EVENT_TYPES,
    MAX_LINE,
    Chain,
    Defect,
    Finding,
    follow,
    torn,
)
from plugins.secure_chat.core.dialects import Line
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import EMPTY, Head, Record
from tests.ledgers import writers
from tests.ledgers.writers import DIALECTS, Event, Ledger


def _lines(ledger: Ledger) -> list[bytes]:
    return [line.removesuffix(b"\n") for line in ledger.lines]


def _fold(lines: list[bytes]) -> Chain:
    chain = Chain()
    chain.extend(lines)
    return chain


def _finding(lines: list[bytes]) -> Finding:
    finding = _fold(lines).finding
    assert finding is not None
    return finding


def _every_dialect_in_one() -> Ledger:
    """Seven dialects, both styles of pydantic, one stream through all of them."""
    ledger = Ledger()
    seq = 0
    for dialect in DIALECTS:
        for pydantic in (1, 2):
            seq += 2
            ledger.add(dialect, writers.login(seq), pydantic=pydantic)
            ledger.add(dialect, writers.secure_message(seq), pydantic=pydantic)
            ledger.add(dialect, writers.payout(2.5 if dialect > "v1" else 2), pydantic=pydantic)
    return ledger


def test_an_empty_ledger_is_sound_and_stands_at_zero() -> None:
    chain = Chain()
    assert chain.finish(None) is None
    assert chain.head == EMPTY


def test_a_file_may_change_its_dialect_from_line_to_line() -> None:
    ledger = _every_dialect_in_one()
    chain = _fold(_lines(ledger))
    assert chain.finding is None
    assert chain.head == Head(42, ledger.head)
    assert chain.tally.dialects == {"v1": 6, "v2": 6, "v3-v5": 18, "v6": 6, "v7": 6}
    assert chain.tally.events == {"LOGIN": 14, "MESSAGE": 14, "REWARD_PAYOUT": 14}
    assert chain.tally.messages == {"secure-v2": 14}
    assert (chain.streams, chain.tally.signed, chain.tally.other_signatures) == (1, 14, 14)
    # The link from v1 into v2 is a hash of 128 digits.
    assert len(json.loads(ledger.lines[6])["previous_hash"]) == 128


def test_a_first_record_that_does_not_start_at_the_genesis_is_named() -> None:
    lines = _lines(_every_dialect_in_one())
    assert _finding(lines[1:]) == Finding(1, Defect.LINK, "it does not follow the record before it")


def test_a_second_chain_in_the_file_is_named_as_such() -> None:
    # What the host's own writer does after a torn line: it starts again at zeros.
    lines = _lines(_every_dialect_in_one())
    again = _lines(Ledger().add("v7", writers.login()))
    finding = _finding([*lines, *again, b"never read"])
    assert (finding.position, finding.defect) == (43, Defect.LINK)
    assert "starts a new chain" in finding.reason


def test_each_defect_is_told_from_the_others() -> None:
    lines = _lines(_every_dialect_in_one())
    cases = {
        Defect.RECORD: lines[7][:-1],
        Defect.LINK: lines[6],
        Defect.HASH: lines[7].replace(b'"seq": 6', b'"seq": 7'),
        Defect.BYTES: lines[7] + b" ",
    }
    for defect, bad in cases.items():
        assert bad != lines[7]
        finding = _finding([*lines[:7], bad, *lines[8:]])
        assert (finding.position, finding.index, finding.defect) == (8, 7, defect)
        assert str(finding).startswith("line 8 (index 7): ")


def test_a_fold_ends_at_its_finding() -> None:
    lines = _lines(_every_dialect_in_one())
    chain = _fold([*lines[:3], b"bad", *lines[3:]])
    assert chain.head.position == 3
    first = chain.finding
    assert chain.extend(lines[3:]) is first
    assert chain.head.position == 3
    assert sum(chain.tally.events.values()) == 3


@pytest.mark.parametrize("seq", [1, 4, 5])
def test_a_seq_that_does_not_rise_is_named(seq: int) -> None:
    ledger = Ledger().add("v1", writers.secure_message(2)).add("v7", writers.secure_message(5))
    # Other streams do not count: another device, another recipient, the other direction.
    for other in (
        writers.secure_message(1, device="1"),
        writers.secure_message(1, recipient=3),
        writers.secure_message(1, sender=2, recipient=1),
        writers.secure_message(2, sender=2, recipient=1),
    ):
        ledger.add("v1", other)
    assert _fold(_lines(ledger)).finding is None
    finding = _finding(_lines(ledger.add("v6", writers.secure_message(seq))))
    assert (finding.position, finding.defect) == (7, Defect.SEQUENCE)
    assert finding.reason == f"seq {seq} is not above 5, the last of its stream"


def test_a_gap_in_a_sequence_is_sound() -> None:
    ledger = Ledger().add_all("v1", [writers.secure_message(seq) for seq in (1, 2, 7, 2**53 - 1)])
    assert _fold(_lines(ledger)).finding is None


def test_a_malformed_message_of_ours_is_named_and_history_is_counted() -> None:
    good = writers.secure_message(1)
    ledger = Ledger()
    ledger.add("v1", writers.prototype_message()).add("v1", writers.trust_loop_message())
    ledger.add("v1", Event("MESSAGE", "w", {"what": "else"}, signature="?")).add("v1", good)
    chain = _fold(_lines(ledger))
    assert chain.finding is None
    assert chain.tally.messages == {"prototype": 1, "trust-loop": 1, "other": 1, "secure-v2": 1}
    assert chain.tally.other_signatures == 1  # a placeholder is none
    with_text = replace(
        writers.secure_message(2), metadata={**writers.secure_message(2).metadata, "text": "hi"}
    )
    finding = _finding(_lines(ledger.add("v1", with_text)))
    assert (finding.position, finding.defect) == (5, Defect.MESSAGE)


@pytest.mark.parametrize("dialect", ["v1", "v7"])
def test_a_malformed_event_of_ours_is_named(dialect: str) -> None:
    good = writers.registration(1)
    ledger = Ledger().add_all(dialect, [writers.login(), *good])
    assert _fold(_lines(ledger)).finding is None
    for metadata in ({"kind": "identity"}, {**good[1].metadata, "key": "in the clear"}):
        bad = Ledger(list(ledger.lines), ledger.head)
        bad.add(dialect, Event("IDENTITY", writers.wallet(1), metadata))
        finding = _finding(_lines(bad.add(dialect, writers.login())))
        assert (finding.position, finding.defect) == (4, Defect.EVENT)
        assert finding.reason.startswith("a malformed IDENTITY: ")


def test_signatures_are_counted_and_none_is_called_verified_unless_it_was() -> None:
    events = [
        writers.secure_message(1),
        writers.secure_message(2, signed=False),
        writers.secure_message(1, device="unknown"),
        writers.secure_message(3),
    ]
    lines = _lines(Ledger().add_all("v1", events))
    tally = _fold(lines).tally
    assert (tally.signed, tally.unsigned, tally.verified) == (3, 1, 0)

    asked: list[int] = []

    def knows_one_device(record: Record, event: MessageEvent) -> bool | None:
        asked.append(record.position)
        return True if event.device == "0" else None

    chain = Chain()
    assert chain.extend(lines, check_signature=knows_one_device) is None
    assert (chain.tally.signed, chain.tally.verified) == (3, 2)
    assert asked == [1, 3, 4]

    chain = Chain()
    finding = chain.extend(lines, check_signature=lambda record, _: record.position != 4)
    assert finding == Finding(4, Defect.SIGNATURE, "its signature does not verify")
    assert (chain.tally.signed, chain.tally.verified, chain.head.position) == (2, 2, 3)


def test_a_saved_head_is_borne_out_or_named() -> None:
    ledger = Ledger().add_all("v1", writers.conversation("v1"))
    lines = _lines(ledger)
    head_at_3 = _fold(lines[:3]).head
    for expected in (head_at_3, Head(6, ledger.head), EMPTY):
        chain = Chain()
        chain.extend(lines, expected=expected)
        assert chain.finish(expected) is None
    chain = Chain()
    assert chain.extend(lines, expected=Head(3, ledger.head)) == Finding(
        3, Defect.HEAD, "it is not the record of the saved head"
    )
    chain = Chain()
    chain.extend(lines[:5], expected=Head(6, ledger.head))
    assert chain.finish(Head(6, ledger.head)) == Finding(
        6, Defect.HEAD, "it is missing: the saved head is at position 6"
    )


def test_records_whose_hash_leaves_borders_open_are_counted() -> None:
    # v2 to v7 hash fields joined by '|': these two records have one hash.
    one = Ledger().add("v7", Event("b|LOGIN", "a", {}))
    two = Ledger().add("v7", Event("LOGIN", "a|b", {}))
    assert one.head == two.head
    for ledger, ambiguous in ((one, 1), (two, 1), (Ledger().add("v1", Event("L", "a|b", {})), 0)):
        chain = _fold(_lines(ledger))
        assert chain.finding is None
        assert chain.tally.ambiguous == ambiguous


def test_event_types_do_not_fill_memory() -> None:
    names = [f"T{number}" for number in range(MAX_EVENT_TYPES + 5)]
    ledger = Ledger().add_all(
        "v1", [Event(name, "w", {}) for name in [*names, "T0", "no id", "x" * 129]]
    )
    tally = _fold(_lines(ledger)).tally
    assert len(tally.events) == MAX_EVENT_TYPES
    assert tally.events["T0"] == 2
    assert tally.unnamed_events == 7


def test_a_line_too_long_is_no_record() -> None:
    line = b'{"id": "' + b"x" * MAX_LINE
    assert _finding([line]) == Finding(1, Defect.RECORD, f"it is longer than {MAX_LINE} bytes")


def test_follow_gives_the_line_that_follows() -> None:
    ledger = Ledger().add("v1", writers.login())
    line = follow(ledger.lines[0][:-1], 1, writers.ZEROS)
    assert isinstance(line, Line)
    assert line.record.event_hash == ledger.head


def test_a_torn_line_is_whole_or_cut_short() -> None:
    line = Ledger().add("v1", writers.login()).lines[0][:-1]
    whole = torn(line, 1, writers.ZEROS)
    assert (whole.position, whole.defect) == (1, Defect.TORN)
    assert "newline is missing" in whole.reason
    for text, prev_hash in ((line[:-1], writers.ZEROS), (line, "1" * 64)):
        cut = torn(text, 1, prev_hash)
        assert cut.defect is Defect.TORN
        assert f"{len(text)} bytes" in cut.reason


STREAMS = st.tuples(st.integers(1, 3), st.integers(4, 5), st.sampled_from("ab"))
MESSAGES = st.lists(st.tuples(STREAMS, st.integers(1, 30), st.booleans()), max_size=14)
DAMAGE = st.none() | st.tuples(st.integers(0, 20), st.sampled_from(["drop", "swap", "flip"]))


def _ledger(messages: list[tuple[tuple[int, int, str], int, bool]], *, rising: bool) -> Ledger:
    ledger = Ledger()
    last: dict[tuple[int, int, str], int] = {}
    for number, ((sender, recipient, device), seq, signed) in enumerate(messages):
        stream = (sender, recipient, device)
        if rising:
            seq += last.get(stream, 0)
        last[stream] = seq
        event = writers.secure_message(
            seq, sender=sender, recipient=recipient, device=device, signed=signed
        )
        ledger.add(DIALECTS[number % 7], event)
        if number % 3 == 0:
            ledger.add("v1", Event(f"T{number}", "w", {}))
    return ledger


def _state(chain: Chain) -> object:
    return (chain.head, chain.size, chain.last_seqs, asdict(chain.tally), chain.finding)


@settings(max_examples=200)
@given(MESSAGES, st.booleans(), DAMAGE, st.sets(st.integers(1, 20)), st.integers(0, 25))
def test_runs_that_are_joined_say_what_one_run_says(
    messages: list[tuple[tuple[int, int, str], int, bool]],
    rising: bool,
    damage: tuple[int, str] | None,
    cuts: set[int],
    saved: int,
) -> None:
    lines = _lines(_ledger(messages, rising=rising))
    if damage is not None and damage[0] < len(lines):
        at, how = damage
        if how == "drop":
            del lines[at]
        elif how == "swap":
            lines[at], lines[at - 1] = lines[at - 1], lines[at]
        else:
            lines[at] = lines[at].replace(b"a", b"b", 1)
    expected = Head(saved, "f" * 64) if saved else None
    one = Chain()
    one.extend(lines, expected=expected)

    joined = Chain()
    borders = [0, *sorted(cut for cut in cuts if cut < len(lines)), len(lines)]
    for start, end in pairwise(borders):
        piece = Chain.from_the_middle(start)
        piece.extend(lines[start:end], expected=expected)
        if not joined.join(piece):
            joined.extend(lines[start:end], expected=expected)
        if joined.finding is not None:
            break
    assert _state(joined) == _state(one)


def test_a_sound_piece_is_joined_without_reading_it_again() -> None:
    lines = _lines(_every_dialect_in_one())
    chain = _fold(lines[:20])
    piece = Chain.from_the_middle(20)
    piece.extend(lines[20:])
    assert chain.join(piece)
    assert _state(chain) == _state(_fold(lines))


def test_a_stream_must_rise_into_a_piece_and_not_only_within_it() -> None:
    lines = _lines(Ledger().add_all("v1", [writers.secure_message(seq) for seq in (5, 3, 8)]))
    chain = _fold(lines[:1])
    piece = Chain.from_the_middle(1)
    assert piece.extend(lines[1:]) is None
    assert not chain.join(piece)
    assert _state(chain) == _state(_fold(lines[:1]))
    finding = chain.extend(lines[1:])
    assert finding is not None
    assert (finding.position, finding.defect) == (2, Defect.SEQUENCE)


def test_a_piece_is_joined_only_where_it_belongs() -> None:
    lines = _lines(_every_dialect_in_one())
    with pytest.raises(ValueError, match="does not start"):
        _fold(lines[:3]).join(Chain.from_the_middle(4))
    with pytest.raises(ValueError, match="does not start"):
        _fold(lines[:3]).join(Chain(Head(3, "x")))  # a whole chain is no piece
    with pytest.raises(ValueError, match="no head"):
        _ = Chain.from_the_middle(4).head


def test_event_types_are_counted_alike_however_the_ledger_is_cut() -> None:
    names = [f"T{number}" for number in range(MAX_EVENT_TYPES + 40)]
    events = [Event(name, "w", {}) for name in [*names, *reversed(names)]]
    lines = _lines(Ledger().add_all("v1", events))
    one = _fold(lines)
    joined = Chain()
    for start in range(0, len(lines), len(names)):
        piece = Chain.from_the_middle(start)
        piece.extend(lines[start : start + len(names)])
        assert joined.join(piece)
    assert _state(joined) == _state(one)
    assert one.tally.unnamed_events == 80

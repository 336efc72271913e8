"""core/dialects: every dialect is read and written as the host does, and no byte changes unseen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.core import dialects
from plugins.secure_chat.core.dialects import V1, Dialect, Family, NotARecord, encode, parse
from plugins.secure_chat.core.records import GENESIS_PREV_HASH, EventDraft
from tests.ledgers import writers
from tests.ledgers.writers import DIALECTS, START, V2_DIALECTS, ZEROS, Event

FAMILIES = {
    "v1": Family.V1,
    "v2": Family.V2,
    "v3": Family.V3,
    "v4": Family.V3,
    "v5": Family.V3,
    "v6": Family.V6,
    "v7": Family.V7,
}
ALL = [V1] + [
    Dialect(family, spaced)
    for family in Family
    if family is not Family.V1
    for spaced in (False, True)
]
STYLES = [("v1", 2), *((dialect, pydantic) for dialect in V2_DIALECTS for pydantic in (1, 2))]


def _survives_json(text: str) -> bool:
    """JSON joins two halves of a surrogate pair that stand side by side."""
    return text == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


ANY_TEXT = st.text(st.characters()).filter(_survives_json)  # halves of surrogates included
HOST_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False)
)


def _metadata(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    scalars = st.one_of(st.none(), st.booleans(), NUMBERS, text)
    values = st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=8
    )
    flat = st.dictionaries(text, st.one_of(text, st.integers(), st.lists(text, max_size=3)))
    either = flat | st.dictionaries(text, values, max_size=6)
    return either.filter(lambda metadata: "signature" not in metadata)  # has a test of its own


ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126))
DRAFTS = st.builds(
    EventDraft,
    event_type=HOST_TEXT,
    wallet=HOST_TEXT,
    metadata=_metadata(ANY_TEXT) | _metadata(ASCII),
    value=st.integers(-(2**53), 2**53),
)
HOST_EVENTS = st.builds(
    Event,
    event_type=HOST_TEXT,
    wallet=HOST_TEXT,
    metadata=_metadata(HOST_TEXT) | _metadata(ASCII),
    value=st.none() | st.integers(-(2**53), 2**53),
)
MOMENTS = st.datetimes(datetime(2025, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 -- see timezones
EXAMPLES = settings(max_examples=50)


@pytest.mark.parametrize("dialect", ALL, ids=str)
@EXAMPLES
@given(draft=DRAFTS, moment=MOMENTS)
def test_what_is_encoded_reads_back_as_it_was(
    dialect: Dialect, draft: EventDraft, moment: datetime
) -> None:
    line, written = encode(
        dialect, draft, moment=moment, prev_hash=GENESIS_PREV_HASH, event_id="some-id"
    )
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = parse(line[:-1], 0)
    assert read.hash_is_right
    assert read.is_canonical
    assert read.record == written
    assert read.record.metadata == draft.metadata
    assert (read.record.wallet, read.record.event_type) == (draft.wallet, draft.event_type)
    assert float(read.record.value) == draft.value
    if not (dialect.family is Family.V2 and moment.microsecond == 0):  # v2 then looks like v3
        assert read.dialect == dialect


@pytest.mark.parametrize(("dialect", "pydantic"), STYLES)
@EXAMPLES
@given(event=HOST_EVENTS)
def test_what_the_host_writes_is_read(dialect: str, pydantic: int, event: Event) -> None:
    ledger = writers.Ledger().add(dialect, event, pydantic=pydantic)
    line = parse(ledger.data[:-1], 1)
    assert line.hash_is_right
    assert line.is_canonical
    assert line.dialect.family is FAMILIES[dialect]
    assert line.dialect.spaced == (dialect == "v1" or pydantic == 1)
    assert line.record.event_hash == ledger.head
    assert line.record.prev_hash == ZEROS
    assert line.record.wallet == event.wallet
    assert line.record.metadata == event.metadata


def _has_exponents(line: bytes) -> bool:
    """Whether a number in it is spelled with one: pydantic's own spelling changed over time."""
    found: list[str] = []
    json.loads(line, parse_float=lambda text: found.append(text))
    return any("e" in text for text in found)


@pytest.mark.parametrize(("dialect", "pydantic"), STYLES)
@EXAMPLES
@given(event=HOST_EVENTS)
def test_what_is_encoded_is_what_the_host_would_write(
    dialect: str, pydantic: int, event: Event
) -> None:
    value = event.value or 0
    explicit = Event(event.event_type, event.wallet, event.metadata, "c2lnbmF0dXJl", value)
    ledger = writers.Ledger().add(dialect, explicit, pydantic=pydantic)
    line, record = encode(
        Dialect(FAMILIES[dialect], dialect == "v1" or pydantic == 1),
        EventDraft(event.event_type, event.wallet, event.metadata, "c2lnbmF0dXJl", int(value)),
        moment=START,
        prev_hash=ZEROS,
        event_id="00000000-0000-0000-0000-000000000001",
    )
    assert record.event_hash == ledger.head
    if pydantic == 1 or not _has_exponents(ledger.data):
        assert line == ledger.data


@settings(max_examples=300)
@given(draft=DRAFTS, at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_the_plain_way_never_says_yes_where_the_exact_way_says_no(
    draft: EventDraft, at: float, byte: int
) -> None:
    line = bytearray(
        encode(V1, draft, moment=START, prev_hash=ZEROS, event_id="an-id")[0].removesuffix(b"\n")
    )
    line[int(at * len(line))] = byte
    try:
        read = parse(bytes(line), 7)
    except NotARecord:
        read = None
    if read is not None and read.hash_is_right and read.is_canonical:
        assert dialects._parse_exact(bytes(line), 7) == read


@pytest.mark.parametrize(
    "metadata",
    [
        {"del": "\x7f"},
        {"quote": 'a"b', "escape": "a\\b"},
        {"huge": 2**64, "below": -(2**63) - 1},
        {"1e16": 1e16},
        {"1e-7": 1e-7},
        {"1e-5": 0.00001},
        {"e-05": [1e-05, -1.5e-05, 9.9e-05], "odd": [-0.0, 5e-324, 1.7976931348623157e308]},
        {"flag": True},
        {"none": None},
        {"nested": {"list": [1, [2], {"a": None}], "flag": True}},
        {"comma, ": 'x": y', "numbers": [1, 2]},
        {"cids": ["a", "b"], "none": []},
        {"half": "\ud800", "other half": "x\udc00y"},
        {"": "", "\U0001f600": "é", "\uffff": "\u2028"},
    ],
    ids=lambda metadata: " ".join(metadata).encode("ascii", "replace").decode(),
)
@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_awkward_metadata_reads_back(dialect: Dialect, metadata: dict[str, Any]) -> None:
    draft = EventDraft("X", "w", metadata)
    line, _ = encode(dialect, draft, moment=START, prev_hash=ZEROS, event_id="i")
    read = parse(line[:-1], 1)
    assert (read.hash_is_right, read.is_canonical) == (True, True)
    assert read.record.metadata == metadata
    assert dialects._parse_exact(line[:-1], 1) == read


@pytest.mark.parametrize("dialect", ["v5", "v6"])
@pytest.mark.parametrize("pydantic", [1, 2])
def test_a_defaulted_value_hashed_as_0_may_be_written_as_either(
    dialect: str, pydantic: int
) -> None:
    data = writers.Ledger().add(dialect, writers.login(), pydantic=pydantic).data[:-1]
    assert json.loads(data)["value"] == 0
    written = b'"value":0.0,' if pydantic == 2 else b'"value": 0,'
    assert written in data
    read = parse(data, 1)
    assert (read.hash_is_right, read.is_canonical) == (True, True)


def test_the_allowance_for_a_defaulted_value_is_for_its_dialects_alone() -> None:
    for timestamp, allowed in (
        ("2025-12-15T14:30:07Z", True),
        ("1970-01-01T00:00:00Z", True),
        ("2025-12-15T14:30:07.381071Z", False),
    ):
        line, _ = writers.v2_line("v5", Event("LOGIN", "w", {}), ZEROS, timestamp)
        assert b'"value":0.0,' in line
        assert parse(line[:-1], 1).hash_is_right is allowed
        negative = line.replace(b'"value":0.0,', b'"value":-0.0,')
        assert not parse(negative[:-1], 1).hash_is_right


@pytest.mark.parametrize("spelled", [b"1e16", b"1e+16"])
def test_pydantics_spellings_of_an_exponent_are_known(spelled: bytes) -> None:
    line, _ = writers.v2_line("v3", Event("P", "w", {"f": 1e-7}, value=1e16), ZEROS, "T")
    respelled = line.replace(b"1e+16", b"1e16").replace(b"1e16", spelled)
    read = parse(respelled[:-1], 1)
    assert (read.hash_is_right, read.is_canonical) == (True, True)
    other = parse(respelled.replace(spelled, b"10000000000000000.0")[:-1], 1)
    assert (other.hash_is_right, other.is_canonical) == (True, False)


@pytest.mark.parametrize("wallet", ["w", "wé"], ids=["plain", "with an escape"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_contents_in_other_bytes_are_not_canonical(dialect: str, wallet: str) -> None:
    event = Event("LOGIN", wallet, {"a": "b", "n": 100.0})
    line = writers.Ledger().add(dialect, event).data[:-1]
    comma = b'", "' if dialect == "v1" else b'","'
    others = [
        line + b" ",
        line + b"\r",
        b" " + line,
        line.replace(comma, b'" ,"', 1),
        line.replace(b'"a":', b'"a" :'),
        line.replace(b'"a"', b'"\\u0061"'),
        line.replace(b"LOGIN", b"\\u004cOGIN"),
        line.replace(b"100.0", b"1e2"),
        line.replace(b"100.0", b"100.00"),
        line.replace(b'"metadata', b'"wallet": "x", "metadata'),
        line.replace(b'"a":', b'"a": 1, "a":'),
    ]
    if wallet != "w":
        others.append(line.replace("é".encode(), b"\\u00E9").replace(b"\\u00e9", b"\\u00E9"))
    for other in others:
        assert other != line
        try:
            read = parse(other, 1)
        except NotARecord:
            continue
        assert not read.is_canonical


def test_a_record_that_follows_no_hash_is_none_even_if_its_own_is_right() -> None:
    for prev_hash in ("", "genesis", "0" * 63, "F" * 64, "0" * 63 + " ", "0" * 96):
        for line, _ in (
            writers.v1_line(Event("X", "w", {}), prev_hash, "T", "i"),
            writers.v2_line("v7", Event("X", "w", {}), prev_hash, "1970-01-01T00:00:00Z"),
        ):
            with pytest.raises(NotARecord, match="hex digits"):
                parse(line[:-1], 1)


NOT_RECORDS = {
    b"": "it is not JSON",
    b"not json": "it is not JSON",
    b"\xff\xfe{\x00}\x00": "it is not JSON",
    b"[1]": "it is not a JSON object",
    b"{}": "its fields are those of no ledger dialect",
    b'{"id": "1"}': "its fields are those of no ledger dialect",
    b"[" * 100_000: "it is nested too deeply",
    b'{"id": ' + b"[" * 100_000: "it is nested too deeply",
    b"[" * 200: "it is not JSON",
    b'{"value": ' + b"9" * 5000 + b"}": "it is not JSON",
}


@pytest.mark.parametrize("line", NOT_RECORDS, ids=lambda line: repr(line[:16]))
def test_what_is_no_record_is_refused_with_a_reason(line: bytes) -> None:
    with pytest.raises(NotARecord, match=NOT_RECORDS[line]):
        parse(line, 1)


@pytest.mark.parametrize(
    ("dialect", "field", "value"),
    [
        ("v1", "id", 1),
        ("v1", "wallet", None),
        ("v1", "epoch", "1"),
        ("v1", "epoch", True),
        ("v1", "event_type", []),
        ("v1", "value", 0.0),
        ("v1", "value", True),
        ("v1", "value", "0"),
        ("v1", "metadata", []),
        ("v1", "hash", 5),
        ("v1", "hash", "A" * 128),
        ("v1", "prev_hash", "0" * 63),
        ("v1", "prev_hash", "0" * 63 + " "),
        ("v1", "timestamp", 1.5),
        ("v1", "signature", None),
        ("v3", "value", None),
        ("v3", "value", False),
        ("v3", "value", {}),
        ("v3", "value", "0"),  # a string where the timestamp is not that of v7
        ("v3", "wallet", "\ud800"),  # cannot be hashed as UTF-8
        ("v7", "previous_hash", "é" * 64),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(dialect: str, field: str, value: object) -> None:
    fields = json.loads(writers.Ledger().add(dialect, writers.login()).data)
    assert field in fields
    line = json.dumps({**fields, field: value}).encode()
    with pytest.raises(NotARecord):
        parse(line, 1)


def test_deep_metadata_is_refused_not_crashed_on() -> None:
    for depth in (400, 900, 990, 1010, 5000):
        nested = b"[" * depth + b"]" * depth
        for dialect in DIALECTS:
            line = writers.Ledger().add(dialect, Event("E", "w", {"a": 1})).data[:-1]
            colon = b'"a": ' if dialect == "v1" else b'"a":'
            try:
                read = parse(line.replace(colon + b"1", colon + nested), 1)
            except NotARecord:
                continue
            assert not read.hash_is_right


@pytest.mark.parametrize("dialect", ALL, ids=str)
@pytest.mark.parametrize(
    "draft",
    [
        EventDraft("X", "w", {"pair": "\ud83d\ude00", "\ud83d\ude00": 1, "\uffff": 2}),
        EventDraft("X", "w", {1: "a", "1": "b"}),  # type: ignore[dict-item]
        EventDraft("X", "w", {"bytes": b"x"}),
        EventDraft("X", "w", {"deep": json.loads("[" * 900 + "]" * 900)}),
        EventDraft("X", "w", {"set": {1}}),
        EventDraft(None, "w", {}),  # type: ignore[arg-type]
        EventDraft("X", 5, {}),  # type: ignore[arg-type]
        EventDraft("X", "w", {}, value=10**400),
    ],
    ids=range(8),
)
def test_an_event_is_refused_or_reads_back(dialect: Dialect, draft: EventDraft) -> None:
    try:
        line, _ = encode(dialect, draft, moment=START, prev_hash=ZEROS, event_id="i")
    except ValueError:
        return
    read = parse(line[:-1], 1)
    assert (read.hash_is_right, read.is_canonical) == (True, True)


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_an_event_that_json_cannot_hold_is_refused(dialect: Dialect) -> None:
    for metadata in ({"bytes": b"x"}, {"not text": {1: 2, "1": 3}}):
        with pytest.raises(ValueError):
            encode(
                dialect,
                EventDraft("X", "w", metadata),
                moment=START,
                prev_hash=ZEROS,
                event_id="i",
            )


def test_an_amount_that_a_float_cannot_hold_is_refused_not_rounded() -> None:
    draft = EventDraft("X", "w", {}, value=2**53 + 1)
    for dialect in ALL:
        if dialect.family in (Family.V1, Family.V7):
            line, _ = encode(dialect, draft, moment=START, prev_hash=ZEROS, event_id="i")
            assert str(2**53 + 1).encode() in line
        else:
            with pytest.raises(ValueError, match="cannot hold this value"):
                encode(dialect, draft, moment=START, prev_hash=ZEROS, event_id="i")


def test_a_signature_is_carried_where_the_dialect_has_room_for_it() -> None:
    for dialect in ALL:
        draft = EventDraft("MESSAGE", "w", {"a": 1}, signature="c2ln")
        line, written = encode(dialect, draft, moment=START, prev_hash=ZEROS, event_id="an-id")
        read = parse(line[:-1], 0).record
        assert read == written
        assert read.signature == "c2ln"
        if dialect.family is Family.V1:
            assert (read.event_id, read.metadata) == ("an-id", {"a": 1})
        else:
            assert (read.event_id, read.metadata) == (
                read.event_hash,
                {"a": 1, "signature": "c2ln"},
            )
            with pytest.raises(ValueError, match="another signature"):
                encode(
                    dialect,
                    EventDraft("MESSAGE", "w", {"signature": "other"}, signature="c2ln"),
                    moment=START,
                    prev_hash=ZEROS,
                    event_id="i",
                )

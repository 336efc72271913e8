"""core/message_event: what the ledger keeps of a message, and what it is not."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.secure_chat.core import message_event
from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.envelope import (
    ChatMessage,
    decode_base64,
    message_hash,
    validate,
)
from plugins.secure_chat.core.message_event import (
    MalformedMessage,
    MessageEvent,
    MessageKind,
    claims_to_be_secure,
    from_record,
    kind,
    message_draft,
)
from plugins.secure_chat.core.records import Record
from plugins.secure_chat.core.sequence import Stream
from plugins.secure_chat.errors import InvalidMessage
from tests.ledgers import writers
from tests.ledgers.writers import DIALECTS, Event

CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
SIXTY_FOUR = base64.b64encode(bytes(64)).decode()


def _record(event: Event, dialect: str = "v1") -> Record:
    return parse(writers.Ledger().add(dialect, event).data[:-1], 1).record


def _with(record: Record, **metadata: Any) -> Record:
    return replace(record, metadata={**record.metadata, **metadata})


@pytest.fixture
def secure() -> Record:
    return _record(writers.secure_message(7))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_message_of_ours_reads_the_same_from_every_dialect(dialect: str) -> None:
    event = writers.secure_message(7, device="phone")
    record = _record(event, dialect)
    read = from_record(record)
    assert read.draft("").metadata == event.metadata
    assert read.stream == Stream(writers.wallet(1), "phone", writers.wallet(2))
    assert record.signature == event.signature
    assert kind(record) is MessageKind.SECURE
    assert read.draft(event.signature).metadata == event.metadata


def test_the_event_of_an_envelope_holds_no_ciphertext() -> None:
    ciphertext, nonce = bytes(range(200)), bytes(12)
    encoded = base64.b64encode(ciphertext).decode()
    frame = ChatMessage(
        recipient="bob",
        ciphertext=encoded,
        nonce=base64.b64encode(nonce).decode(),
        seq=3,
        ts=1.5,
        hash=base64.b64encode(message_hash(ciphertext, nonce, 3)).decode(),
        cids=[CID],
    )
    draft = message_draft(validate(frame, "alice"))
    assert (draft.event_type, draft.wallet, draft.value) == ("MESSAGE", "alice", 0)
    assert draft.metadata == {
        "hash": frame.hash,
        "sender": "alice",
        "recipient": "bob",
        "nonce": frame.nonce,
        "device": "0",
        "seq": 3,
        "ts": 1.5,
        "size": 200,
        "cids": [CID],
    }
    assert encoded not in str(draft)


def test_an_event_survives_its_metadata() -> None:
    event = MessageEvent("a", "0", "b", SIXTY_FOUR[:43] + "=", "A" * 16, 2**53 - 1, -1, 16, (CID,))
    record = Record(1, "", "MESSAGE", "a", 0, event.draft("").metadata, "", "", "", "")
    assert from_record(record) == event


BAD_FIELDS: list[tuple[str, Any]] = [
    ("hash", "A" * 44),
    ("hash", "A" * 42 + "B="),  # bits that decoding drops
    ("hash", "A" * 43),
    ("hash", SIXTY_FOUR),
    ("hash", "_" * 43 + "="),
    ("hash", None),
    ("nonce", "A" * 15),
    ("nonce", "A" * 17),
    ("nonce", "A" * 15 + "\n"),
    ("nonce", "A" * 16 + "\n"),
    ("nonce", 0),
    ("device", ""),
    ("device", "a b"),
    ("device", 0),
    ("recipient", "0x" + "A" * 40),  # not lower case
    ("recipient", "x" * 129),
    ("recipient", "böb"),
    ("recipient", ["bob"]),
    ("sender", writers.wallet(2)),  # not the wallet that logged it
    ("seq", 0),
    ("seq", -1),
    ("seq", 2**53),
    ("seq", 1.0),
    ("seq", True),
    ("seq", "1"),
    ("ts", True),
    ("ts", "1"),
    ("ts", None),
    ("ts", float("inf")),
    ("ts", float("nan")),
    ("ts", 2**53),
    ("size", 15),
    ("size", 16.0),
    ("size", True),
    ("size", 2**53),
    ("cids", []),
    ("cids", [CID, CID]),
    ("cids", [CID.upper()]),
    ("cids", [5]),
    ("cids", CID),
    ("cids", None),
    ("cids", [CID[:-2] + f"{a}{b}" for a in "abcdefgh" for b in "abcdefghi"]),
    ("signature", "another"),
    ("ciphertext", "AAAA"),
    ("text", "hello"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS, ids=lambda value: repr(value)[:24])
def test_a_message_that_breaks_a_rule_is_malformed(
    secure: Record, field: str, value: object
) -> None:
    assert kind(secure) is MessageKind.SECURE
    bad = _with(secure, **{field: value})
    with pytest.raises(MalformedMessage):
        from_record(bad)
    assert kind(bad) is MessageKind.MALFORMED


@pytest.mark.parametrize("field", ["sender", "recipient", "nonce", "device", "ts", "size"])
def test_a_message_that_lacks_a_field_is_malformed(secure: Record, field: str) -> None:
    bad = replace(
        secure, metadata={key: value for key, value in secure.metadata.items() if key != field}
    )
    assert kind(bad) is MessageKind.MALFORMED


@pytest.mark.parametrize(
    "signature", ["client_sig_placeholder", "A" * 88, SIXTY_FOUR[:-3] + "B==", SIXTY_FOUR + "\n"]
)
def test_a_placeholder_is_no_signature(secure: Record, signature: str) -> None:
    assert kind(replace(secure, signature="")) is MessageKind.SECURE
    assert kind(replace(secure, signature=SIXTY_FOUR)) is MessageKind.SECURE
    assert kind(replace(secure, signature=signature)) is MessageKind.MALFORMED


def test_a_message_has_no_value_and_no_other_wallet(secure: Record) -> None:
    for value in (0, 0.0, "0"):
        assert kind(replace(secure, value=value)) is MessageKind.SECURE
    for bad in (1, 0.5, "", "0.0", "1"):
        assert kind(replace(secure, value=bad)) is MessageKind.MALFORMED
    assert kind(replace(secure, wallet=writers.wallet(9))) is MessageKind.MALFORMED


def test_history_is_told_apart_from_messages() -> None:
    assert kind(_record(writers.prototype_message())) is MessageKind.PROTOTYPE
    for dialect in DIALECTS:
        assert kind(_record(writers.trust_loop_message(), dialect)) is MessageKind.TRUST_LOOP
    assert kind(_record(writers.login())) is None


def test_a_shape_that_nobody_knows_is_other_not_malformed() -> None:
    prototype = _record(writers.prototype_message())
    assert kind(replace(prototype, signature="")) is MessageKind.OTHER
    assert kind(_with(prototype, text="x")) is MessageKind.OTHER
    assert kind(_record(Event("MESSAGE", "w", {}))) is MessageKind.OTHER
    assert not claims_to_be_secure({"hash": "x"})
    assert not claims_to_be_secure({"seq": 1})


def test_only_a_message_is_a_message(secure: Record) -> None:
    login = replace(secure, event_type="LOGIN")
    assert kind(login) is None
    with pytest.raises(MalformedMessage):
        from_record(login)


def test_a_reason_names_the_rule_and_never_the_data(secure: Record) -> None:
    canary = "Xyz.canary.secret"
    for field in secure.metadata:
        with pytest.raises(MalformedMessage) as caught:
            from_record(_with(secure, **{field: canary + " "}))
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(min_size=0, max_size=70).map(lambda data: base64.b64encode(data).decode()),
        st.sampled_from([12, 32, 64]).flatmap(
            lambda size: st.binary(min_size=size, max_size=size).map(
                lambda data: base64.b64encode(data).decode()
            )
        ),
        st.from_regex(r"\A[A-Za-z0-9+/]{42}[A-Za-z0-9+/=]{2}\Z"),
        st.from_regex(r"\A[A-Za-z0-9+/]{85,86}={0,3}\Z"),
        st.text("AQgw=+/-_ \n", max_size=90),
    )
)
def test_the_patterns_accept_what_strict_base64_does(text: str) -> None:
    for pattern, size in (
        (message_event._HASH, 32),
        (message_event._NONCE, 12),
        (message_event._SIGNATURE, 64),
    ):
        try:
            strict = len(decode_base64(text, "x")) == size
        except InvalidMessage:
            strict = False
        assert (pattern.fullmatch(text) is not None) == strict

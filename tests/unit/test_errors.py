"""One table of codes: every code and every close code has its meaning, its exception and a test."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from plugins.secure_chat import errors
from plugins.secure_chat.core.frames import encode_frame, error_frame
from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.errors import CODES, Close, Code, LedgerUnavailable, Refusal
from plugins.secure_chat.transport.problems import problem

TESTS = Path(__file__).parents[1]

REFUSALS: list[Refusal | LedgerUnavailable] = [
    errors.MalformedFrame("d"),
    errors.InvalidMessage("seq", "d"),
    errors.HashMismatch("d"),
    errors.ReplayedSequence(7),
    errors.SequenceConflict(7),
    errors.MessageTooLarge("d"),
    errors.BadSignature("d"),
    errors.UnknownDevice("d"),
    errors.NotAMember("d"),
    errors.RateLimited(0.25),
    errors.Unauthorized("d"),
    errors.LedgerUnavailable("d"),
    errors.OutcomeUnknown("d"),
    errors.NotStored("d", Receipt(1, "id", "hash", "")),
    errors.DatabaseTaken("d"),
]


def test_every_code_has_a_meaning_and_an_exception() -> None:
    assert set(CODES) == set(Code)
    assert {error.code for error in REFUSALS} == set(Code) - {Code.INTERNAL}
    classes = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, (Refusal, LedgerUnavailable)) and cls is not Refusal
    }
    assert {type(error) for error in REFUSALS} == classes


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_is_the_same_on_the_socket_and_in_rest(
    error: Refusal | LedgerUnavailable,
) -> None:
    frame = json.loads(encode_frame(error_frame(error)))
    assert frame == {"type": "ERROR", "code": error.code, "detail": error.detail, **error.extra}
    answer = problem(error.code, error.detail, error.extra)
    body = json.loads(bytes(answer.body))
    assert answer.media_type == "application/problem+json"
    assert answer.status_code == body["status"] == CODES[error.code].status
    assert {"code", "detail", "title", "type"} <= set(body)
    assert {name: body[name] for name in error.extra} == error.extra
    assert ("retry-after" in answer.headers) == ("retry_after" in error.extra)
    assert ("www-authenticate" in answer.headers) == (error.code is Code.UNAUTHORIZED)


def test_statuses_are_those_that_clients_were_told() -> None:
    """They are part of what /v1 promises, as the codes are."""
    told = {
        400: {"malformed_frame"},
        401: {"unauthorized"},
        403: {"unknown_device", "not_a_member"},
        409: {"replayed_sequence", "sequence_conflict"},
        413: {"message_too_large"},
        422: {"invalid_message", "hash_mismatch", "bad_signature"},
        429: {"rate_limited"},
        500: {"internal"},
        503: {"ledger_unavailable"},
    }
    assert {code.value: meaning.status for code, meaning in CODES.items()} == {
        code: status for status, codes in told.items() for code in codes
    }


def test_retry_after_is_never_zero_seconds() -> None:
    answer = problem(Code.RATE_LIMITED, "d", {"retry_after": 0.01})
    assert answer.headers["retry-after"] == "1"
    assert problem(Code.RATE_LIMITED, "d", {"retry_after": 4.2}).headers["retry-after"] == "5"


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+) +([a-z]+_[a-z_]+|unauthorized)", errors.__doc__ or ""))
    assert drawn == {
        type(error).__name__: error.code.value
        for error in REFUSALS
        if type(error) is errors.LedgerUnavailable or isinstance(error, Refusal)
    }


def _texts(*roots: str) -> str:
    return "\n".join(
        path.read_text()
        for root in roots
        for path in sorted((TESTS / root).rglob("*.py"))
        if path != Path(__file__)
    )


@pytest.mark.parametrize("code", sorted(Code))
def test_every_code_that_the_server_gives_is_tested_through_the_host(code: Code) -> None:
    assert f'"{code.value}"' in _texts("plugin", "faults", "e2e")


@pytest.mark.parametrize("close", sorted(Close))
def test_every_close_code_is_tested_through_the_host(close: Close) -> None:
    assert re.search(rf"\b{close.value}\b", _texts("plugin", "faults", "e2e"))

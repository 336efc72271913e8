"""Identifiers: which there are, and their one canonical form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.errors import InvalidMessage


@pytest.mark.parametrize(
    "identifier",
    ["wallet_alice", "user_" + "0f" * 16, "Mixed.Case-Name:1", "a", "A" * 128, "0", "0xNotHex"],
)
def test_an_identifier_stays_as_it_is(identifier: str) -> None:
    assert canonical(identifier, "sub") == identifier


@pytest.mark.parametrize("prefix", ["0x", "0X"])
def test_an_address_has_one_form_in_whatever_case_it_came(prefix: str) -> None:
    assert canonical(prefix + "aBcDeF0123" * 4, "sub") == "0x" + "abcdef0123" * 4


@pytest.mark.parametrize("length", [39, 41])
def test_what_only_starts_like_an_address_is_a_name(length: int) -> None:
    name = "0x" + "A" * length
    assert canonical(name, "sub") == name


@pytest.mark.parametrize(
    "identifier", ["", "a" * 129, "a b", "a\n", "\n", "ä", "a/b", "a\0", "a,b", "\u0661", "a@b"]
)
def test_anything_else_is_refused_and_not_repeated(identifier: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        canonical(identifier, "device")
    assert refusal.value.field == "device"
    assert refusal.value.detail == "device must match [A-Za-z0-9_.:-]{1,128}"


@given(st.text(max_size=140))
def test_the_canonical_form_is_its_own_canonical_form(text: str) -> None:
    try:
        once = canonical(text, "f")
    except InvalidMessage:
        assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", text) is None
    else:
        assert canonical(once, "f") == once
        assert once.lower() == text.lower()

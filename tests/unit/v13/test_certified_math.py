"""CertifiedMath: truncation, range and the numbers of the host."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.libs.CertifiedMath import MAX_RAW, SCALE, BigNum128, CertifiedMath

cm = CertifiedMath()
raw = st.integers(min_value=0, max_value=MAX_RAW)


def number(text: str) -> BigNum128:
    return BigNum128.from_string(text)


def test_numbers_are_scaled_by_1e18() -> None:
    assert BigNum128.from_int(7).value == 7 * 10**18
    assert number("0.1").value == 10**17
    assert number("0.1").to_decimal_string() == "0.100000000000000000"


@given(raw)
def test_a_decimal_string_reads_back_as_the_same_number(value: int) -> None:
    assert number(BigNum128(value).to_decimal_string()) == BigNum128(value)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".5", "-1", "+1", "1e3", " 1", "1 ", "١", "0.1234567890123456789", "1_0"],
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain decimal"):
        number(text)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_a_raw_value_is_an_int_and_nothing_like_one(value: object) -> None:
    with pytest.raises(TypeError):
        BigNum128(value)  # type: ignore[arg-type]


def test_the_range_is_128_bits_without_a_sign() -> None:
    assert BigNum128(MAX_RAW).value == 2**128 - 1
    with pytest.raises(OverflowError):
        BigNum128(MAX_RAW + 1)
    with pytest.raises(ValueError, match="unsigned"):
        cm.sub(number("1"), number("2"))


@given(raw, raw.filter(bool))
def test_products_and_quotients_are_cut_or_overflow_never_rounded_or_wrapped(
    a: int, b: int
) -> None:
    for operation, exact in ((cm.mul, a * b // SCALE), (cm.div, a * SCALE // b)):
        if exact > MAX_RAW:
            with pytest.raises(OverflowError):
                operation(BigNum128(a), BigNum128(b))
        else:
            assert operation(BigNum128(a), BigNum128(b)).value == exact


def test_division_by_zero_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        cm.div(number("1"), number("0"))


@given(raw)
def test_a_root_is_the_floor_of_the_true_one(value: int) -> None:
    assert cm.sqrt(BigNum128(value)).value == math.isqrt(value * SCALE)


def test_exp_of_one_is_the_reference_number() -> None:
    assert cm.exp(number("1")).value == 2718281828459045226


def test_exp_of_ten_is_that_of_fifty_powers() -> None:
    """The host's clamped Omega can only come from this integer; 49 or 51 powers give others."""
    assert cm.exp(number("10")).value == 22026465794806716516022


def test_every_operation_is_logged_for_replay() -> None:
    log: list[dict[str, object]] = []
    cm.mul(number("2"), number("3"), log)
    cm.sqrt(number("4"), log)
    assert log == [
        {"op": "mul", "a": str(2 * SCALE), "b": str(3 * SCALE), "result": str(6 * SCALE)},
        {"op": "sqrt", "a": str(4 * SCALE), "result": str(2 * SCALE)},
    ]

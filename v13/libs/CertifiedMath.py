# ruff: noqa: N999 -- the host's file name
"""Fixed-point arithmetic at scale 1e18 on unsigned 128-bit numbers: the host's CertifiedMath.

A stand-in with the host's interface: same inputs, same integers. Every operation truncates, and
raises instead of wrapping. Only arithmetic may live here: no clock, no float, no I/O, and nothing
whose result could depend on the machine (the host's Zero-Simulation rules).
"""

from __future__ import annotations

from typing import Any, Final

SCALE: Final[int] = 1_000_000_000_000_000_000
SCALE_DIGITS: Final[int] = 18
MAX_RAW: Final[int] = (1 << 128) - 1
# The reference outputs are those of the series cut after x^50/50!; a term more or less shows at
# exp(10), where the host clamps.
EXP_LAST_POWER: Final[int] = 50


class BigNum128:
    """An unsigned number; ``value`` is the number times 1e18, at most 2^128 - 1. Immutable by use.

    Raises OverflowError above the range, ValueError below it, TypeError for anything but an int.
    """

    __slots__: tuple[str, ...] = ("value",)

    def __init__(self, value: int) -> None:
        if type(value) is not int:
            raise TypeError("a raw value is an int")
        if value < 0:
            raise ValueError("BigNum128 is unsigned")
        if value > MAX_RAW:
            raise OverflowError("beyond 128 bits")
        self.value: int = value

    @classmethod
    def from_int(cls, number: int) -> BigNum128:
        """``from_int(7).value`` is 7e18."""
        if type(number) is not int:
            raise TypeError("from_int takes an int")
        return cls(number * SCALE)

    @classmethod
    def from_string(cls, text: str) -> BigNum128:
        """Parse plain decimal digits with at most 18 of them behind a point: ``"0.1"``."""
        whole, point, fraction = text.partition(".")
        digits = whole + fraction
        if (
            whole == ""
            or (point != "" and fraction == "")
            or not (digits.isascii() and digits.isdecimal())
            or len(fraction) > SCALE_DIGITS
        ):
            raise ValueError("not a plain decimal number with at most 18 places")
        return cls(int(whole + fraction.ljust(SCALE_DIGITS, "0")))

    def to_decimal_string(self) -> str:
        """All 18 places, always: ``0.100000000000000000``."""
        whole, fraction = divmod(self.value, SCALE)
        return str(whole) + "." + str(fraction).rjust(SCALE_DIGITS, "0")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BigNum128):
            return NotImplemented
        return self.value == other.value

    def __repr__(self) -> str:
        return "BigNum128(" + str(self.value) + ")"


class CertifiedMath:
    """The operations. Each appends what it did to ``log_list`` when there is one, for replay."""

    def add(
        self, a: BigNum128, b: BigNum128, log_list: list[dict[str, Any]] | None = None
    ) -> BigNum128:
        return _logged("add", a, b, BigNum128(a.value + b.value), log_list)

    def sub(
        self, a: BigNum128, b: BigNum128, log_list: list[dict[str, Any]] | None = None
    ) -> BigNum128:
        """Raises ValueError when ``b`` is greater than ``a``."""
        return _logged("sub", a, b, BigNum128(a.value - b.value), log_list)

    def mul(
        self, a: BigNum128, b: BigNum128, log_list: list[dict[str, Any]] | None = None
    ) -> BigNum128:
        return _logged("mul", a, b, BigNum128(_quotient(a.value * b.value, SCALE)), log_list)

    def div(
        self, a: BigNum128, b: BigNum128, log_list: list[dict[str, Any]] | None = None
    ) -> BigNum128:
        """Raises ZeroDivisionError."""
        return _logged("div", a, b, BigNum128(_quotient(a.value * SCALE, b.value)), log_list)

    def sqrt(self, a: BigNum128, log_list: list[dict[str, Any]] | None = None) -> BigNum128:
        """The greatest raw value whose square is not above ``a``."""
        return _logged("sqrt", a, None, BigNum128(_integer_root(a.value * SCALE)), log_list)

    def exp(self, a: BigNum128, log_list: list[dict[str, Any]] | None = None) -> BigNum128:
        """The exponential by its power series, each term truncated, up to the 50th power."""
        term = SCALE
        total = SCALE
        for power in range(1, EXP_LAST_POWER + 1):
            term = _quotient(_quotient(term * a.value, SCALE), power)
            total += term
        return _logged("exp", a, None, BigNum128(total), log_list)


def _quotient(dividend: int, divisor: int) -> int:
    return divmod(dividend, divisor)[0]


def _integer_root(square: int) -> int:
    """Newton's method from above, which falls until it stands on the floor of the root."""
    if square == 0:
        return 0
    root = 1 << ((square.bit_length() + 1) >> 1)
    while True:
        lower = (root + _quotient(square, root)) >> 1
        if lower >= root:
            return root
        root = lower


def _logged(
    operation: str,
    a: BigNum128,
    b: BigNum128 | None,
    result: BigNum128,
    log_list: list[dict[str, Any]] | None,
) -> BigNum128:
    if log_list is not None:
        entry: dict[str, Any] = {"op": operation, "a": str(a.value), "result": str(result.value)}
        if b is not None:
            entry["b"] = str(b.value)
        log_list.append(entry)
    return result

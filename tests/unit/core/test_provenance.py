"""core/provenance: where an event of history came from, and when."""

from __future__ import annotations

import pytest

from plugins.secure_chat.core.provenance import moment_of


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        ("1765800000", "2025-12-15T12:00:00+00:00"),
        ("1765800000.25", "2025-12-15T12:00:00.250000+00:00"),
        ("1.7658e9", "2025-12-15T12:00:00+00:00"),
        ("1.7658e+09", "2025-12-15T12:00:00+00:00"),
        ("0", "1970-01-01T00:00:00+00:00"),
        ("-1", "1969-12-31T23:59:59+00:00"),
        ("253402300799", "9999-12-31T23:59:59+00:00"),
    ],
)
def test_seconds_since_1970_are_a_moment(at: str, moment: str) -> None:
    assert moment_of(at) == moment


@pytest.mark.parametrize(
    "at",
    [
        "2025-12-15T14:30:07Z",
        "2025-12-15T14:30:07.123456+00:00",
        "1765800000000",  # milliseconds: no year of four digits
        "1e400",
        "nan",
        "inf",
        "1_765_800_000",
        "in winter",
        " 1",
    ],
)
def test_any_other_text_stays_as_it_is(at: str) -> None:
    assert moment_of(at) == at

"""Where an event of history came from: what an import says of a record that it took over.

Such an event was decided on elsewhere and before. It is folded as it is, and the rules that hold
for a request made here are not asked of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

KEYS: Final = frozenset(("origin", "source", "line", "at"))
ORIGINS: Final = frozenset(("route", "engine", "v14"))
HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
MAX_TIME: Final = 64  # characters of a time as its source wrote it
MAX_COUNT: Final = (1 << 53) - 1
_SECONDS: Final = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII)


class Provenance(NamedTuple):
    """``origin``: which kind of export; ``source``: SHA-256 of its file, in hex; ``line``: the
    record's number in it, from 1; ``at``: the time that it gives, as it gives it."""

    origin: str
    source: str
    line: int
    at: str

    @property
    def moment(self) -> str:
        """``at`` as the contracts answer it."""
        return moment_of(self.at)


def moment_of(at: str) -> str:
    """ISO 8601 in UTC for a time in seconds since 1970; any other text as it is."""
    if _SECONDS.fullmatch(at) is not None:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # of no year that there is
            return datetime.fromtimestamp(float(at), UTC).isoformat()
    return at


def provenance_of(metadata: Mapping[str, Any]) -> Provenance | None:
    """The provenance in an event's metadata; None when it has none. Raises ValueError."""
    if not metadata.keys() & KEYS:
        return None
    if not metadata.keys() >= KEYS:
        raise ValueError("its provenance is not whole")
    origin, source, line, at = (metadata[key] for key in ("origin", "source", "line", "at"))
    if type(origin) is not str or origin not in ORIGINS:
        raise ValueError("its origin is not known")
    if type(source) is not str or HEX_DIGEST.fullmatch(source) is None:
        raise ValueError("source is not a SHA-256 in hex")
    if type(line) is not int or not 1 <= line <= MAX_COUNT:
        raise ValueError("line is not a record's number")
    if type(at) is not str or not 0 < len(at) <= MAX_TIME:
        raise ValueError("at is not a time")
    return Provenance(origin, source, line, at)

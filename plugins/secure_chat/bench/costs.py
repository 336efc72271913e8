"""What single kinds of work cost, beside the messages a second of the main table. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """How often a second ``what`` is done, and how often it should be; None when nobody asks."""

    section: str
    what: str
    per_second: float
    target: float | None = None

"""What single kinds of work cost, beside the messages a second of the main table. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured of ``what``, and what it should be; None when nobody asks."""

    section: str
    what: str
    value: float
    target: float | None = None
    unit: str = "/s"
    at_most: bool = False  # the target is an upper limit

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

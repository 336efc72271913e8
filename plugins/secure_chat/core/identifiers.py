"""Wallets, devices and threads: what an identifier may look like and its one canonical form."""

from __future__ import annotations

import functools
import re
from typing import Final

from plugins.secure_chat.errors import InvalidMessage

IDENTIFIER: Final[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_ADDRESS: Final[re.Pattern[str]] = re.compile(r"0[xX][0-9a-fA-F]{40}", re.ASCII)


@functools.lru_cache(maxsize=8192)  # a server hears the same wallets over and over
def canonical(identifier: str, field: str) -> str:
    """Return the canonical form: an ``0x`` address in lower case, anything else unchanged.

    Raises InvalidMessage naming ``field`` when it is not an identifier (SPEC.md, "Identifiers").
    """
    if IDENTIFIER.fullmatch(identifier) is None:
        raise InvalidMessage(field, f"{field} must match [A-Za-z0-9_.:-]{{1,128}}")
    if identifier[:2] in ("0x", "0X") and _ADDRESS.fullmatch(identifier) is not None:
        return identifier.lower()
    return identifier

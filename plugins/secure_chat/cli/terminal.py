"""Output of commands: nothing in a ledger or a file that is printed commands a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """``text`` as one line: what is not printable is replaced, line ends and escapes among it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _REPLACEMENT for each in text)


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on stdout, on one line and in ASCII: whatever the values are, it is JSON."""
    sys.stdout.write(json.dumps(values, separators=(",", ":")) + "\n")

"""How deep JSON nests, told without recursing; and JSON parsed only when that has an end.

Python's parser recurses on the C stack as deep as the process's recursion limit lets it: with a
high limit a long row of brackets ends the process. What strangers hand over is parsed through here.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MAX_DEPTH: Final = 200  # the host's records have three levels
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def too_deep(text: bytes) -> bool:
    """Whether ``text`` nests deeper than MAX_DEPTH; brackets inside of strings do not count."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    deepest = depth = 0
    for byte in _STRING.sub(b"", text):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest > MAX_DEPTH


def parse_json(text: bytes) -> Any:
    """The value of ``text``. Raises ValueError when it is no JSON in UTF-8, or nests too deeply."""
    if too_deep(text):
        raise ValueError("it is nested too deeply")
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError:  # the caller's own stack was near its end
        raise ValueError("it is nested too deeply") from None

"""Processes that a server starts for itself: how they are started, what they ignore, how requests
are told apart. What they do is their own modules'; nothing else of the chat is imported here.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import Final

HEADER: Final = struct.Struct(">I")
"""In front of every request: how many bytes follow."""

_NEEDED: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
    "TMPDIR",
    "SQLITE_TMPDIR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
)


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """To run ``module`` by the interpreter that runs here, under ``environment``."""
    return (sys.executable or "", "-m", module, *arguments)


def environment() -> dict[str, str]:
    """What an interpreter and its libraries need of the server's; no secret that is in it.

    Modules are found as they are here.
    """
    needed = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    return needed | {"PYTHONPATH": os.pathsep.join(sys.path)}


def framed(request: bytes) -> bytes:
    """``request`` behind its length."""
    return HEADER.pack(len(request)) + request


def ignore_signals() -> None:
    """A service manager signals every process: this one is needed until the server has drained."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

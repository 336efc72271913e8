"""Structured logs: one event a line, ``event key=value``; never a token, never a message.

Code logs through the standard library with fixed event names; values are counts, positions and
names of things of ours. A filter takes query strings out of whatever other libraries log.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

_SECRETS: Final = re.compile(r"(token=|[Bb]earer[ .])[^\s\"'&,]+")


def scrub(text: str) -> str:
    """``text`` without tokens, wherever a library may have put one."""
    return _SECRETS.sub(r"\1[removed]", text)


class _Line(logging.Formatter):
    """Human lines or JSON, both scrubbed, exceptions included."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = scrub(record.getMessage())
        if record.exc_info:
            message += "\n" + scrub(self.formatException(record.exc_info))
        if self._as_json:
            return json.dumps(
                {"at": moment, "level": record.levelname, "logger": record.name, "event": message}
            )
        return f"{moment} {record.levelname.lower()} {record.name} {message}"


class _Scrubbed(logging.Filter):
    """Lets every record pass, its tokens removed."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = scrub(text)
        if clean != text:
            record.msg, record.args = clean, None
        return True


_SCRUBBED: Final = _Scrubbed()


def scrub_server_logs() -> None:
    """Keep tokens out of what the web server logs, whoever runs it and however it is set up.

    uvicorn writes the whole URL of each WebSocket at INFO, the host's ``?token=`` included.
    """
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_SCRUBBED)  # adding it again changes nothing


def configure(*, as_json: bool) -> None:
    """Send all logs to stderr, INFO and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Their INFO lines name addresses and paths of every connection.
    for noisy in ("uvicorn.access", "websockets", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

"""logs: whatever is logged, by whomever, has no token in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from plugins.secure_chat.logs import configure, scrub

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture
def root_as_it_was() -> Iterator[None]:
    names = ("", "uvicorn.access", "websockets", "httpx", "uvicorn.error")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        f"GET /v1/chat/ws?token={SECRET} HTTP/1.1",
        f"?a=1&token={SECRET}&b=2",
        f"authorization: Bearer {SECRET}",
        f"authorization: bearer {SECRET}",
        f"sec-websocket-protocol: atlas.chat.v2, bearer.{SECRET}",
        f"{{'authorization': 'Bearer {SECRET}', 'x': 1}}",
    ],
)
@pytest.mark.usefixtures("root_as_it_was")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_token_is_taken_out_wherever_a_library_has_put_it(
    text: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SECRET not in scrub(text)
    configure(as_json=as_json)
    logger = logging.getLogger("some.library")
    logger.info("asked: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("it failed")
    written = capsys.readouterr().err
    assert written.count("[removed]") >= 2
    assert SECRET not in written
    if as_json:
        first, second = (json.loads(line) for line in written.splitlines())
        assert first["event"].startswith("asked: ")
        assert (second["level"], second["logger"]) == ("ERROR", "some.library")


def test_what_is_no_token_stays() -> None:
    assert scrub("ledger.open position=7") == "ledger.open position=7"

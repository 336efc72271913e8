"""The limits that ``secure-chat serve`` gives its server: how large a frame, and no compression."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError

from plugins.secure_chat.cli.serve import LARGEST_FRAME
from plugins.secure_chat.settings import Settings
from tests.faults.server import Server, message, receive, send

pytestmark = pytest.mark.fault


async def test_the_largest_message_is_taken_and_a_frame_over_the_limit_closes_1009(
    tmp_path: Path,
) -> None:
    with Server(tmp_path / "data") as server:
        async with server.socket("sender") as sender, server.socket("other") as other:
            largest = message("nobody", 1, size=Settings.of_environment().max_ciphertext)
            assert (await send(sender, largest))["type"] == "ACK"
            answer = await send(sender, "x" * LARGEST_FRAME)
            assert answer["code"] == "malformed_frame"
            # In two parts, so that nearly all is read before the limit is passed: a server that
            # closed with much unread would reset the connection, and its close frame be lost.
            await sender.send(["x" * LARGEST_FRAME, "x"])
            with pytest.raises(ConnectionClosedError) as closed:
                await receive(sender)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
            assert (await send(other, message("nobody", 1)))["type"] == "ACK"


async def test_compression_is_not_agreed_to(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        async with server.socket("sender", compression="deflate") as sender:
            assert sender.request is not None
            assert "permessage-deflate" in sender.request.headers["Sec-WebSocket-Extensions"]
            assert sender.response is not None
            assert "Sec-WebSocket-Extensions" not in sender.response.headers

"""Frames cut out in one loop are those that websockets finds, however the stream is cut."""

from __future__ import annotations

import asyncio
import gc
import weakref
from itertools import pairwise
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from plugins.secure_chat.bench.workload import FrameSplitter
from plugins.secure_chat.transport.corked_protocol import (
    CorkedProtocol,
    frame_end,
    text_frames,
)
from plugins.secure_chat.transport.frame_stream import EXTENSION, OneByOne, frame_stream

LARGEST = 70_000
HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Heard:
    """An application that accepts and keeps what it receives; many at a time where it can."""

    def __init__(self, *, many: bool) -> None:
        self.events: list[Any] = []
        self.stream: Any = None
        self._many = many

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.stream = scope["extensions"].get(EXTENSION)
        while not self.events or self.events[-1]["type"] != "websocket.disconnect":
            if self._many:
                self.events += await self.stream.receive_many()
            else:
                self.events.append(await receive())


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def hear(
    kind: type[WebSocketsSansIOProtocol],
    pieces: list[bytes],
    *,
    many: bool,
    largest: int,
) -> tuple[list[Any], bytes, bool]:
    """What the application received, what was written after the handshake, and whether it ended."""
    heard, wire = Heard(many=many), Wire()
    config = uvicorn.Config(
        heard, ws_max_size=largest, ws_per_message_deflate=False, log_config=None, lifespan="off"
    )
    config.load()
    protocol = kind(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
            await turns()
    protocol.connection_lost(None)
    await turns()
    return heard.events, wire.written.partition(b"\r\n\r\n")[2], wire.closed


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=mask)


TEXT = st.one_of(
    st.text(max_size=40),
    st.integers(100, 300).map(lambda size: "x" * size),
    st.sampled_from((65_535, 65_536, LARGEST)).map(lambda size: "y" * size),
)
GOOD = st.one_of(
    TEXT.map(lambda text: frame(Opcode.TEXT, text.encode())),
    TEXT.map(lambda text: frame(Opcode.TEXT, text.encode())),
    st.binary(max_size=20).map(lambda data: frame(Opcode.BINARY, data)),
    st.binary(max_size=20).map(lambda data: frame(Opcode.PING, data)),
    st.lists(st.text(max_size=9), min_size=2, max_size=4).map(
        lambda parts: b"".join(
            frame(
                Opcode.CONT if index else Opcode.TEXT,
                part.encode(),
                fin=index == len(parts) - 1,
            )
            for index, part in enumerate(parts)
        )
    ),
)
BAD = st.sampled_from(
    (
        frame(Opcode.TEXT, b"\xff\xfe"),
        frame(Opcode.TEXT, b"unmasked", mask=False),
        frame(Opcode.CONT, b"of nothing"),
        frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"not its end"),
        frame(Opcode.CLOSE, b"\x03\xe8bye"),
        frame(Opcode.TEXT, b"z" * (LARGEST + 1)),
        b"\xc1" + frame(Opcode.TEXT, b"reserved bit")[1:],
        b"\x83" + frame(Opcode.TEXT, b"reserved opcode")[1:],
    )
)


@settings(max_examples=150)
@given(data=st.data())
def test_the_application_hears_what_it_would_hear_from_websockets(data: st.DataObject) -> None:
    bad = data.draw(st.lists(BAD, max_size=1))
    frames = data.draw(st.lists(GOOD, max_size=8)) + bad + data.draw(st.lists(GOOD, max_size=2))
    stream = b"".join(frames)
    largest = data.draw(st.sampled_from((200, LARGEST, LARGEST)))
    # Bytes that come with the handshake; none that uvicorn would have to refuse before its answer.
    refused = bad or any(len(one) > largest for one in frames)
    early = 0 if refused else data.draw(st.sampled_from((0, 0, 1, 30)))
    whole = HEAD + stream
    cuts = data.draw(st.lists(st.integers(1, max(1, len(stream) - 1)), max_size=12))
    head_cut = data.draw(st.sampled_from((0, 0, len(HEAD) - 1, len(HEAD) - 3, 20)))
    at = sorted({0, head_cut, len(HEAD) + early, *(len(HEAD) + cut for cut in cuts), len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(at) if a < b]
    # One by one: of what comes with a bad frame uvicorn drops the good ones before it.
    exact = pieces if early else [HEAD, *frames]
    expected = asyncio.run(hear(WebSocketsSansIOProtocol, exact, many=False, largest=largest))
    for many in (False, True):
        heard = asyncio.run(hear(CorkedProtocol, pieces, many=many, largest=largest))
        assert heard == expected


async def test_frames_that_came_together_are_given_together_and_reading_waits() -> None:
    heard, wire = Heard(many=True), Wire()
    config = uvicorn.Config(heard, ws_per_message_deflate=False, log_config=None, lifespan="off")
    config.load()
    protocol = CorkedProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    await turns()
    protocol.data_received(b"".join(frame(Opcode.TEXT, b"%d" % n) for n in range(50)))
    assert protocol.queue.qsize() == 1
    paused = not wire.reading
    await turns()
    assert (paused, wire.reading) == (True, True)
    assert [event["text"] for event in heard.events] == [str(n) for n in range(50)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_texts_become_frames_that_a_client_reads(size: int) -> None:
    texts = [b"a" * size, b"b", "ü".encode()]
    assert list(FrameSplitter().feed(text_frames(texts))) == [(1, text) for text in texts]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frames_end_is_known_once_its_header_is_whole(size: int) -> None:
    data = b"before" + frame(Opcode.BINARY, b"x" * size)
    known = [frame_end(data[:cut], 6) for cut in range(6, len(data) + 1)]
    first = next(index for index, end in enumerate(known) if end is not None)
    assert first == (2 if size < 126 else 4 if size < 65_536 else 10)
    assert set(known[first:]) == {len(data)}


async def test_nothing_is_sent_on_a_connection_that_is_closed() -> None:
    heard, wire = Heard(many=True), Wire()
    config = uvicorn.Config(heard, ws_per_message_deflate=False, log_config=None, lifespan="off")
    config.load()
    protocol = CorkedProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    await turns()
    await protocol.send_many([b"first"])
    protocol.data_received(frame(Opcode.CLOSE, b"\x03\xe8"))
    with pytest.raises(ClientDisconnected):
        await protocol.send_many([b"second"])
    assert not protocol.send_now([b"third"])
    await turns()
    assert b"first" in wire.written
    assert b"second" not in wire.written
    assert b"third" not in wire.written


async def test_what_need_not_wait_is_sent_at_once_and_nothing_to_a_peer_that_does_not_read() -> (
    None
):
    heard, wire = Heard(many=True), Wire()
    config = uvicorn.Config(heard, ws_per_message_deflate=False, log_config=None, lifespan="off")
    config.load()
    protocol = CorkedProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    await turns()
    assert protocol.send_now([b"first"])
    protocol.pause_writing()
    assert not protocol.send_now([b"second"])
    protocol.resume_writing()
    assert protocol.send_now([b"third"])
    await turns()
    assert wire.written.endswith(text_frames([b"first", b"third"]))


class HandsOver:
    """An application that lets a session go on with the socket."""

    def __init__(self) -> None:
        self.returned = False
        self.events: list[Any] = []
        self.kept: list[weakref.ref[Any]] = []
        self.headers: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        stream = scope["extensions"][EXTENSION]
        scope["state"]["of the framework"] = layer = WebSocket(scope, receive, send)
        self.kept.append(weakref.ref(layer))
        request, response = stream.request, stream.response

        async def session() -> None:
            assert self.returned
            self.headers = [len(request.headers), len(response.headers)]
            self.events += await stream.receive_many()
            await stream.send_many([b"last"])
            await stream.close(4002)

        await stream.serve(session)
        del layer
        self.returned = True


def handed_over(application: Any) -> tuple[CorkedProtocol, Wire]:
    wire = Wire()
    config = uvicorn.Config(
        application, ws_per_message_deflate=False, log_config=None, lifespan="off"
    )
    config.load()
    protocol = CorkedProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    return protocol, wire


async def test_a_session_goes_on_without_the_framework_and_ends_the_connection() -> None:
    hands_over = HandsOver()
    protocol, wire = handed_over(hands_over)
    await turns()
    gc.collect()  # the layer and its scope hold each other
    assert [kept() for kept in hands_over.kept] == [None]
    assert hands_over.headers == [0, 0]
    protocol.data_received(frame(Opcode.TEXT, b"first"))
    await turns()
    assert [event["text"] for event in hands_over.events] == ["first"]
    assert wire.written.endswith(b"\x81\x04last" + b"\x88\x02\x0f\xa2")
    protocol.data_received(frame(Opcode.CLOSE, b"\x0f\xa2"))
    assert wire.closed
    with pytest.raises(ClientDisconnected):
        await protocol.close(1000)


async def test_a_stop_closes_who_is_connected_and_says_nothing_to_who_is_gone() -> None:
    for gone in (False, True):
        heard = Heard(many=True)
        protocol, wire = handed_over(heard)
        await turns()
        protocol.shutdown()
        written = wire.written
        if gone:
            protocol.connection_lost(ConnectionResetError())
        await turns()
        assert heard.events[-1] == {"type": "websocket.disconnect", "code": 1012}
        assert wire.written[len(written) :] == (b"" if gone else b"\x88\x02\x03\xf4")


async def test_half_a_header_is_not_lost_when_the_server_closes() -> None:
    async def closes_at_once(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    wire = Wire()
    config = uvicorn.Config(
        closes_at_once, ws_per_message_deflate=False, log_config=None, lifespan="off"
    )
    config.load()
    protocol = CorkedProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    await turns()
    second = frame(Opcode.TEXT, b"too late!")
    protocol.data_received(frame(Opcode.TEXT, b"first") + second[:1])
    await turns()
    assert wire.written.endswith(b"\x88\x02\x03\xe8")  # it waits for the close of the peer
    protocol.data_received(second[1:] + frame(Opcode.CLOSE, b"\x03\xe8"))
    assert wire.closed
    assert protocol.conn.parser_exc is None


def test_under_another_server_frames_go_one_by_one() -> None:
    nothing = cast("Any", None)
    plain = WebSocket({"type": "websocket", "extensions": {}}, nothing, nothing)
    assert isinstance(frame_stream(plain), OneByOne)
    bare = WebSocket({"type": "websocket"}, nothing, nothing)
    assert isinstance(frame_stream(bare), OneByOne)

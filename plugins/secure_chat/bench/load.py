"""The load generator, a process of its own: a plan as JSON on stdin, what was seen on stdout.

A closed loop, where each answer lets the next message go, or an open one, where messages go at a
given rate, answered or not. It speaks WebSocket over bare transports and makes its frames
beforehand, so that it is not what limits the figures; its own CPU is reported.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvloop

from plugins.secure_chat.bench.workload import FrameSplitter, Signer, client_frames

OPCODE_TEXT: Final = 1
OPCODE_CLOSE: Final = 8
WARM_UP: Final = 0.1  # of each sender's messages: sent, and not in the figures
TIMEOUT_SECONDS: Final = 60.0
TICK: Final = 0.001  # seconds that an open loop sleeps at least; event loops count milliseconds


class Pair(msgspec.Struct):
    """One sender and one receiver: their tokens, and the receiver's wallet."""

    sender_token: str
    receiver_token: str
    recipient: str
    signer: Signer | None = None


class Plan(msgspec.Struct):
    """What to send where. ``messages`` is for each pair.

    ``per_second``: of all pairs together, in an open loop; the window then bounds nothing.
    """

    port: int
    pairs: list[Pair]
    window: int
    messages: int
    first_seq: int
    per_second: float | None = None


class Seen(msgspec.Struct):
    """What came of a plan. Latencies in seconds, those of the warm-up left out.

    In a closed loop they count from the write of a message; in an open one from the moment when it
    was due, so that a message that had to wait for a stalled server, or generator, counts as late.
    """

    measured: int
    seconds: float
    to_ack: list[float]
    to_delivery: list[float]
    generator_cpu: float  # seconds, making the frames excluded


def handshake(token: str, port: int) -> bytes:
    """The request that opens the chat's socket."""
    return (
        f"GET /v1/chat/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


class _Socket(asyncio.Protocol):
    """A WebSocket client that hands on text payloads; anything unexpected ends the run."""

    def __init__(self, token: str, port: int, failed: Callable[[str], None]) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finished = False
        self.transport: asyncio.Transport
        self._hello = handshake(token, port)
        self._failed = failed
        self._upgrade: bytes | None = b""
        self._splitter = FrameSplitter()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._hello)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.finished:
            self._failed("a connection was lost")

    def data_received(self, data: bytes) -> None:
        if self._upgrade is not None:
            self._upgrade += data
            head, end, rest = self._upgrade.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._failed("the server refused the connection")
                return
            self._upgrade, data = None, rest
        now = time.perf_counter()
        answers = 0
        for opcode, payload in self._splitter.feed(data):
            if opcode == OPCODE_TEXT:
                if not self.ready.done():
                    self.ready.set_result(None)
                else:
                    self.check(payload)
                    answers += 1
            elif opcode == OPCODE_CLOSE:
                self._failed("the server closed a connection")
                return
        if answers:
            self.answered(answers, now)

    def check(self, payload: bytes) -> None:
        expected = self.expected()
        if not payload.startswith(expected):
            self._failed(f"not {expected.decode()}: {payload[:200].decode(errors='replace')}")

    def expected(self) -> bytes:
        raise NotImplementedError

    def answered(self, count: int, now: float) -> None:
        raise NotImplementedError


class _Sender(_Socket):
    """Keeps its window full, or is told when to send, and times each ACK.

    ACKs come in the order of the messages.
    """

    def __init__(
        self, plan: Plan, pair: Pair, failed: Callable[[str], None], done: Callable[[], None]
    ) -> None:
        super().__init__(pair.sender_token, plan.port, failed)
        self.sent_at: list[float] = []
        self.acked_at: list[float] = []
        self._frames = client_frames(pair.recipient, plan.first_seq, plan.messages, pair.signer)
        self._window = plan.window
        self._closed_loop = plan.per_second is None
        self._done = done

    def start(self) -> None:
        self._send(min(self._window, len(self._frames)))

    def send_due(self, due: float) -> None:
        """Send the next message, which was to go at ``due``."""
        self.transport.write(self._frames[len(self.sent_at)])
        self.sent_at.append(due)

    def _send(self, count: int) -> None:
        first = len(self.sent_at)
        frames = self._frames[first : first + count]
        if frames:
            self.sent_at.extend([time.perf_counter()] * len(frames))
            self.transport.write(b"".join(frames))

    def expected(self) -> bytes:
        return b'{"type":"ACK"'

    def answered(self, count: int, now: float) -> None:
        self.acked_at.extend([now] * count)
        if self._closed_loop:
            self._send(count)
        if len(self.acked_at) == len(self._frames):
            self._done()


class _Receiver(_Socket):
    """Times each delivery; a stream is delivered in its order."""

    def __init__(
        self, plan: Plan, pair: Pair, failed: Callable[[str], None], done: Callable[[], None]
    ) -> None:
        super().__init__(pair.receiver_token, plan.port, failed)
        self.received_at: list[float] = []
        self._expected = plan.messages
        self._done = done

    def expected(self) -> bytes:
        return b'{"type":"CHAT_MESSAGE"'

    def answered(self, count: int, now: float) -> None:
        self.received_at.extend([now] * count)
        if len(self.received_at) == self._expected:
            self._done()


async def run(plan: Plan) -> Seen:
    """Carry out ``plan``. Raises RuntimeError when the server did not do its part."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    left = 2 * len(plan.pairs)

    def failed(reason: str) -> None:
        if not over.done():
            over.set_exception(RuntimeError(reason))

    def done() -> None:
        nonlocal left
        left -= 1
        if left == 0 and not over.done():
            over.set_result(None)

    senders = [_Sender(plan, pair, failed, done) for pair in plan.pairs]
    receivers = [_Receiver(plan, pair, failed, done) for pair in plan.pairs]
    sockets: list[_Socket] = [*senders, *receivers]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for socket in sockets:
            await loop.create_connection(lambda own=socket: own, "127.0.0.1", plan.port)  # type: ignore[misc]
            await asyncio.wait((socket.ready, over), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
        began = _cpu()
        if plan.per_second is None:
            for sender in senders:
                sender.start()
        else:
            pace = asyncio.create_task(_keep_pace(senders, plan.messages, plan.per_second))
            over.add_done_callback(lambda _: pace.cancel())
        await over
        cpu = _cpu() - began
    for socket in sockets:
        socket.finished = True
        socket.transport.close()
    return _seen(senders, receivers, cpu)


async def _keep_pace(senders: list[_Sender], messages: int, per_second: float) -> None:
    """Let the senders take turns, a message every 1/``per_second`` seconds, until all are sent.

    Several that are due go at once, each with its own time.
    """
    began = time.perf_counter()
    for number in range(messages * len(senders)):
        due = began + number / per_second
        early = due - time.perf_counter()
        if early > 0:
            await asyncio.sleep(max(early, TICK))
        senders[number % len(senders)].send_due(due)


def _seen(senders: list[_Sender], receivers: list[_Receiver], cpu: float) -> Seen:
    warm = int(WARM_UP * len(senders[0].sent_at))
    to_ack: list[float] = []
    to_delivery: list[float] = []
    for sender, receiver in zip(senders, receivers, strict=True):
        sent = sender.sent_at[warm:]
        to_ack += [at - was for was, at in zip(sent, sender.acked_at[warm:], strict=True)]
        to_delivery += [at - was for was, at in zip(sent, receiver.received_at[warm:], strict=True)]
    acked = sorted(at for sender in senders for at in sender.acked_at)
    first = warm * len(senders)
    return Seen(
        measured=len(acked) - first,
        seconds=acked[-1] - (acked[first - 1] if first else senders[0].sent_at[0]),
        to_ack=to_ack,
        to_delivery=to_delivery,
        generator_cpu=cpu,
    )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    try:
        seen = uvloop.run(run(plan))
    except (RuntimeError, TimeoutError, OSError) as error:
        sys.stderr.write(f"{str(error) or 'the server did not answer in time'}\n")
        raise SystemExit(1) from None
    # Under PYTHONUNBUFFERED sys.stdout writes once, and a pipe may take a part only.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(msgspec.json.encode(seen))


if __name__ == "__main__":
    main()

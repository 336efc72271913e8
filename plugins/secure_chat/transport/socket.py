"""The WebSocket: authentication, one reader for each connection, a writer when needed, RESUME.

Persist, then deliver, then acknowledge is the service's; here frames come in and go out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from plugins.secure_chat.core.envelope import ChatMessage, validate
from plugins.secure_chat.core.frames import (
    Ack,
    Auth,
    Error,
    Limits,
    Pong,
    ReceiptFrame,
    Resume,
    Resumed,
    encode_frame,
    error_frame,
    parse_frame,
    ready,
    receipt_notice,
)
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.directory.directory import Directory
from plugins.secure_chat.errors import (
    Close,
    Code,
    LedgerUnavailable,
    MalformedFrame,
    Refusal,
    Unauthorized,
    UnknownDevice,
)
from plugins.secure_chat.evidence import Evidence
from plugins.secure_chat.hub import Outbox, nobody
from plugins.secure_chat.receipts import Receipts
from plugins.secure_chat.service import ChatService, Outcome
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.threads.requests import Threads
from plugins.secure_chat.transport.frame_stream import FrameStream, frame_stream
from plugins.secure_chat.transport.tokens import (
    BEARER_SUBPROTOCOL,
    Authenticate,
    Principal,
    bearer,
    origin_allowed,
)

log: Final = logging.getLogger(__name__)

SUBPROTOCOL: Final = "atlas.chat.v2"
AUTH_SECONDS: Final = 5.0
MAX_IN_FLIGHT: Final = 1024  # unanswered messages a socket may have before it is not read
READ_AT_ONCE: Final = 64  # frames of one socket before the others have their turn
SEND_AT_ONCE: Final = 64 << 10  # bytes: before each such batch a slow peer is waited for
MAX_LIMITED: Final = 200  # refusals for rate in a row before the socket is closed
CLOSE_SECONDS: Final = 2.0  # for a peer to take what is queued before its close


@dataclass(slots=True)
class Chat:
    """What the transports share: built once by the plugin when the host starts."""

    service: ChatService
    threads: Threads
    receipts: Receipts
    settings: Settings
    authenticate: Authenticate
    directory: Directory
    evidence: Evidence
    stage: Stage

    @property
    def limits(self) -> Limits:
        return Limits(
            max_ciphertext=self.settings.max_ciphertext,
            rate=self.settings.rate_per_second,
            burst=self.settings.burst,
        )


async def serve_socket(websocket: WebSocket, chat: Chat) -> None:
    """One connection, from the handshake to its close."""
    headers = websocket.headers
    if chat.stage.is_dark or not origin_allowed(
        headers.get("origin"), headers.get("host"), chat.settings.origins
    ):
        await websocket.close(Close.REFUSED)
        return
    offered = websocket.scope.get("subprotocols", [])
    token = bearer(headers.get("authorization"))
    if token is None:
        token = next(
            (p[len(BEARER_SUBPROTOCOL) :] for p in offered if p.startswith(BEARER_SUBPROTOCOL)),
            None,
        )
    if token is None and chat.settings.query_token:
        token = websocket.query_params.get("token")
    principal = None
    if token is not None:
        try:
            principal = chat.authenticate(token)
        except Unauthorized as refusal:
            chat.service.metrics.refused(refusal.code)
            await websocket.close(Close.REFUSED)
            return
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    if principal is None:
        try:
            principal = await _first_frame(websocket, chat)
        except WebSocketDisconnect:
            return
        except Refusal as refusal:
            chat.service.metrics.refused(refusal.code)
            await _say_and_close(websocket, refusal, Close.REFUSED)
            return
    try:
        device = await _device(websocket, chat, principal.wallet)
    except Refusal as refusal:
        chat.service.metrics.refused(refusal.code)
        await _say_and_close(websocket, refusal, Close.REFUSED)
        return
    frames = frame_stream(websocket)
    await frames.serve(_Connection(frames, chat, principal, device).run)


async def _device(websocket: WebSocket, chat: Chat, wallet: str) -> str | None:
    """The device that the peer says it is (``?device=``), so that its end ends the socket.

    Raises InvalidMessage, or UnknownDevice when it has ended.
    """
    given = websocket.query_params.get("device")
    if given is None:
        return None
    device = canonical(given, "device")
    if await chat.directory.has_ended(wallet, device):
        raise UnknownDevice("the device was revoked or left behind", device=device)
    return device


async def _first_frame(websocket: WebSocket, chat: Chat) -> Principal:
    """The AUTH frame that must come first when the handshake carried no token."""
    try:
        async with asyncio.timeout(AUTH_SECONDS):
            frame = parse_frame(_text(await websocket.receive()))
    except TimeoutError:
        raise Unauthorized("no AUTH frame came in time") from None
    if not isinstance(frame, Auth):
        raise Unauthorized("the first frame must be AUTH")
    return chat.authenticate(frame.token)


def _text(message: Any) -> str:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text = message.get("text")
    if not isinstance(text, str):
        raise MalformedFrame("frames are text, not binary")
    return text


async def _say_and_close(websocket: WebSocket, refusal: Refusal, code: Close) -> None:
    try:
        await websocket.send_text(encode_frame(error_frame(refusal)).decode())
        await websocket.close(code)
    except (RuntimeError, WebSocketDisconnect):
        log.debug("socket.gone_before_close")


class _Connection:
    """One authenticated socket.

    Most are idle most of the time: what only a busy one needs is made when it is needed.
    """

    __slots__ = (
        "_chat",
        "_expiry",
        "_frames",
        "_in_flight",
        "_limited",
        "_outbox",
        "_over",
        "_principal",
        "_receipts",
        "_replay",
        "_room",
        "_service",
        "_writer",
    )

    def __init__(
        self, frames: FrameStream, chat: Chat, principal: Principal, device: str | None
    ) -> None:
        self._frames = frames
        self._chat = chat
        self._service = chat.service
        self._principal = principal
        self._outbox = Outbox(principal.wallet, chat.settings.outbox_bytes, self._wake)
        if device is not None:
            self._outbox.devices.add(device)
        self._in_flight = 0
        self._room: asyncio.Event | None = None  # only while the reader waits for answers
        self._limited = 0
        self._over = asyncio.get_running_loop().create_future()  # why: see close_with
        self._writer: asyncio.Task[None] | None = None  # only while something is on its way out
        self._replay: asyncio.Task[None] | None = None
        self._receipts: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        service = self._service
        head: Head = service.ledger.checkpoint.head
        service.hub.add(self._outbox)
        service.metrics.connections.inc()
        self._outbox.put(encode_frame(ready(self._outbox.wallet, head, self._chat.limits)))
        self._watch_expiry()
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(self._end)
        try:
            await self._over
            if self._outbox.close_with is not None:
                # What comes now is not read: an expired token sends no more than it receives.
                reader.cancel()
                if self._writer is not None:
                    await asyncio.wait((self._writer,), timeout=CLOSE_SECONDS)
        finally:
            service.hub.remove(self._outbox)
            service.metrics.connections.dec()
            if self._expiry is not None:
                self._expiry.cancel()
            self._end()
            self._outbox.wake = nobody  # without the cycle it is freed at once
            tasks = [task for task in (reader, self._writer, self._replay) if task is not None]
            for task in tasks:
                task.cancel()
            # Not gather: it would turn the host's own cancellation into one nobody knows.
            await asyncio.wait(tasks)
            for task in tasks:
                error = None if task.cancelled() else task.exception()
                if error is not None and not isinstance(error, WebSocketDisconnect):
                    log.error("socket.failed error=%s", type(error).__name__)
        if self._outbox.close_with is not None:
            await self._close(self._outbox.close_with)

    def _end(self, _reader: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _wake(self) -> None:
        """The outbox has something for the peer, or closes."""
        if self._writer is None and not self._over.done():
            if self._outbox.close_with is None:
                asyncio.get_running_loop().call_soon(self._flush)
            else:
                self._writer = asyncio.create_task(self._write())
        if self._outbox.close_with is not None:
            self._end()

    # -- in -----------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take what comes, until the peer goes or the outbox closes."""
        outbox = self._outbox
        while True:
            await self._service.room()
            for number, event in enumerate(await self._frames.receive_many(), start=1):
                if outbox.close_with is not None:
                    return
                if event["type"] == "websocket.disconnect":
                    if event.get("code") == Close.RESTART:
                        await self._settle()
                    return
                self._take(event)
                if number % READ_AT_ONCE == 0:
                    # Those that wait are committed while the rest is looked at.
                    await asyncio.sleep(0)
                while self._in_flight >= MAX_IN_FLIGHT:
                    self._room = asyncio.Event()
                    await self._room.wait()
                if self._service.is_crowded:
                    await self._service.room()

    def _take(self, event: Any) -> None:
        """Handle one frame. Whatever came costs one request, also what could not be read."""
        self._service.metrics.received()
        frame = None
        try:
            try:
                frame = parse_frame(_text(event))
            finally:
                self._service.spend(self._outbox.wallet)
            self._handle(frame)
        except Refusal as refusal:
            self._refuse(refusal, frame if isinstance(frame, ChatMessage) else None)
        except Exception as error:  # noqa: BLE001 (answered and closed; the others go on)
            self._fail(error)

    async def _settle(self) -> None:
        """The server stops: commit and answer what was taken, then close 1012."""
        await self._service.drained()
        if self._receipts:
            await asyncio.wait(self._receipts)
        self._outbox.close(Close.RESTART)

    def _fail(self, error: Exception) -> None:
        """A defect of ours, or storage that fails: say so, and close 1011."""
        if isinstance(error, WebSocketDisconnect):
            return
        answer = Error(code=Code.INTERNAL, detail="internal error: reconnect and resend")
        if isinstance(error, LedgerUnavailable):
            answer = error_frame(error)
        else:
            # The name alone: texts of libraries may quote what they were given.
            log.error("socket.failed error=%s", type(error).__name__)
        self._service.metrics.refused(answer.code)
        self._outbox.close(Close.INTERNAL, encode_frame(answer))

    def _handle(self, frame: Any) -> None:
        self._limited = 0  # within the budget again
        wallet = self._outbox.wallet
        if isinstance(frame, ChatMessage):
            envelope = validate(frame, wallet, self._chat.settings.max_ciphertext)
            self._service.metrics.validated()
            self._in_flight += 1

            def reply(outcome: Outcome) -> None:
                self._answer(outcome, frame)

            self._service.submit(envelope, self._outbox, reply)
        elif isinstance(frame, Auth):
            self._refresh(frame)
        elif isinstance(frame, Resume):
            self._start_replay(frame.after)
        elif isinstance(frame, ReceiptFrame):
            self._spawn_receipt(frame)
        else:
            self._outbox.put(encode_frame(Pong()))

    def _answer(self, outcome: Outcome, frame: ChatMessage) -> None:
        self._in_flight -= 1
        if self._room is not None:
            self._room.set()
            self._room = None
        if isinstance(outcome, Ack):
            self._outbox.devices.add(outcome.device)  # a registered one has just signed
            self._outbox.put(encode_frame(outcome))
        else:
            self._refuse(outcome, frame)

    def _refuse(self, error: Refusal | LedgerUnavailable, about: ChatMessage | None) -> None:
        self._service.metrics.refused(error.code)
        answer = encode_frame(error_frame(error, about))
        if error.code is Code.RATE_LIMITED:
            self._limited += 1
            if self._limited >= MAX_LIMITED:
                self._outbox.close(Close.FLOODING, answer)
                return
        self._outbox.put(answer)

    def _refresh(self, frame: Auth) -> None:
        """A fresh token of the same wallet; its expiry replaces the old one, sooner or later."""
        try:
            principal = self._chat.authenticate(frame.token)
            if principal.wallet != self._outbox.wallet:
                raise Unauthorized("the token is another wallet's")
        except Unauthorized as refusal:
            self._service.metrics.refused(refusal.code)
            self._outbox.close(Close.REFUSED, encode_frame(error_frame(refusal)))
            return
        self._principal = principal
        self._watch_expiry()
        head = self._service.ledger.checkpoint.head
        self._outbox.put(encode_frame(ready(principal.wallet, head, self._chat.limits)))

    def _watch_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        left = max(0.0, self._principal.expires_at - time.time())
        # Sleep at most a day at once: timers do not follow a clock that is set.
        self._expiry = asyncio.get_running_loop().call_later(min(left, 86_400.0), self._on_expiry)

    def _on_expiry(self) -> None:
        """The timer is over, which is not to say that the token is: the clock may have been set."""
        if time.time() < self._principal.expires_at:
            self._watch_expiry()
        else:
            self._expire()

    def _expire(self) -> None:
        if self._outbox.close_with is not None:
            return
        # What waits until the peer reads is not sent any more; the last word has its own writer.
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
        expired = Unauthorized("the token has expired: log in and reconnect")
        self._outbox.close(Close.TOKEN_EXPIRED, encode_frame(error_frame(expired)))

    def _spawn_receipt(self, frame: ReceiptFrame) -> None:
        async def tell() -> None:
            try:
                await self._chat.receipts.give(self._outbox.wallet, frame.kind, frame.position)
            except (Refusal, LedgerUnavailable) as refusal:
                self._refuse(refusal, None)
            except Exception as error:  # noqa: BLE001 (answered and closed; the others go on)
                self._fail(error)

        task = asyncio.create_task(tell())
        self._receipts.add(task)
        task.add_done_callback(self._receipts.discard)

    # -- RESUME -------------------------------------------------------------------------------

    def _start_replay(self, after: int) -> None:
        if self._replay is not None and not self._replay.done():
            self._refuse(MalformedFrame("a RESUME is under way; wait for RESUMED"), None)
            return
        self._outbox.resuming = True

        async def replay() -> None:
            try:
                await self._send_missed(after)
            except Exception as error:  # noqa: BLE001 (else the socket would stay silent for good)
                self._fail(error)

        self._replay = asyncio.create_task(replay())

    async def _send_missed(self, after: int) -> None:
        """Replay page by page as the socket drains, then hand over to live delivery.

        The hand-over is one step of the event loop: no message is between the two.
        """
        outbox, service = self._outbox, self._service
        cursor, complete = after, True
        while True:
            delivered = service.delivered_position
            page = await service.missed(outbox.wallet, cursor)
            for message in page:
                cursor = message.position
                if message.frame is None:
                    complete = False
                    continue
                await outbox.drained()
                outbox.put(message.frame)
            if not page and delivered == service.delivered_position:
                break
        outbox.resuming = False
        notices = await service.read(lambda: service.mailbox.receipts_for(outbox.wallet, after))
        for at, wallet, kind in notices:
            outbox.put(receipt_notice(kind, at, wallet))
        # Never past the ledger, whatever position was asked for.
        outbox.put(encode_frame(Resumed(position=delivered, complete=complete)))

    # -- out ----------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what is queued, at the end of the loop's turn, or have a writer that waits."""
        outbox = self._outbox
        if self._writer is not None or self._over.done():
            return
        size = outbox.pending_bytes
        try:
            if (
                size <= SEND_AT_ONCE
                and time.time() < self._principal.expires_at
                and self._frames.send_now(outbox.queued)
            ):
                outbox.take()
                outbox.sent(size)
                return
        except Exception as error:  # noqa: BLE001 (answered and closed; the others go on)
            self._fail(error)
        else:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Send what is queued until nothing is; nothing after the token's expiry."""
        outbox = self._outbox
        try:
            while frames := outbox.take():
                for batch, size in _batches(frames):
                    if outbox.close_with is None and time.time() >= self._principal.expires_at:
                        self._expire()
                        return
                    await self._frames.send_many(batch)
                    outbox.sent(size)
                    if outbox.close_with is Close.TOO_SLOW:
                        return
            self._writer = None  # whatever is queued from here on finds a new one
        except OSError:
            self._end()  # and it stays the writer: nothing else is sent
        except Exception as error:  # noqa: BLE001 (answered and closed; the others go on)
            self._writer = None
            self._fail(error)

    async def _close(self, code: Close) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._frames.close(code)
        except OSError:  # also when the time is over
            log.debug("socket.gone_before_close")


def _batches(frames: Sequence[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """``frames`` in order, in batches that go out at once, with the bytes in each."""
    batch: list[bytes] = []
    size = 0
    for frame in frames:
        if batch and size + len(frame) > SEND_AT_ONCE:
            yield batch, size
            batch, size = [], 0
        batch.append(frame)
        size += len(frame)
    if batch:
        yield batch, size

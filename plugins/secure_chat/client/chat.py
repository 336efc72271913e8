"""The client's connection: sending until acknowledged, receiving in ledger order, coming back.

One task connects, reads and reconnects; one for each connection sends. What must survive is in
``state.py``, what encrypts is behind ``session.py``.

A message is numbered, sealed and on disk before it is sent, and goes out in the same bytes until
the server acknowledges or refuses it. To one recipient only one message is under way at a time: a
refused one can then never be overtaken by the next and lose its number.

A received message counts as handled when the next one is asked for, or the ``async with`` is left
without an error. After a crash what was not handled comes again; what was is not given twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from plugins.secure_chat.client.backoff import Backoff
from plugins.secure_chat.client.errors import (
    ClientClosed,
    LoginRefused,
    NotAuthentic,
    ProtocolViolation,
    SendRefused,
    SequenceTaken,
    ServerUnreachable,
    UnknownContact,
)
from plugins.secure_chat.client.login import Token, TokenSource
from plugins.secure_chat.client.session import Session, place
from plugins.secure_chat.client.state import ClientState, Unacknowledged
from plugins.secure_chat.core.envelope import decode_base64, message_hash
from plugins.secure_chat.core.frames import (
    Ack,
    Auth,
    Delivered,
    Error,
    Pong,
    Ready,
    ReceiptNotice,
    Resume,
    Resumed,
)
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.errors import ClientError, Close, Code, InvalidMessage

log: Final = logging.getLogger(__name__)

PATH: Final = "/v1/chat/ws"
LARGEST_FRAME: Final = 2 << 20  # a ciphertext of 1 MiB in base64 and its other fields
TRY_AGAIN: Final = frozenset((Code.RATE_LIMITED, Code.LEDGER_UNAVAILABLE, Code.INTERNAL))
REFRESH_PAUSE: Final = 1.0  # at least, between logins: the two clocks may not agree
RETRY_SECONDS: Final = 1.0  # when the server does not say
REFRESH_BEFORE: Final = 60.0  # seconds before a token's end, or a fifth of its life if shorter

_ServerFrame = Ready | Delivered | Ack | Error | Resumed | ReceiptNotice | Pong
_DECODER: Final[msgspec.json.Decoder[_ServerFrame]] = msgspec.json.Decoder(_ServerFrame)
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The server's word that a message is in the ledger, at ``position`` for ever."""

    recipient: str
    seq: int
    hash: str
    position: int
    event_hash: str
    timestamp: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Received:
    """An authentic message. ``position`` is its place in the ledger."""

    sender: str
    device: str
    seq: int
    position: int
    timestamp: str
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that was not let through, and why. Nothing of its contents was used."""

    sender: str
    position: int
    reason: ClientError


@dataclass(frozen=True, slots=True)
class _Caught:
    """In the queue of what was received: all before this position has come."""

    position: int


def _log_refused(refused: Refused) -> None:
    log.warning(
        "client.refused position=%d reason=%s", refused.position, type(refused.reason).__name__
    )


class ChatClient:
    """A wallet's device on a server. Use it as an async context manager, and iterate over it.

    It gives received messages in ledger order. Those that do not authenticate, or whose sender has
    no session here, are not among them: each goes to ``on_refused``, is counted in
    ``refused``, and is not asked for again. A client that nobody iterates over keeps in memory what
    it receives, and until RESUMED every client keeps there what it has missed.
    """

    def __init__(
        self,
        base_url: str,
        tokens: TokenSource,
        state: ClientState,
        *,
        sessions: dict[str, Session] | None = None,
        backoff: Backoff | None = None,
        on_refused: Callable[[Refused], None] = _log_refused,
        on_receipt: Callable[[ReceiptNotice], None] | None = None,
    ) -> None:
        """``base_url``: ``http://host:port`` or https. ``state`` says wallet and device; the
        caller closes it after the client. ``sessions``: by the peer's wallet; more can be added
        with ``add_session``."""
        parts = urlsplit(base_url)
        scheme = {"http": "ws", "https": "wss"}[parts.scheme]
        self._url: Final = urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))
        self._tokens: Final = tokens
        self._state: Final = state
        self._sessions: Final = dict(sessions or {})
        self._backoff: Final = backoff or Backoff()
        self._on_refused: Final = on_refused
        self._on_receipt: Final = on_receipt
        self.refused = 0
        self.connections = 0
        self.complete = True
        """Whether the last RESUME gave everything: False when the server lacks some of it."""
        self._outbox: dict[_Key, Unacknowledged] = {
            (kept.recipient, kept.seq): kept for kept in state.outbox()
        }
        self._waiting: dict[_Key, asyncio.Future[Receipt]] = {}
        self._under_way: dict[str, int] = {}  # recipient → seq, on this connection
        self._wake = asyncio.Event()
        self._queue: deque[Received | _Caught] = deque()
        self._queued: set[int] = set()  # positions, until they are handled
        self._opened_here: set[tuple[str, str, int]] = set()  # sender, device, seq of these
        self._filled = asyncio.Event()
        self._handling: Received | None = None
        # What came before RESUMED, live and replayed mixed: only then is its order known.
        self._early: dict[int, Delivered] | None = None
        self._resume_due = False
        self._late: set[int] = set()  # queued behind messages of higher positions
        self._highest = state.position
        self._ready = asyncio.Event()
        self._ended: ClientError | None = None
        self._task: asyncio.Task[None] | None = None
        self._token: Token | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._handled()
        await self.close()

    @property
    def wallet(self) -> str:
        return self._state.wallet

    @property
    def unacknowledged(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    def add_session(self, peer: str, session: Session) -> None:
        self._sessions[canonical(peer, "peer")] = session

    async def connect(self, within: float = 30.0) -> None:
        """Start; returns when the server is ready for this wallet.

        Raises LoginRefused, or ServerUnreachable after ``within`` seconds (and then the client is
        closed).
        """
        self._check_open()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="chat-client")
        try:
            async with asyncio.timeout(within):
                await self._ready.wait()
        except TimeoutError:
            await self.close()
            raise ServerUnreachable("the server did not get ready in time") from None
        self._check_open()

    async def close(self) -> None:
        """Disconnect. Unacknowledged messages stay in the state's outbox; their senders get
        ClientClosed."""
        self._end(ClientClosed("the client is closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for timer in self._timers:
            timer.cancel()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    # -- sending ------------------------------------------------------------------------------

    async def send(self, recipient: str, plaintext: bytes) -> Receipt:
        """Send and wait until it is in the ledger, across as many connections as that takes.

        Raises UnknownContact, SendRefused, and ClientClosed when the client ends before the answer;
        a message that was on its way then, or when the caller stops waiting, stays in the outbox.
        """
        self._check_open()
        peer = canonical(recipient, "recipient")
        session = self._sessions.get(peer)
        if session is None:
            raise UnknownContact("no session with this recipient; add their contact card first")
        message = self._sealed(session, peer, plaintext)
        self._state.keep(message)  # crash point: kept, not sent; the next start sends it
        key = (peer, message.seq)
        self._outbox[key] = message
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting[key] = answer
        self._wake.set()
        try:
            return await answer
        finally:
            self._waiting.pop(key, None)

    def _sealed(self, session: Session, peer: str, plaintext: bytes) -> Unacknowledged:
        state = self._state
        seq = state.next_seq(peer)
        ciphertext, nonce = session.seal(plaintext, place(state.wallet, state.device, peer, seq))
        hashed = b64encode(message_hash(ciphertext, nonce, seq)).decode()
        frame = {
            "type": "CHAT_MESSAGE",
            "recipient": peer,
            "device": state.device,
            "ciphertext": b64encode(ciphertext).decode(),
            "nonce": b64encode(nonce).decode(),
            "seq": seq,
            "ts": time.time(),
            "hash": hashed,
        }
        return Unacknowledged(peer, seq, hashed, msgspec.json.encode(frame).decode())

    async def _send_outbox(self, socket: ClientConnection) -> None:
        """Keep the first message of each recipient under way while this connection lasts."""
        while True:
            self._wake.clear()
            if self._resume_due:
                self._resume_due = False
                await socket.send(_json(Resume(after=self._state.position)))
            for (recipient, seq), message in list(self._outbox.items()):
                if recipient not in self._under_way:
                    self._under_way[recipient] = seq
                    await socket.send(message.frame)
            await self._wake.wait()

    def _acknowledged(self, ack: Ack) -> None:
        key = (ack.recipient, ack.seq)
        message = self._outbox.get(key)
        if message is None or ack.device != self._state.device:
            return
        if message.hash != ack.hash:
            raise ProtocolViolation("an ACK is of another message than was sent")
        self._settle(key)
        if (answer := self._waiting.get(key)) is not None and not answer.done():
            answer.set_result(
                Receipt(
                    ack.recipient,
                    ack.seq,
                    ack.hash,
                    ack.position,
                    ack.event_hash,
                    ack.timestamp,
                    ack.duplicate,
                )
            )

    def _settle(self, key: _Key) -> None:
        """The server has decided on this message."""
        self._state.drop(*key)
        del self._outbox[key]
        self._free(key)

    def _free(self, key: _Key) -> None:
        if self._under_way.get(key[0]) == key[1]:
            del self._under_way[key[0]]
        self._wake.set()

    def _error(self, error: Error) -> None:
        wait = error.retry_after if isinstance(error.retry_after, int | float) else RETRY_SECONDS
        if not isinstance(error.recipient, str) or not isinstance(error.seq, int):
            log.warning("client.error code=%s", error.code.value)
            if self._early is not None and error.code in TRY_AGAIN:
                self._later(wait, self._resume_again)
            return
        key = (error.recipient, error.seq)
        if key not in self._outbox:
            return
        if error.code in TRY_AGAIN:
            self._later(wait, partial(self._free, key))
            return
        refusal = SendRefused(error.code, error.detail)
        if error.code in (Code.REPLAYED_SEQUENCE, Code.SEQUENCE_CONFLICT):
            refusal = SequenceTaken(error.code, error.detail)
            if isinstance(error.last_seq, int):
                self._state.continue_above(error.recipient, error.last_seq)
        self._settle(key)
        if (answer := self._waiting.get(key)) is not None and not answer.done():
            answer.set_exception(refusal)

    def _resume_again(self) -> None:
        self._resume_due = self._early is not None
        self._wake.set()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(seconds, act)
        self._timers.add(timer)

    # -- receiving ----------------------------------------------------------------------------

    async def receive(self) -> Received:
        """The next message; the one given before counts as handled from now on."""
        self._handled()
        while True:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, _Caught):
                    if self._late:
                        continue
                    self._state.resume_at(item.position)
                    continue
                self._handling = item
                return item
            self._check_open()
            self._filled.clear()
            await self._filled.wait()

    async def __aiter__(self) -> AsyncIterator[Received]:
        while True:
            try:
                message = await self.receive()
            except ClientClosed:
                return
            yield message

    def _handled(self) -> None:
        message, self._handling = self._handling, None
        if message is None:
            return
        self._late.discard(message.position)
        # While something is missing, RESUME must go on asking for it: it may still be brought.
        at = message.position if self.complete and not self._late else 0
        self._state.received(
            message.position, message.sender, message.device, message.seq, resume_at=at
        )
        self._queued.discard(message.position)
        self._opened_here.discard((message.sender, message.device, message.seq))

    def _take(self, frame: Delivered) -> None:
        """A message in its place: let it through once, or refuse it."""
        state = self._state
        if frame.sender == state.wallet:
            return
        if frame.position in self._queued or state.has_received(frame.position):
            return
        try:
            message = self._opened(frame)
        except ClientError as reason:
            self.refused += 1
            state.received(frame.position, frame.sender, frame.device, None, resume_at=0)
            self._on_refused(Refused(frame.sender, frame.position, reason))
            return
        if frame.position < self._highest:
            self._late.add(frame.position)
        self._highest = max(self._highest, frame.position)
        self._queued.add(frame.position)
        self._opened_here.add((frame.sender, frame.device, frame.seq))
        self._queue.append(message)
        self._filled.set()

    def _opened(self, frame: Delivered) -> Received:
        state = self._state
        session = self._sessions.get(frame.sender)
        if session is None:
            raise UnknownContact("no session with the sender")
        if frame.recipient != state.wallet:
            raise NotAuthentic("the message is not for this wallet")
        try:
            ciphertext = decode_base64(frame.ciphertext, "ciphertext")
            nonce = decode_base64(frame.nonce, "nonce")
        except InvalidMessage as bad:
            raise NotAuthentic(bad.detail) from None
        associated = place(frame.sender, frame.device, frame.recipient, frame.seq)
        plaintext = session.open(ciphertext, nonce, associated)
        number = (frame.sender, frame.device, frame.seq)
        if number in self._opened_here or state.has_opened(*number):
            raise NotAuthentic("the message was received before, at another position")
        return Received(
            frame.sender, frame.device, frame.seq, frame.position, frame.timestamp, plaintext
        )

    def _resumed(self, resumed: Resumed) -> None:
        """All that was missed has come: give it in ledger order, then go on with what is live."""
        early, self._early = self._early, None
        self.complete = resumed.complete
        for position in sorted(early or {}):
            self._take((early or {})[position])
        if resumed.complete:
            self._queue.append(_Caught(resumed.position))
            self._filled.set()

    # -- the connection -----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._connection()
                except (ServerUnreachable, OSError, InvalidHandshake, TimeoutError) as error:
                    log.info("client.unreachable error=%s", type(error).__name__)
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd is not None else None
                    log.info("client.disconnected code=%s", code)
                    if code == Close.TOKEN_EXPIRED or code == Close.REFUSED:
                        self._token = None
                await asyncio.sleep(self._backoff.next())
        except ClientError as error:
            self._end(error)
        except Exception as defect:
            self._end(ClientClosed(f"the client failed: {type(defect).__name__}"))
            raise

    def _end(self, error: ClientError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        self._ready.set()
        self._filled.set()

    async def _connection(self) -> None:
        """One connection, from its token to its end."""
        fresh = self._token is None or _is_over(self._token)
        if self._token is None or fresh:
            self._token = await self._tokens()
        header = {"Authorization": f"Bearer {self._token.value}"}
        try:
            socket = await connect(
                self._url,
                additional_headers=header,
                max_size=LARGEST_FRAME,
                compression=None,
                open_timeout=10,
                close_timeout=2,
                proxy=None,
            )
        except InvalidStatus as refusal:
            if refusal.response.status_code in (401, 403):
                self._token = None
                if fresh:
                    raise LoginRefused("the server refuses the token it has issued") from None
            raise
        async with socket:
            self._early = {}
            self._under_way.clear()
            tasks = [
                asyncio.create_task(self._read(socket)),
                asyncio.create_task(self._refresh(socket)),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        sending: asyncio.Task[None] | None = None
        try:
            async for raw in _frames(socket):
                if isinstance(raw, Ready) and sending is None:
                    if raw.wallet != self.wallet:
                        raise ProtocolViolation("the server speaks to another wallet")
                    self._resume_due = True
                    sending = asyncio.create_task(self._send_outbox(socket))
                    self.connections += 1
                    self._backoff.succeeded()
                    self._ready.set()
                else:
                    self._frame(raw)
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _frame(self, frame: _ServerFrame) -> None:
        if isinstance(frame, Delivered):
            if self._early is None:
                self._take(frame)
            else:
                self._early[frame.position] = frame
        elif isinstance(frame, Ack):
            self._acknowledged(frame)
        elif isinstance(frame, Error):
            self._error(frame)
        elif isinstance(frame, Resumed):
            self._resumed(frame)
        elif isinstance(frame, ReceiptNotice) and self._on_receipt is not None:
            self._on_receipt(frame)

    async def _refresh(self, socket: ClientConnection) -> None:
        """Present a fresh token in good time before each one ends."""
        while True:
            token = self._token
            if token is None or token.expires_at is None:
                await socket.wait_closed()
                return
            left = token.expires_at - time.time()
            await asyncio.sleep(max(REFRESH_PAUSE, left - min(REFRESH_BEFORE, left / 5)))
            self._token = await self._tokens()
            await socket.send(_json(Auth(token=self._token.value)))


async def _frames(socket: ClientConnection) -> AsyncIterator[_ServerFrame]:
    while True:
        raw = await socket.recv()
        try:
            frame = _DECODER.decode(raw)
        except (msgspec.DecodeError, UnicodeError):
            raise ProtocolViolation("the server sent what is no frame of this protocol") from None
        yield frame


def _is_over(token: Token) -> bool:
    return token.expires_at is not None and token.expires_at <= time.time() + 1


def _json(frame: msgspec.Struct) -> str:
    return msgspec.json.encode(frame).decode()

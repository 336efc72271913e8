"""The client's connection: sending until acknowledged, receiving in ledger order, coming back.

One task connects, reads and reconnects; one for each connection sends; one opens what arrived; one
for each recipient seals; one keeps the prekeys. What must survive is ``device.py``'s, who is
encrypted to is ``contacts.py``'s.

A message is numbered, sealed and on disk before it is sent, and goes out in the same bytes until
the server acknowledges or refuses it. To one recipient only one message is under way at a time: a
refused one can then never be overtaken by the next and lose its number.

A received message is opened, and on disk, before RESUME no longer asks for it. It counts as handled
when the next one is asked for, or the ``async with`` is left without an error. After a crash what
was not handled is given again; what was is not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import UNSET
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from plugins.secure_chat.client.backoff import Backoff
from plugins.secure_chat.client.contacts import Contact, Contacts
from plugins.secure_chat.client.device import Arrived, Device, Received, Signer, Unacknowledged
from plugins.secure_chat.client.directory import Directory
from plugins.secure_chat.client.errors import (
    ClientClosed,
    LoginRefused,
    ProtocolViolation,
    SendRefused,
    ServerUnreachable,
    StreamContinued,
)
from plugins.secure_chat.client.login import Token, Tokens, TokenSource
from plugins.secure_chat.client.registration import keep_prekeys, register
from plugins.secure_chat.client.witness import LedgerWatch
from plugins.secure_chat.core.frames import (
    Ack,
    Auth,
    Delivered,
    Error,
    Pong,
    PrekeysLow,
    Ready,
    ReceiptFrame,
    ReceiptNotice,
    Resume,
    Resumed,
)
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.crypto import errors as crypto_errors
from plugins.secure_chat.crypto.codec import is_wallet
from plugins.secure_chat.crypto.errors import (
    CryptoError,
    DecryptError,
    IdentityChanged,
    Replayed,
    StateRolledBack,
    StorageError,
    TooManySkipped,
    UnknownPrekey,
    UnknownSession,
)
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Message
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.errors import Close, Code, SecureChatError
from plugins.secure_chat.transparency.witness import Alarm

log: Final = logging.getLogger(__name__)
# Of websockets: at DEBUG it writes down headers and frames, and with them the token.
_SOCKET_LOG: Final = logging.getLogger(f"{__name__}.socket")
_SOCKET_LOG.setLevel(logging.INFO)
T = TypeVar("T")

PATH: Final = "/v1/chat/ws"
LARGEST_FRAME: Final = 2 << 20  # a ciphertext of 1 MiB in base64 and its other fields
TRY_AGAIN: Final = frozenset((Code.RATE_LIMITED, Code.LEDGER_UNAVAILABLE, Code.INTERNAL))
REFRESH_PAUSE: Final = 1.0  # at least, between logins: the two clocks may not agree
RETRY_SECONDS: Final = 1.0  # when the server does not say
REFRESH_BEFORE: Final = 60.0  # seconds before a token's end, or a fifth of its life if shorter
UPKEEP_SECONDS: Final = 6 * 3600.0  # at most, between two looks at the prekeys
RESET_PAUSE: Final = 60.0  # between two new sessions with one device because of what it sent
MAX_BATCH: Final = 64  # messages sealed or opened with one commit
MAX_WAITING: Final = 256  # opened messages that nobody has asked for yet
MAX_WAITING_BYTES: Final = 4 << 20
MAX_TOLD: Final = 10_000  # refused messages remembered; of older ones one may be told again

_ServerFrame = Ready | Delivered | Ack | Error | Resumed | ReceiptNotice | PrekeysLow | Pong
_DECODER: Final[msgspec.json.Decoder[_ServerFrame]] = msgspec.json.Decoder(_ServerFrame)
_TYPES: Final = frozenset(one.__struct_config__.tag for one in get_args(_ServerFrame))
_Key = tuple[str, int]


class _Other(msgspec.Struct):
    """A frame of a type that this client has no use for, or does not know yet."""

    type: str


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
class Refused:
    """A message that was not let through, and why. Nothing of its contents was used."""

    sender: str
    position: int
    reason: SecureChatError


@dataclass(frozen=True, slots=True)
class _Unsealed:
    content: bytes = field(repr=False)
    ts: float
    cids: tuple[str, ...]
    members: tuple[str, ...]
    answer: asyncio.Future[Receipt]


def _log_refused(refused: Refused) -> None:
    log.warning(
        "client.refused position=%d reason=%s", refused.position, type(refused.reason).__name__
    )


def _log_change(contact: Contact) -> None:
    if contact.changed:
        log.warning("client.identity_changed: nothing is sent to it before it is accepted")
    else:
        log.warning("client.identity_rotated: the safety number is another one")


def _log_alarm(alarm: Alarm) -> None:
    log.critical("client.alarm: %s", alarm)


class ChatClient:
    """A wallet's device on a server. Use it as an async context manager, and iterate over it.

    It gives received messages in ledger order, also what one's other devices sent. What does not
    authenticate is not among them: it goes to ``on_refused`` and is not asked for again. A client
    that nobody iterates over keeps in memory what it receives, and until RESUMED every client keeps
    there what it has missed.
    """

    def __init__(
        self,
        base_url: str,
        device: Device,
        tokens: TokenSource,
        *,
        receipts: bool = False,
        on_refused: Callable[[Refused], None] = _log_refused,
        on_identity_change: Callable[[Contact], None] = _log_change,
        on_receipt: Callable[[ReceiptNotice], None] | None = None,
        backoff: Callable[[], Backoff] = Backoff,
        clock: Callable[[], float] = time.time,
        begin_again: bool = False,
        ledger_watch: Path | None = None,
        log_keys: Sequence[str] = (),
        on_alarm: Callable[[Alarm], None] = _log_alarm,
    ) -> None:
        """``base_url``: ``http://host:port`` or https. The caller closes ``device`` afterwards.

        ``receipts``: tell senders when their messages arrive and are read; off unless the person
        wants it, for it tells when the person is there. ``on_identity_change``: a wallet's identity
        is not the one known (``changed``), or was ``rotated``; show the person the new safety
        number. It is told again at every start until ``accept``. ``begin_again``: make a state
        that was restored from a backup usable (``Device.begin_again``). ``ledger_watch``: a file;
        with it the server is held to its ACKs by the log's keys ``log_keys``, and ``on_alarm`` is
        told of each promise that it broke (``LedgerWatch``). Raises StateRolledBack for a restored
        state without ``begin_again``, Alarm when the file was made for other keys, and
        StateUnreadable when it is damaged.
        """
        parts = urlsplit(base_url)
        scheme = {"http": "ws", "https": "wss"}[parts.scheme]
        path = parts.path.rstrip("/") + PATH
        query = urlencode({"device": device.id})
        self._url: Final = urlunsplit((scheme, parts.netloc, path, query, ""))
        self._device: Final = device
        self._began_again: Final = begin_again and device.rolled_back
        if self._began_again:
            device.begin_again()
        if device.rolled_back:
            raise StateRolledBack("the state is an old one; open the client with begin_again")
        self._tokens: Final = Tokens(tokens)
        self._directory: Final = Directory(base_url, self._tokens)
        self._contacts: Final = Contacts(
            device, self._directory, monotonic=time.monotonic, on_change=on_identity_change
        )
        self.watch: Final = (
            None
            if ledger_watch is None
            else LedgerWatch(base_url, self._tokens, ledger_watch, keys=log_keys)
        )
        self._on_alarm: Final = on_alarm
        self._backoff: Final = backoff()
        self._asking: Final = backoff
        self._clock: Final = clock
        self._receipts: Final = receipts
        self._on_refused: Final = on_refused
        self._on_receipt: Final = on_receipt
        self.refused = 0
        self.connections = 0
        self.complete = True
        """Whether the last RESUME gave everything: False when the server lacks some of it."""
        self._unsealed: dict[str, deque[_Unsealed]] = {}
        self._outbox: dict[_Key, Unacknowledged] = {
            (kept.recipient, kept.seq): kept for kept in device.outbox()
        }
        self._waiting: dict[_Key, asyncio.Future[Receipt]] = {}
        self._under_way: dict[str, int] = {}  # recipient → seq, on this connection
        self._notices: deque[ReceiptFrame] = deque()  # receipts to give; not kept over a crash
        self._wake = asyncio.Event()
        self._rotation = asyncio.Lock()  # one at a time
        self._may_seal = asyncio.Event()  # not while the own certificate is being replaced
        self._may_seal.set()
        self._sealing = 0  # recipients for whom something is being sealed now
        self._decided = asyncio.Event()  # something was sealed, or decided on, or the client ends
        # What came before RESUMED, live and replayed mixed: only then is its order known.
        self._early: dict[int, Delivered] | None = None
        self._resume_due = False
        self._arrived: deque[Delivered | Resumed] = deque()
        self._arriving = asyncio.Event()
        self._queue: deque[Received] = deque(device.inbox())
        self._queued_bytes = sum(len(one.content) for one in self._queue)
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._handling: Received | None = None
        self._told: set[int] = set()  # positions that were reported as refused
        self._resets: dict[tuple[str, str], float] = {}
        self._low = asyncio.Event()
        self._registered = False
        self._presented: Token | None = None
        self._refusals = 0  # tokens refused one after the other
        self._ready = asyncio.Event()
        self._ended: SecureChatError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
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
        return self._device.wallet

    @property
    def unacknowledged(self) -> int:
        """Messages in the outbox, and those waiting to be sealed."""
        return len(self._outbox) + sum(len(queue) for queue in self._unsealed.values())

    async def connect(self, within: float = 30.0) -> None:
        """Start; returns when the device is published and the server is ready for this wallet.

        Raises LoginRefused, IdentityTaken, DeviceRevoked, or ServerUnreachable after ``within``
        seconds; then the client is closed.
        """
        self._check_open()
        if not self._tasks:
            self._start(self._run)
            self._start(self._open_arrived)
            self._start(self._keep_prekeys)
            if self.watch is not None:
                self._start(partial(self.watch.run, self._on_alarm))
        try:
            async with asyncio.timeout(within):
                await self._ready.wait()
        except TimeoutError:
            self._end(ServerUnreachable("the server did not get ready in time"))
        if self._ended is not None:
            await self.close()
            raise self._ended

    async def close(self) -> None:
        """Disconnect. Unacknowledged messages stay in the outbox; their senders get
        ClientClosed."""
        self._end(ClientClosed("the client is closed"))
        for task in self._tasks:
            if not task.cancelling():  # a second time would cut short how it closes its socket
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers:
            timer.cancel()
        await self._directory.close()
        if self.watch is not None:
            await self.watch.close()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    # -- people -------------------------------------------------------------------------------

    async def contact(self, wallet: str) -> Contact:
        """What the directory has of ``wallet`` now: its safety number and devices.

        Raises NoIdentity, VerificationError, DirectoryRefused, ServerUnreachable.
        """
        return await self._contacts.contact(canonical(wallet, "wallet"))

    async def accept(self, wallet: str, safety_number: str) -> None:
        """Go on with a wallet whose identity has changed: a person has compared its new number.

        Of a rotated one it says that the new number was seen.

        What it sent meanwhile is then received. Raises WrongSafetyNumber.
        """
        self._contacts.accept(canonical(wallet, "wallet"), safety_number)
        self._resume_due = True
        self._wake.set()

    async def revoke(self, device: str, signer: Signer) -> None:
        """Shut a device of one's own wallet out, for good. On the device that made the identity.

        Raises NotCertified for an unknown device, Refused on another device.
        """
        own = await self._contacts.roster(self.wallet, device=device)
        revocation = self._device.revocation(own.device(device), signer)
        await self._directory.publish_revocation(revocation)
        await self._contacts.contact(self.wallet)

    async def rotate(self, signer: Signer) -> None:
        """Give the wallet a new identity key and publish it (``Device.rotate``).

        First everything that was sealed is acknowledged, for as long as that takes; what is sent
        meanwhile waits. When it ends in between, the next start publishes. Raises Refused on a
        device without the identity's key, and what ``connect`` raises.
        """
        async with self._rotation:
            self._may_seal.clear()
            try:
                while self._outbox or self._sealing:
                    self._check_open()
                    self._decided.clear()
                    await self._decided.wait()
                self._check_open()
                self._device.rotate(signer)
                await self._patiently(self._register)
            finally:
                self._may_seal.set()

    # -- sending ------------------------------------------------------------------------------

    async def send(
        self,
        recipient: str,
        content: bytes,
        *,
        cids: tuple[str, ...] = (),
        members: tuple[str, ...] = (),
    ) -> Receipt:
        """Send and wait until it is in the ledger, across as many connections as that takes.

        ``members``: the wallets of the thread when ``recipient`` is one. Raises NoIdentity,
        IdentityChanged, VerificationError, ContentTooLarge, SendRefused, and ClientClosed when the
        client ends before the answer; what was sealed then, or when the caller stops waiting, stays
        in the outbox.
        """
        peer = canonical(recipient, "recipient")
        if not content:
            raise crypto_errors.Refused("a message has at least one byte")
        if not is_wallet(peer) and not members:
            raise crypto_errors.Refused("a message to a thread needs the wallets of its members")
        return await self._send(peer, content, cids, members)

    async def _send(
        self, peer: str, content: bytes, cids: tuple[str, ...] = (), members: tuple[str, ...] = ()
    ) -> Receipt:
        self._check_open()
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        item = _Unsealed(content, self._clock(), cids, members or (peer,), answer)
        if peer in self._unsealed:
            self._unsealed[peer].append(item)
        else:
            self._unsealed[peer] = deque((item,))
            self._start(self._seal_for, peer)
        return await answer

    async def _seal_for(self, peer: str) -> None:
        """Seal what waits for ``peer``, in order; many with one commit."""
        queue = self._unsealed[peer]
        try:
            while queue:
                while not self._may_seal.is_set():  # the next rotation may have begun already
                    await self._may_seal.wait()
                self._sealing += 1
                try:
                    ask = partial(self._prepared, queue[0].members)
                    self._seal(peer, queue, *await self._patiently(ask))
                finally:
                    self._sealing -= 1
                    self._decided.set()
        except StorageError:
            raise  # the client ends, and with it whatever waits in the queue
        except SecureChatError as error:
            for item in queue:
                _fail(item.answer, error)
        del self._unsealed[peer]

    async def _prepared(self, members: tuple[str, ...]) -> tuple[list[Roster], frozenset[bytes]]:
        """The rosters of ``members`` and one's own, with a session for each device."""
        wallets = tuple(dict.fromkeys((*members, self.wallet)))
        return await self._contacts.reachable(wallets, self._milliseconds())

    def _seal(
        self,
        peer: str,
        queue: deque[_Unsealed],
        rosters: list[Roster],
        without: frozenset[bytes],
        most: int = MAX_BATCH,
    ) -> None:
        """Seal the first of ``queue`` that have the same members. They leave it once sealed, so
        whatever goes wrong here, ``_end`` finds who waits for them."""
        members = queue[0].members
        first = list(takewhile(lambda item: item.members == members, islice(queue, most)))
        batch = [item for item in first if not item.answer.done()]
        messages = [
            Message(peer, rosters, item.content, item.ts, item.cids, without) for item in batch
        ]
        try:
            kept = self._device.seal(messages) if messages else []
        except StorageError:
            raise
        except CryptoError as error:
            if most > 1:  # one of them cannot be sealed: one by one, it alone is refused
                self._seal(peer, queue, rosters, without, most=1)
                return
            kept = []
            _fail(batch.pop().answer, error)
        for _ in first:
            queue.popleft()
        self._sealed(batch, kept)

    def _sealed(self, items: list[_Unsealed], kept: list[Unacknowledged]) -> None:
        # crash point: kept, not sent; the next start sends it
        for item, message in zip(items, kept, strict=True):
            key = (message.recipient, message.seq)
            self._outbox[key] = message
            self._waiting[key] = item.answer
        self._wake.set()

    async def _send_outbox(self, socket: ClientConnection) -> None:
        """Keep the first message of each recipient under way while this connection lasts."""
        while True:
            self._wake.clear()
            if self._resume_due:
                self._resume_due = False
                self._early = self._early or {}
                await socket.send(_json(Resume(after=self._device.cursor.position)), text=True)
            while self._notices:
                await socket.send(_json(self._notices.popleft()), text=True)
            for (recipient, seq), message in list(self._outbox.items()):
                if recipient not in self._under_way:
                    self._under_way[recipient] = seq
                    await socket.send(message.frame, text=True)
            await self._wake.wait()

    def _acknowledged(self, ack: Ack) -> None:
        key = (ack.recipient, ack.seq)
        message = self._outbox.get(key)
        if message is None or ack.device != self._device.id:
            return
        if message.hash != ack.hash:
            raise ProtocolViolation("an ACK is of another message than was sent")
        receipt = Receipt(
            ack.recipient,
            ack.seq,
            ack.hash,
            ack.position,
            ack.event_hash,
            ack.timestamp,
            ack.duplicate,
        )
        if self.watch is not None:
            self.watch.note(receipt)
        answer = self._settle(key)
        if answer is not None and not answer.done():
            answer.set_result(receipt)

    def _settle(self, key: _Key) -> asyncio.Future[Receipt] | None:
        """The server has decided on this message: who waits for it."""
        self._device.settle(*key)
        del self._outbox[key]
        self._decided.set()
        self._free(key)
        return self._waiting.pop(key, None)

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
            if error.code is Code.UNKNOWN_DEVICE:
                self._registered = False  # has it been revoked? The directory must show it
            return
        key = (error.recipient, error.seq)
        if key not in self._outbox:
            return
        if error.code in TRY_AGAIN:
            self._later(wait, partial(self._free, key))
            return
        if error.code is Code.UNKNOWN_DEVICE:
            self._contacts.doubt(self.wallet)  # the next message finds out why
        refusal = SendRefused(error.code, error.detail)
        if error.code in (Code.REPLAYED_SEQUENCE, Code.SEQUENCE_CONFLICT):
            if not self._began_again:
                self._device.distrust()
                raise StateRolledBack("the server has messages that this state does not know of")
            refusal = StreamContinued(error.code, error.detail)
            if isinstance(error.last_seq, int):
                self._device.messenger.fast_forward(error.recipient, error.last_seq)
        answer = self._settle(key)
        if answer is not None:
            _fail(answer, refusal)

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
        while not self._queue:
            self._check_open()
            self._filled.clear()
            await self._filled.wait()
        message = self._handling = self._queue.popleft()
        self._queued_bytes -= len(message.content)
        self._room.set()
        return message

    async def __aiter__(self) -> AsyncIterator[Received]:
        while True:
            try:
                message = await self.receive()
            except ClientClosed:
                return
            yield message

    def _handled(self) -> None:
        message, self._handling = self._handling, None
        if message is not None:
            self._device.handled(message.position)
            self._give_receipt("read", message)

    def _give_receipt(self, kind: Any, message: Received) -> None:
        if self._receipts and message.recipient == self.wallet != message.sender:
            self._notices.append(ReceiptFrame(kind=kind, position=message.position))
            self._wake.set()

    async def _open_arrived(self) -> None:
        """Open what arrived, in its order, and put it where ``receive`` takes it from."""
        while True:
            while len(self._queue) >= MAX_WAITING or self._queued_bytes > MAX_WAITING_BYTES:
                self._room.clear()
                await self._room.wait()
            while not self._arrived:
                self._arriving.clear()
                await self._arriving.wait()
            await self._open_batch()

    async def _open_batch(self) -> None:
        batch: list[Arrived] = []
        passed: list[int] = []
        held: dict[str, int] = {}
        refusals: list[tuple[Delivered, SecureChatError]] = []
        while self._arrived and len(batch) < MAX_BATCH:
            first = self._arrived[0]
            if isinstance(first, Resumed):
                if batch or refusals:
                    break  # what came before it is taken first
                self._arrived.popleft()
                self.complete = first.complete
                passed += [first.position] if first.complete else []
                break
            try:
                one = await self._patiently(partial(self._readable, first))
            except SecureChatError as reason:
                refusals.append((first, reason))
                if isinstance(reason, IdentityChanged):
                    held.setdefault(first.sender, first.position)
            else:
                if one is not None:
                    batch.append(one)
            self._arrived.popleft()
        highest = self._device.cursor.highest
        results = self._device.take(
            batch,
            passed,
            held=held,
            waiting=self._next_position(),
            complete=self.complete,
            again=True,
        )
        await self._once_more(batch, results)
        for refused, why in refusals:
            self._refuse(refused.sender, refused.device, refused.position, why, highest)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, CryptoError):
                frame = one.frame
                self._refuse(frame.sender, frame.device, one.position, result, highest)
            elif result.content:  # an empty one only opens a session
                self._queue.append(result)
                self._queued_bytes += len(result.content)
                self._give_receipt("delivered", result)
        self._filled.set()

    def _next_position(self) -> int | None:
        """Of what has come and is not taken yet, the lowest."""
        rest = (one.position for one in self._arrived if isinstance(one, Delivered))
        return min(rest, default=None)

    async def _once_more(
        self, batch: Sequence[Arrived], results: list[Received | CryptoError]
    ) -> None:
        """Take anew what did not open, into ``results``: its sender's device may have another
        certificate by now than was known here (C35)."""
        doubtful = [at for at, one in enumerate(results) if isinstance(one, DecryptError)]
        renewed: dict[str, Roster | None] = {}
        for at in doubtful:
            before = batch[at].roster
            if before.wallet not in renewed:
                renewed[before.wallet] = await self._renewed(before)
        again: dict[int, Arrived] = {}
        for at in doubtful:
            if (now := renewed[batch[at].roster.wallet]) is not None:
                again[at] = replace(batch[at], roster=now)
        if doubtful:
            waiting = self._next_position()
            opened = self._device.take([*again.values()], waiting=waiting, complete=self.complete)
            for at, result in zip(again, opened, strict=True):
                results[at] = result

    async def _renewed(self, before: Roster) -> Roster | None:
        """What the directory has now in the place of a roster; None when that is the same."""
        try:
            return await self._patiently(partial(self._contacts.renewed, before))
        except SecureChatError:
            return None  # it stays refused; what is wrong with the roster shows with the next

    async def _readable(self, delivered: Delivered) -> Arrived | None:
        """The frame and its sender's roster; None for what this device itself sent."""
        if (delivered.sender, delivered.device) == (self.wallet, self._device.id):
            return None
        fields = {
            name: value
            for name, value in msgspec.structs.asdict(delivered).items()
            if value is not UNSET
        }
        frame = Frame.from_wire(fields)
        roster = await self._contacts.roster(frame.sender, device=frame.device)
        return Arrived(frame, delivered.position, delivered.timestamp, roster)

    def _refuse(
        self, sender: str, device: str, position: int, reason: SecureChatError, highest: int
    ) -> None:
        """Tell of a message that was not let through, once."""
        again = isinstance(reason, Replayed) and position <= highest  # we asked for it again
        if again or position in self._told:
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told.add(position)
        self.refused += 1
        self._on_refused(Refused(sender, position, reason))
        if isinstance(reason, UnknownSession | UnknownPrekey | TooManySkipped):
            now = time.monotonic()
            if now - self._resets.get((sender, device), -RESET_PAUSE) >= RESET_PAUSE:
                self._resets[sender, device] = now
                self._start(self._reset, sender, device)

    async def _reset(self, sender: str, device: str) -> None:
        """Open a new session with a device whose messages do not open, and let it know."""
        try:
            await self._patiently(
                lambda: self._contacts.reset(sender, device, self._milliseconds())
            )
            try:
                await self._send(sender, b"")
            except StreamContinued:
                await self._send(sender, b"")  # above what the server has
        except SecureChatError as error:
            log.warning("client.session_not_reset error=%s", type(error).__name__)

    # -- the connection -----------------------------------------------------------------------

    def _start(self, work: Callable[..., Awaitable[None]], *arguments: str) -> None:
        task = asyncio.create_task(self._guarded(work, *arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: str) -> None:
        """Whatever ends a task by an error ends the client with it."""
        try:
            await work(*arguments)
        except SecureChatError as error:
            self._end(error)
        except Exception as defect:
            log.exception("client.failed")
            self._end(ClientClosed(f"the client failed: {type(defect).__name__}"))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the server until it can be reached."""
        backoff = self._asking()
        while True:
            try:
                return await ask()
            except ServerUnreachable as error:
                log.info("client.waiting reason=%s", error)
                await asyncio.sleep(max(backoff.next(), error.retry_after or 0.0))

    def _milliseconds(self) -> int:
        return int(self._clock() * 1000)

    async def _run(self) -> None:
        while True:
            if not self._registered:
                await self._patiently(self._register)
                self._registered = True
            try:
                await self._connection()
            except (ServerUnreachable, OSError, InvalidHandshake, TimeoutError) as error:
                log.info("client.unreachable error=%s", type(error).__name__)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else None
                log.info("client.disconnected code=%s", code)
                if code == Close.TOKEN_EXPIRED or code == Close.REFUSED:
                    self._tokens.forget(self._presented)
            await asyncio.sleep(self._backoff.next())

    async def _register(self) -> None:
        """Have the directory know this device, with prekeys, and know one's own roster."""
        await register(self._device, self._directory)
        await self._contacts.contact(self.wallet)
        await keep_prekeys(self._device, self._directory, self._clock())

    async def _keep_prekeys(self) -> None:
        """Replace the prekeys when the server runs low, and weekly."""
        await self._ready.wait()
        while True:
            due = self._device.rotation_due(self._clock())
            try:
                async with asyncio.timeout(min(due, UPKEEP_SECONDS)):
                    await self._low.wait()
            except TimeoutError:
                pass  # time to look, whatever the server says
            self._low.clear()
            await self._patiently(
                lambda: keep_prekeys(self._device, self._directory, self._clock())
            )

    def _end(self, error: SecureChatError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        for answer in self._waiting.values():
            _fail(answer, error)
        for queue in self._unsealed.values():
            for item in queue:
                _fail(item.answer, error)
        self._ready.set()
        self._filled.set()
        self._decided.set()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _connection(self) -> None:
        """One connection, from its token to its end."""
        token = await self._tokens.current()
        header = {"Authorization": f"Bearer {token.value}"}
        try:
            socket = await connect(
                self._url,
                additional_headers=header,
                max_size=LARGEST_FRAME,
                compression=None,
                open_timeout=10,
                close_timeout=2,
                proxy=None,
                logger=_SOCKET_LOG,
            )
        except InvalidStatus as refusal:
            if refusal.response.status_code in (401, 403):
                self._tokens.forget(token)
                self._refusals += 1
                if self._refusals > 1:
                    raise LoginRefused("the server refuses the token it has issued") from None
            raise
        self._presented = token
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
            async for frame in _frames(socket):
                if isinstance(frame, Ready) and sending is None:
                    if frame.wallet != self.wallet:
                        raise ProtocolViolation("the server speaks to another wallet")
                    self._device.ledger_ends_at(frame.position)
                    self._resume_due = True
                    sending = asyncio.create_task(self._send_outbox(socket))
                    self.connections += 1
                    self._refusals = 0
                    self._backoff.succeeded()
                    self._ready.set()
                else:
                    self._frame(frame)
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _frame(self, frame: _ServerFrame | _Other) -> None:
        if isinstance(frame, Delivered):
            if self._early is None:
                self._arrived.append(frame)
            else:
                self._early[frame.position] = frame
        elif isinstance(frame, Ack):
            self._acknowledged(frame)
        elif isinstance(frame, Error):
            self._error(frame)
        elif isinstance(frame, Resumed):
            # All that was missed has come: it is opened in ledger order, then what is live.
            early, self._early = self._early or {}, None
            self._arrived += [early[position] for position in sorted(early)]
            self._arrived.append(frame)
        elif isinstance(frame, ReceiptNotice) and self._on_receipt is not None:
            self._on_receipt(frame)
        elif isinstance(frame, PrekeysLow) and frame.device == self._device.id:
            self._low.set()
        self._arriving.set()

    async def _refresh(self, socket: ClientConnection) -> None:
        """Present a fresh token in good time before each one ends."""
        token = await self._tokens.current()
        while token.expires_at is not None:
            left = token.expires_at - time.time()
            await asyncio.sleep(max(REFRESH_PAUSE, left - min(REFRESH_BEFORE, left / 5)))
            token = await self._tokens.renewed()
            self._presented = token
            await socket.send(_json(Auth(token=token.value)), text=True)
        await socket.wait_closed()


async def _frames(socket: ClientConnection) -> AsyncIterator[_ServerFrame | _Other]:
    while True:
        raw = await socket.recv()
        try:
            frame = _parsed(raw)
        except (msgspec.DecodeError, UnicodeError):
            raise ProtocolViolation("the server sent what is no frame of this protocol") from None
        yield frame


def _parsed(raw: str | bytes) -> _ServerFrame | _Other:
    try:
        return _DECODER.decode(raw)
    except msgspec.ValidationError:
        other = msgspec.json.decode(raw, type=_Other)
        if other.type in _TYPES:
            raise
        return other


def _fail(answer: asyncio.Future[Receipt], error: SecureChatError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _json(frame: msgspec.Struct) -> bytes:
    return msgspec.json.encode(frame)

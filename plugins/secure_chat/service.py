"""The life of a message: received → validated → sequenced → committed → delivered → acknowledged.

Two tasks share the work. The sequencer takes what waits in the pool, decides on every sequence
number and gives the fresh messages to the ledger as one group. The settler waits until the group is
durable, and only then delivers and acknowledges, group by group in the ledger's order. So the next
group is decided while the last one syncs; what is decided counts as the stream's last number at
once. When a group fails, what was decided behind it fails too, and nothing more is decided before
all groups are settled and the mailbox is level with the ledger.

Sockets and REST are shells that call ``submit``; here is no transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import msgspec

from plugins.secure_chat.admission import Audience, SignatureCheck, Wallets
from plugins.secure_chat.core.budget import Budgets
from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.core.frames import Ack, ack, delivered
from plugins.secure_chat.core.message_event import message_draft
from plugins.secure_chat.core.records import EventDraft, Receipt
from plugins.secure_chat.core.sequence import Duplicate, Logged, Stream, decide
from plugins.secure_chat.errors import (
    Code,
    DatabaseTaken,
    LedgerUnavailable,
    NotStored,
    OutcomeUnknown,
    Refusal,
)
from plugins.secure_chat.hub import Hub, Outbox
from plugins.secure_chat.ledger.port import Ledger
from plugins.secure_chat.mailbox.store import Mailbox, Stored, Waiting
from plugins.secure_chat.mailbox.writer import MailboxWriter
from plugins.secure_chat.metrics import Metrics

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

MAX_GROUP: Final = 512  # messages a commit: bounds what holds the event loop at once
MAX_UNSETTLED: Final = 3  # groups decided and not settled: one syncs, the others queue behind it
ENOUGH: Final = (
    64  # messages that are worth a group while another is not settled: each costs a sync
)
MAX_STREAMS: Final = 100_000  # last sequence numbers kept in memory; others are read again
MAX_UNANSWERED: Final = 32 << 20  # bytes of ciphertext that are not answered: bounds memory
MEND_SECONDS: Final = 1.0  # between two attempts at a mailbox that could not be written
CHECKPOINT_EVERY: Final = 10_000  # records between two saved checkpoints: bounds start-up work

Outcome = Ack | Refusal | LedgerUnavailable
Reply = Callable[[Outcome], None]
Observer = Callable[[Sequence[EventDraft], Sequence[Receipt]], None]


class _Unanswered:
    """Bytes of ciphertext that were taken and not answered. While there are too many, wait."""

    def __init__(self) -> None:
        self._bytes = 0
        self._fewer = asyncio.Event()

    def add(self, size: int) -> None:
        self._bytes += size
        if size < 0:
            self._fewer.set()

    @property
    def are_too_many(self) -> bool:
        return self._bytes >= MAX_UNANSWERED

    async def room(self) -> None:
        """Return at once when there is room."""
        while self.are_too_many:  # who woke before may have filled it again
            self._fewer.clear()
            await self._fewer.wait()


class _Item(msgspec.Struct):
    """A message in the pool, and whom to tell."""

    envelope: Envelope
    origin: Outbox | None
    answer: Reply
    received: float
    stream: Stream  # the envelope's, made once
    unanswered: _Unanswered
    refusal: Refusal | None = None  # of its signature
    answered: bool = False

    def reply(self, outcome: Outcome) -> None:
        """Tell the outcome, the first one only."""
        if not self.answered:
            self.answered = True
            self.unanswered.add(-self.envelope.size)
            self.answer(outcome)


@dataclass(slots=True)
class _Event:
    """Something else to log: what, decided when its turn comes, and what follows from it."""

    decide: Callable[[], EventDraft]
    apply: Callable[[Receipt], None]
    store: Callable[[Receipt], None]
    look: Callable[[], None] | None
    done: asyncio.Future[Receipt]


class _NothingToLog(Refusal):
    """Of an event that is there to have the mailbox mended in its turn."""

    code = Code.INTERNAL


@dataclass(slots=True)
class _Group:
    """What was decided at once: fresh messages in order, with their gaps, and repeats of others."""

    fresh: list[tuple[_Item, int]] = field(default_factory=list)
    echoes: list[tuple[_Item, int]] = field(default_factory=list)  # of the fresh one at an index
    repeats: list[tuple[_Item, Receipt, bool]] = field(default_factory=list)
    drafts: list[EventDraft] = field(default_factory=list)
    last_seqs: dict[Stream, int] = field(default_factory=dict)  # after the fresh ones
    stored: list[Stored] = field(default_factory=list)  # once the receipts are known
    storing: asyncio.Future[None] | None = None  # into the mailbox, beside the commit
    commit: asyncio.Future[list[Receipt]] | None = None  # None when nothing is fresh
    begun: float = 0.0  # the commit, by the monotonic clock

    _places: dict[tuple[Stream, int], int] = field(default_factory=dict)

    def place(self, stream: Stream, seq: int) -> int | None:
        """Where among the fresh ones the message at ``seq`` of ``stream`` is."""
        for place in range(len(self._places), len(self.fresh)):  # made when first asked for
            item = self.fresh[place][0]
            self._places[item.stream, item.envelope.seq] = place
        return self._places.get((stream, seq))

    def refuse(self, error: LedgerUnavailable) -> None:
        """Answer all that waits for this commit."""
        for item, _ in self.fresh + self.echoes:
            item.reply(error)


class ChatService:
    """Sequences, commits and delivers. Create it inside a running event loop, then ``start``."""

    def __init__(
        self,
        ledger: Ledger,
        mailbox: Mailbox,
        metrics: Metrics,
        *,
        rate: float,
        burst: int,
        monotonic: Callable[[], float],
        check: SignatureCheck | None = None,
        audience: Audience | None = None,
    ) -> None:
        self.ledger = ledger
        self.mailbox = mailbox
        self.metrics = metrics
        self.hub = Hub()
        self.delivered_position = ledger.checkpoint.head.position
        self._monotonic = monotonic
        self._check = check
        self._audience = audience if audience is not None else Wallets()
        self._observers: list[Observer] = []
        self._pool: list[_Item | _Event] = []
        self._unanswered = _Unanswered()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_seq: OrderedDict[Stream, int] = OrderedDict()  # of what is decided
        self._undurable: list[_Group] = []  # given to the ledger and not settled
        self._unsettled: asyncio.Queue[_Group] = asyncio.Queue()
        self._under_way = 0  # groups that are not settled
        self._failures = 0  # of groups: what was decided before one is not decided on top of it
        self._budgets = Budgets(rate, burst)
        self._writer = MailboxWriter(mailbox, taken=self._stop_ledger)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="mailbox-reader")
        self._tasks: list[asyncio.Task[None]] = []
        self._mending: asyncio.Task[None] | None = None
        self._draining = False
        self._saved_position = self.delivered_position
        # What the mailbox still has to do before the next commit, when it could not be written.
        self._unstored: list[Stored] = []  # committed and not stored, or stored behind such
        self._unstored_event: tuple[_Event, Receipt] | None = None  # the same, of another event
        self._orphaned = False  # it may hold rows that were refused by the ledger

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` told of events and their receipts, once and in ledger order.

        It is called on the event loop before anything of it is delivered; it must be quick, and
        what it raises is logged.
        """
        self._observers.append(observer)

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="sequencer"),
            asyncio.create_task(self._settle(), name="settler"),
        ]

    async def stop(self) -> None:
        """Refuse new messages, commit what is in the pool, and stop."""
        self._draining = True
        await self.drained()
        for task in (*self._tasks, *([] if self._mending is None else [self._mending])):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ledger.stopped is None and await self._mend_mailbox() is None:
            # Only then does the mailbox have all that the checkpoint would vouch for.
            checkpoint = self.ledger.checkpoint
            try:
                await self.write(lambda: self.mailbox.set_checkpoint(checkpoint))
            except LedgerUnavailable as error:
                log.warning("mailbox.checkpoint_not_saved reason=%s", error.detail)
        await self._writer.close()
        self._readers.shutdown()

    async def drained(self) -> None:
        """Return when everything taken so far is committed, delivered and answered."""
        await self._idle.wait()
        await self._unsettled.join()

    @property
    def waiting(self) -> int:
        """Messages and other events in the pool."""
        return len(self._pool)

    def why_not_ready(self) -> list[str]:
        reasons = []
        if self.ledger.stopped is not None:
            reasons.append(self.ledger.stopped)
        elif self.mailbox.not_written is not None:
            reasons.append(self.mailbox.not_written)
        elif self._unstored or self._unstored_event is not None:
            reasons.append("the mailbox is being mended")
        if self._draining:
            reasons.append("the server is shutting down")
        if any(task.done() for task in self._tasks) and not self._draining:
            reasons.append("the sequencer has stopped; restart to recover")
        return reasons

    # -- a wallet's requests ------------------------------------------------------------------

    def spend(self, wallet: str) -> None:
        """Take one request from the wallet's budget, whatever the transport. Raises RateLimited."""
        self._budgets.spend(wallet, self._monotonic())

    @property
    def is_crowded(self) -> bool:
        """Whether so much is under way that transports take no more: see ``room``."""
        return self._unanswered.are_too_many

    async def room(self) -> None:
        """Wait until more may be read: for transports, before they take the next message."""
        await self._unanswered.room()

    def submit(self, envelope: Envelope, origin: Outbox | None, reply: Reply) -> None:
        """Put a valid message into the pool; ``reply`` is called once, after its commit."""
        if self._draining:
            reply(LedgerUnavailable("the server is shutting down; reconnect and resend", 1.0))
            return
        received, stream = self._monotonic(), envelope.stream
        self._pool.append(_Item(envelope, origin, reply, received, stream, self._unanswered))
        self._unanswered.add(envelope.size)
        self._idle.clear()
        self._wake.set()

    async def send(self, envelope: Envelope) -> Ack:
        """Submit and wait for the outcome. Raises what was refused."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def reply(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self.submit(envelope, None, reply)
        outcome = await answer
        if isinstance(outcome, Ack):
            return outcome
        raise outcome

    async def log(
        self,
        decide: Callable[[], EventDraft],
        apply: Callable[[Receipt], None],
        store: Callable[[Receipt], None] = lambda _receipt: None,
        look: Callable[[], None] | None = None,
    ) -> Receipt:
        """Commit an event that is no message, in one order with the messages.

        ``decide`` is called when all that came before is committed and applied: it gives the event,
        or raises the Refusal that is raised here. ``apply`` is called once the event is durable,
        before anything behind it is decided on. Both run on the event loop and must be quick.
        ``store`` writes the event's rows to the mailbox, in its one writer thread, while the ledger
        syncs. What it wrote must go with ``Mailbox.drop_after`` when the ledger refuses; when it
        raises LedgerUnavailable after the event was logged, this raises NotStored, and it is called
        again before anything else is committed. ``look`` reads in the mailbox what ``decide`` needs
        of it, just before, in a reader thread; all that came before is there then.
        Raises LedgerUnavailable: nothing was logged; OutcomeUnknown; NotStored.
        """
        if self._draining:
            raise LedgerUnavailable("the server is shutting down; try again", 1.0)
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._pool.append(_Event(decide, apply, store, look, done))
        self._idle.clear()
        self._wake.set()
        # Who stops waiting does not take the event back.
        return await asyncio.shield(done)

    async def missed(self, wallet: str, after: int) -> list[Waiting]:
        """The next committed messages to or from ``wallet`` after a position."""
        return self.committed(await self.read(lambda: self.mailbox.missed(wallet, after)))

    def committed(self, messages: list[Waiting]) -> list[Waiting]:
        """Those that may be shown: the mailbox is written while the ledger still syncs."""
        end = self.delivered_position
        return [message for message in messages if message.position <= end]

    def read(self, query: Callable[[], T]) -> Awaitable[T]:
        """Begin a blocking mailbox query off the event loop; await what it gives."""
        return asyncio.get_running_loop().run_in_executor(self._readers, query)

    def write(self, change: Callable[[], T]) -> Awaitable[T]:
        """Begin a blocking mailbox write off the event loop; there is one writer.

        A database that another server has written to stops the ledger.
        """
        return self._writer.change(change)

    async def hold_mailbox(self) -> None:
        """Keep the mailbox's claim; where it could not be written, try again though nobody writes.

        Raises LedgerUnavailable while that cannot be done, DatabaseTaken when it is too late.
        """
        await self.write(self.mailbox.hold)
        if self.mailbox.not_written is not None:
            if self._is_behind():
                self._mend_soon()
            else:
                await self.write(self.mailbox.write_again)

    def _stop_ledger(self, why: str) -> None:
        if self.ledger.stopped is None:
            self.ledger.stop(why)

    async def expire(self, older_than: datetime) -> int:
        """Drop ciphertext that the ledger dates before ``older_than``; how many messages."""
        before = older_than.astimezone(UTC).isoformat()
        return await self.write(lambda: self.mailbox.expire(before))

    # -- the sequencer ------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pool:
                first = self._pool[0]
                if isinstance(first, _Event):
                    del self._pool[0]
                    await self._log(first)
                    continue
                if self._under_way >= (MAX_UNSETTLED if len(self._pool) >= ENOUGH else 1):
                    break  # what comes until one is settled makes the next group larger
                items = _leading_messages(self._pool)
                del self._pool[: len(items)]
                group = _Group()
                try:
                    await self._decide(items, group)
                except LedgerUnavailable as not_read:
                    self._forget(group)
                    for item in items:
                        item.reply(not_read)
                except Exception:
                    log.exception("sequencer.failed messages=%d", len(items))
                    self._forget(group)
                    _refuse_for_a_defect(items)
                self._under_way += 1
                self._unsettled.put_nowait(group)
            if not self._pool:
                self._idle.set()

    async def _settle(self) -> None:
        while True:
            group = await self._unsettled.get()
            try:
                await self._finish(group)
            except Exception:
                log.exception("settler.failed messages=%d", len(group.fresh))
                self._forget(group)
                _refuse_for_a_defect([item for item, _ in group.fresh + group.echoes])
                _refuse_for_a_defect([item for item, _, _ in group.repeats])
            self._under_way -= 1
            self._wake.set()
            self._unsettled.task_done()

    async def _log(self, event: _Event) -> None:
        """Commit one event alone: the next in the pool may depend on it."""
        await self._unsettled.join()
        before = self.ledger.checkpoint
        try:
            not_mended = await self._mend_mailbox()
            if not_mended is not None:
                raise not_mended
            if event.look is not None:
                await self.read(event.look)
            receipt = await self._commit_event(event)
        except (Refusal, LedgerUnavailable) as refused:
            event.done.set_exception(refused)
        except Exception:
            log.exception("sequencer.failed events=1")
            nothing = self.ledger.checkpoint == before
            failure = LedgerUnavailable if nothing else OutcomeUnknown
            event.done.set_exception(failure("internal failure; try again"))
        else:
            event.done.set_result(receipt)

    async def _commit_event(self, event: _Event) -> Receipt:
        draft = event.decide()
        storing: asyncio.Future[None] | None = None

        def alongside(receipts: list[Receipt]) -> asyncio.Future[None]:
            nonlocal storing
            storing = self._writer.change(partial(event.store, receipts[0]))
            return storing

        try:
            (receipt,) = await self.ledger.commit([draft], alongside)
        except LedgerUnavailable:
            self._orphaned = True
            await self._mend_mailbox()
            raise
        # crash point: committed, not applied; who applies it does so again at start
        self._tell_observers([draft], [receipt])
        not_stored = _why_not_stored(storing)
        if not_stored is not None:
            self._unstored_event = (event, receipt)
            self._mend_soon()
            raise NotStored(not_stored.detail, receipt)
        self._apply_event(event, receipt)
        await self._save_checkpoint()
        return receipt

    def _apply_event(self, event: _Event, receipt: Receipt) -> None:
        self.delivered_position = receipt.position
        event.apply(receipt)

    def _tell_observers(self, drafts: list[EventDraft], receipts: list[Receipt]) -> None:
        for observer in self._observers:
            try:
                observer(drafts, receipts)
            except Exception:
                log.exception("observer.failed events=%d", len(drafts))

    async def _decide(self, items: list[_Item], group: _Group) -> None:
        """Decide on ``items`` and give what is fresh to the ledger; who is refused is answered."""
        if self._is_behind() or self._checkpoint_is_due():
            await self._unsettled.join()
            not_mended = await self._mend_mailbox()
            if not_mended is not None:
                for item in items:
                    item.reply(not_mended)
                return
            await self._save_checkpoint()
        failures = self._failures
        await self._judge_signatures(items)
        await self._sequence(items, group, failures)
        if failures != self._failures:
            # What these were decided on was not committed after all, or is not in the mailbox.
            failed = LedgerUnavailable("what was sent before has failed; resend", 1.0)
            for item in items:
                item.reply(failed)
            group.fresh.clear()
            group.echoes.clear()
            group.repeats.clear()
        if group.fresh:
            self._commit(group)

    async def _judge_signatures(self, items: list[_Item]) -> None:
        """Note of each item why it may not be logged; if it is in the ledger it is answered so."""
        if self._check is None:
            return
        verdicts = await self._check([item.envelope for item in items])
        for item, refusal in zip(items, verdicts, strict=True):
            item.refusal = refusal

    async def _sequence(self, items: list[_Item], group: _Group, failures: int) -> None:
        """Decide on every item: numbers of this group and of those that sync count as committed.

        It stops when a group fails after the first ``failures``: the mailbox may have rows that the
        ledger refused, or lack some that it has.
        """
        last_seqs = await self._load({item.stream for item in items})
        await self._audience.load({stream.recipient for stream in last_seqs})
        for item in items:
            envelope = item.envelope
            stream, seq = item.stream, envelope.seq
            last = last_seqs[stream]
            logged, has_frame = None, True
            try:
                if seq <= last:
                    twin = self._twin(stream, seq, group)
                    if twin is not None:
                        in_group, place = twin
                        digest = in_group.fresh[place][0].envelope.hash
                        if digest == envelope.hash:
                            in_group.echoes.append((item, place))
                            continue
                        logged = Logged(digest, Receipt(0, "", "", ""))
                    else:
                        found = await self.read(partial(self.mailbox.logged, stream, seq))
                        if failures != self._failures:
                            return
                        if found is not None:
                            logged, has_frame = found
                decision = decide(last, seq, envelope.hash, logged)
                if isinstance(decision, Duplicate):
                    # What is not its device's must not take the place of a frame that was lost.
                    keeps = has_frame or item.refusal is not None
                    group.repeats.append((item, decision.receipt, keeps))
                    continue
                if item.refusal is not None:
                    raise item.refusal
                self._audience.admit(envelope)
            except Refusal as refusal:
                item.reply(refusal)
                continue
            last_seqs[stream] = seq
            group.fresh.append((item, decision.gap))
        group.last_seqs = last_seqs

    def _twin(self, stream: Stream, seq: int, group: _Group) -> tuple[_Group, int] | None:
        """The message at ``seq`` that is not durable yet: its group, and its place there."""
        for undurable in (group, *self._undurable):
            place = undurable.place(stream, seq)
            if place is not None:
                return undurable, place
        return None

    async def _load(self, streams: set[Stream]) -> dict[Stream, int]:
        """The last decided number of every stream."""
        missing = [stream for stream in streams if stream not in self._last_seq]
        if missing:
            found = await self.read(lambda: [self.mailbox.last_seq(s) for s in missing])
            self._last_seq.update(zip(missing, found, strict=True))
        for stream in streams:
            self._last_seq.move_to_end(stream)
        # Those that are not settled were used last, and there are fewer of them than are kept.
        while len(self._last_seq) > MAX_STREAMS:
            self._last_seq.popitem(last=False)
        return {stream: self._last_seq[stream] for stream in streams}

    def _commit(self, group: _Group) -> None:
        """Give ``group`` to the ledger, behind those that are not settled."""
        group.drafts = [message_draft(item.envelope) for item, _ in group.fresh]
        self._last_seq.update(group.last_seqs)
        self._undurable.append(group)

        def alongside(receipts: list[Receipt]) -> asyncio.Future[None]:
            try:
                for (item, _), receipt in zip(group.fresh, receipts, strict=True):
                    envelope = item.envelope
                    frame = delivered(envelope, receipt)
                    group.stored.append(_stored(envelope, item.stream, receipt, frame))
                committed = self.ledger.checkpoint.head.position
                group.storing = self._writer.store(group.stored, committed=committed)
            except Exception:
                # The ledger may have the group by now; the next start decides from the file.
                self.ledger.stop("a group failed inside; restart to recover")
                raise
            return group.storing

        group.begun = self._monotonic()
        group.commit = asyncio.ensure_future(self.ledger.commit(group.drafts, alongside))

    async def _finish(self, group: _Group) -> None:
        """Wait until ``group`` is durable; then deliver it and acknowledge it."""
        if group.commit is not None:
            try:
                receipts = await group.commit
            except LedgerUnavailable as error:
                self._forget(group)
                group.refuse(error)
            else:
                self.metrics.committed(len(receipts), self._monotonic() - group.begun)
                # crash point: committed, not delivered; a retry gets these receipts
                self._tell_observers(group.drafts, receipts)
                self._show(group, receipts)
        await self._answer_repeats(group.repeats)

    def _forget(self, group: _Group) -> None:
        """Decide nothing more from what ``group`` decided, nor before the mailbox is mended."""
        self._failures += 1
        self._orphaned = True
        self._settled(group)

    def _settled(self, group: _Group) -> None:
        if group in self._undurable:
            self._undurable.remove(group)

    def _show(self, group: _Group, receipts: list[Receipt]) -> None:
        """Deliver and acknowledge a committed group, unless its ciphertext is not safe."""
        not_stored = _why_not_stored(group.storing) or self._why_gone()
        if not_stored is None and self._unstored:
            not_stored = LedgerUnavailable("the mailbox is being mended; resend", 1.0)
        if not_stored is not None:
            # Logged, but the ciphertext is not safe, or that before it. No ACK, and nothing else is
            # decided before the mailbox has it; after a crash the retry brings it again.
            self._unstored += group.stored
            self._forget(group)
            self._mend_soon()
            group.refuse(not_stored)
            return
        self._settled(group)
        self.delivered_position = receipts[-1].position
        for (item, _), stored in zip(group.fresh, group.stored, strict=True):
            assert stored.frame is not None  # noqa: S101 (made in _commit)
            self._deliver(stored.frame, item.stream, item.origin)
        self.metrics.delivered(len(receipts))
        now = self._monotonic()
        for (item, gap), receipt in zip(group.fresh, receipts, strict=True):
            item.reply(ack(item.envelope, receipt, duplicate=False, gap=gap))
            self.metrics.acknowledged(now - item.received)
        for item, index in group.echoes:
            item.reply(ack(item.envelope, receipts[index], duplicate=True, gap=0))

    def _why_gone(self) -> DatabaseTaken | None:
        """Whether the mailbox is there no more: also a process that wrote to it may not know."""
        try:
            self.mailbox.check()
        except DatabaseTaken as taken:
            self._stop_ledger(taken.detail)
            return taken
        return None

    def _deliver(self, frame: bytes, stream: Stream, origin: Outbox | None) -> None:
        wallets = self._audience.wallets(stream.recipient)
        self.hub.deliver(frame, wallets, stream.sender, origin)

    async def _answer_repeats(self, repeats: list[tuple[_Item, Receipt, bool]]) -> None:
        """The original receipt; and the ciphertext is stored when it was lost before its ACK."""
        for item, receipt, has_frame in repeats:
            envelope = item.envelope
            if not has_frame:
                frame = delivered(envelope, receipt)
                lost = _stored(envelope, item.stream, receipt, frame)
                try:
                    await self.write(partial(self.mailbox.store, [lost]))
                except LedgerUnavailable as error:
                    item.reply(error)
                    continue
                self._deliver(frame, item.stream, item.origin)
            item.reply(ack(envelope, receipt, duplicate=True, gap=0))

    def _is_behind(self) -> bool:
        """Whether the mailbox may differ from the ledger."""
        return self._orphaned or bool(self._unstored) or self._unstored_event is not None

    async def _mend_mailbox(self) -> LedgerUnavailable | None:
        """Bring the mailbox level with the ledger where it could not be written; or why not yet.

        While it is behind, its sequence state is too, so nothing may be decided from it. Only when
        every group is settled: their rows may be there before the ledger has them.
        """
        try:
            if self._orphaned:
                position = self.ledger.checkpoint.head.position
                await self.write(lambda: self.mailbox.drop_after(position))
                self._last_seq.clear()  # what was decided and not committed is in it
                self._orphaned = False
            if self._unstored:
                batch = self._unstored
                await self.write(lambda: self.mailbox.store(batch))
                self._unstored = []
                self.delivered_position = batch[-1].receipt.position
                for message in batch:
                    if message.frame is not None:
                        self._deliver(message.frame, message.stream, None)
                self.metrics.delivered(len(batch))
            if self._unstored_event is not None:
                event, receipt = self._unstored_event
                await self.write(partial(event.store, receipt))
                self._unstored_event = None
                self._apply_event(event, receipt)
        except Exception as error:  # noqa: BLE001 (said, and tried again)
            return _not_stored(error)
        return None

    def _mend_soon(self) -> None:
        """Have the mailbox mended also when nobody writes: what was logged is to be seen."""
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend_until_level(), name="mailbox-mender")

    async def _mend_until_level(self) -> None:
        while self._is_behind():
            await asyncio.sleep(MEND_SECONDS)
            with contextlib.suppress(LedgerUnavailable, _NothingToLog):
                await self.log(_nothing_to_log, lambda _receipt: None)

    def _checkpoint_is_due(self) -> bool:
        return self.ledger.checkpoint.head.position - self._saved_position >= CHECKPOINT_EVERY

    async def _save_checkpoint(self) -> None:
        """When one is due. Every group must be settled: it vouches for the mailbox's rows."""
        if not self._checkpoint_is_due():
            return
        checkpoint = self.ledger.checkpoint
        self._saved_position = checkpoint.head.position
        try:
            await self.write(lambda: self.mailbox.set_checkpoint(checkpoint))
        except LedgerUnavailable as error:  # it only spares work at the next start
            log.warning("mailbox.checkpoint_not_saved reason=%s", error.detail)


def _why_not_stored(storing: asyncio.Future[None] | None) -> LedgerUnavailable | None:
    """Why what was written beside a commit, which is over, is not in the mailbox."""
    error = None if storing is None else storing.exception()
    return None if error is None else _not_stored(error)


def _not_stored(error: BaseException) -> LedgerUnavailable:
    """Why the mailbox was not written. A defect is no other reason: what is logged is logged."""
    if isinstance(error, LedgerUnavailable):
        return error
    # The name alone: texts of libraries may quote what they were given.
    log.error("mailbox.failed error=%s", type(error).__name__)
    return LedgerUnavailable("internal failure; resend", 1.0)


def _nothing_to_log() -> EventDraft:
    raise _NothingToLog("there is nothing to log")


def _refuse_for_a_defect(items: list[_Item]) -> None:
    """Answer who has no answer yet: they may send again."""
    failure = LedgerUnavailable("internal failure; resend")
    for item in items:
        item.reply(failure)


def _leading_messages(pool: list[_Item | _Event]) -> list[_Item]:
    """The messages in front of the first other event, at most a group of them."""
    items: list[_Item] = []
    for waiting in islice(pool, MAX_GROUP):
        if isinstance(waiting, _Event):
            break
        items.append(waiting)
    return items


def _stored(envelope: Envelope, stream: Stream, receipt: Receipt, frame: bytes) -> Stored:
    return Stored(stream, envelope.seq, envelope.hash, receipt, frame, envelope.size)

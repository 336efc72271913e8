"""Opening and closing the chat: the ledger, the index rebuilt from it, then the service."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from plugins.secure_chat.announcer import Announcer
from plugins.secure_chat.core import identity_event
from plugins.secure_chat.core.identity_event import IDENTITY, StatementKind
from plugins.secure_chat.core.message_event import claims_to_be_secure, from_record
from plugins.secure_chat.core.records import EMPTY, Head, MalformedEvent, Receipt, Record
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.crypto.file_storage import FileWitness
from plugins.secure_chat.directory.directory import Directory, Limits
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.signatures import DeviceSignatures
from plugins.secure_chat.directory.store import DirectoryStore
from plugins.secure_chat.errors import (
    Close,
    ConfigurationError,
    DatabaseTaken,
    DatabaseUnusable,
    LedgerChanged,
    LedgerUnavailable,
)
from plugins.secure_chat.evidence import Evidence
from plugins.secure_chat.ledger.history import HistoryCheck
from plugins.secure_chat.ledger.host import adopt
from plugins.secure_chat.ledger.journal import START, Checkpoint, Journal
from plugins.secure_chat.ledger.port import JournalLedger, Ledger
from plugins.secure_chat.legacy.transactions import Mirror
from plugins.secure_chat.logs import scrub_server_logs
from plugins.secure_chat.mailbox.engine import database
from plugins.secure_chat.mailbox.store import (
    INDEXED_EVENTS,
    Mailbox,
    Stored,
    StoredIdentityEvent,
)
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.receipts import Receipts
from plugins.secure_chat.rewards.book import Features, NoSuchEpoch
from plugins.secure_chat.service import ChatService
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.threads.book import ThreadBook
from plugins.secure_chat.threads.requests import Threads
from plugins.secure_chat.transport.socket import Chat
from plugins.secure_chat.transport.tokens import check_secret, host_verifier, jwt_verifier

log: Final = logging.getLogger(__name__)

INDEX_BATCH: Final = 5_000
CLAIMS: Final = "prekey-claims"  # the witness of the claims: not to be restored with the mailbox
_RETENTION_SECONDS: Final = 3600.0
_HOLD_SECONDS: Final = 2.0  # between two looks at whether the database is still claimed


class Index:
    """Feeds ledger records to the mailbox's index while the ledger is being opened.

    A ledger that does not have what was acknowledged is refused, and the mailbox left as it is,
    with what it keeps of the missing records. What must be there is what was durable when the
    mailbox was written last; messages that it has behind that may never have been committed, for it
    is written while the ledger syncs.
    """

    def __init__(self, mailbox: Mailbox, *, anew: bool = False) -> None:
        """``anew``: take the ledger as it is, whatever was acknowledged before."""
        self._in_use: DatabaseUnusable | None = None
        try:
            mailbox.claim()
        except DatabaseUnusable as in_use:
            # Told when the ledger is open: who has the same one is told of that.
            self._in_use = in_use
        self._mailbox = mailbox
        self.start = START if anew else mailbox.checkpoint()
        # The record that the ledger must reach, and the messages up to it, until it bears them
        # out. Nothing is written before all of them were looked for.
        start = self.start.head.position
        self._must_have = 0 if anew else max(start, mailbox.committed())
        self._missing = mailbox.hashes_between(start, self._must_have)
        self._refused = False
        self._end = START
        self._batch: list[Stored] = []
        self._identities: list[StoredIdentityEvent] = []
        self._events: list[Record] = []
        self._pending = 0
        self._first = True

    def replay(self, record: Record, offset: int) -> None:
        """Take the next record; ``offset`` is where it ends. Position 1 means: all anew."""
        if record.position == 1 and self.start != START:
            self._refused = True  # the record of the checkpoint is not there
        if self._refused or self._in_use is not None:
            return
        self._end = Checkpoint(Head(record.position, record.event_hash), offset)
        self._pending += 1
        if record.event_type == "MESSAGE" and claims_to_be_secure(record.metadata):
            event = from_record(record)
            receipt = Receipt(record.position, record.event_id, record.event_hash, record.timestamp)
            self._batch.append(
                Stored(event.stream, event.seq, event.hash, receipt, None, event.size)
            )
        elif record.event_type == IDENTITY:
            self._take_identity(record)
        elif record.event_type in INDEXED_EVENTS:
            self._events.append(record)
        if self._missing.get(record.position) == record.event_hash:
            del self._missing[record.position]
        if self._pending >= INDEX_BATCH and record.position >= self._must_have:
            if self._missing:
                self._refused = True
            else:
                self._flush()

    def _take_identity(self, record: Record) -> None:
        try:
            event = identity_event.from_record(record)
        except MalformedEvent as error:
            log.error("ledger.malformed_event position=%d reason=%s", record.position, error)
            return
        if event.kind is not StatementKind.PREKEYS:
            where = (record.position, record.event_hash, record.wallet)
            self._identities.append(StoredIdentityEvent(*where, event))

    def finish(self, head: Head) -> None:
        """Index the rest, and forget what the ledger turned out not to have.

        Raises LedgerChanged, and DatabaseUnusable while another indexes a ledger in the database.
        """
        if self._in_use is not None:
            raise self._in_use
        if self._refused or self._missing or head.position < self._must_have:
            raise LedgerChanged(self._must_have, head.position)
        if self._pending:
            self._flush()
        elif head == EMPTY:
            self._mailbox.set_checkpoint(START)
        self._mailbox.drop_after(head.position)

    def _flush(self) -> None:
        from_start = self._first and self.start == START
        self._mailbox.rebuild(
            self._batch,
            self._end,
            identities=self._identities,
            events=self._events,
            from_start=from_start,
            first=self._first,
        )
        self._first, self._pending = False, 0
        self._batch, self._identities, self._events = [], [], []


class Runtime:
    """The chat while it is open. One for each host."""

    def __init__(self, host: Any, settings: Settings) -> None:
        self._host = host
        self.settings = settings
        self.metrics = Metrics()
        self.chat: Chat | None = None
        self._ledger: Ledger | None = None
        self._mailbox: Mailbox | None = None
        self._signatures: DeviceSignatures | None = None
        self._evidence: Evidence | None = None
        self._mirror: Mirror | None = None
        self._history: HistoryCheck | None = None
        self._claims: FileWitness | None = None
        self._retention: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open everything or nothing. Raises LedgerError or ConfigurationError, one line each."""
        settings, hook = self.settings, self._host.hook
        scrub_server_logs()
        fallback = None
        if settings.jwt_secret:
            check_secret(settings.jwt_secret, insecure_dev=settings.insecure_dev)
            fallback = jwt_verifier(settings.jwt_secret)
        engine = database(settings.database_url, self._host.data_dir)
        self._mailbox = await asyncio.to_thread(Mailbox, engine)
        try:
            self._ledger = await asyncio.to_thread(self._open_ledger, hook.atlas_ledger())
            evidence = self._evidence = Evidence(
                self._ledger, self._host.data_dir, settings.log_name, self.metrics
            )
            stage = self._stage(hook)
            store = await asyncio.to_thread(self._open_directory, self._mailbox)
        except BaseException:
            if self._claims is not None:
                self._claims.close()
            if self._history is not None:
                self._history.stop()
            if self._ledger is not None:
                self._ledger.close()
            self._mailbox.close()
            raise
        entries = Entries(store)
        self._signatures = DeviceSignatures(
            entries, self.metrics, required=settings.require_signatures
        )
        book = ThreadBook(self._mailbox)
        service = ChatService(
            self._ledger,
            self._mailbox,
            self.metrics,
            rate=settings.rate_per_second,
            burst=settings.burst,
            monotonic=time.monotonic,
            check=self._signatures,
            audience=book,
        )
        if not self._ledger.announces:
            service.observe(Announcer(hook))
        service.start()
        evidence.start()
        directory = Directory(
            service, store, entries, self.metrics, _limits(settings), time.monotonic
        )
        self.metrics.pool.set_function(lambda: service.waiting)
        self.metrics.head.set_function(lambda: service.ledger.checkpoint.head.position)
        threads = Threads(service, book)
        self.chat = Chat(
            service,
            threads,
            Receipts(service),
            settings,
            host_verifier(hook, fallback),
            directory,
            evidence,
            stage,
        )
        try:
            await self._keep_up_legacy_records(hook, service, stage)
        except BaseException:
            await self.close()
            raise
        self._holding = asyncio.create_task(self._hold(service), name="database-claim")
        if settings.retention_days is not None:
            self._retention = asyncio.create_task(self._expire(settings.retention_days))

    def _open_ledger(self, ledger: Any) -> Ledger:
        assert self._mailbox is not None  # noqa: S101 (opened just before)
        try:
            index = Index(self._mailbox)
            opened = self._indexed(ledger, index)
        except LedgerChanged as changed:
            if changed.found != self.settings.accept_ledger_at:
                raise
            log.critical(
                "ledger.accepted position=%d acknowledged=%d", changed.found, changed.acknowledged
            )
            index = Index(self._mailbox, anew=True)
            opened = self._indexed(ledger, index)
        if index.start != START:
            self._history = HistoryCheck(opened, index.start)
            self._history.start()
        log.info("ledger.open position=%d", opened.checkpoint.head.position)
        return opened

    def _indexed(self, ledger: Any, index: Index) -> Ledger:
        """The ledger opened, and indexed by the mailbox; or neither."""
        opened: Ledger
        if ledger is None:
            path = self._host.ledger_path
            journal = Journal.open(path, verified=index.start, replay=index.replay)
            opened = JournalLedger(journal, owned=True)
        elif callable(getattr(ledger, "open", None)):
            journal = ledger.open(verified=index.start, replay=index.replay)
            opened = JournalLedger(journal, owned=False)
        else:
            opened = adopt(ledger, index.start, index.replay)
        try:
            index.finish(opened.checkpoint.head)
        except BaseException:
            opened.close()
            raise
        return opened

    def _open_directory(self, mailbox: Mailbox) -> DirectoryStore:
        """What was published, without the one-time prekeys that may have been handed out."""
        try:
            self._claims = FileWitness(self._host.data_dir / CLAIMS)
        except OSError as error:
            raise ConfigurationError(f"claims cannot be counted: {error.strerror}") from None
        store = DirectoryStore(mailbox, self._claims)
        if store.drop_handed_out():
            log.error("directory.one_time_prekeys_dropped reason=mailbox_is_an_old_copy")
        if missing := store.missing():
            log.error("directory.statements_missing count=%d", missing)
        return store

    def _stage(self, hook: Any) -> Stage:
        """Where the ledger says the legacy route is, or where the operator says it begins."""
        assert self._mailbox is not None  # noqa: S101 (opened just before)
        asked = getattr(hook, "atlas_legacy_stage", lambda: None)() or self.settings.stage
        try:
            wanted = None if asked is None else Stage(asked)
        except ValueError:
            raise ConfigurationError(
                f"the legacy route's stage must be one of {', '.join(Stage)}"
            ) from None
        moved_to = self._mailbox.stage()
        if moved_to is not None and wanted not in (None, moved_to):
            log.warning("stage.setting_not_used ledger=%s setting=%s", moved_to, wanted)
        stage = moved_to or wanted or Stage.V2
        log.info("stage.at stage=%s", stage)
        return stage

    async def _keep_up_legacy_records(self, hook: Any, service: ChatService, stage: Stage) -> None:
        """Give the host's own legacy records what they lack, while its route may answer again."""
        if stage not in (Stage.LEGACY, Stage.SHADOW, Stage.DUAL):
            return
        transactions = getattr(hook, "atlas_legacy_transactions", lambda: None)()
        if transactions is None:
            log.warning("legacy.no_transactions stage=%s", stage)
            return
        mirror = Mirror(service, transactions)
        await mirror.catch_up()
        if stage is Stage.DUAL:
            mirror.follow()
            self._mirror = mirror

    async def close(self) -> None:
        """Refuse new work, commit what is in flight, close sockets with 1012."""
        for task in (self._retention, self._holding):
            if task is not None:
                task.cancel()
        if self.chat is not None:
            service = self.chat.service
            await service.stop()
            if self._mirror is not None:
                await self._mirror.stop()
            self.chat.directory.close()
            for outbox in service.hub.all():
                outbox.close(Close.RESTART)
            self.chat = None
        if self._signatures is not None:
            await self._signatures.close()
        if self._evidence is not None:
            await asyncio.to_thread(self._evidence.stop)
        if self._history is not None:
            await asyncio.to_thread(self._history.stop)
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.close)
        if self._claims is not None:
            self._claims.close()
        if self._mailbox is not None:
            self._mailbox.close()

    def opened(self) -> Chat:
        """The open chat; routes are only served between start and stop."""
        if self.chat is None:
            raise RuntimeError("the chat is not open")
        return self.chat

    def why_not_ready(self) -> list[str]:
        if self.chat is None:
            return ["the chat is starting or stopping"]
        return self.chat.service.why_not_ready() + self.chat.evidence.why_not_ready()

    def coherence_features(self, epoch: int | None) -> dict[str, Features]:
        """For the hook of that name: none while the chat is not open, or the epoch has not come."""
        if self.chat is None:
            return {}
        try:
            return self.chat.evidence.rewards.features(epoch)
        except NoSuchEpoch:
            return {}

    async def _hold(self, service: ChatService) -> None:
        """Notice also when nobody writes that the database was restarted, or has room again."""
        while True:
            try:
                await service.hold_mailbox()
            except DatabaseTaken:
                return
            except LedgerUnavailable:
                pass  # the mailbox has logged it
            await asyncio.sleep(_HOLD_SECONDS)

    async def _expire(self, days: float) -> None:
        while True:
            service, before = self.opened().service, datetime.now(UTC) - timedelta(days=days)
            try:
                dropped = await service.expire(before)
            except LedgerUnavailable as error:
                log.warning("mailbox.not_expired reason=%s", error.detail)
                dropped = 0
            if dropped:
                log.info("mailbox.expired messages=%d", dropped)
            await asyncio.sleep(_RETENTION_SECONDS)


def _limits(settings: Settings) -> Limits:
    return Limits(
        statements=settings.statements_per_second,
        statement_burst=settings.statement_burst,
        claims=settings.claims_per_second,
        claim_burst=settings.claim_burst,
    )

"""The directory at work: publishing, asking, claiming. No transport here.

Life of a statement: *received → verified → kept → committed → in force*. It is kept before its
event is committed and counts only from then on, so a crash leaves it in force or not known. A
wallet's statements are taken one at a time; each is decided on all that came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from plugins.secure_chat.core.budget import Budgets
from plugins.secure_chat.core.directory_entry import DirectoryEntry, Published
from plugins.secure_chat.core.frames import PrekeysLow, encode_frame
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.records import Receipt
from plugins.secure_chat.crypto.devices import NO_ENDORSER, Certificate, Revocation
from plugins.secure_chat.crypto.errors import (
    BadClassicalSignature,
    BadPostQuantumSignature,
    BadWalletSignature,
    CryptoError,
)
from plugins.secure_chat.crypto.identity import Identity, succession
from plugins.secure_chat.crypto.prekeys import Publication
from plugins.secure_chat.crypto.primitives import sha256
from plugins.secure_chat.crypto.roster import MAX_CERTIFICATES
from plugins.secure_chat.directory.entries import Entries
from plugins.secure_chat.directory.store import Claimed, DirectoryStore, Stock
from plugins.secure_chat.errors import BadSignature, InvalidMessage, UnknownDevice
from plugins.secure_chat.mailbox.store import StoredIdentityEvent
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.service import ChatService

MAX_HISTORY: Final = 64  # earlier identity statements shown, the newest of them: 350 kB
LOW_STOCK: Final = 20  # one-time prekeys of a kind; below it the wallet is told
CLAIMS_AT_ONCE: Final = 64  # in one transaction: about 20 ms in which no message is stored
PREKEYS_A_REQUEST: Final = 10  # of a publication, against its wallet's budget: about 4 ms of a core
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A statement that is in the ledger; ``new``: by this request."""

    published: Published
    new: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """What the directory says of a wallet.

    ``missing``: ids of statements that the ledger has and that were lost here. When one of them is
    of the identity in force, nothing of it is listed: a part of it would be a wrong answer.
    """

    identity: bytes | None
    history: list[bytes]
    certificates: list[bytes]
    revocations: list[bytes]
    missing: list[str]
    position: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of a wallet: a second on average, and at once."""

    statements: float
    statement_burst: int
    claims: float  # of bundles, by one wallet, and of one wallet
    claim_burst: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """Devices of which somebody waits for a bundle, by their certificates."""

    certificates: list[str]
    answer: asyncio.Future[list[Claimed]]


class Directory:
    """The directory of one chat. Create it inside the event loop of its service."""

    def __init__(
        self,
        service: ChatService,
        store: DirectoryStore,
        entries: Entries,
        metrics: Metrics,
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        self._service = service
        self._store = store
        self._entries = entries
        self._metrics = metrics
        self._monotonic = monotonic
        self._publishers = Budgets(limits.statements, limits.statement_burst)
        self._claimers = Budgets(limits.claims, limits.claim_burst)
        self._targets = Budgets(limits.claims, limits.claim_burst)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[object]] = set()
        self._waiting: list[_Claim] = []
        self._handing_out: asyncio.Task[None] | None = None
        # One: publications must not take the cores that messages need.
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="directory")

    def close(self) -> None:
        self._verifier.shutdown()

    # -- publishing ---------------------------------------------------------------------------

    async def publish_identity(self, wallet: str, body: bytes) -> Accepted:
        """Put an identity statement in force: the first, a rotation, or a reset.

        Raises InvalidMessage, BadSignature, RateLimited or LedgerUnavailable, as all here.
        """
        with _refusing("identity"):
            identity = Identity.decode(body)
        _must_be_own(identity.wallet, wallet, "identity")
        self._publishers.spend(wallet, self._monotonic())
        return await self._one_at_a_time(wallet, lambda: self._identity(identity, body))

    async def publish_device(self, wallet: str, body: bytes) -> Accepted:
        """Register a device by its certificate."""
        with _refusing("certificate"):
            certificate = Certificate.decode(body)
        _must_be_own(certificate.wallet, wallet, "certificate")
        self._publishers.spend(wallet, self._monotonic())
        return await self._one_at_a_time(wallet, lambda: self._device(certificate, body))

    async def revoke(self, wallet: str, body: bytes) -> Accepted:
        """End a device for good. Raises UnknownDevice when there is none to end."""
        with _refusing("revocation"):
            revocation = Revocation.decode(body)
        _must_be_own(revocation.body.wallet, wallet, "revocation")
        self._publishers.spend(wallet, self._monotonic())
        return await self._one_at_a_time(wallet, lambda: self._revocation(revocation, body))

    async def publish_prekeys(self, wallet: str, device: str, body: bytes) -> Stock:
        """Take a device's prekeys; what is left of its one-time prekeys then."""
        with _refusing("publication"):
            publication = Publication.decode(body)
        count = len(publication.one_time) + len(publication.one_time_kem)
        self._publishers.spend(wallet, self._monotonic(), 1 + count // PREKEYS_A_REQUEST)
        publication_id = sha256(body).hex()
        return await self._one_at_a_time(
            wallet, lambda: self._prekeys(wallet, device, publication, publication_id)
        )

    async def _identity(self, identity: Identity, body: bytes) -> Accepted:
        statement, entry = identity.id.hex(), await self._entry(identity.wallet)
        in_force = entry.identity
        if any(before.id == statement for before in entry.history):
            raise InvalidMessage("identity", "the statement was replaced, and does not come back")
        known: Identity | None = None
        if in_force is not None and in_force.id != statement and identity.previous_signature:
            kept = await self._bodies([in_force.id])
            if in_force.id not in kept:
                raise InvalidMessage(
                    "identity", "the statement before it was lost here: publish that one again"
                )
            known = Identity.decode(kept[in_force.id])

        def verify() -> None:
            identity.verify()
            if known is not None:
                succession(known, identity)

        await self._verify("identity", verify)
        if in_force is not None and in_force.id == statement:
            return await self._known(identity.wallet, in_force, body)
        accepted = await self._register(
            identity.wallet, IdentityEvent(StatementKind.IDENTITY, statement), body
        )
        await self._drop_prekeys(entry.certificates.values())
        return accepted

    async def _device(self, certificate: Certificate, body: bytes) -> Accepted:
        wallet, device = certificate.wallet, certificate.device
        statement, entry = certificate.id.hex(), await self._entry(wallet)
        identity = await self._identity_in_force(entry, certificate.body.identity, "certificate")
        same = entry.certificates.get(device)
        if same is not None and same.id != statement:
            raise InvalidMessage("certificate", "the identity has another device of that name")
        endorser = None
        if certificate.body.endorser != NO_ENDORSER:
            endorser = await self._endorser(entry, certificate.body.endorser.hex(), new=not same)
        elif same is None and entry.certificates:
            raise InvalidMessage("certificate", "a device of the identity must endorse it")
        if same is None and len(entry.certificates) >= MAX_CERTIFICATES:
            raise InvalidMessage(
                "certificate", f"an identity has at most {MAX_CERTIFICATES} certificates"
            )
        await self._verify("certificate", lambda: certificate.verify(identity, endorser))
        if same is not None:
            return await self._known(wallet, same, body)

        def go_on() -> None:
            if entry.history and not entry.certificates:
                self._service.hub.leave_behind(wallet, device)

        return await self._register(
            wallet, IdentityEvent(StatementKind.DEVICE, statement, device), body, then=go_on
        )

    async def _endorser(self, entry: DirectoryEntry, statement: str, *, new: bool) -> Certificate:
        """The certificate ``statement``, which must be in force to endorse a new one."""
        endorsers = [
            published.id
            for device, published in entry.certificates.items()
            if not (new and device in entry.revocations)
        ]
        if statement not in endorsers:
            raise InvalidMessage("certificate", "its endorser is no device in force")
        kept = await self._bodies([statement])
        if statement not in kept:
            raise InvalidMessage(
                "certificate", "its endorser's certificate was lost here: publish that one again"
            )
        return Certificate.decode(kept[statement])

    async def _revocation(self, revocation: Revocation, body: bytes) -> Accepted:
        said = revocation.body
        wallet, device = said.wallet, said.device
        statement, entry = revocation.id.hex(), await self._entry(wallet)
        identity = await self._identity_in_force(entry, said.identity, "revocation")
        certificate = entry.certificates.get(device)
        if certificate is None or certificate.id != said.certificate.hex():
            raise UnknownDevice("the identity has no such certificate")
        await self._verify("revocation", lambda: revocation.verify(identity))
        known = entry.revocations.get(device)
        if known is not None:
            return await self._known(wallet, known, body)
        accepted = await self._register(
            wallet,
            IdentityEvent(StatementKind.REVOCATION, statement, device),
            body,
            then=lambda: self._service.hub.log_out(wallet, device),
        )
        await self._drop_prekeys([certificate])
        return accepted

    async def _prekeys(
        self, wallet: str, device: str, publication: Publication, publication_id: str
    ) -> Stock:
        published = _in_force(await self._entry(wallet), device)
        if (
            await self._service.read(lambda: self._store.publication(published.id))
            == publication_id
        ):
            return await self._service.read(lambda: self._store.stock(published.id))
        kept = await self._bodies([published.id])
        if published.id not in kept:
            raise UnknownDevice("the device's certificate was lost here: publish it again")
        certificate = Certificate.decode(kept[published.id])
        await self._verify("publication", lambda: publication.verify(certificate))
        event = IdentityEvent(StatementKind.PREKEYS, publication_id, device)
        await self._service.log(lambda: event.draft(wallet), lambda _receipt: None)
        # crash point: logged, not kept; the device has no answer and publishes again
        self._metrics.published(event.kind)
        return await self._service.write(
            lambda: self._store.publish(published.id, publication_id, publication)
        )

    async def _register(
        self,
        wallet: str,
        event: IdentityEvent,
        body: bytes,
        then: Callable[[], None] = lambda: None,
    ) -> Accepted:
        await self._service.write(partial(self._store.keep, event.id, body))
        # crash point: kept, not logged; it counts for nothing until it is published again

        def store(receipt: Receipt) -> None:
            where = (receipt.position, receipt.event_hash, wallet)
            self._store.register(StoredIdentityEvent(*where, event))

        def apply(_receipt: Receipt) -> None:
            self._entries.forget(wallet)
            self._metrics.published(event.kind)
            then()

        receipt = await self._service.log(lambda: event.draft(wallet), apply, store)
        return Accepted(Published(event.id, receipt.position, receipt.event_hash), new=True)

    async def _known(self, wallet: str, published: Published, body: bytes) -> Accepted:
        """A verified statement that the ledger has: kept again where it was lost."""
        if published.id not in await self._bodies([published.id]):
            await self._service.write(partial(self._store.keep, published.id, body))
            self._entries.forget(wallet)
        return Accepted(published, new=False)

    # -- asking and claiming ------------------------------------------------------------------

    async def listing(self, wallet: str) -> Listing:
        """What is published of ``wallet``; of one that is not known, nothing."""
        entry = await self._entry(wallet)
        shown = entry.history[-MAX_HISTORY:]
        current = [
            *([entry.identity] if entry.identity is not None else []),
            *entry.certificates.values(),
            *entry.revocations.values(),
        ]
        kept = await self._bodies([one.id for one in (*shown, *current)])
        missing = [one.id for one in (*shown, *current) if one.id not in kept]
        whole = all(one.id in kept for one in current)

        def bodies(published: Iterable[Published]) -> list[bytes]:
            return [kept[one.id] for one in published] if whole else []

        return Listing(
            identity=kept[entry.identity.id] if entry.identity is not None and whole else None,
            history=[kept[one.id] for one in shown if one.id in kept],
            certificates=bodies(entry.certificates.values()),
            revocations=bodies(entry.revocations.values()),
            missing=missing,
            position=entry.position,
        )

    def published(self) -> Iterator[tuple[str, bytes]]:
        """Kind and bytes of every statement that the ledger has and that is here. Blocking."""
        return self._store.statements()

    async def stock(self, wallet: str, device: str) -> Stock:
        """The one-time prekeys that an own device has left. Raises UnknownDevice."""
        published = _in_force(await self._entry(wallet), device)
        return await self._service.read(lambda: self._store.stock(published.id))

    async def claim(
        self, claimer: str, wallet: str, devices: Sequence[str]
    ) -> list[tuple[str, Claimed]]:
        """A bundle of each of ``devices``; a device that has published no prekeys is left out.

        Raises UnknownDevice when one of them is not in force: the caller's list is old.
        """
        if not 1 <= len(devices) <= MAX_CERTIFICATES:
            raise InvalidMessage("devices", f"devices must name 1 to {MAX_CERTIFICATES}")
        names = [canonical(device, "devices") for device in devices]
        if len(set(names)) != len(names):
            raise InvalidMessage("devices", "devices must not name one twice")
        entry = await self._entry(wallet)
        by_certificate = {_in_force(entry, name).id: name for name in names}
        now = self._monotonic()
        self._claimers.spend(claimer, now, len(names))
        self._targets.spend(wallet, now, len(names))
        claimed = await self._hand_out(list(by_certificate))
        found = [(by_certificate[one.certificate], one) for one in claimed]
        for device, one in found:
            self._metrics.claimed(one_time_kem=one.is_one_time)
            left = one.left
            if min(left.one_time, left.one_time_kem) < LOW_STOCK:
                notice = PrekeysLow(device, left.one_time, left.one_time_kem)
                self._service.hub.to_wallet(wallet, encode_frame(notice))
        return found

    async def _hand_out(self, certificates: list[str]) -> list[Claimed]:
        """Claims that come while others are written share the next transaction."""
        claim = _Claim(certificates, asyncio.get_running_loop().create_future())
        self._waiting.append(claim)
        if self._handing_out is None:
            self._handing_out = asyncio.create_task(self._write_claims())
        return await claim.answer

    async def _write_claims(self) -> None:
        while self._waiting:
            claims, self._waiting = self._waiting[:CLAIMS_AT_ONCE], self._waiting[CLAIMS_AT_ONCE:]
            certificates = [claim.certificates for claim in claims]
            outcome: list[list[Claimed]] | Exception
            try:
                outcome = await self._service.write(partial(self._store.claim, certificates))
            except Exception as error:  # noqa: BLE001 (told to each that waits)
                outcome = error
            for place, claim in enumerate(claims):
                if claim.answer.done():  # who asked has gone; what was handed out is used up
                    continue
                if isinstance(outcome, Exception):
                    claim.answer.set_exception(outcome)
                else:
                    claim.answer.set_result(outcome[place])
        self._handing_out = None

    async def has_ended(self, wallet: str, device: str) -> bool:
        """Whether ``device`` was revoked, or is none of those with which a new identity goes on."""
        entry = await self._entry(wallet)
        if device in entry.revocations:
            return True
        return bool(entry.history and entry.certificates) and device not in entry.certificates

    # -- parts --------------------------------------------------------------------------------

    async def _entry(self, wallet: str) -> DirectoryEntry:
        return (await self._entries.one(wallet)).entry

    async def _bodies(self, ids: Sequence[str]) -> dict[str, bytes]:
        return await self._service.read(lambda: self._store.bodies(ids))

    async def _identity_in_force(
        self, entry: DirectoryEntry, statement: bytes, field: str
    ) -> Identity:
        """The statement in force, when it is ``statement``. Raises InvalidMessage."""
        if entry.identity is None:
            raise InvalidMessage(field, "the wallet has no identity: publish one first")
        if entry.identity.id != statement.hex():
            raise InvalidMessage(field, "it is of an identity that is not in force")
        kept = await self._bodies([entry.identity.id])
        if entry.identity.id not in kept:
            raise InvalidMessage(field, "the identity was lost here: publish it again")
        return Identity.decode(kept[entry.identity.id])

    async def _drop_prekeys(self, certificates: Iterable[Published]) -> None:
        ids = [one.id for one in certificates]
        if ids:
            # A crash before it leaves rows that nobody can ask for.
            await self._service.write(lambda: self._store.drop_prekeys(ids))

    async def _verify(self, field: str, check: Callable[[], None]) -> None:
        with _refusing(field):
            await asyncio.get_running_loop().run_in_executor(self._verifier, check)

    async def _one_at_a_time(self, wallet: str, publish: Callable[[], Awaitable[T]]) -> T:
        """Run ``publish`` when nothing else of ``wallet`` is under way.

        Who stops waiting does not stop it: what is half done would be decided on by the next.
        """
        lock = self._locks.setdefault(wallet, asyncio.Lock())

        async def alone() -> T:
            async with lock:
                return await publish()

        task = asyncio.create_task(alone())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_look_at)
        return await asyncio.shield(task)


def _look_at(task: asyncio.Task[T]) -> None:
    """A failure that nobody waits for any more is no surprise to asyncio."""
    if not task.cancelled():
        task.exception()


def _in_force(entry: DirectoryEntry, device: str) -> Published:
    published = entry.certificate(device)
    if published is None:
        raise UnknownDevice("the wallet has no such device in force")
    return published


def _must_be_own(named: str, wallet: str, field: str) -> None:
    if named != wallet:
        raise InvalidMessage(field, f"{field} must be the authenticated wallet's")


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    """Answer what is wrong with a statement; the library's texts hold no data."""
    try:
        yield
    except (BadWalletSignature, BadClassicalSignature, BadPostQuantumSignature) as error:
        raise BadSignature(f"{field}: {error}") from None
    except CryptoError as error:
        raise InvalidMessage(field, f"{field}: {error}") from None

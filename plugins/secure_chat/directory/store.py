"""Reading and writing what was published (SQLAlchemy Core). Blocking, as the mailbox is.

Writes are for the mailbox's one writer thread. Nothing is verified here, and nothing decided but
which prekey is next: one-time prekeys are handed out in the order of their numbers, each once.

Claims are counted twice, in the database and in a *witness* that no backup of it restores. A claim:
(1) the prekeys are gone and the count is one higher, in one transaction; (2) the witness moves on;
only then (3) are they handed out. Where the two do not agree at a start, but for a crash between
(1) and (2), the database is an old copy and may still have what was handed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from plugins.secure_chat.core.directory_entry import DirectoryEntry
from plugins.secure_chat.crypto.codec import Reader
from plugins.secure_chat.crypto.prekeys import Bundle, Kind, Prekey, Publication
from plugins.secure_chat.crypto.store import Witness
from plugins.secure_chat.directory.tables import (
    prekey_claims,
    prekey_publications,
    prekeys,
    statements,
)
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.mailbox.store import Mailbox, StoredIdentityEvent
from plugins.secure_chat.mailbox.tables import identity_events

MAX_STOCK: Final = 200  # one-time prekeys of a kind kept for a device; the oldest go first
_PAGE: Final = 256  # statements read at once, about 2 MB
_ONE_TIME: Final = (Kind.ONE_TIME, Kind.ONE_TIME_KEM)
_COUNT: Final = (
    update(prekey_claims)
    .values(number=prekey_claims.c.number + 1)
    .returning(prekey_claims.c.number)
)


@dataclass(frozen=True, slots=True)
class Stock:
    """One-time prekeys that a device has left."""

    one_time: int
    one_time_kem: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A bundle that was handed out, and what is left after it."""

    certificate: str
    bundle: Bundle
    left: Stock

    @property
    def is_one_time(self) -> bool:
        """Whether the KEM prekey is handed out this once; else it is the last resort."""
        return self.bundle.kem is not None and self.bundle.kem.kind is Kind.ONE_TIME_KEM


class DirectoryStore:
    """What was published, in the mailbox's database."""

    def __init__(self, mailbox: Mailbox, witness: Witness) -> None:
        """``witness`` counts the claims, where what restores the database does not restore it."""
        self._mailbox = mailbox
        self._witness = witness

    # -- statements ---------------------------------------------------------------------------

    def entry(self, wallet: str) -> DirectoryEntry:
        """What the ledger says of ``wallet``."""
        entry = DirectoryEntry()
        for row in self._mailbox.identity_events(wallet):
            entry = entry.after(row.event, row.position, row.event_hash)
        return entry

    def keep(self, statement: str, body: bytes) -> None:
        """Keep a verified statement durably under its id, whatever stood there.

        It counts once its event is in the ledger. Raises LedgerUnavailable, as every write here.
        """
        with self._mailbox.writing() as connection:
            connection.execute(delete(statements).where(statements.c.id == statement))
            connection.execute(insert(statements).values(id=statement, body=body))

    def register(self, event: StoredIdentityEvent) -> None:
        """Index the IDENTITY event of a statement."""
        self._mailbox.store_identity_event(event)

    def bodies(self, ids: Iterable[str]) -> dict[str, bytes]:
        """The statements with these ids, as far as they are here."""
        with self._mailbox.reading() as connection:
            rows = connection.execute(select(statements).where(statements.c.id.in_(list(ids))))
            return {row.id: row.body for row in rows}

    def statements(self) -> Iterator[tuple[str, bytes]]:
        """(kind, body) of every statement that the ledger has and that is here, in its order.

        Read a page at a time: who takes them slowly holds no transaction open.
        """
        after = 0
        while True:
            with self._mailbox.reading() as connection:
                page = connection.execute(
                    select(identity_events.c.position, identity_events.c.kind, statements.c.body)
                    .join(statements, statements.c.id == identity_events.c.statement)
                    .where(identity_events.c.position > after)
                    .order_by(identity_events.c.position)
                    .limit(_PAGE)
                ).all()
            if not page:
                return
            yield from ((row.kind, row.body) for row in page)
            after = page[-1].position

    def missing(self) -> int:
        """How many statements the ledger has that are not here."""
        with self._mailbox.reading() as connection:
            count = connection.scalar(
                select(func.count())
                .select_from(identity_events)
                .outerjoin(statements, statements.c.id == identity_events.c.statement)
                .where(statements.c.id.is_(None))
            )
        return count or 0

    # -- prekeys ------------------------------------------------------------------------------

    def publication(self, certificate: str) -> str | None:
        """The id of the device's last publication."""
        with self._mailbox.reading() as connection:
            return connection.scalar(
                select(prekey_publications.c.publication).where(
                    prekey_publications.c.certificate == certificate
                )
            )

    def publish(self, certificate: str, publication_id: str, publication: Publication) -> Stock:
        """Put a verified publication in force.

        With another signed prekey than before, what was left is dropped: the device has begun anew.
        A number that came before is not taken again, used or not.
        """
        signed, last_resort = publication.signed.encode(), publication.last_resort.encode()
        with self._mailbox.writing() as connection:
            before = connection.execute(
                select(prekey_publications).where(prekey_publications.c.certificate == certificate)
            ).first()
            highest = dict.fromkeys(_ONE_TIME, 0)
            if before is not None:
                highest[Kind.ONE_TIME] = before.highest_one_time
                highest[Kind.ONE_TIME_KEM] = before.highest_one_time_kem
                if not _is_key(publication.signed, before.signed):
                    connection.execute(delete(prekeys).where(prekeys.c.certificate == certificate))
            offered = (*publication.one_time, *publication.one_time_kem)
            fresh = [one for one in offered if one.id > highest[one.kind]]
            if fresh:
                connection.execute(insert(prekeys), [_row(certificate, one) for one in fresh])
            for one in fresh:
                highest[one.kind] = max(highest[one.kind], one.id)
            connection.execute(
                delete(prekey_publications).where(prekey_publications.c.certificate == certificate)
            )
            connection.execute(
                insert(prekey_publications).values(
                    certificate=certificate,
                    publication=publication_id,
                    signed=signed,
                    last_resort=last_resort,
                    highest_one_time=highest[Kind.ONE_TIME],
                    highest_one_time_kem=highest[Kind.ONE_TIME_KEM],
                )
            )
            _trim(connection, certificate)
            return _stock(connection, certificate)

    def stock(self, certificate: str) -> Stock:
        """What a device has left."""
        with self._mailbox.reading() as connection:
            return _stock(connection, certificate)

    def claim(self, claims: Sequence[Sequence[str]]) -> list[list[Claimed]]:
        """For each claim, a bundle of each device that has published prekeys, in the order asked.

        A one-time prekey is gone, durably, before it is handed out; without one left, the bundle
        has the last-resort KEM prekey and no one-time X25519 prekey.
        """
        with self._mailbox.writing() as connection:
            number = connection.scalar(_COUNT)
            found = [
                [
                    claimed
                    for certificate in certificates
                    if (claimed := self._claim(connection, certificate)) is not None
                ]
                for certificates in claims
            ]
        # crash point: gone and not handed out; the database is one ahead of its witness
        self._witnessed(number)
        return found

    def drop_handed_out(self) -> bool:
        """Forget all one-time prekeys when this database is an old copy; whether it was.

        Signed and last-resort prekeys stay: sessions can be opened, and the devices make new ones.
        To be called at a start, before anything is claimed.
        """
        with self._mailbox.writing() as connection:
            number = connection.scalar(select(prekey_claims.c.number)) or 0
            witnessed = self._witness.read()
            is_old = number - witnessed not in (0, 1)
            if is_old:
                number = max(number, witnessed)
                connection.execute(delete(prekeys))
                connection.execute(update(prekey_claims).values(number=number))
        if number != witnessed:
            self._witnessed(number)
        return is_old

    def _witnessed(self, number: int) -> None:
        try:
            self._witness.advance(number)
        except OSError as error:
            raise LedgerUnavailable(f"claims cannot be counted: {error.strerror}") from error

    def drop_prekeys(self, certificates: Iterable[str]) -> None:
        """Forget the prekeys of devices that are no longer in force."""
        ids = list(certificates)
        with self._mailbox.writing() as connection:
            for table in (prekeys, prekey_publications):
                connection.execute(delete(table).where(table.c.certificate.in_(ids)))

    def _claim(self, connection: Connection, certificate: str) -> Claimed | None:
        row = connection.execute(
            select(prekey_publications).where(prekey_publications.c.certificate == certificate)
        ).first()
        if row is None:
            return None
        one_time = _take(connection, certificate, Kind.ONE_TIME)
        kem = _take(connection, certificate, Kind.ONE_TIME_KEM)
        bundle = Bundle(
            bytes.fromhex(certificate),
            _read(row.signed, Kind.SIGNED),
            kem if kem is not None else _read(row.last_resort, Kind.LAST_RESORT_KEM),
            one_time,
        )
        return Claimed(certificate, bundle, _stock(connection, certificate))


def _read(encoded: bytes, kind: Kind) -> Prekey:
    return Prekey.read(Reader(encoded), kind)


def _is_key(prekey: Prekey, stored: bytes) -> bool:
    """Whether ``stored`` is the same key under the same number; signatures may differ."""
    other = _read(stored, prekey.kind)
    return (prekey.id, prekey.key) == (other.id, other.key)


def _row(certificate: str, prekey: Prekey) -> dict[str, object]:
    return {
        "certificate": certificate,
        "kind": int(prekey.kind),
        "number": prekey.id,
        "prekey": prekey.encode(),
    }


def _take(connection: Connection, certificate: str, kind: Kind) -> Prekey | None:
    """Take the prekey with the lowest number out of the stock, in one statement."""
    mine = (prekeys.c.certificate == certificate) & (prekeys.c.kind == int(kind))
    lowest = select(func.min(prekeys.c.number)).where(mine).scalar_subquery()
    taken = connection.scalar(
        delete(prekeys).where(mine, prekeys.c.number == lowest).returning(prekeys.c.prekey)
    )
    return None if taken is None else _read(taken, kind)


def _trim(connection: Connection, certificate: str) -> None:
    for kind in _ONE_TIME:
        mine = (prekeys.c.certificate == certificate) & (prekeys.c.kind == int(kind))
        newest = connection.scalars(
            select(prekeys.c.number).where(mine).order_by(prekeys.c.number.desc()).limit(MAX_STOCK)
        ).all()
        if len(newest) == MAX_STOCK:
            connection.execute(delete(prekeys).where(mine, prekeys.c.number < newest[-1]))


def _stock(connection: Connection, certificate: str) -> Stock:
    rows = connection.execute(
        select(prekeys.c.kind, func.count())
        .where(prekeys.c.certificate == certificate)
        .group_by(prekeys.c.kind)
    )
    counts = {row[0]: int(row[1]) for row in rows}
    return Stock(counts.get(int(Kind.ONE_TIME), 0), counts.get(int(Kind.ONE_TIME_KEM), 0))

"""Whom this device writes with: their rosters, fetched and verified, and the sessions with them.

The directory is asked and never believed: an identity is pinned at first sight, and when another
one takes its place nothing goes to that wallet, or is shown of it, before a person has accepted the
new safety number. A new one that the old one vouches for is followed, and told of until then.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.client.device import Device
from plugins.secure_chat.client.directory import Directory, Listing
from plugins.secure_chat.client.errors import (
    DirectoryRefused,
    NoIdentity,
    ServerUnreachable,
    WrongSafetyNumber,
)
from plugins.secure_chat.client.registration import own_roster
from plugins.secure_chat.crypto import roster, safety
from plugins.secure_chat.crypto.errors import IdentityChanged, NotCertified, VerificationError
from plugins.secure_chat.crypto.identity import Succession
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.errors import Code

log: Final = logging.getLogger(__name__)

FRESH_SECONDS: Final = 60.0  # how long a roster is used before it is asked for again


@dataclass(frozen=True, slots=True)
class Contact:
    """A wallet as this device knows it.

    ``safety_number``: 60 digits to compare with what the other side shows. ``devices``: the ids
    that messages are encrypted to. ``changed``: its identity is not the one known before; nothing
    is sent or shown until ``ChatClient.accept``. ``rotated``: it has a new identity that the one
    known before vouches for; messages go on, but the number is another than was compared, until
    ``accept`` says that a person has seen it.
    """

    wallet: str
    safety_number: str
    devices: tuple[str, ...]
    changed: bool
    rotated: bool


@dataclass(slots=True)
class _Known:
    """A verified roster, when it was fetched, and whether its identity waits to be accepted."""

    listing: Listing
    roster: Roster
    fetched: float
    changed: bool


class Contacts:
    """Rosters by wallet, one's own among them."""

    def __init__(
        self,
        device: Device,
        directory: Directory,
        *,
        monotonic: Callable[[], float],
        on_change: Callable[[Contact], None],
    ) -> None:
        self._device: Final = device
        self._directory: Final = directory
        self._monotonic: Final = monotonic
        self._on_change: Final = on_change
        self._known: Final[dict[str, _Known]] = {}
        self._locks: Final[defaultdict[str, asyncio.Lock]] = defaultdict(asyncio.Lock)

    async def contact(self, wallet: str) -> Contact:
        """What is known of ``wallet``, asked for anew. Raises as ``roster`` does, but
        IdentityChanged is an answer here."""
        async with self._locks[wallet]:
            known = await self._fetch(wallet)
        return await self._described(known)

    async def roster(self, wallet: str, *, device: str | None = None) -> Roster:
        """The verified roster of ``wallet``; asked for when it is not fresh or lacks ``device``.

        When the server cannot be asked, or has lost it, one that was fetched before is used. Raises
        NoIdentity, IdentityChanged, VerificationError, and what the directory raises.
        """
        async with self._locks[wallet]:
            known = self._known.get(wallet)
            if known is None or self._stale(known, device):
                try:
                    known = await self._fetch(wallet)
                except (ServerUnreachable, NoIdentity):
                    if known is None:
                        raise
            if known.changed:
                raise IdentityChanged("the wallet's identity is not the one known here")
            return known.roster

    def accept(self, wallet: str, safety_number: str) -> None:
        """A person has compared ``safety_number``: the identity behind it is the wallet's from now
        on. Raises WrongSafetyNumber when the one that waits is another."""
        known = self._known.get(wallet)
        waits = known is not None and (known.changed or self._device.is_rotated(wallet))
        if known is None or not waits or self._number(known) != safety_number:
            raise WrongSafetyNumber("no identity with this safety number waits to be accepted")
        self._device.accept(known.roster)
        known.changed = False

    async def reachable(
        self, wallets: Sequence[str], now: int
    ) -> tuple[list[Roster], frozenset[bytes]]:
        """The rosters of ``wallets``, and a session with each of their devices. ``now``:
        milliseconds.

        With them come the ids of the certificates that must be left out: devices without prekeys.
        Raises as ``roster`` does.
        """
        rosters = [await self.roster(wallet) for wallet in wallets]
        try:
            return rosters, await self._reach(rosters, now)
        except (NotCertified, IdentityChanged):
            pass  # keys were renewed: a bundle, or what is pinned by now, is of another certificate
        except DirectoryRefused as refused:
            if refused.code is not Code.UNKNOWN_DEVICE:
                raise
        # The rosters are older than what the server goes by.
        for wallet in wallets:
            await self.contact(wallet)
        rosters = [await self.roster(wallet) for wallet in wallets]
        return rosters, await self._reach(rosters, now)

    async def _reach(self, rosters: Sequence[Roster], now: int) -> frozenset[bytes]:
        """Open a session with every device of ``rosters`` that has none; returns who is without."""
        messenger = self._device.messenger
        missing = messenger.missing_sessions(rosters)
        for one in rosters:
            wanted = [each.device for each in missing if each.wallet == one.wallet]
            if wanted:
                for bundle in await self._directory.claim(one.wallet, wanted):
                    messenger.establish(one, bundle, now)
        without = frozenset(each.id for each in messenger.missing_sessions(rosters))
        if without:
            log.warning("client.no_prekeys devices=%d", len(without))
        return without

    def doubt(self, wallet: str) -> None:
        """Ask for this wallet anew, however fresh what is known of it."""
        if wallet in self._known:
            self._known[wallet].fetched = -math.inf

    async def renewed(self, before: Roster) -> Roster | None:
        """The roster that has come in the place of ``before``, asked for now; None when there is
        none. Raises as ``roster`` does."""
        await self.contact(before.wallet)
        now = await self.roster(before.wallet)
        return now if now.identity != before.identity else None

    async def reset(self, wallet: str, device: str, now: int) -> None:
        """Open a new session with a device, beside the one that does not open any more."""
        known = await self.roster(wallet, device=device)
        for bundle in await self._directory.claim(wallet, [device]):
            self._device.messenger.establish(known, bundle, now)

    def _stale(self, known: _Known, device: str | None) -> bool:
        if self._monotonic() - known.fetched > FRESH_SECONDS:
            return True
        return device is not None and all(one.device != device for one in known.roster.certificates)

    async def _fetch(self, wallet: str) -> _Known:
        """Ask, verify, and compare with what is pinned."""
        listing = await self._directory.look_up(wallet)
        known = self._known.get(wallet)
        if known is not None and known.listing == listing and self._still_holds(known):
            known.fetched = self._monotonic()
            return known
        if listing.identity is None:
            raise NoIdentity("the wallet has published no identity")
        if listing.identity.wallet != wallet:
            raise VerificationError("the identity is another wallet's")
        if wallet == self._device.wallet:
            verified = own_roster(self._device, listing)
            changed = False
        else:
            # Up to 64 certificates of four signatures each: not on the event loop.
            verified = await asyncio.to_thread(
                roster.verify, listing.identity, listing.certificates, listing.revocations
            )
            changed = self._device.learn(verified, listing.history) is Succession.RESET
        told = known is not None and known.roster.identity == verified.identity
        known = self._known[wallet] = _Known(listing, verified, self._monotonic(), changed)
        if not told and (changed or self._device.is_rotated(wallet)):
            self._on_change(await self._described(known))
        return known

    def _still_holds(self, known: _Known) -> bool:
        """Not so for one's own roster once this device has rotated the identity."""
        pinned = self._device.messenger.pinned(known.roster.wallet)
        return known.changed or pinned == known.roster.identity.id

    async def _described(self, known: _Known) -> Contact:
        number = await asyncio.to_thread(self._number, known)
        roster, changed = known.roster, known.changed
        devices = roster.active if changed else self._device.messenger.active(roster)
        rotated = not changed and self._device.is_rotated(roster.wallet)
        names = tuple(one.device for one in devices)
        return Contact(roster.wallet, number, names, changed, rotated)

    def _number(self, known: _Known) -> str:
        own = self._known[self._device.wallet].roster.identity
        return safety.safety_number(own, known.roster.identity)

"""Publishing a device: its identity, its certificate, and the prekeys that sessions begin with.

Every step may be repeated, so a crash or a lost answer costs nothing. Here is the order; the
requests are ``directory.py``'s, the keys are ``device.py``'s.
"""

from __future__ import annotations

from typing import Final

from plugins.secure_chat.client.device import Device
from plugins.secure_chat.client.directory import Directory, Listing, Stock
from plugins.secure_chat.client.errors import (
    DeviceLeftBehind,
    DirectoryRefused,
    IdentityTaken,
    ServerUnreachable,
)
from plugins.secure_chat.crypto import roster
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.roster import Roster

STOCK: Final = 50  # one-time prekeys of each kind that the server is to have
LOW: Final = 25  # of them left: more are made. The server tells when fewer than 20 are.


async def register(device: Device, directory: Directory) -> None:
    """Publish what the directory lacks of ``device``.

    Raises DeviceLeftBehind or IdentityTaken when the wallet's identity is another one, and what the
    directory raises.
    """
    listing = await directory.look_up(device.wallet)
    statement, replaced = device.identity, device.replaced
    published = listing.identity.id if listing.identity is not None else None
    if published != device.certificate.body.identity:
        if statement is None and published is None and listing.lost:
            raise ServerUnreachable("the directory waits for the device that made the identity")
        succeeds = replaced is not None and published == replaced.id
        if statement is None or not (published is None or device.resets or succeeds):
            raise _taken(device, listing)
        await _publish(statement, replaced, directory)
        listing = Listing(statement)
    known = device.certificate.id in {one.id for one in listing.certificates}
    if not known or device.cursor.position == 0 or replaced is not None:
        device.published(await directory.publish_device(device.certificate))


async def _publish(statement: Identity, replaced: Identity | None, directory: Directory) -> None:
    try:
        await directory.publish_identity(statement)
    except DirectoryRefused:
        if replaced is None:
            raise
        # It judges a rotation by the statement before, and has lost that one.
        await directory.publish_identity(replaced)
        await directory.publish_identity(statement)


def own_roster(device: Device, listing: Listing) -> Roster:
    """The wallet's own roster out of ``listing``. Raises VerificationError unless it is sound and
    has this device, DeviceLeftBehind or IdentityTaken when it is of another identity."""
    if listing.identity is None or listing.identity.id != device.certificate.body.identity:
        raise _taken(device, listing)
    known = roster.verify(listing.identity, listing.certificates, listing.revocations)
    device.messenger.learn(known)
    known.device(device.id)
    return known


def _taken(device: Device, listing: Listing) -> IdentityTaken:
    if device.certificate.body.identity in {one.id for one in listing.history}:
        return DeviceLeftBehind("the wallet has a new identity, and this device is not of it")
    return IdentityTaken("the wallet's published identity is not this device's")


async def keep_prekeys(device: Device, directory: Directory, now: float) -> Stock:
    """Publish prekeys when the stock is low or a rotation is due. ``now``: Unix seconds."""
    if not device.prekeys_pending and device.rotation_due(now) > 0:
        stock = await directory.stock(device.id)
        if stock.lowest >= LOW:
            return stock
        missing = STOCK - stock.lowest
    else:
        missing = STOCK
    publication = device.new_prekeys(missing, now)
    stock = await directory.publish_prekeys(device.id, publication)
    device.prekeys_published()
    return stock

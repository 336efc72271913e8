"""Publishing a device: its identity, its certificate, and the prekeys that sessions begin with.

Every step may be repeated, so a crash or a lost answer costs nothing. Here is the order; the
requests are ``directory.py``'s, the keys are ``device.py``'s.
"""

from __future__ import annotations

from typing import Final

from plugins.secure_chat.client.device import Device
from plugins.secure_chat.client.directory import Directory, Listing, Stock
from plugins.secure_chat.client.errors import IdentityTaken, ServerUnreachable
from plugins.secure_chat.crypto import roster
from plugins.secure_chat.crypto.errors import IdentityChanged
from plugins.secure_chat.crypto.identity import Succession
from plugins.secure_chat.crypto.roster import Roster

STOCK: Final = 50  # one-time prekeys of each kind that the server is to have
LOW: Final = 25  # of them left: more are made. The server tells when fewer than 20 are.


async def register(device: Device, directory: Directory) -> None:
    """Publish what the directory lacks of ``device``.

    Raises IdentityTaken when the wallet's identity is another one, and what the directory raises.
    """
    listing = await directory.look_up(device.wallet)
    statement = device.identity
    mine = device.certificate.body.identity
    if listing.identity is None or listing.identity.id != mine:
        if statement is None and listing.lost:
            raise ServerUnreachable("the directory waits for the device that made the identity")
        if statement is None or not (listing.identity is None or device.resets):
            raise IdentityTaken("the wallet's published identity is not this device's")
        await directory.publish_identity(statement)
        listing = Listing(statement)
    known = device.certificate.id in {one.id for one in listing.certificates}
    if not known or device.cursor.position == 0:
        device.published(await directory.publish_device(device.certificate))


def own_roster(device: Device, listing: Listing) -> Roster:
    """The wallet's own roster out of ``listing``. Raises VerificationError unless it is sound, of
    this device's identity, and has this device."""
    if listing.identity is None:
        raise IdentityTaken("the directory has no identity of this wallet")
    known = roster.verify(listing.identity, listing.certificates, listing.revocations)
    if device.messenger.learn(known, listing.history) is not Succession.SAME:
        raise IdentityChanged("the wallet's published identity is not this device's")
    known.device(device.id)
    return known


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

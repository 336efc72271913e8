"""The directory's entries in memory: who has which devices, and the keys that these sign with.

On the event loop, but for ``_load``. A wallet that is not here is read from the store; whoever logs
an event of a wallet says ``forget``, and does so before anything behind the event is looked at.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from plugins.secure_chat.core.directory_entry import DirectoryEntry
from plugins.secure_chat.crypto.devices import Certificate
from plugins.secure_chat.directory.store import DirectoryStore

MAX_WALLETS: Final = 100_000  # kept in memory, of all that write or are asked for


@dataclass(frozen=True, slots=True)
class Known:
    """A wallet's entry, and the Ed25519 keys of its devices in force.

    A device in force without a key is one whose certificate was lost here.
    """

    entry: DirectoryEntry
    keys: Mapping[str, bytes]


_NOTHING: Final = Known(DirectoryEntry(), {})  # one for all wallets that never published


@dataclass(eq=False, slots=True)
class _Load:
    """Wallets of which something was logged while others were read."""

    changed: set[str] = field(default_factory=set)


class Entries:
    """Entries by wallet."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._loads: list[_Load] = []

    async def of(self, wallets: Collection[str]) -> Mapping[str, Known]:
        """What is known of each of ``wallets``, now that it is returned."""
        known = self._known
        # What was known when one began to read others may have changed by the time they are read.
        while missing := {wallet for wallet in wallets if wallet not in known}:
            load = _Load()
            self._loads.append(load)
            try:
                read = await asyncio.to_thread(self._load, missing)
            finally:
                self._loads.remove(load)
            known.update((wallet, read[wallet]) for wallet in missing - load.changed)
        found = {wallet: known[wallet] for wallet in wallets}
        for wallet in found:
            known.move_to_end(wallet)
        while len(known) > MAX_WALLETS:
            known.popitem(last=False)
        return found

    async def one(self, wallet: str) -> Known:
        """What is known of ``wallet``."""
        return (await self.of((wallet,)))[wallet]

    def forget(self, wallet: str) -> None:
        """The ledger has something new of ``wallet``."""
        self._known.pop(wallet, None)
        for load in self._loads:
            load.changed.add(wallet)

    def _load(self, wallets: Collection[str]) -> dict[str, Known]:
        return {wallet: self._read(wallet) for wallet in wallets}

    def _read(self, wallet: str) -> Known:
        entry = self._store.entry(wallet)
        if entry == _NOTHING.entry:
            return _NOTHING
        in_force = {
            device: published.id
            for device, published in entry.certificates.items()
            if device not in entry.revocations
        }
        bodies = self._store.bodies(in_force.values()) if in_force else {}
        keys = {
            device: Certificate.decode(bodies[statement]).body.signing
            for device, statement in in_force.items()
            if statement in bodies
        }
        return Known(entry, keys)

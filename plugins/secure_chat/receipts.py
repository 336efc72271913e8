"""Receipts: a recipient's word that a message was delivered or read, kept and told to its sender.

Each message may have several of them, so they are kept in groups: those that come while one group
is written make the next.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

from plugins.secure_chat.core.frames import receipt_notice
from plugins.secure_chat.errors import NotAMember
from plugins.secure_chat.mailbox.store import MessageReceipt
from plugins.secure_chat.service import ChatService

MAX_GROUP: Final = 500


@dataclass(frozen=True, slots=True)
class _Given:
    receipt: MessageReceipt
    kept: asyncio.Future[None]


class Receipts:
    """Keeps receipts in the mailbox. All of it is the event loop's."""

    def __init__(self, service: ChatService) -> None:
        self._service = service
        self._given: list[_Given] = []
        self._keeping: asyncio.Task[None] | None = None

    async def give(self, wallet: str, kind: str, position: int) -> None:
        """Keep a receipt durably and tell the message's sender, once.

        Raises NotAMember unless the message was for ``wallet``, or LedgerUnavailable.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._given.append(_Given(MessageReceipt(position, wallet, kind), kept))
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name="receipts")
        await kept

    async def _keep(self) -> None:
        while self._given:
            group, self._given = self._given[:MAX_GROUP], self._given[MAX_GROUP:]
            try:
                await self._keep_group(group)
            except Exception as error:  # noqa: BLE001 (raised where it is awaited)
                for given in group:
                    if not given.kept.done():
                        given.kept.set_exception(error)
        self._keeping = None

    async def _keep_group(self, group: list[_Given]) -> None:
        service = self._service
        end = service.delivered_position
        shown = [given.receipt for given in group if given.receipt.position <= end]
        senders = await service.read(partial(service.mailbox.senders, shown))
        rightful = [receipt for receipt in shown if receipt in senders]
        new = await service.write(partial(service.mailbox.add_receipts, rightful))
        for given in group:
            receipt, kept = given.receipt, given.kept
            if receipt in new:
                new.remove(receipt)  # another one like it is told to nobody
                notice = receipt_notice(receipt.kind, receipt.position, receipt.wallet)
                service.hub.to_wallet(senders[receipt], notice)
            if kept.done():
                continue  # nobody waits any more
            if receipt in senders:
                kept.set_result(None)
            else:
                kept.set_exception(NotAMember("receipts are the recipient's to give"))

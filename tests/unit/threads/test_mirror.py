"""legacy/transactions: the host's own records get every event of the chat once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from plugins.secure_chat.legacy.transactions import Mirror
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.service import ChatService
from tests.unit.threads.test_index import begun, record


class Transactions:
    """A host's records whose first writer waits a moment for a second one beside it."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self._two = threading.Barrier(2)

    @property
    def mirrored_position(self) -> int:
        return max(self.positions, default=0)

    def append(self, bundles: Sequence[Mapping[str, Any]]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # nobody came, as it must be
            self._two.wait(timeout=0.2)
        self.positions += [bundle["ledger_position"] for bundle in bundles]


def test_a_stop_while_something_is_appended_appends_nothing_twice(tmp_path: Path) -> None:
    mailbox, host = Mailbox.at(tmp_path / "mailbox.sqlite"), Transactions()
    mailbox.store_event(record(1, begun()))
    service = SimpleNamespace(mailbox=mailbox, delivered_position=1)
    mirror = Mirror(cast(ChatService, service), host)

    async def both() -> None:
        await asyncio.gather(mirror.catch_up(), mirror.stop())

    asyncio.run(both())
    mailbox.close()
    assert host.positions == [1]

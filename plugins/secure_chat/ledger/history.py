"""Verifying, behind a running server, the part of its ledger that the start did not read.

A start verifies the file from the mailbox's checkpoint on. What is older is read here, in a thread
and at a bounded pace; where it does not verify, the ledger stops and says which line it is.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from plugins.secure_chat.core.chain import follow
from plugins.secure_chat.core.dialects import Line
from plugins.secure_chat.core.records import EMPTY, Head
from plugins.secure_chat.errors import LedgerBroken
from plugins.secure_chat.ledger.journal import Checkpoint
from plugins.secure_chat.ledger.port import Ledger

log: Final = logging.getLogger(__name__)

BATCH: Final = 32  # records between two pauses: about a millisecond of the interpreter
SHARE: Final = 0.1  # of the time it works; otherwise it lets others


class HistoryCheck:
    """One reading of the file, from its first record to a checkpoint."""

    def __init__(self, ledger: Ledger, until: Checkpoint) -> None:
        self._ledger = ledger
        self._until = until
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history-check", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the reading where it is. Blocks for a pause at most."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._verify()
        except LedgerBroken as broken:
            self._ledger.stop(f"its older part does not verify: {broken}; put the right file back")
        except OSError as error:
            self._ledger.stop(f"its older part cannot be read: {error.strerror}")

    def _verify(self) -> None:
        head, offset = EMPTY, 0
        begun = time.monotonic()
        with self._ledger.path.open("rb") as file:
            while offset < self._until.offset:
                text = file.readline()
                line = follow(text.removesuffix(b"\n"), head.position + 1, head.event_hash)
                if not isinstance(line, Line):
                    raise LedgerBroken(head.position + 1, line.reason)
                head = Head(head.position + 1, line.record.event_hash)
                offset += len(text)
                if head.position % BATCH == 0:
                    spent = time.monotonic() - begun
                    if self._end.wait(spent * (1 / SHARE - 1)):
                        return
                    begun = time.monotonic()
        if Checkpoint(head, offset) != self._until:
            raise LedgerBroken(head.position, "does not lead to the record verified before")
        log.info("ledger.history_verified position=%d", head.position)

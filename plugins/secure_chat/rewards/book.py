"""The reward book: a running server's rewards, kept current from the ledger's file.

It reads what the ledger's writer made durable, in order, in constant time a record; nobody waits
for it. Closed epochs are written as their statements' bytes, and with them what the next epoch
needs of the past, so a start reads at most one epoch of the ledger. All of it is derived: what is
missing, or does not follow, is computed from the ledger anew.

``open``, ``advance``, ``publish`` and ``distrust`` belong to one thread at a time, that of a
``LedgerFollower``; everything else may be called from any thread meanwhile.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from plugins.secure_chat.core.dialects import NotARecord, read
from plugins.secure_chat.core.records import EMPTY, Head
from plugins.secure_chat.core.rewards import (
    RULES,
    Account,
    Epoch,
    OutOfOrder,
    Rules,
    begin,
    features,
    fold,
    heading,
    message_of,
    restore,
    snapshot,
    statement,
    statement_line,
)
from plugins.secure_chat.errors import LedgerUnusable
from plugins.secure_chat.ledger.lines import blocks, last_line

log: Final = logging.getLogger(__name__)

SLICE: Final = 64
"""Records folded without a pause: under a millisecond for which the event loop may have to wait."""

_CARRIED_OVER: Final = "carried-over.json"
Features = tuple[int, int, int]


class NoSuchEpoch(LookupError):
    """The ledger has not come to this epoch."""


class RewardBook:
    """Rewards of one ledger."""

    def __init__(
        self,
        ledger: Path,
        directory: Path,
        *,
        rules: Rules = RULES,
        breathe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """``ledger`` is read, never written; ``directory`` holds what is derived. ``breathe`` is
        called between slices of work with the seconds of a core that the last one took."""
        self._ledger = ledger
        self._directory = directory
        self._rules = rules
        self._breathe = breathe
        self._lock = threading.Lock()
        self._unwritten: dict[int, bytes] = {}
        self._begin()

    def _begin(self) -> None:
        """Nothing is known: the next record is the ledger's first."""
        self._state = begin(self._rules)
        self._offset = 0
        self._closed: dict[str, Features] = {}  # features of the closed epochs, added up
        self._boundary: bytes | None = None  # what to carry over, not yet written

    # -- following the ledger -----------------------------------------------------------------

    def open(self, position: int) -> None:
        """Take up what was carried over and go on to ``position``, the ledger's durable head.

        What does not fit the ledger is computed anew. Raises LedgerUnusable, or OSError.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._unwritten.clear()
            self._begin()
            resumed = self._resume(position)
        try:
            self.advance(position)
        except LedgerUnusable:
            if not resumed:
                raise
            log.warning("rewards.recomputed position=%d", self.head.position)
            with self._lock:
                self._begin()
            self.advance(position)

    def advance(self, position: int) -> None:
        """Take the ledger's records up to ``position``.

        Raises LedgerUnusable when they do not follow, or end before; then open it again.
        """
        for block in blocks(self._ledger, self._offset):
            missing = position - self._state.head.position
            for start in range(0, min(len(block), missing), SLICE):
                began = time.thread_time()
                with self._lock:
                    self._take(block[start : min(start + SLICE, missing)])
                self._breathe(time.thread_time() - began)
            if self._state.head.position >= position:
                return
        if self._state.head.position < position:
            raise LedgerUnusable(
                f"the ledger ends after {self._state.head.position} of {position} records"
            )

    def publish(self) -> None:
        """Write the statements of closed epochs, then what is carried over. Raises OSError.

        What was not written is served from memory, and written the next time.
        """
        for number in sorted(self._unwritten):
            _replace(self._path(number), self._unwritten[number])
            with self._lock:
                del self._unwritten[number]
        # crash point: statements are written; the next start folds these epochs once more
        if self._boundary is not None:
            _replace(self._directory / _CARRIED_OVER, self._boundary)
            self._boundary = None

    def distrust(self) -> None:
        """Have the next ``open`` compute everything anew."""
        (self._directory / _CARRIED_OVER).unlink(missing_ok=True)

    # -- what it says -------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The last record that was taken."""
        return self._state.head

    def statement(self, epoch: int | None = None) -> bytes:
        """The statement of an epoch, by default of the running one. Raises NoSuchEpoch."""
        with self._lock:
            running = self._state.epoch.number
            if epoch is None or epoch == running:
                return statement(self._state.epoch)
            if epoch in self._unwritten:
                return self._unwritten[epoch]
        if not 0 <= epoch < running:
            raise NoSuchEpoch("the ledger has not come to this epoch")
        try:
            return self._path(epoch).read_bytes()
        except FileNotFoundError:
            raise NoSuchEpoch("its statement is gone; it is computed at the next start") from None

    def extract(self, wallet: str, epoch: int | None = None) -> dict[str, Any]:
        """The heading of an epoch's statement, and as ``line`` what it says of one wallet, or None.

        In constant time for the running epoch, which is the default. Raises NoSuchEpoch.
        """
        with self._lock:
            running = self._state.epoch
            if epoch is None or epoch == running.number:
                return {**heading(running), "line": statement_line(running, wallet)}
        said: dict[str, Any] = json.loads(self.statement(epoch))
        del said["totals"]
        lines = said.pop("wallets")
        return {**said, "line": next((one for one in lines if one["wallet"] == wallet), None)}

    def features(self, epoch: int | None = None) -> dict[str, Features]:
        """Each wallet's features (``core.rewards.features``), wallets sorted: of one epoch, or,
        for None, of all epochs added up. Raises NoSuchEpoch."""
        with self._lock:
            running = self._state.epoch
            if epoch is None:
                return _sorted(_added(self._closed, running))
            if epoch == running.number:
                return _sorted(_added({}, running))
        lines: list[dict[str, Any]] = json.loads(self.statement(epoch))["wallets"]
        return {
            line["wallet"]: features(
                Account(
                    paid=line["paid"],
                    counterparties=line["counterparties"],
                    conversations=line["conversations"],
                )
            )
            for line in lines
        }

    # -- inside -------------------------------------------------------------------------------

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            state = self._state
            try:
                record = read(line, state.head.position + 1)
                closed = fold(state, record, message_of(record))
            except (NotARecord, OutOfOrder) as error:
                raise LedgerUnusable(
                    f"the record at {state.head.position + 1} does not follow"
                ) from error
            self._offset += len(line) + 1
            if closed is not None:
                self._unwritten[closed.number] = statement(closed)
                self._closed = _added(self._closed, closed)
                self._boundary = self._carried_over()

    def _carried_over(self) -> bytes:
        closed = self._closed
        return json.dumps(
            {
                "state": snapshot(self._state).decode("ascii"),
                "offset": self._offset,
                "features": [[wallet, *closed[wallet]] for wallet in sorted(closed)],
            }
        ).encode("ascii")

    def _resume(self, position: int) -> bool:
        """Take up what was carried over, if it is whole, of these rules and of this ledger."""
        try:
            stored = json.loads((self._directory / _CARRIED_OVER).read_bytes())
            state = restore(stored["state"].encode("ascii"), self._rules)
            offset = stored["offset"]
            closed = {row[0]: (row[1], row[2], row[3]) for row in stored["features"]}
            if state.head.position > position or not self._leads_to(state.head, offset):
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return False
        if not all(self._is_kept(number) for number in range(state.epoch.number)):
            return False
        self._state, self._offset, self._closed = state, offset, closed
        return True

    def _leads_to(self, head: Head, offset: int) -> bool:
        if head == EMPTY:
            return offset == 0
        return read(last_line(self._ledger, offset), head.position).event_hash == head.event_hash

    def _is_kept(self, number: int) -> bool:
        try:
            body = json.loads(self._path(number).read_bytes())
            return bool(body["epoch"] == number and body["complete"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _path(self, epoch: int) -> Path:
        return self._directory / f"epoch-{epoch:08d}.json"


def _added(closed: Mapping[str, Features], epoch: Epoch) -> dict[str, Features]:
    """``closed`` and, on top, the features of every wallet that had an exchange in ``epoch``."""
    total = dict(closed)
    for wallet, account in epoch.accounts.items():
        if account.exchanged:
            had, more = total.get(wallet, (0, 0, 0)), features(account)
            total[wallet] = (had[0] + more[0], had[1] + more[1], had[2] + more[2])
    return total


def _sorted(found: Mapping[str, Features]) -> dict[str, Features]:
    return {wallet: found[wallet] for wallet in sorted(found)}


def _replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all. Derived data: not synced."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.replace(path)

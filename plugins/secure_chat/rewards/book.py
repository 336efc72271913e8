"""The reward book: a running server's rewards, current at every commit.

Records are taken in order as they are committed, in constant time each. Closed epochs are written
beside the ledger as their statements' bytes, and what the next epoch needs of the past with them,
so a start reads at most one epoch of the ledger. All of it is derived: what is missing, or does not
follow, is computed from the ledger anew.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from plugins.secure_chat.core.chain import SignatureCheck
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import Head, Record
from plugins.secure_chat.core.rewards import (
    RULES,
    Epoch,
    OutOfOrder,
    Rules,
    begin,
    fold,
    message_of,
    restore,
    snapshot,
    statement,
    statement_line,
)
from plugins.secure_chat.rewards.coherence import CoherenceSignal, signals
from plugins.secure_chat.rewards.ledger import basis, judge

log: Final = logging.getLogger(__name__)

_CARRIED_OVER: Final = "carried-over.json"


class NoSuchEpoch(LookupError):
    """The ledger has not come to this epoch."""


class RewardBook:
    """Rewards of one ledger. Every method may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        check_signature: SignatureCheck | None = None,
        rules: Rules = RULES,
        observers: Iterable[Callable[[Epoch], None]] = (),
    ) -> None:
        """``directory`` holds what is derived. ``check_signature`` is as for ``fold_ledger``: it
        must depend on its arguments alone, or a start would pay otherwise than the run before.
        ``observers`` are called with each epoch as it closes, in the thread of ``take``."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._check_signature = check_signature
        self._signatures = basis(check_signature)
        self._rules = rules
        self._observers = tuple(observers)
        self._lock = threading.Lock()
        self._unwritten: dict[int, bytes] = {}
        self._state = begin(rules)
        self._load()

    @property
    def head(self) -> Head:
        """The last record that was taken: the next one must follow it."""
        return self._state.head

    def take(self, record: Record, message: MessageEvent | None) -> None:
        """Take the next committed record. ``message`` is ``message_of(record)``.

        Raises OutOfOrder for a record that does not follow ``head``.
        """
        verified = judge(record, message, self._check_signature)
        with self._lock:
            closed = fold(self._state, record, message, verified)
            if closed is not None:
                self._keep(closed)
        if closed is not None:
            for observer in self._observers:
                observer(closed)

    def catch_up(self, read: Callable[[int], Iterable[Record]], head: Head) -> None:
        """Take all that is missing up to ``head``, the ledger's durable end.

        ``read(position)`` gives the records after a position. When the book is not of this ledger
        it begins at the genesis. Raises OutOfOrder when that does not lead to ``head`` either.
        """
        if self._take_all(read, head):
            return
        log.warning("rewards.recomputed position=%d", self._state.epoch.position)
        with self._lock:
            (self._directory / _CARRIED_OVER).unlink(missing_ok=True)
            self._unwritten.clear()
            self._state = begin(self._rules)
        if not self._take_all(read, head):
            raise OutOfOrder("the ledger does not lead to its head")

    def statement(self, epoch: int | None = None) -> bytes:
        """The statement of an epoch, by default of the running one. Raises NoSuchEpoch."""
        with self._lock:
            running = self._state.epoch.number
            if epoch is None or epoch == running:
                return statement(self._state.epoch, self._signatures)
            if epoch in self._unwritten:
                return self._unwritten[epoch]
        if not 0 <= epoch < running:
            raise NoSuchEpoch("the ledger has not come to this epoch")
        try:
            return self._path(epoch).read_bytes()
        except FileNotFoundError:
            raise NoSuchEpoch("its statement is gone; it is computed at the next start") from None

    def line(self, wallet: str, epoch: int | None = None) -> dict[str, object] | None:
        """What an epoch's statement says of one wallet, or None. Raises NoSuchEpoch.

        In constant time for the running epoch, which is the default.
        """
        with self._lock:
            if epoch is None or epoch == self._state.epoch.number:
                return statement_line(self._state.epoch, wallet)
        lines: list[dict[str, Any]] = json.loads(self.statement(epoch))["wallets"]
        return next((line for line in lines if line["wallet"] == wallet), None)

    def signals(self) -> list[CoherenceSignal]:
        """The coherence signals of the running epoch, as it stands."""
        with self._lock:
            return list(signals(self._state.epoch))

    def _take_all(self, read: Callable[[int], Iterable[Record]], head: Head) -> bool:
        try:
            for record in read(self._state.epoch.position):
                if record.position > head.position:
                    break
                self.take(record, message_of(record))
        except OutOfOrder:
            return False
        return self._state.head == head

    def _keep(self, closed: Epoch) -> None:
        """Write a closed epoch's statement, then what is carried over to the next.

        A disk that fails costs no commit: the statement stays in memory, and as it is missing from
        the directory, the next start computes everything again.
        """
        data = statement(closed, self._signatures)
        try:
            _replace(self._path(closed.number), data)
            # crash point: the statement is written; the next start folds the epoch once more
            _replace(self._directory / _CARRIED_OVER, snapshot(self._state))
        except OSError as error:
            self._unwritten[closed.number] = data
            log.error("rewards.not_written epoch=%d errno=%s", closed.number, error.errno)

    def _load(self) -> None:
        """Take up what was carried over, if it is whole, of these rules, with all statements."""
        try:
            state = restore((self._directory / _CARRIED_OVER).read_bytes(), self._rules)
        except (OSError, ValueError):
            return
        if all(self._is_kept(number) for number in range(state.epoch.number)):
            self._state = state

    def _is_kept(self, number: int) -> bool:
        try:
            body = json.loads(self._path(number).read_bytes())
            return bool(body["epoch"] == number and body["signatures"] == self._signatures)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _path(self, epoch: int) -> Path:
        return self._directory / f"epoch-{epoch:08d}.json"


def _replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all. Derived data: not synced."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.replace(path)

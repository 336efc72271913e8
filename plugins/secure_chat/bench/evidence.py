"""What it costs to show for a ledger: rewards, audit, the Merkle tree and its proofs.

In this process, over a ledger of dialect v1 in a file: wallets that have registered a device and
answer one another. Writing it is not measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.core.dialects import V1, encode, read
from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind
from plugins.secure_chat.core.message_event import MessageEvent
from plugins.secure_chat.core.records import GENESIS_PREV_HASH, EventDraft
from plugins.secure_chat.core.rewards import begin, fold, message_of
from plugins.secure_chat.ledger.lines import lines
from plugins.secure_chat.rewards.book import RewardBook
from plugins.secure_chat.transparency.keyfile import open_signer
from plugins.secure_chat.transparency.log import TransparencyLog

WALLETS: Final = 1_000
PROOFS: Final = 500
FOLDED: Final = 200_000
"""Records a second that rewards are to be folded at."""
OVER_BARE: Final = 0.5
"""Of what reading, JSON and SHA3-512 alone cost on one core, an audit is to reach."""


def evidence_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    folder.mkdir()
    ledger, count = folder / "ledger.jsonl", 5_000 if quick else 200_000
    _write(ledger, count)
    records = [read(line, position) for position, line in enumerate(lines(ledger, 0), start=1)]
    messages = [message_of(record) for record in records]
    book = RewardBook(ledger, folder / "rewards")
    log = TransparencyLog(ledger, folder / "log", open_signer(folder / "log.key", None))
    log.open(0)

    def fold_all() -> None:
        state = begin()
        for record, message in zip(records, messages, strict=True):
            fold(state, record, message)

    def prove() -> None:
        for number in range(PROOFS):
            log.inclusion(1 + number * (count - 1) // PROOFS)

    def audit(workers: int | None) -> None:
        if not audit_ledger(ledger, workers=workers).sound:
            raise RuntimeError("the benchmark's own ledger is not sound")

    bare = _rate(count, lambda: _bare(ledger))
    alone = _rate(count, lambda: audit(1))
    return [
        Cost("evidence", "records folded into rewards", _rate(count, fold_all), FOLDED),
        Cost("evidence", "… read from the file as well", _rate(count, lambda: book.open(count))),
        Cost("evidence", "records read, parsed, hashed and no more", bare),
        Cost("evidence", "records audited, one core", alone, OVER_BARE * bare),
        Cost("evidence", "records audited", _rate(count, lambda: audit(None))),
        Cost("evidence", "records into the Merkle tree", _rate(count, lambda: log.advance(count))),
        Cost("evidence", "checkpoints signed", _rate(1, log.publish)),
        Cost("evidence", "inclusion proofs", _rate(PROOFS, prove)),
    ]


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _bare(ledger: Path) -> None:
    """What no audit of this ledger can do without."""
    for line in lines(ledger, 0):
        fields = json.loads(line)
        hashlib.sha3_512(line).hexdigest()
        del fields


def _write(ledger: Path, count: int) -> None:
    moment, prev_hash = datetime.now(UTC), GENESIS_PREV_HASH
    with ledger.open("wb") as file:
        for number, draft in enumerate(islice(_events(), count)):
            line, record = encode(
                V1, draft, moment=moment, prev_hash=prev_hash, event_id=f"{number:032x}"
            )
            prev_hash = record.event_hash
            file.write(line)


def _events() -> Iterator[EventDraft]:
    wallets = [f"0x{number:040x}" for number in range(WALLETS)]
    for wallet in wallets:
        yield IdentityEvent(StatementKind.IDENTITY, "ab" * 32).draft(wallet)
        yield IdentityEvent(StatementKind.DEVICE, "cd" * 32, "0").draft(wallet)
    signature, number = b64encode(bytes(64)).decode(), 0
    while True:
        number += 1
        pair, seq = number % (WALLETS // 2), 1 + number // (WALLETS // 2)
        one, two = wallets[2 * pair], wallets[2 * pair + 1]
        for sender, recipient in ((one, two), (two, one)):
            digest = hashlib.sha256(f"{sender} {seq}".encode()).digest()
            yield MessageEvent(
                sender=sender,
                device="0",
                recipient=recipient,
                hash=b64encode(digest).decode(),
                nonce=b64encode(digest[:12]).decode(),
                seq=seq,
                ts=1765809007.25,
                size=272,
            ).draft(signature)

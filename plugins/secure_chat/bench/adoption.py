"""What it costs to take over a host's earlier chats: planning, importing, comparing.

In this process, from transactions of the legacy route in a file into a new ledger and SQLite, both
synced. Making the file is not measured; all that the commands do is, the index of the next start
included.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from plugins.secure_chat.adoption import steps
from plugins.secure_chat.bench.costs import Cost
from plugins.secure_chat.mailbox.engine import engine_at

MESSAGES_A_THREAD: Final = 100
IMPORTED: Final = 5_000
"""Records a second that are to be taken over."""


def adoption_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Measure in a new folder. ``quick``: does it run, roughly?"""
    folder.mkdir()
    threads = 10 if quick else 1_000
    export, ledger = folder / "transactions.jsonl", folder / "ledger.jsonl"
    with export.open("wb") as file:
        for bundle in _bundles(threads):
            file.write(orjson.dumps(bundle) + b"\n")
    engine = engine_at(folder / "mailbox.sqlite")
    count = threads * (MESSAGES_A_THREAD + 1)

    def cost(what: str, step: Callable[[], steps.Outcome], target: float | None = None) -> Cost:
        began = time.perf_counter()
        outcome = step()
        taken = time.perf_counter() - began
        if outcome.mismatches or sum(s.counts.records for s in outcome.sources) != count:
            raise RuntimeError("the benchmark's own export is not taken over")
        return Cost("adoption", what, count / taken, target)

    paths = [export]
    return [
        cost("records planned", lambda: steps.plan(ledger, None, paths)),
        cost("records imported", lambda: steps.run(ledger, engine, paths), IMPORTED),
        cost("records compared", lambda: steps.verify(ledger, engine, paths)),
    ]


def _bundles(threads: int) -> Iterator[dict[str, Any]]:
    for thread in range(threads):
        people = [f"0x{4 * thread + member:040x}" for member in range(4)]
        created = {"participants": people, "title": f"thread {thread}", "metadata": {"n": thread}}
        yield _bundle(f"thread {thread}", people[0], "thread_created", created)
        for message in range(MESSAGES_A_THREAD):
            posted = {
                "thread_id": _digest(f"thread {thread}"),
                "content_hash": _digest(f"content {thread} {message}"),
                "content_size": 272,
                "content_type": "text/plain",
                "message_type": "text",
                "metadata": None,
            }
            name = f"message {thread} {message}"
            yield _bundle(name, people[message % 4], "message_posted", posted)


def _bundle(name: str, creator: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    moment = "2025-12-15T14:30:07+00:00"
    operation = {
        "creator_id": creator,
        "data": {**data, "timestamp": moment},
        "nonce": 1,
        "type": f"secure_chat_{kind}",
    }
    return {
        "bundle_hash": _digest(name),
        "creator_id": creator,
        "operations": [operation],
        "signature": "",
        "timestamp": moment,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Exports of a host's earlier chats for tests, from the shapes that the host's documents give.

Nothing of ``plugins`` may be imported here. Every value follows from a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
CANARY = "the canary sings in clear"  # a text that must be found nowhere


def wallet(number: int) -> str:
    return f"0x{number:040x}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def bundle(bundle_id: str, creator: str, kind: str, data: Json) -> Json:
    """A transaction of the legacy route, with one operation."""
    operation = {"creator_id": creator, "data": data, "nonce": 1, "type": f"secure_chat_{kind}"}
    return {
        "bundle_hash": bundle_id,
        "creator_id": creator,
        "operations": [operation],
        "signature": f"sig-{bundle_id[:8]}",
        "timestamp": 1_765_800_000,
    }


def route_thread(number: int, members: int = 3, *, title: str | None = None) -> Json:
    people = [wallet(number + other) for other in range(1, members + 1)]
    data = {
        "participants": people,
        "title": f"thread {number}" if title is None else title,
        "metadata": {"topic": number},
        "timestamp": 1_765_800_000 + number,
    }
    return bundle(digest(f"thread {number}"), wallet(number), "thread_created", data)


def route_message(number: int, thread: int, **changes: Any) -> Json:
    data = {
        "thread_id": digest(f"thread {thread}"),
        "content_hash": digest(f"content {number}"),
        "content_size": 100 + number % 1000,
        "content_type": "text/plain",
        "message_type": "text",
        "metadata": None,
        "timestamp": 1_765_800_000 + number,
        **changes,
    }
    return bundle(digest(f"message {number}"), wallet(thread + number % 3), "message_posted", data)


def route_status(number: int, thread: int, status: str) -> Json:
    data = {
        "thread_id": digest(f"thread {thread}"),
        "status": status,
        "timestamp": 1_765_900_000 + number,
    }
    return bundle(digest(f"status {number}"), wallet(thread), "thread_updated", data)


def engine_thread(number: int, *, status: str = "ACTIVE", **changes: Any) -> Json:
    return {
        "thread_id": digest(f"thread {number}"),
        "creator_id": wallet(number),
        "participants": [wallet(number + other) for other in range(4)],
        "created_at": "2025-12-15T14:30:07Z",
        "status": status,
        "metadata": {"title": f"thread {number}", "topic": number},
        "version": "1.0",
        **changes,
    }


def engine_message(number: int, thread: int, **changes: Any) -> Json:
    return {
        "message_id": digest(f"message {number}"),
        "thread_id": digest(f"thread {thread}"),
        "sender_id": wallet(thread + number % 3),
        "content_hash": digest(f"content {number}"),
        "content_size": 100 + number % 1000,
        "timestamp": "2025-12-15T14:30:07Z",
        "message_type": "text",
        "metadata": {"content_type": "text/plain"},
        **changes,
    }


def engine_event(kind: str, data: Json) -> Json:
    return {"event_type": kind, "data": data, "timestamp": 1_765_800_000}


def conversation(number: int) -> Json:
    return {
        "conversation_id": f"conv_{number}",
        "conversation_type": "direct",
        "participants": sorted([f"wallet_{number}", f"wallet_{number + 1}"]),
        "created_at": 1_765_800_000.5,
        "created_by": f"wallet_{number}",
        "last_message_at": None,
        "message_count": 2,
        "encryption_metadata": {"scheme": "x"},
    }


def conversation_message(number: int, conversation: int) -> Json:
    return {
        "message_id": f"msg_{number}",
        "conversation_id": f"conv_{conversation}",
        "sender_wallet": f"wallet_{conversation}",
        "content_cid": "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        "timestamp": 1_765_800_000.25 + number,
        "status": "read",
        "reply_to_message_id": f"msg_{number - 1}" if number else None,
        "encryption_metadata": {"nonce": number},
    }


def plaintext(number: int) -> Json:
    """A row of the v18 chat: the message itself."""
    return {"id": number, "sender": wallet(number), "text": CANARY, "timestamp": 1_765_800_000}


def transactions(messages: int, *, threads: int = 10) -> Iterator[Json]:
    """The legacy route's transactions: every thread before its messages."""
    for number in range(threads):
        yield route_thread(number)
    for number in range(messages):
        yield route_message(number, number % threads)


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    with path.open("w") as file:
        for record in records:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
    return path

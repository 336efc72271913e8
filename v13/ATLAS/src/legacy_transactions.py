"""The host's own legacy chat records: transactions in a file, one a line, and what they add up to.

Here are the file and the fold. Who may ask for what is ``api/routes/secure_chat.py``. A plugin that
takes the route over appends here as well, so that the host's own route can answer again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from plugins.secure_chat.core.provenance import moment_of
from plugins.secure_chat.core.thread import Status
from plugins.secure_chat.legacy.contract import TEXT, Message, Thread

FILE_NAME: Final = "legacy_transactions.jsonl"
CREATED: Final = "secure_chat_thread_created"
POSTED: Final = "secure_chat_message_posted"
UPDATED: Final = "secure_chat_thread_updated"


@dataclass(slots=True)
class LegacyThread:
    """A thread as its transactions left it."""

    thread: Thread
    messages: list[Message] = field(default_factory=list)
    since: dict[str, int] = field(default_factory=dict)
    """For each participant, which message was the first that it may see."""


class LegacyTransactions:
    """The file and its fold. Opened at the first use; safe from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._file: int | None = None
        self._count = 0
        self._mirrored = 0
        self._threads: dict[str, LegacyThread] = {}

    # -- what a plugin that mirrors into them needs (hook ``atlas_legacy_transactions``) --------

    @property
    def mirrored_position(self) -> int:
        """The highest ledger position that a bundle names; 0 when none does."""
        with self._opened():
            return self._mirrored

    def append(self, bundles: Sequence[Mapping[str, Any]]) -> None:
        """Append bundles in order, durable on return. Raises OSError."""
        with self._opened():
            data = "".join(json.dumps(bundle) + "\n" for bundle in bundles).encode()
            assert self._file is not None  # noqa: S101 (opened above)
            end = os.lseek(self._file, 0, os.SEEK_END)
            try:
                _write(self._file, data)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, end)
                raise
            for bundle in bundles:
                self._fold(bundle)

    # -- the host's own route ---------------------------------------------------------------------

    def submit(self, creator: str, kind: str, data: Mapping[str, Any]) -> str:
        """Append one transaction of this host; its id."""
        with self._opened():
            moment = datetime.now(UTC).isoformat()
            content = {
                "creator_id": creator,
                "operations": [
                    {
                        "creator_id": creator,
                        "data": {**data, "timestamp": moment},
                        "nonce": self._count,
                        "type": kind,
                    }
                ],
                "timestamp": moment,
            }
            hashed = json.dumps(content, sort_keys=True, separators=(",", ":"))
            bundle_hash = hashlib.sha256(hashed.encode()).hexdigest()
            self.append([{"bundle_hash": bundle_hash, **content, "signature": ""}])
            return bundle_hash

    def find(self, thread: str) -> LegacyThread | None:
        with self._opened():
            return self._threads.get(thread)

    def threads_of(self, wallet: str) -> list[Thread]:
        """Threads that ``wallet`` is in, the oldest first."""
        with self._opened():
            return [one.thread for one in self._threads.values() if wallet in one.since]

    def messages_of(self, thread: str, wallet: str) -> list[Message]:
        """What ``wallet`` may see of a thread that it is in, the oldest first."""
        with self._opened():
            found = self._threads[thread]
            return found.messages[found.since[wallet] :]

    def transaction(self) -> threading.RLock:
        """Held, nothing changes between what is looked at and what is submitted."""
        return self._lock

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                self._threads, self._count, self._mirrored = {}, 0, 0

    # -- the file ---------------------------------------------------------------------------------

    def _opened(self) -> threading.RLock:
        with self._lock:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
                whole = 0
                for line in self._path.read_bytes().splitlines(keepends=True):
                    if not line.endswith(b"\n"):
                        break  # cut short by a crash: nobody was told of it
                    self._fold(json.loads(line))
                    whole += len(line)
                os.ftruncate(self._file, whole)
        return self._lock

    def _fold(self, bundle: Mapping[str, Any]) -> None:
        self._count += 1
        self._mirrored = max(self._mirrored, bundle.get("ledger_position", 0))
        for operation in bundle["operations"]:
            data = operation["data"]
            if operation["type"] == CREATED:
                self._create(bundle["bundle_hash"], operation["creator_id"], data)
            elif operation["type"] == POSTED:
                self._post(bundle["bundle_hash"], operation["creator_id"], data)
            else:
                self._update(data)

    def _create(self, bundle_hash: str, creator: str, data: Mapping[str, Any]) -> None:
        participants = list(dict.fromkeys([*data["participants"], creator]))
        self._threads[bundle_hash] = LegacyThread(
            Thread(
                thread_id=bundle_hash,
                creator_id=creator,
                participants=participants,
                created_at=moment_of(str(data["timestamp"])),
                status=Status.ACTIVE,
                metadata=data["metadata"] or {},
                transaction_id=bundle_hash,
            ),
            since=dict.fromkeys(participants, 0),
        )

    def _post(self, bundle_hash: str, sender: str, data: Mapping[str, Any]) -> None:
        self._threads[data["thread_id"]].messages.append(
            Message(
                message_id=bundle_hash,
                thread_id=data["thread_id"],
                sender_id=sender,
                content_hash=data["content_hash"],
                content_size=data["content_size"] or 0,
                timestamp=moment_of(str(data["timestamp"])),
                message_type=data.get("message_type", TEXT),
                transaction_id=bundle_hash,
            )
        )

    def _update(self, data: Mapping[str, Any]) -> None:
        found = self._threads[data["thread_id"]]
        if "status" in data:
            found.thread = found.thread.model_copy(update={"status": Status(data["status"])})
        if "participants" in data:
            members = list(data["participants"])
            now = len(found.messages)
            found.since = {member: found.since.get(member, now) for member in members}
            found.thread = found.thread.model_copy(update={"participants": members})


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

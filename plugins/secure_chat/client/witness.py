"""Holding a server's ledger to what it acknowledged, from the client's side.

Each ACK names a position and a hash. Here the client asks for the proof that this record is in the
ledger that the server signs for, and for the proof that what was signed before is its beginning. A
server that cannot show both has broken its promise, and that is an alarm: what was acknowledged may
be gone, or others are shown another ledger.

What must survive is one file: the log's keys, the last checkpoint, and what is not proven yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import httpx
import msgspec

from plugins.secure_chat.client.errors import LoginRefused, ServerUnreachable
from plugins.secure_chat.client.https import authorities
from plugins.secure_chat.client.login import Tokens
from plugins.secure_chat.core.dialects import parse
from plugins.secure_chat.core.message_event import MalformedMessage, from_record
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.core.note import Checkpoint, NoteMalformed, parse_proof
from plugins.secure_chat.crypto.errors import StateUnreadable
from plugins.secure_chat.transparency.keys import verifier
from plugins.secure_chat.transparency.witness import Alarm, LogWitness

log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
MAX_UNPROVEN: Final = 10_000  # receipts that wait for their proof; the oldest are kept


class Acknowledgement(Protocol):
    """What an ACK says of a message: a ``Receipt``."""

    @property
    def position(self) -> int: ...
    @property
    def event_hash(self) -> str: ...
    @property
    def recipient(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> str: ...


class _Promise(NamedTuple):
    """An acknowledgement to be held to."""

    position: int
    event_hash: str
    recipient: str
    seq: int
    hash: str


class _Kept(msgspec.Struct):
    """What the file holds."""

    keys: list[str]
    checkpoint: tuple[str, int, bytes] | None  # origin, size, root
    unproven: list[_Promise]


class LedgerWatch:
    """Watches one server's ledger for one wallet. ``note`` what was acknowledged; ``run`` it."""

    def __init__(
        self,
        base_url: str,
        tokens: Tokens,
        path: Path,
        *,
        keys: Sequence[str] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``path``: the file that must survive. ``keys``: the log's verifier keys, got from
        elsewhere; without them those that the server shows first are taken and kept for good.
        Raises Alarm when the file was made for other keys, StateUnreadable when it is damaged."""
        self._tokens = tokens
        self._path = path
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/v1/chat",
            timeout=30.0,
            trust_env=False,
            verify=authorities(),
            transport=transport,
        )
        self._unproven: deque[_Promise] = deque()
        self._filled, self._settled = asyncio.Event(), asyncio.Event()
        self._witness: LogWitness | None = None
        self._keys = tuple(keys)
        self._load()

    @property
    def unproven(self) -> int:
        """Acknowledged messages whose proof has not been seen yet."""
        return len(self._unproven)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The largest that was seen."""
        return None if self._witness is None else self._witness.last

    def note(self, receipt: Acknowledgement) -> None:
        """The server acknowledged this message: ``run`` will hold it to that."""
        if len(self._unproven) < MAX_UNPROVEN:
            self._unproven.append(
                _Promise(
                    receipt.position,
                    receipt.event_hash,
                    receipt.recipient,
                    receipt.seq,
                    receipt.hash,
                )
            )
            self._filled.set()
            self._settled.clear()

    async def settled(self) -> None:
        """Wait until all that was noted is proven, or its alarm given, by a ``run`` under way."""
        await self._settled.wait()

    async def run(self, on_alarm: Callable[[Alarm], None]) -> None:
        """Prove what is noted, one after the other, until cancelled.

        A server out of reach is asked again; each alarm is handed over, and its message is not
        asked for again. A file that cannot be written is said in the log, and ends nothing.
        """
        try:
            while True:
                while self._unproven:
                    try:
                        await self.prove(self._unproven[0])
                    except (ServerUnreachable, LoginRefused) as error:
                        log.info("ledger_watch.waiting reason=%s", error)
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    except Alarm as alarm:
                        on_alarm(alarm)
                    self._unproven.popleft()
                self._keep()
                self._filled.clear()
                self._settled.set()
                await self._filled.wait()
        finally:
            self._keep()

    def _keep(self) -> None:
        try:
            self._save()
        except OSError as error:
            log.warning("ledger_watch.not_saved errno=%s", error.errno)

    async def prove(self, receipt: Acknowledgement) -> Checkpoint:
        """See the proof that this message is in the ledger, now. Returns the checkpoint it is in.

        Raises Alarm, ServerUnreachable, or LoginRefused.
        """
        witness = await self._opened()
        answer = await self._get(f"/ledger/inclusion/{receipt.position}")
        if answer.status_code != 200:
            raise Alarm("the server denies the record that it acknowledged")
        try:
            line = parse_proof(answer.content).extra
            if not line:
                raise Alarm("the server does not show the record that it acknowledged")
            seen = witness.check_included(
                answer.content, line, receipt.position, receipt.event_hash
            )
            event = from_record(parse(line, receipt.position).record)
        except (NoteMalformed, MalformedMessage) as error:
            raise Alarm(f"the server's proof cannot be read: {error}") from None
        if (event.recipient, event.seq, event.hash) != (
            receipt.recipient,
            receipt.seq,
            receipt.hash,
        ):
            raise Alarm("the record that was acknowledged is of another message")
        await self._see(witness, seen)
        return seen

    async def check(self) -> Checkpoint:
        """See the server's present checkpoint. Raises as ``prove`` does."""
        witness = await self._opened()
        answer = await self._get("/ledger/checkpoint")
        if answer.status_code != 200:
            raise ServerUnreachable("the server has no checkpoint to show")
        seen = witness.open(answer.content)
        await self._see(witness, seen)
        self._save()
        return seen

    async def close(self) -> None:
        """Keep what must survive, and disconnect."""
        self._keep()
        await self._http.aclose()

    async def _see(self, witness: LogWitness, seen: Checkpoint) -> None:
        """Hold a checkpoint against the last one, with the proof that joins them."""
        last, hashes = witness.last, []
        if last is not None and last.size != seen.size and min(last.size, seen.size):
            old, new = sorted((last.size, seen.size))
            answer = await self._get(f"/ledger/consistency?old={old}&new={new}")
            if answer.status_code != 200:
                raise Alarm("the server denies a checkpoint that it signed")
            try:
                hashes = [
                    b64decode(each, validate=True) for each in parse_json(answer.content)["hashes"]
                ]
            except (ValueError, KeyError, TypeError):
                raise Alarm("the proof between two checkpoints cannot be read") from None
        witness.see(seen, hashes)

    async def _opened(self) -> LogWitness:
        """The witness; its keys are the server's first ones when none were given."""
        if self._witness is None:
            answer = await self._get("/ledger/keys")
            if answer.status_code != 200:
                raise ServerUnreachable("the server shows no keys of its log")
            self._keys = tuple(answer.text.split())
            self._witness = self._witness_of(None)
            self._save()
        return self._witness

    def _witness_of(self, last: Checkpoint | None) -> LogWitness:
        try:
            verifiers = [verifier(key) for key in self._keys]
        except NoteMalformed as error:
            raise Alarm(f"the log's keys cannot be read: {error}") from None
        names = {each.key.name for each in verifiers}
        if len(names) != 1:
            raise Alarm("the log's keys are not those of one log")
        return LogWitness(names.pop(), verifiers, last)

    async def _get(self, path: str) -> httpx.Response:
        """An answer that is one: anything else is ServerUnreachable, or LoginRefused."""
        for attempt in (1, 2):
            token = await self._tokens.current()
            headers = {"Authorization": f"Bearer {token.value}"}
            try:
                answer = await self._http.get(path, headers=headers)
            except httpx.RequestError as error:  # also an answer that does not decode
                raise ServerUnreachable(f"ledger: {type(error).__name__}") from None
            if answer.status_code != 401:
                break
            self._tokens.forget(token)  # it may have ended on the way: once more with another
            if attempt == 2:
                raise LoginRefused("ledger: the server does not take the token")
        if answer.status_code in (404, 429) or answer.status_code >= 500:
            raise ServerUnreachable(f"ledger: the server answered {answer.status_code}")
        return answer

    def _load(self) -> None:
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
            last = None if stored.checkpoint is None else Checkpoint(*stored.checkpoint)
        except FileNotFoundError:
            if self._keys:
                self._witness = self._witness_of(None)
            return
        except (OSError, ValueError) as error:
            raise StateUnreadable("the file of what was seen of the ledger is damaged") from error
        if self._keys and list(self._keys) != stored.keys:
            raise Alarm("the log's keys are not those that were seen before")
        self._keys = tuple(stored.keys)
        self._unproven.extend(stored.unproven)
        if self._unproven:
            self._filled.set()
        self._witness = self._witness_of(last)

    def _save(self) -> None:
        """Replace the file, whole or not at all; nothing before the keys are known."""
        if self._witness is None:
            return
        last = self._witness.last
        seen = None if last is None else (last.origin, last.size, last.root)
        stored = _Kept(keys=list(self._keys), checkpoint=seen, unproven=list(self._unproven))
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(stored))
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave an empty file under the name
        beside.replace(self._path)

"""The check of the devices' signatures: in batches, off the event loop, in the order of arrival.

A wallet that never registered a device may write unsigned, unless signatures are required; from
its first device on, every message is signed by a device in force. What is signed is
``crypto/frame.py``'s.
"""

from __future__ import annotations

import asyncio
import os
from binascii import a2b_base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.crypto.frame import signing_input
from plugins.secure_chat.directory.entries import Entries, Known
from plugins.secure_chat.errors import BadSignature, Refusal, UnknownDevice
from plugins.secure_chat.metrics import Metrics

BATCH: Final = 16  # messages a thread takes at least: fewer do not pay for the hop
INLINE: Final = 3  # so few are checked at once where they are: 150 us of the event loop's time

_Job = tuple[bytes, Envelope]


class DeviceSignatures:
    """Whether messages are signed by the devices that they name (``admission.SignatureCheck``)."""

    def __init__(self, entries: Entries, metrics: Metrics, *, required: bool) -> None:
        """``required``: of every wallet, also of those that never registered a device."""
        self._entries = entries
        self._metrics = metrics
        self._required = required
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="signatures")

    def close(self) -> None:
        self._pool.shutdown()

    async def __call__(self, envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        known = await self._entries.of({envelope.sender for envelope in envelopes})
        verdicts: list[Refusal | None] = [None] * len(envelopes)
        places: list[int] = []
        jobs: list[_Job] = []
        for place, envelope in enumerate(envelopes):
            sender = known[envelope.sender]
            if not (sender.entry.registered or self._required):
                continue
            key = sender.keys.get(envelope.device)
            if key is None:
                verdicts[place] = _unknown(sender, envelope.device)
            elif not envelope.signature:
                verdicts[place] = BadSignature("a registered device signs every message")
            else:
                places.append(place)
                jobs.append((key, envelope))
        if jobs:
            sound = await self._verify(jobs)
            for place, good in zip(places, sound, strict=True):
                if not good:
                    verdicts[place] = BadSignature("the signature is not the device's")
            self._metrics.signatures(len(jobs), sum(sound))
        return verdicts

    async def _verify(self, jobs: list[_Job]) -> list[bool]:
        if len(jobs) <= INLINE:
            return verify_batch(jobs)
        size = max(BATCH, -(-len(jobs) // self._threads))
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        loop = asyncio.get_running_loop()
        running = [loop.run_in_executor(self._pool, verify_batch, batch) for batch in batches]
        return [good for batch in await asyncio.gather(*running) for good in batch]


def verify_batch(jobs: Sequence[_Job]) -> list[bool]:
    """For each (Ed25519 key, envelope with a signature), whether that key made the signature.

    libsodium's verification lets go of the interpreter, and refuses more than OpenSSL's: what it
    takes, every client takes.
    """
    return [_is_signed(key, envelope) for key, envelope in jobs]


def _is_signed(key: bytes, envelope: Envelope) -> bool:
    message = signing_input(
        envelope.sender,
        envelope.device,
        envelope.recipient,
        a2b_base64(envelope.nonce),
        envelope.seq,
        envelope.ts,
        a2b_base64(envelope.hash),
        envelope.cids,
    )
    try:
        crypto_sign_open(a2b_base64(envelope.signature) + message, key)
    except BadSignatureError:
        return False
    return True


def _unknown(sender: Known, device: str) -> UnknownDevice:
    if device in sender.entry.revocations:
        return UnknownDevice("the device has been revoked")
    if sender.entry.certificate(device) is not None:
        return UnknownDevice("the device's certificate was lost here: publish it again")
    return UnknownDevice("the wallet has no such device: publish its certificate first")

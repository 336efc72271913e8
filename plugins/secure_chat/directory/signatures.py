"""The check of the devices' signatures: in batches, off the event loop, in the order of arrival.

A wallet that never registered a device may write unsigned, unless signatures are required; from
its first device on, every message is signed by a device in force. What is signed is
``crypto/frame.py``'s; who verifies it is ``verifiers.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.directory.entries import Entries, Known
from plugins.secure_chat.directory.verification import Job, job
from plugins.secure_chat.directory.verifiers import Verifiers
from plugins.secure_chat.errors import BadSignature, Refusal, UnknownDevice
from plugins.secure_chat.metrics import Metrics

MAX_PROCESSES: Final = 4  # that verify: one event loop gives work to no more


class DeviceSignatures:
    """Whether messages are signed by the devices that they name (``admission.SignatureCheck``)."""

    def __init__(self, entries: Entries, metrics: Metrics, *, required: bool) -> None:
        """``required``: of every wallet, also of those that never registered a device."""
        self._entries = entries
        self._metrics = metrics
        self._required = required
        self.verifiers = Verifiers(min(_cores(), MAX_PROCESSES))

    async def close(self) -> None:
        await self.verifiers.close()

    async def __call__(self, envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        known = await self._entries.of({envelope.sender for envelope in envelopes})
        verdicts: list[Refusal | None] = [None] * len(envelopes)
        places: list[int] = []
        jobs: list[Job] = []
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
                jobs.append(job(key, envelope))
        if jobs:
            sound = await self.verifiers.verify(jobs)
            for place, good in zip(places, sound, strict=True):
                if not good:
                    verdicts[place] = BadSignature("the signature is not the device's")
            self._metrics.signatures(len(jobs), sum(sound))
        return verdicts


def _unknown(sender: Known, device: str) -> UnknownDevice:
    if device in sender.entry.revocations:
        return UnknownDevice("the device has been revoked")
    if sender.entry.certificate(device) is not None:
        return UnknownDevice("the device's certificate was lost here: publish it again")
    return UnknownDevice("the wallet has no such device: publish its certificate first")


def _cores() -> int:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

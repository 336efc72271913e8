"""Verifying the signatures of messages: a pure function, and the loop of a process that runs it.

A request is a four-byte length and a MessagePack array of jobs; its answer is one byte a job, 1 for
a good signature. The process ends when its input does, so it never outlives who started it. Run as
``python -m plugins.secure_chat.directory.verification``; who starts it is ``verifiers.py``.
"""

from __future__ import annotations

import sys
from binascii import a2b_base64
from collections.abc import Sequence
from typing import BinaryIO, Final

import msgspec
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from plugins.secure_chat.child_process import HEADER, ignore_signals
from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.crypto.frame import signing_input


class Job(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A signature and what it is over. Byte strings of the message are in canonical base64."""

    key: bytes  # Ed25519 (RFC 8032)
    signature: str
    sender: str
    device: str
    recipient: str
    nonce: str
    seq: int
    ts: int | float
    hash: str
    cids: tuple[str, ...]


_JOBS: Final = msgspec.msgpack.Decoder(list[Job])


def job(key: bytes, envelope: Envelope) -> Job:
    """Whether ``key`` signed ``envelope``, which has a signature."""
    return Job(
        key,
        envelope.signature,
        envelope.sender,
        envelope.device,
        envelope.recipient,
        envelope.nonce,
        envelope.seq,
        envelope.ts,
        envelope.hash,
        envelope.cids,
    )


def verify_batch(jobs: Sequence[Job]) -> list[bool]:
    """For each of ``jobs`` whether the signature is the key's.

    libsodium refuses more than OpenSSL's verification: what it takes, every client takes.
    """
    return [_is_signed(one) for one in jobs]


def _is_signed(one: Job) -> bool:
    message = signing_input(
        one.sender,
        one.device,
        one.recipient,
        a2b_base64(one.nonce),
        one.seq,
        one.ts,
        a2b_base64(one.hash),
        one.cids,
    )
    try:
        crypto_sign_open(a2b_base64(one.signature) + message, one.key)
    except BadSignatureError:
        return False
    return True


def answer_requests(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        jobs = _JOBS.decode(requests.read(HEADER.unpack(header)[0]))
        answers.write(bytes(verify_batch(jobs)))
        answers.flush()


def main() -> None:
    ignore_signals()
    answer_requests(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()

"""One person with one device, for a client in another language: JSON lines in, JSON lines out.

    python -m tests.client.peer

A request names an ``op`` and its inputs, an answer has the op's outputs or an ``error`` code. Bytes
are base64. Nothing here is fixed: keys, handshakes and messages are fresh in every run.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode, b64encode
from typing import Any

from plugins.secure_chat.crypto import attachments, roster, safety
from plugins.secure_chat.crypto.devices import Certificate, Revocation
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.crypto.prekeys import Bundle, Publication
from plugins.secure_chat.crypto.roster import Roster
from tests.unit.crypto.people import Directory, Person


def text(data: bytes) -> str:
    return b64encode(data).decode()


class Peer:
    """Answers requests: one method for each ``op``."""

    def __init__(self) -> None:
        self.person = Person(Directory(), "py", one_time=2)
        self.messenger = self.person["py"]
        self.messenger.learn(self.person.roster)
        self.other: Roster | None = None

    @property
    def _other(self) -> Roster:
        if self.other is None:
            raise LookupError("learn comes first")
        return self.other

    def roster(self) -> dict[str, Any]:
        one = self.person.roster
        return {
            "identity": text(one.identity.encode()),
            "certificates": [text(each.encode()) for each in one.certificates],
        }

    def learn(
        self, identity: str, certificates: list[str], revocations: list[str]
    ) -> dict[str, Any]:
        self.other = roster.verify(
            Identity.decode(b64decode(identity)),
            [Certificate.decode(b64decode(one)) for one in certificates],
            [Revocation.decode(b64decode(one)) for one in revocations],
        )
        number = safety.safety_number(self.person.identity, self.other.identity)
        return {"succession": self.messenger.learn(self.other).value, "safety_number": number}

    def bundle(self) -> dict[str, Any]:
        return {"bundle": text(self.person.directory.claim(self.messenger.certificate.id).encode())}

    def publication(self, publication: str) -> dict[str, Any]:
        one = Publication.decode(b64decode(publication))
        certificate = next(each for each in self._other.certificates if each.id == one.certificate)
        one.verify(certificate)
        return {"one_time": len(one.one_time), "one_time_kem": len(one.one_time_kem)}

    def establish(self, bundle: str, now: int) -> dict[str, Any]:
        self.messenger.establish(self._other, Bundle.decode(b64decode(bundle)), now)
        return {}

    def seal(self, content: str, ts: float) -> dict[str, Any]:
        frame = self.messenger.seal(self._other.wallet, [self._other], b64decode(content), ts)
        return {"frame": frame.to_wire()}

    def open(self, frame: dict[str, Any]) -> dict[str, Any]:
        opened = self.messenger.open(Frame.from_wire(frame), self._other)
        return {"content": text(opened.content), "continuity": opened.continuity.value}

    def attach(self, content: str) -> dict[str, Any]:
        one, blocks = attachments.seal(b64decode(content), os.urandom)
        return {"descriptor": text(one.encode()), "blocks": [text(block) for block in blocks]}

    def detach(self, descriptor: str, blocks: list[str]) -> dict[str, Any]:
        one = attachments.Attachment.decode(b64decode(descriptor))
        by_name = dict(zip(one.cids, map(b64decode, blocks), strict=True))
        return {"content": text(b"".join(attachments.open_(one, by_name.__getitem__)))}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operations = {
            one.__name__: one
            for one in (
                *(self.roster, self.learn, self.bundle, self.publication, self.establish),
                *(self.seal, self.open, self.attach, self.detach),
            )
        }
        try:
            return operations[request.pop("op")](**request)
        except CryptoError as error:
            return {"error": error.code}


def main() -> None:
    peer = Peer()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(peer.answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

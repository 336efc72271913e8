"""Wallets with identities and devices, as clients of the directory's REST; nothing is checked here.

The statements are the library's (``tests/unit/crypto/people.py``), the wire is spoken by hand.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Protocol

import httpx

from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.prekeys import Publication
from tests.unit.crypto.people import Directory, Person


class Api(Protocol):
    """A server as a registrant sees it."""

    @property
    def http(self) -> httpx.Client: ...

    def authorization(self, wallet: str) -> dict[str, str]: ...


class Registrant(Person):
    """A person who publishes to a server. Devices are made by ``add``, and published on request."""

    def __init__(self, server: Api, *names: str, one_time: int = 3) -> None:
        self.server = server
        self.publications: dict[bytes, Publication] = {}
        super().__init__(self._Collected(self.publications), *names, one_time=one_time)

    class _Collected(Directory):
        """Keeps what devices would publish."""

        def __init__(self, publications: dict[bytes, Publication]) -> None:
            super().__init__()
            self._publications = publications

        def publish(self, publication: Publication) -> None:
            self._publications[publication.certificate] = publication

    def publish_identity(self) -> httpx.Response:
        return self.call("PUT", "/identity", identity=self.identity.encode())

    def publish_device(self, name: str) -> httpx.Response:
        certificate = next(one for one in self.certificates if one.device == name)
        return self.call("POST", "/devices", certificate=certificate.encode())

    def publish_revocation(self) -> httpx.Response:
        return self.call("POST", "/revocations", revocation=self.revocations[-1].encode())

    def publish_prekeys(self, name: str) -> httpx.Response:
        publication = self.publications[self.devices[name].messenger.certificate.id]
        return self.call("PUT", f"/devices/{name}/prekeys", publication=publication.encode())

    def register(self) -> Registrant:
        """Publish everything; all of it must be taken."""
        answers = [self.publish_identity()]
        answers += [self.publish_device(name) for name in self.devices]
        answers += [self.publish_prekeys(name) for name in self.devices]
        for answer in answers:
            assert answer.status_code in (200, 201), answer.text
        return self

    def claim(self, wallet: str, devices: Iterable[str]) -> httpx.Response:
        return self.call("POST", f"/identities/{wallet}/claim", devices=list(devices))

    def signed(self, device: str, recipient: str, seq: int, **fields: Any) -> dict[str, Any]:
        """A CHAT_MESSAGE of ``device``, signed by its key; ``fields`` replace the frame's own."""
        given = {"ciphertext": b"\x05" * 64, "nonce": seq.to_bytes(12, "big"), "ts": 1.5, **fields}
        frame = Frame(sender=self.id, device=device, recipient=recipient, seq=seq, **given)
        return frame.signed(self.devices[device].keys.signing).to_wire()

    def call(self, method: str, path: str, **fields: Any) -> httpx.Response:
        """One request of this wallet; bytes are sent in base64."""
        body = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in fields.items()
        }
        headers = self.server.authorization(self.id)
        return self.server.http.request(
            method, f"/v1/chat{path}", headers=headers, json=body or None
        )

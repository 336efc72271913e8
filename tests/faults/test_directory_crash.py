"""F1 for the directory: kill -9 while wallets publish and claim, and what was answered stands."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.crypto.prekeys import Bundle
from tests.faults.server import LEDGER, PATIENCE, Server, authorization
from tests.plugin.registrants import Registrant

pytestmark = pytest.mark.fault

ROUNDS = 3
WALLETS = 4
ANSWERS = 12  # of this round, before the kill


@dataclass
class Api:
    """A server's REST for registrants."""

    http: httpx.Client

    def authorization(self, wallet: str) -> dict[str, str]:
        return authorization(wallet)


@contextlib.contextmanager
def api(server: Server) -> Iterator[Api]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False) as http:
        yield Api(http)


@dataclass
class Seen:
    """What the server has answered, from any thread."""

    enough: threading.Event = field(default_factory=threading.Event)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Statements by id."""
    claimed: list[tuple[str, int]] = field(default_factory=list)
    """One-time prekeys: certificate and number."""
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, answer: httpx.Response) -> None:
        assert answer.status_code in (200, 201), answer.text
        with self.lock:
            self.count += 1
            body = answer.json()
            if "event_hash" in body:
                self.accepted[body["id"]] = body
            for one in body.get("bundles", []):
                bundle = Bundle.decode(base64.b64decode(one["bundle"]))
                if bundle.one_time is not None:
                    self.claimed.append((bundle.certificate.hex(), bundle.one_time.id))
            if self.count >= ANSWERS:
                self.enough.set()


def publish_and_claim(person: Registrant, seen: Seen) -> None:
    """Publish all there is, then claim until the server is gone."""
    with contextlib.suppress(httpx.TransportError):
        seen.answer(person.publish_identity())
        for name in person.devices:
            seen.answer(person.publish_device(name))
            seen.answer(person.publish_prekeys(name))
        while True:
            seen.answer(person.claim(person.id, person.devices))


def test_what_the_directory_answered_survives_kill_9(tmp_path: Path) -> None:
    data = tmp_path / "data"
    start = partial(Server, data, claim_burst="1000000", claims_per_second="1e6")
    people: list[Registrant] = []
    seen = Seen()
    for _ in range(ROUNDS):
        with start() as server, api(server) as rest:
            seen.enough.clear()
            seen.count = 0
            people = [Registrant(rest, "a", "b", one_time=20) for _ in range(WALLETS)]
            threads = [
                threading.Thread(target=publish_and_claim, args=(person, seen)) for person in people
            ]
            for thread in threads:
                thread.start()
            assert seen.enough.wait(PATIENCE)
            server.kill()
            for thread in threads:
                thread.join()
        report = audit_ledger(data / LEDGER)
        assert report.sound or report.torn_bytes
        with start() as server, api(server) as rest:
            for person in people:
                person.server = rest
                listed = rest.http.get(
                    f"/v1/chat/identities/{person.id}", headers=authorization(person.id)
                ).json()
                assert listed["missing"] == []
                shown = {base64.b64decode(one) for one in listed["certificates"]}
                for certificate in person.certificates:
                    if certificate.id.hex() in seen.accepted:
                        assert certificate.encode() in shown
                # Whatever was not answered can be sent again, and all is in force then.
                person.register()
                seen.answer(person.claim(person.id, person.devices))
                again = person.publish_identity()
                assert again.status_code == 200
                assert seen.accepted.get(again.json()["id"]) in (None, again.json())
    assert len(set(seen.claimed)) == len(seen.claimed) > ANSWERS
    assert audit_ledger(data / LEDGER).sound

"""Offline audit of signatures: a real server's ledger, and the statements it publishes."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.audit.certificates import Statements, encode_statement, read_statements
from plugins.secure_chat.core.chain import Defect
from plugins.secure_chat.crypto.devices import Certificate
from plugins.secure_chat.crypto.identity import Identity
from plugins.secure_chat.errors import LedgerUnusable
from plugins.secure_chat.rewards.ledger import fold_ledger
from tests.ledgers.writers import Event, Ledger
from tests.plugin.chat_server import ALICE, chat_server, message, token
from tests.plugin.registrants import Registrant


@dataclass
class Published:
    """A ledger that a server wrote, its statements, and who is in it."""

    ledger: Path
    statements: Path
    rewards: bytes
    one: str
    two: str

    def audit(self, workers: int = 1, statements: Statements | None = None) -> Report:
        given = read_statements(self.statements) if statements is None else statements
        return audit_ledger(self.ledger, statements=given, workers=workers, chunk_size=3_000)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    with chat_server(folder, rate_per_second=1e6, burst=10**6) as server:
        one = Registrant(server, "phone", "desk").register()
        two = Registrant(server, "phone").register()
        for seq in range(1, 13):
            server.post(one.id, one.signed("phone", two.id, seq)).raise_for_status()
            server.post(two.id, two.signed("phone", one.id, seq)).raise_for_status()
        server.post(one.id, one.signed("desk", two.id, 1)).raise_for_status()
        one.revoke("desk")
        one.publish_revocation().raise_for_status()
        server.post(ALICE, message(one.id, 1)).raise_for_status()
        headers = {"Authorization": f"Bearer {token('an-auditor', scope='auditor')}"}
        refused = server.get("/v1/chat/ledger/statements", ALICE)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
        found = server.http.get("/v1/chat/ledger/statements", headers=headers).raise_for_status()
        rewards = server.http.get("/v1/chat/rewards/0", headers=headers).raise_for_status()
    statements = folder / "statements.jsonl"
    statements.write_bytes(found.content)
    return Published(server.ledger, statements, rewards.content, one.id, two.id)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_signature_of_a_registered_device_is_verified(
    published: Published, workers: int
) -> None:
    report = published.audit(workers)
    assert report.sound, report.finding
    assert (report.signed, report.verified, report.unsigned) == (25, 25, 1)
    assert report.identities is not None
    assert (report.identities.wallets, report.identities.devices) == (2, 3)
    assert (report.identities.missing, report.identities.changes) == (0, ())


def test_a_running_server_rewards_what_an_auditor_verifies(published: Published) -> None:
    *_, last = fold_ledger(published.ledger, published.audit().head)
    assert last.statement == published.rewards
    body = json.loads(last.statement)
    assert (body["totals"]["counted"], body["totals"]["unregistered"]) == (25, 0)
    assert {line["wallet"] for line in body["wallets"]} == {published.one, published.two}
    assert all(int(line["reward"]) > 0 for line in body["wallets"])


def _again(source: Path, change: Callable[[int, Event], Event], to: Path) -> Path:
    """The ledger as its server could have written it, were it dishonest: sound in every hash."""
    forged = Ledger()
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        fields = json.loads(line)
        event = Event(
            fields["event_type"], fields["wallet"], fields["metadata"], fields["signature"]
        )
        forged.add("v1", change(number, event))
    to.write_bytes(forged.data)
    return to


def _signed(source: Path) -> list[int]:
    lines = source.read_bytes().splitlines()
    return [n for n, line in enumerate(lines, start=1) if json.loads(line)["signature"]]


@pytest.mark.parametrize("field", ["signature", "ts", "hash", "nonce", "recipient"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_that_its_device_did_not_sign_is_named(
    published: Published, tmp_path: Path, field: str, workers: int
) -> None:
    target = _signed(published.ledger)[7]

    def change(number: int, event: Event) -> Event:
        if number != target:
            return event
        metadata, signature = dict(event.metadata), event.signature
        if field == "signature":
            signature = b64encode(bytes(64)).decode()
        elif field in ("hash", "nonce"):
            metadata[field] = b64encode(bytes(len(b64decode(metadata[field])))).decode()
        else:
            metadata[field] = "somebody" if field == "recipient" else 7.5
        return Event(event.event_type, event.wallet, metadata, signature)

    forged = _again(published.ledger, change, tmp_path / "forged.jsonl")
    assert audit_ledger(forged).sound, "without the certificates it cannot be seen"
    given = read_statements(published.statements)
    report = audit_ledger(forged, statements=given, workers=workers, chunk_size=3_000)
    assert report.finding is not None
    assert (report.finding.position, report.finding.defect) == (target, Defect.SIGNATURE)


@pytest.mark.parametrize(("ended_by", "device"), [("revocation", "desk"), ("identity", "phone")])
def test_a_device_that_no_longer_counts_verifies_nothing(
    published: Published, tmp_path: Path, ended_by: str, device: str
) -> None:
    """The last message of a device, moved behind the event that ended it."""
    events = [json.loads(line) for line in published.ledger.read_bytes().splitlines()]
    last = [
        one
        for one in events
        if one["wallet"] == published.one and one["signature"] and _device(one) == device
    ][-1]
    moved = [one for one in events if one is not last]
    if ended_by == "identity":  # a new one, whose statement is not to be had
        metadata = {"kind": "identity", "id": "ab" * 32}
        moved.append({**last, "event_type": "IDENTITY", "metadata": metadata, "signature": ""})
    moved.append(last)
    forged = Ledger()
    for one in moved:
        forged.add("v1", Event(one["event_type"], one["wallet"], one["metadata"], one["signature"]))
    path = tmp_path / "moved.jsonl"
    path.write_bytes(forged.data)
    report = audit_ledger(path, statements=read_statements(published.statements))
    assert report.sound, report.finding
    assert (report.signed, report.verified) == (25, 24)


def _device(record: dict[str, Any]) -> object:
    return record["metadata"].get("device")


def test_missing_statements_are_said_and_their_devices_not_judged(published: Published) -> None:
    statements = read_statements(published.statements)
    cases: list[tuple[Callable[[object], bool], int]] = [
        (lambda one: isinstance(one, Certificate) and one.device == "desk", 24),
        (lambda one: isinstance(one, Identity) and one.wallet == published.two, 13),
        (lambda one: True, 0),
    ]
    for missing, verified in cases:
        kept = {name: one for name, one in statements.items() if not missing(one)}
        report = published.audit(statements=kept)
        assert report.sound, report.finding
        assert report.verified == verified
        assert report.identities is not None
        assert report.identities.missing == len(statements) - len(kept)


def test_a_statement_whose_signatures_do_not_verify_names_its_event(published: Published) -> None:
    lines = published.ledger.read_bytes().splitlines()
    events = [
        (number, json.loads(line)["metadata"])
        for number, line in enumerate(lines, start=1)
        if json.loads(line)["event_type"] == "IDENTITY"
    ]
    judged = [(n, e) for n, e in events if e["kind"] != "prekeys"]
    assert [e["kind"] for _, e in judged].count("device") == 3
    assert len(judged) == 6
    for number, event in judged:
        statements = dict(read_statements(published.statements))
        encoded = bytearray(statements[event["id"]].encode())
        encoded[-2] ^= 1  # within the last signature, whichever statement it is
        statements[event["id"]] = type(statements[event["id"]]).decode(bytes(encoded))
        report = published.audit(statements=statements)
        assert report.finding is not None, event
        assert (report.finding.position, report.finding.defect) == (number, Defect.STATEMENT)


@pytest.mark.parametrize("swap", ["wallet", "device", "kind", "identity"])
def test_an_event_that_logs_anothers_statement_is_named(
    published: Published, tmp_path: Path, swap: str
) -> None:
    """A server that logs a statement of somebody else for a wallet, or for another device."""
    lines = [json.loads(line) for line in published.ledger.read_bytes().splitlines()]
    wanted = "identity" if swap == "identity" else "device"
    logged = [
        (n, one)
        for n, one in enumerate(lines, start=1)
        if one["event_type"] == "IDENTITY" and one["metadata"]["kind"] == wanted
    ]
    target, other = logged[-2][0], logged[-1][1]["metadata"]["id"]

    def change(number: int, event: Event) -> Event:
        if number != target:
            return event
        if swap in ("wallet", "identity"):
            metadata = {**event.metadata, "id": other}
        elif swap == "device":
            metadata = {**event.metadata, "device": "ghost"}
        else:
            metadata = {**event.metadata, "kind": "revocation"}
        return Event(event.event_type, event.wallet, metadata)

    forged = _again(published.ledger, change, tmp_path / "forged.jsonl")
    report = audit_ledger(forged, statements=read_statements(published.statements))
    assert report.finding is not None
    assert (report.finding.position, report.finding.defect) == (target, Defect.STATEMENT)


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"{}\n",
        b'{"kind":"identity","statement":"!"}\n',
        b'{"kind":"identity","statement":"AAAA"}\n',
        b'{"kind":"prekeys","statement":""}\n',
        b'{"kind":1,"statement":""}\n',
        encode_statement("other", b"x"),
    ],
)
def test_what_is_no_statement_is_unusable_and_its_line_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "statements.jsonl"
    path.write_bytes(line)
    with pytest.raises(LedgerUnusable, match="line 1"):
        read_statements(path)


def test_an_identity_logged_once_more_ends_no_device_and_is_no_change(
    published: Published, tmp_path: Path
) -> None:
    twice = Ledger()
    identities: dict[str, Event] = {}
    for line in published.ledger.read_bytes().splitlines():
        fields = json.loads(line)
        wallet, metadata = fields["wallet"], fields["metadata"]
        event = Event(fields["event_type"], wallet, metadata, fields["signature"])
        twice.add("v1", event)
        if metadata.get("kind") == "identity":
            identities[wallet] = event
        elif metadata.get("kind") == "device":
            twice.add("v1", identities[wallet])
    path = tmp_path / "twice.jsonl"
    path.write_bytes(twice.data)
    report = audit_ledger(path, statements=read_statements(published.statements))
    assert report.sound, report.finding
    assert (report.verified, report.records) == (25, len(twice.lines))
    assert report.identities is not None
    assert report.identities.changes == ()

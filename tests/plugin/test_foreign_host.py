"""A host that is not ours: its own hooks relay, ledger object and users; and the host's old files.

Nothing of ``v13`` takes part in the first half: the application here is the smallest that an
adopter would write. The ledger objects are written from the description of each interface.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from plugins.secure_chat import plugin as secure_chat
from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.note import parse_proof
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.errors import ConfigurationError, LedgerBroken
from plugins.secure_chat.ledger import host as host_ledger
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.settings import Settings
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    ChatServer,
    DidNotStart,
    chat_server,
    message,
    serving,
)
from tests.plugin.registrants import Registrant

HOST_LEDGERS = Path(__file__).parents[2].parent / "shared" / "fixtures" / "ledgers"
ZEROS = "0" * 64


def user_id(wallet: str) -> str:
    """The foreign host's own name for a wallet."""
    return "user_" + hashlib.sha3_256(wallet.lower().strip().encode()).digest()[:16].hex()


@dataclass
class GenesisEvent:
    hash: str


class SyncLedger:
    """The first interface: sync ``append_event``, records of dialect v1."""

    def __init__(self, storage_path: str) -> None:
        self.storage_path = storage_path
        Path(storage_path).touch()

    def append_event(
        self,
        event_type: str,
        wallet: str,
        metadata: dict[str, Any],
        signature: str,
        value: int = 0,
    ) -> GenesisEvent:
        lines = Path(self.storage_path).read_text().splitlines()
        record = {
            "id": str(uuid.uuid4()),
            "wallet": wallet,
            "epoch": 1,
            "event_type": event_type,
            "value": value,
            "metadata": metadata,
            "prev_hash": json.loads(lines[-1])["hash"] if lines else ZEROS,
            "timestamp": datetime.now(UTC).isoformat(),
            "signature": signature,
        }
        hashed = json.dumps(record, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha3_512(hashed.encode()).hexdigest()
        names = "id wallet epoch event_type value metadata hash prev_hash timestamp signature"
        on_disk = {name: digest if name == "hash" else record[name] for name in names.split()}
        with Path(self.storage_path).open("a") as file:
            file.write(json.dumps(on_disk) + "\n")
        return GenesisEvent(digest)


class GenesisEntry(BaseModel):
    """What the second interface takes and gives, in its oldest form."""

    wallet: str
    event_type: str
    value: float = 0.0
    metadata: dict[str, Any]
    timestamp: str = ""
    hash: str = ""
    previous_hash: str = ""


class GenesisEntryOfHead(GenesisEntry):
    """Its newest form: the value is text, the time stands still."""

    value: str = "0"  # type: ignore[assignment]


class AsyncLedger:
    """The second interface: async ``append``. Its time is the caller's."""

    def __init__(self, filepath: str, now: Callable[[], str]) -> None:
        self.filepath = filepath
        self._now = now
        Path(filepath).touch()

    def _append(self, entry: GenesisEntry) -> GenesisEntry:
        lines = Path(self.filepath).read_text().splitlines()
        entry.previous_hash = json.loads(lines[-1])["hash"] if lines else ZEROS
        entry.timestamp = self._now()
        metadata = json.dumps(entry.metadata, sort_keys=True)
        text = (
            f"{entry.previous_hash}|{entry.timestamp}|{entry.wallet}|{entry.event_type}|"
            f"{entry.value}|{metadata}"
        )
        entry.hash = hashlib.sha256(text.encode()).hexdigest()
        with Path(self.filepath).open("a") as file:
            file.write(entry.model_dump_json() + "\n")
        return entry


class OldAsyncLedger(AsyncLedger):
    async def append(self, entry: GenesisEntry) -> GenesisEntry:
        return self._append(entry)


class HeadAsyncLedger(AsyncLedger):
    async def append(self, entry: GenesisEntryOfHead) -> GenesisEntry:
        return self._append(entry)


def _v2_now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"


LEDGERS: dict[str, Callable[[str], Any]] = {
    "sync append_event, v1": SyncLedger,
    "async append, v2": lambda path: OldAsyncLedger(path, _v2_now),
    "async append, v7": lambda path: HeadAsyncLedger(path, lambda: "1970-01-01T00:00:00Z"),
}


@dataclass
class ForeignHost:
    """What the plugin asks of a host, with plain functions where ours has pluggy."""

    data_dir: Path
    ledger: Any
    settings: dict[str, object] = field(default_factory=lambda: {"secure_chat": Settings()})

    def __post_init__(self) -> None:
        self.ledger_path = self.data_dir / "genesis_ledger.jsonl"
        self.sessions: dict[str, str] = {}
        self.hook = SimpleNamespace(
            atlas_authenticate=self._authenticate, atlas_ledger=lambda: self.ledger
        )

    def log_in(self, wallet: str) -> str:
        """An opaque session token, as the host hands them out."""
        session = f"ascon1.{uuid.uuid4().hex}"
        self.sessions[session] = user_id(wallet)
        return session

    def _authenticate(self, token: str) -> Any:
        if token not in self.sessions:
            raise PermissionError("no such session")
        user = self.sessions[token]
        return SimpleNamespace(wallet=user, expires_at=time.time() + 60, scopes=("user",))

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            await secure_chat.atlas_start(self)
            yield
            await secure_chat.atlas_stop(self)

        app = FastAPI(lifespan=lifespan)
        for router in secure_chat.atlas_routes(self):
            app.include_router(router)
        return app


@pytest.mark.parametrize("make", LEDGERS.values(), ids=LEDGERS.keys())
def test_a_foreign_host_with_its_own_ledger_and_users_chats(
    tmp_path: Path, make: Callable[[str], Any]
) -> None:
    path = tmp_path / "genesis_ledger.jsonl"
    host = ForeignHost(tmp_path, make(str(path)))
    alice_token, bob_token = host.log_in(ALICE), host.log_in(BOB)
    alice_id, bob_id = user_id(ALICE), user_id(BOB)
    signature = "A" * 86 + "=="
    assert secure_chat.atlas_ready(host) == ["the chat is starting or stopping"]
    with serving(host.app(), tmp_path) as server:
        assert secure_chat.atlas_ready(host) == []
        with (
            server.peer(ALICE, bearer=alice_token, greeted=False) as alice,
            server.peer(BOB, bearer=bob_token) as bob,
        ):
            assert alice.receive()["wallet"] == alice_id
            sent = message(bob_id, 1, signature=signature)
            ack = alice.ask(sent)
            assert ack["position"] == 1
            got = bob.receive()
            assert (got["sender"], got["ciphertext"]) == (alice_id, sent["ciphertext"])
            assert alice.ask(sent)["duplicate"] is True
            for seq in range(2, 12):
                bob.send(message(alice_id, seq))
            positions = [f["position"] for f in [bob.receive() for _ in range(10)]]
            assert positions == list(range(2, 12))
        refused = server.http.get("/v1/chat/threads", headers={"Authorization": "Bearer x"})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        headers = {"Authorization": f"Bearer {bob_token}"}
        fault = server.http.get("/v1/chat/threads?limit=abc", headers=headers)
        assert (fault.status_code, fault.json()["code"]) == (422, "invalid_message")
        threads = server.http.get("/v1/chat/threads", headers=headers).json()
        assert [(t["peer"], t["position"]) for t in threads] == [(alice_id, 11)]
    report = audit_ledger(path)
    assert report.sound
    assert report.records == 11
    first = json.loads(path.read_text().splitlines()[0])
    assert signature in (first.get("signature"), first["metadata"].get("signature"))


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("sideways", Settings(), "must be one of legacy, shadow, dual, v2, retired"),
        (None, Settings(jwt_secret="short"), "openssl rand -hex 32"),
        (None, Settings(jwt_secret="dev-secret-change-me-in-prod"), "openssl rand -hex 32"),
    ],
)
async def test_what_a_host_must_not_run_with_is_refused_and_leaves_nothing_open(
    tmp_path: Path, stage: str | None, settings: Settings, said: str
) -> None:
    ledger = SyncLedger(str(tmp_path / "genesis_ledger.jsonl"))
    host = ForeignHost(tmp_path, ledger, {"secure_chat": settings})
    host.hook.atlas_legacy_stage = lambda: stage
    with pytest.raises(ConfigurationError, match=said):
        await secure_chat.atlas_start(host)
    again = ForeignHost(tmp_path, ledger)
    await secure_chat.atlas_start(again)
    assert secure_chat.atlas_ready(again) == []
    await secure_chat.atlas_stop(again)


def test_a_host_without_the_newer_hooks_is_served_and_nothing_fails_behind_its_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No legacy stage, no legacy records, nobody who is told of events."""
    ledger = SyncLedger(str(tmp_path / "genesis_ledger.jsonl"))
    host = ForeignHost(tmp_path, ledger, {"secure_chat": Settings(stage=Stage.DUAL)})
    headers = {"Authorization": f"Bearer {host.log_in(ALICE)}"}
    with serving(host.app(), tmp_path) as server:
        sent = server.http.post("/v1/chat/messages", headers=headers, json=message(BOB, 1))
        assert sent.status_code == 201
    assert "legacy.no_transactions stage=dual" in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@dataclass
class Sessions:
    """A foreign host as registrants see it: a session for whoever asks, under its address."""

    host: ForeignHost
    http: httpx.Client

    def authorization(self, wallet: str) -> dict[str, str]:
        session = self.host.log_in(wallet)
        self.host.sessions[session] = wallet
        return {"Authorization": f"Bearer {session}"}


@pytest.mark.parametrize("make", LEDGERS.values(), ids=LEDGERS.keys())
def test_devices_registered_on_a_foreign_hosts_ledger_are_known_after_a_restart(
    tmp_path: Path, make: Callable[[str], Any]
) -> None:
    path = tmp_path / "genesis_ledger.jsonl"
    host = ForeignHost(tmp_path, make(str(path)))
    with serving(host.app(), tmp_path) as server:
        alice = Registrant(Sessions(host, server.http), "phone", "laptop").register()
        alice.certificates.reverse()
        alice.revoke("phone")
        assert alice.publish_revocation().status_code == 201
    (tmp_path / "mailbox.sqlite").unlink()  # all that is known then is the host's ledger
    host = ForeignHost(tmp_path, make(str(path)))
    with serving(host.app(), tmp_path) as server:
        alice.server = Sessions(host, server.http)
        assert alice.publish_identity().status_code == 200
        for name in ("phone", "laptop"):
            assert alice.publish_device(name).status_code == 200
        assert alice.publish_revocation().status_code == 200

        def send(device: str) -> httpx.Response:
            return server.http.post(
                "/v1/chat/messages",
                headers=alice.server.authorization(alice.id),
                json=alice.signed(device, BOB, 1),
            )

        assert send("phone").json()["code"] == "unknown_device"
        assert send("laptop").status_code == 201
    assert audit_ledger(path).sound


@pytest.mark.parametrize("make", LEDGERS.values(), ids=LEDGERS.keys())
def test_a_foreign_hosts_own_events_stand_between_the_messages(
    tmp_path: Path, make: Callable[[str], Any]
) -> None:
    path = tmp_path / "genesis_ledger.jsonl"
    ledger = make(str(path))
    host = ForeignHost(tmp_path, ledger)
    bearer = host.log_in(ALICE)
    app = host.app()

    @app.post("/login")
    async def login() -> None:
        if isinstance(ledger, SyncLedger):
            ledger.append_event("LOGIN", ALICE, {"source": "api_auth"}, "")
        else:
            kind = GenesisEntryOfHead if isinstance(ledger, HeadAsyncLedger) else GenesisEntry
            entry = kind(wallet=ALICE, event_type="LOGIN", metadata={"source": "api_auth"})
            await ledger.append(entry)

    with serving(app, tmp_path) as server, server.peer(ALICE, bearer=bearer) as alice:
        assert alice.ask(message("peer", 1))["position"] == 1
        server.http.post("/login").raise_for_status()
        assert alice.ask(message("peer", 2))["position"] == 3
    assert audit_ledger(path).sound


def test_a_second_host_with_an_object_of_its_own_for_the_same_file_does_not_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "genesis_ledger.jsonl")
    first, second = (ForeignHost(tmp_path / name, SyncLedger(path)) for name in ("1", "2"))
    with serving(first.app(), tmp_path):
        with pytest.raises(DidNotStart), serving(second.app(), tmp_path):
            pass
        assert "another process writes this ledger" in caplog.text
    with serving(second.app(), tmp_path):  # it was let go
        pass


class Failing(SyncLedger):
    """Appends nothing while it is told to fail."""

    fails = False

    def append_event(self, *event: Any) -> GenesisEvent:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        return super().append_event(*event)


@pytest.mark.parametrize("fault", ["append", "sync"])
def test_a_foreign_ledger_that_fails_once_takes_nothing_more_before_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "genesis_ledger.jsonl"
    ledger = Failing(str(path))
    host = ForeignHost(tmp_path, ledger)
    sent = message("peer", 2)

    def fdatasync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with serving(host.app(), tmp_path) as server:
        with server.peer(ALICE, bearer=host.log_in(ALICE)) as alice:
            assert alice.ask(message("peer", 1))["position"] == 1
            with monkeypatch.context() as broken:
                if fault == "append":
                    broken.setattr(ledger, "fails", True)
                else:
                    broken.setattr(host_ledger, "os", SimpleNamespace(fdatasync=fdatasync))
                assert alice.ask(sent)["code"] == "ledger_unavailable"
            logged = path.read_bytes()
            # It is well again, but nobody knows what it holds.
            for seq in (2, 3):
                assert alice.ask(message("peer", seq))["code"] == "ledger_unavailable"
            assert path.read_bytes() == logged
        (reason,) = secure_chat.atlas_ready(host)
        assert "restart" in reason
    again = ForeignHost(tmp_path, SyncLedger(str(path)))
    with (
        serving(again.app(), tmp_path) as server,
        server.peer(ALICE, bearer=again.log_in(ALICE)) as alice,
    ):
        ack = alice.ask(sent)
        assert (ack["position"], ack["duplicate"]) == (2, fault == "sync")
        assert secure_chat.atlas_ready(again) == []
    assert audit_ledger(path).sound


def test_a_foreign_ledger_that_forks_its_chain_is_not_believed(tmp_path: Path) -> None:
    class Forgetful(SyncLedger):
        """Starts a second chain in its file, as two instances of the host's class did."""

        def append_event(self, *event: Any) -> GenesisEvent:
            path = Path(self.storage_path)
            before = path.read_text()
            path.write_text("")
            found = super().append_event(*event)
            path.write_text(before + path.read_text())
            return found

    path = tmp_path / "genesis_ledger.jsonl"
    host = ForeignHost(tmp_path, Forgetful(str(path)))
    with (
        serving(host.app(), tmp_path) as server,
        server.peer(ALICE, bearer=host.log_in(ALICE)) as alice,
    ):
        assert alice.ask(message("peer", 1))["position"] == 1
        assert alice.ask(message("peer", 2))["code"] == "ledger_unavailable"
    report = audit_ledger(path)
    assert report.finding is not None
    assert report.finding.position == 2


@pytest.mark.parametrize("make", LEDGERS.values(), ids=LEDGERS.keys())
@pytest.mark.parametrize("announces", [False, True])
def test_a_foreign_host_hears_of_messages_and_gets_rewards_and_proofs(
    tmp_path: Path, make: Callable[[str], Any], announces: bool
) -> None:
    """A ledger object that announces by itself says so, or each event would be heard of twice."""
    path = tmp_path / "genesis_ledger.jsonl"
    ledger = make(str(path))
    ledger.announces_events = announces
    host = ForeignHost(tmp_path, ledger)
    heard: list[tuple[int, str, str]] = []

    def note(*, position: int, event_type: str, wallet: str, metadata: Mapping[str, Any]) -> None:
        heard.append((position, event_type, metadata["hash"]))

    host.hook.atlas_event_committed = note
    bearer = host.log_in(ALICE)
    headers = {"Authorization": f"Bearer {bearer}"}
    with serving(host.app(), tmp_path) as server:
        sent = message("peer", 1)
        with server.peer(ALICE, bearer=bearer) as alice:
            assert alice.ask(sent)["position"] == 1
        assert heard == ([] if announces else [(1, "MESSAGE", sent["hash"])])
        mine = server.http.get("/v1/chat/rewards/current", headers=headers).json()
        assert (mine["ledger"]["position"], mine["line"]) == (1, None)
        proof = parse_proof(server.http.get("/v1/chat/ledger/inclusion/1", headers=headers).content)
        assert proof.extra == path.read_bytes().splitlines()[0]
        features = secure_chat.atlas_coherence_features(host, None)
        assert features == {}


# -- the host's own files, served and continued ----------------------------------------------------

with_host_ledgers = pytest.mark.skipif(
    not HOST_LEDGERS.is_dir(), reason="the host's own ledgers are not beside this repository"
)
EVERY_DIALECT = ("v1", "v2", "v3", "v4", "v5", "v6", "v7")


def _copy(dialect: str, state: str, to: Path) -> Path:
    (source,) = HOST_LEDGERS.glob(f"{dialect}-*-{state}.jsonl")
    path = to / "genesis_ledger.jsonl"
    shutil.copyfile(source, path)
    return path


def _chat(server: ChatServer) -> list[int]:
    with server.peer(ALICE) as alice:
        return [alice.ask(message(BOB, seq))["position"] for seq in (1, 2, 3)]


@with_host_ledgers
@pytest.mark.parametrize("dialect", EVERY_DIALECT)
def test_a_ledger_of_the_host_is_served_and_continued(tmp_path: Path, dialect: str) -> None:
    path = _copy(dialect, "valid", tmp_path)
    before = path.read_bytes()
    with chat_server(tmp_path) as server:
        assert _chat(server) == [61, 62, 63]
    assert path.read_bytes().startswith(before)
    report = audit_ledger(path)
    assert report.sound
    assert report.records == 63


@with_host_ledgers
@pytest.mark.parametrize("dialect", EVERY_DIALECT)
def test_a_torn_ledger_of_the_host_is_mended_and_continued(tmp_path: Path, dialect: str) -> None:
    path = _copy(dialect, "torn", tmp_path)
    whole = path.read_bytes().rpartition(b"\n")[0] + b"\n"
    with chat_server(tmp_path) as server:
        first = whole.count(b"\n") + 1
        assert _chat(server) == [first, first + 1, first + 2]
    assert path.read_bytes().startswith(whole)
    assert audit_ledger(path).sound


@with_host_ledgers
@pytest.mark.parametrize("dialect", EVERY_DIALECT)
def test_a_tampered_ledger_of_the_host_is_not_served_and_the_line_is_named(
    tmp_path: Path, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _copy(dialect, "tampered", tmp_path)
    before = path.read_bytes()
    with pytest.raises(DidNotStart), chat_server(tmp_path):
        pass
    assert "line 31 (index 30)" in caplog.text
    with pytest.raises(LedgerBroken) as broken:
        Journal.open(path)
    assert broken.value.line == 31
    assert path.read_bytes() == before

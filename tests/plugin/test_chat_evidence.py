"""What a server shows for its ledger: rewards, checkpoints, proofs, tiles; who is told what."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pluggy
import pytest

from plugins.secure_chat import evidence
from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.merkle import leaf_hash, root_at, verify_consistency, verify_inclusion
from plugins.secure_chat.core.note import Checkpoint, Verifier, open_checkpoint, parse_proof
from plugins.secure_chat.core.rewards import CHR
from plugins.secure_chat.core.tiles import Tile, decode_bundle, node_reader
from plugins.secure_chat.rewards.ledger import fold_ledger
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transparency.keyfile import open_signer
from plugins.secure_chat.transparency.keys import verifier
from plugins.secure_chat.transparency.log import Published, TransparencyLog
from tests.ledgers import writers
from tests.ledgers.writers import Ledger
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    PLUGIN,
    SECRET,
    WAIT,
    ChatServer,
    chat_server,
    message,
    serving,
    token,
)
from v13.ATLAS.src.coherence import omega_by_wallet
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.settings import HostSettings

ONE, TWO = writers.wallet(1), writers.wallet(2)
LOG = "example.com/ledger"
hookimpl = pluggy.HookimplMarker("atlas")


def history() -> Ledger:
    """Two wallets that have registered devices, 20 answered messages of each, and a LOGIN."""
    ledger = Ledger().add("v1", writers.login())
    ledger.add_all("v1", [*writers.registration(1), *writers.registration(2)])
    for seq in range(1, 21):
        ledger.add("v1", writers.secure_message(seq))
        ledger.add("v1", writers.secure_message(seq, sender=2, recipient=1))
    return ledger


@pytest.fixture(autouse=True)
def quick_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LOG_INTERVAL", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ChatServer]:
    (tmp_path / "genesis_ledger.jsonl").write_bytes(history().data)
    with chat_server(tmp_path, log_name=LOG) as server:
        yield server


def ask(server: ChatServer, path: str, wallet: str, *, scope: str = "user") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token(wallet, scope=scope)}"}
    return server.http.get(f"/v1/chat/{path}", headers=headers)


auditor = partial(ask, wallet="an-auditor", scope="user auditor")


def recomputed(server: ChatServer) -> bytes:
    """The running epoch's statement, from the file alone."""
    report = audit_ledger(server.ledger)
    assert report.sound
    *_, last = fold_ledger(server.ledger, report.head)
    return last.statement


def verifiers(server: ChatServer) -> list[Verifier]:
    keys = server.http.get("/v1/chat/ledger/keys").text.splitlines()
    assert len(keys) == 2
    return [verifier(key) for key in keys]


def checkpoint(server: ChatServer) -> Checkpoint:
    """The last one, after everything that is committed by now is in one."""
    head = ask(server, "ledger/head", CAROL).json()["position"]
    ask(server, f"ledger/inclusion/{head}", CAROL).raise_for_status()
    note = server.http.get("/v1/chat/ledger/checkpoint")
    assert note.headers["content-type"].startswith("text/plain")
    return open_checkpoint(note.content, verifiers(server), LOG)


def test_rewards_of_a_running_server_are_those_of_a_recomputation(server: ChatServer) -> None:
    assert auditor(server, "rewards/current").content == recomputed(server)
    for seq in (1, 2, 3):
        assert server.post(ALICE, message(BOB, seq)).status_code == 201
        server.app.state.host.hook.atlas_ledger().append_event("LOGIN", BOB, {"source": "x"}, "")
        body = auditor(server, "rewards/0")
        assert body.content == recomputed(server)
        said = body.json()
        assert said["ledger"]["position"] == said["totals"]["records"] == 45 + 2 * seq
        assert (said["totals"]["unsigned"], said["totals"]["counted"]) == (seq, 40)


def test_a_restarted_server_goes_on_with_the_same_rewards_and_log(tmp_path: Path) -> None:
    (tmp_path / "genesis_ledger.jsonl").write_bytes(history().data)
    sizes, roots = [], []
    for seq in (1, 2, 3):
        with chat_server(tmp_path, log_name=LOG) as server:
            server.post(ALICE, message(BOB, seq)).raise_for_status()
            assert auditor(server, "rewards/current").content == recomputed(server)
            seen = checkpoint(server)
            sizes.append(seen.size)
            roots.append(seen.root)
            proof = ask(server, f"ledger/consistency?old={sizes[0]}", ALICE).json()
            hashes = [base64.b64decode(each) for each in proof["hashes"]]
            assert (proof["old"], proof["new"]) == (sizes[0], seen.size)
            verify_consistency(sizes[0], seen.size, roots[0], seen.root, hashes)
    assert sizes == [46, 47, 48]


def test_a_wallet_sees_its_own_line_and_an_auditor_the_statement(server: ChatServer) -> None:
    whole = auditor(server, "rewards/0").json()
    lines = {line["wallet"]: line for line in whole["wallets"]}
    assert lines[ONE]["reward"] == str(21 * CHR // 10)
    for wallet in (ONE, TWO, CAROL):
        mine = ask(server, "rewards/0", wallet).json()
        assert mine.pop("line") == lines.get(wallet)
        assert mine == {name: whole[name] for name in mine}
        assert "wallets" not in mine


@pytest.mark.parametrize("epoch", ["1", "-1", "last", str(2**54)])
def test_an_epoch_that_has_not_come_is_a_problem(server: ChatServer, epoch: str) -> None:
    answer = ask(server, f"rewards/{epoch}", ONE)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_message")
    assert answer.json()["field"] == "epoch"


PRIVATE = ["rewards/current", "ledger/inclusion/1", "ledger/consistency?old=1"]


@pytest.mark.parametrize("path", [*PRIVATE, "ledger/tile/entries/000.p/1"])
def test_what_is_not_for_everyone_wants_a_token(server: ChatServer, path: str) -> None:
    answer = server.http.get(f"/v1/chat/{path}")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_an_acknowledged_message_is_proven_to_be_in_the_ledger(server: ChatServer) -> None:
    receipt = server.post(ALICE, message(BOB, 1)).json()
    position = receipt["position"]
    line = server.ledger.read_bytes().splitlines()[position - 1]
    assert json.loads(line)["hash"] == receipt["event_hash"]
    for wallet, scope, sees in [
        (ALICE, "user", True),
        (BOB, "user", True),
        (CAROL, "user", False),
        ("an-auditor", "auditor", True),
    ]:
        answer = ask(server, f"ledger/inclusion/{position}", wallet, scope=scope)
        proof = parse_proof(answer.content)
        seen = open_checkpoint(proof.checkpoint, verifiers(server), LOG)
        assert proof.index == position - 1
        verify_inclusion(leaf_hash(line), proof.index, seen.size, proof.hashes, seen.root)
        assert proof.extra == (line if sees else b"")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("ledger/inclusion/46", "position"),
        ("ledger/inclusion/0", "position"),
        ("ledger/consistency?old=46", "old"),
        ("ledger/consistency?old=3&new=46", "new"),
        ("ledger/consistency?old=4&new=3", "position"),
        ("ledger/consistency?old=-1", "old"),
        ("ledger/consistency", "old"),
    ],
)
def test_a_proof_beyond_the_ledger_is_a_problem(server: ChatServer, path: str, field: str) -> None:
    answer = ask(server, path, ONE)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_message")
    assert answer.json()["field"] == field


def test_before_the_first_checkpoint_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_sign = threading.Event()
    publish = TransparencyLog.publish

    def held(log: TransparencyLog) -> Published:
        may_sign.wait(WAIT)
        return publish(log)

    monkeypatch.setattr(TransparencyLog, "publish", held)
    with chat_server(tmp_path, log_name=LOG) as server:
        try:
            answer = server.http.get("/v1/chat/ledger/checkpoint")
        finally:
            may_sign.set()
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert answer.json()["detail"] == "no checkpoint has been signed yet"
    assert answer.headers["retry-after"] == "2"


def test_damage_that_a_reader_meets_is_said_and_mended(tmp_path: Path) -> None:
    """A tile that is not what was written gives no proof; the next round builds the tree anew."""
    ledger = Ledger().add_all("v1", [writers.login() for _ in range(300)])
    (tmp_path / "genesis_ledger.jsonl").write_bytes(ledger.data)
    with chat_server(tmp_path, log_name=LOG) as server:
        assert checkpoint(server).size == 300
        tile = tmp_path / "transparency/tile/0/000"
        changed = bytearray(tile.read_bytes())
        changed[32 * 7] ^= 1  # in the leaf of position 8
        tile.write_bytes(changed)
        answer = ask(server, "ledger/inclusion/9", ONE)
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        server.post(ALICE, message(BOB, 1)).raise_for_status()
        assert checkpoint(server).size == 301  # the next round
        assert ask(server, "ledger/inclusion/9", ONE).status_code == 200


def test_the_tiles_are_the_tree_that_the_checkpoint_signs(server: ChatServer) -> None:
    seen = checkpoint(server)

    def tile(wanted: Tile) -> bytes:
        answer = server.http.get(f"/v1/chat/ledger/{wanted.path}")
        assert "immutable" in answer.headers["cache-control"]
        return answer.raise_for_status().content

    assert root_at(seen.size, node_reader(seen.size, tile)) == seen.root
    for path in ("0/000", "0/000.p/200", "1/000", "0/0", "../log.key", "x/000"):
        assert server.http.get(f"/v1/chat/ledger/tile/{path}").status_code == 404


def test_entries_are_for_auditors(server: ChatServer) -> None:
    size = checkpoint(server).size
    path = f"ledger/tile/entries/000.p/{size}"
    refused = ask(server, path, ONE)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    entries = decode_bundle(auditor(server, path).content)
    assert entries == server.ledger.read_bytes().splitlines()


def test_a_log_that_has_promised_something_else_is_said_in_readiness(tmp_path: Path) -> None:
    (tmp_path / "genesis_ledger.jsonl").write_bytes(history().data)
    with chat_server(tmp_path, log_name=LOG) as server:
        assert checkpoint(server).size == 45
        assert server.http.get("/health/ready").status_code == 200
    promised = open_signer(tmp_path / "log.key", LOG).sign(Checkpoint(LOG, 46, bytes(32)), 1)
    (tmp_path / "transparency" / "checkpoint").write_bytes(promised.encode())
    with chat_server(tmp_path, log_name=LOG) as server:
        server.wait_for(
            lambda: server.http.get("/health/ready").status_code == 503, "the log to stop"
        )
        assert "46 records" in server.http.get("/health/ready").text
        assert server.post(ALICE, message(BOB, 1)).status_code == 201, "the chat goes on"
        answer = ask(server, "ledger/inclusion/46", ALICE)
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")


def test_a_follower_that_is_behind_shows_in_the_metrics(server: ChatServer) -> None:
    checkpoint(server)
    auditor(server, "rewards/current")
    text = server.http.get("/metrics").text
    for name in ("rewards", "transparency log"):
        assert f'secure_chat_follower_lag_records{{name="{name}"}} 0.0' in text


# -- hooks -----------------------------------------------------------------------------------------


class Broken:
    @hookimpl
    def atlas_event_committed(self) -> None:
        raise LookupError


class CoherenceLedger:
    """A host's: it keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, str, dict[str, Any]]] = []

    @hookimpl
    def atlas_event_committed(
        self, position: int, event_type: str, wallet: str, metadata: Mapping[str, Any]
    ) -> None:
        self.heard.append((position, event_type, wallet, dict(metadata)))


@pytest.fixture
def with_observer(tmp_path: Path) -> Iterator[tuple[ChatServer, CoherenceLedger]]:
    (tmp_path / "genesis_ledger.jsonl").write_bytes(history().data)
    observer = CoherenceLedger()
    app = create_app(
        HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path}),
        [Broken(), observer, PLUGIN],
        plugin_settings={"secure_chat": Settings()},
    )
    with serving(app, tmp_path) as server:
        yield server, observer


def test_a_coherence_ledger_hears_of_every_event_once_and_of_none_before(
    with_observer: tuple[ChatServer, CoherenceLedger],
) -> None:
    server, observer = with_observer
    sent = message(BOB, 1)
    for _ in range(2):  # the second is a repeat: nothing is committed
        server.post(ALICE, sent).raise_for_status()
    server.app.state.host.hook.atlas_ledger().append_event("LOGIN", BOB, {"source": "x"}, "")
    server.post(BOB, message(ALICE, 1)).raise_for_status()
    logged = [(p, r) for p, r in enumerate(server.records(), start=1) if p > 45]
    assert observer.heard == [
        (p, record["event_type"], record["wallet"], record["metadata"]) for p, record in logged
    ]
    assert [event_type for _, event_type, _, _ in observer.heard] == ["MESSAGE", "LOGIN", "MESSAGE"]
    assert observer.heard[0][3]["hash"] == sent["hash"]


def test_coherence_features_come_from_the_rewards_and_give_omega(
    with_observer: tuple[ChatServer, CoherenceLedger],
) -> None:
    server, _ = with_observer
    auditor(server, "rewards/current").raise_for_status()
    host = server.app.state.host
    for epoch in (0, None):
        (features,) = host.hook.atlas_coherence_features(host=host, epoch=epoch)
        assert features == {ONE: (18 * CHR, CHR, CHR), TWO: (18 * CHR, CHR, 0)}
    assert host.hook.atlas_coherence_features(host=host, epoch=7) == [{}]
    omega = omega_by_wallet(server.app.state.plugins, host.hook.atlas_coherence_engine(), host, 0)
    assert list(omega) == [ONE, TWO]
    assert sum(part * part for part in omega[ONE]) == pytest.approx(CHR * CHR)


def test_a_host_that_is_not_open_has_no_features(tmp_path: Path) -> None:
    app = create_app(
        HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path}), [PLUGIN]
    )
    host = app.state.host
    assert host.hook.atlas_coherence_features(host=host, epoch=None) == [{}]

"""Every hook: that it has a contract, that it has a test, and what it does."""

from __future__ import annotations

import ast
import inspect
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pluggy
import pytest
from fastapi import APIRouter

from plugins.secure_chat.errors import LedgerBroken
from v13.ATLAS.src.coherence import omega_by_wallet
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins import hookspecs
from v13.ATLAS.src.plugins.hookspecs import Host, InvalidToken, Principal
from v13.ATLAS.src.plugins.manager import Plugins
from v13.ATLAS.src.plugins.testing import SECRET, StartHost, Wallet
from v13.ATLAS.src.settings import HostSettings
from v13.core.CoherenceEngine import CoherenceEngine
from v13.ledger.genesis_ledger import GenesisLedger

hookimpl = pluggy.HookimplMarker("atlas")
HOOKS = Plugins().known_hooks()


def app_with(tmp_path: Path, *plugins: object, **settings: object) -> Any:
    given = {"jwt_secret": SECRET, "data_dir": tmp_path}
    return create_app(HostSettings.model_validate({**given, **settings}), plugins)


# --- the contracts -----------------------------------------------------------------------------


def test_there_are_hooks_to_check() -> None:
    assert len(HOOKS) == 11


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_contract(hook: str) -> None:
    """A summary line, and what the caller and the implementation may count on."""
    summary, _, contract = (inspect.getdoc(getattr(hookspecs, hook)) or "").partition("\n\n")
    assert re.fullmatch(r"[A-Z].*[.;]", summary, re.DOTALL), summary
    assert len(contract.split()) >= 8


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_typed(hook: str) -> None:
    spec = getattr(hookspecs, hook)
    hints = get_type_hints(spec, vars(hookspecs))
    assert set(hints) == {*inspect.signature(spec).parameters, "return"}


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_that_names_it(hook: str) -> None:
    names = [
        node.name
        for path in Path(__file__).parent.glob("test_host_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [name for name in names if name.startswith(f"test_{hook}_")]


def test_every_hook_function_is_marked_as_one() -> None:
    """A contract that is not marked would never be called."""
    prefixed = [name for name in vars(hookspecs) if name.startswith("atlas_")]
    unmarked = [name for name in prefixed if not hasattr(getattr(hookspecs, name), "atlas_spec")]
    assert unmarked == []


# --- implemented by plugins --------------------------------------------------------------------


def test_atlas_routes_are_served_in_the_order_of_loading(start_host: StartHost) -> None:
    class Routes:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        @hookimpl
        def atlas_routes(self, host: Host) -> list[APIRouter]:
            first, second = APIRouter(), APIRouter()
            first.add_api_route("/who", lambda: self.answer)
            second.add_api_route(f"/{self.answer}", lambda: str(host.data_dir))
            return [first, second]

    host = start_host([Routes("one"), Routes("two")])
    assert host.http.get("/who").json() == "one"
    assert host.http.get("/two").json() == str(host.settings.data_dir)


class Recorder:
    """Writes down what is asked of it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    @hookimpl
    async def atlas_start(self, host: Host) -> None:
        assert host.data_dir.is_dir()
        self.calls.append(f"start {self.name}")

    @hookimpl
    async def atlas_stop(self, host: Host) -> None:
        assert not host.hook.atlas_ledger().journal.stopped, "the ledger is still open"
        self.calls.append(f"stop {self.name}")


class Plain:
    """A plugin that starts and stops without an event loop's help."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    @hookimpl
    def atlas_start(self) -> None:
        self.calls.append("start plain")

    @hookimpl
    def atlas_stop(self) -> None:
        self.calls.append("stop plain")


class Failing(Recorder):
    """Fails where it is told to."""

    def __init__(self, name: str, calls: list[str], where: str) -> None:
        super().__init__(name, calls)
        self.where = where

    @hookimpl
    async def atlas_start(self, host: Host) -> None:
        await super().atlas_start(host)
        if self.where == "start":
            raise OSError(f"{self.name} cannot start")

    @hookimpl
    async def atlas_stop(self, host: Host) -> None:
        await super().atlas_stop(host)
        if self.where == "stop":
            raise OSError(f"{self.name} cannot stop")


async def test_atlas_start_is_called_in_order_and_atlas_stop_in_reverse(tmp_path: Path) -> None:
    calls: list[str] = []
    data_dir = tmp_path / "made at the start"
    app = app_with(data_dir, Recorder("one", calls), Plain(calls), Recorder("two", calls))
    assert calls == [], "building starts nothing"
    assert not data_dir.exists()
    async with app.router.lifespan_context(app):
        assert calls == ["start one", "start plain", "start two"]
    assert calls[3:] == ["stop two", "stop plain", "stop one"]


async def test_atlas_start_that_fails_refuses_the_host_and_stops_what_had_started(
    tmp_path: Path,
) -> None:
    calls: list[str] = []
    app = app_with(
        tmp_path,
        Recorder("one", calls),
        Failing("two", calls, "start"),
        Recorder("three", calls),
    )
    with pytest.raises(OSError, match="two cannot start"):
        async with app.router.lifespan_context(app):
            pytest.fail("the host has started")
    assert calls == ["start one", "start two", "stop one"]
    assert not any(thread.name == "ledger-writer" for thread in threading.enumerate())


async def test_atlas_stop_that_fails_does_not_keep_others_from_stopping(tmp_path: Path) -> None:
    calls: list[str] = []
    app = app_with(
        tmp_path,
        Recorder("one", calls),
        Failing("two", calls, "stop"),
        Failing("three", calls, "stop"),
    )
    with pytest.raises(ExceptionGroup) as stopped:
        async with app.router.lifespan_context(app):
            pass
    assert [str(error) for error in stopped.value.exceptions] == [
        "three cannot stop",
        "two cannot stop",
    ]
    assert calls[3:] == ["stop three", "stop two", "stop one"]
    assert not any(thread.name == "ledger-writer" for thread in threading.enumerate())


async def test_atlas_start_may_open_the_ledger_from_its_own_checkpoint(tmp_path: Path) -> None:
    class Replaying:
        seen: list[int]

        @hookimpl
        def atlas_start(self, host: Host) -> None:
            self.seen = []
            ledger: Any = host.hook.atlas_ledger()
            ledger.open(replay=lambda record, _end: self.seen.append(record.position))

    before = GenesisLedger(tmp_path / "genesis_ledger.jsonl")
    before.append_event("A", "w", {}, "")
    before.close()
    plugin = Replaying()
    app = app_with(tmp_path, plugin)
    async with app.router.lifespan_context(app):
        assert plugin.seen == [1]


async def test_a_ledger_that_no_plugin_opens_is_verified_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "genesis_ledger.jsonl").write_text("no record\n")
    app = app_with(tmp_path)
    with pytest.raises(LedgerBroken):
        async with app.router.lifespan_context(app):
            pytest.fail("the host has started")


def test_atlas_ready_reasons_are_those_of_the_health_check(start_host: StartHost) -> None:
    class Moody:
        reasons: list[str]

        @hookimpl
        def atlas_ready(self, host: Host) -> list[str]:
            return self.reasons

    class Broken:
        @hookimpl
        def atlas_ready(self) -> list[str]:
            raise LookupError

    moody = Moody()
    moody.reasons = []
    host = start_host([moody])
    assert host.http.get("/health/ready").json() == {"status": "ready"}
    moody.reasons = ["the disk is full", "the moon is"]
    answer = host.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "reasons": moody.reasons}
    host.stop()
    answer = start_host([Broken()]).http.get("/health/ready")
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    assert "the readiness check of" in reason


def test_atlas_coherence_features_of_all_plugins_give_omega(tmp_path: Path) -> None:
    one = 10**18

    class Features:
        def __init__(self, features: Mapping[str, list[int]]) -> None:
            self.features = features

        @hookimpl
        def atlas_coherence_features(self, epoch: int | None) -> Mapping[str, list[int]]:
            assert epoch == 7
            return self.features

    app = app_with(
        tmp_path,
        Features({"bob": [one, 2 * one], "alice": [3 * one, 4 * one, 0]}),
        Features({"bob": [3 * one], "carol": [0]}),
    )
    engine = app.state.host.hook.atlas_coherence_engine()
    omega = omega_by_wallet(app.state.plugins, engine, app.state.host, 7)
    assert omega == {
        "alice": [600000000000000000, 800000000000000000, 0],
        "bob": [267261241912424384, 534522483824848769, 801783725737273154],
        "carol": [0],
    }
    assert list(omega) == sorted(omega)


def test_atlas_event_committed_is_called_once_for_each_event_of_the_hosts_ledger(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    heard: list[tuple[int, str, str, Any]] = []

    class Broken:
        @hookimpl
        def atlas_event_committed(self) -> None:
            raise LookupError

    class Observer:
        @hookimpl
        def atlas_event_committed(
            self, position: int, event_type: str, wallet: str, metadata: Mapping[str, Any]
        ) -> None:
            heard.append((position, event_type, wallet, metadata))

    host = start_host([Broken(), Observer()])
    wallet = make_wallet()
    host.login(wallet, referral_code="friend")
    ledger: Any = host.app.state.host.hook.atlas_ledger()
    ledger.append_event("REWARD_PAYOUT", "w", {"a": 1}, "")
    assert heard == [
        (1, "REFERRAL_USE", wallet.address, {"referral_code": "friend"}),
        (2, "LOGIN", wallet.address, {"source": "api_auth"}),
        (3, "REWARD_PAYOUT", "w", {"a": 1}),
    ]
    logged = [json.loads(line) for line in host.ledger_path.read_text().splitlines()]
    assert [(event["event_type"], event["wallet"]) for event in logged] == [
        (event_type, wallet) for _, event_type, wallet, _ in heard
    ]


# --- implemented by the host -------------------------------------------------------------------


def test_atlas_authenticate_knows_the_hosts_tokens_and_leaves_others_alone(tmp_path: Path) -> None:
    app = app_with(tmp_path)
    hook = app.state.host.hook
    principal = hook.atlas_authenticate(token=app.state.tokens.issue("wallet_alice"))
    assert principal == Principal("wallet_alice", principal.expires_at, frozenset({"user"}))
    assert hook.atlas_authenticate(token="ascon1.some.thing") is None
    with pytest.raises(InvalidToken):
        hook.atlas_authenticate(token="eyJ.eyJ.x")
    assert issubclass(InvalidToken, PermissionError), "a plugin can catch it without this module"


def test_atlas_authenticate_asks_plugins_before_the_host(tmp_path: Path) -> None:
    class Sessions:
        """Another kind of token; and it may refuse the host's own."""

        def __init__(self, wallet: str) -> None:
            self.wallet = wallet
            self.banned = "banned"

        @hookimpl
        def atlas_authenticate(self, token: str) -> Any:
            if token == self.banned:
                raise PermissionError("banned")
            if token.startswith("ascon1."):
                return SimpleNamespace(wallet=self.wallet, expires_at=1.0, scopes=())
            return None

    first, last = Sessions("first"), Sessions("last")
    app = app_with(tmp_path, first, last)
    hook = app.state.host.hook
    assert hook.atlas_authenticate(token="ascon1.x").wallet == "last"
    issued = app.state.tokens.issue("alice")
    assert hook.atlas_authenticate(token=issued).wallet == "alice"
    assert hook.atlas_authenticate(token="nobody's") is None
    first.banned = issued
    with pytest.raises(PermissionError, match="banned"):
        hook.atlas_authenticate(token=issued)


def test_atlas_ledger_is_one_object_with_both_interfaces(tmp_path: Path) -> None:
    app = app_with(tmp_path, genesis_ledger_path=tmp_path / "elsewhere" / "ledger.jsonl")
    host = app.state.host
    ledger = host.hook.atlas_ledger()
    assert ledger is host.hook.atlas_ledger()
    assert ledger.storage_path == ledger.filepath == host.ledger_path
    assert host.ledger_path == tmp_path / "elsewhere" / "ledger.jsonl"
    assert callable(ledger.append_event)
    assert inspect.iscoroutinefunction(ledger.append)


def test_atlas_coherence_engine_is_the_hosts_with_its_arithmetic(tmp_path: Path) -> None:
    engine = app_with(tmp_path).state.host.hook.atlas_coherence_engine()
    assert isinstance(engine, CoherenceEngine)
    assert engine.cm.exp is not None


@pytest.mark.parametrize("stage", [None, "shadow"])
def test_atlas_legacy_stage_is_the_operators(tmp_path: Path, stage: str | None) -> None:
    app = app_with(tmp_path, legacy_stage=stage)
    assert app.state.host.hook.atlas_legacy_stage() == stage


def test_atlas_legacy_transactions_are_what_the_hosts_own_route_answers_from(
    start_host: StartHost, make_wallet: Callable[[], Wallet]
) -> None:
    """What is appended through the hook the route shows; what it wrote itself names no position."""
    host = start_host()
    wallet = make_wallet()
    bearer = {"Authorization": f"Bearer {host.login(wallet)}"}
    made = host.http.post("/secure-chat/threads", headers=bearer, json={"participants": ["bob"]})
    transactions = host.app.state.host.hook.atlas_legacy_transactions()
    assert transactions.mirrored_position == 0
    message = {
        "thread_id": made.json()["thread_id"],
        "content_hash": "ab" * 32,
        "content_size": 7,
        "content_type": "text/plain",
        "message_type": "text",
        "metadata": {},
        "timestamp": "2026-01-01T00:00:00+00:00",
    }
    operation = {
        "creator_id": "bob",
        "data": message,
        "nonce": 5,
        "type": "secure_chat_message_posted",
    }
    bundle = {
        "bundle_hash": "id-of-the-message",
        "creator_id": "bob",
        "operations": [operation],
        "signature": "",
        "timestamp": message["timestamp"],
        "ledger_position": 5,
    }
    transactions.append([bundle])
    assert transactions.mirrored_position == 5
    shown = host.http.get(
        f"/secure-chat/threads/{message['thread_id']}/messages", headers=bearer
    ).json()
    assert [(m["message_id"], m["sender_id"]) for m in shown["messages"]] == [
        ("id-of-the-message", "bob")
    ]


# --- what a plugin sees of the host ------------------------------------------------------------


def test_what_is_meant_for_a_plugin_reaches_it_as_it_is(tmp_path: Path) -> None:
    mine = object()
    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    app = create_app(settings, [], plugin_settings={"my_plugin": mine})
    assert app.state.host.settings["my_plugin"] is mine
    with pytest.raises(TypeError):
        app.state.host.settings["my_plugin"] = None

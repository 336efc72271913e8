"""Each stage does what it says: who answers, what is written where, what its callers hear."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pluggy
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.legacy_message import LegacyMessage
from plugins.secure_chat.core.rewards import begin, fold, message_of
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.core.thread import Change, ThreadEvent, keyed_thread_id
from plugins.secure_chat.ledger.journal import Journal
from plugins.secure_chat.legacy import contract
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.settings import Settings
from plugins.secure_chat.transport.asyncapi import openapi
from tests.plugin.chat_server import (
    ALICE,
    BOB,
    CAROL,
    PLUGIN,
    SECRET,
    ChatServer,
    DidNotStart,
    message,
    serving,
    token,
)
from tests.regression.legacy_server import LegacyClient, at_stage, move_stage
from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins.install import install
from v13.ATLAS.src.settings import HostSettings

hookimpl = pluggy.HookimplMarker("atlas")

DARK = (Stage.LEGACY, Stage.SHADOW)
TAKEN_OVER = (Stage.DUAL, Stage.V2)


def transactions(data_dir: Path) -> list[dict[str, Any]]:
    """The host's own legacy records."""
    file = data_dir / "legacy_transactions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def metric(server: ChatServer, name: str) -> float:
    """The value of a metric, named with its labels; 0 when it is not there."""
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def _is_counted(server: ChatServer, name: str) -> bool:
    return metric(server, name) > 0


@pytest.mark.parametrize("stage", DARK)
def test_in_the_dark_the_host_answers_and_the_ledger_gets_nothing(
    tmp_path: Path, stage: Stage
) -> None:
    with at_stage(tmp_path, stage) as (server, legacy):
        thread = legacy.create(ALICE, BOB)
        legacy.post(BOB, thread["thread_id"])
        answer = legacy.ask(ALICE, "GET", "/threads")
        assert answer.json() == {"threads": [thread], "total": 1}
        assert not {"deprecation", "sunset", "link"} & set(answer.headers)
        assert server.get("/v1/chat/threads", ALICE).status_code == 404
        assert server.post(ALICE, message(BOB, 1)).status_code == 404
        with pytest.raises(InvalidStatus) as refused, server.peer(ALICE):
            pass
        assert refused.value.response.status_code == 403
    assert server.ledger.read_bytes() == b""
    assert [t["operations"][0]["type"] for t in transactions(tmp_path)] == [
        "secure_chat_thread_created",
        "secure_chat_message_posted",
    ]


def test_at_shadow_reads_are_compared_and_differences_recorded(tmp_path: Path) -> None:
    """The chat knows a thread that the host has, and not what was written to it since."""
    with at_stage(tmp_path, Stage.DUAL) as (_, legacy):
        known = legacy.create(ALICE, BOB, metadata={"a": 1})["thread_id"]
        legacy.post(ALICE, known)
    move_stage(tmp_path, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path) as (server, legacy):
        for _ in range(2):
            legacy.everything(ALICE, BOB)
        same = 'secure_chat_shadow_reads_total{result="same",route="GET /threads"}'
        server.wait_for(lambda: metric(server, same) == 4, "four reads to be compared")
        legacy.post(BOB, known)
        unknown = legacy.create(ALICE, BOB)["thread_id"]
        assert legacy.messages(ALICE, known)["total"] == 2
        assert legacy.thread(ALICE, unknown)["thread_id"] == unknown
        assert legacy.threads(ALICE)["total"] == 2
        assert legacy.ask("carol", "GET", f"/threads/{known}").status_code == 403
        for route in (
            "GET /threads/{thread_id}/messages",
            "GET /threads/{thread_id}",
            "GET /threads",
        ):
            different = f'secure_chat_shadow_reads_total{{result="different",route="{route}"}}'
            server.wait_for(partial(_is_counted, server, different), "it to be compared")
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    found = [(one.route, one.difference, one.count) for one in mailbox.mismatches()]
    mailbox.close()
    assert found == [
        ("GET /threads", "total", 1),
        ("GET /threads/{thread_id}", "status 200 404", 1),
        ("GET /threads/{thread_id}/messages", "total", 1),
    ]


def test_at_shadow_what_is_written_is_the_hosts_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also to a thread that the chat knows, where it could write itself."""
    with at_stage(tmp_path, Stage.DUAL) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
    move_stage(tmp_path, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path) as (server, legacy):
        before = server.records()
        legacy.post(BOB, thread)
        assert legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status="ARCHIVED").is_success
        assert legacy.thread(BOB, thread)["status"] == "ARCHIVED"  # behind any work of the other
        assert server.records() == before
        assert server.get(f"/v1/chat/threads/{thread}", ALICE).status_code == 404
    assert "route=GET" in caplog.text  # the chat has not heard of the change
    assert "route=POST" not in caplog.text
    assert "route=PUT" not in caplog.text
    assert [t["operations"][0]["type"] for t in transactions(tmp_path)] == [
        "secure_chat_thread_created",
        "secure_chat_message_posted",
        "secure_chat_thread_updated",
    ]


def test_a_comparison_that_fails_leaves_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the database is away")

    with at_stage(tmp_path, Stage.SHADOW) as (_, legacy):
        monkeypatch.setattr(Mailbox, "threads_of", broken)
        thread = legacy.create(ALICE, BOB)
        assert legacy.threads(ALICE) == {"threads": [thread], "total": 1}


@pytest.mark.parametrize("stage", TAKEN_OVER)
def test_both_contracts_are_answered_from_the_same_threads(tmp_path: Path, stage: Stage) -> None:
    with at_stage(tmp_path, stage) as (server, legacy):
        thread = legacy.create(ALICE, BOB, title="T")["thread_id"]
        assert server.get(f"/v1/chat/threads/{thread}", BOB).json()["title"] == "T"
        hashed = legacy.post(ALICE, thread, "c")
        sealed = server.post(BOB, frame := message(thread, 1)).json()
        shown = legacy.messages(ALICE, thread)
        assert shown["messages"][0] == hashed
        assert shown["messages"][1] == {
            "message_id": sealed["id"],
            "thread_id": thread,
            "sender_id": BOB,
            "content_hash": b64decode(frame["hash"]).hex(),
            "content_size": 64,
            "timestamp": sealed["timestamp"],
            "message_type": "encrypted",
            "transaction_id": sealed["id"],
        }
        history = server.get(f"/v1/chat/threads/{thread}/messages", ALICE).json()
        assert [frame["id"] for frame in history["messages"]] == [sealed["id"]]


@pytest.mark.parametrize("stage", TAKEN_OVER)
def test_a_hash_is_logged_as_what_it_is_and_never_rewarded(tmp_path: Path, stage: Stage) -> None:
    with at_stage(tmp_path, stage) as (server, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        for _ in range(4):
            legacy.post(ALICE, thread, metadata={"note": "not for the ledger"})
            legacy.post(BOB, thread)
        with server.peer(BOB) as bob:
            bob.send({"type": "RESUME", "after": 0})
            assert [frame["type"] for frame in bob.until("RESUMED")] == ["RESUMED"]
    report = audit_ledger(server.ledger)
    assert report.sound
    assert report.events == {"LEGACY_MESSAGE": 8, "THREAD": 1}
    assert b"not for" not in server.ledger.read_bytes()
    journal = Journal.open(server.ledger)
    state = begin()
    for record in journal.read():
        fold(state, record, message_of(record))
    journal.close()
    totals = state.epoch.totals
    assert (totals.records, totals.counted, totals.not_well_formed) == (9, 0, 0)
    assert state.epoch.accounts == {}


@pytest.mark.parametrize("stage", [*TAKEN_OVER, Stage.RETIRED])
def test_callers_are_told_of_the_end_in_every_answer(tmp_path: Path, stage: Stage) -> None:
    dates = {
        "legacy_deprecated": "2026-01-01T00:00:00Z",
        "legacy_sunset": "2027-01-01T01:00:00+01:00",
    }
    with at_stage(tmp_path, stage, **dates) as (_, legacy):
        for wallet, path in ((ALICE, "/threads"), (ALICE, "/threads/x"), (None, "/threads")):
            answer = legacy.ask(wallet, "GET", path)
            assert answer.headers["deprecation"] == "@1767225600"
            assert answer.headers["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
            assert parsedate_to_datetime(answer.headers["sunset"]).timestamp() == 1798761600
            assert answer.headers["link"] == '</v1/chat/threads>; rel="successor-version"'


@pytest.mark.parametrize("stage", [*DARK, *TAKEN_OVER])
def test_what_a_message_does_not_say_of_its_content_is_plain_text(
    tmp_path: Path, stage: Stage
) -> None:
    with at_stage(tmp_path, stage) as (server, legacy):
        legacy.post(ALICE, legacy.create(ALICE, BOB)["thread_id"])
    kept = transactions(tmp_path)[1]["operations"][0]["data"] if stage.is_dark else None
    said = server.records()[1]["metadata"] if kept is None else kept
    assert (said["content_type"], said["message_type"]) == ("text/plain", "text")


def test_a_contract_cannot_end_before_it_is_deprecated() -> None:
    """RFC 9745, section 4."""
    dates = {"legacy_deprecated": "2027-01-01T00:00:00Z", "legacy_sunset": "2026-12-31T23:59:59Z"}
    with pytest.raises(ValidationError, match="RFC 9745"):
        Settings.model_validate(dates)
    Settings.model_validate({**dates, "legacy_sunset": "2027-01-01T01:00:00+01:00"})


ROUTES = (
    ("POST", "/threads"),
    ("GET", "/threads"),
    ("GET", "/threads/{thread_id}"),
    ("POST", "/messages"),
    ("GET", "/threads/{thread_id}/messages"),
    ("PUT", "/threads/{thread_id}/status"),
)


@pytest.mark.parametrize("stage", [*TAKEN_OVER, Stage.RETIRED])
def test_every_route_counts_its_calls_and_has_its_headers(tmp_path: Path, stage: Stage) -> None:
    with at_stage(tmp_path, stage) as (server, legacy):
        for times, (method, path) in enumerate(ROUTES, start=1):
            for _ in range(times):
                answer = legacy.ask(ALICE, method, path.format(thread_id="x"), {}, status="ACTIVE")
                assert answer.headers.get_list("deprecation") == ["@1795478400"]
                assert answer.headers.get_list("sunset") == ["Mon, 31 May 2027 00:00:00 GMT"]
                assert len(answer.headers.get_list("link")) == 1
        for times, (method, path) in enumerate(ROUTES, start=1):
            label = f'{{route="{method} {path}"}}'
            assert metric(server, f"secure_chat_legacy_calls_total{label}") == times
            callers = metric(server, f"secure_chat_legacy_callers{label}")
            assert callers == (0 if stage is Stage.RETIRED else 1)


def test_the_published_document_has_every_answer_of_the_contract(tmp_path: Path) -> None:
    document = openapi()

    def published(answer: httpx.Response, method: str, path: str) -> httpx.Response:
        operation = document["paths"][f"/secure-chat{path}"][method.lower()]
        assert operation["deprecated"] is True
        content = operation["responses"][str(answer.status_code)]["content"]
        schema = content[answer.headers["content-type"]]["schema"]
        schema = {**schema, "components": document["components"]}
        Draft202012Validator(schema).validate(answer.json())
        return answer

    seen = Counter[int]()
    with at_stage(tmp_path, Stage.V2) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        for wallet in (ALICE, CAROL, None):
            for place in (thread, "x"):
                for method, path in ROUTES:
                    message = {"thread_id": place, "content_hash": "a" * 64, "content_size": 1}
                    bodies: list[Any] = [{"participants": [BOB]}, message, {}, []]
                    for body in bodies:
                        url = path.format(thread_id=place)
                        given = body if method == "POST" else None
                        status = "ACTIVE" if method == "PUT" else None
                        answer = legacy.ask(wallet, method, url, given, status=status)
                        seen[published(answer, method, path).status_code] += 1
    assert set(seen) == {200, 201, 401, 403, 404, 422}
    move_stage(tmp_path, Stage.V2, Stage.RETIRED)
    with at_stage(tmp_path) as (_, legacy):
        for method, path in ROUTES:
            answer = legacy.ask(ALICE, method, path.format(thread_id=thread), {})
            assert published(answer, method, path).status_code == 410


@pytest.mark.parametrize("stage", [*DARK, *TAKEN_OVER])
def test_a_change_of_status_names_its_record(tmp_path: Path, stage: Stage) -> None:
    """The host's transaction, or the ledger's event."""
    with at_stage(tmp_path, stage) as (server, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        legacy.create(ALICE, BOB)
        for status in ("ARCHIVED", "DELETED"):
            answer = legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status=status)
            last = (
                transactions(tmp_path)[-1]["bundle_hash"]
                if stage in DARK
                else server.records()[-1]["id"]
            )
            assert answer.json() == {"status": "updated", "transaction_id": last}


def test_a_page_has_a_thousand_entries_at_most(tmp_path: Path) -> None:
    most = contract.LARGEST_PAGE
    with at_stage(tmp_path, Stage.V2) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
    journal = Journal.open(tmp_path / "genesis_ledger.jsonl")
    posted = LegacyMessage(ALICE, thread, "a" * 64, 42, "text/plain", "text")
    begun = (
        ThreadEvent(Change.CREATED, keyed_thread_id(str(number), ALICE), ALICE, (ALICE,))
        for number in range(most)
    )
    drafts = [*(posted.draft() for _ in range(most + 1)), *(event.draft() for event in begun)]
    journal.stage(drafts).durable.result()
    journal.close()
    with at_stage(tmp_path, Stage.V2) as (_, legacy):
        messages = legacy.messages(ALICE, thread, limit=5 * most)
        assert (len(messages["messages"]), messages["total"]) == (most, most + 1)
        threads = legacy.threads(ALICE, limit=5 * most)
        assert (len(threads["threads"]), threads["total"]) == (most, most + 1)


def test_callers_are_counted_by_route(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.V2) as (server, legacy):
        for wallet in (ALICE, ALICE, BOB):
            legacy.threads(wallet)
            LegacyClient(server.http, "/api/v1/secure-chat").threads(wallet)
        legacy.ask(ALICE, "GET", "/threads/x")
        calls = "secure_chat_legacy_calls_total"
        assert metric(server, calls + '{route="GET /threads"}') == 6
        assert metric(server, calls + '{route="GET /threads/{thread_id}"}') == 1
        assert metric(server, 'secure_chat_legacy_callers{route="GET /threads"}') == 2


def test_retired_is_410_with_a_pointer_and_the_chat_goes_on(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.V2) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
    move_stage(tmp_path, Stage.V2, Stage.RETIRED)
    with at_stage(tmp_path) as (server, legacy):
        for wallet, method, path, body in (
            (ALICE, "GET", "/threads", None),
            (ALICE, "GET", f"/threads/{thread}/messages", None),
            (ALICE, "POST", "/threads", {"participants": [BOB]}),
            (ALICE, "POST", "/messages", {}),
            (ALICE, "PUT", f"/threads/{thread}/status?status=ACTIVE", None),
            (None, "GET", "/threads", None),
        ):
            gone = legacy.ask(wallet, method, path, body)
            assert gone.status_code == 410, (method, path)
            assert gone.headers["content-type"] == "application/problem+json"
            assert gone.json()["successor"] == "/v1/chat/threads"
        assert server.get(f"/v1/chat/threads/{thread}", BOB).status_code == 200
        assert server.post(BOB, message(thread, 1)).status_code == 201


@pytest.mark.parametrize("prefix", contract.PREFIXES)
def test_retired_says_the_same_on_every_route(tmp_path: Path, prefix: str) -> None:
    with at_stage(tmp_path, Stage.RETIRED) as (server, _):
        legacy = LegacyClient(server.http, prefix)
        for method, path in ROUTES:
            for wallet in (ALICE, None):
                gone = legacy.ask(wallet, method, path.format(thread_id="x"))
                assert gone.status_code == 410, (method, path)
                assert list(gone.json().items()) == [
                    ("type", "urn:atlas:secure-chat:problem:retired"),
                    ("title", "Gone"),
                    ("status", 410),
                    ("detail", "this contract is retired; /v1/chat/threads is what follows it"),
                    ("successor", "/v1/chat/threads"),
                ]


def test_without_a_stage_the_chat_answers(tmp_path: Path) -> None:
    with at_stage(tmp_path) as (server, legacy):
        legacy.create(ALICE, BOB)
        assert server.records()[0]["event_type"] == "THREAD"
    assert transactions(tmp_path) == []


def test_the_ledger_has_the_last_word_on_the_stage(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.LEGACY) as (server, _):
        assert server.get("/v1/chat/threads", ALICE).status_code == 404
    move_stage(tmp_path, Stage.LEGACY, Stage.SHADOW, Stage.DUAL)
    with at_stage(tmp_path, Stage.LEGACY) as (server, _):
        assert server.get("/v1/chat/threads", ALICE).status_code == 200
    for file in tmp_path.glob("mailbox.sqlite*"):
        file.unlink()
    with at_stage(tmp_path, Stage.LEGACY) as (server, _):
        assert server.get("/v1/chat/threads", ALICE).status_code == 200
    assert audit_ledger(server.ledger).events == {"STAGE": 2}


def test_the_host_says_where_the_route_begins(tmp_path: Path) -> None:
    """Hook atlas_legacy_stage; what it says stands before the plugin's own setting."""

    def app(stage: str) -> Any:
        return create_app(
            HostSettings.model_validate(
                {"jwt_secret": SECRET, "data_dir": tmp_path, "legacy_stage": stage}
            ),
            [PLUGIN],
            plugin_settings={"secure_chat": Settings(stage=Stage.V2)},
        )

    with serving(app("legacy"), tmp_path) as server:
        assert server.get("/v1/chat/threads", ALICE).status_code == 404
    with pytest.raises(DidNotStart), serving(app("somewhere"), tmp_path):
        pass


def test_a_host_without_a_legacy_route_of_its_own_answers_404_in_the_dark(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.SHADOW) as (server, legacy):
        assert legacy.ask(ALICE, "GET", "/nothing").status_code == 404
        assert legacy.ask(ALICE, "PATCH", "/threads").status_code == 405
        assert server.http.get("/v1/chat/nothing").status_code == 404


@pytest.mark.parametrize("stage", Stage)
def test_in_a_foreign_application_its_own_route_answers_or_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """docs/migrating.md: ``install`` before the router that is replaced, which stays as it is."""
    app = FastAPI()

    class Operator:
        @hookimpl
        def atlas_legacy_stage(self) -> str:
            return stage

    monkeypatch.setenv("JWT_SECRET", SECRET)
    install(app, [Operator()], data_dir=tmp_path, ledger_path=tmp_path / "ledger.jsonl")
    theirs = APIRouter(prefix="/secure-chat")

    @theirs.get("/threads")
    def list_threads(request: Request, response: Response) -> dict[str, Any]:
        if "authorization" not in request.headers:
            raise HTTPException(401, "theirs", {"WWW-Authenticate": "Bearer"})
        response.headers["X-Host"] = "theirs"
        return {"threads": [], "total": 0}

    @theirs.post("/threads", status_code=201)
    async def create_thread(request: Request) -> dict[str, Any]:
        return {"thread_id": "theirs", "asked": await request.json()}

    app.include_router(theirs)
    headers = {"Authorization": f"Bearer {token(ALICE)}"}
    with TestClient(app) as client:
        listed = client.get("/secure-chat/threads", headers=headers)
        made = client.post("/secure-chat/threads", headers=headers, json={"participants": [BOB]})
        refused = client.get("/secure-chat/threads")
    if stage.is_dark:
        assert (listed.headers["x-host"], listed.json()["total"]) == ("theirs", 0)
        assert (made.status_code, made.json()["asked"]) == (201, {"participants": [BOB]})
        assert (refused.status_code, refused.json()) == (401, {"detail": "theirs"})
    elif stage is Stage.RETIRED:
        assert {listed.status_code, made.status_code, refused.status_code} == {410}
    else:
        assert "x-host" not in listed.headers
        assert made.json()["participants"] == [BOB, ALICE]
        assert refused.json()["code"] == "unauthorized"
